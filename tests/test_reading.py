"""Reading through a real server: kept answers, what to read next, batches and scores."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests
from monailabel.client import MONAILabelClient
from requests_toolbelt import MultipartDecoder
from serving import Server, serve

from ftmtl.findings import Findings, Status
from ftmtl.label_file import read_label_file, write_label_file
from ftmtl.mammogram import read_mammogram
from ftmtl.other_view import RULE, with_other_view
from ftmtl.predict import Predictor
from ftmtl.samples import prepare_samples

MODEL = "ft_mtl_net"
FILM = "P_00820_L_CC.dcm"
TORN = "1.2.840.9.9"


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reading")
    prepare_samples(folder / "studies")
    # Its header is whole, so it is in the list; its pixels are not.
    film = pydicom.dcmread(folder / "studies" / FILM)
    film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = TORN
    film.save_as(folder / "studies" / "torn.dcm")
    content = bytearray((folder / "studies" / "torn.dcm").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200_000] = bytes(200_000)
    (folder / "studies" / "torn.dcm").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def start(clinic: Path, untrained: Path) -> Callable[[], Any]:
    return lambda: serve(clinic, clinic / "studies", workspace=clinic / "workspace",
                         weights=untrained)


@pytest.fixture(scope="module")
def server(start: Callable[[], Any]) -> Iterator[Server]:
    with start() as running:
        yield running


def ask(server: Server, query: str, files: Any = None, **params: Any) -> dict[str, Any]:
    reply = server.post(f"/infer/{MODEL}?output=json&{query}", files=files,
                        data={"params": json.dumps(params)})
    assert reply.status_code == 200, reply.text
    document: dict[str, Any] = reply.json()
    return document


def listed(server: Server) -> dict[str, dict[str, Any]]:
    objects = server.get("/datastore/", output="all").json()["objects"]
    return {image: row["image"]["info"] for image, row in objects.items()}


def whole(server: Server) -> list[str]:
    return [image for image in listed(server) if image != TORN]


def following(server: Server, strategy: str, client: str, **more: Any) -> dict[str, Any]:
    reply = server.post(f"/activelearning/{strategy}", json={"client_id": client, **more})
    assert reply.status_code == 200, reply.text
    document: dict[str, Any] = reply.json()
    return document


def wait_for(server: Server, what: Callable[[], Any]) -> Any:
    for _ in range(1200):
        if value := what():
            return value
        time.sleep(0.2)
    raise AssertionError(server.log.read_text()[-4000:])


def finished(server: Server, path: str) -> dict[str, Any]:
    def end() -> dict[str, Any] | None:
        job: dict[str, Any] = server.get(path).json()
        return job if job["status"] not in ("SUBMITTED", "RUNNING") else None

    job: dict[str, Any] = wait_for(server, end)
    return job


def test_a_batch_goes_past_what_cannot_be_read_and_knows_what_is_done(server: Server) -> None:
    assert server.get("/batch/infer").status_code == 404
    started = server.post(f"/batch/infer/{MODEL}")
    assert started.status_code == 200, started.text
    assert server.post(f"/batch/infer/{MODEL}").status_code == 429
    stopped = server.delete("/batch/infer").json()
    assert stopped["status"] == "STOPPED" and stopped["done"] < stopped["total"] == 9
    assert server.post(f"/batch/infer/{MODEL}?images=unlabeled", json={}).status_code == 200
    report = finished(server, "/batch/infer")
    assert (report["status"], report["done"], report["failed"]) == ("DONE", 9, 1)
    assert report["failures"][0]["image"] == TORN
    assert "cannot be read" in report["failures"][0]["reason"]
    server.post(f"/batch/infer/{MODEL}")
    again = finished(server, "/batch/infer")
    assert (again["done"], again["cached"], again["failed"]) == (9, 8, 1)
    states = {image: row["state"] for image, row in listed(server).items()}
    assert states.pop(TORN) == "new" and set(states.values()) == {"read"}
    for path, body, status in (("other", {}, 404), (f"{MODEL}?images=some", {}, 400),
                               (MODEL, {"device": "tpu"}, 400), (MODEL, [1], 422)):
        assert server.post(f"/batch/infer/{path}", json=body).status_code == status


def test_a_kept_answer_is_the_networks_own(server: Server) -> None:
    image = whole(server)[0]
    everything = ask(server, f"image={image}", fresh=True, threshold=0)
    scores = sorted(1 - f["scores"]["background"] for f in everything["findings"])
    assert len(scores) > 3
    for params in ({}, {"threshold": 0}, {"threshold": scores[len(scores) // 2]},
                   {"threshold": 0, "max_findings": 2}, {"device": "cpu"}):
        fresh = ask(server, f"image={image}", fresh=True, **params)
        assert ask(server, f"image={image}", **params) == fresh
    assert listed(server)[image]["malignancy"] == everything["verdict"]["malignancy"]


def test_uploads_and_sessions_are_the_same_image(server: Server, clinic: Path, tmp_path: Path
                                                 ) -> None:
    film = clinic / "studies" / FILM
    sent = ask(server, "", files={"file": ("film.dcm", film.read_bytes())}, threshold=0)
    in_list = ask(server, f"image={sent['image']['id']}", threshold=0)
    assert sent["image"] == in_list["image"]
    drawn = ("bbox", "segmentation", "diameter_mm")
    assert [[f[k] for k in drawn] for f in sent["findings"]] == [
        [f[k] for k in drawn] for f in in_list["findings"]]
    assert RULE in in_list["verdict"]["how"] and RULE not in sent["verdict"]["how"]
    assert sent == ask(server, "", files={"file": ("film.dcm", film.read_bytes())}, threshold=0,
                       fresh=True)
    client = MONAILabelClient(server.url, tmpdir=str(tmp_path))
    session = client.create_session(str(film))["session_id"]
    assert sent == ask(server, f"session_id={session}", threshold=0)
    boxes = [f["bbox"] for f in sent["findings"][:2]]
    described = ask(server, f"session_id={session}", boxes=boxes)
    assert [f["bbox"] for f in described["findings"]] == boxes
    client.remove_session(session)
    assert server.post(f"/infer/{MODEL}?session_id={session}").status_code == 404


def test_an_image_hears_its_other_view_wherever_it_is_asked_about(
    server: Server, clinic: Path, untrained: Path
) -> None:
    """L CC hears L MLO; L MLO hears L CC, and passes over the torn film of that view."""
    predictor = Predictor.load(untrained, device="cpu")
    films = {view: read_mammogram(clinic / "studies" / f"P_00820_L_{view}.dcm")
             for view in ("CC", "MLO")}
    read = {view: predictor.read(film) for view, film in films.items()}
    for view, other in (("CC", "MLO"), ("MLO", "CC")):
        image = films[view].image_id
        said = Findings.from_json(ask(server, f"image={image}", threshold=0))
        heard = with_other_view(read[view], [read[other]])
        expected = predictor.findings(heard, said.image, threshold=0)
        assert (said.findings, said.verdict) == (expected.findings, expected.verdict)
        alone = predictor.findings(read[view], said.image, threshold=0)
        assert said.verdict.malignancy != alone.verdict.malignancy
        assert listed(server)[image]["malignancy"] == said.verdict.malignancy
        boxes = [list(finding.bbox) for finding in said.findings[:3]]
        answered = Findings.from_json(ask(server, f"image={image}", boxes=boxes))
        described = predictor(films[view], boxes=boxes, others=[read[other]])
        assert answered.findings == described.findings
        assert [f.scores for f in answered.findings] != [
            f.scores for f in predictor(films[view], boxes=boxes).findings]


def test_a_file_is_a_copy_and_a_damaged_reading_is_made_again(server: Server, clinic: Path,
                                                              tmp_path: Path) -> None:
    image = whole(server)[1]
    before = ask(server, f"image={image}", threshold=0)
    findings = Findings.from_json(before)
    for readings in (clinic / "workspace" / "readings").glob("*/*.npz"):
        readings.write_bytes(readings.read_bytes()[:-100])
    for _ in range(2):
        reply = server.post(f"/infer/{MODEL}?image={image}&output=all",
                            data={"params": json.dumps({"threshold": 0})})
        parts = MultipartDecoder.from_response(reply).parts
        assert json.loads(parts[0].content) == before
        (tmp_path / "label.seg.nrrd").write_bytes(parts[1].content)
        assert read_label_file(tmp_path / "label.seg.nrrd", image=findings.image) == findings


def test_the_table_fills_in_idle_time_and_every_strategy_explains_itself(server: Server) -> None:
    figure = {"uncertainty": "bits", "disagreement": "mirrored", "diversity": "cosine",
              "mixed": "mean of its ranks", "suspicious": "malignancy", "random": "chance",
              "first": "first image"}

    def all_is_known() -> bool:
        # For both: what cat holds is not free for ann, so that two disagreements must be known.
        compared = all("not known" not in following(server, "disagreement", name)["reason"]
                       for name in ("cat", "ann"))
        rows = listed(server)
        return compared and all(rows[i]["malignancy"] is not None for i in rows if i != TORN)

    wait_for(server, all_is_known)
    verdicts = listed(server)
    for strategy, word in figure.items():
        reply = following(server, strategy, "ann")
        assert word in reply["reason"], reply
        assert reply["strategy"] == strategy and reply["id"] in verdicts
        assert reply["held_until"] > time.time() + 1700 and "path" not in reply
    top = following(server, "suspicious", "cat")["id"]
    # Which one ann holds depends on how far the table was filled when she asked.
    free = [v["malignancy"] or 0 for image, v in listed(server).items() if image != reply["id"]]
    assert listed(server)[top]["malignancy"] == max(free)


def test_two_annotators_never_hold_one_image(server: Server) -> None:
    ann = following(server, "suspicious", "ann")["id"]
    bob = following(server, "suspicious", "bob")["id"]
    assert ann != bob
    states = {image: row["state"] for image, row in listed(server).items()}
    assert states[ann] == states[bob] == "held"
    assert following(server, "suspicious", "ann")["id"] == ann  # hers, again
    other = following(server, "suspicious", "ann", without=[ann])["id"]
    assert other not in (ann, bob), "she has that one in hand"
    everything = list(listed(server))
    assert "id" not in following(server, "first", "ann", without=everything)
    for wrong in (ann, [1], {}):
        refused = server.post("/activelearning/first", json={"without": wrong})
        assert refused.status_code == 400 and "without" in refused.text
    hers = following(server, "same_patient", "ann", after=ann)
    assert hers["id"] not in (ann, bob)
    assert listed(server)[hers["id"]]["patient_key"] == listed(server)[ann]["patient_key"]
    assert listed(server)[ann]["state"] == "read"  # she went on
    assert server.post("/activelearning/same_patient", json={}).status_code == 400
    unknown = {"after": "nobody"}
    assert server.post("/activelearning/same_patient", json=unknown).status_code == 404


def test_an_image_that_a_reader_opened_is_given_to_nobody_else(server: Server) -> None:
    free = [image for image, row in listed(server).items() if row["state"] == "read"]
    opened = free[0]
    ask(server, f"image={opened}")
    assert listed(server)[opened]["state"] == "read", "nobody said who asks"
    ask(server, f"image={opened}", client_id="zoe")
    row = listed(server)[opened]
    assert (row["state"], row["held_by"]) == ("held", "zoe")
    ask(server, f"image={opened}", client_id="yan")
    assert listed(server)[opened]["held_by"] == "zoe", "who came first"
    others = [image for image in listed(server) if image not in free]
    assert following(server, "first", "yan", without=others)["id"] != opened
    assert following(server, "first", "zoe", without=[i for i in listed(server) if i != opened]
                     )["id"] == opened
    ask(server, f"image={free[-1]}", client_id="zoe")
    assert listed(server)[opened]["state"] == "read", "she went on"
    server.post("/activelearning/first", json={"client_id": "zoe"})


def submit(server: Server, folder: Path, image: str, status: Status) -> None:
    read = Findings.from_json(ask(server, f"image={image}", threshold=0.3))
    findings = replace(read, findings=tuple(replace(f, status=status) for f in read.findings))
    file = folder / "label.seg.nrrd"
    write_label_file(file, findings)
    reply = requests.put(
        f"{server.url}/datastore/label?image={image}&tag=final",
        files={"label": ("label.seg.nrrd", file.read_bytes())},
        data={"params": json.dumps({"client_id": "ann"})}, timeout=60,
    )
    assert reply.status_code == 200, reply.text


def test_scores_are_those_of_what_readers_said(server: Server, tmp_path: Path) -> None:
    assert server.post(f"/scoring/{MODEL}").status_code == 409  # nothing to score against
    assert server.post("/scoring/other").status_code == 404
    agreed = following(server, "first", "ann")["id"]
    refused = next(image for image in whole(server) if image != agreed)
    submit(server, tmp_path, agreed, "accepted")
    submit(server, tmp_path, refused, "rejected")
    assert listed(server)[agreed]["state"] == "labelled"
    assert server.post(f"/scoring/{MODEL}").status_code == 200
    job = finished(server, "/scoring/")
    assert job["status"] == "DONE", job
    (row,) = server.get("/info/").json()["models"][MODEL]["scores"]
    shown = ask(server, f"image={agreed}", threshold=0.3)["findings"]
    thrown = ask(server, f"image={refused}", threshold=0.05)["findings"]
    assert (row["version"], row["images"], row["masses"]) == ("1", 2, len(shown))
    assert set(job["result"]["unseen_images"]) == {agreed, refused}
    assert row["taught"]["images"] == 0 and row["dice"] is None and "dice_all" in row["reasons"]
    assert set(row["tpr"]) == {"0.3", "1", "3.67"}
    assert row["fpi_by_threshold"][0][0] == 0.05
    likely = [f for f in thrown if 1 - f["scores"]["background"] >= 0.05]
    extra = ask(server, f"image={agreed}", threshold=0.05)["findings"][len(shown):]
    assert row["fpi_by_threshold"][0][1:] == [(len(likely) + len(extra)) / 2, 2]
    agreement = row["agreement"]
    default = agreement["threshold"]
    above = [f for f in shown if 1 - f["scores"]["background"] >= default]
    assert agreement["accepted"] == len(above) and agreement["reclassified"] == 0
    assert agreement["added"] == len(shown) - len(above)
    # The same labels again take the row's place; others make a new one.
    server.post(f"/scoring/{MODEL}")
    assert finished(server, "/scoring/")["cached"] == 2
    assert len(server.get("/info/").json()["models"][MODEL]["scores"]) == 1


def test_what_was_read_and_held_outlives_a_restart(
    server: Server, start: Callable[[], Any]
) -> None:
    image = following(server, "suspicious", "eve")["id"]
    server.process.terminate()
    server.process.wait(30)
    with start() as two:
        rows = listed(two)
        assert rows[image]["state"] == "held"
        read = [r for i, r in rows.items() if r["state"] in ("read", "held") and i != TORN]
        assert len(read) == 6 and all(r["malignancy"] is not None for r in read)
        assert following(two, "suspicious", "eve")["id"] == image
        assert following(two, "suspicious", "bob")["id"] != image
        assert len(two.get("/info/").json()["models"][MODEL]["scores"]) == 1
