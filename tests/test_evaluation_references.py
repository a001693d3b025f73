"""The same figures from independent programs and slow, plain re-tellings.

pycocotools' COCOeval matches, MONAI (CAMELYON 16's code) draws FROC, scikit-learn and SciPy rank
and resample. `coco-froc-analysis` 0.2.15 is no reference:
it assigns boxes to masses that they do not touch, and counts them as found.
"""

from __future__ import annotations

import contextlib
import copy
import io

import numpy as np
import pytest
import scipy.stats
from evaluation_cases import random_set, truth
from monai.metrics.froc import compute_froc_curve_data
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import roc_auc_score, roc_curve

from ftmtl.evaluation import evaluate, operating_points
from ftmtl.evaluation.bootstrap import interval, mean_of, median_of, patient_weights, replicate
from ftmtl.evaluation.dice import as_rle, dice
from ftmtl.evaluation.evaluate import judge
from ftmtl.evaluation.froc import froc_curve
from ftmtl.evaluation.inputs import parse_predictions, parse_truth
from ftmtl.evaluation.matching import CRITERIA, iou, match
from ftmtl.evaluation.roc import Ranking


def settle(coco, results):
    told = parse_truth(coco)
    return told, parse_predictions(results, told)


def plain_iou(a, b) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def plain_hit(name, box, target) -> bool:
    if name == "centre":
        x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
        return target[0] <= x <= target[0] + target[2] and target[1] <= y <= target[1] + target[3]
    return plain_iou(box, target) > float(name.removeprefix("iou>"))


def plain_point(name, coco, results, threshold) -> tuple[int, int]:
    """(masses found, false positives) at one threshold, matched afresh."""
    found = false = 0
    for entry in coco["images"]:
        masses = [a["bbox"] for a in coco["annotations"] if a["image_id"] == entry["id"]]
        boxes = [r for r in results if r["image_id"] == entry["id"] and r["score"] >= threshold]
        best = [max([plain_iou(r["bbox"], m) for m in masses], default=0.0) for r in boxes]
        for i in sorted(range(len(boxes)), key=lambda i: (-boxes[i]["score"], -best[i])):
            box = boxes[i]["bbox"]
            options = [m for m in masses if plain_hit(name, box, m)]
            if options:
                masses.remove(max(options, key=lambda m: plain_iou(box, m)))
                found += 1
            else:
                false += 1
    return found, false


@pytest.mark.parametrize("name", list(CRITERIA))
@pytest.mark.parametrize("digits", [9, 1])
def test_froc_against_matching_afresh_at_every_threshold(name, digits) -> None:
    """One pass must equal a fresh matching at each threshold, with ties (one digit) as well."""
    coco, results = random_set(3, digits=digits)
    told, settled = settle(coco, results)
    curve = judge(told, settled).frocs[name].curve
    thresholds = sorted({r["score"] for r in results}, reverse=True)
    assert curve[:, 0].tolist() == thresholds
    for threshold, fpi, tpr in curve[:: 1 if digits == 1 else 7]:
        found, false = plain_point(name, coco, results, threshold)
        assert (tpr, fpi) == pytest.approx((found / told.masses, false / told.images))


@pytest.mark.parametrize("limit", [0.2, 0.5])
def test_matching_against_cocoeval(limit) -> None:
    """Which prediction found which mass, one by one."""
    coco, results = random_set(4, images=60)
    told, settled = settle(coco, results)
    reference = copy.deepcopy(coco)
    for annotation in reference["annotations"]:
        annotation.update(iscrowd=0, area=annotation["bbox"][2] * annotation["bbox"][3])
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO()
        theirs.dataset = reference
        theirs.createIndex()
        run = COCOeval(theirs, theirs.loadRes(copy.deepcopy(results)), "bbox")
        run.params.useCats = 0
        run.params.iouThrs = np.array([limit])
        run.params.maxDets = [1000]
        run.params.areaRng = [[0, 1e12]]
        run.evaluate()
    expected = np.zeros(len(results), dtype=int)  # loadRes numbers results from 1, masses too
    for part in filter(None, run.evalImgs):
        expected[np.asarray(part["dtIds"]) - 1] = part["dtMatches"][0]
    found = match(told, settled, CRITERIA[f"iou>{limit}"])
    assert (found + 1).tolist() == expected.tolist()
    assert (expected > 0).sum() > 30


def test_iou_against_pycocotools() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.uniform(1, 100, (40, 4)), draw.uniform(1, 100, (30, 4))
    expected = coco_mask.iou(a, b, np.zeros(len(b), dtype=bool))
    np.testing.assert_allclose(iou(a, b), expected, atol=1e-12)


def test_froc_curve_against_monai() -> None:
    draw = np.random.default_rng(5)
    score, hit = draw.uniform(size=200).round(2), draw.uniform(size=200) < 0.3
    curve = froc_curve(score, hit, ~hit, masses=80, images=25)
    fpi, tpr = compute_froc_curve_data(score[~hit], score[hit], 80, 25)
    # MONAI leaves the lowest score out and adds the origin, and goes upwards.
    np.testing.assert_allclose(curve[:-1, 1], fpi[:-1][::-1])
    np.testing.assert_allclose(curve[:-1, 2], tpr[:-1][::-1])


def test_operating_points_keep_their_word() -> None:
    """Count the false positives at the threshold, and one score below it."""
    coco, results = random_set(6, images=60, patients=25)
    for rate, threshold in operating_points(coco, results).items():
        assert plain_point("iou>0.2", coco, results, threshold)[1] / 60 <= float(rate)
        below = max((r["score"] for r in results if r["score"] < threshold), default=None)
        if below is not None:
            assert plain_point("iou>0.2", coco, results, below)[1] / 60 > float(rate)


def resampled(coco, results, told, weights):
    """The data set that one bootstrap replicate stands for, written out in full."""
    images, masses, predictions = [], [], []
    for entry, patient in zip(coco["images"], told.patient, strict=True):
        for copy_number in range(int(weights[patient])):
            new = f"{entry['id']}/{copy_number}"
            images.append({**entry, "id": new, "patient_id": f"{patient}/{copy_number}"})
            masses += [
                {**a, "id": f"{a['id']}/{copy_number}", "image_id": new}
                for a in coco["annotations"] if a["image_id"] == entry["id"]
            ]
            predictions += [{**r, "image_id": new} for r in results if r["image_id"] == entry["id"]]
    return truth(images, masses), predictions


def test_replicates_against_data_sets_written_out() -> None:
    """Weighting patients is the same as copying them: TPR of every kind, and the AUCs."""
    coco, results = random_set(7, patients=25, digits=2)
    told, settled = settle(coco, results)
    judged = judge(told, settled)
    for weights in patient_weights(told.patients, 12, seed=1):
        result = evaluate(*resampled(coco, results, told, weights), bootstraps=0)
        for name in CRITERIA:
            whole = result["detection"][name]
            for part, analysis in (
                (whole, judged.frocs[name]),
                (whole["fpi_over_lesion_images"], judged.lesion_frocs[name]),
            ):
                for fpi, tpr in part["tpr_at_fpi"].items():
                    assert analysis.tpr(float(fpi))(weights[None])[0] == pytest.approx(tpr)
        for ranking in judged.rankings.values():
            share = weights[ranking.patient]
            expected = roc_auc_score(ranking.malignant, ranking.score, sample_weight=share)
            assert ranking.auc_of(weights[None])[0] == pytest.approx(expected)


def test_one_of_everybody_is_the_figure_itself() -> None:
    """With all weights 1 each statistic is the figure that is reported."""
    coco, results = random_set(8)
    told, settled = settle(coco, results)
    judged = judge(told, settled)
    ones = np.ones((1, told.patients))
    result = evaluate(coco, results, bootstraps=0)
    for key, ranking in judged.rankings.items():
        expected = roc_auc_score(ranking.malignant, ranking.score)
        assert result["classification"][key] == pytest.approx(expected)
        assert ranking.auc_of(ones)[0] == pytest.approx(expected)
    for fpi, tpr in result["detection"]["iou>0.5"]["tpr_at_fpi"].items():
        assert judged.frocs["iou>0.5"].tpr(float(fpi))(ones)[0] == pytest.approx(tpr)


def test_mean_and_median_of_replicates() -> None:
    """Against NumPy on values written out as often as they were drawn."""
    draw = np.random.default_rng(9)
    values, patient = draw.uniform(size=40), draw.integers(0, 11, 40)
    for weights in patient_weights(11, 30, seed=2):
        drawn = np.repeat(values, weights[patient].astype(int))
        assert mean_of(values, patient)(weights[None])[0] == pytest.approx(drawn.mean())
        assert median_of(values, patient)(weights[None])[0] == pytest.approx(np.median(drawn))


def test_interval_against_scipy() -> None:
    """The percentile interval of a mean, one value a patient; it differs by chance alone."""
    values = np.random.default_rng(10).normal(0.7, 0.2, 50)
    weights = patient_weights(50, 20_000, seed=3)
    ours = interval(replicate(mean_of(values, np.arange(50)), weights))
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=4
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.003)
    assert theirs.high - theirs.low > 0.05


def test_no_interval_where_most_replicates_are_undefined() -> None:
    nothing = float("nan")
    assert interval(np.array([0.2, 0.4, nothing, nothing])) == pytest.approx((0.205, 0.395))
    assert interval(np.array([0.2, nothing, nothing])) is None


def test_roc_of_replicates_against_scikit_learn() -> None:
    """The curve of the things written out as often as they were drawn, few scores for many."""
    draw = np.random.default_rng(14)
    patient = np.append(draw.integers(0, 9, 60), 9)
    malignant = draw.uniform(size=61) < 0.4
    malignant[patient == 9] = True
    ranking = Ranking(unit="mass", score=draw.uniform(size=61).round(1), malignant=malignant,
                      patient=patient)
    grid = np.linspace(0.005, 1, 41)
    weights = patient_weights(10, 12, seed=6)
    for row, tprs in zip(weights, ranking.tprs(weights, grid), strict=True):
        drawn = np.repeat(np.arange(61), row[patient].astype(int))
        fpr, tpr, _ = roc_curve(malignant[drawn], ranking.score[drawn], drop_intermediate=False)
        np.testing.assert_allclose(tprs, np.interp(grid, fpr, tpr))
    nobody_else = np.eye(10)[9:] * 10  # one patient, who has malignant masses alone
    assert np.isnan(ranking.tprs(nobody_else, grid)).all()


def test_images_of_one_patient_are_not_independent() -> None:
    """Ten copies of each value in one patient leave the interval as wide as one copy does."""
    values = np.random.default_rng(11).normal(size=30)
    weights = patient_weights(30, 500, seed=5)
    once = interval(replicate(mean_of(values, np.arange(30)), weights))
    tenfold = mean_of(np.repeat(values, 10), np.repeat(np.arange(30), 10))
    assert interval(replicate(tenfold, weights)) == pytest.approx(once)


def test_intervals_repeat_with_the_seed() -> None:
    coco, results = random_set(12)
    first = evaluate(coco, results, bootstraps=200, seed=1)
    assert first == evaluate(coco, results, bootstraps=200, seed=1)
    other = evaluate(coco, results, bootstraps=200, seed=2)
    assert first["classification"]["ci95"] != other["classification"]["ci95"]
    low, high = first["detection"]["iou>0.2"]["ci95"]["1"]
    assert low < first["detection"]["iou>0.2"]["tpr_at_fpi"]["1"] < high


def test_dice_against_pixels() -> None:
    """Every way of writing a mask, against counting."""
    draw = np.random.default_rng(13)
    for _ in range(5):
        a, b = (draw.uniform(size=(2, 37, 53)) < 0.4).astype(np.uint8)
        expected = 2 * (a & b).sum() / (a.sum() + b.sum())
        packed = coco_mask.encode(np.asfortranarray(a))
        text = {"size": packed["size"], "counts": packed["counts"].decode()}
        flat = b.ravel(order="F")
        edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
        runs = np.diff([0, *edges, flat.size]).tolist()
        assert dice(
            as_rle(text, (37, 53)), as_rle({"size": [37, 53], "counts": runs}, (37, 53))
        ) == pytest.approx(expected)
