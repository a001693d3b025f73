"""The whole loop, on real mammograms, through a real server: read, correct, learn, read again."""

import io
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import nrrd
import numpy as np
import psutil
import pytest
import requests
from monailabel.client import MONAILabelClient
from serving import Server, random_weights, serve

from ftmtl.findings import SCHEMA_FILE, Finding, Findings, ImageInfo, Verdict
from ftmtl.label_file import read_label_file, write_label_file
from ftmtl.samples import prepare_samples
from ftmtl.veto import of_image

MODEL = "ft_mtl_net"
SCHEMA = json.loads(SCHEMA_FILE.read_text())
LONG = {"max_epochs": 1000, "steps": 1000, "publish": "always"}


class Clinic:
    """The studies, the workspace and the server that runs on them now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.studies = folder / "studies"
        self.workspace = folder / "workspace"
        self.weights = random_weights(folder / "weights.safetensors")
        prepare_samples(self.studies)

    def serve(self, *, stock: bool = False) -> Any:
        return serve(
            self.folder, self.studies, workspace=self.workspace, weights=self.weights, stock=stock,
            by_command=True,
        )  # fmt: skip


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    return Clinic(tmp_path_factory.mktemp("clinic"))


@pytest.fixture(scope="module")
def server(clinic: Clinic) -> Iterator[Server]:
    with clinic.serve() as running:
        yield running


@pytest.fixture
def client(server: Server, tmp_path: Path) -> MONAILabelClient:
    return MONAILabelClient(server.url, tmpdir=str(tmp_path), client_id="ann")


def read(server: Server, image: str, **params: Any) -> Findings:
    """The findings of an image: valid, and sensible in themselves."""
    reply = server.post(
        f"/infer/{MODEL}?image={image}&output=json", data={"params": json.dumps(params)}
    )
    assert reply.status_code == 200, reply.text
    jsonschema.validate(reply.json(), SCHEMA)
    findings = Findings.from_json(reply.json())
    assert findings.image.id == image
    for finding in findings.findings:
        x, y, width, height = finding.bbox
        assert 0 <= x < x + width <= findings.image.width + 0.01
        assert 0 <= y < y + height <= findings.image.height + 0.01
        assert finding.scores is not None and sum(finding.scores.values()) == pytest.approx(1)
        assert finding.status == "proposed" and finding.source == "model"
        mask = finding.mask()
        if mask is not None:
            rows, columns = np.nonzero(mask)
            assert x - 1 <= columns.min() and columns.max() < x + width + 1
            assert y - 1 <= rows.min() and rows.max() < y + height + 1
    scores = [1 - f.scores["background"] for f in findings.findings if f.scores]
    if scores and not params:  # what is below the threshold may be worse, and never weighs more
        expected = of_image(scores, [f.malignancy or 0 for f in findings.findings])
        assert findings.verdict.malignancy >= expected - 1e-6
    if findings.verdict.label == "no finding":
        assert all(score <= 0.5 for score in scores)
    else:
        likely = [f for f, score in zip(findings.findings, scores, strict=True) if score > 0.5]
        malignant = findings.verdict.malignancy > 0.5 or any(f.label == "malignant" for f in likely)
        assert malignant <= (findings.verdict.label == "malignant")
    return findings


def images(server: Server) -> list[str]:
    return list(server.get("/datastore/", output="all").json()["objects"])


def corrected(findings: Findings) -> Findings:
    """As a radiologist would: one box moved and its class changed, one accepted, the rest out."""
    first, *others = findings.findings
    x, y, width, height = first.bbox
    moved = replace(
        first,
        label="benign" if first.label == "malignant" else "malignant",
        bbox=(x, y, width * 0.8, height * 0.9),
        segmentation=None,
        mask_source="none",
        area_mm2=None,
        diameter_mm=None,
        status="edited",
        source="annotator",
    )
    rest = [replace(f, status="accepted" if n == 0 else "rejected") for n, f in enumerate(others)]
    after: list[Finding] = [moved, *rest]
    return replace(findings, findings=tuple(after), verdict=Verdict.of(after, how="by hand"))


def wait_for_training(server: Server, client: MONAILabelClient, state: str = "DONE") -> Any:
    for _ in range(2400):
        status = client.train_status()
        if status["status"] not in ("SUBMITTED", "RUNNING"):
            assert status["status"] == state, "\n".join(status["details"])
            return status
        time.sleep(0.25)
    raise AssertionError(f"{client.train_status()}\n{server.log.read_text()[-3000:]}")


def wait_until_it_learns(server: Server) -> dict[str, Any]:
    """The first report of a training's own process."""
    for _ in range(2400):
        stats: dict[str, Any] = server.get("/info/").json()["train_stats"][MODEL]
        if stats.get("state") == "running" and stats.get("losses"):
            return stats
        time.sleep(0.25)
    raise AssertionError(server.log.read_text()[-3000:])


def test_the_work_list(server: Server, client: MONAILabelClient, clinic: Clinic) -> None:
    info = client.info()
    assert info["models"][MODEL]["version"] == "1"
    assert info["labels"] == ["benign", "malignant"]
    objects = client.datastore()["objects"]
    assert len(objects) == 8
    shown = [o["image"]["info"] for o in objects.values()]
    assert {(i["laterality"], i["view"]) for i in shown} == {
        (side, view) for side in "LR" for view in ("CC", "MLO")
    }
    assert len({i["patient_key"] for i in shown}) == 2, "two women"
    assert "P_00173" not in json.dumps(objects)
    sample = client.next_sample("first", {})
    assert sample["id"] in objects and sample["reason"]
    assert str(clinic.studies) not in json.dumps(sample)
    other = MONAILabelClient(server.url, client_id="bob").next_sample("first", {})
    assert other["id"] != sample["id"], "two annotators do not get the same image"


def test_read_correct_learn_and_read_again(
    server: Server, client: MONAILabelClient, clinic: Clinic, tmp_path: Path
) -> None:
    first, second = images(server)[:2]
    before = read(server, first)
    assert before.findings, "the test's weights find something to correct"
    assert before.model is not None and before.model.version == "1"
    box = list(before.findings[0].bbox)
    (asked,) = read(server, first, boxes=[box]).findings
    assert list(asked.bbox) == pytest.approx(box, abs=0.01)
    assert len(read(server, first, threshold=0.0, max_findings=1).findings) == 1

    # The same by MONAI Label's client, with a file that says the same.
    file, document = client.infer(MODEL, first, {})
    assert Findings.from_json(document) == before
    assert read_label_file(Path(file), image=before.image) == before

    # Our label file.
    truth = corrected(before)
    sent = tmp_path / "label.seg.nrrd"
    write_label_file(sent, truth)
    params = {"submission_id": "one", "based_on": 0}
    reply = client.save_label(first, str(sent), "final", dict(params))
    assert (reply["label"], reply["version"]) == (first, 1)
    assert client.save_label(first, str(sent), "final", dict(params))["version"] == 1
    kept = client.download_label(first, "final")
    assert Path(kept).read_bytes() == sent.read_bytes()
    assert read_label_file(Path(kept), image=before.image).findings == truth.findings
    stale = server.put(
        f"/datastore/label?image={first}&tag=final",
        files={"label": ("x.seg.nrrd", sent.read_bytes())},
        data={"params": json.dumps({"based_on": 0, "client_id": "bob"})},
    )
    assert stale.status_code == 409 and stale.json()["detail"]["kept_as"] == 2

    # The stock plugin's label map, there and back.
    file, document = client.infer(MODEL, second, {"result_extension": ".nrrd"})
    pixels, _ = nrrd.read(file)
    info = document["image"]
    assert pixels.shape == (info["width"], info["height"], 1)
    assert set(np.unique(pixels)) <= {0, 1, 2}
    client.save_label(second, file, "original", {})  # as it came
    info_there = ImageInfo(**{**info, "spacing_mm": None})
    same = read_label_file(Path(client.download_label(second, "original")), image=info_there)
    assert pixels.any() and {f.source for f in same.findings} == {"model"}
    drawn = np.zeros_like(pixels)
    drawn[300:420, 500:640] = 1
    stock = tmp_path / "stock.nrrd"
    nrrd.write(str(stock), drawn)
    named = {"label_info": [{"name": "malignant", "idx": 1}]}
    assert client.save_label(second, str(stock), "final", named)["version"] == 1
    listed = client.datastore()["objects"][second]
    assert listed["image"]["info"]["state"] == "labelled"
    assert listed["labels"]["final"]["info"]["findings"] == {"malignant": 1}
    seen = read_label_file(
        Path(client.download_label(second, "final")), image=info_there
    )
    assert [(f.label, f.bbox) for f in seen.findings] == [("malignant", (300, 500, 120, 140))]

    # Learning, while others are answered.
    settings = {"publish": "always", "max_epochs": 1, "steps": 2, "learning_rate": 0.01}
    client.train_start(MODEL, dict(settings))
    again = server.post(f"/train/{MODEL}", json=settings)
    assert again.status_code == 429, "a second training was accepted"
    wait_for_training(server, client)
    info = client.info()
    stats = info["train_stats"][MODEL]
    assert (stats["state"], stats["published"], stats["version"]) == ("done", True, "2")
    assert stats["verdict"]["word"] == "not judged"
    assert stats["images"] == 2 and stats["masses"] >= 2 and stats["losses"]

    # The new weights are at work, and say so.
    after = read(server, first)
    assert after.model is not None and after.model.version == "2"
    assert after.model.sha256 == stats["sha256"] != before.model.sha256
    assert server.get(f"/model/info/{MODEL}").json()["checksum"] == f"SHA256:{stats['sha256']}"
    assert info["models"][MODEL]["version"] == "2"
    assert [v["version"] for v in info["models"][MODEL]["versions"]] == ["1", "2"]
    assert after.findings != before.findings

    # One request brings the old ones back.
    assert server.post(f"/versions/{MODEL}/1").status_code == 200
    assert read(server, first) == before


def test_a_training_can_be_stopped(server: Server, client: MONAILabelClient) -> None:
    in_service = client.info()["models"][MODEL]["version"]
    client.train_start(MODEL, dict(LONG))
    stats = wait_until_it_learns(server)
    assert stats["stage"] == "heads" and stats["epochs"] == 1000 and stats["seconds_left"] > 0
    for queue in ("", "?enqueue=true"):
        second = server.post(f"/train/{MODEL}{queue}", json={})
        assert second.status_code == 429
        assert "heads, epoch 1 of 1000, about" in second.json()["detail"]
    began = time.monotonic()
    server.get("/info/").raise_for_status()
    assert time.monotonic() - began < 5
    processes = server.children()
    assert processes
    client.train_stop()
    psutil.wait_procs(processes, timeout=30)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)
    wait_for_training(server, client, "STOPPED")
    info = client.info()
    assert info["train_stats"][MODEL]["state"] == "stopped"
    assert info["models"][MODEL]["version"] == in_service


@pytest.mark.soak
def test_killing_the_server_loses_no_label_and_leaves_no_orphan(
    server: Server, client: MONAILabelClient, clinic: Clinic, tmp_path: Path
) -> None:
    image = images(server)[2]
    info = read(server, image).image
    finding = Finding(
        id="mine", label="benign", bbox=(10, 10, 50, 60), source="annotator", status="added"
    )
    verdict = Verdict.of([finding], how="by hand")
    sent = tmp_path / "label.seg.nrrd"
    write_label_file(sent, Findings(image=info, model=None, findings=(finding,), verdict=verdict))
    client.train_start(MODEL, dict(LONG))
    wait_until_it_learns(server)
    trainers = server.children()
    acknowledged: list[int] = []

    def submit() -> None:
        while True:
            try:
                acknowledged.append(client.save_label(image, str(sent), "final", {})["version"])
            except Exception:
                return

    annotator = threading.Thread(target=submit)
    annotator.start()
    while len(acknowledged) < 5:
        time.sleep(0.01)
    server.kill()
    annotator.join()
    _, alive = psutil.wait_procs(trainers, timeout=30)
    assert not alive, "the training went on without its server"
    assert not any(p.suffix == ".json" and not p.read_text() for p in clinic.workspace.rglob("*"))

    with clinic.serve() as restarted:
        reply = restarted.get("/datastore/label/info", label=image, tag="final").json()
        versions = [v["version"] for v in reply["versions"]]
        assert set(acknowledged) <= set(versions)
        assert reply["current"] == max(versions)
        kept = restarted.get("/datastore/label", label=image, tag="final").content
        assert kept == sent.read_bytes()
        stats = restarted.get("/info/").json()["train_stats"][MODEL]
        assert stats["state"] == "stopped"
        # SIGTERM, as `systemctl stop` sends it, leaves no orphan either.
        restarted.post(f"/train/{MODEL}", json=LONG).raise_for_status()
        wait_until_it_learns(restarted)
        trainers = restarted.children()
        assert trainers
        restarted.process.terminate()
        restarted.process.wait(60)
        _, alive = psutil.wait_procs(trainers, timeout=30)
        assert not alive, "the training went on without its server"

    with clinic.serve() as restarted:
        assert restarted.get("/info/").json()["train_stats"][MODEL]["state"] == "stopped"
        began = time.monotonic()
        read(restarted, image)
        first_reading = time.monotonic() - began
        began = time.monotonic()
        read(restarted, image)
        print(
            f"start {restarted.seconds_to_start:.1f} s, first reading {first_reading:.2f} s, "
            f"next {time.monotonic() - began:.2f} s, peak {restarted.peak_megabytes():.0f} MB"
        )
        assert restarted.peak_megabytes() < 3000
        # Nothing of a patient is said anywhere but in her image.
        # (The list of images holds paths, and these samples' names hold the id.)
        files = [restarted.log, server.log, *clinic.workspace.glob("[!i]*/**/*.json")]
        texts = [file.read_text() for file in files]
        assert all("P_00173" not in text and "P_00820" not in text for text in texts)


def test_monai_labels_own_server(clinic: Clinic, tmp_path: Path) -> None:
    with clinic.serve(stock=True) as stock:
        client = MONAILabelClient(stock.url, tmpdir=str(tmp_path), client_id="carol")
        image = images(stock)[3]
        findings = read(stock, image)
        _, document = client.infer(MODEL, image, {})
        assert Findings.from_json(document) == findings
        assert client.next_sample("random", {})["reason"]
        sent = tmp_path / "label.seg.nrrd"
        write_label_file(sent, corrected(findings))
        assert client.save_label(image, str(sent), "final", {})["version"] == 1
        assert Path(client.download_label(image, "final")).read_bytes() == sent.read_bytes()
        for path, status in (
            (f"/infer/{MODEL}?image=/etc/passwd", 404),
            (f"/infer/{MODEL}?image=../weights.safetensors", 404),
            ("/activelearning/none", 404),
        ):
            assert stock.post(path).status_code == status
        files = {"file": ("x.safetensors", io.BytesIO(b"bad weights"))}
        assert stock.put(f"/model/{MODEL}", files=files).status_code == 403
        requests.delete(f"{stock.url}/model/{MODEL}", timeout=60)
        assert read(stock, image) == findings
        weights = clinic.workspace / "models" / MODEL / "0001.safetensors"
        assert weights.read_bytes() == clinic.weights.read_bytes()
