"""Two models in pairs, calibration and localisation: against other packages and by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from evaluation_cases import image, mass, prediction, random_set, truth
from MLstatkit import Delong_test
from scipy.stats import ttest_rel
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from ftmtl.cli import main
from ftmtl.coco_masks import as_rle
from ftmtl.evaluation import InvalidTruth, evaluate
from ftmtl.evaluation.bootstrap import patient_weights
from ftmtl.evaluation.compare import compare, headline, judge_by_fold, over_folds
from ftmtl.evaluation.delong import delong_p
from ftmtl.evaluation.evaluate import judge
from ftmtl.evaluation.inputs import parse_predictions, parse_truth
from ftmtl.evaluation.reliability import Reliability
from ftmtl.evaluation.report import write_report

BOX = [0.0, 0.0, 100.0, 100.0]


def judged(coco, results):
    told = parse_truth(coco)
    return judge(told, parse_predictions(results, told))


def shaken(results, seed: int = 0, spread: float = 0.2):
    """The same boxes from a model that scores and ranks otherwise."""
    draw = np.random.default_rng(seed)
    out = []
    for r in results:
        score = float(np.clip(r["score"] + draw.normal(0, spread), 0.02, 0.98))
        out.append(prediction(r["image_id"], r["bbox"], score, float(draw.uniform())))
    return out


@pytest.mark.parametrize("digits", [9, 1])
def test_delong_against_mlstatkit(digits) -> None:
    """Correlated scores, with ties (one digit) as well."""
    draw = np.random.default_rng(1)
    for _ in range(5):
        malignant = draw.uniform(size=80) < 0.4
        a = draw.normal(malignant, 1).round(digits)
        b = (a + draw.normal(malignant, 1)).round(digits)
        theirs = Delong_test(malignant.astype(int), a, b)
        assert delong_p(a, b, malignant) == pytest.approx(theirs[1], rel=1e-6)


def test_delong_by_hand() -> None:
    """Nothing to tell apart is 1; one of a class has no variance."""
    malignant = np.array([True, True, False, False])
    a = np.array([0.9, 0.4, 0.6, 0.1])
    assert delong_p(a, a**2, malignant) == 1
    assert delong_p(a[1:], a[1:], malignant[1:]) is None
    # b puts both malignant above: areas 3/4 and 1. Components of a: above (1, 1/2), below
    # (1/2, 1); all of b are 1. Differences 0, -1/2 each side: variance (1/8)/2 + (1/8)/2 = 1/8.
    b = np.array([0.9, 0.8, 0.6, 0.1])
    assert delong_p(a, b, malignant) == pytest.approx(0.4795001, abs=1e-6)  # z = 0.25 / sqrt(1/8)
    assert delong_p(b, -b, malignant) is None  # areas 1 and 0, and no variance to judge that by


def test_calibration_against_scikit_learn() -> None:
    draw = np.random.default_rng(2)
    probability = np.append(draw.beta(2, 3, 300), [0.0, 0.1, 1.0])
    outcome = draw.uniform(size=303) < probability**2
    stated = Reliability(unit="thing", probability=probability, outcome=outcome,
                         patient=draw.integers(0, 40, 303))
    assert stated.brier() == pytest.approx(brier_score_loss(outcome, probability))
    said, true, count = stated.bins()
    their_true, their_said = calibration_curve(outcome, probability, n_bins=10)
    assert said == pytest.approx(their_said)
    assert true == pytest.approx(their_true)
    assert count.sum() == 303
    assert stated.ece() == pytest.approx(float(np.average(abs(said - true), weights=count)))
    for weights in patient_weights(40, 10, seed=3):  # a patient drawn twice is written out twice
        drawn = np.repeat(np.arange(303), weights[stated.patient].astype(int))
        again = Reliability(unit="thing", probability=probability[drawn], outcome=outcome[drawn],
                            patient=stated.patient[drawn])
        assert stated.brier_of(weights[None])[0] == pytest.approx(again.brier())
        assert stated.ece_of(weights[None])[0] == pytest.approx(again.ece())


def test_calibration_by_hand() -> None:
    """Scores 0.9, 0.8 found and 0.3 false; malignancy 0.7 of a malignant, 0.2 of a benign mass."""
    result = evaluate(
        truth([image(1), image(2)], [mass(1, BOX, True), mass(2, BOX),
                                     mass(2, [500, 500, 90, 90], role="ignore")]),
        [prediction(1, BOX, 0.9, 0.7), prediction(2, BOX, 0.8, 0.2),
         prediction(1, [800, 800, 50, 50], 0.3, 0.5),
         prediction(2, [500, 500, 90, 90], 0.95, 0.5)],  # nobody knows
        bootstraps=0,
    )["calibration"]
    assert (result["mass"]["n"], result["mass"]["true"]) == (3, 2)
    assert result["mass"]["ece"] == pytest.approx((0.1 + 0.2 + 0.3) / 3)
    assert result["mass"]["brier"] == pytest.approx((0.01 + 0.04 + 0.09) / 3)
    assert result["malignancy"]["ece"] == pytest.approx((0.3 + 0.2) / 2)
    assert result["malignancy"]["brier"] == pytest.approx((0.09 + 0.04) / 2)
    nothing = evaluate(truth([image(1)], [mass(1, BOX)]), [], bootstraps=0)["calibration"]
    assert nothing["malignancy"]["ece"] is None
    assert nothing["mass"]["reasons"]["brier"] == "no prediction above the threshold"


def test_localisation_by_hand() -> None:
    """One mass boxed exactly, one by half: found while the limit is under 0.5."""
    coco = truth([image(1), image(2)], [mass(1, BOX), mass(2, BOX)])
    results = [prediction(1, BOX, 0.9), prediction(2, [0, 0, 100, 50], 0.8)]
    found = evaluate(coco, results, bootstraps=0)["localisation"]["tpr_at_iou"]
    assert found == {key: 1.0 if float(key) < 0.5 else 0.5 for key in found}
    assert list(found) == [f"{n / 20:g}" for n in range(2, 19)]
    # Eight false positives before the second mass on two images: beyond 3.67 an image.
    noise = [prediction(1, [500, 100.0 * i, 50, 50], 0.85) for i in range(8)]
    found = evaluate(coco, results + noise, bootstraps=0)["localisation"]["tpr_at_iou"]
    assert set(found.values()) == {0.5}


def test_a_comparison_is_paired() -> None:
    """Both models meet the same draw: the interval of their difference is narrower than of each."""
    coco, results = random_set(5, images=120, patients=60)
    a, b = judged(coco, results), judged(coco, shaken(results, spread=0.03))
    weights = patient_weights(a.truth.patients, 500, seed=1)
    rows = compare(a, b, weights)
    ours, theirs = headline(a), headline(b)
    for key, row in rows.items():
        assert row["difference"] == row["a"] - row["b"]
        if "detected" not in key:
            assert (row["a"], row["b"]) == (ours[key], theirs[key])
    paired = rows["tpr@1"]["ci95"]
    alone = evaluate(coco, results, bootstraps=500, seed=1)["detection"]["iou>0.2"]["ci95"]["1"]
    assert paired[1] - paired[0] < 0.8 * (alone[1] - alone[0])
    drawn = a.frocs["iou>0.2"].tpr(1.0)(weights) - b.frocs["iou>0.2"].tpr(1.0)(weights)
    assert paired == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist())
    assert rows["auc_image"]["p_delong"] == pytest.approx(Delong_test(
        a.rankings["auc_image"].malignant.astype(int), a.rankings["auc_image"].score,
        b.rankings["auc_image"].score)[1], rel=1e-6)
    itself = compare(a, a, weights)
    assert {(row["difference"], row["p_bootstrap"]) for row in itself.values()} == {(0.0, 1.0)}


def test_a_difference_that_is_there_is_seen() -> None:
    """The one finds every mass and ranks them right, the other half of them, at random."""
    images = [image(i, f"P{i}") for i in range(60)]
    masses = [mass(i, BOX, i % 2 == 0) for i in range(60)]
    good = [prediction(i, BOX, 0.9, 0.8 if i % 2 == 0 else 0.2) for i in range(60)]
    bad = [prediction(i, BOX, 0.9, 0.8 if i % 4 < 2 else 0.2) for i in range(30)]
    a, b = judged(truth(images, masses), good), judged(truth(images, masses), bad)
    rows = compare(a, b, patient_weights(60, 1000, seed=2))
    assert rows["tpr@1"]["difference"] == 0.5
    assert rows["tpr@1"]["p_bootstrap"] == pytest.approx(2 / 1001)  # never 0
    assert rows["auc_mass_detected"]["n"] == 30  # those that both detected
    assert rows["auc_mass_detected"]["a"] == 1
    assert rows["auc_mass_detected"]["p_delong"] < 1e-3
    other_way = compare(b, a, patient_weights(60, 1000, seed=2))
    for key, row in rows.items():
        assert other_way[key]["difference"] == -row["difference"]
        assert other_way[key]["p_bootstrap"] == row["p_bootstrap"]


def test_outlines_are_compared_on_masses_that_both_have() -> None:
    """The first mass is not drawn; the one finds the next two, the other the last two."""
    def block(height: float) -> list[list[float]]:
        return [[0, 0, 100, 0, 100, height, 0, height]]

    def said(number: int, height: float):
        return prediction(number, BOX, 0.9, segmentation=as_rle(block(height), (1000, 1000)))

    drawn = {"segmentation": block(100), "mask_source": "annotated"}
    coco = truth([image(i, f"P{i}") for i in range(5)],
                 [mass(0, BOX), *(mass(i, BOX, **drawn) for i in (1, 2, 3))])
    a = judged(coco, [said(1, 100), said(2, 50)])  # Dice 1, 2/3 and none
    b = judged(coco, [said(2, 25), said(3, 100)])  # Dice none, 2/5 and 1
    weights = np.array([[1, 1, 0, 1, 0], [1, 0, 1, 0, 2.0]])
    rows = compare(a, b, np.repeat(weights, 20, axis=0))
    row = rows["dice_detected"]
    assert (row["n"], row["a"], row["b"]) == (1, pytest.approx(2 / 3), pytest.approx(2 / 5))
    assert row["ci95"] == pytest.approx([4 / 15, 4 / 15])  # half of the draws are without it
    row = rows["dice_all"]
    assert (row["n"], row["a"], row["b"]) == (3, pytest.approx(5 / 9), pytest.approx(7 / 15))
    assert row["ci95"] == pytest.approx([0, 4 / 15])  # (1 + 0 − 0 − 1) / 2, and 2/3 − 2/5


def folded(coco, parts: int = 5):
    for entry in coco["images"]:
        entry["fold"] = int(entry.get("patient_id", "P0")[1:]) % parts
    return coco


def test_folds_are_judged_alone() -> None:
    """Each fold is the evaluation of its images; the t-test is SciPy's on them."""
    coco, results = random_set(6, images=100, patients=40)
    coco, other = folded(coco), shaken(results)
    ours, theirs = judge_by_fold(coco, results), judge_by_fold(coco, other)
    summary = over_folds(ours)
    for fold, value in enumerate(summary["tpr@1"]["values"]):
        images = [i for i in coco["images"] if i["fold"] == fold]
        own = {i["id"] for i in images}
        part = evaluate(
            {**coco, "images": images,
             "annotations": [a for a in coco["annotations"] if a["image_id"] in own]},
            [r for r in results if r["image_id"] in own], bootstraps=0)
        found = part["detection"]["iou>0.2"]
        assert value == found["tpr_at_fpi"]["1"]
        assert summary["lesion_tpr@1"]["values"][fold] == \
            found["fpi_over_lesion_images"]["tpr_at_fpi"]["1"]
        assert summary["auc_patient"]["values"][fold] == part["classification"]["auc_patient"]
    assert summary["lesion_tpr@1"]["mean"] < summary["tpr@1"]["mean"]  # normals cost nothing there
    assert summary["tpr@1"]["sd"] == pytest.approx(np.std(summary["tpr@1"]["values"], ddof=1))
    a, b = judged(coco, results), judged(coco, other)
    rows = compare(a, b, patient_weights(a.truth.patients, 50, seed=1), (ours, theirs))
    expected = ttest_rel(*([headline(j)["tpr@1"] for j in side] for side in (ours, theirs)))
    assert rows["tpr@1"]["p_t_test"] == pytest.approx(expected.pvalue)
    assert compare(a, a, np.ones((0, a.truth.patients)), (ours, ours))["tpr@1"]["p_t_test"] is None


def test_a_class_or_a_mask_that_never_occurs_is_left_out() -> None:
    """Detection is compared all the same; so is a set in which nothing was found, or is."""
    coco = folded(truth([image(i, f"P{i}") for i in range(6)], [mass(i, BOX) for i in range(3)]), 3)
    results = [prediction(i, BOX, 0.9) for i in range(6)]
    rows = compare(judged(coco, results), judged(coco, []), patient_weights(6, 50, seed=1),
                   (judge_by_fold(coco, results), judge_by_fold(coco, [])))
    assert all(key.startswith("tpr@") for key in rows)
    assert (rows["tpr@1"]["difference"], rows["tpr@0.3"]["difference"]) == (1.0, 0.0)
    assert over_folds(judge_by_fold(coco, results))["auc_image"] == {
        "values": [None] * 3, "mean": None, "sd": None}
    normal = truth([image(1), image(2)], [])
    assert compare(judged(normal, []), judged(normal, []), np.ones((0, 2))) == {}


@pytest.mark.parametrize(("fold", "reason"), [
    ("a", "fold 'a' is not a number"), (-1, "fold -1"), (None, "1 of 2 images have no fold"),
])
def test_folds_are_all_there_or_refused(fold, reason) -> None:
    images = [{**image(1), "fold": 0}, {**image(2), "fold": fold}]
    with pytest.raises(InvalidTruth, match=reason):
        evaluate(truth(images, []), [], bootstraps=0)


def test_evaluate_against_another_on_the_command_line(tmp_path, capsys) -> None:
    coco, results = random_set(7, images=40, patients=15)
    for name, content in (("truth", folded(coco)), ("a", results), ("b", shaken(results))):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    out = tmp_path / "report"
    assert main(["evaluate", "--truth", str(tmp_path / "truth.json"), "--predictions",
                 str(tmp_path / "a.json"), "--against", str(tmp_path / "b.json"),
                 "--out", str(out)]) == 0
    assert "difference to the other" in json.loads(capsys.readouterr().out.split("with inter")[0])
    metrics = json.loads((out / "metrics.json").read_text())
    row = metrics["comparison"]["figures"]["tpr@1"]
    page = (out / "report.html").read_text()
    assert metrics["comparison"]["against"].endswith("b.json")
    assert f"{row['difference']:.3f}" in page
    assert "paired t-test over folds" in page and "By fold" in page
    before = (out / "metrics.json").read_bytes()
    (tmp_path / "b.json").write_text(json.dumps([{**results[0], "score": 2}]))
    assert main(["evaluate", "--truth", str(tmp_path / "truth.json"), "--predictions",
                 str(tmp_path / "a.json"), "--against", str(tmp_path / "b.json"),
                 "--out", str(out)]) == 2
    assert "b.json: prediction 0" in capsys.readouterr().err
    assert (out / "metrics.json").read_bytes() == before
    with pytest.raises(InvalidTruth):
        write_report(out, {}, results, against=results)
