"""The way from the outbox to the server: one at a time, again after a failure, never twice.

A conflict (somebody else submitted since the case was opened) is never settled by itself: the
server keeps both, the other one stands, and a person chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from .case import Case
from .connection import Connection
from .failures import Failure
from .i18n import _
from .jobs import Job, Jobs
from .outbox import Outbox, Parcel
from .signal import Signal

SENDING = "sending"
FIRST_RETRY_SECONDS = 2.0
LONGEST_RETRY_SECONDS = 120.0


@dataclass(frozen=True)
class Waiting:
    """A label that has not arrived: its parcel's id, its file, its comment on the image."""

    id: str
    file: Path
    comment: str


class Sending:
    """The outbox of the reader at the present server.

    `changed()`: parcels came, went or were refused. `arrived(parcel id, image_id, version)`.
    """

    def __init__(
        self,
        jobs: Jobs,
        connection: Connection,
        say: Callable[[str], None],
        name: Callable[[str], str],
    ) -> None:
        """`name(image_id)`: the image in words; by the time of an answer another is looked at."""
        self.changed = Signal()
        self.arrived = Signal()
        self._jobs, self._connection, self._say, self._name = jobs, connection, say, name
        self._outbox: Outbox | None = None
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._call_off: Callable[[], Any] = lambda: None

    def use(self, outbox: Outbox) -> None:
        """The outbox is another: another server or reader."""
        self._call_off()
        self._jobs.cancel(SENDING)
        self._outbox = outbox
        outbox.changed.connect(self.changed.emit)
        self.changed.emit()

    @property
    def waiting(self) -> tuple[Parcel, ...]:
        """Labels that have not arrived and will be sent by themselves."""
        parcels = () if self._outbox is None else self._outbox.parcels
        return tuple(parcel for parcel in parcels if not parcel.problem)

    @property
    def images(self) -> frozenset[str]:
        """The images with a label that has not arrived, refused ones too."""
        parcels = () if self._outbox is None else self._outbox.parcels
        return frozenset(parcel.image_id for parcel in parcels)

    @property
    def refused(self) -> tuple[Parcel, ...]:
        """Labels that the server refused; `problem` says why. See `try_again`, `drop`.

        Where `current` is set it is a conflict: that version of somebody else stands.
        """
        return () if self._outbox is None else self._outbox.refused

    def told(self, image_id: str, problem: str) -> str:
        """A refused label's problem, and which image it is about."""
        return _("{image}: {problem}").format(image=self._name(image_id), problem=problem)

    def latest(self, image_id: str) -> Waiting | None:
        """An image's last label that has not arrived."""
        parcel = None if self._outbox is None else self._outbox.latest(image_id)
        if self._outbox is None or parcel is None:
            return None
        return Waiting(parcel.id, self._outbox.file(parcel), parcel.comment)

    def put(self, case: Case, write: Callable[[Path], None]) -> Parcel:
        """Takes a label in and sends it. Raises OSError where the disk refuses."""
        assert self._outbox is not None
        parcel = self._outbox.put(
            case.image.id, write,
            based_on=case.based_on, comment=case.comment, follows=case.follows,
        )
        self.send()
        return parcel

    def send(self) -> None:
        """Sends what can be sent now."""
        client, outbox = self._connection.client, self._outbox
        parcel = None if outbox is None else outbox.next()
        if client is None or outbox is None or parcel is None:
            return
        self._call_off()
        file, image_id = outbox.file(parcel), parcel.image_id

        def work(job: Job) -> dict[str, Any]:
            return client.submit_label(
                image_id, file,
                submission_id=parcel.submission_id, based_on=parcel.based_on,
                comment=parcel.comment, stop=job,
            )

        def done(answer: dict[str, Any]) -> None:
            self._retry_seconds = FIRST_RETRY_SECONDS
            version = int(answer["version"])
            outbox.arrived(parcel, version)
            words = _("The label of {image} has arrived (version {version}).")
            self._say(words.format(image=self._name(image_id), version=version))
            self.arrived.emit(parcel.id, image_id, version)
            self.send()

        def failed(error: Exception) -> None:
            if not isinstance(error, Failure):
                raise error
            if not file.exists():  # another Slicer of this reader has sent it
                self.send()
            elif error.passes:
                self._wait(parcel, error)
            else:
                self._refuse(parcel, error)

        name = _("Sending the label")
        self._jobs.start(work, done, failed, name=name, key=SENDING, lasting=True)

    def try_again(self, parcel: Parcel) -> None:
        """Sends a refused label once more; in a conflict on top of what stands, as asked for.

        If yet another label stands by then, that is a new conflict.
        """
        if self._outbox is not None:
            self._outbox.send_again(parcel)
            self.send()

    def drop(self, parcel: Parcel) -> None:
        """Throws a label away that was not taken; after a conflict: theirs stands."""
        if self._outbox is not None:
            self._outbox.discard(parcel)
            self.send()

    def _wait(self, parcel: Parcel, failure: Failure) -> None:
        waits = self._retry_seconds
        self._retry_seconds = min(2 * waits, LONGEST_RETRY_SECONDS)
        self._call_off = self._jobs.later(waits, self.send)
        kept = _("{problem} The label of {image} is kept here and will be sent again.")
        self._say(kept.format(problem=failure, image=self._name(parcel.image_id)))
        self._connection.check()
        self.changed.emit()

    def _refuse(self, parcel: Parcel, failure: Failure) -> None:
        detail = failure.detail if isinstance(failure.detail, dict) else {}
        current = detail.get("current") if failure.kind == "conflict" else None
        problem = str(failure)
        if current is not None:
            whose = detail.get("annotator") or _("Somebody else")
            problem = _(
                "{whose} submitted a label for this image after you opened it. Theirs stands; "
                "yours is kept as version {version}."
            ).format(whose=whose, version=detail.get("kept_as"))
        assert self._outbox is not None
        self._outbox.refuse(parcel, problem, current)
        self._say(self.told(parcel.image_id, problem))
        self.send()
