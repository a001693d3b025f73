"""Which mammograms there are: the studies folder, nested as it comes, and what was uploaded.

What a file is, is found out once; the answers are kept in the workspace by (path, time, size), so
that a second start reads no header again. Paths of images come from here alone: a request names
an image by its id, and an id that is not in this list opens nothing.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from ftmtl.atomic import write_json
from ftmtl.mammogram import UnreadableMammogram

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (
    *(".dcm", ".dicom", ".dic", ".ima", ".png", ".jpg", ".jpeg", ".tif", ".tiff"),
    *(".nii", ".nii.gz", ".nrrd"),
)
NOT_IMAGES = (".seg.nrrd", ".json", ".txt", ".csv", ".xml", ".md", ".pdf", ".html", ".zip")
DICOM_MAGIC = (128, b"DICM")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file: the mammogram that it is, or the reason why it is none."""

    path: str  # below its root, with "/"
    root: str  # "studies" | "uploads"
    changed: int  # ns
    size: int
    image_id: str | None = None
    problem: str | None = None
    image: dict[str, Any] | None = None  # ImageInfo and pixel_aspect


# file, root -> image; raises UnreadableMammogram
Describe = Callable[[Path, Path], dict[str, Any]]


class Catalogue:
    """The images below `roots`, by id. Safe between threads; processes share the index file."""

    def __init__(
        self, roots: Mapping[str, Path], index: Path, describe: Describe, *, stamp: str
    ) -> None:
        """`describe` finds out what a file is; its answers hold as long as `stamp` is the same."""
        self.roots = dict(roots)
        self._index, self._describe, self._stamp = index, describe, stamp
        self._busy = threading.Lock()
        self._files: dict[tuple[str, str], Entry] = {}
        self._images: dict[str, Entry] = {}
        self._left_out: list[dict[str, str]] = []
        self._next_look = 0.0
        self._load()
        self.refresh()

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

    def path(self, entry: Entry) -> Path:
        """Where an entry's file lies."""
        return self.roots[entry.root] / entry.path

    def left_out(self) -> list[dict[str, str]]:
        """The files that are in no work list: {"file", "reason"}."""
        return list(self._left_out)

    def count(self) -> int:
        """How many images there are, as far as known; constant-time."""
        return len(self._images)

    def refresh(self) -> None:
        """Takes note of files that came, changed or went."""
        with self._busy:
            began = time.monotonic()
            files: dict[tuple[str, str], Entry] = {}
            news = 0
            for root, path, stat in self._walk():
                entry = self._files.get((root, path))
                if entry is None or (entry.changed, entry.size) != (stat.st_mtime_ns, stat.st_size):
                    entry = self._examine(root, path, stat)
                    news += 1
                    if news % 500 == 0:
                        self._save({**self._files, **files})
                files[root, path] = entry
            if news or files.keys() != self._files.keys():
                self._save(files)
            self._files = files
            self._sort_out()
            took = time.monotonic() - began
            self._next_look = time.monotonic() + max(2.0, 20 * took)

    def _look(self) -> None:
        if time.monotonic() >= self._next_look:
            self.refresh()

    def _walk(self) -> Iterator[tuple[str, str, os.stat_result]]:
        for root, top in self.roots.items():
            others = {r.resolve() for r in (*self.roots.values(), self._index.parent) if r != top}
            for folder, folders, names in os.walk(top):
                folders[:] = sorted(
                    name
                    for name in folders
                    if not name.startswith(".") and (Path(folder) / name).resolve() not in others
                )
                for name in sorted(names):
                    file = Path(folder) / name
                    if not _may_be_image(file):
                        continue
                    try:
                        stat = file.stat()
                    except OSError:
                        continue  # it went away while we looked
                    yield root, file.relative_to(top).as_posix(), stat

    def _examine(self, root: str, path: str, stat: os.stat_result) -> Entry:
        top = self.roots[root]
        entry = Entry(path=path, root=root, changed=stat.st_mtime_ns, size=stat.st_size)
        try:
            image = self._describe(top / path, top)
        except UnreadableMammogram as error:
            return replace(entry, problem=f"{error.reason}. {error.remedy}")
        return replace(entry, image_id=image["id"], image=image)

    def _sort_out(self) -> None:
        images: dict[str, Entry] = {}
        left_out = []
        for _, entry in sorted(self._files.items()):
            if entry.image_id is None:
                left_out.append({"file": entry.path, "reason": entry.problem or "unreadable"})
            elif entry.image_id in images:
                twin = images[entry.image_id].path
                left_out.append({"file": entry.path, "reason": f"the same image id as {twin}"})
            else:
                images[entry.image_id] = entry
        self._images, self._left_out = images, left_out

    def _load(self) -> None:
        try:
            document = json.loads(self._index.read_text(encoding="utf-8"))
            if document["stamp"] == self._stamp:
                entries = [Entry(**row) for row in document["files"]]
                self._files = {(e.root, e.path): e for e in entries}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("The list of images is made anew: %s", error)

    def _save(self, files: Mapping[tuple[str, str], Entry]) -> None:
        document = {"stamp": self._stamp, "files": [asdict(e) for e in files.values()]}
        try:
            with FileLock(f"{self._index}.lock"):
                write_json(self._index, document)
        except OSError as error:
            # The list is only a memory: without it the next start is slower.
            logger.warning("The list of images could not be kept: %s", error)


def image_suffix(name: str) -> str:
    """The suffix that says what kind of image a file is, in small letters; empty without one."""
    low = name.lower()
    return max((s for s in IMAGE_SUFFIXES if low.endswith(s)), key=len, default="")


def _may_be_image(file: Path) -> bool:
    name = file.name.lower()
    if name.startswith(".") or name == "dicomdir" or name.endswith(NOT_IMAGES):
        return False
    if image_suffix(name):
        return True
    # Exports of a PACS often have no suffix, or a name made of dots.
    try:
        with open(file, "rb") as stream:
            stream.seek(DICOM_MAGIC[0])
            return stream.read(len(DICOM_MAGIC[1])) == DICOM_MAGIC[1]
    except OSError:
        return False
