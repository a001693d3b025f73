"""Free-response ROC: the share of masses found against the false positives an image.

A curve is a [K, 3] array of [threshold, fpi, tpr], one row a distinct score, falling: all
predictions with score >= threshold together find `tpr` of the masses at the price of `fpi` false
positives an image. Between rows it is a step: nothing is interpolated, so every TPR quoted was
reached by a threshold that exists. Beyond the last row the curve goes on level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from ftmtl.evaluation.bootstrap import Statistic
from ftmtl.evaluation.inputs import BoolArray, FloatArray, IntArray, Predictions, Truth
from ftmtl.evaluation.matching import FALSE_POSITIVE

SLACK = 1e-9  # 3 false positives on 10 images are 0.3 FPI, whatever the rounding


def froc_curve(
    score: FloatArray, hit: BoolArray, false: BoolArray, *, masses: int, images: int
) -> FloatArray:
    """[K, 3] the curve; score, hit and false are [N]. TPR is NaN where there is no mass."""
    judged = hit | false
    score, hit, false = score[judged], hit[judged], false[judged]
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last = np.append(np.diff(ranked) != 0, True)[: len(ranked)]  # of each group of equal scores
    found, wrong = np.cumsum(hit[order])[last], np.cumsum(false[order])[last]
    tpr = found / masses if masses else np.full(len(found), np.nan)
    return np.stack([ranked[last], wrong / images, tpr], axis=1)


def tpr_at(curve: FloatArray, fpi: float) -> float:
    """The TPR at the lowest threshold that keeps within `fpi`; 0 where none does."""
    within = np.flatnonzero(curve[:, 1] <= fpi + SLACK)
    return float(curve[within[-1], 2]) if len(within) else 0.0


def threshold_at(curve: FloatArray, fpi: float) -> float:
    """The lowest threshold that keeps within `fpi`.

    Where even the best score costs more, a value just above it: nothing passes. Without any
    prediction 1.
    """
    within = np.flatnonzero(curve[:, 1] <= fpi + SLACK)
    if len(within):
        return float(curve[within[-1], 0])
    return math.nextafter(float(curve[0, 0]), math.inf) if len(curve) else 1.0


def corners(curve: FloatArray) -> FloatArray:
    """The rows where the TPR rises, and the last: the same steps in far fewer rows."""
    rises = np.diff(curve[:, 2], prepend=0.0) > 0
    rises[-1:] = True
    return curve[rises]


@dataclass(frozen=True, kw_only=True)
class Froc:
    """One FROC analysis: the curve, and the same curve under any weighting of the patients.

    There is a step at each of the G scores at which masses are found. By patient and step, `found`
    [P, G] counts the masses found there, `wrong` [P, G] the false positives from there up to the
    step before. Both are sparse: few patients have anything at a step.
    """

    curve: FloatArray
    found: csr_array
    wrong: csr_array
    masses: FloatArray  # [P]
    images: FloatArray  # [P]

    def tprs(self, weights: FloatArray, fpi: FloatArray) -> FloatArray:
        """[R, F] the TPR of each replicate in weights [R, P] at each of fpi [F].

        A mass counts where the false positives down to its score, in this replicate, keep
        within `fpi` an image. NaN where a replicate holds no mass.
        """
        wrong = np.cumsum(weights @ self.wrong, axis=1)
        found = np.cumsum(np.pad(weights @ self.found, ((0, 0), (1, 0))), axis=1)
        images = weights @ self.images
        masses = weights @ self.masses
        rows = np.arange(len(weights))
        values = np.full((len(weights), len(fpi)), np.nan)
        for column, rate in enumerate(fpi):
            affordable = (wrong <= (images * rate + SLACK)[:, None]).sum(axis=1)
            np.divide(found[rows, affordable], masses, out=values[:, column], where=masses > 0)
        return values

    def tpr(self, fpi: float) -> Statistic:
        """The TPR at one `fpi`, as a statistic of patient weights."""
        return lambda weights: self.tprs(weights, np.array([fpi]))[:, 0]


def froc(
    truth: Truth, predictions: Predictions, found: IntArray, *, lesion_images_only: bool = False
) -> Froc:
    """The analysis of `found` [N] (of `matching.match`).

    False positives are counted on all images and divided by their number, or, with
    `lesion_images_only`, on the images with at least one mass and divided by theirs. An image that
    lies wholly in an ignore region counts in neither. Where no image counts, FPI is taken over one.
    """
    counted = truth.searched_image
    if lesion_images_only:
        counted = counted & truth.lesion_image
    hit, false = found >= 0, (found == FALSE_POSITIVE) & counted[predictions.image]
    curve = froc_curve(
        predictions.score, hit, false, masses=truth.masses, images=max(1, int(counted.sum()))
    )
    patients = truth.patients
    owner = truth.patient[predictions.image]
    steps = np.unique(predictions.score[hit])[::-1]  # [G], falling

    def by_step(chosen: BoolArray) -> csr_array:
        # Position of the first step that is not above the score: the step that it counts at.
        at = np.searchsorted(-steps, -predictions.score[chosen], side="left")
        reached = at < len(steps)  # what scores less than every mass that is found stands nowhere
        rows = owner[chosen][reached], at[reached]
        return csr_array((np.ones(len(rows[0])), rows), shape=(patients, len(steps)))

    return Froc(
        curve=curve,
        found=by_step(hit),
        wrong=by_step(false),
        masses=np.bincount(truth.patient[truth.mass_image], minlength=patients).astype(float),
        images=np.bincount(truth.patient[counted], minlength=patients).astype(float),
    )
