"""Letting the model read the unlabelled images before anybody opens them, and how far that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

from .connection import Connection
from .failures import Failure
from .i18n import _
from .jobs import Job, Jobs
from .signal import Signal

REQUEST = "POST /batch/infer/{model}"
POLL_SECONDS = 2.0
ASKING, WATCHING = "reading ahead", "reading ahead, progress"


@dataclass(frozen=True)
class Batch:
    """How far the server's last batch is; status "" where it had none since it was started."""

    status: str = ""  # SUBMITTED | RUNNING | DONE | STOPPED | ERROR
    total: int = 0
    done: int = 0
    failed: int = 0
    seconds_left: float | None = None
    reason: str | None = None

    @property
    def runs(self) -> bool:
        """Whether it is under way."""
        return self.status in ("SUBMITTED", "RUNNING")


class ReadingAhead:
    """The server's batch. `changed()`: `batch` is not what it was. `ended()`: it was, and is over.

    It is the server's: another reader may have started it, and it goes on when the panel is closed.
    """

    def __init__(self, jobs: Jobs, connection: Connection, say: Callable[[str], None]) -> None:
        self.changed, self.ended = Signal(), Signal()
        self.batch = Batch()
        self._jobs, self._connection, self._say = jobs, connection, say
        self._call_off: Callable[[], Any] = lambda: None
        connection.established.connect(self.look)

    @property
    def offered(self) -> bool:
        """Whether the server can do it."""
        return self._connection.offers(REQUEST)

    def start(self) -> None:
        """Begins with all unlabelled images; those that were read already take no time."""
        client = self._connection.client
        if client is not None:
            self._jobs.start(
                client.start_batch, self._told, self._failed,
                name=_("Asking to read ahead"), key=ASKING,
            )

    def stop(self) -> None:
        """Ends it after the image in hand; what was read stays read."""
        client = self._connection.client
        if client is not None:
            self._jobs.start(
                client.stop_batch, lambda _answer: self.look(), self._failed,
                name=_("Stopping to read ahead"), key=ASKING,
            )

    def look(self) -> None:
        """Asks how far it is, and goes on asking while it runs."""
        client = self._connection.client
        self._call_off()
        if client is None or not self.offered:
            self._set(Batch())
            return

        def work(job: Job) -> dict[str, Any]:
            try:
                return client.batch(job)
            except Failure as failure:
                if failure.kind == "missing":  # none was started yet
                    return {}
                raise

        self._jobs.start(work, self._told, self._lost, key=WATCHING)

    def _told(self, answer: dict[str, Any]) -> None:
        names = Batch.__dataclass_fields__
        batch = Batch(**{name: answer[name] for name in names if answer.get(name) is not None})
        self._set(batch)
        self._call_off()
        if batch.runs:
            self._call_off = self._jobs.later(POLL_SECONDS, self.look)

    def _set(self, batch: Batch) -> None:
        before, self.batch = self.batch, batch
        if batch != before:
            self.changed.emit()
        if before.runs and not batch.runs:
            self.ended.emit()

    def _lost(self, error: Exception) -> None:
        if not isinstance(error, Failure):
            raise error
        self._call_off = self._jobs.later(POLL_SECONDS, self.look)

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, Failure):
            raise error
        self._say(str(error))
        self.look()
