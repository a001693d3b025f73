"""Labels on their way to a PACS that fails: over real HTTP, by a server that fails on purpose."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from test_datastore import write_dicom, write_label

from monailabel_app.lib import pacs
from monailabel_app.lib.datastore import MammogramStore
from monailabel_app.lib.dicomweb import DicomWeb

IMAGES = [f"1.2.840.{n}" for n in (1, 2, 3)]


@dataclass
class FailingPacs:
    """It has no series. A label of `fails_on` gets a 500; while `down`, everything a 503."""

    url: str = ""
    down: bool = False
    fails_on: str = "none"
    stored: list[str] = field(default_factory=list)  # the images whose labels came
    asked: int = 0


@pytest.fixture
def failing() -> Iterator[FailingPacs]:
    place = FailingPacs()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            place.asked += 1
            time.sleep(0.2 * place.down)
            self.reply(503 if place.down else 200, b"[]")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            of = next(image for image in IMAGES if image.encode() + b"\0" in body)
            if place.down or of == place.fails_on:
                return self.reply(503 if place.down else 500, b"{}")
            place.stored.append(of)
            return self.reply(200, b"{}")

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        place.url = f"http://127.0.0.1:{server.server_port}/dicom-web"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield place
        server.shutdown()
        thread.join()


@pytest.fixture
def store(tmp_path: Path, failing: FailingPacs) -> MammogramStore:
    """Three images that were fetched, each with a label for the PACS."""
    for image in IMAGES:
        uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.4"}
        write_dicom(tmp_path / "pacs" / "1.2.3" / "1.2.4" / f"{image}.dcm", image, **uids)
    store = MammogramStore(DicomWeb(failing.url), tmp_path)
    for image in IMAGES:
        submit(store, image, "benign")
    return store


def submit(store: MammogramStore, image: str, label: str, *, to_pacs: bool = True) -> None:
    file = write_label(store.workspace / "x.seg.nrrd", store.image_info(image), label)
    store.save_label(image, str(file), "final", {"to_pacs": to_pacs})


def sent(store: MammogramStore) -> list[str]:
    """What became of each first version, after a try to send all."""
    assert store.outbox is not None
    store.outbox.send()
    states = [store.outbox.state(image, "final", 1) for image in IMAGES]
    return [f"{s['state']}: {s['reason']}" if s.get("reason") else s["state"] for s in states if s]


def test_what_no_longer_stands_is_not_sent(store: MammogramStore, failing: FailingPacs) -> None:
    failing.down = True
    assert sent(store) == ["waiting"] * 3
    store.remove_label(IMAGES[0], "final")
    submit(store, IMAGES[1], "malignant", to_pacs=False)
    failing.down = False
    assert sent(MammogramStore(store.studies, store.workspace)) == [
        "withdrawn: it was withdrawn before it was sent",
        "withdrawn: version 2 took its place before it was sent",
        "sent",
    ]
    assert failing.stored == IMAGES[2:]


def test_an_object_that_fails_holds_up_no_other(
    store: MammogramStore, failing: FailingPacs, caplog: pytest.LogCaptureFixture
) -> None:
    failing.fails_on = IMAGES[0]
    for _ in range(2):
        assert sent(store) == ["waiting: The PACS answers 500", "sent", "sent"]
    assert caplog.text.count("A label waits for the PACS: The PACS answers 500") == 1
    failing.fails_on = "none"
    assert sent(store) == ["sent"] * 3
    assert failing.stored == [*IMAGES[1:], IMAGES[0]]


def test_after_a_look_that_failed_the_next_comes_soon(
    store: MammogramStore, failing: FailingPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacs, "PAUSE", 0.1)
    failing.down = True
    assert store.pacs is not None
    store.watch_pacs()
    began = time.monotonic()
    while failing.asked < 7:  # three requests a look, of more than a second together
        assert time.monotonic() - began < 15, "twenty times as long as the look took"
        time.sleep(0.1)
