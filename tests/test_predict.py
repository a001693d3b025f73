"""From a mammogram to findings, on real films with untrained weights."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.spatial.distance import pdist

from ftmtl.canvas import Canvas, CanvasGeometry
from ftmtl.datasets.records import ImageRecord
from ftmtl.findings import (
    SCHEMA_FILE,
    Finding,
    Findings,
    ImageInfo,
    Verdict,
    encode_rle,
)
from ftmtl.mammogram import Mammogram, read_mammogram
from ftmtl.network.model import Detections
from ftmtl.overlay import draw_overlay
from ftmtl.predict import SCORE_FLOOR, Candidate, InvalidBoxes, Predictor, _mask, image_info
from ftmtl.predict_files import coco_results, patients_document, predict_files, predict_records
from ftmtl.probabilities import Calibration
from ftmtl.reading import Reading
from ftmtl.rle import decode_rle
from ftmtl.veto import ImageWord
from ftmtl.weights_file import load_weights


@pytest.fixture(scope="module")
def predictor(untrained: Path) -> Predictor:
    return Predictor.load(untrained, device="cpu")


@pytest.fixture(scope="module")
def film(samples: Path) -> Mammogram:
    return read_mammogram(samples / "P_00820_L_CC.dcm")


def scores(findings: Findings) -> list[tuple[dict[str, float] | None, float | None]]:
    return [(f.scores, f.malignancy) for f in findings.findings]


def test_a_real_film_gives_a_valid_document(predictor: Predictor, film: Mammogram) -> None:
    findings = predictor(film, threshold=SCORE_FLOOR, patient_key="0" * 16)
    document = json.loads(json.dumps(findings.to_json()))
    jsonschema.validate(document, json.loads(SCHEMA_FILE.read_text()))
    assert Findings.from_json(document) == findings
    assert len(findings.findings) >= 2
    assert findings.image.id == film.image_id
    assert findings.model == predictor.model
    scored = [1 - f.scores["background"] for f in findings.findings if f.scores]
    assert scored == sorted(scored, reverse=True)
    for finding in findings.findings:
        x, y, w, h = finding.bbox
        mask = finding.mask()
        if mask is not None:
            rows, columns = np.nonzero(mask)
            assert x - 1 <= columns.min() and columns.max() <= x + w
            assert y - 1 <= rows.min() and rows.max() <= y + h


def test_no_two_findings_are_one_mass(predictor: Predictor, film: Mammogram) -> None:
    boxes = [f.bbox for f in predictor(film, threshold=SCORE_FLOOR).findings]
    for i, (ax, ay, aw, ah) in enumerate(boxes):
        for bx, by, bw, bh in boxes[:i]:
            shared = max(0, min(ax + aw, bx + bw) - max(ax, bx)) * max(
                0, min(ay + ah, by + bh) - max(ay, by)
            )
            assert shared / (aw * ah + bw * bh - shared) <= 0.2 + 1e-3


def test_threshold_and_number_cut_the_list_and_change_nothing_else(
    predictor: Predictor, film: Mammogram
) -> None:
    everything = predictor(film, threshold=SCORE_FLOOR)
    whole = scores(everything)
    assert scores(predictor(film, threshold=SCORE_FLOOR, max_findings=2)) == whole[:2]
    number = len(whole) // 2
    middle = 1 - whole[number][0]["background"]  # type: ignore[index]
    kept = predictor(film, threshold=middle)
    assert scores(kept) == whole[: number + 1]  # a score at the threshold passes
    nothing = predictor(film, threshold=1.0)
    assert nothing.findings == () and everything.verdict.malignancy > 0
    assert nothing.verdict == kept.verdict == everything.verdict


@pytest.mark.parametrize(("points", "expected"), [
    ({"operating_points": {"0.3": 0.9, "1": 0.7, "3.67": 0.2}}, 0.7), ({}, 0.5)])
def test_the_threshold_is_that_of_one_false_positive_an_image(
    untrained: Path, points: dict[str, dict[str, float]], expected: float
) -> None:
    weights = replace(load_weights(untrained), metadata=points)
    assert Predictor(weights.network(), weights, version="1",
                     device=torch.device("cpu")).default_threshold == expected


def test_masses_are_gathered_from_boxes_by_hand(predictor: Predictor) -> None:
    """On a film of 400×900 that the canvas shows from (0, 40) on, half as wide and as high.

    The third box lies on the first and is malignant; the second is hardly a mass. Both leave the
    film by rounding. The fourth is less than anything that counts, the last a line.
    """
    canvas = Canvas(np.zeros((430, 200), np.float32), np.ones((430, 200), bool), CanvasGeometry(
        origin=(0, 40), extent=(400, 860), scale=(0.5, 0.5), image_size=(900, 400),
        canvas_size=(430, 200)))
    probabilities = torch.tensor([[0.1, 0.8, 0.1], [0.98, 0.015, 0.005], [0.4, 0.1, 0.5],
                                  [0.9995, 0.0004, 0.0001], [0.2, 0.6, 0.2]])
    boxes = torch.tensor([[-0.01, 20, 40, 40], [150, 400, 200.05, 430.02], [0, 20, 40, 50],
                          [100, 100, 120, 120], [60, 60, 60.5, 300]])
    maps, pooled = torch.rand(5, 28, 28), torch.rand(5, 1024)
    reading = predictor.gathered(Detections(boxes, probabilities.log(), maps, pooled), canvas)
    first, second = reading.candidates
    assert first.box == (0, 80, 80, 40)
    assert second.box == (300, 840, 100, 60)
    assert first.probabilities == pytest.approx(probabilities[0].numpy(), abs=1e-6)
    assert (first.score, second.score) == pytest.approx((0.9, 0.02), abs=1e-6)
    assert (first.malignancy, second.malignancy) == pytest.approx((5 / 6, 1 / 4), abs=1e-4)
    assert np.array_equal(first.mask, maps[0]) and np.array_equal(second.mask, maps[1])
    mean = ((1 - probabilities[:, :1]) * pooled).sum(dim=0)
    assert reading.features == pytest.approx((mean / mean.norm()).numpy(), abs=1e-6)
    (finding,) = predictor.findings(reading, ImageInfo(id="a", width=400, height=900)).findings
    assert finding.label == "malignant"  # though the box that is drawn is likelier benign


@pytest.mark.parametrize(("score", "malignancy", "said", "label"), [
    (0.6, 0.9, 0.54 / 0.64, "malignant"), (0.6, 0.5, 0.3 / 0.64, "benign"),
    (0.4, 0.9, 0.36 / 0.46, "no finding")])
def test_the_verdict_is_that_of_the_likely_masses(
    predictor: Predictor, score: float, malignancy: float, said: float, label: str
) -> None:
    share = score * malignancy
    candidate = Candidate((5, 5, 20, 20), np.array([1 - score, score - share, share]), malignancy,
                          np.ones((28, 28), np.float32))
    document = predictor.findings(Reading((candidate,), np.zeros(1024, np.float32)),
                                  ImageInfo(id="a", width=50, height=50), threshold=0.9)
    assert document.findings == ()
    assert (document.verdict.malignancy, document.verdict.label) == (pytest.approx(said), label)


def test_neither_the_headers_window_nor_the_bit_depth_changes_a_score(
    predictor: Predictor, film: Mammogram, samples: Path, tmp_path: Path
) -> None:
    expected = scores(predictor(film, threshold=SCORE_FLOOR))
    dataset = pydicom.dcmread(samples / "P_00820_L_CC.dcm")
    dataset.WindowCenter, dataset.WindowWidth = 100, 50
    dataset.save_as(tmp_path / "window.dcm")
    narrow = read_mammogram(tmp_path / "window.dcm")
    assert not np.array_equal(narrow.for_display(), film.for_display())
    assert scores(predictor(narrow, threshold=SCORE_FLOOR)) == expected

    eight = (film.pixels[::4, ::4] >> 8).astype(np.uint8)
    Image.fromarray(eight).save(tmp_path / "8.png")
    Image.fromarray(eight.astype(np.uint16) << 4).save(tmp_path / "12.png")
    shallow, deep = (read_mammogram(tmp_path / name) for name in ("8.png", "12.png"))
    assert (shallow.pixels.dtype, deep.pixels.dtype) == (np.uint8, np.uint16)
    seen = [scores(predictor(one, threshold=SCORE_FLOOR)) for one in (shallow, deep)]
    assert seen[0] == seen[1]


def test_asked_about_boxes_it_describes_them_as_they_lie(
    predictor: Predictor, film: Mammogram
) -> None:
    asked = [[500.0, 2700.0, 300.0, 250.0], [10.5, 20.25, 400.0, 380.0]]
    findings = predictor(film, boxes=asked)
    assert [list(f.bbox) for f in findings.findings] == asked
    swapped = predictor(film, boxes=asked[::-1])
    for one, other in zip(findings.findings, swapped.findings[::-1], strict=True):
        assert one.scores is not None and other.scores is not None
        assert list(one.scores.values()) == pytest.approx(list(other.scores.values()), abs=1e-3)


@pytest.mark.parametrize(
    "boxes", [[[1, 2, 3]], [[-500, 10, 20, 20]], [[10, 10, 0, 5]], [[float("nan")] * 4], ["box"]]
)
def test_boxes_that_are_none_are_refused(
    predictor: Predictor, film: Mammogram, boxes: list[list[float]]
) -> None:
    with pytest.raises(InvalidBoxes):
        predictor(film, boxes=boxes)


def test_what_is_shown_is_calibrated(
    predictor: Predictor, film: Mammogram, untrained: Path
) -> None:
    """Odds of a mass p are shown as e^0.5 · p²; those of malignant against benign as their root."""
    sober = Predictor.load(untrained, device="cpu")
    sober.calibration = Calibration(temperature=2.0, slope=2.0, intercept=0.5)
    box = [[500.0, 2700.0, 300.0, 250.0]]
    raw = predictor(film, boxes=box).findings[0].scores
    shown = sober(film, boxes=box).findings[0].scores
    assert raw is not None and shown is not None
    odds = np.exp(0.5) * ((1 - raw["background"]) / raw["background"]) ** 2
    assert 1 - shown["background"] == pytest.approx(odds / (1 + odds), rel=1e-6)
    ratio = shown["malignant"] / shown["benign"]
    assert ratio == pytest.approx((raw["malignant"] / raw["benign"]) ** 0.5, rel=1e-6)


def test_the_mask_is_the_map_stretched_over_the_box() -> None:
    """Against a slow reading of the map at every pixel's centre, one at a time."""
    random = np.random.default_rng(0)
    coarse = np.kron(random.random((4, 4)), np.ones((7, 7))).astype(np.float32)
    box = (10.3, 5.6, 40.9, 33.2)
    candidate = Candidate(box, np.array([0.2, 0.3, 0.5]), 0.6, coarse)
    rle, area, diameter = _mask(candidate, (60, 80), (0.5, 0.25))
    assert rle is not None and area is not None
    expected = np.zeros((60, 80), dtype=bool)
    least = min(0.5, coarse.max() / 2)
    for row in range(5, 39):
        for column in range(10, 52):
            u = (column + 0.5 - box[0]) / box[2] * 28 - 0.5
            v = (row + 0.5 - box[1]) / box[3] * 28 - 0.5
            u, v = min(max(u, 0), 27), min(max(v, 0), 27)
            i, j = min(int(v), 26), min(int(u), 26)
            a, b = v - i, u - j
            value = (1 - a) * ((1 - b) * coarse[i, j] + b * coarse[i, j + 1]) + a * (
                (1 - b) * coarse[i + 1, j] + b * coarse[i + 1, j + 1]
            )
            expected[row, column] = value >= least
    disagreeing = decode_rle(rle) != expected
    assert disagreeing.sum() <= 2  # a value on the threshold may round either way
    assert area == pytest.approx(decode_rle(rle).sum() * 0.125)
    y, x = np.nonzero(decode_rle(rle))
    corners = np.concatenate([np.stack([x + i, y + j], axis=1) for i in (0, 1) for j in (0, 1)])
    assert diameter == pytest.approx(pdist(np.unique(corners, axis=0) * (0.5, 0.25)).max())


def test_a_box_without_any_mask_says_so(film: Mammogram) -> None:
    empty = Candidate((5, 5, 20, 20), np.array([0.9, 0.05, 0.05]), 0.5,
                      np.zeros((28, 28), np.float32))
    assert _mask(replace(empty, mask=empty.mask - 1), (50, 50), None) is not None


def test_a_narrow_breast_is_drawn_in_its_true_shape(tmp_path: Path) -> None:
    """A round bright spot stays round in the picture, however thin the breast around it."""
    y, x = np.mgrid[:1400, :200]
    pixels = np.where(x < 160, 90, 0) + np.where((x - 80) ** 2 + (y - 700) ** 2 < 40**2, 160, 0)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "narrow.png")
    mammogram = read_mammogram(tmp_path / "narrow.png")
    nothing = Findings(image=image_info(mammogram, None), model=None, findings=(),
                       verdict=Verdict.of((), how="test"))
    picture = np.asarray(draw_overlay(mammogram, nothing).convert("L"))
    rows, columns = np.nonzero(picture[64:-64] > 200)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert width / height == pytest.approx(1, abs=0.05)


def test_a_data_sets_predictions_say_what_the_findings_say() -> None:
    mask = np.zeros((40, 30), dtype=bool)
    mask[3:9, 20:25] = True
    drawn = Finding(id="F1", label="benign", bbox=(20, 3, 5, 6), segmentation=encode_rle(mask),
                    mask_source="model", malignancy=0.4, source="model", status="proposed",
                    scores={"background": 0.25, "benign": 0.45, "malignant": 0.3})
    boxed = replace(drawn, id="F2", label="malignant", segmentation=None, mask_source="none")
    document = Findings(image=ImageInfo(id="a", width=30, height=40), model=None,
                        findings=(drawn, boxed), verdict=Verdict.of((), how="test"))
    first, second = coco_results(document, 7)
    segmentation = first.pop("segmentation")
    assert np.array_equal(coco_mask.decode(segmentation), mask)
    assert first == {"image_id": 7, "category_id": 1, "bbox": [20, 3, 5, 6], "score": 0.75,
                     "scores": [0.25, 0.45, 0.3], "malignancy": 0.4}
    assert second == {**first, "category_id": 2}


def test_a_patient_is_as_malignant_as_her_worst_image() -> None:
    def said(image: str, malignancy: float, label: ImageWord) -> Findings:
        return Findings(image=ImageInfo(id=image, width=30, height=40), model=None, findings=(),
                        verdict=Verdict(malignancy=malignancy, label=label, how="test"))

    document = patients_document({
        "b": [said("1", 0.3, "benign"), said("2", 0.55, "malignant"), said("3", 0, "no finding")],
        "a": [said("4", 0.9, "no finding")], "c": [said("5", 0.5, "benign")],
        # A malignant mass that does not lift its image above one half makes her so too.
        "d": [said("6", 0.47, "malignant"), said("7", 0.48, "benign")],
    })
    assert document == {
        "a": {"malignancy": 0.9, "label": "no finding", "images": {"4": 0.9}, "how": "test"},
        "b": {"malignancy": 0.55, "label": "malignant", "images": {"1": 0.3, "2": 0.55, "3": 0},
              "how": "test"},
        "c": {"malignancy": 0.5, "label": "benign", "images": {"5": 0.5}, "how": "test"},
        "d": {"malignancy": 0.48, "label": "malignant", "images": {"6": 0.47, "7": 0.48},
              "how": "test"},
    }


def test_a_data_set_is_read_down_to_the_floor_and_in_its_films_true_shape(
    untrained: Path, film: Mammogram, tmp_path: Path
) -> None:
    predictor = Predictor.load(untrained, device="cpu")
    predictor.default_threshold = 1.0
    record = ImageRecord(image_id=7, path=film.path, width=film.width, height=film.height,
                         patient_id="a", pixel_aspect=1.5)
    gone = replace(record, image_id=8, path=tmp_path / "gone.dcm")
    results, report = predict_records(predictor, [record, gone])
    expected = predictor(replace(film, pixel_aspect=1.5), threshold=SCORE_FLOOR)
    assert results == coco_results(expected, 7) and len(results) > 2
    assert (report.read, report.refused_ids) == (1, [8])


def test_files_are_read_at_the_threshold_that_is_asked_for(
    predictor: Predictor, film: Mammogram, tmp_path: Path
) -> None:
    twice = [film.path, Path(os.path.relpath(film.path))]
    for threshold in (SCORE_FLOOR, 1.0):
        report = predict_files(predictor, twice, tmp_path, threshold=threshold)
        assert (report.read, report.refused) == (1, [])
        document = json.loads((tmp_path / f"{film.image_id}.json").read_text())
        expected = predictor(film, threshold=threshold)
        assert Findings.from_json(document).findings == expected.findings
    assert document["verdict"]["malignancy"] > 0


def test_a_path_too_long_to_name_a_file_stops_nothing(
    predictor: Predictor, film: Mammogram, tmp_path: Path
) -> None:
    deep = tmp_path / "films" / ("年" * 40) / ("度" * 40)
    deep.mkdir(parents=True)
    for place in (deep / "a.png", tmp_path / "films" / "b.png"):
        Image.fromarray((film.pixels >> 8).astype(np.uint8)).save(place)
    out = tmp_path / "findings"
    assert predict_files(predictor, [tmp_path / "films"], out).read == 2
    long = deep.joinpath("a.png").relative_to(tmp_path / "films").as_posix().replace("/", "__")
    name = hashlib.sha256(long.encode()).hexdigest()
    assert json.loads((out / f"{name}.json").read_text())["image"]["id"] == long
    assert {p.name for p in out.glob("*.png")} == {f"{name}.png", "b.png.png"}
    assert long in (out / "files.csv").read_text()
