"""Nothing that was acknowledged is lost: kills, two writers at once, a full disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
from serving import Server, serve
from test_datastore import write_dicom, write_label

from ftmtl.findings import ImageInfo
from monailabel_app.lib.datastore import MammogramStore

IMAGES = ("1.2.840.1", "1.2.840.2", "1.2.840.3")


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    for number, image in enumerate(IMAGES):
        write_dicom(tmp_path / "studies" / f"{number}.dcm", image, patient=f"woman {number}")
    return tmp_path / "studies"


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    """A label map, which names no image."""
    label = tmp_path / "label.nrrd"
    pixels = np.zeros((96, 128, 1), np.uint8)
    pixels[20:40, 30:60] = 2
    nrrd.write(str(label), pixels)
    return label


def under_fire(what: str, studies: Path, workspace: Path, label: Path, times: int) -> str:
    workspace.mkdir()
    program = Path(__file__).with_name("store_under_fire.py")
    command = [sys.executable, program, what, studies, workspace, label, times]
    environment = {**os.environ, "PYTHONPATH": str(program.parent.parent)}
    done = subprocess.run(
        [str(part) for part in command], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_200_kills_lose_no_acknowledged_label(tmp_path: Path, studies: Path, sent: Path) -> None:
    workspace = tmp_path / "workspace"
    told = [line.split() for line in under_fire("kill", studies, workspace, sent, 200).splitlines()]
    assert len(told) >= 200
    assert len(set(map(tuple, told))) == len(told), "a version was given twice"
    store = MammogramStore(studies, workspace)
    for image, version in told:
        record = json.loads(
            (workspace / "labels" / image / "final" / f"{int(version):04d}.json").read_text()
        )
        assert record["image"]["id"] == image
        source = workspace / "labels" / image / "final" / record["source"]
        assert source.read_bytes() == sent.read_bytes()
        assert Path(store.get_label_uri(f"{image}@{version}", "final")).is_file()
    for image in IMAGES:
        newest = max(int(version) for name, version in told if name == image)
        assert store.get_label_info(image, "final")["current"] >= newest
    assert len(store.sides.all()) == 3


def test_two_processes_keep_60_and_60(tmp_path: Path, studies: Path, sent: Path) -> None:
    workspace = tmp_path / "workspace"
    under_fire("share", studies, workspace, sent, 60)
    store = MammogramStore(studies, workspace)
    versions = store.get_label_info(IMAGES[0], "final")["versions"]
    assert [v["version"] for v in versions] == list(range(1, 121))
    assert Counter(v["annotator"] for v in versions) == {"ann": 60, "bob": 60}
    info = store.get_image_info(IMAGES[0])
    assert all(info[f"{name} {n}"] == n for name in ("ann", "bob") for n in range(60))
    assert len(store.sides.all()) == 1 + 120


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 300 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here ({done.stderr.strip()})")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def put(server: Server, label: Path, image: str = IMAGES[0], **params: Any) -> Any:
    with label.open("rb") as stream:
        return server.put(
            f"/datastore/label?image={image}&tag=final",
            files={"label": (label.name, stream)},
            data={"params": json.dumps(params)},
        )


def test_a_full_disk_is_refused_and_nothing_is_lost(
    tmp_path: Path, studies: Path, small_disk: Path, untrained: Path
) -> None:
    workspace = small_disk / "workspace"
    label = write_label(
        tmp_path / "x.seg.nrrd", ImageInfo(id=IMAGES[0], width=96, height=128), "benign"
    )
    ballast = small_disk / "ballast"
    with serve(tmp_path, studies, workspace=workspace, weights=untrained) as server:
        assert put(server, label).json()["version"] == 1
        fill(ballast)
        refused = [put(server, label) for _ in range(3)]
        assert [reply.status_code for reply in refused] == [507] * 3, refused[0].text
        assert "full" in refused[0].json()["detail"]
        noted = server.put(f"/datastore/image/info?image={IMAGES[0]}", data={"info": '{"room": 1}'})
        assert noted.status_code == 507
        assert server.get("/info/").json()["datastore"]["completed"] == 1
        versions = server.get("/datastore/label/info", label=IMAGES[0], tag="final").json()
        assert [v["version"] for v in versions["versions"]] == [1]
    # It starts on the full disk, and takes labels again when there is room.
    with serve(tmp_path, studies, workspace=workspace, weights=untrained) as server:
        kept = server.get("/datastore/label", label=IMAGES[0], tag="final")
        assert kept.content == label.read_bytes()
        ballast.unlink()
        assert put(server, label, based_on=1).json()["version"] == 2


def fill(file: Path) -> None:
    """Takes every byte that the disk has left."""
    with file.open("wb", buffering=0) as stream:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    stream.write(b"x" * size)
            except OSError:
                continue
