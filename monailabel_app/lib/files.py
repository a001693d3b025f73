"""Whole files or none: JSON documents and copies, by `ftmtl.atomic`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ftmtl.atomic import atomic_write


def write_json(file: Path, document: Any) -> None:
    """Puts a JSON document in the place of `file`, in one step and on the disk."""
    with atomic_write(file) as stream:
        stream.write(json.dumps(document, indent=1).encode())


def copy_file(source: Path, target: Path) -> None:
    """Copies a file's bytes to `target`, in one step and on the disk."""
    with atomic_write(target) as stream, open(source, "rb") as bytes_in:
        shutil.copyfileobj(bytes_in, stream, 1 << 20)
