"""What a record says of bytes and of a moment: their SHA-256, and the time."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. Raises OSError."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def now() -> str:
    """The time in UTC, to the millisecond, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
