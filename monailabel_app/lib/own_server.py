"""What binds a process that the server started to it: it ends with it, and knows the way to it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import ssl
import sys
from pathlib import Path
from typing import Any

import requests
from requests_toolbelt.adapters.fingerprint import FingerprintAdapter

SERVER_PROCESS = "FTMTL_SERVER_PROCESS"


def die_with_server() -> None:
    """Asks the kernel to end this process with the server (Linux; elsewhere nothing)."""
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    # It may have gone before; then this process has been given to another.
    if os.environ.get(SERVER_PROCESS) not in (None, str(os.getppid())):
        sys.exit("The server that started this has gone")


def post(path: str, document: dict[str, Any]) -> requests.Response:
    """Posts JSON to the server named by the environment (`ftmtl-serve` sets it).

    The certificate is compared with the server's own file, byte by byte: it was made for the name
    that others use, and nobody else can answer at this address with it. Raises KeyError without a
    server in the environment, requests.RequestException.
    """
    server = os.environ["FTMTL_SERVER"]
    token = os.environ.get("FTMTL_TOKEN")
    certificate = os.environ.get("FTMTL_TLS_CERT")
    with requests.Session() as session:
        session.trust_env = False  # no proxy stands between a server and its children
        if certificate is not None:
            session.mount(server, FingerprintAdapter(_fingerprint(Path(certificate))))
        return session.post(
            server + path,
            json=document,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=60,
            verify=certificate is None,
        )


def _fingerprint(file: Path) -> str:
    text = file.read_text(encoding="ascii", errors="ignore")
    end = "-----END CERTIFICATE-----"
    first = text[text.index("-----BEGIN CERTIFICATE-----") : text.index(end) + len(end)]
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()
