"""MONAI Label's view of the images and labels.

Everything that a request names is checked here: an image by its id, a tag by its letters, a label
by reading it. Nothing that a request says becomes a path. Refusals are HTTPExceptions, so that
they reach the client with their reason under MONAI Label's own server as well.
"""

from __future__ import annotations

import io
import logging
import re
import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pydicom
from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore
from pydicom.dataset import Dataset

from ftmtl import __version__
from ftmtl.datasets.labels import FINAL, LABEL_SUFFIX, LabelVersion
from ftmtl.findings import ImageInfo
from ftmtl.label_file import read_label_file
from ftmtl.mammogram import (
    MammogramHeader,
    UnreadableMammogram,
    header_of,
    read_header,
    read_mammogram,
)
from ftmtl.patient_key import PatientKey

from .catalogue import Catalogue, Entry, Source, image_suffix
from .dicomweb import DicomWeb, PacsError, Unreachable
from .files import copy_file
from .folder import Folder
from .label_store import LabelStore
from .models import sha256_of
from .notes import Notes
from .outbox import Outbox
from .pacs import Pacs
from .refusals import NAME, check_tag, disk
from .sides import Sides
from .submissions import Wishes, check_submission, info_of

logger = logging.getLogger(__name__)


class MammogramStore(Datastore):  # type: ignore[misc]
    """Images below the folder `studies` or in a PACS; everything else in `workspace`."""

    def __init__(self, studies: Path | DicomWeb, workspace: Path) -> None:
        self.studies, self.workspace = studies, workspace
        uploads = workspace / "uploads"
        uploads.mkdir(parents=True, exist_ok=True)
        self.labels = LabelStore(workspace / "labels")
        self.key = PatientKey.open(workspace / "patient.key", labels_exist=self.labels.any())
        self.sides = Sides(workspace / "sides.json", self._sides_told)
        self.pacs: Pacs | None = None
        self.outbox: Outbox | None = None
        main: Source
        if isinstance(studies, DicomWeb):
            main = self.pacs = Pacs(
                studies, workspace / "pacs", self.describe_header, self.describe
            )
            self.outbox = Outbox(workspace / "outbox", studies, self.segmentation)
        else:
            main = Folder("studies", studies, self.describe, apart=[workspace])
        self.catalogue = Catalogue(
            [main, Folder("uploads", uploads, self.describe)],
            workspace / "images.json",
            stamp=f"{__version__} {sha256_of(workspace / 'patient.key')[:16]}",
        )
        self.notes = Notes(workspace / "info")
        self._accepted = threading.local()
        self._reading_of: Callable[[str], dict[str, Any]] = lambda image: {"state": "new"}

    def watch(self, reading_of: Callable[[str], dict[str, Any]]) -> None:
        """`reading_of` says of an image without a label its state, and what the model saw."""
        self._reading_of = reading_of

    def _sides_told(self) -> list[tuple[str, str | None]]:
        return [(str(v.image["patient_key"]), v.side) for v in self.labels.records(FINAL)]

    # Images ------------------------------------------------------------------------------------

    def describe(self, file: Path, root: Path) -> dict[str, Any]:
        """What is known of an image: ImageInfo and pixel_aspect. Raises UnreadableMammogram."""
        return self._described(read_header(file, root=root))

    def describe_header(self, header: Dataset, path: Path) -> dict[str, Any]:
        """The same of an image that is in a PACS."""
        return self._described(header_of(header, path=path))

    def _described(self, header: MammogramHeader) -> dict[str, Any]:
        info = ImageInfo(
            id=header.image_id,
            width=header.width,
            height=header.height,
            spacing_mm=header.spacing_mm,
            laterality=header.laterality,
            view=header.view,
            patient_key=self.key.of(header),
        )
        return {**asdict(info), "pixel_aspect": header.pixel_aspect}

    def entry(self, image_id: Any) -> Entry:
        """The image of that id; 404 where there is none, 400 for what cannot be an id."""
        if not isinstance(image_id, str) or not image_id or "\0" in image_id:
            raise HTTPException(400, "An image is named by its id, as /datastore/ lists them")
        entry = self.catalogue.get(image_id)
        if entry is None:
            raise HTTPException(404, f"There is no image {image_id[:200]!r} in the work list")
        return entry

    def image_info(self, image_id: str) -> ImageInfo:
        """The image as findings documents name it."""
        return info_of(self.entry(image_id).image or {})

    def list_images(self) -> list[str]:
        """The ids of all mammograms, in order of their paths."""
        return self.catalogue.ids()

    def get_image_uri(self, image_id: str) -> str:
        """The path of an image; 404 where there is none, 502 or 503 where the PACS fails."""
        entry = self.entry(image_id)
        try:
            with disk():
                path = self.catalogue.fetch(entry)
        except PacsError as error:
            status = 503 if isinstance(error, Unreachable) else 502
            raise HTTPException(status, f"{error}. Try again later") from error
        if not path.is_file():
            self.catalogue.refresh()
            raise HTTPException(404, f"The file of image {image_id!r} has gone")
        return str(path)

    def labelled_files(self) -> dict[str, Path]:
        """Image id -> file, of the images with a label; those that cannot be had are left out."""
        files = {}
        for image_id in self.get_labeled_images():
            with suppress(HTTPException):
                files[image_id] = Path(self.get_image_uri(image_id))
        return files

    def get_image(self, image_id: str, params: Any = None) -> io.BytesIO:
        """The bytes of an image's file."""
        return io.BytesIO(Path(self.get_image_uri(image_id)).read_bytes())

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What a work list shows of an image; no path and no name of a patient."""
        entry = self.entry(image_id)
        image = entry.image or {}
        label = self.labels.current(image_id)
        suffix = image_suffix(entry.path) or ".dcm"
        notes = self.notes.of_image(image_id)
        notes.pop("strategy", None)  # in a reply it would hide the name of the one that chose
        return {
            **notes,
            "name": image_id if image_id.lower().endswith(suffix) else image_id + suffix,
            **{k: image.get(k) for k in ("width", "height", "spacing_mm")},
            **{k: image.get(k) for k in ("laterality", "view", "patient_key")},
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
        upload = Path(image_filename)
        suffix = image_suffix(upload.name)
        if image_id and not NAME.fullmatch(image_id):
            raise HTTPException(400, "An image id is made of letters, digits and . _ - : + @")
        name = (image_id or upload.name.split(".")[0]).lstrip(". ")
        if not name:
            raise HTTPException(400, "The image needs an id")
        uploads = self.catalogue.roots["uploads"]
        with tempfile.TemporaryDirectory(dir=self.workspace) as folder:
            # Read under the name that it will have, which is its id if it is no DICOM file.
            file = Path(folder) / (name if name.lower().endswith(suffix) else name + suffix)
            shutil.copyfile(image_filename, file)
            try:
                read_mammogram(file)
                image = self.describe(file, Path(folder))
            except UnreadableMammogram as error:
                reason = f"The image cannot be read: {error.reason}. {error.remedy}"
                raise HTTPException(422, reason) from error
            known = self.catalogue.get(image["id"])
            if known is not None:
                same = _same_bytes(self.catalogue.path(known), file)
                if not same:
                    raise HTTPException(409, f"There is another image {image['id']!r} already")
                return str(image["id"])
            with disk():
                # Under its id: what the sender called a DICOM file may be the patient's name.
                known_by_name = file.name.startswith(image["id"])
                copy_file(file, uploads / (file.name if known_by_name else image["id"] + suffix))
        self.catalogue.refresh()
        if image_info:
            self.notes.add_to_image(image["id"], image_info)
        return str(image["id"])

    def remove_image(self, image_id: str) -> None:
        """Removes an uploaded image. The studies belong to the clinic: 403. Labels stay."""
        entry = self.entry(image_id)
        if entry.root != "uploads":
            raise HTTPException(403, "Studies are not deleted through this server")
        if self.labels.tags(image_id):
            raise HTTPException(409, "The image has a label; withdraw it first")
        self.catalogue.path(entry).unlink(missing_ok=True)
        self.catalogue.refresh()

    # Labels ------------------------------------------------------------------------------------

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """Keeps a submission; what it became is `acknowledgement`.

        400 bad tag or params, 404 unknown image, 409 stale `based_on` (and kept), 422 no label
        for this image, 507 disk full.
        """
        image = self.entry(image_id).image or {}
        tag = check_tag(label_tag)
        wishes = Wishes.of(label_info)
        if wishes.to_pacs and self.entry(image_id).root != Pacs.name:
            raise HTTPException(400, "to_pacs: this image does not come from a PACS")
        patient = str(image["patient_key"])
        side = (lambda: self.sides.settle(patient)) if tag == FINAL else None
        with disk(), tempfile.TemporaryDirectory(dir=self.workspace) as folder:
            submission = check_submission(Path(label_filename), image, tag, wishes, Path(folder))
            version = self.labels.submit(submission, side=side)
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
        """Withdraws a label: it no longer speaks for the image, and stays on disk."""
        image_id = self._image_of(label_id)
        version = self._version(label_id, label_tag)
        present = self.labels.current(image_id, version.tag)
        if present is None or present.version != version.version:
            raise HTTPException(409, f"Version {version.version} does not stand; nothing withdrawn")
        try:
            with disk():
                self.labels.withdraw(image_id, version.tag)
        except LookupError as error:
            raise HTTPException(404, str(error)) from error

    def _public(self, version: LabelVersion) -> dict[str, Any]:
        row = version.to_json()
        place = str(row.pop("image")["id"]), version.tag, version.version
        for private in ("file", "source"):
            row.pop(private)
        return {**row, "pacs": self.outbox.state(*place) if self.outbox else None}

    def segmentation(self, image_id: str, tag: str, version: int) -> Dataset:
        """A label as a DICOM Segmentation of its image.

        Raises NothingToSegment for "no mass here", PacsError where the image cannot be had, and
        LookupError or UnreadableLabel where the label is gone.
        """
        from ftmtl.dicom_seg import to_dicom_seg  # slow to import: not at the server's start

        entry = self.catalogue.get(image_id)
        found = [v for v in self.labels.versions(image_id, tag) if v.version == version]
        if entry is None or not found or found[0].file is None:
            raise LookupError(f"{image_id}: the label or its image is gone")
        findings = read_label_file(self.labels.file(found[0]), image=info_of(entry.image or {}))
        header = pydicom.dcmread(self.catalogue.fetch(entry), stop_before_pixels=True)
        return to_dicom_seg(findings, header, name=f"{tag} {version}")

    def watch_pacs(self) -> None:
        """Keeps the list up to date with the PACS, and sends labels there; where there is one."""
        if self.pacs is not None and self.outbox is not None:
            self.pacs.watch(changed=self.catalogue.refresh, and_then=self.outbox.send)

    def _image_of(self, label_id: Any) -> str:
        if isinstance(label_id, str) and self.catalogue.get(label_id) is None:
            label_id = re.sub(r"@\d+$", "", label_id)
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


def _same_bytes(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()
