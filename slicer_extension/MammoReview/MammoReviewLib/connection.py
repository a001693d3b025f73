"""Whether the server is there, and what it says of itself; always true, never in the way."""

from __future__ import annotations

from typing import Any, Callable

from .client import STOCK, Client
from .failures import Failure
from .i18n import _
from .jobs import Job, Jobs
from .server_info import ServerInfo
from .signal import Signal

POLL_SECONDS = 5.0
POLL_SECONDS_TRAINING = 1.0
FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 60.0
POLL = "info"


class Connection:
    """The line to one server.

    `status`: "off" | "connecting" | "connected" | "busy" (it works for us) | "training" | "lost".
    `sentence`: the status in words, with the reason and the next attempt where it is lost.
    `info`: None before the first answer.
    `changed()`: any of them is not what it was. `established()`: the server answers, for the first
    time or again.
    """

    def __init__(self, jobs: Jobs) -> None:
        self.changed = Signal()
        self.established = Signal()
        self.client: Client | None = None
        self.info: ServerInfo | None = None
        self._jobs = jobs
        self._requests: frozenset[str] = frozenset()
        self._answers = False
        self._problem: Failure | None = None
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._call_off: Callable[[], Any] = lambda: None
        jobs.changed.connect(self.changed.emit)

    def open(self, client: Client) -> None:
        """Connects to another server and stays connected."""
        self.close()
        self.client = client
        self.check()

    def close(self) -> None:
        """Ends the connection."""
        self._call_off()
        self._jobs.cancel(POLL)
        self.client = self.info = self._problem = None
        self._answers, self._requests = False, frozenset()
        self._retry_seconds = FIRST_RETRY_SECONDS
        self.changed.emit()

    def check(self) -> None:
        """Asks the server now; whoever saw a request fail calls it."""
        client = self.client
        if client is None:
            return
        self._call_off()
        known = self._answers and self._problem is None

        def ask(job: Job) -> tuple[dict[str, Any], frozenset[str] | None]:
            info = client.info(job)
            return info, None if known else client.requests(job)

        self._jobs.start(ask, self._answered, self._failed, key=POLL)
        self.changed.emit()

    def offers(self, request: str) -> bool:
        """Whether the server has a request, as "POST /scoring/{model}"; hide what it lacks."""
        return request in (self._requests or STOCK)

    @property
    def status(self) -> str:
        """See the class."""
        if self.client is None:
            return "off"
        if self._problem is not None:
            return "lost"
        if not self._answers:
            return "connecting"
        if self._jobs.running:
            return "busy"
        assert self.info is not None
        return "training" if self.info.training.state == "running" else "connected"

    @property
    def sentence(self) -> str:
        """The status in words."""
        status = self.status
        if status == "lost" and self._jobs.is_running(POLL):
            return _("{problem} Trying again …").format(problem=self._problem)
        if status == "lost":
            again = _("{problem} Trying again in {seconds:.0f} s.")
            return again.format(problem=self._problem, seconds=self._waits)
        if status == "off":
            return _("Not connected.")
        assert self.client is not None
        place = self.client.place
        if status == "connecting":
            return _("Connecting to {place} …").format(place=place)
        if status == "busy":
            return " · ".join(f"{name} …" for name in dict.fromkeys(self._jobs.running))
        if status == "training":
            words = _("Connected to {place} as {reader}; the model is learning.")
        elif self.client.exposes_token:
            words = _("Connected to {place} as {reader}, unencrypted: others can read the token.")
        else:
            words = _("Connected to {place} as {reader}.")
        return words.format(place=place, reader=self.client.client_id)

    def _answered(self, answer: tuple[dict[str, Any], frozenset[str] | None]) -> None:
        document, requests = answer
        info = ServerInfo(document)
        if not info.has_model:
            assert self.client is not None
            sentence = _("The server at {place} has no model for mammograms.")
            self._failed(Failure("not-ours", sentence.format(place=self.client.place)))
            return
        was_away = not self._answers or self._problem is not None
        self.info, self._answers, self._problem = info, True, None
        self._requests = self._requests if requests is None else requests
        self._retry_seconds = FIRST_RETRY_SECONDS
        training = info.training.state == "running"
        self._again(POLL_SECONDS_TRAINING if training else POLL_SECONDS)
        self.changed.emit()
        if was_away:
            self.established.emit()

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, Failure):
            raise error
        if error.kind == "timeout" and self._answers and self._jobs.running:
            # MONAI Label's own server answers nothing else while it does what we asked for.
            self._again(POLL_SECONDS)
            return
        self._problem = error
        self._again(self._retry_seconds)
        self._retry_seconds = min(2 * self._retry_seconds, LONGEST_RETRY_SECONDS)
        self.changed.emit()

    def _again(self, seconds: float) -> None:
        self._waits = seconds
        self._call_off()
        self._call_off = self._jobs.later(seconds, self.check)
