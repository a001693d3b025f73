"""Copies of files, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from ftmtl.atomic import atomic_write


def copy_file(source: Path, target: Path) -> None:
    """Copies a file's bytes to `target`, in one step and on the disk."""
    with atomic_write(target) as stream, open(source, "rb") as bytes_in:
        shutil.copyfileobj(bytes_in, stream, 1 << 20)
