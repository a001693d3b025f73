"""The gate: is the candidate at least as good as the model in service?

The figure is the mean TPR at 0.3, 1 and 3.67 false positives an image (IoU > 0.2), averaged with
the AUC over masses where both classes occur. Both models read the same validation images, and
their difference is set against its standard error over patients (paired bootstrap). A candidate
that is lower by more than that is refused. Fewer than 10 masses judge nobody. A candidate is held
against an anchor too (`ModelRegistry.anchor`), so that figures do not sink a little each time.

Outlines have no part in that figure, but a candidate that spoils them is refused as well: where
both models find at least 10 masses that a person drew, their mean Dice must not fall by more than
0.02 with a 95 % interval that lies below 0.

The same images tell the thresholds of the candidate, if there are enough of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ftmtl.datasets.coco import to_coco
from ftmtl.datasets.records import ImageRecord
from ftmtl.digest import sha256_of
from ftmtl.evaluation import operating_points
from ftmtl.evaluation.bootstrap import patient_weights
from ftmtl.evaluation.compare import compare
from ftmtl.evaluation.evaluate import Judged, judge
from ftmtl.evaluation.inputs import FloatArray, Truth, parse_predictions, parse_truth
from ftmtl.predict import Predictor
from ftmtl.predict_files import predict_records
from ftmtl.weights_file import load_weights, save_weights

from .models import PASSED

FPI = np.array([0.3, 1.0, 3.67])
FEWEST_MASSES = 10
FEWEST_IMAGES = 30  # 0.3 false positives an image are 9 of them
OUTLINE_FALL = 0.02  # of the mean Dice: less than this nobody sees
REPLICATES = 1000
WORDS = (*PASSED, "worse")  # the best first


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """Mean Dice of the masses that a person drew and both models find."""

    masses: int
    champion: float
    candidate: float
    interval: tuple[float, float] | None  # 95 %, of the difference

    @property
    def spoilt(self) -> bool:
        """Whether the candidate's are surely, and visibly, worse."""
        return (
            self.masses >= FEWEST_MASSES
            and self.candidate < self.champion - OUTLINE_FALL
            and self.interval is not None
            and self.interval[1] < 0
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate says; figures are None where it was not asked."""

    word: str  # of WORDS, or "not judged"
    images: int
    masses: int
    champion: float | None = None
    candidate: float | None = None
    standard_error: float | None = None  # of the difference
    interval: tuple[float, float] | None = None  # 95 %, of the difference
    against: str | None = None  # the anchor's version, where `champion` is its figure
    outlines: Outlines | None = None  # where both find masses that a person drew

    @property
    def passes(self) -> bool:
        """Whether the candidate may go into service on its figures."""
        return self.word in PASSED

    def to_json(self) -> dict[str, Any]:
        """For `/info/` and the registry."""
        return asdict(self)


def verdict(
    truth: Truth, champion: Sequence[dict[str, Any]], candidate: Sequence[dict[str, Any]]
) -> Verdict:
    """Of two sets of predictions (COCO results with `scores`) for the images of `truth`."""
    judged = [judge(truth, parse_predictions(said, truth)) for said in (champion, candidate)]
    everybody = np.ones((1, truth.patients))
    before, after = (float(_figure(j, truth, everybody)[0]) for j in judged)
    weights = patient_weights(truth.patients, REPLICATES, 0)
    change = _figure(judged[1], truth, weights) - _figure(judged[0], truth, weights)
    change = change[~np.isnan(change)]
    error = float(change.std(ddof=1)) if len(change) > 1 else 0.0
    low, high = np.percentile(change, [2.5, 97.5]) if len(change) else (0.0, 0.0)
    word = "worse" if after < before - error else "better" if after > before else "not worse"
    outlines = _outlines(judged[0], judged[1], weights)
    if outlines is not None and outlines.spoilt:
        word = "worse"
    return Verdict(
        word=word if truth.masses >= FEWEST_MASSES else "not judged",
        images=truth.images,
        masses=truth.masses,
        champion=before,
        candidate=after,
        standard_error=error,
        interval=(float(low), float(high)),
        outlines=outlines,
    )


class Gate:
    """The validation images, and what each set of weights says about them."""

    def __init__(self, records: Sequence[ImageRecord], *, device: str) -> None:
        self.records, self.device = list(records), device
        self.truth = parse_truth(to_coco(self.records)) if self.records else None
        self.masses = self.truth.masses if self.truth else 0
        self.searched = int(self.truth.searched_image.sum()) if self.truth else 0
        self._said: dict[str, list[dict[str, Any]]] = {}  # by the weights' digest

    @property
    def can_judge(self) -> bool:
        """Whether there are masses enough to say that one model is worse than another."""
        return self.masses >= FEWEST_MASSES

    def compare(self, champion: Path, candidate: Path) -> Verdict:
        """Both weights on the same images; figures without a verdict where masses are few."""
        if self.truth is None or not self.truth.masses:
            return Verdict(word="not judged", images=len(self.records), masses=0)
        return verdict(self.truth, self._predict(champion), self._predict(candidate))

    def keep(self, *weights: Path) -> None:
        """Forgets what all other weights said, which with its outlines is much."""
        asked_again = {sha256_of(file) for file in weights}
        self._said = {digest: said for digest, said in self._said.items() if digest in asked_again}

    def write_operating_points(self, weights: Path, *, parent: str) -> None:
        """Writes into the weights' card where their thresholds come from.

        They are measured here where the images allow it. Otherwise those of the version `parent`,
        from which training began, stay. The temperature always stays: more masses than a gate's
        are needed for it.
        """
        read = load_weights(weights)
        card = dict(read.metadata)
        held = f"{self.searched} images with {self.masses} masses"
        if self.can_judge and self.searched >= FEWEST_IMAGES:
            said = self._predict(weights)
            card["operating_points"] = operating_points(to_coco(self.records), said)
            card["operating_points_from"] = f"this server's validation side: {held}"
        else:
            card["operating_points_from"] = (
                f"version {parent}; the validation side is too small: {held}"
            )
        save_weights(weights, read.network(), preset=read.preset, metadata=card)
        if read.sha256 in self._said:  # a card changes nothing of what is predicted
            self._said[sha256_of(weights)] = self._said[read.sha256]

    def _predict(self, weights: Path) -> list[dict[str, Any]]:
        # What cannot be read counts as missed, for both models alike.
        digest = sha256_of(weights)
        if digest not in self._said:
            predictor = Predictor.load(weights, device=self.device)
            self._said[digest], _ = predict_records(predictor, self.records)
        return self._said[digest]


def _figure(judged: Judged, truth: Truth, weights: FloatArray) -> FloatArray:
    """[R] the gate's figure under patient weights [R, P]."""
    found = judged.frocs["iou>0.2"].tprs(weights, FPI).mean(axis=1)
    if len(np.unique(truth.mass_class[truth.mass_class > 0])) < 2:
        return np.asarray(found)
    return np.asarray((found + judged.rankings["auc_mass_all"].auc_of(weights)) / 2)


def _outlines(champion: Judged, candidate: Judged, weights: FloatArray) -> Outlines | None:
    row = compare(candidate, champion, weights).get("dice_detected")
    if row is None:
        return None
    return Outlines(masses=row["n"], champion=row["b"], candidate=row["a"],
                    interval=row["ci95"] and tuple(row["ci95"]))
