"""The parts of reading that need no server: turns, kept readings, the table, holds, scores."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from fastapi import HTTPException
from sklearn.metrics import cohen_kappa_score
from test_datastore import write_dicom, write_label

from ftmtl.active import FEATURES, FIGURES_EDITION, figures_of
from ftmtl.evaluation.agreement import agreement
from ftmtl.evaluation.inputs import parse_predictions, parse_truth
from ftmtl.reading import READING_EDITION, Candidate, Reading
from ftmtl.weights_file import load_weights, save_weights
from monailabel_app.lib.background import Background, Busy, IdleSteps, Job, Steps
from monailabel_app.lib.datastore import MammogramStore
from monailabel_app.lib.files import clear_parts
from monailabel_app.lib.infer import FindMasses
from monailabel_app.lib.models import ModelRegistry
from monailabel_app.lib.question import Question
from monailabel_app.lib.readings import Digests, Readings
from monailabel_app.lib.scoring import ScoreHistory, ScoreModel, is_due, taught_since
from monailabel_app.lib.strategies import Holds, strategies
from monailabel_app.lib.tables import Table, Tables
from monailabel_app.lib.turns import Turns

OLD, NEW, IMAGE = "a" * 64, "b" * 64, "c" * 64


def reading(score: float = 0.6) -> Reading:
    candidate = Candidate((1.0, 2.0, 30.0, 40.0), np.array([1 - score, score / 2, score / 2]), 0.5,
                          np.full((28, 28), 0.25, np.float32))
    return Reading((candidate,), np.eye(1, FEATURES, dtype=np.float32)[0])


def fill(table: Table, *images: str) -> None:
    for number, image in enumerate(images):
        table.put(image, IMAGE, figures_of(reading(0.1 + number / 10), threshold=0.5),
                  reading().features)


def test_a_misspelt_parameter_is_refused_and_what_monai_labels_clients_send_is_not() -> None:
    asked = {"model": "ft_mtl_net", "image": "1.2.840.1", "source": None, "output": "image"}
    for sent in (
        {"result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "ann"},  # 3D Slicer
        {"result_extension": ".nrrd", "result_dtype": "uint16", "result_compress": False,
         "restore_label_idx": False},  # OHIF
        {"session": {"image": "x.dcm"}, "label": "x.nrrd", "device": "cpu", "logging": "INFO"},
    ):
        Question.of({**asked, **sent}, device="cpu")
    with pytest.raises(HTTPException) as refused:
        Question.of({**asked, "threshold": 0.2, "treshold": 0.2, "max": 5}, device="cpu")
    assert refused.value.status_code == 400
    said = "Unknown parameters: max, treshold. Parameters: boxes, threshold, max_findings, device, "
    assert str(refused.value.detail).startswith(said)


def test_readers_go_first_and_in_order() -> None:
    turns, order = Turns(), []
    waits = threading.Event()

    def take(name: str, *, reads: bool) -> None:
        with turns.reader() if reads else turns.other():
            order.append(name)

    threads = []
    with turns.other():
        for name, reads in (("batch", False), ("ann", True), ("bob", True), ("cat", True)):
            threads.append(threading.Thread(target=take, args=(name,), kwargs={"reads": reads}))
            threads[-1].start()
            waits.wait(0.1)
        assert turns.quiet_for() == 0 and not order
    for thread in threads:
        thread.join()
    assert order == ["ann", "bob", "cat", "batch"]
    assert turns.quiet_for() > 0


def test_it_is_not_quiet_while_a_reader_is_served_and_is_counted_from_her_end() -> None:
    turns = Turns()
    time.sleep(0.5)
    assert turns.quiet_for() >= 0.5
    began = time.monotonic()
    with pytest.raises(HTTPException), turns.reader():
        assert turns.quiet_for() == 0
        raise HTTPException(422, "her image cannot be read")
    assert 0 < turns.quiet_for() <= time.monotonic() - began
    with turns.other():
        assert turns.quiet_for() > 0


def test_readings_are_bounded_and_the_unused_go_first(tmp_path: Path) -> None:
    one = Readings(tmp_path / "one")
    one.put(OLD, IMAGE, reading())
    size = next((tmp_path / "one").glob("*/*.npz")).stat().st_size
    kept = Readings(tmp_path / "kept", most_bytes=5 * size)
    names = [f"{n:064x}" for n in range(8)]
    for name in names:
        kept.put(OLD, name, reading())
        assert kept.get(OLD, names[0]) is not None  # always in use
        time.sleep(0.01)
    there = {file.stem for file in (tmp_path / "kept").glob("*/*.npz")}
    assert names[0] in there and names[-1] in there and names[1] not in there
    assert len(there) <= 5
    again = Readings(tmp_path / "kept", most_bytes=5 * size)
    assert again.get(OLD, names[-1]) is not None and again.get(NEW, names[-1]) is None


def test_what_an_earlier_program_saw_is_not_what_this_one_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, tables = Readings(tmp_path / "readings"), Tables(tmp_path / "tables")
    kept.put(OLD, IMAGE, reading())
    fill(tables.current(OLD, "1"), "x")
    tables.save()
    assert kept.get(OLD, IMAGE) and len(Tables(tmp_path / "tables").current(OLD, "1")) == 1
    for module in ("readings", "tables"):
        monkeypatch.setattr(f"monailabel_app.lib.{module}.READING_EDITION", "later")
    assert kept.get(OLD, IMAGE) is None
    assert len(Tables(tmp_path / "tables").current(OLD, "1")) == 0


def test_what_killed_writes_left_is_cleared_away_after_a_day(tmp_path: Path) -> None:
    old, new = tmp_path / "a" / "b" / ".x.npz.1.part", tmp_path / ".y.json.2.part"
    other = tmp_path / "a" / "z.part"
    for file in (old, new, other):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("cut off")
    for file in (old, other):
        os.utime(file, (0, time.time() - 25 * 3600))
    assert clear_parts(tmp_path) == 1
    assert not old.exists() and new.exists() and other.exists()


def test_digests_follow_the_content(tmp_path: Path) -> None:
    file, memo = tmp_path / "x.dcm", tmp_path / "digests.json"
    file.write_bytes(b"one")
    digests = Digests(memo)
    first = digests.of(file)
    digests.save()
    assert Digests(memo).of(file) == first and "x.dcm" not in memo.read_text()
    file.write_bytes(b"two!")
    assert Digests(memo).of(file) != first
    memo.write_text("{")
    assert Digests(memo).of(file) != first


def test_a_table_is_kept_and_the_older_serves_until_the_new_is_filled(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    fill(tables.current(OLD, "1"), *"xyz")
    tables.save()
    assert not tables.serving(OLD, "1").older
    again = Tables(tmp_path)
    table = again.current(OLD, "1")
    assert len(table) == 3 and table.knows("y", IMAGE) and not table.knows("y", NEW)
    work, images = table.work(["z", "x", "new"], ["y"])
    assert [images[i] for i in work.free] == ["z", "x"] and [images[i] for i in work.done] == ["y"]
    assert work.figures[work.free[0]]["malignancy"] == pytest.approx(0.15 / 0.37)
    fill(again.current(NEW, "2"), "x")
    serving = again.serving(NEW, "2")
    assert serving.older and serving.table.version == "1"
    again.save()
    assert Tables(tmp_path).serving(NEW, "2").older  # also after a restart
    fill(again.current(NEW, "2"), *"xyz")
    assert not again.serving(NEW, "2").older
    # Studies that went away never come back: a filled table is the one that counts.
    fewer = Tables(tmp_path)
    fewer.current(NEW, "2")
    fewer.filled()
    assert not fewer.serving(NEW, "2").older
    (tmp_path / f"{NEW[:16]}-{READING_EDITION}-{FIGURES_EDITION}.npz").write_bytes(b"PK damaged")
    assert len(Tables(tmp_path).current(NEW, "2")) == 0


def test_a_disagreement_that_is_known_is_not_lost(tmp_path: Path) -> None:
    table = Table(OLD, "1")
    row = figures_of(reading(), threshold=0.5, mirrored=reading(0.5))
    table.put("x", IMAGE, row, reading().features)
    fill(table, "x")
    figures = table.figures("x")
    assert figures is not None and figures["disagreement"] == pytest.approx(0.1)
    table.put("x", NEW, figures_of(reading(), threshold=0.5), reading().features)  # another file
    figures = table.figures("x")
    assert figures is not None and np.isnan(figures["disagreement"])


def test_who_looks_while_a_row_is_put_finds_all_of_it_or_nothing() -> None:
    """Before each line that puts a row, 130 of them, past both sizes at which the table grows."""
    table, image, seen = Table(OLD, "1"), "", set()

    def look(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        if frame.f_code is not Table.put.__code__:
            return None
        figures = table.figures(image)
        known = table.knows(image, IMAGE)
        seen.add((figures and round(float(figures["mass"]), 3), known))
        return look

    before = sys.gettrace()
    for number in range(130):
        image = str(number)
        sys.settrace(look)
        try:
            fill(table, image)
        finally:
            sys.settrace(before)
    assert seen == {(None, False), (0.1, True)} and len(table) == 130


def test_with_an_empty_table_the_first_image_is_given_and_that_is_said(tmp_path: Path) -> None:
    tables = Tables(tmp_path / "tables")
    holds = Holds(tmp_path / "holds.json")
    damaged: set[str] = set()
    known = strategies(holds, lambda: tables.serving(OLD, "1"), lambda store, x: x in damaged)

    class Store:  # two images, no label: what a strategy asks of the real one
        class labels:  # noqa: N801
            @staticmethod
            def labelled() -> list[str]:
                return []

        def get_unlabeled_images(self, tag: str | None) -> list[str]:
            return ["x", "y"]

    for name in ("uncertainty", "disagreement", "diversity", "mixed", "suspicious"):
        reply = known[name]({"client_id": "ann"}, Store())  # type: ignore[arg-type]
        assert reply is not None and reply["id"] == "x" and "not known yet" in reply["reason"]
    fill(tables.current(OLD, "1"), "y")
    reply = known["suspicious"]({"client_id": "ann"}, Store())  # type: ignore[arg-type]
    assert reply is not None and reply["id"] == "y"
    assert "1 more have not been read" in reply["reason"]
    # What she holds herself is nothing that the others should differ from.
    for _ in range(2):
        reply = known["diversity"]({"client_id": "ann"}, Store())  # type: ignore[arg-type]
        assert reply is not None and "nothing is labelled yet to differ from" in reply["reason"]
    # What nobody can read comes last, whatever its figures were, or it would come for ever.
    damaged.add("y")
    for name in ("suspicious", "first", "random"):
        reply = known[name]({"client_id": "ann"}, Store())  # type: ignore[arg-type]
        assert reply is not None and reply["id"] == "x"
    damaged.add("x")
    reply = known["first"]({"client_id": "ann"}, Store())  # type: ignore[arg-type]
    assert reply is not None and "could not be read" in reply["reason"]


def test_holds_end_and_outlive_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "holds.json"
    holds = Holds(file)

    def first(free: list[str]) -> tuple[str, str]:
        return free[0], "first"

    assert holds.take("ann", ["x", "y"], first)[0][0] == "x"  # type: ignore[index]
    assert Holds(file).take("bob", ["x", "y"], first)[0][0] == "y"  # type: ignore[index]
    assert Holds(file).take("cat", ["x", "y"], first) is None
    holds = Holds(file)
    holds.release("x")
    assert (holds.holder("x"), holds.holder("y")) == (None, "bob")
    assert Holds(file).take("cat", ["x", "y"], first)[0][0] == "x"  # type: ignore[index]
    # Her next one lets go of the one before.
    assert holds.take("ann", ["z"], first) and holds.take("ann", ["v"], first)
    assert [holds.holder(image) for image in "zvy"] == [None, "ann", "bob"]
    # Opened from the list: as if it had been the next one, but nobody's is taken away.
    holds.hold("ann", "w")
    holds.hold("dee", "y")
    assert [holds.holder(image) for image in "vwy"] == [None, "ann", "bob"]
    assert Holds(file).holder("w") == "ann"
    short = Holds(tmp_path / "short.json", seconds=0.01)
    short.take("ann", ["x"], first)
    time.sleep(0.02)
    assert short.holder("x") is None and short.take("bob", ["x"], first) is not None
    # The clock was a day ahead: a hold of then would last a day.
    file.write_text(json.dumps({"x": ["ann", time.time() + 86400 + 1800]}))
    assert Holds(file).take("bob", ["x"], first) is not None
    file.write_text("[1]")
    assert Holds(file).images() == []


def test_jobs_wait_for_nobody_but_readers_and_idle_work_for_quiet() -> None:
    done: list[str] = []
    quiet = [0.0]

    def idle():  # type: ignore[no-untyped-def]
        done.append("idle")
        yield
        return 0.0

    def steps(job: Job):  # type: ignore[no-untyped-def]
        for _ in range(3):
            job.done += 1
            yield
        return "result"

    def broken():  # type: ignore[no-untyped-def]
        yield
        raise OSError(errno.EROFS, "Read-only file system", "/srv/ftmtl/scores.json")

    background = Background(
        idle, quiet_for=lambda: quiet[0], rests=lambda: False, at_end=lambda: done.append("end")
    )
    job, other = Job("batch", {}, total=3), Job("scoring", {})
    background.begin(job, steps(job))
    with pytest.raises(Busy, match="batch"):
        background.begin(Job("batch", {}), idle())
    background.begin(other, broken())
    background.start()
    for _ in range(200):
        if not other.runs:
            break
        time.sleep(0.02)
    assert (job.status, job.done, job.result) == ("DONE", 3, "result")
    assert (other.status, other.reason) == ("ERROR", "Read-only file system")
    assert not done  # somebody read a moment ago
    quiet[0] = 99.0
    for _ in range(200):
        if done:
            break
        time.sleep(0.02)
    assert done
    background.stop()
    assert done[-1] == "end"


def test_idle_work_that_says_it_is_not_worth_while_yet_is_left_alone_but_a_job_is_not(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monailabel_app.lib.background.IDLE_SECONDS", 0.01)
    pauses, begun = [0.0, 0.0, 600.0], []

    def idle() -> IdleSteps:
        begun.append("idle")
        yield
        return pauses[len(begun) - 1]

    def steps(job: Job) -> Steps:
        begun.append("job")
        yield

    background = Background(
        idle, quiet_for=lambda: 99.0, rests=lambda: len(begun) > 3, at_end=lambda: None
    )
    background.start()
    for _ in range(200):
        if len(begun) >= 3:
            break
        time.sleep(0.02)
    time.sleep(0.2)
    assert begun == ["idle"] * 3
    job = Job("batch", {})
    background.begin(job, steps(job))
    for _ in range(200):
        if not job.runs:
            break
        time.sleep(0.02)
    background.stop()
    assert job.status == "DONE" and begun == [*["idle"] * 3, "job"]


# Scores ---------------------------------------------------------------------------------------


def test_agreement_counts_by_hand_and_kappa_is_cohens() -> None:
    """Six masses of the reader, one of them of unknown class, and a region that she left open."""
    def place(x: float) -> list[float]:
        return [x, 10.0, 20.0, 20.0]

    truth = parse_truth({
        "images": [{"id": 1, "width": 1000, "height": 50}],
        "annotations": [
            {"id": n, "image_id": 1, "bbox": place(100 * n), "category_id": category}
            for n, category in enumerate((1, 2, 2, 1, 1))
        ] + [
            {"id": 5, "image_id": 1, "bbox": place(500), "category_id": 1, "class_known": False},
            {"id": 6, "image_id": 1, "bbox": place(600), "category_id": 1, "role": "ignore"},
        ],
    })
    said = [(0, 1, 0.9), (100, 2, 0.8), (200, 1, 0.7), (300, 1, 0.6),  # one called otherwise
            (700, 2, 0.9),  # nothing there
            (400, 1, 0.1),  # too faint to be shown
            (500, 2, 0.5),  # just shown; nobody calls it otherwise
            (600, 2, 0.9)]  # neither right nor wrong
    predictions = parse_predictions([
        {"image_id": 1, "bbox": place(x), "category_id": category, "score": score,
         "scores": [1 - score, score / 2, score / 2]}
        for x, category, score in said
    ], truth)
    shown_as = np.array([category for _, category, _ in said])
    found = agreement(truth, predictions, shown_as, 0.5)
    assert {k: found[k] for k in ("accepted", "reclassified", "rejected", "added")} == {
        "accepted": 4, "reclassified": 1, "rejected": 1, "added": 1
    }
    # 3 of 4 agree; by chance (2·3 + 2·1)/16 would: (0.75 − 0.5) / (1 − 0.5).
    assert found["kappa"] == pytest.approx(0.5)
    assert found["kappa"] == pytest.approx(cohen_kappa_score([1, 2, 2, 1], [1, 2, 1, 1]))
    alone = agreement(truth, predictions, shown_as, 0.85)
    assert alone["kappa"] is None and alone["reason"] and alone["added"] == 5


def test_the_history_keeps_a_row_for_each_version_and_set_of_labels(tmp_path: Path) -> None:
    history = ScoreHistory(tmp_path / "scores.json")
    assert history.rows() == []
    for sha, labels in ((OLD, {"x": 1}), (OLD, {"x": 1}), (OLD, {"x": 2}), (NEW, {"x": 2})):
        history.add({"sha256": sha, "labels": labels, "unseen_images": ["x"], "tpr": {}})
    rows = ScoreHistory(tmp_path / "scores.json").rows()
    assert [(r["sha256"], r["labels"]["x"]) for r in rows] == [(OLD, 1), (OLD, 2), (NEW, 2)]
    assert all("unseen_images" not in row for row in history.shown())


def test_a_version_is_scored_apart_on_whom_it_learned_from(
    tmp_path: Path, untrained: Path
) -> None:
    """Ann was labelled before the training, Bea after it, and Cat judges, whenever that was.

    Eve and Fay were before it, but one's label was withdrawn since and the other's film is gone.
    """
    studies, workspace = tmp_path / "studies", tmp_path / "workspace"
    women = {"1.2.840.1": "Ann", "1.2.840.2": "Bea", "1.2.840.3": "Cat", "1.2.840.4": "Ann",
             "1.2.840.5": "Dot", "1.2.840.6": "Eve", "1.2.840.7": "Fay", "1.2.840.8": "Eve",
             "1.2.840.9": "Fay"}
    for image, woman in women.items():
        write_dicom(studies / f"{image}.dcm", image, woman)
    workspace.mkdir()
    store = MammogramStore(studies, workspace)
    for number in range(4):  # the fifth patient judges
        store.sides.settle(f"{number:016x}")

    def label(image: str, *masses: str) -> None:
        file = write_label(tmp_path / "x.seg.nrrd", store.image_info(image), *masses)
        store.save_label(image, str(file), "final", {})
        time.sleep(0.01)  # times are told to the millisecond

    weights, file = load_weights(untrained), tmp_path / "w.safetensors"
    # Nothing reaches its threshold; scores are of everything that it saw.
    save_weights(file, weights.network(), preset=weights.preset,
                 metadata={"operating_points": {"1": 0.99}})
    registry, history = ModelRegistry(tmp_path / "models"), ScoreHistory(tmp_path / "scores.json")
    registry.begin_with(file, origin="starter")
    infer = FindMasses(registry, store.key, workspace, device="cpu")
    assert not is_due(infer, store, history), "there is no label"
    label("1.2.840.3", "benign")
    for image in ("1.2.840.1", "1.2.840.6", "1.2.840.7"):
        label(image, "malignant")
    registry.publish(registry.add(file, origin="training", parent="1").version, reason="")
    time.sleep(0.01)
    label("1.2.840.2", "benign", "malignant")
    label("1.2.840.4", "benign")
    label("1.2.840.1", "benign")  # labelled anew; she taught all the same
    label("1.2.840.5", "benign")
    Path(store.get_label_uri("1.2.840.5", "final")).write_bytes(b"NRRD0004\n")
    store.remove_label("1.2.840.6", "final")
    (studies / "1.2.840.7.dcm").unlink()
    label("1.2.840.8")
    label("1.2.840.9")
    store.refresh()

    history.add({"sha256": OLD, "labels": {}})
    assert is_due(infer, store, history)
    row = ScoreModel(infer, history)({}, store)
    assert not is_due(infer, store, history)
    assert row["unseen_images"] == ["1.2.840.2", "1.2.840.3"]
    assert row["taught_images"] == ["1.2.840.1", "1.2.840.4", "1.2.840.8", "1.2.840.9"]
    assert (row["version"], row["images"], row["masses"], row["taught"]["masses"]) == ("2", 2, 3, 2)
    assert row["left_out"] == 2  # a damaged label, and one whose film is gone
    least, false, images = row["fpi_by_threshold"][0]
    assert (least, images) == (0.05, 2) and false > 0
    assert row["agreement"]["added"] == 3  # nothing is shown at the threshold
    labels = {"1.2.840.1": 2, **dict.fromkeys(list(women)[1:], 1)}
    del labels["1.2.840.6"]
    assert [r["labels"] for r in history.rows()] == [{}, labels]


def test_only_a_training_has_seen_labels(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    weights = tmp_path / "w"
    weights.write_bytes(b"1")
    starter = registry.add(weights, origin="starter")
    taught = registry.add(weights, origin="training", parent=starter.version)
    assert taught_since(registry, starter) == ""
    assert taught_since(registry, taught) == taught.time
