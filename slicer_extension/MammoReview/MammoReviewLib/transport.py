"""One HTTP request: address, token, time-outs, cancellation, and a reason for every failure."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlencode, urlsplit

from . import failures
from .failures import Failure
from .i18n import _
from .multipart import Form
from .ports import Cancellation, Cancelled

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
DEFAULT_PORT = 8000
CHUNK = 1 << 18
AUTHORITIES = "MAMMOREVIEW_CA_FILE"  # names a PEM file of certificates to trust


class Address:
    """Where a server is: `text` is `scheme://host:port/prefix`, one spelling for one server."""

    def __init__(self, text: str) -> None:
        """Raises Failure of kind "address"."""
        text = text.strip()
        bare = "://" not in text
        try:
            parts = urlsplit(f"http://{text}" if bare else text)
            port = parts.port
        except ValueError:
            raise _no_address(text) from None
        if parts.scheme not in ("http", "https") or not parts.hostname or " " in text:
            raise _no_address(text)
        try:
            parts.hostname.encode("idna")
            parts.path.encode("ascii")
        except UnicodeError:
            raise _no_address(text) from None
        if parts.username is not None:
            raise Failure("address", _("Put the token into its own field, not into the address."))
        self.secure = parts.scheme == "https"
        self.host = parts.hostname
        self.port = port or (DEFAULT_PORT if bare else 443 if self.secure else 80)
        self.prefix = parts.path.rstrip("/")
        name = f"[{self.host}]" if ":" in self.host else self.host
        self.place = f"{name}:{self.port}"
        self.text = f"{parts.scheme}://{self.place}{self.prefix}"

    @property
    def is_private(self) -> bool:
        """Nobody on the way can read what is sent."""
        return self.secure or self.host in ("localhost", "::1") or self.host.startswith("127.")


def _no_address(text: str) -> Failure:
    sentence = _("{text} is no address; one looks like https://server:8000.")
    return Failure("address", sentence.format(text=f"“{text}”"))


class Transport:
    """Requests to one server, a connection each: safe between threads."""

    def __init__(self, address: Address, token: str) -> None:
        """Raises Failure where the token or the file of authorities is none."""
        if not (token.isascii() and token.isprintable()):
            raise Failure("address", _("The token holds what no token can. Copy it again."))
        self._address, self._token = address, token
        self._tls = _trust() if address.secure else None

    def json(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of a reply; see `send`."""
        kind, body = self.send(method, path, **options)
        if not kind.startswith("application/json"):
            raise failures.not_ours(self._address.place)
        try:
            return json.loads(body)
        except ValueError:
            raise failures.broke_off(self._address.place) from None

    def send(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: dict[str, Any] | Form | None = None,
        read_seconds: float = READ_SECONDS,
        stop: Cancellation | None = None,
        file: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[str, bytes]:
        """Content type and body of a reply with status 2xx; the body goes to `file` if given.

        Raises Failure, or Cancelled once `stop` was cancelled.
        """
        line = _Line(self._address, self._tls, stop)
        try:
            reply = self._exchange(line, method, path, query, body, read_seconds)
            kind = reply.getheader("Content-Type", "")
            if file is None or reply.status >= 300:
                content = reply.read()
            else:
                content = b""
                _save(reply, file, progress)
        except (OSError, http.client.HTTPException) as error:
            if stop is not None and stop.cancelled:
                raise Cancelled from None
            if isinstance(error, _DiskError):
                raise failures.of_disk(error) from error
            raise failures.of_error(error, self._address.place) from error
        finally:
            line.hang_up()
        if stop is not None and stop.cancelled:
            raise Cancelled
        if not 200 <= reply.status < 300:
            raise failures.of_status(
                reply.status, content, self._address.place, with_token=bool(self._token)
            )
        return kind, content

    def _exchange(
        self,
        line: _Line,
        method: str,
        path: str,
        query: dict[str, str] | None,
        body: dict[str, Any] | Form | None,
        read_seconds: float,
    ) -> http.client.HTTPResponse:
        target = self._address.prefix + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "*/*", "Connection": "close"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        content: Any = body
        if isinstance(body, Form):
            headers.update(body.headers)
        elif body is not None:  # a GET has none, not even an empty one
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        connection = line.dial(read_seconds)
        # A server that refuses a large upload answers and hangs up while we still send.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, target, body=content, headers=headers)
        return connection.getresponse()


def _trust() -> ssl.SSLContext:
    """The system's authorities, and those of a hospital's own file.

    Its variable is ours: Slicer sets SSL_CERT_FILE to a file of its own.
    """
    context, file = ssl.create_default_context(), os.environ.get(AUTHORITIES)
    if file:
        try:
            context.load_verify_locations(file)
        except OSError as error:  # ssl.SSLError is one
            sentence = _("No certificate can be read from {file} ({variable}): {reason}.")
            raise Failure(
                "address", sentence.format(file=file, variable=AUTHORITIES, reason=error)
            ) from error
    return context


class _Line:
    """A connection that a cancellation cuts."""

    def __init__(
        self, address: Address, tls: ssl.SSLContext | None, stop: Cancellation | None
    ) -> None:
        if tls is None:
            self._connection = http.client.HTTPConnection(
                address.host, address.port, timeout=CONNECT_SECONDS
            )
        else:
            self._connection = http.client.HTTPSConnection(
                address.host, address.port, timeout=CONNECT_SECONDS, context=tls
            )
        self._socket: socket.socket | None = None
        self._stop = stop

    def dial(self, read_seconds: float) -> http.client.HTTPConnection:
        self._connection.connect()
        self._socket = self._connection.sock
        self._socket.settimeout(read_seconds)
        if self._stop is not None:
            self._stop.on_cancel(self._cut)
        return self._connection

    def hang_up(self) -> None:
        if self._stop is not None:
            self._stop.forget(self._cut)
        self._connection.close()

    def _cut(self) -> None:
        # Wakes the thread that waits for an answer, which closing alone does not.
        if self._socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # TLS's own waits


class _DiskError(OSError):
    """Tells this computer's disk from the network; both raise OSError."""


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _DiskError(*error.args) from error


def _save(
    reply: http.client.HTTPResponse, file: Path, progress: Callable[[int, int], None] | None
) -> None:
    """Writes the reply's body to `file`, whole or not at all."""
    whole = int(reply.getheader("Content-Length") or 0)
    part = file.with_name(f".{secrets.token_hex(8)}.part")
    size = 0
    try:
        with _disk():
            stream = open(part, "wb")  # noqa: SIM115  network errors inside are not the disk's
        with stream:
            while chunk := reply.read(CHUNK):
                with _disk():
                    stream.write(chunk)
                size += len(chunk)
                if progress is not None:
                    progress(size, whole)
            with _disk():
                stream.flush()
        if size < whole:  # read(n) does not say that an answer was cut short
            raise http.client.IncompleteRead(b"", whole - size)
        with _disk():
            os.replace(part, file)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
