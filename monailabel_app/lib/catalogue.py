"""Which mammograms there are: in the studies, among what was uploaded, in the PACS.

What an image is, is found out once; the answers are kept in the workspace, so that a second start
reads no header again. Images are had from here alone: a request names one by its id, and an id that
is not in this list opens nothing.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from ftmtl.atomic import write_bytes, write_json

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (
    *(".dcm", ".dicom", ".dic", ".ima", ".png", ".jpg", ".jpeg", ".tif", ".tiff"),
    *(".pgm", ".nii", ".nii.gz", ".nrrd"),
)
SAVE_EVERY = 10.0  # seconds, while many new files are read


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file: the mammogram that it is, or the reason why it is none."""

    path: str  # below its root, with "/"
    root: str  # the name of its source
    changed: int  # ns; 0 in a PACS
    size: int
    image_id: str | None = None
    problem: str | None = None
    image: dict[str, Any] | None = None  # ImageInfo, pixel_aspect, examination, perhaps sha256

    def describes(self, found: os.stat_result) -> bool:
        """Whether the file is still the one that was looked at."""
        return (self.changed, self.size) == (found.st_mtime_ns, found.st_size)


class Source(Protocol):
    """A place where mammograms come from."""

    name: str
    top: Path  # where its files lie, or are put when they are fetched

    def look(self, known: Mapping[str, Entry]) -> Iterable[Entry]:
        """All entries there are now; `known` are the earlier ones, by path."""

    def fetch(self, entry: Entry) -> Path:
        """An entry's file, which is brought here if it is elsewhere."""

    def withheld(self, entry: Entry) -> str | None:
        """Why an image cannot be had now; None where it can."""


class Catalogue:
    """The images of all sources, by id. Safe between threads; processes share the index file."""

    def __init__(self, sources: Iterable[Source], index: Path, *, stamp: str) -> None:
        """What was found out of the files holds as long as `stamp` is the same."""
        self.sources = {source.name: source for source in sources}
        self._index, self._stamp = index, stamp
        self._busy = threading.Lock()
        self._files: dict[tuple[str, str], Entry] = {}
        self._images: dict[str, Entry] = {}
        self._views: dict[tuple[Any, ...], list[str]] = {}
        self._left_out: list[tuple[str, str]] = []
        self._next_look = 0.0
        self._load()
        self.refresh()

    @property
    def roots(self) -> dict[str, Path]:
        """Where the files of each source lie."""
        return {name: source.top for name, source in self.sources.items()}

    def ids(self) -> list[str]:
        """The ids of all images, in order of their paths."""
        self._look()
        return list(self._images)

    def get(self, image_id: str) -> Entry | None:
        """The image of that id; None where there is none."""
        entry = self._images.get(image_id)
        if entry is None:
            self._look()
            entry = self._images.get(image_id)
        return entry

    def digest(self, image_id: str) -> str | None:
        """The SHA-256 of an image whose id is but its path, as far as known; constant-time."""
        entry = self._images.get(image_id)
        return None if entry is None or entry.image is None else entry.image.get("sha256")

    def of_view(self, image: Mapping[str, Any]) -> list[str]:
        """The images of this patient, examination, side and view."""
        return list(self._views.get(_view(image), ()))

    def path(self, entry: Entry) -> Path:
        """Where an entry's file lies, if it is here."""
        return self.sources[entry.root].top / entry.path

    def fetch(self, entry: Entry) -> Path:
        """An entry's file; brought here from a PACS."""
        return self.sources[entry.root].fetch(entry)

    def left_out(self) -> list[dict[str, Any]]:
        """Why files are in no work list. Their paths may hold a name: they stay in the workspace.

        `number` is the one under which `left_out.json` beside the index tells the path.
        """
        return [{"number": n, "reason": reason} for n, (_, reason) in enumerate(self._left_out, 1)]

    def count(self) -> int:
        """How many images there are, as far as known; constant-time."""
        return len(self._images)

    def refresh(self) -> None:
        """Takes note of files that came, changed or went."""
        with self._busy:
            self._refresh()

    def _look(self) -> None:
        if time.monotonic() >= self._next_look:
            with self._busy:
                if time.monotonic() >= self._next_look:  # another request may just have looked
                    self._refresh()

    def _refresh(self) -> None:
        began = saved = time.monotonic()
        files: dict[tuple[str, str], Entry] = {}
        news = False
        for name, source in self.sources.items():
            known = {path: e for (root, path), e in self._files.items() if root == name}
            for entry in source.look(known):
                news |= entry is not known.get(entry.path)
                files[name, entry.path] = entry
                if news and time.monotonic() > saved + SAVE_EVERY:
                    logger.info("%d files were looked at so far", len(files))
                    self._save({**self._files, **files})
                    saved = time.monotonic()
        if news or files.keys() != self._files.keys():
            self._save(files)
        self._files = files
        self._sort_out()
        took = time.monotonic() - began
        self._next_look = time.monotonic() + max(2.0, 20 * took)

    def _sort_out(self) -> None:
        images: dict[str, Entry] = {}
        left_out: list[tuple[str, str]] = []
        for (root, path), entry in sorted(self._files.items()):
            reason = self.sources[root].withheld(entry)
            if entry.image_id is None:
                reason = entry.problem or "unreadable"
            elif entry.image_id in images:
                reason = "another file holds the same image"
            elif reason is None:
                images[entry.image_id] = entry
            if reason is not None:
                left_out.append((path, reason))
        if left_out != self._left_out:
            self._tell(left_out)
        if (len(images), len(left_out)) != (len(self._images), len(self._left_out)):
            logger.info("%d images, and %d files are left out", len(images), len(left_out))
        views: dict[tuple[Any, ...], list[str]] = defaultdict(list)
        for image_id, entry in images.items():
            views[_view(entry.image or {})].append(image_id)
        self._images, self._views, self._left_out = images, dict(views), left_out

    def _load(self) -> None:
        try:
            document = json.loads(self._index.read_text(encoding="utf-8"))
            if document["stamp"] == self._stamp:
                entries = [Entry(**row) for row in document["files"]]
                self._files = {(e.root, e.path): e for e in entries if e.root in self.sources}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("The list of images is made anew: %s", error)

    def _save(self, files: Mapping[tuple[str, str], Entry]) -> None:
        document = {"stamp": self._stamp, "files": [asdict(e) for e in files.values()]}
        try:
            with FileLock(f"{self._index}.lock"):
                write_bytes(self._index, json.dumps(document).encode())
        except OSError as error:
            # The list is only a memory: without it the next start is slower.
            logger.warning("The list of images could not be kept: %s", error)

    def _tell(self, left_out: list[tuple[str, str]]) -> None:
        rows = {str(n): {"file": f, "reason": r} for n, (f, r) in enumerate(left_out, 1)}
        try:
            write_json(self._index.with_name("left_out.json"), rows)
        except OSError as error:
            logger.warning("The list of files left out could not be written: %s", error)


def _view(image: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(image.get(k) for k in ("patient_key", "examination", "laterality", "view"))


def image_suffix(name: str) -> str:
    """The suffix that says what kind of image a file is, in small letters; empty without one."""
    low = name.lower()
    return max((s for s in IMAGE_SUFFIXES if low.endswith(s)), key=len, default="")
