"""The gate: is the candidate at least as good as the model in service?

The figure is the mean TPR at 0.3, 1 and 3.67 false positives an image (IoU > 0.2), averaged with
the AUC over masses where both classes occur. Both models read the same validation images, and
their difference is set against its standard error over patients (paired bootstrap). A candidate
that is lower by more than that is refused. Fewer than 10 masses judge nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ftmtl.datasets.coco import to_coco
from ftmtl.datasets.records import ImageRecord
from ftmtl.evaluation.bootstrap import patient_weights
from ftmtl.evaluation.evaluate import Judged, judge
from ftmtl.evaluation.inputs import FloatArray, Truth, parse_predictions, parse_truth
from ftmtl.predict import Predictor
from ftmtl.predict_files import predict_records

FPI = np.array([0.3, 1.0, 3.67])
FEWEST_MASSES = 10
REPLICATES = 1000


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate says; figures are None where it was not asked."""

    word: str  # "better" | "not worse" | "worse" | "not judged"
    images: int
    masses: int
    champion: float | None = None
    candidate: float | None = None
    standard_error: float | None = None  # of the difference
    interval: tuple[float, float] | None = None  # 95 %, of the difference

    @property
    def passes(self) -> bool:
        """Whether the candidate may go into service on its figures."""
        return self.word in ("better", "not worse")

    def to_json(self) -> dict[str, Any]:
        """For `/info/` and the registry."""
        return asdict(self)


def compare(
    champion: Path, candidate: Path, records: Sequence[ImageRecord], *, device: str
) -> Verdict:
    """Both weights on the same validation images."""
    truth = parse_truth(to_coco(records)) if records else None
    if truth is None or truth.masses < FEWEST_MASSES:
        masses = truth.masses if truth else 0
        return Verdict(word="not judged", images=len(records), masses=masses)
    judged = [
        judge(truth, parse_predictions(_predict(weights, records, device), truth))
        for weights in (champion, candidate)
    ]
    everybody = np.ones((1, truth.patients))
    before, after = (float(_figure(j, truth, everybody)[0]) for j in judged)
    weights = patient_weights(truth.patients, REPLICATES, 0)
    change = _figure(judged[1], truth, weights) - _figure(judged[0], truth, weights)
    change = change[~np.isnan(change)]
    error = float(change.std(ddof=1)) if len(change) > 1 else 0.0
    low, high = np.percentile(change, [2.5, 97.5]) if len(change) else (0.0, 0.0)
    word = "worse" if after < before - error else "better" if after > before else "not worse"
    return Verdict(
        word=word,
        images=truth.images,
        masses=truth.masses,
        champion=before,
        candidate=after,
        standard_error=error,
        interval=(float(low), float(high)),
    )


def _figure(judged: Judged, truth: Truth, weights: FloatArray) -> FloatArray:
    """[R] the gate's figure under patient weights [R, P]."""
    found = judged.frocs["iou>0.2"].tprs(weights, FPI).mean(axis=1)
    if len(np.unique(truth.mass_class[truth.mass_class > 0])) < 2:
        return np.asarray(found)
    return np.asarray((found + judged.rankings["auc_mass_all"].auc_of(weights)) / 2)


def _predict(weights: Path, records: Sequence[ImageRecord], device: str) -> list[dict[str, Any]]:
    # What cannot be read counts as missed, for both models alike.
    results, _ = predict_records(Predictor.load(weights, device=device), records)
    return results
