"""Whether two files hold the same, told from a little of each: large sets are looked at in seconds.

A pixel that was changed in the middle of a large file without compression is not seen.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

END = 64 * 1024  # bytes, at either end


def fingerprint(path: Path) -> str:
    """The file's size in bytes and a digest of its first and last 64 KiB. Raises OSError."""
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        digest = hashlib.sha256(stream.read(END))
        stream.seek(max(0, size - END))
        digest.update(stream.read(END))
    return f"{size}-{digest.hexdigest()}"
