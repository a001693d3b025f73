"""The paper's experiment, whole and small: folds, interruption, devices, report."""

from __future__ import annotations

import json
import multiprocessing
import queue
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from evaluation_cases import image, mass, prediction, random_set, truth
from safetensors.torch import save_file
from training_set import TINY, make_set

from ftmtl.cli import main
from ftmtl.config import preset_of
from ftmtl.crossval.cases import figure_6, part_words, pick
from ftmtl.crossval.figures import figure_4a
from ftmtl.crossval.folds import Folds, TooFewToFold, by_mass, by_patient, masses_by_patient
from ftmtl.crossval.outcome import Outcome, _content, assess, over_the_folds
from ftmtl.crossval.report import (
    _auc,
    _dice,
    _lesion_tpr,
    _ours,
    _pooled,
    _tpr,
    write_experiment_report,
)
from ftmtl.crossval.run import (
    PREDICTIONS,
    WEIGHTS,
    Experiment,
    FoldFailed,
    OtherExperiment,
    Standing,
    _begin,
    _child,
    _do,
    _job,
    owned,
    prepare,
    run,
)
from ftmtl.datasets.phantom import make_phantoms
from ftmtl.datasets.records import Annotation, ImageRecord
from ftmtl.evaluation import evaluate
from ftmtl.evaluation.compare import FIGURES
from ftmtl.evaluation.evaluate import judge
from ftmtl.evaluation.froc import tpr_at
from ftmtl.evaluation.inputs import parse_predictions, parse_truth
from ftmtl.evaluation.plots import new_figure
from ftmtl.overlay import COLOURS
from ftmtl.training.loop import NothingToTrainOn
from ftmtl.training.samples import CanvasCache
from ftmtl.weights_file import STARTER_WEIGHTS, load_weights

MODELS = ("ft-mtl-net", "mask-rcnn")
# The paper's three stages, a step each.
QUICK = replace(TINY, training=replace(
    TINY.training, steps_per_epoch=1,
    stages=tuple(replace(stage, epochs=1) for stage in TINY.training.stages)))
TESTS = str(Path(__file__).parent)


def women(count: int, seed: int = 0) -> list[ImageRecord]:
    """Each with up to four films, each normal or with one or two masses."""
    draw = np.random.default_rng(seed)
    records = []
    for woman in range(count):
        for _ in range(draw.integers(1, 5)):
            number = len(records)
            masses = tuple(
                Annotation(id=f"{number}.{i}", bbox=(10, 10, 20, 20),
                           category=int(draw.integers(1, 3)))
                for i in range(draw.integers(0, 3))
            )
            records.append(ImageRecord(
                image_id=number, path=Path(f"{number}.png"), width=100, height=100,
                patient_id=f"W{woman}", annotations=masses))
    return records


# Folds


@pytest.mark.parametrize("seed", range(5))
def test_folds_by_patient_are_disjoint_balanced_and_whole(seed: int) -> None:
    records = women(60, seed)
    split = by_patient(records, 5, seed)
    tested = [r for fold in range(5) for r in split.test(fold)]
    assert sorted(r.image_id for r in tested) == list(range(len(records)))
    for fold in range(5):
        trained, held = split.training(fold), split.test(fold)
        assert len(trained) + len(held) == len(records)
        assert not {r.patient_id for r in trained} & {r.patient_id for r in held}
        kinds = Counter(max((m.category for m in r.masses), default=0) for r in held)
        of_all = Counter(max((m.category for m in r.masses), default=0) for r in records)
        for kind, count in of_all.items():
            assert abs(kinds[kind] - count / 5) <= 5
    assert split.leak() == {"tests": len(records), "of_known_patients": 0, "of_known_films": 0}
    assert by_patient(records, 5, seed).fold == split.fold
    assert by_patient(records, 5, seed + 1).fold != split.fold


def test_the_papers_folds_leak_and_say_so() -> None:
    """Each mass is a sample; its siblings on the film are left out; normal films are dropped."""
    records = women(60)
    split = by_mass(records, 5, seed=0)
    assert len(split.records) == sum(len(r.masses) for r in records)
    assert all(len(r.masses) == 1 for r in split.records)
    assert len({r.image_id for r in split.records}) == len(split.records)
    women_met = films_met = 0
    for fold in range(5):
        for sample in split.test(fold):
            trained = split.training(fold)
            women_met += any(r.patient_id == sample.patient_id for r in trained)
            films_met += any(r.path == sample.path for r in trained)
    assert split.leak() == {"tests": len(split.records), "of_known_patients": women_met,
                            "of_known_films": films_met}
    # What the leak is worth, and nothing else, lies between these and the same samples by patient.
    tight = masses_by_patient(records, 5, seed=0)
    assert tight.records == split.records
    assert tight.leak() == {"tests": len(split.records), "of_known_patients": 0,
                            "of_known_films": 0}
    assert max(Counter(tight.fold).values()) - min(Counter(tight.fold).values()) <= 10
    assert women_met > 0.5 * len(split.records)
    assert films_met > 10
    truth = split.truth()
    assert [i["fold"] for i in truth["images"]] == list(split.fold)
    # The samples of a film that names no patient are one woman's all the same.
    nameless = by_mass([replace(r, patient_known=False) for r in records], 5, seed=0)
    named = [i["patient_id"] for i in nameless.truth()["images"]]
    assert named == [r.patient_id for r in nameless.records]
    assert nameless.without_patient() == len({r.path for r in nameless.records}) < len(named)


@pytest.mark.parametrize("split", [by_patient, by_mass])
@pytest.mark.parametrize("seed", range(3))
def test_a_mass_of_unknown_class_is_of_a_kind_of_its_own(split: Any, seed: int) -> None:
    """Five malignant masses, five that may be, ten benign: of each kind every fold tests its share.

    On a woman's film with both, what is known to be malignant decides.
    """
    kinds = [*[(2, True)] * 5, *[(2, False)] * 5, *[(1, True)] * 10]
    records = [
        ImageRecord(image_id=n, path=Path(f"{n}.png"), width=100, height=100, patient_id=f"W{n}",
                    annotations=(Annotation(id=n, bbox=(10, 10, 20, 20), category=category,
                                            class_known=known),))
        for n, (category, known) in enumerate(kinds)
    ]
    folds = split(records, 5, seed)
    assert [_content(folds, fold)["malignant"] for fold in range(5)] == [1] * 5
    for fold in range(5):
        assert sum(not m.class_known for r in folds.test(fold) for m in r.masses) == 1
    both = replace(records[0], annotations=(*records[0].annotations, *records[5].annotations))
    assert by_patient([both, *records[1:]], 5, seed).fold == by_patient(records, 5, seed).fold


def test_too_few_to_fold_is_told() -> None:
    with pytest.raises(TooFewToFold, match="there are 3"):
        by_patient(women(3), 5, seed=0)
    with pytest.raises(TooFewToFold, match="at least 2"):
        by_patient(women(3), 1, seed=0)
    with pytest.raises(TooFewToFold, match="masses"):
        by_mass([replace(r, annotations=()) for r in women(9)], 2, seed=0)
    # Enough of both kinds together, and of neither alone.
    few = [
        ImageRecord(image_id=n, path=Path(f"{n}.png"), width=100, height=100, patient_id=f"W{n}",
                    annotations=(Annotation(id=n, bbox=(10, 10, 20, 20), category=1 + n % 2),))
        for n in range(8)
    ]
    for split, things in ((by_patient, "films"), (by_mass, "masses")):
        with pytest.raises(TooFewToFold, match=f"as many {things} of one kind .* at most 4. Give"):
            split(few, 5, seed=0)
        assert split(few, 4, seed=0).count == 4


# The experiment


def plan(films: list[ImageRecord], out: Path, **changes: object) -> Experiment:
    settings = {"preset": QUICK, "models": MODELS, "folds": 2, "split": "patients", "seed": 3,
                "imagenet": None, "malignant_means": "bright, in this toy set", **changes}
    return prepare(films, out=out, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[ImageRecord]:
    folder = tmp_path_factory.mktemp("films")
    records = make_set(folder)
    (folder / "broken.png").write_bytes(b"no film")
    return [*records, replace(records[0], image_id=99, path=folder / "broken.png")]


@pytest.fixture(scope="module")
def outcome(films: list[ImageRecord], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Two models on two folds, with their report."""
    experiment = plan(films, tmp_path_factory.mktemp("experiment"))
    seen: list[Standing] = []
    run(experiment, devices=["cpu"], on_progress=seen.append)
    shares = [s.share for s in seen]
    assert shares == sorted(shares) and (seen[-1].share, seen[-1].done) == (1.0, 4)
    assert any("heads epoch 1/1" in s.words and "class" in s.words for s in seen)
    found = assess(experiment, bootstraps=50)
    write_experiment_report(found)
    return found


def test_every_film_is_read_by_the_model_that_never_saw_it(outcome: Outcome) -> None:
    experiment = outcome.experiment
    assert experiment.left_out == (experiment.left_out[0],)
    assert "broken.png" in experiment.left_out[0]
    for model in MODELS:
        for fold in range(2):
            folder = experiment.folder(model, fold)
            weights = load_weights(folder / "weights.safetensors")
            assert weights.preset == preset_of(model, experiment.preset)
            assert weights.metadata["held_out"] == f"fold {fold + 1} of 2, by patients"
            assert not (folder / "checkpoint.pt").exists()
            own = {r.image_id for r in experiment.folds.test(fold)}
            results = json.loads((folder / PREDICTIONS).read_text())
            assert {r["image_id"] for r in results} <= own
    truth = json.loads((experiment.out / "truth.json").read_text())
    assert len(truth["images"]) == 8 and {i["fold"] for i in truth["images"]} == {0, 1}


def test_the_figures_are_those_of_evaluate(outcome: Outcome) -> None:
    """Its files evaluate to the same numbers on their own."""
    out = outcome.experiment.out
    truth = json.loads((out / "truth.json").read_text())
    metrics = json.loads((out / "metrics.json").read_text())
    for model in MODELS:
        predictions = json.loads((out / model / PREDICTIONS).read_text())
        alone = evaluate(truth, predictions, bootstraps=50)
        for part in ("detection", "classification", "segmentation", "localisation"):
            assert metrics["models"][model][part] == alone[part]
        assert set(metrics["models"][model]["folds"]) == set(FIGURES)
    assert metrics["experiment"]["masks"] == {"box alone": 6, "annotated": 1}
    assert metrics["experiment"]["classifier_weights"] == {
        "ft-mtl-net": 3 * 1280, "mask-rcnn": 2 * 1024**2 + 3 * 1024}


def test_the_report_says_what_was_done_and_needs_nothing_else(outcome: Outcome) -> None:
    out = outcome.experiment.out
    page = (out / "report.html").read_text()
    assert not re.search(r"(src|href)=.?(?!.?data:)", page)
    for words in ("bright, in this toy set", "1 annotated (drawn by a reader)", "6 boxes alone",
                  "broken.png", "no woman is in two", "fixed by the preset before the first fold",
                  "FT-MTL-Net, in the paper", "0.92 ± 0.01", "Table 5", "Figure 6"):
        assert words in page, words
    assert "These folds leak" not in page
    assert page.count('class="ours"') == 4 * len(MODELS)  # Table 4 twice: two films hold no mass
    cases = pick(outcome.judged["ft-mtl-net"])
    assert cases and len({case.image for case in cases}) == len(cases)
    pictures = ["figure-3", "figure-4a", "figure-5b", "calibration",
                *(f"figure-6-{n + 1}" for n in range(len(cases)))]
    assert {p.stem for p in out.glob("*.png")} == set(pictures)
    for name in pictures:
        assert matplotlib.image.imread(out / f"{name}.png").std() > 0.03


def test_cases_are_picked_by_rule() -> None:
    """The median of each kind, the largest miss, the surest false positive, a film each."""
    box, far = [0.0, 0.0, 100.0, 100.0], [500.0, 500.0, 50.0, 50.0]
    kinds = {0: (True, 0.9), 1: (True, 0.5), 2: (True, 0.7),  # malignant, and how much is said
             3: (False, 0.3), 4: (False, 0.2), 5: (False, 0.1)}
    masses = [mass(i, box, malignant) for i, (malignant, _) in kinds.items()]
    missed = [mass(6, [0, 0, 30, 30]), mass(7, [0, 0, 90, 20]), mass(8, [0, 0, 10, 100])]
    results = [prediction(i, box, 0.9, said) for i, (_, said) in kinds.items()]
    results += [prediction(i, far, score) for i, score in ((9, 0.3), (10, 0.5), (11, 0.4))]
    told = parse_truth(truth([image(i) for i in range(12)], [*masses, *missed]))
    cases = pick(judge(told, parse_predictions(results, told)))
    assert [case.image for case in cases] == [2, 4, 7, 10]
    assert cases[0].why == "the median of the 3 detected malignant masses"
    results.append(prediction(2, far, 0.8))  # a film that is shown already
    cases = pick(judge(told, parse_predictions(results, told)))
    assert [case.image for case in cases] == [2, 4, 7]


def test_figure_6_draws_a_box_in_the_colour_of_its_likelier_kind(outcome: Outcome) -> None:
    """And candidates above O = 0.5, or the best alone."""
    case = pick(outcome.judged["ft-mtl-net"])[0]
    _, candidates, heads, _ = figure_6(outcome, "ft-mtl-net", case).axes
    likely = [float(words.get_text().removeprefix("O ")) for words in candidates.texts]
    assert likely and (min(likely) >= 0.5 or len(likely) == 1)
    for words, patch in zip(heads.texts, heads.patches, strict=True):
        malignant, benign = map(float, re.findall(r"\d\.\d+", words.get_text()))
        colour = COLOURS["malignant" if malignant > benign else "benign"]
        if malignant != benign:
            assert np.multiply(patch.get_edgecolor()[:3], 255) == pytest.approx(colour)


def test_a_curve_is_the_mean_over_the_folds_and_a_bar_two_sd(outcome: Outcome) -> None:
    folds = []
    for seed in range(3):
        coco, results = random_set(seed)
        told = parse_truth(coco)
        folds.append(judge(told, parse_predictions(results, told)))
    normal = parse_truth(truth([image(1)], []))  # a fold without a mass has no curve
    folds.append(judge(normal, parse_predictions([], normal)))
    axes = figure_4a(replace(outcome, folds=dict.fromkeys(MODELS, folds))).axes[0]
    grid = np.linspace(0, 5, 101)
    curves = [[tpr_at(j.frocs["iou>0.2"].curve, fpi) for fpi in grid] for j in folds[:3]]
    line = next(line for line in axes.lines if "FT-MTL-Net" in str(line.get_label()))
    np.testing.assert_allclose(line.get_ydata(), np.mean(curves, axis=0))
    (bars,) = axes.containers[0].lines[2]
    heights = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(heights, 2 * np.std(curves, axis=0, ddof=1)[5::10])


def test_words_on_a_film_lie_apart() -> None:
    """Boxes of one mass lie on each other; what is written beside them must not."""
    figure = new_figure(3, 5)
    film = figure.subplots()
    for height in (0.5, 0.5, 0.51, 0.48, 0.99, 0.999, 0.0):
        film.text(0.1, height, "M 0.97 B 0.00")
    figure.draw_without_rendering()
    part_words(film)
    figure.draw_without_rendering()
    places = [words.get_window_extent() for words in film.texts]
    assert not any(a.overlaps(b) for a, b in combinations(places, 2))
    frame = film.get_window_extent()
    assert all(frame.y0 <= place.y0 and place.y1 <= frame.y1 for place in places)


def test_folds_without_a_figure_are_counted() -> None:
    """[1, None, None, 1, 1] is no 1.00 ± 0.00 over five folds."""
    half = {"values": [1, None, None, 1, 1], "mean": 1.0, "sd": 0.0}
    assert over_the_folds(half) == "1.00 ± 0.00 (3 of 5 folds)"
    assert over_the_folds({**half, "values": [1] * 5}) == "1.00 ± 0.00"
    alone = {"values": [None, 1, None], "mean": 1.0, "sd": None}
    assert over_the_folds(alone) == "1.00 (1 of 3 folds)"
    assert over_the_folds({"values": [None] * 5, "mean": None, "sd": None}) == "none"


def test_each_figure_stands_in_its_own_column() -> None:
    """Every figure of the report has a value of its own here."""
    values = {key: 0.1 + 0.02 * n for n, key in enumerate(FIGURES)}
    part: dict[str, Any] = {"folds": {key: {"values": [value], "mean": value, "sd": None}
                                      for key, value in values.items()}}
    none = dict.fromkeys((*values, "0.3", "1", "3.67"))
    part["classification"] = part["segmentation"] = {**values, "ci95": none, "reasons": {}}
    part["detection"] = {"iou>0.2": {"ci95": none, "tpr_at_fpi": {
        fpi: values[f"tpr@{fpi}"] for fpi in ("0.3", "1", "3.67")}}}
    result = {"models": {"mask-rcnn": part}, "experiment": {"classifier_weights": {"mask-rcnn": 7}}}
    ours = [_ours(result, say)[0][2] for say in (_auc, _tpr, _lesion_tpr, _dice)]
    assert ours == [
        f"{values['auc_mass_detected']:.2f}",
        *(", ".join(f"{values[f'{key}@{fpi}']:.2f} @ {fpi}" for fpi in ("0.8", "3.67", "5"))
          for key in ("tpr", "lesion_tpr")),
        f"{values['dice_detected']:.2f}"]
    shown = ("tpr@0.3", "tpr@1", "tpr@3.67", "auc_mass_detected", "auc_mass_all", "auc_patient",
             "dice_detected", "dice_all")
    assert _pooled(result) == [["Mask R-CNN", "7", *(f"{values[key]:.3f}" for key in shown)]]


def test_folds_of_nameless_women_are_not_said_to_be_tight(
    outcome: Outcome, tmp_path: Path
) -> None:
    """A set may not say whose a film is; then nobody knows that no woman is in two folds."""
    folds = outcome.experiment.folds
    *named, nameless = folds.records
    records = (*named, replace(nameless, patient_known=False))
    shutil.copytree(outcome.experiment.out, tmp_path / "out")
    experiment = replace(outcome.experiment, out=tmp_path / "out",
                         folds=replace(folds, records=records))
    write_experiment_report(assess(experiment, bootstraps=20))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "no woman is in two" not in page
    assert "1 image names no patient: each is taken for a woman of her own, and folds" in page


def test_a_second_run_does_nothing_again(
    outcome: Outcome, films: list[ImageRecord], tmp_path: Path, untrained: Path
) -> None:
    """Done folds stay as they are, a model can join later; another recipe is refused."""
    out = outcome.experiment.out
    files = sorted(out.glob("*/fold-*/weights.safetensors"))
    before = [f.stat().st_mtime_ns for f in files]
    run(plan(films, out), devices=["cpu"])
    assert [f.stat().st_mtime_ns for f in files] == before
    for other in ({"seed": 4}, {"folds": 3}, {"split": "masses"}, {"imagenet": untrained},
                  {"preset": replace(QUICK, training=replace(QUICK.training, learning_rate=0.1))}):
        with pytest.raises(OtherExperiment, match="give another --out"):
            plan(films, out, **other)
    plan(films, out, models=(*MODELS, "no-transfer"))
    # Films that were moved are the same; other ones under the same names are not.
    moved = [replace(r, path=Path(shutil.copy(r.path, tmp_path))) for r in films]
    plan(moved, out)
    for one, other in ((0, 2), (2, 0)):
        shutil.copy(films[one].path, moved[other].path)
    with pytest.raises(OtherExperiment, match="other images"):
        plan(moved, out)
    halves = out / ".plan.json.00000000.part", out / "canvases" / ".x.npz.00000000.part"
    for half in halves:
        half.write_text("of a killed run")
    with owned(out), pytest.raises(OtherExperiment, match="another command"), owned(out):
        pass
    assert not any(half.exists() for half in halves)


def test_a_damaged_canvas_is_made_again(films: list[ImageRecord], tmp_path: Path) -> None:
    cache = CanvasCache(tmp_path, TINY.network.canvas)
    pixels, geometry = cache.get(films[0])
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in (b"", b"junk", whole[:-9], whole[:300], whole.replace(b"geometry", b"geometer")):
        file.write_bytes(damaged)
        again, its = cache.get(films[0])
        assert np.array_equal(again, pixels) and its == geometry
        assert file.read_bytes() == whole


BLINK = replace(QUICK, training=replace(QUICK.training, stages=QUICK.training.stages[:1]))


def test_a_damaged_fold_is_done_again(
    films: list[ImageRecord], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut off, of another fold, or without its weights; a plan that cannot be read is told."""
    def go_on() -> list[str]:
        caplog.clear()
        run(plan(films, tmp_path, models=("no-transfer",), preset=BLINK), devices=["cpu"])
        return [r.message for r in caplog.records if "is done again" in r.message]

    assert go_on() == []
    first, second = (tmp_path / "no-transfer" / f"fold-{n}" for n in (1, 2))
    (first / ".checkpoint.pt.00000000.part").write_text("of a killed run")
    whole = (first / PREDICTIONS).read_bytes()
    for damaged, words in ((whole[:-9], "is not JSON"), (b"{}", "is not a list"),
                           ((second / PREDICTIONS).read_bytes(), "is not in its films")):
        (first / PREDICTIONS).write_bytes(damaged)
        (said,) = go_on()
        assert said.startswith("no-transfer fold 1 is done again: ") and words in said
        assert (first / PREDICTIONS).read_bytes() == whole
    assert not list(first.glob(".*.part"))
    (second / WEIGHTS).unlink()
    (said,) = go_on()
    assert said.startswith("no-transfer fold 2 is done again: ") and WEIGHTS in said
    # Interrupted again, it leaves weights that are half trained, and nothing that vouches for them.
    (second / WEIGHTS).unlink()
    job = _job(plan(films, tmp_path, models=("no-transfer",), preset=BLINK), "no-transfer", 1)
    job = replace(job, preset=QUICK)  # more than the one step after which it would be done
    _do(job, "cpu", lambda name, share, words: None, lambda: True)
    assert (second / WEIGHTS).exists() and not job.done
    (tmp_path / "plan.json").write_text('{"identity": "')
    with pytest.raises(OtherExperiment, match=r"plan\.json: cannot be read .*another --out"):
        go_on()


def test_a_film_that_is_gone_when_it_is_to_be_read_fails_its_fold(tmp_path: Path) -> None:
    """Its masses would count as missed."""
    films = make_set(tmp_path / "films")
    experiment = plan(films, tmp_path / "out", models=("no-transfer",), preset=BLINK)
    lost = experiment.folds.test(0)[0].path
    lost.unlink()
    with pytest.raises(FoldFailed, match=f"no-transfer fold 1: {lost}: there is no such file"):
        run(experiment, devices=["cpu"])
    assert not (experiment.folder("no-transfer", 0) / PREDICTIONS).exists()


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_crossval import SAVING, make_set, plan, run
if __name__ == "__main__":
    run(plan(make_set(Path({films!r})), Path({out!r}), preset=SAVING), devices=["cpu", "cpu"],
        on_progress=lambda s: print(s.words, flush=True))
"""
# Five steps are left when it is killed, however late a busy machine lets us know.
SAVING = replace(QUICK, training=replace(
    QUICK.training, checkpoint_minutes=0.0, steps_per_epoch=3))


@pytest.mark.soak
def test_killed_at_work_on_two_devices_it_goes_on(tmp_path: Path) -> None:
    """kill -9 while two folds train: their processes end with their parent, nothing done is done
    again, and what had begun goes on from its checkpoint.
    """
    films, out = make_set(tmp_path / "films"), tmp_path / "out"
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(tests=TESTS, films=str(tmp_path / "films"), out=str(out)))
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "heads epoch" in line:  # the stage after the first
            break
    children = [int(pid) for pid in Path(
        f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 100
    while any(map(alive, children)):
        assert time.monotonic() < deadline, "an orphan lives on"
        time.sleep(0.1)
    done = {p: p.stat().st_mtime_ns for p in out.glob("*/fold-*/predictions.json")}
    assert len(done) < 4
    stopped = {p.parent for p in out.glob("*/fold-*/checkpoint.pt")
               if torch.load(p, weights_only=True)["at"] >= [1, 0]}  # behind the first stage
    assert stopped
    seen: list[str] = []
    run(plan(films, out, preset=SAVING), devices=["cpu"],
        on_progress=lambda standing: seen.append(standing.words))
    assert len(list(out.glob("*/fold-*/predictions.json"))) == 4
    assert all(p.stat().st_mtime_ns == at for p, at in done.items())
    for folder in stopped:
        name = f"{folder.parent.name} {folder.name.replace('-', ' ')}"
        assert not any(words.startswith(f"{name}: proposals") for words in seen), seen


def test_nobody_waits_for_a_fold_that_is_still_starting(
    films: list[ImageRecord], tmp_path: Path
) -> None:
    """Its films, more than a pipe holds, are on their way while it imports torch for seconds."""
    experiment = plan(films, tmp_path)
    many = [replace(experiment.folds.records[0], image_id=n) for n in range(5000)]
    job = replace(_job(experiment, MODELS[0], 0), training=many)
    context = multiprocessing.get_context("spawn")
    started = _begin(context, job, "cpu", context.Queue(), threads=1)
    try:
        assert started.process.is_alive() and started.handing.is_alive()
    finally:
        started.process.terminate()
        started.process.join()


def test_a_fold_at_work_takes_the_threads_it_is_given(outcome: Outcome) -> None:
    """Many side by side would else have as many threads each as there are processors."""
    inbox, ours = multiprocessing.Pipe(duplex=False)
    messages: queue.SimpleQueue[tuple[object, ...]] = queue.SimpleQueue()
    ours.send(_job(outcome.experiment, MODELS[0], 0))  # it is done: only the start is seen
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        _child(inbox, "cpu", messages, 1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert messages.get() == ("at", "ft-mtl-net fold 1", 1.0, "done")


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]
    except FileNotFoundError:
        return False


@pytest.mark.soak  # a process of its own takes long to start
def test_a_fold_that_fails_is_named(films: list[ImageRecord], tmp_path: Path) -> None:
    """In a process of its own, too: the reason comes back, what was done stays."""
    experiment = plan(films, tmp_path / "out", models=("ft-mtl-net",))
    first = experiment.folder("ft-mtl-net", 0)
    first.mkdir(parents=True)
    (first / PREDICTIONS).write_text("[]")
    save_file({}, first / WEIGHTS)
    folder = experiment.folder("ft-mtl-net", 1)
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(FoldFailed, match=r"ft-mtl-net fold 2: .*checkpoint\.pt: not a checkpoint"):
        run(experiment, devices=["cpu", "cpu"])


def test_folds_by_mass_run_whole_on_two_devices_and_warn(
    films: list[ImageRecord], tmp_path: Path
) -> None:
    experiment = plan(films, tmp_path, models=("average-pooling",), split="masses", seed=1,
                      preset=BLINK)
    standings: list[Standing] = []
    run(experiment, devices=["cpu", "cpu"], on_progress=standings.append)
    assert standings[-1].done == 2 and standings[-1].share == 1
    write_experiment_report(assess(experiment, bootstraps=20))
    page = (tmp_path / "report.html").read_text()
    leak = experiment.folds.leak()
    assert leak["of_known_patients"] > 0
    assert f"{leak['of_known_patients']} of {leak['tests']} tests show a woman" in page
    assert "These folds leak" in page
    assert load_weights(
        experiment.folder("average-pooling", 0) / "weights.safetensors"
    ).preset.network.variant == "average-pooling"


# The command line


def test_the_paper_s_experiment_on_phantoms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One command, from DICOM files to the report, with the shipped recipe and backbone."""
    make_phantoms(tmp_path / "phantoms", patients=2, rows=320)
    command = ["crossval", "--data", str(tmp_path / "phantoms" / "coco.json"), "--out",
               str(tmp_path / "out"), "--folds", "2", "--epochs", "1", "--devices", "cpu",
               "--imagenet", str(STARTER_WEIGHTS), "--malignant-means", "spiculated, in phantoms"]
    assert main(command) == 0
    assert '"mask-rcnn"' in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "spiculated, in phantoms" in page and "starter.safetensors" in page
    assert "fixed by --epochs before the first fold" in page
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["experiment"]["masks"] == {"annotated": metrics["models"]["mask-rcnn"]["masses"]}
    assert metrics["models"]["ft-mtl-net"]["images"] == 8
    assert set(metrics["comparisons"]) == {"mask-rcnn"}
    assert main([*command, "--folds", "3"]) == 2
    assert "3 folds" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "words"), [
    (["--data", "nowhere.json"], "nowhere.json"),
    (["--data", "set.json", "--imagenet", "nowhere.safetensors"], "nowhere.safetensors"),
    (["--data", "set.json", "--imagenet", "set.json"], "not a safetensors file"),
    (["--data", "set.json", "--devices", "tpu"], "'tpu'"),
    (["--data", "set.json", "--folds", "9"], "9 folds"),
])
def test_a_mistake_is_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], untrained: Path,
) -> None:
    from ftmtl.datasets.coco import write_coco

    monkeypatch.chdir(tmp_path)
    write_coco(make_set(tmp_path / "films"), tmp_path / "set.json", images=tmp_path)
    assert main(["crossval", "--out", "out", "--imagenet", str(untrained), *arguments]) == 2
    message = capsys.readouterr().err
    assert words in message and "Traceback" not in message


def test_unreadable_alone_is_told(films: list[ImageRecord], tmp_path: Path) -> None:
    with pytest.raises(NothingToTrainOn, match=r"broken\.png"):
        plan(films[-1:], tmp_path)


def test_folds_hold_what_they_are_given() -> None:
    records = tuple(women(4))
    split = Folds(records=records, fold=tuple(i % 2 for i in range(len(records))), count=2,
                  split="patients")
    assert split.test(0) == list(records[::2])
    assert split.training(0) == list(records[1::2])
