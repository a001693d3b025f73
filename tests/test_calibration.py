"""Both calibrations, against cases whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftmtl.calibration import NotCalibratable, _judged, fit_odds, fit_temperature, measure
from ftmtl.datasets.coco import to_coco
from ftmtl.datasets.records import Annotation, ImageRecord
from ftmtl.evaluation.inputs import parse_truth
from ftmtl.probabilities import Calibration


def test_the_temperature_undoes_overconfidence() -> None:
    """Classes drawn from softmax(z); shown 2.5 z, the fit must come back to 2.5."""
    random = np.random.default_rng(1)
    honest = random.normal(size=(20_000, 3))
    shares = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    truth = (random.random((len(shares), 1)) > shares.cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(2.5 * honest, truth) == pytest.approx(2.5, rel=0.05)


def test_the_odds_come_back() -> None:
    """Masses drawn with log odds 2.5 z − 1, scores whose log odds are z."""
    random = np.random.default_rng(2)
    z = random.normal(size=40_000)
    masses = random.random(len(z)) < 1 / (1 + np.exp(1 - 2.5 * z))
    slope, intercept = fit_odds(1 / (1 + np.exp(-z)), masses)
    assert slope == pytest.approx(2.5, rel=0.03)
    assert intercept == pytest.approx(-1, abs=0.05)


def test_without_a_fit_the_network_is_shown_as_it_is() -> None:
    logits = np.random.default_rng(3).normal(0, 4, (20, 3))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(Calibration.of({})(logits), shares)


def test_candidates_are_judged_by_the_mass_they_lie_on(tmp_path) -> None:  # type: ignore[no-untyped-def]
    masses = (
        Annotation(id=1, bbox=(10, 10, 20, 20), category=2),
        Annotation(id=2, bbox=(60, 60, 20, 20), category=1, class_known=False),
    )
    record = ImageRecord(image_id=7, path=tmp_path, width=100, height=100, patient_id="a",
                         annotations=masses)
    boxes = [[12, 12, 20, 20], [70, 10, 20, 20], [60, 61, 20, 20], [9, 9, 20, 20], [12, 12, 20, 20]]
    scores = [[0.1, 0.3, 0.6], [0.5, 0.3, 0.2], [0.4, 0.3, 0.3], [0.6, 0.2, 0.2], [0.97, 0, 0.03]]
    results = [
        {"image_id": 7, "bbox": box, "category_id": 2, "score": 1 - score[0], "scores": score}
        for box, score in zip(boxes, scores, strict=True)
    ]
    probabilities, truth = _judged(parse_truth(to_coco([record])), results)
    # A hit, a false positive, and two more boxes on the first mass. The third lies on a mass of
    # unknown class.
    assert truth.tolist() == [2, 0, 0, 0]
    assert probabilities.tolist() == [scores[0], scores[1], *scores[3:]]


def marked(count: int) -> tuple[list[ImageRecord], list[dict[str, Any]]]:
    """Images with a mass each, benign and malignant in turns; it is found, and something beside."""
    random, records, results = np.random.default_rng(1), [], []
    for n in range(count):
        mass = Annotation(id=n, bbox=(10, 10, 20, 20), category=1 + n % 2)
        records.append(ImageRecord(image_id=n, path=Path("x"), width=100, height=100,
                                   patient_id=str(n), annotations=(mass,)))
        for box, score in (((10, 10, 20, 20), random.uniform(0.3, 0.95)),
                           ((60, 60, 20, 20), random.uniform(0.05, 0.6))):
            malignancy = np.clip(random.normal(0.35 + 0.3 * (n % 2), 0.2), 0.01, 0.99)
            said = [1 - score, score * (1 - malignancy), score * malignancy]
            results.append({"image_id": n, "bbox": list(box), "category_id": 2,
                            "score": 1 - said[0], "scores": said})
    return records, results


def test_breasts_whose_masses_have_no_place_calibrate_nothing() -> None:
    """As in CMMD: beside others they change nothing, alone they are refused with the reason."""
    records, results = marked(40)
    breasts = [
        replace(r, image_id=f"C{n}", patient_id=f"C{n}", annotations=(
            replace(r.annotations[0], id=f"C{n}", bbox=(0, 0, 100, 100), role="ignore"),))
        for n, r in enumerate(records)
    ]
    there = [{**r, "image_id": f"C{r['image_id']}"} for r in results]
    assert measure([*records, *breasts], [*results, *there]) == measure(records, results)
    with pytest.raises(NotCalibratable, match="every image lies wholly in a region to ignore"):
        measure(breasts, there)


@pytest.mark.parametrize(("scores", "reason"), [
    # Of each of four images: what is said of its mass (benign, malignant in turns), and elsewhere.
    ([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.2, 0.4, 0.4]], "score no higher than false positives"),
    ([[0.3, 0.6, 0.1], [0.1, 0.1, 0.8], [0.7, 0.2, 0.1]], "temperature is below"),
])
def test_a_fit_that_nobody_can_believe_is_refused(tmp_path, scores, reason) -> None:  # type: ignore[no-untyped-def]
    records, results = [], []
    for n in range(4):
        mass = Annotation(id=n, bbox=(10, 10, 20, 20), category=1 + n % 2)
        records.append(ImageRecord(image_id=n, path=tmp_path, width=100, height=100,
                                   patient_id=str(n), annotations=(mass,)))
        own = [(scores[n % 2], [10, 10, 20, 20]), (scores[2], [60, 60, 20, 20])]
        # One of each the other way round, so that a line can be drawn through the odds at all.
        if n == 3:
            own.append(([0.5, 0.25, 0.25], [60, 10, 20, 20]))
        results += [{"image_id": n, "bbox": box, "category_id": 2, "score": 1 - said[0],
                     "scores": said} for said, box in own]
    with pytest.raises(NotCalibratable, match=reason):
        measure(records, results)
