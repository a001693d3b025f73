"""DeLong's test: do two rankings of the same things have the same area under the ROC curve?

DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988) 837; computed from midranks as in Sun & Xu,
IEEE Signal Processing Letters 21 (2014) 1389. It takes the things for independent, which masses of
one woman are not: its p is the literature's, the patient bootstrap's is the careful one.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import norm, rankdata

from ftmtl.evaluation.inputs import BoolArray, FloatArray


def delong_p(a: FloatArray, b: FloatArray, malignant: BoolArray) -> float | None:
    """The two-sided p of equal areas of scores a [n] and b [n]; ties count half.

    1 where no order differs. None where there is no variance: a class has fewer than two members,
    or all of them differ alike.
    """
    positives, negatives = int(malignant.sum()), int((~malignant).sum())
    if min(positives, negatives) < 2:
        return None
    areas, of_positive, of_negative = [], [], []
    for score in (a, b):
        yes, no = score[malignant], score[~malignant]
        everywhere = rankdata(np.concatenate([yes, no]))
        # The share of the other class that each one stands above: its structural component.
        above = (everywhere[:positives] - rankdata(yes)) / negatives
        below = 1 - (everywhere[positives:] - rankdata(no)) / positives
        areas.append(above.mean())
        of_positive.append(above)
        of_negative.append(below)
    difference = float(areas[0] - areas[1])
    variance = float(
        np.var(of_positive[0] - of_positive[1], ddof=1) / positives
        + np.var(of_negative[0] - of_negative[1], ddof=1) / negatives
    )
    if variance < 1e-18:
        return 1.0 if abs(difference) < 1e-12 else None
    return float(2 * norm.sf(abs(difference) / math.sqrt(variance)))
