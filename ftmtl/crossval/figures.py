"""The paper's figures 3, 4a and 5b: the mean over the folds, and bars of two SD."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ftmtl.crossval.outcome import Outcome, over_the_folds
from ftmtl.crossval.published import FIGURE_3, FIGURE_4A, FIGURE_5B_FLOOR
from ftmtl.evaluation.evaluate import Judged
from ftmtl.evaluation.inputs import FloatArray
from ftmtl.evaluation.localisation import LIMITS, LOCALISATION_FPI, froc_by_iou
from ftmtl.evaluation.plots import INK, QUIET, dress, new_figure

COLOURS = {  # told apart by the colour-blind; the pair of the paper stands out
    "ft-mtl-net": "#0b559f", "mask-rcnn": "#c2410c", "no-transfer": "#4d7c0f",
    "no-weight-map": "#7e22ce", "detached-weight-map": "#0e7490", "average-pooling": "#a16207",
    "masks-on-positives": "#6b7280", "ft-mtl-net-deep": "#be185d",
}
NAMES = {
    "ft-mtl-net": "FT-MTL-Net", "mask-rcnn": "Mask R-CNN", "no-transfer": "no transfer",
    "no-weight-map": "no weight map", "detached-weight-map": "detached weight map",
    "average-pooling": "average pooling", "masks-on-positives": "masks on positives",
    "ft-mtl-net-deep": "FT-MTL-Net, hidden layers",
}
PAIR = ("ft-mtl-net", "mask-rcnn")
BARS = 10  # to an axis
BESIDE = 0.2  # of the way to the next bar
LINE = 0.19  # inches, of a legend
FPI_SHOWN = 5.0

Curve = Callable[[Judged], FloatArray]
"""A fold judged -> [F] its curve on the figure's grid, NaN where it has none."""


def figure_3(outcome: Outcome) -> Figure:
    """ROC of the detected masses."""
    grid = np.linspace(0, 1, 101)

    def roc(judged: Judged) -> FloatArray:
        tprs: FloatArray = judged.rankings["auc_mass_detected"].tprs(_once(judged), grid)[0]
        return tprs

    figure, axes = _start("benign called malignant (false positive rate)",
                          "malignant called malignant (true positive rate)",
                          "Figure 3: ROC of detected masses")
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
    axes.set_xlim(-0.005, 1)
    _lines(axes, grid, outcome, roc, "auc_mass_detected", FIGURE_3, "AUC ")
    _legend(figure)
    return figure


def figure_4a(outcome: Outcome) -> Figure:
    """FROC at IoU > 0.2; the paper's quoted points are crosses."""
    grid = np.linspace(0, FPI_SHOWN, 101)

    def froc(judged: Judged) -> FloatArray:
        tprs: FloatArray = judged.frocs["iou>0.2"].tprs(_once(judged), grid)[0]
        return tprs

    figure, axes = _start("false positives an image", "masses found (true positive rate)",
                          "Figure 4a: FROC, IoU > 0.2")
    axes.set_xlim(0, FPI_SHOWN * 1.01)
    quoted = {model: f"{tpr} ± {sd}" for model, (_, tpr, sd) in FIGURE_4A.items()}
    _lines(axes, grid, outcome, froc, "tpr@3.67", quoted, "TPR at 3.67 FPI ")
    told = [model for model in FIGURE_4A if model in outcome.experiment.models]
    for model in told:
        fpi, tpr, sd = FIGURE_4A[model]
        axes.errorbar([fpi], [tpr], [sd], fmt="x", color=COLOURS[model], markersize=7,
                      capsize=3, linewidth=1, alpha=0.75)
    if told:
        axes.plot([], [], "x", color=QUIET, label="crosses: the paper's, at 3.67 FPI")
    _legend(figure)
    return figure


def figure_5b(outcome: Outcome) -> Figure:
    """TPR against the IoU that counts as found, at 3.67 false positives an image."""
    grid = np.asarray(LIMITS)

    def localisation(judged: Judged) -> FloatArray:
        analyses = froc_by_iou(judged.truth, judged.predictions).values()
        once, price = _once(judged), np.array([LOCALISATION_FPI])
        return np.array([analysis.tprs(once, price)[0, 0] for analysis in analyses])

    figure, axes = _start("a hit has an IoU greater than", "masses found (true positive rate)",
                          "Figure 5b: TPR against IoU, at 3.67 FPI")
    axes.set_xlim(0.08, 0.92)
    until, floor = FIGURE_5B_FLOOR
    axes.plot([0.1, until], [floor, floor], color=QUIET, linewidth=1, linestyle="--",
              label="in the paper: above 0.9 up to 0.4")
    _lines(axes, grid, outcome, localisation, None, {}, "")
    _legend(figure)
    return figure


def _once(judged: Judged) -> FloatArray:
    return np.ones((1, judged.truth.patients))


def _start(x: str, y: str, title: str) -> tuple[Figure, Axes]:
    figure = new_figure(7, 5.2)
    axes = figure.subplots()
    dress(axes, x, y)
    axes.set_title(title, fontsize=12, color=INK)
    return figure, axes


def _lines(axes: Axes, grid: FloatArray, outcome: Outcome, curve: Curve, key: str | None,
           quoted: Mapping[str, str], what: str) -> None:
    """Each model's mean curve over the folds that have one, with bars of 2 SD for the pair."""
    models = outcome.experiment.models
    barred = [model for model in models if model in PAIR or len(models) == 1]
    for model in models:
        drawn = np.array([curve(judged) for judged in outcome.folds[model]])
        drawn = drawn[~np.isnan(drawn).any(axis=1)]
        label = NAMES[model]
        if key is not None:
            label += f": {what}{over_the_folds(outcome.result['models'][model]['folds'][key])}"
        if model in quoted:
            label += f" (paper {quoted[model]})"
        if not len(drawn):
            axes.plot([], [], " ", label=f"{NAMES[model]}: no fold has a curve")
            continue
        loud = model in barred
        line: dict[str, Any] = {"color": COLOURS[model], "label": label}
        axes.plot(grid, drawn.mean(axis=0), linewidth=2 if loud else 1.2,
                  linestyle="-" if loud else (0, (4, 2)), **line)
        if loud and len(drawn) > 1:
            step = max(1, len(grid) // BARS)
            at = slice(step // 2, None, step)
            # On the model's own line, beside the other's bar.
            beside = barred.index(model) - (len(barred) - 1) / 2
            places = grid[at] + BESIDE * beside * (grid[step] - grid[0])
            axes.errorbar(places, np.interp(places, grid, drawn.mean(axis=0)),
                          drawn.std(axis=0, ddof=1)[at], fmt="none", ecolor=COLOURS[model],
                          elinewidth=1.1, capsize=2, alpha=0.8)


def _legend(figure: Figure) -> None:
    """Below the axes, where it covers no curve, and not at their cost."""
    legend = figure.legend(loc="outside lower center", frameon=False, fontsize=9)
    figure.set_figheight(figure.get_figheight() + LINE * len(legend.get_texts()))
