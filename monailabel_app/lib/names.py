"""How an image is called where no name may stand: in the log, and in what a training tells.

A DICOM's id is a UID, which names nobody. Every other image's id is its path, which may hold a
name: there it goes by a number, and `unreadable.json` in the workspace says which image that is.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from filelock import FileLock

from ftmtl.atomic import write_json

from .dicomweb import UID

logger = logging.getLogger(__name__)


class Names:
    """The numbers given so far, in one file; safe between threads and processes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = FileLock(f"{file}.lock")

    def of(self, image_id: str) -> str:
        """What to call an image; it keeps its number."""
        if UID.fullmatch(image_id):
            return image_id
        try:
            with self._lock:
                return f"image {self._number(image_id)} of {self._file.name}"
        except OSError as error:
            logger.warning("%s cannot be written: %s", self._file.name, error.strerror)
            return "an image"

    def _number(self, image_id: str) -> int:
        try:
            images = list(json.loads(self._file.read_text(encoding="utf-8")).values())
        except (FileNotFoundError, ValueError, AttributeError):
            images = []
        if image_id not in images:
            images.append(image_id)
            write_json(self._file, {str(n): image for n, image in enumerate(images, 1)})
        return images.index(image_id) + 1
