"""What is refused, with its HTTP status: names and objects that are none, and a full disk.

Refusals are HTTPExceptions, so that they reach the client with their reason under MONAI Label's
own server as well.
"""

from __future__ import annotations

import errno
import json
import math
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


def check_object(info: Any, name: str = "info") -> dict[str, Any]:
    """A JSON object that a reply can hold; 400 for anything else.

    Python reads more as JSON than it may send: NaN and Infinity, and half a pair of surrogates.
    """
    if not isinstance(info, dict):
        raise HTTPException(400, f"{name} must be a JSON object, such as {{}}")
    try:
        json.dumps(info, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"{name} cannot be sent back as JSON: {error!r}") from error
    return info


def sendable(value: Any) -> Any:
    """What was stored before `check_object` looked, as a reply can hold it.

    A number that is none becomes None, half a pair of surrogates a question mark.
    """
    if isinstance(value, dict):
        return {sendable(key): sendable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [sendable(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


@contextmanager
def disk() -> Iterator[None]:
    """507 where the disk is full while the block writes."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HTTPException(507, "The server's disk is full; nothing was stored") from error
        raise
