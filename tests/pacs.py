"""A real PACS on loopback: Debian's Orthanc with its DICOMweb plug-in and an empty storage.

It lets in nobody but USER with PASSWORD.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

USER, PASSWORD = "archive", "planted-pass-4711"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass
class Orthanc:
    """One that can be stopped and started again, with the same address and storage."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/dicom-web"

    @property
    def url_with_password(self) -> str:
        return self.url.replace("//", f"//{USER}:{PASSWORD}@")

    def start(self) -> None:
        log = open(self.folder / "orthanc.log", "ab")  # noqa: SIM115
        command = ["Orthanc", str(self.folder / "orthanc.json")]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        log.close()
        for _ in range(600):
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"{self.url_with_password}/studies", timeout=10).raise_for_status()
                return
            assert self.process.poll() is None, (self.folder / "orthanc.log").read_text()[-3000:]
            time.sleep(0.1)
        raise AssertionError("Orthanc does not answer")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None


@contextlib.contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """Starts it; skips the test where it is not installed, unless FTMTL_REQUIRE_ORTHANC=1."""
    if shutil.which("Orthanc") is None or not PLUGIN.exists():
        reason = "Orthanc is not installed (Debian: apt install orthanc orthanc-dicomweb)"
        if os.environ.get("FTMTL_REQUIRE_ORTHANC") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    configuration = {
        "HttpPort": port,
        "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "DicomServerEnabled": False,
        "StorageDirectory": "storage",
        "IndexDirectory": "storage",
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    server = Orthanc(folder, port)
    try:
        server.start()
        yield server
    finally:
        server.stop()
