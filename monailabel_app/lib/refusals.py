"""What is refused, with its HTTP status: names that are none, and a disk that is full.

Refusals are HTTPExceptions, so that they reach the client with their reason under MONAI Label's
own server as well.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import HTTPException

TAG = re.compile(r"[A-Za-z0-9_-]{1,32}")
NAME = re.compile(r"[\w@.:+ -]{1,128}")  # a client, a submission, an uploaded image


def check_tag(tag: Any) -> str:
    """A label's tag; 400 for what cannot be one."""
    if not isinstance(tag, str) or not TAG.fullmatch(tag):
        raise HTTPException(400, "A tag is 1 to 32 letters, digits, _ or -")
    return str(getattr(tag, "value", tag))


def check_object(info: Any) -> dict[str, Any]:
    """A JSON object; 400 for anything else."""
    if not isinstance(info, dict):
        raise HTTPException(400, "info must be a JSON object")
    return info


@contextmanager
def disk() -> Iterator[None]:
    """507 where the disk is full while the block writes."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HTTPException(507, "The server's disk is full; nothing was stored") from error
        raise
