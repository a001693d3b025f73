"""The figures as files: metrics.json for programs, report.html and two plots for people.

report.html is one file that can be mailed: the plots are inside it.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ftmtl.evaluation.bootstrap import Statistic, replicate
from ftmtl.evaluation.evaluate import DETECTED_FPI, Judged, judge, replicates_for, summarise
from ftmtl.evaluation.froc import Froc
from ftmtl.evaluation.inputs import (
    FloatArray,
    InvalidPredictions,
    InvalidTruth,
    parse_predictions,
    parse_truth,
)

INK, QUIET = "#1a1a1a", "#6b6b6b"
COLOURS = ("#0b559f", "#c2410c", "#4d7c0f")  # told apart by the colour-blind, and in grey
FROC_NAMES = {
    "iou>0.2": "IoU > 0.2",
    "iou>0.5": "IoU > 0.5",
    "centre": "centre in box",
}
FPI_SHOWN = 5.0

AUC_NAMES = {
    "auc_mass_detected": "AUC by mass, detected masses alone",
    "auc_mass_all": "AUC by mass, a missed one counts 0",
    "auc_image": "AUC by image",
    "auc_breast": "AUC by breast",
    "auc_patient": "AUC by patient",
}
DICE_NAMES = {
    "dice_detected": "Dice, detected masses alone",
    "dice_all": "Dice, a missed mass counts 0",
}


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _dress(axes: Axes, x: str, y: str) -> None:
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


def _text(value: float | None, bounds: Sequence[float] | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ({bounds[0]:.3f}–{bounds[1]:.3f})" if bounds else "")


def _froc_panel(
    axes: Axes, analyses: Mapping[str, Froc], results: Mapping[str, Any], weights: FloatArray
) -> None:
    grid = np.linspace(0, FPI_SHOWN, 101)
    for (name, analysis), colour in zip(analyses.items(), COLOURS, strict=True):
        figures = results[name]
        corners = np.asarray(figures["froc"]).reshape(-1, 3)
        x = np.concatenate([[0], corners[:, 1], [max(FPI_SHOWN, *corners[:, 1], 0)]])
        y = np.concatenate([[0], corners[:, 2], corners[-1:, 2] if len(corners) else [0]])
        at_one = _text(figures["tpr_at_fpi"]["1"], figures["ci95"]["1"])
        label = f"{FROC_NAMES[name]}: {at_one} at 1 FPI"
        axes.plot(x, y, drawstyle="steps-post", color=colour, linewidth=1.8, label=label)
        _band(axes, grid, partial(analysis.tprs, fpi=grid), weights, colour)
        points = {float(rate): tpr for rate, tpr in figures["tpr_at_fpi"].items()}
        axes.plot(list(points), list(points.values()), "o", color=colour, markersize=4.5)
    axes.set_xlim(0, FPI_SHOWN * 1.01)
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)


def froc_plot(judged: Judged, result: Mapping[str, Any], weights: FloatArray) -> Figure:
    """FROC with false positives over all images (left) and over those with a mass (right).

    With no mass in the data there is no curve, and the plot says so.
    """
    figure = _figure(12, 5.4)
    left, right = figure.subplots(1, 2, sharey=True)
    detection = result["detection"]
    lesion = {name: part["fpi_over_lesion_images"] for name, part in detection.items()}
    of = f"{result['masses']} masses, {result['patients']} patients"
    panels = (
        (left, judged.frocs, detection, f"all images (n = {result['images']})"),
        (right, judged.lesion_frocs, lesion, f"images with a mass (n = {result['lesion_images']})"),
    )
    for axes, analyses, results, where in panels:
        _dress(axes, f"false positives an image, {where}", "masses found (true positive rate)")
        if result["masses"]:
            _froc_panel(axes, analyses, results, weights)
        else:
            axes.set_xlim(0, FPI_SHOWN)
            axes.text(2.5, 0.5, "no mass to be found", ha="center", color=QUIET)
    right.set_ylabel("")
    figure.suptitle(f"Detection (FROC): {of}", fontsize=13, color=INK)
    return figure


def roc_plot(judged: Judged, result: Mapping[str, Any], weights: FloatArray) -> Figure:
    """ROC of malignant against benign by mass (left), and by image, breast and patient (right)."""
    figure = _figure(12, 5.9)
    panels = figure.subplots(1, 2, sharey=True)
    classes = result["classification"]
    grid = np.linspace(0, 1, 51)
    sides = (
        ("by mass", ("auc_mass_detected", "auc_mass_all")),
        ("by image, breast and patient", ("auc_image", "auc_breast", "auc_patient")),
    )
    for axes, (title, keys) in zip(panels, sides, strict=True):
        _dress(axes, "others called malignant (false positive rate)", "")
        axes.set_xlim(-0.005, 1)
        axes.set_xticks(np.linspace(0, 1, 11))
        axes.set_title(title, fontsize=11, color=INK)
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
        for key, colour in zip(keys, COLOURS, strict=False):
            name = key.removeprefix("auc_").replace("mass_all", "all masses, a miss = 0")
            name = name.replace("mass_detected", "detected masses")
            if classes[key] is None:
                axes.plot([], [], " ", label=f"{name}: none ({classes['reasons'][key]})")
                continue
            n = classes["n"][key]
            label = (
                f"{name}: AUC {_text(classes[key], classes['ci95'][key])}\n"
                f"{n['malignant']} malignant, {n['other']} not"
            )
            axes.plot(*judged.rankings[key].curve(), color=colour, linewidth=1.8, label=label)
            band = partial(judged.rankings[key].tprs, fpr=grid)
            _band(axes, grid, band, weights, colour)
        axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)
    panels[0].set_ylabel("malignant called malignant (true positive rate)", color=INK)
    figure.suptitle("Classification (ROC): malignant or not", fontsize=13, color=INK)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "ftmtl"})
    return buffer.getvalue()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return (
        f"<table><thead>{row(head, 'th')}</thead><tbody>"
        + "".join(row(cells, "td") for cells in rows)
        + "</tbody></table>"
    )


def _detection_table(parts: Mapping[str, Any]) -> str:
    rates = list(next(iter(parts.values()))["tpr_at_fpi"])
    rows = [
        [FROC_NAMES[name], *(_text(p["tpr_at_fpi"][rate], p["ci95"][rate]) for rate in rates)]
        for name, p in parts.items()
    ]
    return _table(["hit", *(f"TPR at {rate} FPI" for rate in rates)], rows)


def _figure_rows(part: Mapping[str, Any], names: Mapping[str, str]) -> list[list[str]]:
    rows = []
    for key, name in names.items():
        n = part["n"].get(key, "")
        if isinstance(n, Mapping):
            n = f"{n['malignant']} malignant, {n['other']} not"
        note = part["reasons"].get(key, "")
        rows.append([name, _text(part[key], part["ci95"][key]), str(n), note])
    return rows


STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;max-width:1080px;margin:2rem auto;
padding:0 1rem}h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.3rem .9rem .3rem 0;border-bottom:1px solid #e4e4e4}
th{font-weight:600}img{width:100%;height:auto}.quiet{color:#6b6b6b}
"""


def _html(result: Mapping[str, Any], plots: Mapping[str, bytes], title: str) -> str:
    def picture(name: str, alt: str) -> str:
        data = base64.b64encode(plots[name]).decode("ascii")
        return f'<img alt="{alt}" src="data:image/png;base64,{data}">'

    count = result["bootstrap"]["replicates"]
    detected, detection = result["detected"], result["detection"]
    lesion = {name: part["fpi_over_lesion_images"] for name, part in detection.items()}
    quality = [
        ["masses detected", _text(detected["fraction"], detected["ci95"]["fraction"])],
        ["their median IoU", _text(detected["median_iou"], detected["ci95"]["median_iou"])],
    ]
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in result["notes"])
    iou, threshold = detected["rule"]["iou"], detected["rule"]["threshold"]
    summary = (
        f"{result['images']} images ({result['lesion_images']} with a mass) of "
        f"{result['patients']} patients; {result['masses']} masses: {result['malignant_masses']} "
        f"malignant, {result['benign_masses']} benign, {result['unknown_class_masses']} of unknown "
        f"class; {result['predictions']} predictions."
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<p>{summary}</p>
<p class="quiet">In brackets: 95 % percentile intervals of {count} bootstrap replicates that draw
whole patients. The bands in the plots are the same, point by point.</p>
{f"<ul>{notes}</ul>" if notes else ""}
<h2>Detection</h2>
{picture("froc.png", "FROC curves")}
<p>False positives an image, over all images:</p>
{_detection_table(detection)}
<p>False positives an image, over the images with a mass:</p>
{_detection_table(lesion)}
<p class="quiet">One prediction finds one mass, the best scored first; a second one on the same mass
is a false positive.</p>
<h2>Classification</h2>
{picture("roc.png", "ROC curves")}
{_table(["figure", "value", "n", ""], _figure_rows(result["classification"], AUC_NAMES))}
<p class="quiet">Detected: the best scored prediction with IoU &gt; {iou:g} that scores at least
{threshold:.4f}, the threshold of {DETECTED_FPI:g} false positives an image. A prediction's
malignancy is p(malignant) / (p(benign) + p(malignant)); an image, breast or patient has the largest
of its predictions that pass the same threshold, and 0 where none does.</p>
<h2>Segmentation and box quality</h2>
{_table(["figure", "value", "n", ""], _figure_rows(result["segmentation"], DICE_NAMES))}
{_table(["figure", "value"], quality)}
</body></html>
"""


def _write(path: Path, content: bytes) -> None:
    """The whole file or none of it, also when the process dies."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _load(source: Any, error: type[ValueError], fallback: str) -> tuple[Any, str]:
    """(content, name): a path is read as JSON, anything else is taken as it is."""
    if not isinstance(source, str | Path):
        return source, fallback
    try:
        return json.loads(Path(source).read_text(encoding="utf-8")), str(source)
    except OSError as reason:
        raise error(f"{source}: cannot be read: {reason.strerror}") from reason
    except ValueError as reason:
        raise error(f"{source}: is not JSON: {reason}") from reason


def write_report(
    folder: str | Path,
    truth: str | Path | Mapping[str, Any],
    predictions: str | Path | Sequence[Mapping[str, Any]],
    *,
    bootstraps: int = 2000,
    seed: int = 0,
    title: str = "Evaluation",
) -> dict[str, Any]:
    """Evaluate, write froc.png, roc.png, report.html and, last, metrics.json; return the metrics.

    truth and predictions are paths of JSON files or their contents. Nothing is written when they
    are refused; each file appears whole or not at all. Raises InvalidTruth, InvalidPredictions.
    """
    coco, truth_name = _load(truth, InvalidTruth, "truth")
    results, predictions_name = _load(predictions, InvalidPredictions, "predictions")
    told = parse_truth(coco, truth_name)
    judged = judge(told, parse_predictions(results, told, predictions_name))
    weights = replicates_for(told, bootstraps, seed)
    result = {
        **summarise(judged, weights),
        "bootstrap": {"unit": "patient", "replicates": bootstraps, "seed": seed},
    }
    plots = {
        "froc.png": _png(froc_plot(judged, result, weights)),
        "roc.png": _png(roc_plot(judged, result, weights)),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in plots.items():
        _write(folder / name, content)
    _write(folder / "report.html", _html(result, plots, title).encode("utf-8"))
    metrics = json.dumps(result, indent=1, allow_nan=False) + "\n"
    _write(folder / "metrics.json", metrics.encode("utf-8"))
    return result
