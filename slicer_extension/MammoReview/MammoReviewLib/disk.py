"""Small JSON files that are wholly there or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any


def write_json(file: Path, document: Any, *, through: bool = True) -> None:
    """Puts a document in the place of `file` in one step. Raises OSError.

    `through` waits until the disk has it, which a power cut then cannot undo. Without, it outlives
    a crash of this program alone, and takes no time that a person would notice.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = file.with_name(f".{file.name}.part")
    try:
        with open(part, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(document))  # many times as fast as json.dump
            if through:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(part, file)
    finally:
        remove(part)


def read_json(file: Path) -> Any:
    """What a file holds; None where there is none, or none that can be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def remove(file: Path) -> None:
    """Removes a file if it is there."""
    with contextlib.suppress(OSError):
        file.unlink()


def name_for(text: str) -> str:
    """A file name for any text: the same for the same, and never anything of a path."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]
