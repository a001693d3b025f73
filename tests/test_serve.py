"""What a server answers to mistakes: the reason, a 4xx, and nothing changed."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from serving import Server, random_weights, serve
from test_datastore import write_dicom, write_label

from ftmtl.findings import ImageInfo

MODEL = "/infer/ft_mtl_net"
IMAGE = "1.2.840.1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    studies = folder / "studies"
    good = write_dicom(studies / "one.dcm", IMAGE)
    write_dicom(studies / "nested" / "two.dcm", "1.2.840.2")
    write_dicom(studies / "torn.dcm", "1.2.840.3")
    (studies / "text.dcm").write_text("not a mammogram")
    weights = random_weights(folder / "weights.safetensors")
    with serve(folder, studies, workspace=folder / "workspace", weights=weights) as running:
        assert running.get("/datastore/", output="all").json()["objects"].keys() >= {IMAGE}
        # Its header is whole, so it is in the list; then its pixels are damaged.
        torn = studies / "torn.dcm"
        torn.write_bytes(good.read_bytes()[:-9000])
        yield running


def refused(reply: requests.Response, status: int) -> str:
    assert reply.status_code == status, (reply.status_code, reply.text[:500])
    detail = reply.json()["detail"]
    assert detail
    assert "Traceback" not in reply.text
    assert "/workspace" not in reply.text and "/studies" not in reply.text
    return str(detail)


@pytest.mark.parametrize(
    "image", ["nobody", "/etc/passwd", "../one.dcm", "one.dcm", "", "1.2.840.1/../1.2.840.2"]
)
def test_an_image_that_is_not_listed_opens_nothing(server: Server, image: str) -> None:
    refused(server.post(f"{MODEL}?image={image}"), 404 if image else 400)
    params = {"params": json.dumps({"image": "/etc/passwd"})}
    refused(server.post(f"{MODEL}?image={IMAGE}", data=params), 404)


@pytest.mark.parametrize(
    "params",
    [
        "{",
        "[1]",
        '"x"',
        '{"boxes": [[1, 2, 3]]}',
        '{"boxes": []}',
        '{"boxes": [[10, 10, 0, 5]]}',
        '{"boxes": [[5000, 5000, 10, 10]]}',
        '{"boxes": [[1, 2, NaN, 3]]}',
        '{"threshold": 2}',
        '{"threshold": "high"}',
        '{"max_findings": 0}',
        '{"max_findings": true}',
        '{"device": "tpu"}',
        '{"result_extension": "../x"}',
    ],
)
def test_a_question_that_makes_no_sense(server: Server, params: str) -> None:
    refused(server.post(f"{MODEL}?image={IMAGE}", data={"params": params}), 400)


def test_files_that_are_no_mammograms(server: Server, folder: Path) -> None:
    listed = server.get("/datastore/", output="all").json()
    assert any("no image that is known" in row["reason"] for row in listed["left_out"])
    assert "text.dcm" not in json.dumps(listed), "a file's name may be a patient's"
    for content in (b"", b"no image", (folder / "studies" / "one.dcm").read_bytes()[:3000]):
        files = {"file": ("x.dcm", content)}
        refused(server.post(MODEL, files=files), 422)
        refused(server.put("/datastore/image?image=new", files=files), 422)
    image = (folder / "studies" / "one.dcm").read_bytes()
    reply = server.post(f"{MODEL}?output=json", files={"file": ("x.dcm", image)})
    assert reply.status_code == 200 and reply.json()["image"]["width"] == 96
    for _ in range(100):  # it is deleted after the reply
        left = [f for f in (folder / "workspace" / "tmp").iterdir() if f.is_file()]
        if not left:
            break
        threading.Event().wait(0.1)
    assert not left


def test_a_file_that_was_torn_since(server: Server) -> None:
    reply = server.post(f"{MODEL}?image=1.2.840.3")
    assert reply.status_code in (404, 422), reply.text  # 404 once the list has noticed


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("post", "/infer/other?image=1.2.840.1", 404),
        ("post", "/activelearning/other", 404),
        ("post", "/train/other", 404),
        ("post", "/versions/other/1", 404),
        ("post", "/versions/ft_mtl_net/9", 404),
        ("get", "/model/info/other", 404),
        ("get", "/datastore/image?image=nobody", 404),
        ("get", "/datastore/image/info?image=nobody", 404),
        ("get", "/datastore/label?label=1.2.840.1&tag=final", 404),
        ("get", "/datastore/label?label=1.2.840.1&tag=../x", 400),
        ("get", "/datastore/label/info?label=nobody&tag=final", 404),
        ("delete", "/datastore/label?id=1.2.840.1&tag=final", 404),
        ("delete", "/datastore/image?id=1.2.840.1", 403),
        ("get", "/session/..", 404),
        ("put", "/model/ft_mtl_net", 405),
        ("delete", "/model/ft_mtl_net", 405),
        ("post", "/reload", 404),
        ("get", "/logs/", 404),
        ("get", "/datastore/dataset", 404),
    ],
)
def test_what_is_not_there(server: Server, method: str, path: str, status: int) -> None:
    refused(getattr(server, method)(path), status)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_epochs": 0},
        {"steps": "many"},
        {"learning_rate": True},
        {"stages": ["everything"]},
        {"publish": "now"},
        {"device": "tpu"},
        {"bundle_path": "/tmp"},
    ],
)
def test_a_training_that_makes_no_sense(server: Server, settings: dict[str, Any]) -> None:
    refused(server.post("/train/ft_mtl_net", json=settings), 400)


def test_a_training_without_labels(server: Server) -> None:
    refused(server.post("/train/ft_mtl_net", json={}), 409)


def test_a_label_that_is_none(server: Server, folder: Path) -> None:
    other = ImageInfo(id=IMAGE, width=50, height=50)
    wrong = write_label(folder / "wrong.seg.nrrd", other, "benign").read_bytes()
    for content in (b"", b"garbage", wrong):
        files = {"label": ("label.seg.nrrd", content)}
        refused(server.put(f"/datastore/label?image={IMAGE}&tag=final", files=files), 422)
    image = ImageInfo(id=IMAGE, width=96, height=128)
    good = write_label(folder / "good.seg.nrrd", image, "benign").read_bytes()
    files = {"label": ("label.seg.nrrd", good)}
    refused(server.put("/datastore/label?image=nobody", files=files), 404)
    for tag in ("../../x", "a/b"):
        refused(server.put(f"/datastore/label?image={IMAGE}&tag={tag}", files=files), 400)
    for params in ("{", "[1]", '{"based_on": "x"}', '{"client_id": "a/b/../c<>"}'):
        sent = {"params": params}
        refused(server.put(f"/datastore/label?image={IMAGE}", files=files, data=sent), 400)
    assert server.get("/info/").json()["datastore"]["completed"] == 0
    assert not list((folder / "workspace" / "labels").rglob("*.nrrd"))
    outside = {p.name for p in folder.iterdir()} - {p.name for p in folder.glob("server-*.log")}
    known = {"studies", "workspace", "weights.safetensors", "wrong.seg.nrrd", "good.seg.nrrd"}
    assert outside == known


def test_another_site_is_kept_out(server: Server) -> None:
    evil = {"Origin": "http://evil.example"}
    reply = requests.get(f"{server.url}/info/", headers=evil, timeout=60)
    refused(reply, 403)
    assert "access-control-allow-origin" not in reply.headers
    own = {"Origin": server.url}
    assert requests.get(f"{server.url}/info/", headers=own, timeout=60).status_code == 200


def test_it_answers_while_the_model_runs(server: Server) -> None:
    replies: list[int] = []

    def ask() -> None:
        fresh = {"params": '{"fresh": true}'}  # not from what it has read before
        path = f"{MODEL}?image={IMAGE}&output=json"
        replies.append(server.post(path, data=fresh).status_code)

    readers = [threading.Thread(target=ask) for _ in range(6)]
    for reader in readers:
        reader.start()
    assert server.get("/info/").status_code == 200
    waiting = sum(reader.is_alive() for reader in readers)
    for reader in readers:
        reader.join()
    assert waiting > 0, "/info/ waited for the model"
    assert replies == [200] * 6


def test_new_files_are_picked_up(server: Server, folder: Path) -> None:
    write_dicom(folder / "late.dcm", "1.2.840.77")
    shutil.move(folder / "late.dcm", folder / "studies" / "late.dcm")
    reply = server.post(f"{MODEL}?image=1.2.840.77&output=json")
    if reply.status_code == 404:  # the list was looked at a moment ago
        threading.Event().wait(3)
        reply = server.post(f"{MODEL}?image=1.2.840.77&output=json")
    assert reply.status_code == 200, reply.text
