"""Copies of files, whole or not at all; damaged ones set aside, and halves cleared away."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from ftmtl import atomic

logger = logging.getLogger(__name__)

LONGEST_WRITE = 24 * 3600.0  # seconds


def copy_file(source: Path, target: Path) -> None:
    """Copies a file's bytes to `target`, in one step and on the disk."""
    with atomic.atomic_write(target) as stream, open(source, "rb") as bytes_in:
        shutil.copyfileobj(bytes_in, stream, 1 << 20)


def set_aside(file: Path, error: Exception, *, called: str | None = None) -> Path:
    """Renames a damaged file, so that a new one can be begun and a person can look at the old.

    `called` stands in the log in the place of a file's name that may hold a patient's.
    """
    number = 1
    while (aside := file.with_name(f"{file.name}.damaged-{number}")).exists():
        number += 1
    with suppress(FileNotFoundError):  # another process was quicker
        os.replace(file, aside)
    logger.error(
        "%s is damaged (%s). It was set aside as %s; the backup may hold a whole one",
        called or file.name, error, f"{called}.damaged-{number}" if called else aside.name,
    )  # fmt: skip
    return aside


def clear_parts(folder: Path) -> int:
    """Removes what killed writes left below `folder`. Returns how many there were."""
    return atomic.clear_parts(folder.rglob(atomic.PARTS), older_than=LONGEST_WRITE)
