"""What held-out images say about weights: two calibrations and the operating points.

The temperature divides the logits of benign and malignant, so that the malignancy a person is shown
agrees with how often a mass of that malignancy is malignant (Guo et al. 2017, "On Calibration of
Modern Neural Networks"). A line through the log odds of the score does the same for being a mass at
all (Platt 1999). Neither changes the order of masses, by score or by malignancy; that of images,
where the two are multiplied (`ftmtl.veto.of_image`), they may. The operating points are the score
thresholds at 0.3, 1 and 3.67 false positives an image, measured with both. All come from patients
that training never saw.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from ftmtl.datasets.coco import to_coco
from ftmtl.datasets.records import ImageRecord
from ftmtl.device import pick_device
from ftmtl.evaluation import operating_points
from ftmtl.evaluation.inputs import (
    UNKNOWN_CLASS,
    InvalidPredictions,
    Truth,
    load_json,
    parse_predictions,
    parse_truth,
)
from ftmtl.evaluation.matching import CRITERIA, IGNORED, match
from ftmtl.predict import Predictor
from ftmtl.predict_files import Report, predict_records
from ftmtl.probabilities import Calibration
from ftmtl.weights_file import load_weights, save_weights

log = logging.getLogger(__name__)
WIDEST = 2.0  # of the logarithm of a temperature, to either side


class NotCalibratable(ValueError):
    """There are no held-out masses to calibrate on, or they say nothing that can be believed."""


def calibrate(
    weights: Path,
    records: Sequence[ImageRecord],
    out: Path,
    *,
    predictions: Path | None = None,
    device: str = "auto",
    on_file: Callable[[int, int, Path], None] = lambda done, total, path: None,
) -> dict[str, Any]:
    """Write `weights` with `calibration` and `operating_points` from held-out records.

    Weights that learned from all there was have no held-out records. What the same recipe said of
    records while they were held out stands in: `predictions`, COCO results of uncalibrated weights.

    A film that cannot be read is left out, and logged: nothing was said of it that could be
    measured. Returns what was added. Raises NotCalibratable, InvalidPredictions, UnusableWeights.
    """
    read = load_weights(weights)
    network = read.network()
    raw = {k: v for k, v in read.metadata.items() if k != "calibration"}
    if predictions is not None:
        results, name = load_json(predictions, InvalidPredictions, "predictions")
    else:
        plain = replace(read, metadata=raw)
        predictor = Predictor(network, plain, version="uncalibrated", device=pick_device(device))
        results, report = predict_records(predictor, records, on_file=on_file)
        records = _without(records, report)
        name = "its predictions"
    added = measure(records, results, name)
    if predictions is not None:
        added["calibrated_on"] += (
            ", by predictions that were given as those of the same recipe's weights that never saw "
            "them"
        )
    save_weights(out, network, preset=read.preset, metadata={**raw, **added})
    return added


def _without(records: Sequence[ImageRecord], report: Report) -> list[ImageRecord]:
    """The records that were read. Raises NotCalibratable where none was."""
    for line in report.refused:
        log.warning("left out: %s", line)
    refused = set(report.refused_ids)
    read = [record for record in records if record.image_id not in refused]
    if not read:
        reason = report.refused[0] if report.refused else "the data set is empty"
        raise NotCalibratable(f"no image can be calibrated on: {reason}")
    return read


def measure(
    records: Sequence[ImageRecord], results: Sequence[dict[str, Any]], name: str = "predictions"
) -> dict[str, Any]:
    """`calibration` and `operating_points` of uncalibrated COCO results on held-out records.

    Raises NotCalibratable, and InvalidPredictions, which says whose by `name`.
    """
    told = parse_truth(to_coco(records))
    probabilities, truth = _judged(told, results, name)
    masses = truth > 0
    searched = told.searched_image
    if not searched.any():
        raise NotCalibratable(f"{told.unsearchable}: calibrate on images whose masses are marked")
    if not masses.any():
        raise NotCalibratable("no held-out mass was found: calibrate on images with masses")
    if masses.all():
        raise NotCalibratable("every candidate is a mass: calibrate on images with false positives")
    if len(np.unique(truth[masses])) < 2:
        raise NotCalibratable("the masses found are all of one class: calibrate on both")
    kinds = np.log(np.clip(probabilities[masses, 1:], 1e-12, 1))
    slope, intercept = fit_odds(1 - probabilities[:, 0], masses)
    if slope <= 0:
        raise NotCalibratable("masses score no higher than false positives: train first")
    temperature = fit_temperature(kinds, truth[masses] - 1)
    if np.log(temperature) < -0.99 * WIDEST:  # at the other end nothing is claimed of the class
        raise NotCalibratable(
            f"the best temperature is below {temperature:.2g}: the {masses.sum()} masses found are "
            "all told rightly, and too few to say how sure that is"
        )
    fitted = Calibration(temperature=temperature, slope=slope, intercept=intercept)
    return {
        "calibration": asdict(fitted),
        "operating_points": operating_points(
            to_coco(records), [_calibrated(result, fitted) for result in results]
        ),
        "calibrated_on": f"{searched.sum()} held-out images of "
                         f"{len(np.unique(told.patient[searched]))} patients",
    }


def fit_temperature(logits: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """The temperature at which logits [N, C] give the true classes [N] the least log loss."""

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(scaled).sum(axis=1))
        return float((log_sum - scaled[np.arange(len(truth)), truth]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-WIDEST, WIDEST), method="bounded").x))


def fit_odds(scores: NDArray[np.float64], masses: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept of the log odds of being a mass over those of the scores [N] in 0…1."""
    odds = logit(np.clip(scores, 1e-6, 1 - 1e-6))[:, None]
    line = LogisticRegression(C=np.inf).fit(odds, masses)
    return float(line.coef_[0, 0]), float(line.intercept_[0])


def _judged(
    truth: Truth, results: Sequence[dict[str, Any]], name: str = "predictions"
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities [N, 3] and true class [N] of the candidates; 0 where there is no mass.

    Settled as for a FROC curve: a second candidate on a mass is background, one on a mass of
    unknown class or in an ignore region says nothing.
    """
    predictions = parse_predictions(results, truth, name)
    found = match(truth, predictions, CRITERIA["iou>0.2"])
    hit = found >= 0
    classes = np.zeros(len(found), dtype=np.int64)
    classes[hit] = truth.mass_class[found[hit]]
    counted = (found != IGNORED) & ~(hit & (classes == UNKNOWN_CLASS))
    return predictions.probabilities[counted], classes[counted]


def _calibrated(result: dict[str, Any], calibration: Calibration) -> dict[str, Any]:
    logits = np.log(np.clip(result["scores"], 1e-12, 1))[None]
    (scores,) = calibration(logits).tolist()
    return {**result, "scores": scores, "score": 1 - scores[0]}
