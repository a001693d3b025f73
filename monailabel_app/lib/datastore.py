"""MONAI Label's view of the images and labels.

Everything that a request names is checked here or in `images`: an image by its id, a tag by its
letters, a label by reading it. Nothing that a request says becomes a path. Refusals are
HTTPExceptions, so that they reach the client with their reason under MONAI Label's own server as
well.
"""

from __future__ import annotations

import io
import re
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore
from pydicom.dataset import Dataset

from ftmtl.datasets.labels import FINAL, LABEL_SUFFIX, LabelVersion, info_of
from ftmtl.findings import Findings, ImageInfo
from ftmtl.label_file import read_label_file
from ftmtl.patient_key import PatientKey

from .catalogue import Entry, image_suffix
from .dicomweb import DicomWeb
from .images import Images
from .label_store import LabelStore, UsedId
from .names import Names
from .notes import Notes
from .outbox import Outbox, Withdrawn
from .pacs import Pacs
from .refusals import check_tag, disk, sendable
from .sides import Sides
from .submissions import Wishes, check_submission

PACS_CACHE = 20_000_000_000  # bytes
# What a strategy says of the image that it chose. MONAI Label lays the image's info over it, so a
# note of such a name would hide which image was chosen, and why.
CHOSEN = frozenset({"id", "reason", "held_until", "strategy"})


class MammogramStore(Datastore):  # type: ignore[misc]
    """Images below the folder `studies` or in a PACS; everything else in `workspace`."""

    def __init__(
        self, studies: Path | DicomWeb, workspace: Path, *, pacs_cache: int = PACS_CACHE
    ) -> None:
        """Of a PACS at most `pacs_cache` bytes are kept, besides the images with a label."""
        self.studies, self.workspace = studies, workspace
        self.labels = LabelStore(
            workspace / "labels", film=lambda image_id: self.catalogue.digest(image_id)
        )
        self.key = PatientKey.open(workspace / "patient.key", labels_exist=self.labels.any())
        self.sides = Sides(workspace / "sides.json", self._sides_told)
        self.images = Images(
            studies, workspace, self.key, labelled=self.labels.labelled, pacs_cache=pacs_cache
        )
        self.catalogue, self.pacs = self.images.catalogue, self.images.pacs
        self.outbox: Outbox | None = None
        if isinstance(studies, DicomWeb):
            self.outbox = Outbox(workspace / "outbox", studies, self.segmentation)
        self.names = Names(workspace / "unreadable.json")
        self.notes = Notes(workspace / "info", self.names)
        self._accepted = threading.local()
        self._reading_of: Callable[[str], dict[str, Any]] = lambda image: {"state": "new"}
        self._seen_in: Callable[[str], Findings | None] = lambda image: None

    def watch(
        self,
        reading_of: Callable[[str], dict[str, Any]],
        seen_in: Callable[[str], Findings | None],
    ) -> None:
        """Where the store learns what the model says of an image.

        `reading_of`: its state, while it has no label, and the verdict; `seen_in`: all findings,
        None where it was not read.
        """
        self._reading_of, self._seen_in = reading_of, seen_in

    def _sides_told(self) -> list[tuple[str, str | None]]:
        return [(str(v.image["patient_key"]), v.side) for v in self.labels.records(FINAL)]

    # Images ------------------------------------------------------------------------------------

    def entry(self, image_id: Any) -> Entry:
        """The image of that id; 404 where there is none, 400 for what cannot be an id."""
        return self.images.entry(image_id)

    def image_info(self, image_id: str) -> ImageInfo:
        """The image as findings documents name it."""
        return self.images.info(image_id)

    def other_views(self, image_id: str) -> list[str]:
        """The other view of the image's breast in the same examination, as a rule one image."""
        return self.images.other_views(image_id)

    def list_images(self) -> list[str]:
        """The ids of all mammograms, in order of their paths."""
        return self.catalogue.ids()

    def get_image_uri(self, image_id: str) -> str:
        """The path of an image; 404 where there is none, 502 or 503 where the PACS fails."""
        return str(self.images.file(image_id))

    def labelled_files(self) -> dict[str, Path]:
        """Image id -> file, of the images with a label; those that cannot be had are left out."""
        files = {}
        for image_id in self.get_labeled_images():
            with suppress(HTTPException):
                file = self.images.file(image_id)
                if self.labels.current(image_id) is not None:  # or it is another one just now
                    files[image_id] = file
        return files

    def get_image(self, image_id: str, params: Any = None) -> io.BytesIO:
        """The bytes of an image's file."""
        return io.BytesIO(self.images.file(image_id).read_bytes())

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What a work list shows of an image; no path and no name of a patient."""
        entry = self.entry(image_id)
        image = entry.image or {}
        label = self.labels.current(image_id)
        suffix = image_suffix(entry.path) or ".dcm"
        notes = self.notes.of_image(image_id)
        return {
            **{k: v for k, v in notes.items() if k not in CHOSEN},
            "name": image_id if image_id.lower().endswith(suffix) else image_id + suffix,
            **{k: image.get(k) for k in ("width", "height", "spacing_mm")},
            **{k: image.get(k) for k in ("laterality", "view", "patient_key", "examination")},
            **self._reading_of(image_id),
            **({"state": "labelled"} if label else {}),
            "annotator": label.annotator if label else None,
            "time": label.time if label else None,
            "version": label.version if label else None,
        }

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Keeps what a client wants remembered of an image."""
        self.entry(image_id)
        self.notes.add_to_image(image_id, info)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Takes an uploaded mammogram in; a DICOM file keeps its own id. 422 for no mammogram."""
        image_id = self.images.take_in(image_id, Path(image_filename))
        if image_info:
            self.notes.add_to_image(image_id, image_info)
        return image_id

    def remove_image(self, image_id: str) -> None:
        """Removes an uploaded image. The studies belong to the clinic: 403. Labels stay."""
        entry = self.entry(image_id)
        if entry.root == "uploads" and self.labels.tags(image_id):
            raise HTTPException(409, "The image has a label; withdraw it first")
        self.images.remove(entry)

    # Labels ------------------------------------------------------------------------------------

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """Keeps a submission; what it became is `acknowledgement`.

        400 bad tag or params, 404 unknown image, 409 stale `based_on` (and kept) or the
        `submission_id` of another label, 422 no label for this image, 507 disk full.
        """
        image = dict(self.entry(image_id).image or {})
        image.pop("examination", None)  # of the list alone
        digest = image.pop("sha256", None)
        tag = check_tag(label_tag)
        wishes = Wishes.of(label_info)
        if wishes.to_pacs and self.entry(image_id).root != Pacs.name:
            raise HTTPException(400, "to_pacs: this image does not come from a PACS")
        patient = str(image["patient_key"])
        side = (lambda: self.sides.settle(patient)) if tag == FINAL else None
        with disk(), tempfile.TemporaryDirectory(dir=self.workspace / "tmp") as folder:
            submission = check_submission(
                Path(label_filename), image, tag, wishes, Path(folder),
                lambda: self._seen_in(image_id),
            )  # fmt: skip
            submission = replace(submission, image_sha256=digest)
            try:
                version = self.labels.submit(submission, side=side)
            except UsedId as error:
                raise HTTPException(409, str(error)) from error
            if wishes.to_pacs and version.standing == "label" and self.outbox is not None:
                self.outbox.put(version)
        self._accepted.version = version
        if version.standing == "conflict":
            present = self.labels.current(image_id, tag)
            raise HTTPException(
                409,
                {
                    "reason": "Somebody else submitted a label for this image since you opened it. "
                    "Yours is kept, but theirs stands.",
                    "kept_as": version.version,
                    "current": present.version if present else 0,
                    "annotator": present.annotator if present else None,
                },
            )
        return image_id

    def acknowledgement(self) -> dict[str, Any]:
        """What the submission just saved in this thread became."""
        version: LabelVersion = self._accepted.version
        return {
            "version": version.version,
            "sha256": version.sha256,
            "time": version.time,
            "tag": version.tag,
        }

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """The path of a label file; `label_id` is the image's, or `ID@3` for its third version."""
        return str(self.labels.file(self._version(label_id, label_tag)))

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> io.BytesIO:
        """The bytes of a label file."""
        return io.BytesIO(Path(self.get_label_uri(label_id, label_tag)).read_bytes())

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """All submissions under a tag, and which of them stands ("current", 0 for none)."""
        image_id = self._image_of(label_id)
        tag = check_tag(label_tag)
        versions = self.labels.versions(image_id, tag)
        if not versions:
            raise HTTPException(404, f"Nobody labelled {image_id!r} as {tag!r}")
        present = self.labels.current(image_id, tag)
        return {
            **self.notes.of_label(image_id, tag),
            "image": image_id,
            "tag": tag,
            "current": present.version if present else 0,
            "versions": [self._public(version) for version in versions],
        }

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Keeps what a client wants remembered of a label."""
        image_id = self._image_of(label_id)
        self._version(image_id, label_tag)
        self.notes.add_to_label(image_id, label_tag, info)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Withdraws a label: it no longer speaks for the image, and stays on disk.

        404 where there is no such version, 409 where another one stands.
        """
        image_id = self._image_of(label_id)
        version = self._version(label_id, label_tag)
        try:
            with disk():
                self.labels.withdraw(image_id, version.tag, version.version)
        except LookupError as error:
            raise HTTPException(409, str(error)) from error

    def _public(self, version: LabelVersion) -> dict[str, Any]:
        row = sendable(version.to_json())
        place = str(row.pop("image")["id"]), version.tag, version.version
        for private in ("file", "source"):
            row.pop(private)
        return {**row, "pacs": self.outbox.state(*place) if self.outbox else None}

    def segmentation(self, image_id: str, tag: str, version: int) -> Dataset:
        """A label as a DICOM Segmentation of its image.

        Raises NothingToSegment for "no mass here", PacsError where the image cannot be had,
        Withdrawn where the label no longer stands, and LookupError or UnreadableLabel where it or
        its image is gone.
        """
        from ftmtl.dicom_seg import to_dicom_seg  # slow to import: not at the server's start

        present = self.labels.current(image_id, tag)
        if present is None or present.version != version:
            what = f"version {present.version} took its place" if present else "it was withdrawn"
            raise Withdrawn(f"{what} before it was sent")
        entry = self.catalogue.get(image_id)
        if entry is None:
            raise LookupError(f"{image_id}: the image is gone")
        findings = read_label_file(self.labels.file(present), image=info_of(entry.image or {}))
        header = pydicom.dcmread(self.catalogue.fetch(entry), stop_before_pixels=True)
        return to_dicom_seg(findings, header, name=f"{tag} {version}")

    def watch_pacs(self) -> None:
        """Keeps the list up to date with the PACS, and sends labels there; where there is one."""
        if self.pacs is not None and self.outbox is not None:
            self.pacs.watch(changed=self.catalogue.refresh, and_then=self.outbox.send)

    def _image_of(self, label_id: Any) -> str:
        if isinstance(label_id, str) and self.catalogue.get(label_id) is None:
            label_id = re.sub(r"@[0-9]{1,9}$", "", label_id)
        self.entry(label_id)
        return str(label_id)

    def _version(self, label_id: Any, label_tag: Any) -> LabelVersion:
        image_id, tag = self._image_of(label_id), check_tag(label_tag)
        if label_id != image_id:
            number = int(str(label_id).rpartition("@")[2])
            for version in self.labels.versions(image_id, tag):
                if version.version == number and version.file is not None:
                    return version
        elif (present := self.labels.current(image_id, tag)) is not None:
            return present
        raise HTTPException(404, f"There is no label {str(label_id)[:200]!r} under {tag!r}")

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Tag -> label id, for the labels that stand."""
        self.entry(image_id)
        return {tag: image_id for tag in self.labels.tags(image_id)}

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """The label id of an image under a tag; empty without a label."""
        return self.get_labels_by_image_id(image_id).get(check_tag(tag), "")

    def get_labeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        """The ids of the images with a label."""
        done = set(self.labels.labelled(check_tag(label_tag or FINAL)))
        return [image for image in self.list_images() if image in done]

    def teaching(self) -> list[str]:
        """The labelled images that training learns from; the patients of the others judge it."""
        sides = self.sides.all()
        keys = {i: str((self.entry(i).image or {}).get("patient_key"))
                for i in self.get_labeled_images()}
        return [image for image, key in keys.items() if sides.get(key) != "validation"]

    def get_unlabeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        """The ids of the images without one."""
        done = set(self.labels.labelled(check_tag(label_tag or FINAL)))
        return [image for image in self.list_images() if image not in done]

    # The whole ---------------------------------------------------------------------------------

    def name(self) -> str:
        """What the store is called."""
        return "mammograms"

    def set_name(self, name: str) -> None:
        """The name is fixed."""
        raise HTTPException(400, "The store's name is fixed")

    def description(self) -> str:
        """What the store is."""
        return "Mammograms by SOP instance; labels with all their versions"

    def set_description(self, description: str) -> None:
        """The description is fixed."""
        raise HTTPException(400, "The store's description is fixed")

    def datalist(self) -> list[dict[str, Any]]:
        """The labelled images as {image, label}: ids, since paths are the server's own business."""
        return [{"image": image, "label": image} for image in self.get_labeled_images()]

    def refresh(self) -> None:
        """Looks for new files and labels."""
        self.catalogue.refresh()
        self.labels.reload()

    def status(self) -> dict[str, Any]:
        """Counts; constant-time, since MONAI Label asks inside every request."""
        counts = self.labels.counts()
        return {
            "total": self.catalogue.count(),
            "completed": counts.get(FINAL, 0),
            "label_tags": counts,
            "left_out": len(self.catalogue.left_out()),
            "pacs": self.pacs.status() if self.pacs else None,
        }

    def json(self) -> dict[str, Any]:
        """The work list in MONAI Label's form, and the files that are not in it with the reason."""
        objects = {}
        for image_id in self.list_images():
            info = self.get_image_info(image_id)
            labels = {
                tag: {"ext": LABEL_SUFFIX, "info": self._public(version)}
                for tag in self.labels.tags(image_id)
                if (version := self.labels.current(image_id, tag)) is not None
            }
            suffix = "".join(Path(info["name"]).suffixes[-1:])
            objects[image_id] = {"image": {"ext": suffix, "info": info}, "labels": labels}
        return {
            "name": self.name(),
            "description": self.description(),
            "objects": objects,
            "left_out": self.catalogue.left_out(),
        }

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Not offered: it would send every patient's name in one file."""
        raise HTTPException(403, "Make a data set on the server: ftmtl dataset labels …")
