"""What the rooms without Qt and MRML ask of the rest of the world; the widget hands these in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Protocol

from .findings import Findings, ImageInfo


class Timer(Protocol):
    """Calls back on the main thread; in Slicer a QTimer."""

    def start(self, milliseconds: int, callback: Callable[[], None]) -> None:
        """Calls `callback` every so many milliseconds until `stop`."""
        ...

    def stop(self) -> None:
        """Calls it no more."""
        ...


class LabelFiles(Protocol):
    """Label files, by Slicer's own reader and writer. Called on the main thread."""

    def write(self, findings: Findings, file: Path) -> None:
        """Writes a `.seg.nrrd`: a segment for each finding, the document in the header.

        Raises OSError where the disk refuses.
        """
        ...

    def read(self, file: Path, image: ImageInfo) -> Findings:
        """The findings of a label file of `image`; masks are those of its segments.

        Raises `findings.InvalidFindings` with one sentence where they cannot be read.
        """
        ...


class Cancelled(Exception):
    """The work was cancelled; nobody waits for its answer."""


class Cancellation(Protocol):
    """Lets work on another thread hear that nobody waits for it any more."""

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        ...

    def on_cancel(self, close: Callable[[], None]) -> None:
        """Calls `close` (from any thread) when it is cancelled; at once if it already is."""
        ...

    def forget(self, close: Callable[[], None]) -> None:
        """Does not call `close` any more."""
        ...


class Settings(Protocol):
    """What is remembered from one start to the next; in Slicer a QSettings."""

    def value(self, key: str, default: Any = None) -> Any:
        """What was set, or the default."""
        ...

    def setValue(self, key: str, value: Any) -> None:
        """Remembers it."""
        ...


class Ask(Protocol):
    """A question with answers to choose from."""

    def __call__(self, text: str, answers: list[str]) -> int:
        """The number of the answer; the last one is what closing the question means."""
        ...
