"""multipart/form-data, there and back. Python's `cgi`, which read it, is gone from Python 3.13."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

CHUNK = 1 << 16


class Form:
    """A form to be sent: text fields and at most one file, read from disk while it is sent."""

    def __init__(
        self, fields: dict[str, str], *, file: Path | None = None, name: str = "file"
    ) -> None:
        """`name` is the file's field. Raises OSError where the file is not there."""
        self._boundary = f"mammo-{secrets.token_hex(16)}"
        parts = [self._head(f'name="{key}"') + text.encode() for key, text in fields.items()]
        self._before = b"\r\n".join(parts)
        self._file = file
        if file is not None:
            head = self._head(f'name="{name}"; filename="{file.name}"', "application/octet-stream")
            self._before += (b"\r\n" if parts else b"") + head
        self._after = f"\r\n--{self._boundary}--\r\n".encode()
        size = file.stat().st_size if file is not None else 0
        self.headers = {
            "Content-Type": f"multipart/form-data; boundary={self._boundary}",
            "Content-Length": str(len(self._before) + size + len(self._after)),
        }

    def __iter__(self) -> Iterator[bytes]:
        yield self._before
        if self._file is not None:
            with open(self._file, "rb") as stream:
                yield from iter(lambda: stream.read(CHUNK), b"")
        yield self._after

    def _head(self, disposition: str, kind: str = "text/plain; charset=utf-8") -> bytes:
        return (
            f"--{self._boundary}\r\nContent-Disposition: form-data; {disposition}\r\n"
            f"Content-Type: {kind}\r\n\r\n"
        ).encode()


def parse(content_type: str, body: bytes) -> dict[str, bytes]:
    """The parts of a multipart body by their names. Raises ValueError where it is none."""
    boundary = re.search(r'boundary="?([^";,]+)"?', content_type)
    if boundary is None:
        raise ValueError("no boundary")
    mark = b"\r\n--" + boundary.group(1).encode()
    pieces = (b"\r\n" + body).split(mark)
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise ValueError("no end")
    parts = {}
    for piece in pieces[1:-1]:
        head, found, content = piece.partition(b"\r\n\r\n")
        name = re.search(rb'\bname="([^"]*)"', head)
        if not found or name is None:
            raise ValueError("a part without a name")
        parts[name.group(1).decode()] = content
    return parts
