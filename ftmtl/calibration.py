"""What held-out images say about weights: operating points and a calibration temperature.

The temperature divides the class logits so that the malignancy a person is shown agrees with how
often a mass of that malignancy is malignant (Guo et al. 2017, "On Calibration of Modern Neural
Networks"). Whether a place is a mass at all has operating points instead: the score thresholds at
0.3, 1 and 3.67 false positives an image, measured with that temperature. Both come from patients
that training never saw.
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
from ftmtl.evaluation.inputs import UNKNOWN_CLASS, parse_predictions, parse_truth
from ftmtl.evaluation.matching import CRITERIA, IGNORED, match
from ftmtl.predict import Predictor
from ftmtl.predict_files import predict_records
from ftmtl.weights_file import load_weights, save_weights

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
    masses = truth > 0
    kinds = np.log(np.clip(probabilities[masses, 1:], 1e-12, 1))
    temperature = fit_temperature(kinds, truth[masses] - 1)
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
    """The temperature at which logits [N, C] give the true classes [N] the least log loss."""

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(scaled).sum(axis=1))
        return float((log_sum - scaled[np.arange(len(truth)), truth]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded").x))


def _judged(
    records: Sequence[ImageRecord], results: Sequence[dict[str, Any]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities [N, 3] and true class [N] of the candidates that are likely enough to show.

    Settled as for a FROC curve: a second candidate on a mass is background, one on a mass of
    unknown class or in an ignore region says nothing.
    """
    truth = parse_truth(to_coco(records))
    predictions = parse_predictions(results, truth)
    found = match(truth, predictions, CRITERIA["iou>0.2"])
    hit = found >= 0
    classes = np.zeros(len(found), dtype=np.int64)
    classes[hit] = truth.mass_class[found[hit]]
    counted = (predictions.score >= COUNTED_SCORE) & (found != IGNORED)
    counted &= ~(hit & (classes == UNKNOWN_CLASS))
    return predictions.probabilities[counted], classes[counted]


def _at_temperature(result: dict[str, Any], temperature: float) -> dict[str, Any]:
    scaled = np.log(np.clip(result["scores"], 1e-12, 1)) / temperature
    scores = np.exp(scaled - scaled.max())
    scores /= scores.sum()
    return {**result, "scores": scores.tolist(), "score": float(1 - scores[0])}
