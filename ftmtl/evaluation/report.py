"""The figures as files: metrics.json for programs, report.html and two plots for people.

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

from ftmtl.atomic import atomic_write
from ftmtl.evaluation.evaluate import DETECTED_FPI, judge, replicates_for, summarise
from ftmtl.evaluation.inputs import (
    InvalidPredictions,
    InvalidTruth,
    parse_predictions,
    parse_truth,
)
from ftmtl.evaluation.plots import FROC_NAMES, froc_plot, roc_plot, worded

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
        [FROC_NAMES[name], *(worded(p["tpr_at_fpi"][rate], p["ci95"][rate]) for rate in rates)]
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
        rows.append([name, worded(part[key], part["ci95"][key]), str(n), note])
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
        ["masses detected", worded(detected["fraction"], detected["ci95"]["fraction"])],
        ["their median IoU", worded(detected["median_iou"], detected["ci95"]["median_iou"])],
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
    with atomic_write(path) as file:
        file.write(content)


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
