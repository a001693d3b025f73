"""Files that are either wholly there or not there at all."""

from __future__ import annotations

import errno
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

PARTS = ".*.part"  # what is being written, or was when its process was killed


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file for binary writing that takes the place of `path` when the block ends well.

    The bytes go to a hidden file in the same folder, are forced to the disk, and are then renamed
    over `path`. A reader, or a start after a kill at any moment, sees the old file or the new one.
    If the block raises, `path` is left as it was. Raises FileNotFoundError, naming the folder,
    where there is none.
    """
    _need_folder(path)
    part = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def check_folder(path: Path) -> None:
    """Find out before long work whether `path` can be written after it: OSError if not."""
    _need_folder(path)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def write_bytes(path: Path, content: bytes) -> None:
    """Put `content` in the place of `path`, whole or not at all."""
    with atomic_write(path) as file:
        file.write(content)


def write_json(path: Path, document: Any) -> None:
    """Put a JSON document in the place of `path`, whole or not at all."""
    write_bytes(path, json.dumps(document, indent=1).encode())


def clear_parts(parts: Iterable[Path], *, older_than: float = 0.0) -> int:
    """Remove what killed writes left. Returns how much there was.

    Newer ones than so many seconds may be another process's, which writes at this moment, and stay.
    """
    cleared = 0
    for part in parts:
        with suppress(OSError):
            if time.time() - part.stat().st_mtime >= older_than:
                part.unlink()
                cleared += 1
    return cleared


def _need_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "There is no such folder", str(path.parent))


def _sync_folder(folder: Path) -> None:
    """Force a rename to the disk; not every system lets a folder be opened."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
