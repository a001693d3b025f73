"""What held-out images say about weights: operating points and a calibration temperature.

The temperature divides the class logits so that the probabilities a person is shown agree with
how often they are right (Guo et al. 2017, "On Calibration of Modern Neural Networks"). The
operating points are the score thresholds at 0.3, 1 and 3.67 false positives an image, measured
with that temperature. Both come from patients that training never saw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from ftmtl.datasets.coco import to_coco
from ftmtl.datasets.records import ImageRecord
from ftmtl.device import pick_device
from ftmtl.evaluation import operating_points
from ftmtl.evaluation.matching import iou
from ftmtl.predict import Predictor
from ftmtl.predict_files import predict_records
from ftmtl.weights_file import load_weights, save_weights

HIT_IOU = 0.2
COUNTED_SCORE = 0.05  # the mass of candidates below it is never shown and would swamp the fit


class NotCalibratable(ValueError):
    """There are no held-out masses to calibrate on."""


def calibrate(
    weights: Path,
    records: Sequence[ImageRecord],
    out: Path,
    *,
    device: str = "auto",
    on_file: Callable[[int, int, Path], None] = lambda done, total, path: None,
) -> dict[str, Any]:
    """Write `weights` with `temperature` and `operating_points` from held-out records.

    Returns what was added. Raises NotCalibratable, UnusableWeights.
    """
    read = load_weights(weights)
    network = read.network()
    plain = replace(read, metadata={**read.metadata, "temperature": 1.0})
    predictor = Predictor(network, plain, version="uncalibrated", device=pick_device(device))
    results, _ = predict_records(predictor, records, on_file=on_file)
    probabilities, truth = _judged(records, results)
    if not (truth > 0).any():
        raise NotCalibratable("no held-out mass was found: calibrate on images with masses")
    temperature = fit_temperature(np.log(np.clip(probabilities, 1e-12, 1)), truth)
    cooled = [_at_temperature(result, temperature) for result in results]
    added = {
        "temperature": temperature,
        "operating_points": operating_points(to_coco(records), cooled),
        "calibrated_on": f"{len(records)} held-out images of "
                         f"{len({r.patient_id for r in records})} patients",
    }
    save_weights(out, network, preset=read.preset, metadata={**read.metadata, **added})
    return added


def fit_temperature(logits: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """The temperature at which logits [N, 3] give the true classes [N] the least log loss."""

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(scaled).sum(axis=1))
        return float((log_sum - scaled[np.arange(len(truth)), truth]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded").x))


def _judged(
    records: Sequence[ImageRecord], results: Sequence[dict[str, Any]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities [N, 3] and true class [N] of the candidates that are likely enough to show."""
    by_image: dict[Any, list[dict[str, Any]]] = {r.image_id: [] for r in records}
    for result in results:
        if result["score"] >= COUNTED_SCORE:
            by_image[result["image_id"]].append(result)
    rows: list[list[float]] = []
    classes: list[int] = []
    for record in records:
        masses = [a for a in record.masses if a.class_known]
        boxes = np.array([_corners(a.bbox) for a in masses]).reshape(-1, 4)
        for result in by_image[record.image_id]:
            overlap = iou(np.array([_corners(result["bbox"])]), boxes)[0]
            hit = len(masses) > 0 and overlap.max() > HIT_IOU
            rows.append(result["scores"])
            classes.append(masses[int(overlap.argmax())].category if hit else 0)
    return np.array(rows).reshape(-1, 3), np.array(classes, dtype=np.int64)


def _at_temperature(result: dict[str, Any], temperature: float) -> dict[str, Any]:
    scaled = np.log(np.clip(result["scores"], 1e-12, 1)) / temperature
    scores = np.exp(scaled - scaled.max())
    scores /= scores.sum()
    return {**result, "scores": scores.tolist(), "score": float(1 - scores[0])}


def _corners(box: Sequence[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y + height]
