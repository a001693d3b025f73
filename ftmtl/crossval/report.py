"""The experiment as a page: the paper's tables and figures with our numbers beside its own.

report.html is one file that can be mailed: the pictures are inside it, and besides it as PNG.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ftmtl.atomic import write_bytes
from ftmtl.crossval.cases import figure_6, pick
from ftmtl.crossval.figures import NAMES, figure_3, figure_4a, figure_5b
from ftmtl.crossval.outcome import Outcome, over_the_folds
from ftmtl.crossval.published import TABLE_3, TABLE_4, TABLE_5
from ftmtl.evaluation.evaluate import unranked
from ftmtl.evaluation.plots import reliability_plot, worded
from ftmtl.evaluation.report import (
    COMPARISON_NOTE,
    STYLE,
    comparison_table,
    png,
    table,
)

Rows = Sequence[Sequence[str]]


def write_experiment_report(outcome: Outcome) -> dict[str, Any]:
    """Write the plots, report.html and, last, metrics.json; return the metrics."""
    reference = outcome.reference
    pictures = {
        "figure-3.png": png(figure_3(outcome)),
        "figure-4a.png": png(figure_4a(outcome)),
        "figure-5b.png": png(figure_5b(outcome)),
        "calibration.png": png(reliability_plot(outcome.result["models"][reference])),
    }
    for number, case in enumerate(pick(outcome.judged[reference]), start=1):
        pictures[f"figure-6-{number}.png"] = png(figure_6(outcome, reference, case))
    out = outcome.experiment.out
    for stale in out.glob("figure-6-*.png"):
        if stale.name not in pictures:
            stale.unlink()
    for name, content in pictures.items():
        write_bytes(out / name, content)
    write_bytes(out / "report.html", _page(outcome, pictures).encode("utf-8"))
    metrics = json.dumps(outcome.result, indent=1, allow_nan=False) + "\n"
    write_bytes(out / "metrics.json", metrics.encode("utf-8"))
    return outcome.result


def _page(outcome: Outcome, pictures: Mapping[str, bytes]) -> str:
    result, reference = outcome.result, outcome.reference

    def picture(name: str, alt: str) -> str:
        data = base64.b64encode(pictures[name]).decode("ascii")
        return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'

    cases = "".join(picture(name, "a case, step by step")
                    for name in pictures if name.startswith("figure-6-"))
    comparisons = "".join(
        f"<h3>{NAMES[reference]} against {NAMES[other]}</h3>"
        + comparison_table(rows, NAMES[reference], NAMES[other])
        for other, rows in result["comparisons"].items()
    )
    title = "Cross-validation: " + ", ".join(NAMES[model] for model in outcome.experiment.models)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width"><style>{STYLE}{MORE_STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
{_warning(result["experiment"])}
<h2>What was done</h2>
{table(["", ""], _setting(result))}
{table(["fold", "images", "patients", "masses", "malignant"], _folds(result))}
<h2>The paper's tables</h2>
<p class="quiet">Ours in bold: mean ± SD over the folds, each judged alone, as in the paper. The
paper's rows are quoted to two decimals, all of INbreast, its own two with folds by mass and its
recipe (preset paper); only figures of one set, one way of folding and one recipe compare. Rows
without a figure are left out. The paper prints Dice with the union below the line; ours is Dice's
own.</p>
<h3>Table 3: classification, AUC of detected masses</h3>
{_table(["method", "configuration", "AUC"], TABLE_3, _ours(result, _auc))}
<h3>Table 4: detection, TPR @ FPI, IoU &gt; 0.2</h3>
{_table(["method", "configuration", "TPR @ FPI"], TABLE_4, _detection(result))}
<h3>Table 5: segmentation, Dice of detected masses</h3>
{_table(["method", "configuration", "Dice"], TABLE_5, _ours(result, _dice))}
<h2>The paper's figures</h2>
<p class="quiet">Means over the folds; a bar is two SD high, as in the paper.</p>
<div class="pair">{picture("figure-3.png", "ROC of detected masses")}
{picture("figure-4a.png", "FROC")}</div>
<div class="half">{picture("figure-5b.png", "TPR against IoU")}</div>
<h2>Does the transfer help?</h2>
<p>All figures from the pooled out-of-fold predictions, with 95 % intervals of
{result["bootstrap"]["replicates"]} bootstrap replicates that draw whole patients.</p>
<div class="wide">{table(POOLED_HEAD, _pooled(result))}</div>
<div class="wide">{comparisons}</div>
<p class="quiet">{COMPARISON_NOTE}</p>
<h2>Calibration of {NAMES[reference]}</h2>
{picture("calibration.png", "reliability")}
<p class="quiet">As trained: no temperature was fitted, because that would need a split of its
own.</p>
<h2>Figure 6: from candidates to the verdict</h2>
<p class="quiet">{NAMES[reference]}, each film read by the fold that never saw it. Cases are picked
by rule. Yellow: candidates with their objectness O. Dashed: refined boxes, with the probabilities
of malignant M and benign B; the outlines are the masks. Last: findings at the threshold of one
false positive an image, with the veto's malignancy.</p>
{cases}
</body></html>
"""


MORE_STYLE = """h3{font-size:1rem;margin:1.4rem 0 .2rem}.pair{display:flex;gap:1rem;
align-items:flex-start}.pair img{width:50%}.wide{overflow-x:auto;font-size:13px}
.warning{background:#fff4e5;border-left:4px solid #c2410c;padding:.6rem 1rem}
tr.ours td{font-weight:600;background:#f1f6fc}
"""


def _warning(experiment: Mapping[str, Any]) -> str:
    """What a reader must know before the figures."""
    leak, nameless, words = experiment["leak"], experiment["images_without_patient"], []
    if nameless:
        words.append(f"<b>{_nameless(nameless)}: each is taken for a woman of her own, and folds "
                     "may leak.</b>")
    if leak["of_known_patients"]:
        words.append(
            "<b>These folds leak.</b> They are split by mass, as in the paper: "
            f"{leak['of_known_patients']} of {leak['tests']} tests show a woman, and "
            f"{leak['of_known_films']} the very film, that the model was trained on. Set beside "
            "the same samples in folds by patient (masses-by-patient) the figures say how large "
            "the leak is, nothing else."
        )
    return "".join(f'<p class="warning">{word}</p>' for word in words)


def _nameless(images: int) -> str:
    return f"{images} image{'s name' if images > 1 else ' names'} no patient"


def _setting(result: Mapping[str, Any]) -> Rows:
    done, first = result["experiment"], next(iter(result["models"].values()))
    stages = "; ".join(f"{s['name']}: {s['epochs']} epoch{'s' * (s['epochs'] != 1)}"
                       for s in done["stages"])
    steps = done["steps_per_epoch"] or "as many as the images fill"
    masks = ", ".join(f"{count} {MASK_NAMES[source]}" for source, count in done["masks"].items())
    leak = done["leak"]
    nameless = done["images_without_patient"]
    apart = _nameless(nameless) if nameless else "no woman is in two"
    split = {
        "patients": f"by patient, films of one kind in equal shares; {apart}",
        "masses": f"by mass, as in the paper; {leak['of_known_patients']} of {leak['tests']} tests "
                  f"show a woman trained on, {leak['of_known_films']} the very film",
        "masses-by-patient": f"by patient, each mass a sample of its own, as in the paper; {apart}",
    }[done["split"]]
    left_out = done["left_out"]
    return [
        ["data", f"{first['images']} images ({first['lesion_images']} with a mass) of "
                 f"{first['patients']} patients; {first['masses']} masses: "
                 f"{first['malignant_masses']} malignant, {first['benign_masses']} benign, "
                 f"{first['unknown_class_masses']} of unknown class"],
        ["malignant means", done["malignant_means"]],
        ["masks learned from", masks or "none"],
        ["left out of AUCs", "; ".join(unranked(first["classification"])) or "nothing"],
        ["left out", f"{len(left_out)} unreadable: " + "; ".join(left_out[:3]) if left_out
            else "nothing"],
        ["folds", f"{len(done['folds'])}, {split}"],
        ["recipe", f"preset {done['preset']}, the same for every model: {stages}; steps an epoch: "
                   f"{steps}; batch {done['batch_size']}; seed {done['seed']}"],
        ["epochs", done["epochs_chosen"]],
        ["backbone at the start", done["backbone_start"] or "random"],
    ]


MASK_NAMES = {
    "annotated": "annotated (drawn by a reader)",
    "fitted": "fitted into their box",
    "model": "drawn by a model (the inscribed ellipse is taught; no Dice)",
    "none": "of unknown origin",
    "box alone": "boxes alone (the inscribed ellipse is taught; no Dice)",
}


def _folds(result: Mapping[str, Any]) -> Rows:
    return [
        [str(n), *(str(fold[key]) for key in ("images", "patients", "masses", "malignant"))]
        for n, fold in enumerate(result["experiment"]["folds"], start=1)
    ]


def _table(head: Sequence[str], theirs: Rows, ours: Rows) -> str:
    """A table of the paper with our rows, marked, below."""
    whole = table(head, [*theirs, *ours])
    before, after = whole.split("<tbody>")
    rows = after.split("<tr>")
    marked = [*rows[: len(theirs) + 1], *(f'class="ours">{row}' for row in
                                          rows[len(theirs) + 1 :])]
    return before + "<tbody>" + "<tr>".join(marked).replace("<tr>class=", "<tr class=")


def _ours(
    result: Mapping[str, Any], say: Callable[[Mapping[str, Any]], str], where: str = "here"
) -> list[Sequence[str]]:
    return [[f"{NAMES[model]}, {where}", "multi-task", say(part)]
            for model, part in result["models"].items()]


def _detection(result: Mapping[str, Any]) -> Rows:
    """Over all images and, where some hold no mass, over the rest: the paper's all hold one."""
    rows = _ours(result, _tpr)
    if any(part["lesion_images"] < part["images"] for part in result["models"].values()):
        rows += _ours(result, _lesion_tpr, "here, false positives on images with a mass alone")
    return rows


def _auc(part: Mapping[str, Any]) -> str:
    return _said(part, "auc_mass_detected", "classification")


def _tpr(part: Mapping[str, Any], key: str = "tpr") -> str:
    return ", ".join(f"{over_the_folds(part['folds'][f'{key}@{fpi}'])} @ {fpi}"
                     for fpi in ("0.8", "3.67", "5"))


def _lesion_tpr(part: Mapping[str, Any]) -> str:
    return _tpr(part, "lesion_tpr")


def _dice(part: Mapping[str, Any]) -> str:
    return _said(part, "dice_detected", "segmentation")


def _said(part: Mapping[str, Any], key: str, section: str) -> str:
    """A figure over the folds, or why there is none."""
    if part["folds"][key]["mean"] is not None:
        return over_the_folds(part["folds"][key])
    return f"none: {part[section]['reasons'].get(key, 'no fold has one')}"


POOLED_HEAD = ("model", "classifier weights", "TPR at 0.3 FPI", "at 1", "at 3.67",
               "AUC, detected masses", "AUC, a miss = 0", "AUC by patient", "Dice, detected",
               "Dice, a miss = 0")


def _pooled(result: Mapping[str, Any]) -> Rows:
    rows = []
    for model, part in result["models"].items():
        found, classes = part["detection"]["iou>0.2"], part["classification"]
        outlines = part["segmentation"]
        rows.append([
            NAMES[model], f"{result['experiment']['classifier_weights'][model]:,}",
            *(worded(found["tpr_at_fpi"][fpi], found["ci95"][fpi]) for fpi in ("0.3", "1", "3.67")),
            *(worded(classes[key], classes["ci95"][key])
              for key in ("auc_mass_detected", "auc_mass_all", "auc_patient")),
            *(worded(outlines[key], outlines["ci95"][key]) for key in ("dice_detected",
                                                                       "dice_all")),
        ])
    return rows
