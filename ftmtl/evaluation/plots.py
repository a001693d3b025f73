"""The figures as pictures: what was measured, on how many, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ftmtl.evaluation.bootstrap import Statistic, replicate
from ftmtl.evaluation.evaluate import Judged
from ftmtl.evaluation.froc import Froc
from ftmtl.evaluation.inputs import FloatArray

INK, QUIET = "#1a1a1a", "#6b6b6b"
COLOURS = ("#0b559f", "#c2410c", "#4d7c0f")  # told apart by the colour-blind
STYLES = ("-", "-", (0, (4, 2)))  # the third often lies on another
FROC_NAMES = {
    "iou>0.2": "IoU > 0.2",
    "iou>0.5": "IoU > 0.5",
    "centre": "centre in box",
}
FPI_SHOWN = 5.0
BAND = "bands: 95 % patient bootstrap"


def new_figure(width: float, height: float) -> Figure:
    """An empty picture, inches wide and high, drawn without a screen."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes, x: str, y: str) -> None:
    """Axes named x and y, y a share from 0 to 1."""
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.set_ylim(0, 1.005)
    axes.set_yticks(np.linspace(0, 1, 11))
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, labelcolor=INK, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(QUIET)


def _band(
    axes: Axes, grid: FloatArray, statistic: Statistic, weights: FloatArray, colour: str
) -> None:
    """The pointwise 95 % interval over the replicates, as a light band.

    `statistic` gives a value for each point of the grid.
    """
    drawn = replicate(statistic, weights)
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    if len(drawn) and len(drawn) >= len(weights) / 2:
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
        axes.fill_between(grid, low, high, color=colour, alpha=0.14, linewidth=0)


def worded(value: float | None, bounds: Sequence[float] | None) -> str:
    """A figure and its interval, for people."""
    if value is None:
        return "none"
    return f"{value:.3f}" + (f" ({bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else "")


def _froc_panel(
    axes: Axes, analyses: Mapping[str, Froc], results: Mapping[str, Any], weights: FloatArray
) -> None:
    grid = np.linspace(0, FPI_SHOWN, 101)
    for (name, analysis), colour, style in zip(analyses.items(), COLOURS, STYLES, strict=True):
        figures = results[name]
        corners = np.asarray(figures["froc"]).reshape(-1, 3)
        x = np.concatenate([[0], corners[:, 1], [max(FPI_SHOWN, *corners[:, 1], 0)]])
        y = np.concatenate([[0], corners[:, 2], corners[-1:, 2] if len(corners) else [0]])
        at_one = worded(figures["tpr_at_fpi"]["1"], figures["ci95"]["1"])
        label = f"{FROC_NAMES[name]}: {at_one} at 1 FPI"
        line: dict[str, Any] = {
            "color": colour,
            "linestyle": style,
            "linewidth": 1.8,
            "label": label,
        }
        axes.plot(x, y, drawstyle="steps-post", **line)
        _band(axes, grid, partial(analysis.tprs, fpi=grid), weights, colour)
        points = {float(rate): tpr for rate, tpr in figures["tpr_at_fpi"].items()}
        axes.plot(list(points), list(points.values()), "o", color=colour, markersize=4.5)
    axes.set_xlim(0, FPI_SHOWN * 1.01)
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)


def froc_plot(judged: Judged, result: Mapping[str, Any], weights: FloatArray) -> Figure:
    """FROC with false positives over all images (left) and over those with a mass (right).

    With no mass in the data there is no curve, and the plot says so.
    """
    figure = new_figure(12, 5.4)
    left, right = figure.subplots(1, 2, sharey=True)
    detection = result["detection"]
    lesion = {name: part["fpi_over_lesion_images"] for name, part in detection.items()}
    of = f"{result['masses']} masses, {result['patients']} patients"
    panels = (
        (left, judged.frocs, detection, f"all images (n = {result['searched_images']})"),
        (right, judged.lesion_frocs, lesion, f"images with a mass (n = {result['lesion_images']})"),
    )
    for axes, analyses, results, where in panels:
        dress(axes, f"false positives an image, {where}", "masses found (true positive rate)")
        if result["masses"]:
            _froc_panel(axes, analyses, results, weights)
        else:
            axes.set_xlim(0, FPI_SHOWN)
            axes.text(2.5, 0.5, judged.truth.unsearchable, ha="center", color=QUIET)
    right.set_ylabel("")
    figure.suptitle(f"Detection (FROC): {of}; {BAND}", fontsize=12, color=INK)
    return figure


def roc_plot(judged: Judged, result: Mapping[str, Any], weights: FloatArray) -> Figure:
    """ROC of malignant against benign by mass (left), and by image, breast and patient (right)."""
    figure = new_figure(12, 5.9)
    panels = figure.subplots(1, 2, sharey=True)
    classes = result["classification"]
    grid = np.linspace(0, 1, 51)
    sides = (
        ("by mass", ("auc_mass_detected", "auc_mass_all")),
        ("by image, breast and patient", ("auc_image", "auc_breast", "auc_patient")),
    )
    for axes, (title, keys) in zip(panels, sides, strict=True):
        dress(axes, "others called malignant (false positive rate)", "")
        axes.set_xlim(-0.005, 1)
        axes.set_xticks(np.linspace(0, 1, 11))
        axes.set_title(title, fontsize=11, color=INK)
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
        for key, colour, style in zip(keys, COLOURS, STYLES, strict=False):
            name = key.removeprefix("auc_").replace("mass_all", "all masses, a miss = 0")
            name = name.replace("mass_detected", "detected masses")
            if classes[key] is None:
                axes.plot([], [], " ", label=f"{name}: none ({classes['reasons'][key]})")
                continue
            n = classes["n"][key]
            label = (
                f"{name}: AUC {worded(classes[key], classes['ci95'][key])}\n"
                f"{n['malignant']} malignant, {n['other']} not"
            )
            line: dict[str, Any] = {
                "color": colour,
                "linestyle": style,
                "linewidth": 1.8,
                "label": label,
            }
            axes.plot(*judged.rankings[key].curve(), **line)
            band = partial(judged.rankings[key].tprs, fpr=grid)
            _band(axes, grid, band, weights, colour)
        axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)
    panels[0].set_ylabel("malignant called malignant (true positive rate)", color=INK)
    figure.suptitle(
        f"Classification (ROC): malignant or not, {result['patients']} patients; {BAND}",
        fontsize=12,
        color=INK,
    )
    return figure


def localisation_plot(result: Mapping[str, Any]) -> Figure:
    """The share of masses found against the IoU that counts as found (paper, figure 5b)."""
    figure = new_figure(6.4, 5.2)
    axes = figure.subplots()
    part = result["localisation"]
    dress(axes, "a hit has an IoU greater than", "masses found (true positive rate)")
    axes.set_xlim(0.08, 0.92)
    if result["masses"]:
        limits = [float(limit) for limit in part["tpr_at_iou"]]
        axes.plot(limits, list(part["tpr_at_iou"].values()), "o-", color=COLOURS[0],
                  linewidth=1.8, markersize=4)
        bounds = [part["ci95"][key] or (np.nan, np.nan) for key in part["tpr_at_iou"]]
        low, high = np.asarray(bounds, dtype=np.float64).T
        axes.fill_between(limits, low, high, color=COLOURS[0], alpha=0.14, linewidth=0)
    else:
        axes.text(0.5, 0.5, next(iter(part["reasons"].values())), ha="center", color=QUIET)
    axes.set_title(
        f"Localisation at {part['fpi']:g} false positives an image\n{result['masses']} masses; "
        f"band: 95 % patient bootstrap", fontsize=11, color=INK,
    )
    return figure


def reliability_plot(result: Mapping[str, Any]) -> Figure:
    """What was said against what was true, for being a mass and for being malignant."""
    figure = new_figure(11, 5.4)
    panels = figure.subplots(1, 2, sharey=True)
    sides = (("mass", "score: is it a mass?"), ("malignancy", "malignancy of a detected mass"))
    for axes, (name, title) in zip(panels, sides, strict=True):
        part = result["calibration"][name]
        dress(axes, "probability that was given", "")
        axes.set_xlim(0, 1)
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
        axes.set_title(f"{title} (n = {part['n']}, {part['true']} true)", fontsize=11, color=INK)
        if not part["bins"]:
            axes.text(0.5, 0.5, part["reasons"]["ece"], ha="center", color=QUIET)
            continue
        said, true, count = np.asarray(part["bins"]).T
        # How many stand behind a point, from the floor up: half the panel is all of them.
        axes.bar(said, 0.5 * count / count.sum(), width=0.03, color=COLOURS[0], alpha=0.18)
        label = (f"ECE {worded(part['ece'], part['ci95']['ece'])}\n"
                 f"Brier {worded(part['brier'], part['ci95']['brier'])}")
        axes.plot(said, true, "o-", color=COLOURS[0], linewidth=1.6, markersize=5, label=label)
        for x, y, many in zip(said, true, count, strict=True):
            below = y > 0.93  # above the point it would stand in the title
            axes.annotate(f"{many:.0f}", (x, y), xytext=(0, -14 if below else 7),
                          textcoords="offset points", ha="center", fontsize=8, color=QUIET)
        axes.legend(loc="upper left", frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)
    panels[0].set_ylabel("share that was true", color=INK)
    figure.suptitle("Calibration: points are bins of equal width, with their counts; bars their "
                    "share", fontsize=12, color=INK)
    return figure
