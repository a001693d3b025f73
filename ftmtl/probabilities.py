"""From class logits to the probabilities that a person is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp, softmax

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What held-out images say a network's certainty is worth (`ftmtl.calibration` fits it).

    `temperature` divides the logits of benign and malignant; the log odds of being a mass become
    `slope` times themselves plus `intercept`. The default changes nothing.
    """

    temperature: float = 1.0
    slope: float = 1.0
    intercept: float = 0.0

    @classmethod
    def of(cls, metadata: dict[str, Any]) -> Self:
        """The calibration that weights carry; the one that changes nothing where they have none."""
        return cls(**metadata.get("calibration", {}))

    def __call__(self, logits: FloatArray) -> FloatArray:
        """Probabilities [K, 3] of background, benign, malignant, of class logits [K, 3]."""
        odds = logsumexp(logits[:, 1:], axis=1) - logits[:, 0]
        mass = expit(self.slope * odds + self.intercept)[:, None]
        kinds = softmax(logits[:, 1:] / self.temperature, axis=1)
        return np.concatenate([1 - mass, mass * kinds], axis=1)
