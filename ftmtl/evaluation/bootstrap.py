"""How far a figure would move with other patients: the patient-cluster bootstrap.

Images of one woman are alike, so whole patients are drawn with replacement (Efron & Tibshirani,
An Introduction to the Bootstrap, 1993, ch. 13: percentile interval). A replicate is a row of
weights, how often each patient was drawn, and a statistic is a function of such rows. No image is
looked at again, and two models given the same rows are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ftmtl.evaluation.inputs import FloatArray, IntArray

Statistic = Callable[[FloatArray], FloatArray]
"""weights [R, P] -> values [R] or [R, F], NaN where a replicate leaves the figure undefined."""

BLOCK = 200  # replicates at a time: bounds memory on large sets


def patient_weights(patients: int, replicates: int, seed: int) -> FloatArray:
    """[replicates, patients] how often each patient is drawn; every row adds up to `patients`."""
    draw = np.random.default_rng(seed).multinomial(
        patients, np.full(patients, 1 / patients), size=replicates
    )
    return draw.astype(np.float64)


def replicate(statistic: Statistic, weights: FloatArray) -> FloatArray:
    """[R] or [R, F] the statistic of each replicate."""
    blocks = range(0, max(1, len(weights)), BLOCK)
    return np.concatenate([statistic(weights[start : start + BLOCK]) for start in blocks])


def interval(values: FloatArray, level: float = 0.95) -> tuple[float, float] | None:
    """The percentile interval, or None where under half of the replicates are defined."""
    defined = values[~np.isnan(values)]
    if not len(defined) or len(defined) < len(values) / 2:
        return None
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)


def mean_of(values: FloatArray, patient: IntArray) -> Statistic:
    """The mean of values [n], each belonging to a patient [n]."""

    def statistic(weights: FloatArray) -> FloatArray:
        patients = weights.shape[1]
        total = weights @ np.bincount(patient, values, minlength=patients)
        count = weights @ np.bincount(patient, minlength=patients)
        return np.divide(total, count, out=np.full(len(weights), np.nan), where=count > 0)

    return statistic


def median_of(values: FloatArray, patient: IntArray) -> Statistic:
    """The median of values [n], each belonging to a patient [n]."""
    order = np.argsort(values, kind="stable")
    ranked, owner = values[order], patient[order]

    def statistic(weights: FloatArray) -> FloatArray:
        if not len(ranked):
            return np.full(len(weights), np.nan)
        upto = np.cumsum(weights[:, owner], axis=1)
        count = upto[:, -1]
        last = len(ranked) - 1
        lower = (upto <= ((count - 1) // 2)[:, None]).sum(axis=1).clip(max=last)
        upper = (upto <= (count // 2)[:, None]).sum(axis=1).clip(max=last)
        middle: FloatArray = (ranked[lower] + ranked[upper]) / 2
        return np.where(count > 0, middle, np.nan)

    return statistic
