"""A server on loopback that does whatever wrong thing a test wants, with real sockets."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

TLS_HELLO = b"\x16"
Handler = Callable[[socket.socket, bytes], None]


@contextlib.contextmanager
def misbehaving(handler: Handler, *, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Calls `handler(connection, head of the request)` for each connection; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            wrapped = tls.wrap_socket(connection, server_side=True) if tls else connection
            head = b""
            while b"\r\n\r\n" not in head and not head.startswith(TLS_HELLO):
                chunk = wrapped.recv(4096)
                if not chunk:
                    return
                head += chunk
            handler(wrapped, head)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def reply(status: str, body: bytes, *, kind: str = "application/json", cut: int = 0) -> Handler:
    """Answers so; with `cut`, that many bytes of the body are missing."""

    def handler(connection: socket.socket, head: bytes) -> None:
        header = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(header.encode() + body[: len(body) - cut])

    return handler
