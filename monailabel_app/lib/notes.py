"""What clients want remembered of an image or of its labels: free JSON, one small file an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from filelock import FileLock

from ftmtl.atomic import write_json
from ftmtl.datasets.labels import image_folder

from .files import set_aside
from .names import Names
from .refusals import check_object, disk, sendable

LARGEST = 64_000  # bytes of JSON about one image


class Notes:
    """The notes below one folder; safe between threads and processes."""

    def __init__(self, folder: Path, names: Names) -> None:
        self._folder, self._names = folder, names
        folder.mkdir(exist_ok=True)
        self._lock = FileLock(folder.parent / f"{folder.name}.lock")

    def of_image(self, image_id: str) -> dict[str, Any]:
        """What is remembered of an image."""
        return self._read(image_id)["image"]

    def of_label(self, image_id: str, tag: str) -> dict[str, Any]:
        """What is remembered of the labels under a tag."""
        return dict(self._read(image_id)["labels"].get(tag, {}))

    def add_to_image(self, image_id: str, info: Any) -> None:
        """Remembers more of an image; 400, 413 or 507 where that cannot be."""
        self._change(image_id, ("image",), info)

    def add_to_label(self, image_id: str, tag: str, info: Any) -> None:
        """Remembers more of the labels under a tag; 400, 413 or 507 where that cannot be."""
        self._change(image_id, ("labels", tag), info)

    def _file(self, image_id: str) -> Path:
        return self._folder / f"{image_folder(self._folder, image_id).name}.json"

    def _read(self, image_id: str) -> dict[str, dict[str, Any]]:
        file = self._file(image_id)
        notes: dict[str, dict[str, Any]] = {"image": {}, "labels": {}}
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            notes.update({part: sendable(dict(stored[part])) for part in notes})
        except FileNotFoundError:
            pass
        except (ValueError, TypeError, KeyError) as error:
            set_aside(file, error, called=f"{self._names.of(image_id)}.json")
        return notes

    def _change(self, image_id: str, place: tuple[str, ...], info: Any) -> None:
        with self._lock, disk():
            notes = self._read(image_id)
            part: dict[str, Any] = notes
            for name in place:
                part = part.setdefault(name, {})
            part.update(check_object(info))
            if len(json.dumps(notes)) > LARGEST:
                raise HTTPException(413, f"More than {LARGEST} bytes about one image")
            write_json(self._file(image_id), notes)
