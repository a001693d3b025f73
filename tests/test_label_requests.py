"""Labels over HTTP, as the panel and MONAI Label's stock plugin send them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
from serving import Server, serve
from test_datastore import HEIGHT, WIDTH, write_dicom, write_label

from ftmtl.findings import ImageInfo
from ftmtl.label_file import read_label_file

IMAGES = [f"1.2.840.{number}" for number in range(1, 8)]  # the last is never labelled


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, untrained: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("labels")
    for image in IMAGES:
        write_dicom(folder / "studies" / f"{image}.dcm", image)
    studies, workspace = folder / "studies", folder / "workspace"
    with serve(folder, studies, workspace=workspace, weights=untrained) as running:
        yield running


def put(server: Server, image: str, file: Path, **params: Any) -> Any:
    with file.open("rb") as stream:
        return server.put(
            f"/datastore/label?image={image}&tag=final",
            files={"label": (file.name, stream)},
            data={"params": json.dumps(params)},
        )


def kept(server: Server, image: str, folder: Path) -> list[tuple[str, tuple[float, ...]]]:
    """Label and box of each finding in the label that stands."""
    reply = server.get("/datastore/label", label=image, tag="final")
    assert reply.status_code == 200, reply.text
    file = folder / "kept.seg.nrrd"
    file.write_bytes(reply.content)
    image_info = ImageInfo(id=image, width=WIDTH, height=HEIGHT)
    return [(f.label, f.bbox) for f in read_label_file(file, image=image_info).findings]


def versions(server: Server, image: str) -> Any:
    return server.get("/datastore/label/info", label=image, tag="final").json()


def test_the_stock_plugins_label_map(server: Server, tmp_path: Path) -> None:
    pixels = np.zeros((WIDTH, HEIGHT, 1), np.uint8)
    pixels[10:20, 30:50], pixels[40:45, 60:66] = 1, 2
    file = tmp_path / "map.nrrd"
    nrrd.write(str(file), pixels)
    # It numbers segments by their position, whatever they are called.
    named = [{"name": "malignant", "idx": 1}, {"name": "benign", "idx": 2}]
    assert put(server, IMAGES[0], file, label_info=named, client_id="ann").status_code == 200
    expected = [("malignant", (10, 30, 10, 20)), ("benign", (40, 60, 5, 6))]
    assert kept(server, IMAGES[0], tmp_path) == expected
    unnamed = [{"name": "cyst", "idx": 1}, {"name": "benign", "idx": 2}]
    reply = put(server, IMAGES[0], file, label_info=unnamed)
    assert reply.status_code == 422 and "cyst" in reply.json()["detail"]


def test_the_stock_plugins_overlapping_segments(server: Server, tmp_path: Path) -> None:
    layers = np.zeros((2, WIDTH, HEIGHT, 1), np.uint8)
    layers[0, 10:30, 30:50], layers[1, 20:40, 40:60] = 1, 1
    header: dict[str, Any] = {
        "kinds": ["list", "domain", "domain", "domain"],
        "space": "left-posterior-superior",
        "space directions": np.array([[np.nan] * 3, *np.eye(3).tolist()]),
        "space origin": [0, 0, 0],
    }
    for number, name in enumerate(("benign", "malignant")):
        header |= {
            f"Segment{number}_ID": f"Segment_{number + 1}",
            f"Segment{number}_Name": name,
            f"Segment{number}_Layer": str(number),
            f"Segment{number}_LabelValue": "1",
            f"Segment{number}_Extent": f"0 {WIDTH - 1} 0 {HEIGHT - 1} 0 0",
        }
    file = tmp_path / "overlap.seg.nrrd"
    nrrd.write(str(file), layers, header)
    named = [{"name": "benign", "idx": 1}, {"name": "malignant", "idx": 2}]
    assert put(server, IMAGES[1], file, label_info=named).status_code == 200
    expected = [("benign", (10, 30, 20, 20)), ("malignant", (20, 40, 20, 20))]
    assert kept(server, IMAGES[1], tmp_path) == expected
    reply = server.get("/datastore/label", label=IMAGES[1], tag="final")
    assert reply.content == file.read_bytes(), "it is kept as it came"


def test_what_the_model_says_replaces_no_readers_label(server: Server, tmp_path: Path) -> None:
    image = ImageInfo(id=IMAGES[5], width=WIDTH, height=HEIGHT)
    label = write_label(tmp_path / "x.seg.nrrd", image, "benign")
    assert put(server, image.id, label, client_id="ann").ok

    def infer(**params: Any) -> Any:
        place = f"/infer/ft_mtl_net?image={image.id}&output=image"
        return server.post(place, data={"params": json.dumps({"save_label": True, **params})})

    for tag in ("final", "mine", 3, {}):
        assert infer(label_tag=tag).status_code == 400, tag
    assert kept(server, image.id, tmp_path) == [("benign", (10, 20, 20, 20))]
    assert infer().ok and infer(label_tag="original").ok
    tags = server.get("/datastore/", output="all").json()["objects"][image.id]["labels"]
    assert {tag: row["info"]["version"] for tag, row in tags.items()} == {"final": 1, "original": 2}


def test_no_mass_here_is_a_label(server: Server, tmp_path: Path) -> None:
    image = ImageInfo(id=IMAGES[2], width=WIDTH, height=HEIGHT)
    before = server.get("/info/").json()["datastore"]["completed"]
    assert put(server, image.id, write_label(tmp_path / "none.seg.nrrd", image)).ok
    assert kept(server, image.id, tmp_path) == []
    assert server.get("/info/").json()["datastore"]["completed"] == before + 1


def test_versions_conflicts_and_withdrawal(server: Server, tmp_path: Path) -> None:
    image = ImageInfo(id=IMAGES[3], width=WIDTH, height=HEIGHT)
    files = {
        name: write_label(tmp_path / f"{name}.seg.nrrd", image, *labels)
        for name, labels in (("ann", ["benign"]), ("bob", ["malignant"]), ("cai", []))
    }
    first = put(
        server, image.id, files["ann"], client_id="ann", submission_id="a-1", based_on=0,
        comment="poor compression",
    )  # fmt: skip
    again = put(server, image.id, files["ann"], client_id="ann", submission_id="a-1", based_on=0)
    assert first.json() == again.json() and first.json()["version"] == 1
    stale = put(server, image.id, files["bob"], client_id="bob", based_on=0)
    assert stale.status_code == 409
    detail = stale.json()["detail"]
    assert (detail["kept_as"], detail["current"], detail["annotator"]) == (2, 1, "ann")
    assert put(server, image.id, files["cai"], client_id="cai", based_on=1).json()["version"] == 3
    for number, name in enumerate(files, 1):
        reply = server.get("/datastore/label", label=f"{image.id}@{number}", tag="final")
        assert reply.content == files[name].read_bytes()
    info = versions(server, image.id)
    assert info["current"] == 3
    assert [v["standing"] for v in info["versions"]] == ["label", "conflict", "label"]
    assert [v["annotator"] for v in info["versions"]] == ["ann", "bob", "cai"]
    assert info["versions"][0]["comment"] == "poor compression"
    assert all(v["time"] and len(v["sha256"]) == 64 for v in info["versions"])

    assert server.delete(f"/datastore/label?id={image.id}@1&tag=final").status_code == 409
    assert server.delete(f"/datastore/label?id={image.id}&tag=final").status_code == 200
    assert server.get("/datastore/label", label=image.id, tag="final").status_code == 404
    assert versions(server, image.id)["current"] == 0
    assert server.get("/datastore/label", label=f"{image.id}@3", tag="final").status_code == 200
    assert server.delete(f"/datastore/label?id={image.id}&tag=final").status_code == 404
    assert put(server, image.id, files["bob"], based_on=0).json()["version"] == 5


NAMES = ["label." + "x" * 300, "label", "Jane^Doe.Müller.seg.nrrd", "a\0b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_label_of_any_name(server: Server, tmp_path: Path, name: str) -> None:
    image = ImageInfo(id=IMAGES[4], width=WIDTH, height=HEIGHT)
    content = write_label(tmp_path / "x.seg.nrrd", image, "benign").read_bytes()
    reply = server.put(f"/datastore/label?image={image.id}", files={"label": (name, content)})
    assert reply.status_code in (200, 400), reply.text
    assert "Jane" not in reply.text + json.dumps(versions(server, image.id)) if reply.ok else True


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", r'"\ud83d"', r'[{"\udc00": 1}]'])
def test_what_no_reply_can_hold_is_refused(server: Server, tmp_path: Path, value: str) -> None:
    """One note of that kind, and the work list would be broken for everybody."""
    image = ImageInfo(id=IMAGES[4], width=WIDTH, height=HEIGHT)
    info = {"info": f'{{"quality": {value}}}'}
    assert server.put(f"/datastore/image/info?image={image.id}", data=info).status_code == 400
    label = write_label(tmp_path / "x.seg.nrrd", image, "benign")
    comment = {"params": f'{{"comment": {value}}}'}
    place = f"/datastore/label?image={image.id}&tag=final"
    reply = server.put(place, files={"label": ("x.seg.nrrd", label.read_bytes())}, data=comment)
    assert reply.status_code == 400
    body, kind = f'{{"client_id": "ann", "x": {value}}}', {"Content-Type": "application/json"}
    assert server.post("/activelearning/first", data=body, headers=kind).status_code == 400
    assert server.get("/datastore/", output="all").ok


def test_a_note_does_not_hide_which_image_was_chosen(server: Server) -> None:
    chosen = server.post("/activelearning/first", json={"client_id": "dee"}).json()
    note = {"id": "another", "reason": "mine", "held_until": 0, "room": 3}
    place = f"/datastore/image/info?image={chosen['id']}"
    assert server.put(place, data={"info": json.dumps(note)}).ok
    again = server.post("/activelearning/first", json={"client_id": "dee"}).json()
    assert (again["id"], again["reason"]) == (chosen["id"], chosen["reason"])
    assert again["held_until"] >= chosen["held_until"] and again["room"] == 3


def test_what_makes_no_sense_is_refused(server: Server, tmp_path: Path) -> None:
    image = ImageInfo(id=IMAGES[4], width=WIDTH, height=HEIGHT)
    file = write_label(tmp_path / "x.seg.nrrd", image, "benign")
    for params in ({"comment": 3}, {"comment": "x" * 3000}, {"to_pacs": "yes"}, {"to_pacs": True}):
        reply = put(server, image.id, file, **params)
        assert reply.status_code == 400, params
