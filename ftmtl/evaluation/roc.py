"""Benign or malignant: the area under the ROC curve, by mass, image, breast and patient.

The unit changes the figure more than the model does, so each is named. Masses whose class is not
known take no part. Of images, breasts and patients it is asked whether they hold a malignant mass.
Left out, and counted, are those that hold one of unknown class and none that is known to be
malignant, and those whose owner says that they are malignant, though no mass of theirs is: it is a
calcification, say. Nobody can say which side they are on. An ignore region counts as a mass; where
its class is known (CMMD says it of whole breasts) it speaks for images, breasts and patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ftmtl.datasets.records import MALIGNANT
from ftmtl.evaluation.inputs import (
    UNKNOWN_CLASS,
    BoolArray,
    FloatArray,
    IntArray,
    Predictions,
    Truth,
)
from ftmtl.evaluation.matching import MISSED
from ftmtl.veto import of_image

NO_SUCH_MASS = "said to be malignant, but no mass of theirs is"
NOT_KNOWN = "they hold a mass of unknown class, and none known to be malignant"


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """n things in the order of their malignancy. `unit` says what they are, for people."""

    unit: str
    score: FloatArray  # [n]
    malignant: BoolArray  # [n]
    patient: IntArray  # [n]
    left_out: Mapping[str, int] = field(default_factory=dict)  # how many besides, by reason

    @property
    def undefined(self) -> str | None:
        """Why there is no AUC, or None where there is one."""
        if not len(self.score):
            return f"no {self.unit} of known class"
        if not self.malignant.any():
            return f"no malignant {self.unit}"
        return f"no {self.unit} that is not malignant" if self.malignant.all() else None

    def auc(self) -> float | None:
        """The area under the curve, None where a class never occurs."""
        from sklearn.metrics import roc_auc_score  # slow to import: not at a server's start

        return None if self.undefined else float(roc_auc_score(self.malignant, self.score))

    def curve(self) -> tuple[FloatArray, FloatArray]:
        """(false positive rate, true positive rate), every corner of the curve."""
        from sklearn.metrics import roc_curve

        fpr, tpr, _ = roc_curve(self.malignant, self.score)
        return fpr, tpr

    def _grouped(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """[R, G] weight of malignant and of other things at each of G scores, rising."""
        order = np.argsort(self.score, kind="stable")
        ranked, malignant = self.score[order], self.malignant[order]
        starts = np.flatnonzero(np.append(True, np.diff(ranked) != 0))
        weight = weights[:, self.patient[order]]
        return (
            np.add.reduceat(weight * malignant, starts, axis=1),
            np.add.reduceat(weight * ~malignant, starts, axis=1),
        )

    def auc_of(self, weights: FloatArray) -> FloatArray:
        """[R] the AUC under weights [R, P]: a `Statistic`. Ties count half."""
        if not len(self.score):
            return np.full(len(weights), np.nan)
        malignant, benign = self._grouped(weights)
        below = np.cumsum(benign, axis=1) - benign
        won = (malignant * (below + benign / 2)).sum(axis=1)
        pairs = malignant.sum(axis=1) * benign.sum(axis=1)
        return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)

    def tprs(self, weights: FloatArray, fpr: FloatArray) -> FloatArray:
        """[R, F] the interpolated true positive rate of each replicate at each of fpr [F].

        NaN where a class does not occur.
        """
        values = np.full((len(weights), len(fpr)), np.nan)
        if not len(self.score):
            return values
        groups = zip(*self._grouped(weights), strict=True)
        for row, (malignant, benign) in enumerate(groups):
            x, y = np.cumsum(benign[::-1]), np.cumsum(malignant[::-1])
            if x[-1] and y[-1]:
                values[row] = np.interp(fpr, np.append(0, x / x[-1]), np.append(0, y / y[-1]))
        return values


def mass_rankings(
    truth: Truth, predictions: Predictions, speaker: IntArray
) -> tuple[Ranking, Ranking]:
    """(detected masses alone, all masses with a missed one at 0).

    `speaker` [M] is the prediction that speaks for each mass (`matching.detected`); it is ranked
    by its p_m / (p_b + p_m).
    """
    score = np.zeros(truth.masses)
    seen = speaker != MISSED
    score[seen] = predictions.malignancy[speaker[seen]]
    known = truth.mass_class != UNKNOWN_CLASS
    owner = truth.patient[truth.mass_image]

    def of(chosen: BoolArray, unit: str) -> Ranking:
        return Ranking(
            unit=unit,
            score=score[chosen],
            malignant=truth.mass_class[chosen] == MALIGNANT,
            patient=owner[chosen],
        )

    return of(known & seen, "detected mass"), of(known, "mass")


def image_malignancies(predictions: Predictions, images: int) -> FloatArray:
    """[I] the malignancy of each image from its predictions, by the rule of the findings."""
    malignancy, score = predictions.malignancy, np.zeros(images)
    order = np.argsort(predictions.image, kind="stable")
    which, starts = np.unique(predictions.image[order], return_index=True)
    for image, its in zip(which, np.split(order, starts[1:]), strict=False):
        score[image] = of_image(predictions.score[its], malignancy[its])
    return score


def group_ranking(truth: Truth, suspicion: FloatArray, group: IntArray, unit: str) -> Ranking:
    """Images, breasts or patients: does one hold a malignant mass?

    `group` [I] numbers the unit that each image belongs to, 0…G-1, each unit of one patient.
    A unit's score is the largest `suspicion` [I] of its images.
    """
    groups = int(group.max()) + 1
    score = np.zeros(groups)
    np.maximum.at(score, group, suspicion)
    place = group[np.concatenate([truth.mass_image, truth.ignore_image])]
    kind = np.concatenate([truth.mass_class, truth.ignore_class])
    malignant = np.zeros(groups, dtype=bool)
    malignant[place[kind == MALIGNANT]] = True
    unsure, otherwise = np.zeros(groups, dtype=bool), np.zeros(groups, dtype=bool)
    unsure[place[kind == UNKNOWN_CLASS]] = True
    otherwise[group[truth.said_malignant]] = True
    patient = np.zeros(groups, dtype=np.int64)
    patient[group] = truth.patient
    known = malignant | ~(unsure | otherwise)
    left_out = {
        NO_SUCH_MASS: int((otherwise & ~known).sum()),
        NOT_KNOWN: int((unsure & ~otherwise & ~known).sum()),
    }
    return Ranking(
        unit=unit, score=score[known], malignant=malignant[known], patient=patient[known],
        left_out={reason: count for reason, count in left_out.items() if count},
    )
