"""Wrong input is refused by name, and the report is whole."""

from __future__ import annotations

import copy
import json
import math
import re

import matplotlib.image
import pytest
from evaluation_cases import image, mass, prediction, random_set, truth

from ftmtl.datasets.records import MALIGNANT
from ftmtl.evaluation import InvalidPredictions, InvalidTruth, evaluate
from ftmtl.evaluation.bootstrap import patient_weights
from ftmtl.evaluation.inputs import parse_truth
from ftmtl.evaluation.report import write_report

BOX = [0.0, 0.0, 100.0, 100.0]
MASK = {"size": [1000, 1000], "counts": [0, 100, 999_900]}
TRUTH = truth(
    [image("a", "P1"), image("b", "P2")],
    [
        mass("a", BOX, True, mask_source="annotated", segmentation=MASK),
        mass("b", BOX),
    ],
)
GOOD = prediction("a", BOX, 0.9)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_id": "c"}, "image_id 'c' is not in"),
        ({"image_id": ["a"]}, "is not in"),
        ({"score": math.nan}, "score nan is not a number"),
        ({"score": True}, "score True is not a number"),
        ({"score": 1.2}, "score 1.2 is not a number from 0 to 1"),
        ({"scores": [0.1, math.nan, 0.4]}, "scores"),
        ({"scores": [0.1, 0.9]}, "scores"),
        ({"scores": [0.1, 0.1, 0.1]}, "do not add up to 1"),
        ({"category_id": 3}, "category_id 3 is not 1 or 2"),
        ({"bbox": [0, 0, 0, 5]}, "has no area"),
        ({"bbox": [0, 0, 5]}, "is not four finite numbers"),
        ({"bbox": [0, 0, 5, math.inf]}, "is not four finite numbers"),
        ({"bbox": [1000, 0, 5, 5]}, "lies outside its image of 1000 by 1000"),
        ({"segmentation": {"size": [10, 10], "counts": [100]}}, "is not the image's"),
        ({"segmentation": {"size": [1000, 1000], "counts": [5]}}, "do not add up"),
        ({"segmentation": {"size": [1000, 1000], "counts": "0d0~"}}, "not RLE"),
        ({"segmentation": {"size": [1000, 1000], "counts": "0d0"}}, "do not add up"),
        ({"segmentation": "yes"}, "neither polygons nor an RLE"),
        # Half runs would keep pycocotools going for ever.
        ({"segmentation": {"size": [1000, 1000], "counts": [0.5, 999999.5]}}, "whole numbers"),
        ({"segmentation": {"size": [math.inf, 1000], "counts": [5]}}, "is not [height, width]"),
        ({"scores": [0.5, 0.1, 0.4]}, "score 0.95 is not 1 - background"),
        ({"bbox": [0, 0, 10**400, 5]}, "is not four finite numbers"),
    ],
)
def test_a_wrong_prediction_is_named(change, reason) -> None:
    with pytest.raises(InvalidPredictions, match=re.escape(reason)) as caught:
        evaluate(TRUTH, [GOOD, {**prediction("a", BOX, 0.95), **change}], bootstraps=0)
    assert str(caught.value).startswith("predictions: prediction 1 (image ")


@pytest.mark.parametrize("entry", [1, None, "a", [GOOD]])
def test_what_is_no_prediction_is_named(entry) -> None:
    with pytest.raises(InvalidPredictions, match="prediction 1: is not a JSON object"):
        evaluate(TRUTH, [GOOD, entry], bootstraps=0)


@pytest.mark.parametrize("key", ["image_id", "bbox", "category_id", "score", "scores"])
def test_a_missing_key_is_named(key) -> None:
    with pytest.raises(InvalidPredictions, match=f"has no '{key}'"):
        evaluate(TRUTH, [{k: v for k, v in GOOD.items() if k != key}], bootstraps=0)


def broken(path: list, value: object) -> dict:
    """TRUTH with one place changed."""
    coco = copy.deepcopy(TRUTH)
    at = coco
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return coco


@pytest.mark.parametrize(
    ("coco", "reason"),
    [
        ({}, "it has no list of images"),
        ({"images": []}, "holds no image"),
        (broken(["images", 1, "id"], "a"), "image 'a': occurs twice"),
        (broken(["annotations", 1, "image_id"], "x"), "annotation 2: belongs to unknown image"),
        (broken(["annotations", 1, "bbox"], [0, 0, -1, 5]), "annotation 2: bbox"),
        (broken(["annotations", 1, "category_id"], 7), "annotation 2: category 7"),
        (broken(["annotations", 1, "role"], "guess"), "annotation 2: role 'guess'"),
        (broken(["categories", 0, "name"], "malignant"), "category 1: is 'malignant'"),
        (broken(["annotations", 0, "segmentation"], [[1, 2]]), "annotation 1: segmentation"),
        (broken(["images", 0], 1), "its images are not a list of objects"),
        (broken(["annotations"], None), "its annotations are not a list of objects"),
        (broken(["categories"], {"1": "benign"}), "its categories are not a list of objects"),
        (broken(["images", 1, "id"], True), "image True: has no id"),
        (broken(["images", 1, "height"], "tall"), "image 'b': its sides"),
        (broken(["images", 1, "patient_id"], ["P2"]), "image 'b': patient_id ['P2'] is no name"),
        (broken(["annotations", 1, "image_id"], ["b"]), "annotation 2: belongs to unknown image"),
        (broken(["annotations", 1, "id"], 1), "annotation 1: occurs twice"),
        (broken(["images", 1, "malignant"], 1), "image 'b': malignant 1 is neither true nor false"),
        (broken(["annotations", 1, "class_known"], "false"), "annotation 2: class_known 'false'"),
    ],
)
def test_wrong_truth_is_named(coco, reason) -> None:
    prediction_with_mask = prediction("a", BOX, 0.9, segmentation=MASK)
    with pytest.raises(InvalidTruth, match=re.escape(reason)):
        evaluate(coco, [prediction_with_mask], bootstraps=0)


def test_categories_that_are_not_ours_are_not_looked_at() -> None:
    for identity in (90, [1]):
        evaluate(broken(["categories", 0, "id"], identity), [], bootstraps=0)


def test_the_report_is_whole(tmp_path) -> None:
    """Six files from two files: plots that can be read, HTML that needs nothing else."""
    coco, results = random_set(1)
    (tmp_path / "truth.json").write_text(json.dumps(coco))
    (tmp_path / "predictions.json").write_text(json.dumps(results))
    out = tmp_path / "new" / "report"
    returned = write_report(
        out, tmp_path / "truth.json", tmp_path / "predictions.json", bootstraps=100, title="<A & B>"
    )
    assert sorted(p.name for p in out.iterdir()) == [
        "froc.png",
        "localisation.png",
        "metrics.json",
        "reliability.png",
        "report.html",
        "roc.png",
    ]
    assert json.loads((out / "metrics.json").read_text()) == returned
    assert returned == {**evaluate(coco, results, bootstraps=100), "folds": {}}
    for name in ("froc.png", "roc.png", "localisation.png", "reliability.png"):
        assert matplotlib.image.imread(out / name).std() > 0.05
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r"(src|href)=.?(?!.?data:)", page)
    assert "<h1>&lt;A &amp; B&gt;</h1>" in page

    # Each figure stands in its own row.
    def worded(part, figures, key):
        low, high = part["ci95"][key]
        return f"{figures[key]:.3f} ({low:.3f} to {high:.3f})"

    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    for name, key in (("IoU &gt; 0.2", "iou>0.2"), ("centre in box", "centre")):
        over_all = returned["detection"][key]
        parts = over_all, over_all["fpi_over_lesion_images"]
        assert [row[1:] for row in rows if row[:1] == [name]] == [
            [worded(part, part["tpr_at_fpi"], fpi) for fpi in part["tpr_at_fpi"]] for part in parts]
    # One woman has no malignant mass, and draws without her no AUC by patient.
    told = parse_truth(coco)
    malignant = told.patient[told.mass_image[told.mass_class == MALIGNANT]]
    [other] = set(range(told.patients)) - set(malignant.tolist())
    left_out = int((patient_weights(told.patients, 100, seed=0)[:, other] == 0).sum())
    classes = returned["classification"]
    for name, key in (("mass, detected masses alone", "mass_detected"), ("image", "image"),
                      ("mass, a missed one counts 0", "mass_all"), ("patient", "patient")):
        n = classes["n"][f"auc_{key}"]
        note = f"few patients: {left_out} of 100 replicates leave it undefined and count for " \
            "nothing" if key == "patient" else ""
        assert [f"AUC by {name}", worded(classes, classes, f"auc_{key}"),
                f"{n['malignant']} malignant, {n['other']} not", note] in rows


@pytest.mark.parametrize(
    ("coco", "results"),
    [(truth([image(1)], []), []), (truth([image(1)], []), [prediction(1, BOX, 0.5)]), (TRUTH, []),
     (truth([image(1)], [mass(1, [0.0, 0.0, 1000.0, 1000.0], role="ignore")]),
      [prediction(1, BOX, 0.5)])],
)
def test_a_report_on_little(tmp_path, coco, results) -> None:
    """No masses, no predictions, one patient, no place known: a report all the same."""
    write_report(tmp_path, coco, results, bootstraps=20)
    assert "NaN" not in (tmp_path / "metrics.json").read_text()


def test_refused_input_leaves_the_last_report(tmp_path) -> None:
    """The file is named, and what was there stays."""
    write_report(tmp_path, TRUTH, [GOOD], bootstraps=0)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    with pytest.raises(InvalidPredictions, match=r"bad\.json: is not JSON"):
        write_report(tmp_path, TRUTH, bad)
    bad.write_text(json.dumps([{**GOOD, "image_id": "z"}]))
    with pytest.raises(InvalidPredictions, match=r"bad\.json: prediction 0 \(image 'z'\)"):
        write_report(tmp_path, TRUTH, bad)
    with pytest.raises(InvalidTruth, match=r"none\.json: cannot be read: No such file"):
        write_report(tmp_path, tmp_path / "none.json", [])
    bad.unlink()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
