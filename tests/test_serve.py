"""What a server answers to mistakes: the reason, a 4xx, and nothing changed."""

import hashlib
import json
import platform
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from serving import APP, Server, random_weights, serve
from test_datastore import write_dicom, write_label

from ftmtl import __version__
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
        {"learning_rate": "fast"},
        {"stages": ["everything"]},
        {"stages": [["heads"]]},
        {"publish": "now"},
        {"device": "tpu"},
        {"bundle_path": "/tmp"},
    ],
)
def test_a_training_that_makes_no_sense(server: Server, settings: dict[str, Any]) -> None:
    refused(server.post("/train/ft_mtl_net", json=settings), 400)


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


# The failure battery: what MONAI Label's own server answers with 500, or does outside ------------

LABEL = "/datastore/label"


def label(server: Server, content: bytes, query: str, **data: str) -> requests.Response:
    files = {"label": ("label.seg.nrrd", content)}
    return server.put(f"{LABEL}?{query}", files=files, data=data)


def upload(server: Server, content: bytes, name: str = "x.dcm") -> requests.Response:
    return server.post(MODEL, files={"file": (name, content)})


def add(server: Server, content: bytes, query: str) -> requests.Response:
    return server.put(f"/datastore/image?{query}", files={"file": ("x.dcm", content)})


def on_a_full_disk(
    server: Server, ask: Callable[[Server], requests.Response], room: int
) -> requests.Response:
    """The answer where no file of the server can grow beyond so many bytes."""
    process = psutil.Process(server.process.pid)
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (room, before[1]))
    try:
        return ask(server)
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, before)


def body(server: Server, path: str, text: str) -> requests.Response:
    return server.post(path, data=text, headers={"Content-Type": "application/json"})


def a_label(server: Server) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        image = ImageInfo(id=IMAGE, width=96, height=128)
        return write_label(Path(folder) / "x.seg.nrrd", image, "benign").read_bytes()


def a_film(server: Server) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write_dicom(Path(folder) / "x.dcm", "1.2.840.4711").read_bytes()


Row = tuple[Callable[[Server], requests.Response], int]
BATTERY: dict[str, Row] = {
    "truncated DICOM": (lambda s: upload(s, a_film(s)[:-9000]), 422),
    "text as DICOM": (lambda s: upload(s, b"not a mammogram"), 422),
    "empty DICOM": (lambda s: upload(s, b""), 422),
    "noise as PNG": (lambda s: upload(s, bytes(range(256)) * 9, "x.png"), 422),
    "no image named": (lambda s: s.post(MODEL), 400),
    "unknown image": (lambda s: s.post(f"{MODEL}?image=nobody"), 404),
    "unknown session": (lambda s: s.post(f"{MODEL}?session_id={uuid.uuid1()}"), 404),
    "a folder as session": (lambda s: s.post(f"{MODEL}?session_id=../.."), 404),
    "deletes a folder as session": (lambda s: s.delete("/session/%2e%2e"), 404),
    "unknown model": (lambda s: s.post(f"/infer/other?image={IMAGE}"), 404),
    "unknown strategy": (lambda s: s.post("/activelearning/other", json={}), 404),
    "a list as strategy": (
        lambda s: s.post("/activelearning/first", json={"strategy": []}), 404),
    "a list as model": (
        lambda s: s.post(f"{MODEL}?image={IMAGE}", data={"params": '{"model": []}'}), 404),
    "NaN as request": (lambda s: body(s, "/activelearning/first", "NaN"), 422),
    "half a letter as request": (lambda s: body(s, "/train/ft_mtl_net", r'"\ud83d"'), 422),
    "NaN as batch": (lambda s: body(s, "/batch/infer/ft_mtl_net", "[NaN]"), 422),
    "a file as params": (
        lambda s: s.post(f"{MODEL}?image={IMAGE}", files={"params": ("x.json", b"{}")}), 422),
    "text as label": (lambda s: s.put(f"{LABEL}?image={IMAGE}", data={"label": "x"}), 422),
    "DICOM SEG of findings": (lambda s: s.post(f"{MODEL}?image={IMAGE}&output=dicom_seg"), 400),
    "a version of 5000 digits": (
        lambda s: s.get(f"{LABEL}?label={IMAGE}@{'9' * 5000}&tag=final"), 404),
    "an id longer than names can be": (lambda s: add(s, a_film(s), f"image={'é' * 120}"), 400),
    "bad JSON": (lambda s: s.post(f"{MODEL}?image={IMAGE}", data={"params": "{"}), 400),
    "bad device": (
        lambda s: s.post(f"{MODEL}?image={IMAGE}", data={"params": '{"device": "tpu"}'}), 400),
    "misspelt parameter": (
        lambda s: s.post(f"{MODEL}?image={IMAGE}", data={"params": '{"treshold": 0.2}'}), 400),
    "garbage as label": (lambda s: label(s, b"garbage", f"image={IMAGE}&tag=final"), 422),
    "empty label": (lambda s: label(s, b"", f"image={IMAGE}&tag=final"), 422),
    "label for nobody": (lambda s: label(s, a_label(s), "image=nobody"), 404),
    "params that are a list": (
        lambda s: label(s, a_label(s), f"image={IMAGE}", params="[1]"), 400),
    "tag with a path": (lambda s: label(s, a_label(s), f"image={IMAGE}&tag=../../x"), 400),
    "no label to learn from": (lambda s: s.post("/train/ft_mtl_net", json={}), 409),
    "training with a path": (
        lambda s: s.post("/train/ft_mtl_net", json={"name": "../../../x"}), 409),
    "training in the request": (lambda s: s.post("/train/ft_mtl_net?run_sync=true"), 400),
    "train every model": (lambda s: s.post("/train/", json={}), 405),
    "full disk under an upload": (
        lambda s: on_a_full_disk(s, lambda s: upload(s, a_film(s)), 1000), 507),
    "full disk under a session": (
        lambda s: on_a_full_disk(
            s, lambda s: s.put("/session/", files={"files": ("x.dcm", a_film(s))}), 1000),
        507),
    "full disk under an answer": (
        lambda s: on_a_full_disk(s, lambda s: s.post(f"{MODEL}?image={IMAGE}"), 100), 507),
    "full disk under a label": (
        lambda s: on_a_full_disk(s, lambda s: label(s, a_label(s), f"image={IMAGE}"), 100), 507),
    "absolute path": (lambda s: s.post(f"{MODEL}?image=/etc/passwd"), 404),
    "path upwards": (lambda s: s.post(f"{MODEL}?image=../weights.safetensors"), 404),
    "path in params": (
        lambda s: s.post(f"{MODEL}?image={IMAGE}", data={"params": '{"image": "/etc/passwd"}'}),
        404),
    "image upwards": (lambda s: add(s, a_film(s), "image=../evil"), 400),
    "deletes upwards": (lambda s: s.delete("/datastore/image?id=../weights.safetensors"), 404),
    "deletes a study": (lambda s: s.delete(f"/datastore/image?id={IMAGE}"), 403),
    "an archive as session": (
        lambda s: s.put("/session/?uncompress=true", files={"files": ("x.tar", b"")}), 400),
    "another site": (
        lambda s: requests.get(s.url + "/info/", headers={"Origin": "http://evil.example"}), 403),
    "another site's name (DNS rebinding)": (
        lambda s: requests.get(s.url + "/info/", headers={"Host": "evil.example:8000"}), 403),
    "reload": (lambda s: s.post("/reload"), 404),
    "weights over weights": (
        lambda s: s.put("/model/ft_mtl_net", files={"file": ("x.pt", b"bad")}), 405),
    "deletes the weights": (lambda s: s.delete("/model/ft_mtl_net"), 405),
    "all studies in a zip": (lambda s: s.get("/datastore/dataset"), 404),
    "logs": (lambda s: s.get("/logs/"), 404),
    "graphics card": (lambda s: s.get("/logs/gpu"), 404),
    "whole slides": (lambda s: s.post("/infer/wsi/ft_mtl_net", json={}), 404),
    "proxy": (lambda s: s.get("/proxy/dicom/x"), 404),
    "OHIF": (lambda s: s.get("/ohif/"), 404),
    "documentation": (lambda s: s.get("/docs"), 404),
}


def everything_outside(folder: Path) -> dict[str, tuple[int, int]]:
    """Each file but the workspace's and the log, with size and time."""
    roots = (folder, APP)
    files = (file for root in roots for file in root.rglob("*") if file.is_file())
    passed_over = (folder / "workspace", *folder.glob("server-*.log"))
    return {
        str(file): (file.stat().st_size, file.stat().st_mtime_ns)
        for file in files
        if "__pycache__" not in file.parts and not any(map(file.is_relative_to, passed_over))
    }


@pytest.mark.parametrize("case", BATTERY)
def test_the_failure_battery(server: Server, folder: Path, case: str) -> None:
    ask, status = BATTERY[case]
    before = everything_outside(folder)
    versions = list((folder / "workspace" / "models").rglob("*"))
    detail = refused(ask(server), status)
    assert not detail.startswith(("[", "{")), "it is no sentence"
    assert everything_outside(folder) == before
    assert list((folder / "workspace" / "models").rglob("*")) == versions
    assert not list((folder / "workspace" / "labels").rglob("*.json")), "a label was kept"
    tmp = folder / "workspace" / "tmp"
    left = [f for f in (*tmp.iterdir(), *(tmp / "sessions").rglob("*")) if f.is_file()]
    assert not left, "what was uploaded, or was to be sent, is still there"
    info = server.get("/info/")
    assert info.status_code == 200 and info.json()["models"]["ft_mtl_net"]["version"] == "1"


def test_a_check_sum_is_compared(server: Server, folder: Path) -> None:
    content = (folder / "studies" / "one.dcm").read_bytes()
    sums = {name: hashlib.new(name, content).hexdigest() for name in ("sha256", "sha512", "md5")}
    asked = {
        f"SHA256:{sums['sha256']}": 200, sums["sha256"]: 200, f"SHA512:{sums['sha512']}": 200,
        f"MD5:{sums['md5']}": 200, f"SHA256:{sums['md5']}": 404, "CRC32:0": 400,
    }  # fmt: skip
    for check_sum, status in asked.items():
        query = {"image": IMAGE, "check_sum": check_sum}
        reply = requests.head(f"{server.url}/datastore/image", params=query, timeout=60)
        assert reply.status_code == status, check_sum


def test_an_image_that_cannot_be_read_does_not_come_again_and_again(
    server: Server, folder: Path
) -> None:
    damaged = "1.2.840.60"
    file = write_dicom(folder / "0.dcm", damaged)
    file.write_bytes(file.read_bytes()[:-9000])
    place = file.rename(folder / "studies" / "0.dcm")

    def following() -> Any:
        return server.post("/activelearning/first", json={"client_id": "ann"}).json()["id"]

    try:
        for _ in range(20):  # until the list has noticed
            if following() == damaged:
                break
            time.sleep(0.5)
        assert server.post(f"{MODEL}?image={damaged}").status_code == 422
        assert following() not in (damaged, None)
    finally:
        place.unlink()


def test_after_all_that_it_reads_and_keeps_a_label(server: Server) -> None:
    assert server.post(f"{MODEL}?image={IMAGE}&output=json").status_code == 200
    assert server.post("/activelearning/first", json={}).json()["id"]
    reply = label(server, a_label(server), f"image={IMAGE}&tag=final")
    assert reply.status_code == 200 and reply.json()["version"] == 1
    assert server.delete(f"{LABEL}?id={IMAGE}&tag=final").status_code == 200


def test_what_it_says_of_itself(server: Server, folder: Path) -> None:
    info = server.get("/info/").json()
    assert info["version"] == info["software"]["ftmtl"] == __version__
    assert info["software"]["python"] == platform.python_version()
    assert info["software"].keys() >= {"torch", "monai", "monailabel"}
    assert info["device"]["type"] == "cpu"
    images = len(server.get("/datastore/", output="all").json()["objects"])
    assert (info["datastore"]["total"], info["datastore"]["completed"]) == (images, 0)
    session = server.put("/session/", files={"files": ("JANE DOE.dcm", a_film(server))})
    assert str(folder) not in session.text and "JANE" not in session.text
    name = session.json()["session_id"]
    assert server.post(f"{MODEL}?session_id={name}&output=json").status_code == 200
    assert server.delete(f"/session/{name}").status_code == 200

    before = series(server)
    server.post(f"{MODEL}?image=JANE^DOE")
    after = series(server)
    key = 'ftmtl_requests_total{method="POST",route="/infer/{model}",status="404"}'
    assert after[key] == before.get(key, 0) + 1
    # Counted again: a look for new files may have left the torn one out meanwhile.
    listed = len(server.get("/datastore/", output="all").json()["objects"])
    assert after["ftmtl_images"] == listed >= 2
    assert after['ftmtl_model_in_service{model="ft_mtl_net",version="1"}'] == 1
    assert after['ftmtl_training{model="ft_mtl_net"}'] == 0

    rows = [json.loads(line) for line in server.log.read_text().splitlines() if line[:1] == "{"]
    assert all(row.keys() >= {"time", "level", "message"} for row in rows)
    requests_made = [row for row in rows if row["message"] == "request"]
    last = [row for row in requests_made if row["route"] == "/infer/{model}"][-1]
    assert (last["method"], last["status"]) == ("POST", 404) and last["seconds"] > 0
    assert "JANE" not in server.log.read_text()


def series(server: Server) -> dict[str, float]:
    """The Prometheus page, by its own parser."""
    families = text_string_to_metric_families(server.get("/metrics").text)
    return {
        f"{s.name}{{{','.join(f'{k}={chr(34)}{v}{chr(34)}' for k, v in sorted(s.labels.items()))}}}"
        if s.labels
        else s.name: s.value
        for family in families
        for s in family.samples
    }


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


def test_who_is_slow_with_the_headers_is_hung_up_on(server: Server) -> None:
    """The time limit is that of each request, not of a connection, which may be a reader's."""
    host, port = server.url.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(100)]
    for connection in slow[1:]:
        connection.sendall(b"GET /info/ HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    with socket.create_connection((host, int(port))) as patient:
        for connection in slow[1:3]:
            patient.sendall(b"GET /versions/ft_mtl_net HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            connection.sendall(b"X")  # a byte now and then buys no time
            time.sleep(6)
            patient.sendall(b"\r\n")
            patient.settimeout(60)
            reply = patient.recv(65536)
            assert reply.startswith(b"HTTP/1.1 200")
            while not reply.endswith(b"]"):
                reply += patient.recv(65536)
    for connection in slow:
        connection.settimeout(60)
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")
        assert connection.recv(4096) == b""
        connection.close()


def test_new_files_are_picked_up(server: Server, folder: Path) -> None:
    write_dicom(folder / "late.dcm", "1.2.840.77")
    shutil.move(folder / "late.dcm", folder / "studies" / "late.dcm")
    reply = server.post(f"{MODEL}?image=1.2.840.77&output=json")
    if reply.status_code == 404:  # the list was looked at a moment ago
        threading.Event().wait(3)
        reply = server.post(f"{MODEL}?image=1.2.840.77&output=json")
    assert reply.status_code == 200, reply.text
