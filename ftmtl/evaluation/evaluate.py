"""All figures of one model on one data set.

`judge` settles once which prediction found which mass; its `Judged` holds every figure both as a
number and as a statistic of patient weights, so that a second model, judged on the same truth, can
be compared in pairs under the same weights. `evaluate` puts numbers and intervals into one dict.

Figures that need *detected* masses take, for each mass, the best scored prediction with IoU > 0.4
(paper, 3.4.2) among those that score at least the threshold of 3.67 FPI (IoU > 0.2, all images).
In the bootstrap this threshold stays as it is: it is an operating point, not a result.

Images are ranked by the rule that a reader is shown (`ftmtl.veto.of_image`), over all predictions,
each with the malignancy of its own scores; breasts and patients by the worst of their images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftmtl.datasets.records import BENIGN, MALIGNANT
from ftmtl.evaluation.bootstrap import (
    Statistic,
    interval,
    mean_of,
    median_of,
    patient_weights,
    replicate,
)
from ftmtl.evaluation.dice import mass_dice
from ftmtl.evaluation.froc import Froc, corners, froc, threshold_at, tpr_at
from ftmtl.evaluation.inputs import (
    UNKNOWN_CLASS,
    FloatArray,
    IntArray,
    Predictions,
    Truth,
    parse_predictions,
    parse_truth,
)
from ftmtl.evaluation.localisation import LOCALISATION_FPI, froc_by_iou
from ftmtl.evaluation.matching import CRITERIA, MISSED, detected, match
from ftmtl.evaluation.reliability import Reliability, reliabilities
from ftmtl.evaluation.roc import Ranking, group_ranking, image_malignancies, mass_rankings

FPI = (0.3, 0.8, 1.0, 3.67, 5.0)
DETECTED_FPI = 3.67
DETECTED_IOU = 0.4


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One model's predictions, settled against the truth."""

    truth: Truth
    predictions: Predictions
    frocs: dict[str, Froc]  # by criterion, FPI over all images
    lesion_frocs: dict[str, Froc]  # by criterion, FPI over the images with a mass
    threshold: float  # of 3.67 FPI
    speaker: IntArray  # [M] the prediction that speaks for each mass, or MISSED
    overlap: FloatArray  # [M] its IoU
    rankings: dict[str, Ranking]  # auc_mass_detected, auc_mass_all, auc_image, …
    unranked: dict[str, str]  # which of them do not exist at all, and why
    reliability: dict[str, Reliability]  # mass, malignancy
    dice: FloatArray  # [n] of the masses in dice_mass
    dice_mass: IntArray  # [n]
    undrawn: str | None  # why n is 0

    @property
    def mass_patient(self) -> IntArray:
        """[M] the patient of each mass."""
        return self.truth.patient[self.truth.mass_image]


def judge(truth: Truth, predictions: Predictions) -> Judged:
    """Match the predictions and prepare every figure."""
    found = {name: match(truth, predictions, hits) for name, hits in CRITERIA.items()}
    frocs = {name: froc(truth, predictions, taken) for name, taken in found.items()}
    lesion_frocs = {
        name: froc(truth, predictions, taken, lesion_images_only=True)
        for name, taken in found.items()
    }
    threshold = threshold_at(frocs["iou>0.2"].curve, DETECTED_FPI)
    speaker, overlap = detected(truth, predictions, threshold, DETECTED_IOU)

    suspicion = image_malignancies(predictions, truth.images)
    rankings = dict(
        zip(
            ("auc_mass_detected", "auc_mass_all"),
            mass_rankings(truth, predictions, speaker),
            strict=True,
        )
    )
    unranked = {}
    groups = {"image": np.arange(truth.images), "breast": truth.breast, "patient": truth.patient}
    for unit, group in groups.items():
        if (group < 0).any():
            unranked[f"auc_{unit}"] = f"{int((group < 0).sum())} images have no laterality"
        else:
            rankings[f"auc_{unit}"] = group_ranking(truth, suspicion, group, unit)

    values, drawn, undrawn = mass_dice(truth, predictions, speaker)
    return Judged(
        truth=truth,
        predictions=predictions,
        frocs=frocs,
        lesion_frocs=lesion_frocs,
        threshold=threshold,
        speaker=speaker,
        overlap=overlap,
        rankings=rankings,
        unranked=unranked,
        reliability=reliabilities(truth, predictions, found["iou>0.2"], speaker, threshold),
        dice=values,
        dice_mass=drawn,
        undrawn=undrawn,
    )


class _Sheet:
    """One part of the result: figures, their intervals, and the reason for each null."""

    def __init__(self, weights: FloatArray) -> None:
        self.weights = weights
        self.figures: dict[str, float | None] = {}
        self.ci95: dict[str, list[float] | None] = {}
        self.reasons: dict[str, str] = {}

    def put(self, key: str, value: float, statistic: Statistic) -> None:
        self.figures[key] = value
        drawn = replicate(statistic, self.weights)
        bounds = interval(drawn)
        self.ci95[key] = list(bounds) if bounds else None
        undefined = int(np.isnan(drawn).sum())
        if bounds is None and len(self.weights):
            self.reasons[f"ci95 {key}"] = "too few patients: most replicates leave it undefined"
        elif undefined:
            self.reasons[f"ci95 {key}"] = (
                f"few patients: {undefined} of {len(drawn)} replicates leave it undefined and "
                "count for nothing"
            )

    def leave_out(self, key: str, reason: str) -> None:
        self.figures[key], self.ci95[key], self.reasons[key] = None, None, reason


def _detection(truth: Truth, analysis: Froc, weights: FloatArray) -> dict[str, Any]:
    sheet, masses, searched = _Sheet(weights), truth.masses, bool(truth.searched_image.any())
    for fpi in FPI:
        if masses:
            sheet.put(f"{fpi:g}", tpr_at(analysis.curve, fpi), analysis.tpr(fpi))
        else:
            sheet.leave_out(f"{fpi:g}", truth.unsearchable)
    return {
        "tpr_at_fpi": sheet.figures,
        "ci95": sheet.ci95,
        "threshold_at_fpi": {
            f"{fpi:g}": threshold_at(analysis.curve, fpi) if searched else None for fpi in FPI
        },
        "froc": corners(analysis.curve).tolist() if masses else [],
        "reasons": sheet.reasons,
    }


def _classification(judged: Judged, weights: FloatArray) -> dict[str, Any]:
    sheet = _Sheet(weights)
    counts = {}
    for key, ranking in judged.rankings.items():
        malignant = int(ranking.malignant.sum())
        counts[key] = {"malignant": malignant, "other": len(ranking.score) - malignant}
        area = ranking.auc()
        if area is None:
            sheet.leave_out(key, ranking.undefined or "")
        else:
            sheet.put(key, area, ranking.auc_of)
    for key, reason in judged.unranked.items():
        sheet.leave_out(key, reason)
    left_out = {key: dict(ranking.left_out) for key, ranking in judged.rankings.items()}
    return {**sheet.figures, "ci95": sheet.ci95, "n": counts, "left_out": left_out,
            "reasons": sheet.reasons}


def _segmentation(judged: Judged, weights: FloatArray) -> dict[str, Any]:
    sheet = _Sheet(weights)
    patient = judged.mass_patient[judged.dice_mass]
    seen = judged.speaker[judged.dice_mass] != MISSED
    for key, chosen in (("dice_detected", seen), ("dice_all", np.ones_like(seen))):
        if chosen.any():
            values = judged.dice[chosen]
            sheet.put(key, float(values.mean()), mean_of(values, patient[chosen]))
        else:
            sheet.leave_out(key, judged.undrawn or "no mass with an annotated mask was detected")
    n = {"dice_detected": int(seen.sum()), "dice_all": len(seen)}
    return {**sheet.figures, "ci95": sheet.ci95, "n": n, "reasons": sheet.reasons}


def _detected(judged: Judged, weights: FloatArray) -> dict[str, Any]:
    sheet = _Sheet(weights)
    seen = judged.speaker != MISSED
    owner = judged.mass_patient
    if len(seen):
        sheet.put("fraction", float(seen.mean()), mean_of(seen.astype(float), owner))
    else:
        sheet.leave_out("fraction", judged.truth.unsearchable)
    if seen.any():
        overlap = judged.overlap[seen]
        sheet.put("median_iou", float(np.median(overlap)), median_of(overlap, owner[seen]))
    else:
        sheet.leave_out("median_iou", "no mass was detected")
    rule = {"iou": DETECTED_IOU, "fpi": DETECTED_FPI, "threshold": judged.threshold}
    return {
        "rule": rule,
        "masses": int(seen.sum()),
        **sheet.figures,
        "ci95": sheet.ci95,
        "reasons": sheet.reasons,
    }


def _localisation(judged: Judged, weights: FloatArray) -> dict[str, Any]:
    sheet = _Sheet(weights)
    for limit, analysis in froc_by_iou(judged.truth, judged.predictions).items():
        key = f"{limit:g}"
        if judged.truth.masses:
            value = tpr_at(analysis.curve, LOCALISATION_FPI)
            sheet.put(key, value, analysis.tpr(LOCALISATION_FPI))
        else:
            sheet.leave_out(key, judged.truth.unsearchable)
    return {
        "fpi": LOCALISATION_FPI,
        "tpr_at_iou": sheet.figures,
        "ci95": sheet.ci95,
        "reasons": sheet.reasons,
    }


def _calibration(judged: Judged, weights: FloatArray) -> dict[str, Any]:
    parts = {}
    for name, stated in judged.reliability.items():
        sheet = _Sheet(weights)
        bins: list[list[float]] = []
        if stated.undefined:
            truth = judged.truth
            why = stated.undefined if truth.searched_image.any() else truth.unsearchable
            for key in ("ece", "brier"):
                sheet.leave_out(key, why)
        else:
            sheet.put("ece", stated.ece(), stated.ece_of)
            sheet.put("brier", stated.brier(), stated.brier_of)
            bins = np.stack(stated.bins(), axis=1).tolist()
        parts[name] = {
            **sheet.figures,
            "ci95": sheet.ci95,
            "n": len(stated.probability),
            "true": int(stated.outcome.sum()),
            "bins": bins,
            "reasons": sheet.reasons,
        }
    return parts


def unranked(classification: Mapping[str, Any]) -> list[str]:
    """How many units each AUC leaves out, and why, for people."""
    return [
        f"AUC by {key.removeprefix('auc_')}: {count} are left out: {reason}"
        for key, left_out in classification["left_out"].items()
        for reason, count in left_out.items()
    ]


def _notes(judged: Judged) -> list[str]:
    """What a reader of the figures should know about this data and these predictions."""
    truth, notes = judged.truth, []
    if truth.images_without_patient:
        notes.append(
            f"{truth.images_without_patient} images have no patient_id; each is its own patient"
        )
    if truth.patients < 2:
        notes.append("fewer than two patients: no intervals")
    covered = int((~truth.searched_image).sum())
    if covered:
        notes.append(
            f"{covered} of {truth.images} images lie wholly in a region to ignore: they are not "
            "counted among the images that false positives are divided by"
        )
    if covered == truth.images:
        return notes
    curve = judged.frocs["iou>0.2"].curve
    reached = float(curve[-1, 1]) if len(curve) else 0.0
    if reached < max(FPI):
        notes.append(
            f"the predictions end at {reached:.2f} false positives an image; "
            "beyond that the curve is level"
        )
    return notes


def summarise(judged: Judged, weights: FloatArray) -> dict[str, Any]:
    """All figures, with intervals over the replicates in weights [R, P]."""
    truth = judged.truth
    detection = {}
    for name, analysis in judged.frocs.items():
        detection[name] = _detection(truth, analysis, weights)
        lesion = _detection(truth, judged.lesion_frocs[name], weights)
        detection[name]["fpi_over_lesion_images"] = lesion
    classification = _classification(judged, weights)
    return {
        "images": truth.images,
        "searched_images": int(truth.searched_image.sum()),
        "lesion_images": int(truth.lesion_image.sum()),
        "patients": truth.patients,
        "masses": truth.masses,
        "malignant_masses": int((truth.mass_class == MALIGNANT).sum()),
        "benign_masses": int((truth.mass_class == BENIGN).sum()),
        "unknown_class_masses": int((truth.mass_class == UNKNOWN_CLASS).sum()),
        "ignore_regions": len(truth.ignore_image),
        "predictions": len(judged.predictions.score),
        "detection": detection,
        "detected": _detected(judged, weights),
        "classification": classification,
        "segmentation": _segmentation(judged, weights),
        "localisation": _localisation(judged, weights),
        "calibration": _calibration(judged, weights),
        "notes": [*_notes(judged), *unranked(classification)],
    }


def replicates_for(truth: Truth, bootstraps: int, seed: int) -> FloatArray:
    """The bootstrap's weights [R, P]; R is 0 where a single patient leaves nothing to draw."""
    return patient_weights(truth.patients, bootstraps if truth.patients > 1 else 0, seed)


def evaluate(
    truth: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    *,
    bootstraps: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every figure of predictions (COCO results) against truth (a COCO data set), ready for JSON.

    A figure that cannot be had is None, and `reasons` beside it says why; `ci95` holds 95 %
    percentile intervals of a patient-cluster bootstrap. FPI is over all images but those wholly in
    an ignore region; over the images with a mass it is in `fpi_over_lesion_images`.
    Raises InvalidTruth, InvalidPredictions.
    """
    told = parse_truth(truth)
    judged = judge(told, parse_predictions(predictions, told))
    weights = replicates_for(told, bootstraps, seed)
    drawn = {"unit": "patient", "replicates": len(weights), "seed": seed}
    return {**summarise(judged, weights), "bootstrap": drawn}


def operating_points(
    truth: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    fpi: Sequence[float] = (0.3, 1.0, 3.67),
) -> dict[str, float]:
    """For each FPI, as text ("0.3"), the lowest score threshold that keeps within it.

    IoU > 0.2, FPI over all images but those wholly in an ignore region; a prediction passes with
    score >= threshold. Where the predictions end before, the lowest score there is.
    Raises InvalidTruth, InvalidPredictions.
    """
    told = parse_truth(truth)
    settled = parse_predictions(predictions, told)
    curve = froc(told, settled, match(told, settled, CRITERIA["iou>0.2"])).curve
    return {f"{rate:g}": threshold_at(curve, rate) for rate in fpi}
