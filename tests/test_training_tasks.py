"""What the server says of a training that cannot say it itself, and that the next one may begin."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from serving import Server, serve
from test_datastore import write_dicom, write_label

from ftmtl.findings import ImageInfo
from monailabel_app.lib.progress import Report, read_report

TRAIN = "/train/ft_mtl_net"
LONG = {"max_epochs": 1000, "steps": 2}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, untrained: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tasks")
    for number in range(1, 6):
        write_dicom(folder / "studies" / f"{number}.dcm", f"1.2.840.{number}", f"Jane^{number}")
    studies = folder / "studies"
    with serve(folder, studies, workspace=folder / "ws", weights=untrained) as running:
        submit(running, folder, 1)
        yield running


def submit(server: Server, folder: Path, number: int) -> None:
    image = ImageInfo(id=f"1.2.840.{number}", width=96, height=128)
    label = write_label(folder / "x.seg.nrrd", image, "benign").read_bytes()
    files = {"label": ("x.seg.nrrd", label)}
    reply = server.put(f"/datastore/label?image={image.id}", files=files)
    assert reply.status_code == 200, reply.text


def stats(server: Server) -> dict[str, Any]:
    told: dict[str, Any] = server.get("/info/").json()["train_stats"]["ft_mtl_net"]
    return told


def wait_for(server: Server, what: Callable[[], Any]) -> Any:
    for _ in range(1200):
        if value := what():
            return value
        time.sleep(0.1)
    raise AssertionError(server.log.read_text()[-4000:])


def ended(server: Server) -> str:
    def status() -> str | None:
        said = str(server.get("/train/").json()["status"])
        return said if said not in ("SUBMITTED", "RUNNING") else None

    return str(wait_for(server, status))


def kill_trainer(server: Server) -> None:
    """As the kernel does when memory runs out."""
    for process in wait_for(server, server.children):
        process.kill()
    assert ended(server) == "ERROR"


def test_one_that_cannot_be_started_does_not_bar_the_next(server: Server) -> None:
    assert server.post(TRAIN, json={"gpus": 1}).status_code == 400
    # The system starts no process with this in its environment, nor with so long an argument.
    for impossible in ({"gpus": "\0"}, {"name": "x" * 300_000}):
        assert server.post(TRAIN, json=impossible).status_code == 200
        assert ended(server) == "ERROR"
        assert "could not be started" in server.get("/train/").json()["details"][0]
        assert stats(server)["state"] == "failed"


def test_it_runs_from_the_first_moment_and_what_ended_it_is_told(server: Server) -> None:
    assert server.post(TRAIN, json=LONG).status_code == 200
    assert stats(server)["state"] == "running"
    assert 'ftmtl_training{model="ft_mtl_net"} 1.0' in server.get("/metrics").text
    kill_trainer(server)
    told = stats(server)
    assert told["state"] == "failed" and "before it had begun" in told["reason"]

    assert server.post(TRAIN, json=LONG).status_code == 200
    assert wait_for(server, lambda: stats(server).get("epoch"))
    kill_trainer(server)
    told = stats(server)
    assert told["state"] == "failed" and "ended from outside" in told["reason"]
    assert told["epoch"] >= 1, "how far it came is told too"

    # The report is of the training before, until the next one speaks.
    assert server.post(TRAIN, json=LONG).status_code == 200
    assert "epoch" not in stats(server) and stats(server)["state"] == "running"
    wait_for(server, server.children)
    server.delete("/train/")
    assert ended(server) == "STOPPED" and stats(server)["state"] == "stopped"


def test_a_failure_tells_no_path_of_the_servers(server: Server) -> None:
    canvases = server.log.parent / "ws" / "training" / "canvases"
    if canvases.is_dir():
        canvases.rename(canvases.with_name("aside"))
    canvases.touch()
    try:
        assert server.post(TRAIN, json={"max_epochs": 1, "steps": 1}).status_code == 200
        assert ended(server) == "ERROR"
        told = stats(server)
        assert told["state"] == "failed" and "canvases" in told["reason"]
        assert str(server.log.parent) not in server.get("/info/").text
    finally:
        canvases.unlink()


def test_where_every_patient_judges_nobody_teaches(server: Server, tmp_path: Path) -> None:
    """As after the others' labels were withdrawn: the fifth patient judges."""
    for number in range(2, 6):
        submit(server, tmp_path, number)
    for number in range(1, 5):
        server.delete(f"/datastore/label?id=1.2.840.{number}&tag=final").raise_for_status()
    refused = server.post(TRAIN, json={})
    assert refused.status_code == 409 and "judge" in refused.json()["detail"]
    submit(server, tmp_path, 1)
    assert server.post(TRAIN, json=LONG).status_code == 200
    kill_trainer(server)


def test_a_clock_that_is_put_right_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "progress.json"
    Report(file)
    assert read_report(file)["state"] == "running"
    # What the kernel says of its start follows the clock, and so does psutil with every time.
    system = psutil._psplatform
    boot = system.boot_time()
    monkeypatch.setattr(system, "boot_time", lambda: boot + 3600)
    assert read_report(file)["state"] == "running"
    report = json.loads(file.read_text())
    report["process"][0] = 1
    file.write_text(json.dumps(report))
    assert read_report(file)["state"] == "stopped", "that number is another process now"


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"7", b'"x"', b"\xff"])
def test_a_damaged_report_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "progress.json").write_bytes(content)
    assert read_report(tmp_path / "progress.json") == {}
