"""The images: what is known of each, where its file is, and those that are uploaded.

Everything that a request names is checked here. Nothing that a request says becomes a path.
Refusals are HTTPExceptions, so that they reach the client with their reason under MONAI Label's own
server as well.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from pydicom.dataset import Dataset

from ftmtl.datasets.labels import info_of
from ftmtl.digest import sha256_of
from ftmtl.findings import ImageInfo
from ftmtl.mammogram import (
    HEADER_EDITION,
    LONGEST_NAME,
    MammogramHeader,
    UnreadableMammogram,
    header_of,
    read_header,
    read_mammogram,
)
from ftmtl.mammogram import image_id as id_by_path
from ftmtl.other_view import OTHER
from ftmtl.patient_key import PatientKey
from ftmtl.predict import image_info

from .catalogue import Catalogue, Entry, Source, image_suffix
from .dicomweb import UID, DicomWeb, PacsError, Unreachable
from .files import copy_file
from .folder import Folder
from .pacs import Pacs
from .refusals import NAME, disk

EDITION = 3  # counts up when more is kept of a header


class Images:
    """Mammograms below the folder `studies` or in a PACS, and in the workspace's `uploads`."""

    def __init__(
        self,
        studies: Path | DicomWeb,
        workspace: Path,
        key: PatientKey,
        *,
        labelled: Callable[[], Collection[str]],
        pacs_cache: int,
    ) -> None:
        """Of a PACS at most `pacs_cache` bytes are kept, besides the images that are `labelled`."""
        self.key = key
        self._working = workspace / "tmp"
        self._taking_in = threading.Lock()  # one of two that come at once finds the other listed
        uploads = workspace / "uploads"
        for folder in (self._working, uploads):
            folder.mkdir(exist_ok=True, mode=0o700)
        self.pacs: Pacs | None = None
        main: Source
        if isinstance(studies, DicomWeb):
            main = self.pacs = Pacs(
                studies,
                workspace / "pacs",
                self.describe_header,
                self.describe,
                most_bytes=pacs_cache,
                stays=labelled,
            )
        else:
            main = Folder("studies", studies, self.describe, apart=[workspace])
        self.catalogue = Catalogue(
            [main, Folder("uploads", uploads, self.describe)],
            workspace / "images.json",
            stamp=f"{HEADER_EDITION}.{EDITION} {sha256_of(workspace / 'patient.key')[:16]}",
        )

    def entry(self, image_id: Any) -> Entry:
        """The image of that id; 404 where there is none, 400 for what cannot be an id."""
        if not isinstance(image_id, str) or not image_id or "\0" in image_id:
            raise HTTPException(400, "An image is named by its id, as /datastore/ lists them")
        entry = self.catalogue.get(image_id)
        if entry is None:
            raise HTTPException(404, f"There is no image {image_id[:200]!r} in the work list")
        return entry

    def info(self, image_id: str) -> ImageInfo:
        """The image as findings documents name it."""
        return info_of(self.entry(image_id).image or {})

    def file(self, image_id: str) -> Path:
        """The path of an image; 404 where there is none, 422 where it cannot be read, 502 or 503
        where the PACS fails.

        What lies there is looked at: an export may have put another woman's image in its place.
        """
        entry = self.entry(image_id)
        path, found = self._fetched(entry)
        if entry.changed and not entry.describes(found):
            self.catalogue.refresh()
            path, _ = self._fetched(self.entry(image_id))
        return path

    def _fetched(self, entry: Entry) -> tuple[Path, os.stat_result]:
        try:
            with disk():
                path = self.catalogue.fetch(entry)
        except PacsError as error:
            status = 503 if isinstance(error, Unreachable) else 502
            raise HTTPException(status, f"{error}. Try again later") from error
        try:
            found = path.stat()
            # Permissions change without a file's time, and the list does not notice.
            if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except (FileNotFoundError, NotADirectoryError) as error:
            self.catalogue.refresh()
            raise HTTPException(404, f"The file of image {entry.image_id!r} has gone") from error
        except OSError as error:
            reason = f"The image cannot be read: {error.strerror}. Check its file and permissions"
            raise HTTPException(422, reason) from error
        return path, found

    def other_views(self, image_id: str) -> list[str]:
        """The other view of the image's breast in the same examination, as a rule one image."""
        image = self.entry(image_id).image or {}
        view = OTHER.get(str(image.get("view")))
        if view is None or not image.get("laterality"):
            return []
        return self.catalogue.of_view({**image, "view": view})

    def take_in(self, image_id: str, upload: Path) -> str:
        """Takes an uploaded mammogram in; returns its id, of a DICOM file its own.

        422 for no mammogram, 409 for another one with the id of one that is here.
        """
        suffix = image_suffix(upload.name)
        if image_id and not NAME.fullmatch(image_id):
            raise HTTPException(400, "An image id is made of letters, digits and . _ - : + @")
        name = (image_id or upload.name.split(".")[0]).lstrip(". ")
        if not name:
            raise HTTPException(400, "The image needs an id")
        if len(name.encode()) > LONGEST_NAME:
            raise HTTPException(400, f"An image id is at most {LONGEST_NAME} bytes long")
        uploads = self.catalogue.roots["uploads"]
        with tempfile.TemporaryDirectory(dir=self._working) as folder:
            # Read under the name that it will have, which is its id if it is no DICOM file.
            file = Path(folder) / (name if name.lower().endswith(suffix) else name + suffix)
            shutil.copyfile(upload, file)
            try:
                read_mammogram(file)
                image = self.describe(file, Path(folder))
            except UnreadableMammogram as error:
                reason = f"The image cannot be read: {error.reason}. {error.remedy}"
                raise HTTPException(422, reason) from error
            # Under its id: what the sender called a DICOM file may be the patient's name.
            known_by_name = file.name.startswith(image["id"])
            place = uploads / (file.name if known_by_name else image["id"] + suffix)
            with self._taking_in:
                self._keep(str(image["id"]), file, place)
        return str(image["id"])

    def _keep(self, image_id: str, file: Path, place: Path) -> None:
        """Takes a file in under its id; 409 for another one there, 422 where it is not listed."""
        if self.catalogue.get(image_id) is not None:
            if not _same_bytes(self.file(image_id), file):
                raise HTTPException(409, f"There is another image {image_id!r} already")
            return
        if place.exists():  # the file of an image with another id
            raise HTTPException(409, f"There is another image called {place.name!r} already")
        with disk():
            copy_file(file, place)
        self.catalogue.refresh()
        if self.catalogue.get(image_id) is None:
            place.unlink()
            raise HTTPException(422, f"A file called {place.name!r} is not listed. Rename it")

    def remove(self, entry: Entry) -> None:
        """Removes an uploaded image. The studies belong to the clinic: 403."""
        if entry.root != "uploads":
            raise HTTPException(403, "Studies are not deleted through this server")
        self.catalogue.path(entry).unlink(missing_ok=True)
        self.catalogue.refresh()

    def describe(self, file: Path, root: Path) -> dict[str, Any]:
        """ImageInfo, pixel_aspect and examination of an image, and its `sha256` where its id is
        but its path, at which another may lie tomorrow. Raises UnreadableMammogram and OSError.
        """
        image = self._described(read_header(file, root=root))
        if image["id"] == id_by_path(file, root) and not UID.fullmatch(image["id"]):
            image["sha256"] = sha256_of(file)
        return image

    def describe_header(self, header: Dataset, path: Path) -> dict[str, Any]:
        """The same of an image that is in a PACS."""
        return self._described(header_of(header, path=path))

    def _described(self, header: MammogramHeader) -> dict[str, Any]:
        info = image_info(header, self.key.of(header))
        examination = self.key.of_examination(header)
        return {**asdict(info), "pixel_aspect": header.pixel_aspect, "examination": examination}


def _same_bytes(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()
