"""Do the probabilities mean what they say? Brier score and expected calibration error.

Of all things given a probability of 0.8, eight in ten should be what was said. ECE is the mean
distance from that over ten bins of equal width, weighted by how much lies in each (Guo et al. 2017,
"On Calibration of Modern Neural Networks"); with few things it is above 0 by chance alone. Brier is
the mean squared distance of the probability from 0 or 1 (Brier 1950).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ftmtl.datasets.records import MALIGNANT
from ftmtl.evaluation.bootstrap import mean_of
from ftmtl.evaluation.inputs import (
    UNKNOWN_CLASS,
    BoolArray,
    FloatArray,
    IntArray,
    Predictions,
    Truth,
)
from ftmtl.evaluation.matching import IGNORED, MISSED

BINS = 10


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """n statements: how likely, whether true, of whom. `unit` says what they are, for people."""

    unit: str
    probability: FloatArray  # [n] 0…1
    outcome: BoolArray  # [n]
    patient: IntArray  # [n]

    @property
    def undefined(self) -> str | None:
        """Why there is no figure, or None where there is one."""
        return None if len(self.probability) else f"no {self.unit}"

    @property
    def _bin(self) -> IntArray:
        """[n] the bin of each; a bin holds its upper edge, the first also 0."""
        return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], self.probability)

    def bins(self) -> tuple[FloatArray, FloatArray, IntArray]:
        """(mean probability [B], share true [B], how many [B]) of the B bins that hold anything."""
        count = np.bincount(self._bin, minlength=BINS)
        held = count > 0
        said = np.bincount(self._bin, self.probability, minlength=BINS)[held] / count[held]
        true = np.bincount(self._bin, self.outcome, minlength=BINS)[held] / count[held]
        return said, true, count[held]

    def brier(self) -> float:
        """The mean squared distance; 0 is perfect."""
        return float(((self.probability - self.outcome) ** 2).mean())

    def ece(self) -> float:
        """The expected calibration error; 0 is perfect."""
        said, true, count = self.bins()
        return float((np.abs(said - true) * count).sum() / count.sum())

    def brier_of(self, weights: FloatArray) -> FloatArray:
        """[R] the Brier score under weights [R, P]: a `Statistic`."""
        return mean_of((self.probability - self.outcome) ** 2, self.patient)(weights)

    def ece_of(self, weights: FloatArray) -> FloatArray:
        """[R] the ECE under weights [R, P]: a `Statistic`."""
        patients = weights.shape[1]
        excess = np.zeros((patients, BINS))  # of what was said over what was true
        np.add.at(excess, (self.patient, self._bin), self.probability - self.outcome)
        total = weights @ np.bincount(self.patient, minlength=patients)
        error = np.abs(weights @ excess).sum(axis=1)
        return np.divide(error, total, out=np.full(len(weights), np.nan), where=total > 0)


def reliabilities(
    truth: Truth, predictions: Predictions, found: IntArray, speaker: IntArray, threshold: float
) -> dict[str, Reliability]:
    """Two questions: is this a mass, and is this mass malignant?

    `mass`: the score of every prediction that reaches `threshold`, true where `found` [N]
    (`matching.match`) gives it a mass; what lies in an ignore region says nothing.
    `malignancy`: p_m / (p_b + p_m) of the prediction that speaks for each detected mass of known
    class (`speaker` [M], `matching.detected`).
    """
    shown = (predictions.score >= threshold) & (found != IGNORED)
    spoken = (speaker != MISSED) & (truth.mass_class != UNKNOWN_CLASS)
    return {
        "mass": Reliability(
            unit="prediction above the threshold",
            probability=predictions.score[shown],
            outcome=found[shown] >= 0,
            patient=truth.patient[predictions.image[shown]],
        ),
        "malignancy": Reliability(
            unit="detected mass of known class",
            probability=predictions.malignancy[speaker[spoken]],
            outcome=truth.mass_class[spoken] == MALIGNANT,
            patient=truth.patient[truth.mass_image[spoken]],
        ),
    }
