"""Labels on their way to the server: each stays on disk until the server has answered for it.

    0003-<id>.seg.nrrd    the label
    0003-<id>.json        whose it is; written last, so that it stands for the whole

A submission keeps its `submission_id` through every attempt, so that the server can tell a
repetition. Only a person who sends it again after a conflict makes another submission of it.
Two Slicers of one reader share the folder: a parcel whose label is gone was sent by the other.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable

from . import disk
from .signal import Signal


@dataclass(frozen=True)
class Parcel:
    """One submission that has not arrived yet."""

    number: int
    id: str  # on this computer
    submission_id: str  # at the server
    image_id: str
    based_on: int
    comment: str = ""
    follows: str | None = None  # the id of an earlier one of this image; its version is our basis
    problem: str = ""  # why the server refused it; it is not sent again by itself
    current: int | None = None  # in a conflict: the version that stands at the server

    @property
    def stem(self) -> str:
        """The name of its files."""
        return f"{self.number:04d}-{self.id}"


class Outbox:
    """The submissions of one reader at one server, in one folder. `changed()`: another content."""

    def __init__(self, folder: Path) -> None:
        self.changed = Signal()
        self._folder = folder
        self._parcels: list[Parcel] = []
        for file in sorted(folder.glob("*.json")):
            parcel = _parcel(disk.read_json(file))
            if parcel is not None and self.file(parcel).exists():
                self._parcels.append(parcel)
            elif parcel is not None:
                disk.remove(file)

    @property
    def parcels(self) -> tuple[Parcel, ...]:
        """Everything that has not arrived, oldest first."""
        self._parcels = [parcel for parcel in self._parcels if self.file(parcel).exists()]
        return tuple(self._parcels)

    @property
    def refused(self) -> tuple[Parcel, ...]:
        """Those that somebody must decide about."""
        return tuple(parcel for parcel in self.parcels if parcel.problem)

    def put(
        self,
        image_id: str,
        write: Callable[[Path], None],
        *,
        based_on: int,
        comment: str = "",
        follows: str | None = None,
    ) -> Parcel:
        """Takes a label in; `write` makes its file. Raises OSError, and then nothing is there."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        number = 1 + max((parcel.number for parcel in self._parcels), default=0)
        name = str(uuid.uuid4())
        parcel = Parcel(number, name, name, image_id, based_on, comment, follows)
        try:
            write(self.file(parcel))
            self._record(parcel)
        except BaseException:
            disk.remove(self.file(parcel))
            raise
        self._parcels.append(parcel)
        self.changed.emit()
        return parcel

    def file(self, parcel: Parcel) -> Path:
        """Its label file."""
        return self._folder / f"{parcel.stem}.seg.nrrd"

    def next(self) -> Parcel | None:
        """What is to be sent now: the oldest that neither waits for another nor was refused."""
        known = len(self._parcels)
        waiting = {parcel.id for parcel in self.parcels}
        if len(waiting) < known:
            self.changed.emit()
        ready = (p for p in self._parcels if not p.problem and p.follows not in waiting)
        return next(ready, None)

    def latest(self, image_id: str) -> Parcel | None:
        """The last submission of an image that has not arrived."""
        return next((p for p in reversed(self.parcels) if p.image_id == image_id), None)

    def arrived(self, parcel: Parcel, version: int) -> None:
        """The server has it as `version`; what follows it is based on that."""
        for other in list(self._followers(parcel)):
            self._replace(replace(other, based_on=version, follows=None))
        self.discard(parcel)

    def refuse(self, parcel: Parcel, problem: str, current: int | None = None) -> None:
        """The server does not take it; `current` is the version that stands, in a conflict."""
        self._replace(replace(parcel, problem=problem, current=current))
        self.changed.emit()

    def send_again(self, parcel: Parcel) -> None:
        """It is sent once more: after a conflict as a new submission on top of what stands."""
        fresh = replace(parcel, problem="", current=None)
        if parcel.current is not None:
            fresh = replace(fresh, submission_id=str(uuid.uuid4()), based_on=parcel.current)
        self._replace(fresh)
        self.changed.emit()

    def discard(self, parcel: Parcel) -> None:
        """It is not wanted any more, or has arrived."""
        disk.remove(self.file(parcel))
        disk.remove(self._row(parcel))
        self._parcels = [p for p in self._parcels if p.id != parcel.id]
        self.changed.emit()

    def _followers(self, parcel: Parcel) -> Iterator[Parcel]:
        return (p for p in self.parcels if p.follows == parcel.id)

    def _replace(self, parcel: Parcel) -> None:
        self._record(parcel)
        self._parcels = [parcel if p.id == parcel.id else p for p in self._parcels]

    def _record(self, parcel: Parcel) -> None:
        disk.write_json(self._row(parcel), asdict(parcel))
        if not self.file(parcel).exists():  # the other Slicer was done with it meanwhile
            disk.remove(self._row(parcel))

    def _row(self, parcel: Parcel) -> Path:
        return self._folder / f"{parcel.stem}.json"


def _parcel(row: Any) -> Parcel | None:
    try:
        return Parcel(**row)
    except TypeError:
        return None
