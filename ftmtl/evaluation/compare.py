"""Two models on the same images: is the difference more than chance?

Three answers, because they assume different things. The paired bootstrap draws whole patients and
gives both models the same draw. DeLong's test is for AUCs. The paper's paired t-test takes the
folds of a cross-validation for independent (3.4.1, 3.4.2); their training sets overlap, so its p is
too small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import ttest_rel

from ftmtl.evaluation.bootstrap import Statistic, interval, mean_of, replicate
from ftmtl.evaluation.delong import delong_p
from ftmtl.evaluation.evaluate import FPI, Judged, judge
from ftmtl.evaluation.froc import tpr_at
from ftmtl.evaluation.inputs import FloatArray, parse_predictions, parse_truth
from ftmtl.evaluation.matching import MISSED
from ftmtl.evaluation.roc import Ranking, mass_rankings

AUCS = ("auc_mass_detected", "auc_mass_all", "auc_image", "auc_breast", "auc_patient")
DICES = ("dice_detected", "dice_all")
FIGURES = (*(f"tpr@{fpi:g}" for fpi in FPI), *(f"lesion_tpr@{fpi:g}" for fpi in FPI), *AUCS, *DICES)


def headline(judged: Judged) -> dict[str, float | None]:
    """One model's figures; TPR at IoU > 0.2, FPI over all images or over those with a mass."""
    figures: dict[str, float | None] = dict.fromkeys(FIGURES)
    if judged.truth.masses:
        for name, frocs in (("tpr", judged.frocs), ("lesion_tpr", judged.lesion_frocs)):
            curve = frocs["iou>0.2"].curve
            figures |= {f"{name}@{fpi:g}": tpr_at(curve, fpi) for fpi in FPI}
    figures |= {key: ranking.auc() for key, ranking in judged.rankings.items()}
    seen = judged.speaker[judged.dice_mass] != MISSED
    if seen.any():
        figures["dice_detected"] = float(judged.dice[seen].mean())
    if len(judged.dice):
        figures["dice_all"] = float(judged.dice.mean())
    return figures


def judge_by_fold(
    truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]
) -> list[Judged]:
    """Each fold's images judged alone, as the paper does; empty where the images have no fold.

    Raises InvalidTruth, InvalidPredictions.
    """
    folds = sorted({image.get("fold") for image in truth["images"]} - {None})
    judged = []
    for fold in folds:
        images = [image for image in truth["images"] if image["fold"] == fold]
        own = {image["id"] for image in images}
        told = parse_truth({
            **truth,
            "images": images,
            "annotations": [a for a in truth["annotations"] if a["image_id"] in own],
        })
        judged.append(judge(told, parse_predictions(
            [p for p in predictions if p["image_id"] in own], told)))
    return judged


def over_folds(folds: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """Each figure's `values`, one a fold, their `mean` and `sd` (of a sample) over the defined."""
    each = [headline(judged) for judged in folds]
    summary = {}
    for key in FIGURES:
        values = [figures[key] for figures in each]
        known = [value for value in values if value is not None]
        summary[key] = {
            "values": values,
            "mean": float(np.mean(known)) if known else None,
            "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        }
    return summary


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One figure of both models and of any weighting of the patients."""

    values: tuple[float, float]
    statistics: tuple[Statistic, Statistic]
    n: int | None = None
    delong: float | None = None


def compare(
    a: Judged, b: Judged, weights: FloatArray,
    folds: tuple[Sequence[Judged], Sequence[Judged]] = ((), ()),
) -> dict[str, dict[str, Any]]:
    """a − b for each figure, judged on the same truth, over the replicates in weights [R, P].

    A row holds `a`, `b`, `difference`, `ci95` (paired patient bootstrap), `p_bootstrap`, and where
    they exist `n`, `p_delong`, and with `folds` `p_t_test`. A figure that either model lacks is
    left out. AUC and Dice of detected masses are over the masses that both detected.
    """
    rows = {}
    by_fold = [[headline(judged) for judged in side] for side in folds]
    for key, pair in _pairs(a, b).items():
        drawn = replicate(lambda w, p=pair: p.statistics[0](w) - p.statistics[1](w), weights)  # type: ignore[misc]
        bounds = interval(drawn)
        drawn = drawn[~np.isnan(drawn)]
        row: dict[str, Any] = {
            "a": pair.values[0],
            "b": pair.values[1],
            "difference": pair.values[0] - pair.values[1],
            "ci95": list(bounds) if bounds else None,
            "p_bootstrap": _bootstrap_p(drawn) if bounds else None,
        }
        if pair.n is not None:
            row["n"] = pair.n
        if pair.delong is not None:
            row["p_delong"] = pair.delong
        if by_fold[0]:
            row["p_t_test"] = _t_test(*([figures[key] for figures in side] for side in by_fold))
        rows[key] = row
    return rows


def _pairs(a: Judged, b: Judged) -> dict[str, _Pair]:
    pairs = {}
    if a.truth.masses:
        for fpi in FPI:
            ours, theirs = a.frocs["iou>0.2"], b.frocs["iou>0.2"]
            pairs[f"tpr@{fpi:g}"] = _Pair(
                values=(tpr_at(ours.curve, fpi), tpr_at(theirs.curve, fpi)),
                statistics=(ours.tpr(fpi), theirs.tpr(fpi)),
                n=a.truth.masses,
            )
    both = (a.speaker != MISSED) & (b.speaker != MISSED)
    for key in AUCS:
        if key == "auc_mass_detected":
            ours_, theirs_ = (
                mass_rankings(j.truth, j.predictions, np.where(both, j.speaker, MISSED))[0]
                for j in (a, b)
            )
        elif key in a.rankings:
            ours_, theirs_ = a.rankings[key], b.rankings[key]
        else:
            continue
        if not ours_.undefined:
            pairs[key] = _ranking_pair(ours_, theirs_)
    owner = a.mass_patient
    for key in DICES:
        common = np.intersect1d(a.dice_mass, b.dice_mass)
        if key == "dice_detected":
            common = common[both[common]]
        if len(common):
            values = [j.dice[np.searchsorted(j.dice_mass, common)] for j in (a, b)]
            pairs[key] = _Pair(
                values=(float(values[0].mean()), float(values[1].mean())),
                statistics=(mean_of(values[0], owner[common]), mean_of(values[1], owner[common])),
                n=len(common),
            )
    return pairs


def _ranking_pair(ours: Ranking, theirs: Ranking) -> _Pair:
    areas = ours.auc(), theirs.auc()
    assert areas[0] is not None and areas[1] is not None, "the same things, with both classes"
    return _Pair(
        values=(areas[0], areas[1]),
        statistics=(ours.auc_of, theirs.auc_of),
        n=len(ours.score),
        delong=delong_p(ours.score, theirs.score, ours.malignant),
    )


def _bootstrap_p(differences: FloatArray) -> float:
    """Two-sided: twice the rarer sign's share, itself counted once; never 0."""
    rarer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(differences) + 1))


def _t_test(a: list[float | None], b: list[float | None]) -> float | None:
    """The paper's paired t-test over folds; None under two folds or where none differs."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    if len(pairs) < 2 or np.ptp([x - y for x, y in pairs]) < 1e-12:
        return None
    return float(ttest_rel(*zip(*pairs, strict=True)).pvalue)
