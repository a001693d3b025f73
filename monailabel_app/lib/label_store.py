"""What the radiologists said: every submission kept, none ever overwritten.

The layout on disk is described in `ftmtl.datasets.labels`, which reads it; this writes it. A
submission's record is written last and in one step: until then it does not exist, from then on it
is on the disk, whatever happens to the process. A number is given once, under one lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock

from ftmtl.atomic import write_json
from ftmtl.datasets.labels import (
    FINAL,
    LABEL_SUFFIX,
    LabelVersion,
    current,
    image_folder,
    read_versions,
)
from ftmtl.digest import sha256_of

from .files import copy_file
from .stamps import now


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A label that passed every check: what is to be kept of it."""

    image: dict[str, Any]  # ImageInfo and pixel_aspect
    tag: str
    sent: Path  # the file as it came
    label: Path | None  # the label file made of it, where what came was something else
    model: dict[str, Any] | None
    findings: dict[str, int]
    annotator: str | None = None
    submission_id: str | None = None
    based_on: int | None = None
    comment: str | None = None
    image_sha256: str | None = None  # where the image's id is but its path


class UsedId(ValueError):
    """The `submission_id` of another label of the same image; says which."""


class LabelStore:
    """The labels below one folder; safe between threads and processes."""

    def __init__(
        self, folder: Path, *, film: Callable[[str], str | None] = lambda image_id: None
    ) -> None:
        """`film` tells the SHA-256 of the image that has an id now, where that is but a path.

        A label of another one, which had the name before, does not stand.
        """
        self.folder, self._film = folder, film
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / ".lock")
        self._guard = threading.Lock()
        self._current: dict[str, dict[str, LabelVersion]] = {}  # by image, by tag
        self.reload()

    def reload(self) -> None:
        """Reads all labels from disk again."""
        found: dict[str, dict[str, LabelVersion]] = {}
        for folder in self._folders():
            version = current(read_versions(folder))
            if version is not None:
                found.setdefault(version.image["id"], {})[version.tag] = version
        with self._guard:
            self._current = found

    def any(self) -> bool:
        """Whether anything was ever submitted, withdrawn or not."""
        return next(self.folder.glob("*/*/[0-9]*.json"), None) is not None

    def current(self, image_id: str, tag: str = FINAL) -> LabelVersion | None:
        """The submission that speaks for an image; constant-time."""
        version = self._current.get(image_id, {}).get(tag)
        return version if version is not None and self._is_there(version) else None

    def labelled(self, tag: str = FINAL) -> list[str]:
        """The ids of the images that have a label."""
        with self._guard:
            found = [labels[tag] for labels in self._current.values() if tag in labels]
            return [str(version.image["id"]) for version in found if self._is_there(version)]

    def counts(self) -> dict[str, int]:
        """How many images have a label, by tag."""
        counts: dict[str, int] = {}
        with self._guard:
            for version in chain.from_iterable(v.values() for v in self._current.values()):
                if self._is_there(version):
                    counts[version.tag] = counts.get(version.tag, 0) + 1
        return counts

    def tags(self, image_id: str) -> list[str]:
        """The tags under which an image has a label."""
        with self._guard:
            labels = self._current.get(image_id, {})
            return [tag for tag, version in labels.items() if self._is_there(version)]

    def versions(self, image_id: str, tag: str) -> list[LabelVersion]:
        """Every submission for an image, oldest first."""
        return read_versions(self._place(image_id, tag))

    def records(self, tag: str) -> list[LabelVersion]:
        """Every submission for any image under a tag, oldest first."""
        folders = (folder for folder in self._folders() if folder.name == tag)
        found = [version for folder in folders for version in read_versions(folder)]
        return sorted(found, key=lambda v: (v.time, v.version))

    def file(self, version: LabelVersion) -> Path:
        """The label file of a submission."""
        return self._place(version.image["id"], version.tag) / str(version.file)

    def submit(
        self, submission: Submission, *, side: Callable[[], str] | None = None
    ) -> LabelVersion:
        """Keeps a submission; `standing` of the answer says whether it speaks for the image.

        A repeated `submission_id` changes nothing and gets the first answer again; UsedId where
        another file came with it. One that was based on anything but the present version is kept as
        a conflict. `side` settles whether the patient teaches or judges, before anything is
        written. Raises OSError where the disk is full.
        """
        image_id, tag = str(submission.image["id"]), submission.tag
        folder = self._place(image_id, tag)
        with self._lock:
            earlier = read_versions(folder)
            for version in earlier:
                if submission.submission_id and version.submission_id == submission.submission_id:
                    if version.sha256 != sha256_of(submission.sent):
                        raise UsedId(
                            f"Version {version.version}, another label, came with this "
                            "submission_id. Nothing was stored; send it with an id of its own"
                        )
                    return version
            present = current(earlier)
            if present is not None and not present.is_of(submission.image_sha256):
                present = None  # nobody was quicker: that was another image
            stale = submission.based_on is not None and submission.based_on != (
                present.version if present else 0
            )
            settled = None if side is None else side()
            number = self._number(folder)
            stem = f"{number:04d}"
            source = None
            copy_file(submission.label or submission.sent, folder / (stem + LABEL_SUFFIX))
            if submission.label is not None:
                source = f"{stem}.sent{_suffix(submission.sent.name)}"
                copy_file(submission.sent, folder / source)
            version = LabelVersion(
                version=number,
                image=submission.image,
                tag=tag,
                standing="conflict" if stale else "label",
                time=now(),
                annotator=submission.annotator,
                file=stem + LABEL_SUFFIX,
                sha256=sha256_of(submission.sent),
                model=submission.model,
                findings=submission.findings,
                submission_id=submission.submission_id,
                based_on=submission.based_on,
                source=source,
                comment=submission.comment,
                side=settled,
                image_sha256=submission.image_sha256,
            )
            self._record(folder, version)
        return version

    def withdraw(self, image_id: str, tag: str, number: int) -> None:
        """Takes back the label that version `number` is; all versions stay.

        Raises LookupError where that is not the one that stands.
        """
        folder = self._place(image_id, tag)
        with self._lock:
            present = current(read_versions(folder))
            if present is None or present.version != number:
                raise LookupError(f"Version {number} does not stand; nothing withdrawn")
            version = LabelVersion(
                version=self._number(folder),
                image=present.image,
                tag=tag,
                standing="withdrawal",
                time=now(),
                annotator=None,  # MONAI Label's request does not say who asks
                based_on=present.version,
            )
            self._record(folder, version)

    def _is_there(self, version: LabelVersion) -> bool:
        return version.image_sha256 is None or version.is_of(self._film(version.image["id"]))

    def _folders(self) -> Iterator[Path]:
        """Every `<image>/<tag>`."""
        for image in self.folder.iterdir():
            if image.is_dir():
                yield from (tag for tag in image.iterdir() if tag.is_dir())

    def _place(self, image_id: str, tag: str) -> Path:
        return image_folder(self.folder, image_id) / tag

    def _number(self, folder: Path) -> int:
        # Also past the remains of a submission that was cut off before its record was written.
        folder.mkdir(parents=True, exist_ok=True)
        stems = (f.name.split(".")[0] for f in folder.iterdir())
        taken = [int(stem) for stem in stems if stem.isdigit()]
        return 1 + max(taken, default=0)

    def _record(self, folder: Path, version: LabelVersion) -> None:
        write_json(folder / f"{version.version:04d}.json", version.to_json())
        speaks = current(read_versions(folder))
        with self._guard:
            labels = self._current.setdefault(str(version.image["id"]), {})
            if speaks is None:
                labels.pop(version.tag, None)
            else:
                labels[version.tag] = speaks


def _suffix(name: str) -> str:
    """The suffix of a label as it was sent; the rest of its name may be a patient's."""
    known = (LABEL_SUFFIX, ".nrrd", ".nii.gz", ".nii")
    return next((suffix for suffix in known if name.lower().endswith(suffix)), "")
