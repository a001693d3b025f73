"""What one server has for itself, looked at before anything slow: its workspace and its port."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout


class Taken(RuntimeError):
    """Somebody else has it; says what, and the remedy."""


def claim_workspace(workspace: Path) -> FileLock:
    """The workspace, until the process ends, however it does. Raises Taken, OSError.

    Two servers would each keep a state of their own of labels and models that both write.
    """
    workspace.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(workspace / "server.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise Taken(
            f"{workspace}: another server uses this workspace, and each would miss what the "
            "other's readers submit. Stop it, or give another --workspace"
        ) from error
    return lock


def check_port(host: str, port: int) -> None:
    """Raises Taken where nothing can listen there."""
    try:
        family, kind, _protocol, _name, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind) as probe:
            if os.name != "nt":  # there it would let two listen
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        raise Taken(f"{host}:{port}: {error.strerror or error}. Give another --port or --host") \
            from error
