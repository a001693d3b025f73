"""The temperature and the operating points, against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from ftmtl.calibration import _judged, fit_temperature
from ftmtl.datasets.records import Annotation, ImageRecord


def test_the_temperature_undoes_overconfidence() -> None:
    """Classes drawn from softmax(z); shown 2.5 z, the fit must come back to 2.5."""
    random = np.random.default_rng(1)
    honest = random.normal(size=(20_000, 3))
    shares = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    truth = (random.random((len(shares), 1)) > shares.cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(2.5 * honest, truth) == pytest.approx(2.5, rel=0.05)


def test_candidates_are_judged_by_the_mass_they_lie_on(tmp_path) -> None:  # type: ignore[no-untyped-def]
    masses = (
        Annotation(id=1, bbox=(10, 10, 20, 20), category=2),
        Annotation(id=2, bbox=(60, 60, 20, 20), category=1, class_known=False),
    )
    record = ImageRecord(image_id=7, path=tmp_path, width=100, height=100, patient_id="a",
                         annotations=masses)
    results = [
        {"image_id": 7, "bbox": [12, 12, 20, 20], "score": 0.9, "scores": [0.1, 0.3, 0.6]},
        {"image_id": 7, "bbox": [70, 10, 20, 20], "score": 0.5, "scores": [0.5, 0.3, 0.2]},
        {"image_id": 7, "bbox": [12, 12, 20, 20], "score": 0.01, "scores": [0.99, 0.005, 0.005]},
    ]
    probabilities, truth = _judged([record], results)
    assert truth.tolist() == [2, 0]  # the third is too unlikely ever to be shown
    assert probabilities[0].tolist() == [0.1, 0.3, 0.6]
