"""The figures as files: metrics.json for programs, report.html and its plots for people.

report.html is one file that can be mailed: the plots are inside it.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ftmtl.atomic import write_bytes
from ftmtl.evaluation.compare import compare, judge_by_fold, over_folds
from ftmtl.evaluation.evaluate import DETECTED_FPI, judge, replicates_for, summarise
from ftmtl.evaluation.inputs import (
    InvalidPredictions,
    InvalidTruth,
    load_json,
    parse_predictions,
    parse_truth,
)
from ftmtl.evaluation.plots import (
    FROC_NAMES,
    froc_plot,
    localisation_plot,
    reliability_plot,
    roc_plot,
    worded,
)
from ftmtl.veto import HARDLY_A_MASS

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
CALIBRATION_NAMES = {
    "mass": "score, of predictions that reach the 3.67-FPI threshold",
    "malignancy": "malignancy, of detected masses",
}


def figure_name(key: str) -> str:
    """A figure's name for people; `tpr@FPI` is a TPR at IoU > 0.2."""
    kind, _, fpi = key.partition("tpr@")
    if fpi:
        return f"TPR at {fpi} FPI" + (", over images with a mass" if kind else "")
    return {**AUC_NAMES, **DICE_NAMES}[key]


def probability_word(p: float | None) -> str:
    """A p-value for people."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def comparison_table(rows: Mapping[str, Mapping[str, Any]], a: str, b: str) -> str:
    """`compare`'s rows as an HTML table."""
    tested = any("p_t_test" in row for row in rows.values())
    head = ["figure", a, b, "difference (95 % interval)", "p, bootstrap", "p, DeLong"]
    body = [
        [
            figure_name(key), f"{row['a']:.3f}", f"{row['b']:.3f}",
            worded(row["difference"], row["ci95"]), probability_word(row["p_bootstrap"]),
            probability_word(row.get("p_delong")),
            *([probability_word(row["p_t_test"])] if tested else []), str(row.get("n", "")),
        ]
        for key, row in rows.items()
    ]
    return table([*head, *(["p, paired t-test over folds"] if tested else []), "n"], body)


COMPARISON_NOTE = (
    "The interval and the first p draw whole patients, the same for both. DeLong takes the "
    "things ranked for independent, and the t-test the folds; both are kinder than they should "
    "be. Detected masses: those that both detected, but each model's own in the t-test. None is "
    "corrected for the number of figures."
)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "ftmtl"})
    return buffer.getvalue()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of plain texts."""

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
        [FROC_NAMES[name], *(worded(p["tpr_at_fpi"][rate], p["ci95"][rate]) for rate in rates)]
        for name, p in parts.items()
    ]
    return table(["hit", *(f"TPR at {rate} FPI" for rate in rates)], rows)


def _figure_rows(part: Mapping[str, Any], names: Mapping[str, str]) -> list[list[str]]:
    rows = []
    for key, name in names.items():
        n = part["n"].get(key, "")
        if isinstance(n, Mapping):
            n = f"{n['malignant']} malignant, {n['other']} not"
        note = part["reasons"].get(key) or part["reasons"].get(f"ci95 {key}", "")
        rows.append([name, worded(part[key], part["ci95"][key]), str(n), note])
    return rows


STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;max-width:1080px;margin:2rem auto;
padding:0 1rem}h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.3rem .9rem .3rem 0;border-bottom:1px solid #e4e4e4}
th{font-weight:600}img{width:100%;height:auto}.half{max-width:560px}.quiet{color:#6b6b6b}
"""


def _html(result: Mapping[str, Any], plots: Mapping[str, bytes], title: str) -> str:
    def picture(name: str, alt: str) -> str:
        data = base64.b64encode(plots[name]).decode("ascii")
        return f'<img alt="{alt}" src="data:image/png;base64,{data}">'

    count = result["bootstrap"]["replicates"]
    intervals = (
        f"In brackets: 95 % percentile intervals of {count} bootstrap replicates that draw whole "
        "patients. The bands in the plots are the same, point by point."
        if count else "No intervals: they are drawn over patients, and take two or more."
    )
    detected, detection = result["detected"], result["detection"]
    lesion = {name: part["fpi_over_lesion_images"] for name, part in detection.items()}
    quality = [
        ["masses detected", worded(detected["fraction"], detected["ci95"]["fraction"])],
        ["their median IoU", worded(detected["median_iou"], detected["ci95"]["median_iou"])],
    ]
    calibration = [
        [name, worded(part["ece"], part["ci95"]["ece"]),
         worded(part["brier"], part["ci95"]["brier"]), f"{part['n']}, {part['true']} true",
         part["reasons"].get("ece", "")]
        for name, part in ((CALIBRATION_NAMES[k], p) for k, p in result["calibration"].items())
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
<p class="quiet">{intervals}</p>
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
{table(["figure", "value", "n", ""], _figure_rows(result["classification"], AUC_NAMES))}
<p class="quiet">Detected: the best scored prediction with IoU &gt; {iou:g} that scores at least
{threshold:.4f}, the threshold of {DETECTED_FPI:g} false positives an image; intervals hold it as it
is. A prediction's
malignancy is p(malignant) / (p(benign) + p(malignant)). An image's is its largest p(malignant) /
({HARDLY_A_MASS:g} + {1 - HARDLY_A_MASS:g} × its largest p(mass)), over all predictions; a breast's
or patient's is that of her worst image.</p>
<h2>Segmentation and box quality</h2>
<div class="half">{picture("localisation.png", "TPR against the IoU that counts as found")}</div>
{table(["figure", "value", "n", ""], _figure_rows(result["segmentation"], DICE_NAMES))}
{table(["figure", "value"], quality)}
<h2>Calibration</h2>
{picture("reliability.png", "reliability")}
{table(["probability", "ECE", "Brier score", "n", ""], calibration)}
<p class="quiet">ECE: how far what was said lies from what was true, over ten bins; with few things
it is above 0 by chance alone, and its interval so much more that it may leave the value out.</p>
{_by_fold(result)}{_comparison(result)}
</body></html>
"""


def _by_fold(result: Mapping[str, Any]) -> str:
    if not result["folds"]:
        return ""
    rows = [
        [figure_name(key), plus_minus(part), *("–" if v is None else f"{v:.3f}"
                                               for v in part["values"])]
        for key, part in result["folds"].items()
    ]
    count = len(next(iter(result["folds"].values()))["values"])
    return ("<h2>By fold</h2>"
            + table(["figure", "mean ± SD", *(f"fold {i + 1}" for i in range(count))], rows)
            + '<p class="quiet">Each fold judged alone, with thresholds of its own. The spread of '
              "a few folds is no uncertainty; the intervals above are.</p>")


def plus_minus(part: Mapping[str, Any]) -> str:
    """The mean and the SD over folds, for people."""
    if part["mean"] is None:
        return "none"
    return f"{part['mean']:.2f}" + ("" if part["sd"] is None else f" ± {part['sd']:.2f}")


def _comparison(result: Mapping[str, Any]) -> str:
    comparison = result.get("comparison")
    if comparison is None:
        return ""
    heading = f"<h2>Against {html.escape(comparison['against'])}</h2>"
    if not comparison["figures"]:
        return f"{heading}<p>No figure is defined for both.</p>"
    rows = comparison_table(comparison["figures"], "this", "the other")
    return (f"{heading}{rows}"
            f'<p class="quiet">{COMPARISON_NOTE}</p>')


def write_report(
    folder: str | Path,
    truth: str | Path | Mapping[str, Any],
    predictions: str | Path | Sequence[Mapping[str, Any]],
    *,
    against: str | Path | Sequence[Mapping[str, Any]] | None = None,
    bootstraps: int = 2000,
    seed: int = 0,
    title: str = "Evaluation",
) -> dict[str, Any]:
    """Evaluate, write the plots, report.html and, last, metrics.json; return the metrics.

    truth, predictions and `against` (a second model's, to be compared in pairs) are paths of JSON
    files or their contents. Where the truth's images carry a `fold`, each fold is judged alone
    besides. Nothing is written when they are refused; each file appears whole or not at all.
    Raises InvalidTruth, InvalidPredictions.
    """
    coco, truth_name = load_json(truth, InvalidTruth, "truth")
    results, predictions_name = load_json(predictions, InvalidPredictions, "predictions")
    told = parse_truth(coco, truth_name)
    judged = judge(told, parse_predictions(results, told, predictions_name))
    weights = replicates_for(told, bootstraps, seed)
    result = {
        **summarise(judged, weights),
        "bootstrap": {"unit": "patient", "replicates": len(weights), "seed": seed},
    }
    folds = judge_by_fold(coco, results) if told.folded else []
    result["folds"] = over_folds(folds) if folds else {}
    if against is not None:
        others, other_name = load_json(against, InvalidPredictions, "the other")
        other = judge(told, parse_predictions(others, told, other_name))
        other_folds = judge_by_fold(coco, others) if folds else []
        result["comparison"] = {
            "against": other_name,
            "figures": compare(judged, other, weights, (folds, other_folds)),
        }
    plots = {
        "froc.png": png(froc_plot(judged, result, weights)),
        "roc.png": png(roc_plot(judged, result, weights)),
        "localisation.png": png(localisation_plot(result)),
        "reliability.png": png(reliability_plot(result)),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in plots.items():
        write_bytes(folder / name, content)
    write_bytes(folder / "report.html", _html(result, plots, title).encode("utf-8"))
    metrics = json.dumps(result, indent=1, allow_nan=False) + "\n"
    write_bytes(folder / "metrics.json", metrics.encode("utf-8"))
    return result
