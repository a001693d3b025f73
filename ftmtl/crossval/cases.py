"""The paper's figure 6: what the network makes of a film, step by step, by the fold that never saw
it.

Cases are picked by rule, not by eye: of malignant and of benign masses the median, the largest miss
and the most certain false positive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox
from torch import Tensor

from ftmtl.canvas import Canvas
from ftmtl.crossval.outcome import Outcome
from ftmtl.crossval.run import WEIGHTS
from ftmtl.datasets.film import read_film
from ftmtl.datasets.records import BENIGN, MALIGNANT, ImageRecord
from ftmtl.evaluation.evaluate import Judged
from ftmtl.evaluation.froc import threshold_at
from ftmtl.evaluation.matching import CRITERIA, FALSE_POSITIVE, MISSED, match
from ftmtl.evaluation.plots import INK, new_figure
from ftmtl.findings import Findings
from ftmtl.network import boxes as box_ops
from ftmtl.network.model import Detections, extents_of
from ftmtl.network.rpn import propose
from ftmtl.overlay import COLOURS
from ftmtl.predict import Predictor

OBJECTNESS = 0.5  # a candidate is drawn from here on (paper 3.4.4)
DRAWN = 5  # at most, the best: more cannot be told apart
SHOWN_FPI = 1.0
CANDIDATE, TRUTH = "#ffd60a", "#5ad1ff"


@dataclass(frozen=True, kw_only=True)
class Case:
    """An image to be shown, by its index, and why."""

    image: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One film on its way: candidates [N, 4] with objectness [N], then described, then findings."""

    canvas: Canvas
    candidates: Tensor
    objectness: Tensor
    described: Detections
    findings: Findings


def pick(judged: Judged) -> list[Case]:
    """The cases that there are, each on a film of its own."""
    taken: set[int] = set()
    cases = []
    for case in _offers(judged):
        if case.image not in taken:
            taken.add(case.image)
            cases.append(case)
    return cases


def _offers(judged: Judged) -> Iterator[Case]:
    truth, predictions = judged.truth, judged.predictions
    for category, name in ((MALIGNANT, "malignant"), (BENIGN, "benign")):
        own = np.flatnonzero((judged.speaker != MISSED) & (truth.mass_class == category))
        if len(own):
            ranked = own[np.argsort(predictions.malignancy[judged.speaker[own]], kind="stable")]
            yield Case(image=int(truth.mass_image[ranked[len(ranked) // 2]]),
                       why=f"the median of the {len(own)} detected {name} masses")
    missed = np.flatnonzero(judged.speaker == MISSED)
    if len(missed):
        largest = missed[truth.mass_box[missed, 2:].prod(axis=1).argmax()]
        yield Case(image=int(truth.mass_image[largest]),
                   why=f"the largest of the {len(missed)} missed masses")
    found = match(truth, predictions, CRITERIA["iou>0.2"])
    false = np.flatnonzero(found == FALSE_POSITIVE)
    if len(false):
        surest = false[predictions.score[false].argmax()]
        yield Case(image=int(predictions.image[surest]),
                   why=f"the surest of the {len(false)} false positives")


def figure_6(outcome: Outcome, model: str, case: Case) -> Figure:
    """Four steps side by side: truth, candidates, heads, verdict."""
    record = outcome.experiment.folds.records[case.image]
    fold = outcome.experiment.folds.fold[case.image]
    weights = outcome.experiment.folder(model, fold) / WEIGHTS
    threshold = threshold_at(outcome.judged[model].frocs["iou>0.2"].curve, SHOWN_FPI)
    return _draw(trace(Predictor.load(weights, device="cpu"), record, threshold), record, case)


@torch.inference_mode()
def trace(predictor: Predictor, record: ImageRecord, threshold: float) -> Trace:
    """The network's steps on a film; `candidates` above OBJECTNESS, or the best alone."""
    mammogram = read_film(record)
    network, config = predictor.network, predictor.preset.network
    canvas = predictor.canvas(mammogram)
    image = torch.from_numpy(canvas.pixels)[None, None].to(predictor.device)
    valid = torch.from_numpy(canvas.valid)[None].to(predictor.device)
    theta0 = network.backbone(image, valid)
    extent = extents_of(valid)[0]
    boxes, objectness = propose(
        network.rpn(theta0), 0, extent, pre_nms=config.pre_nms, keep=config.proposals_infer,
        nms_iou=config.proposal_nms_iou,
    )
    boxes = boxes[: max(1, int((objectness > OBJECTNESS).sum()))]  # best first
    deltas = network.detection(network.pool(theta0, [boxes]))
    refined = box_ops.clip(box_ops.decode(deltas, boxes), extent)
    (described,) = network.detect(image, valid, boxes=[refined])
    return Trace(
        canvas=canvas, candidates=boxes.float().cpu(),
        objectness=objectness[: len(boxes)].float().cpu(), described=described,
        findings=predictor(mammogram, threshold=threshold),
    )


def _draw(steps: Trace, record: ImageRecord, case: Case) -> Figure:
    rows, columns = steps.canvas.geometry.filled
    width = 3.0
    figure = new_figure(4 * width, width * rows / columns + 1.1)
    count = len(steps.candidates)
    shown = min(count, DRAWN)
    candidates = f"candidates (O > {OBJECTNESS})" if count and steps.objectness[0] > OBJECTNESS \
        else f"no candidate above O = {OBJECTNESS}: the best"
    titles = (
        "film and truth",
        candidates + (f": best {shown} of {count}" if count > shown else ""),
        "refined boxes, masks, M and B",
        f"after the veto, at {SHOWN_FPI:g} FPI",
    )
    panels = figure.subplots(1, 4)
    for axes, title in zip(panels, titles, strict=True):
        axes.imshow(steps.canvas.pixels[:rows, :columns], cmap="gray", vmin=0, vmax=1,
                    extent=(0, columns, rows, 0))
        axes.set_axis_off()
        axes.set_title(title, fontsize=10, color=INK)
    _draw_truth(panels[0], steps, record)
    for box, objectness in zip(steps.candidates[:shown], steps.objectness, strict=False):
        _box(panels[1], box.tolist(), CANDIDATE, f"O {objectness:.2f}", dashed=True)
    described = steps.described
    probabilities = described.class_logits.float().softmax(dim=1).cpu()
    for i in range(shown):
        _, benign, malignant = probabilities[i].tolist()
        colour = _colour("malignant" if malignant > benign else "benign")
        _box(panels[2], described.boxes[i].tolist(), colour,
             f"M {malignant:.2f} B {benign:.2f}", dashed=True)
        _mask(panels[2], described.boxes[i].tolist(), described.masks[i], colour)
    _draw_findings(panels[3], steps)
    said, malignancy = steps.findings.heading(), steps.findings.verdict.malignancy
    figure.suptitle(f"{case.why[0].upper()}{case.why[1:]}. Verdict: {said}, "
                    f"malignancy of the image {malignancy:.2f}", fontsize=12, color=INK)
    figure.draw_without_rendering()  # only then is known how large words are
    for axes in panels:
        part_words(axes)
    return figure


def _draw_truth(axes: Axes, steps: Trace, record: ImageRecord) -> None:
    for mass in record.masses:
        (box,) = steps.canvas.geometry.boxes_to_canvas(np.array([mass.bbox]))
        kind = "malignant" if mass.category == MALIGNANT else "benign"
        _box(axes, box.tolist(), TRUTH, kind if mass.class_known else "class unknown")


def _draw_findings(axes: Axes, steps: Trace) -> None:
    geometry = steps.canvas.geometry
    rows, columns = geometry.filled
    for finding in reversed(steps.findings.findings):
        (box,) = geometry.boxes_to_canvas(np.array([finding.bbox]))
        colour = _colour(finding.label)
        _box(axes, box.tolist(), colour, f"{finding.label} {finding.malignancy:.2f}")
        mask = finding.mask()
        if mask is not None:
            on_canvas = geometry.mask_to_canvas(mask)[:rows, :columns]
            if on_canvas.any():
                axes.contour(np.arange(columns) + 0.5, np.arange(rows) + 0.5, on_canvas, [0.5],
                             colors=[colour], linewidths=1.2)


def _box(axes: Axes, box: list[float], colour: str, words: str, *, dashed: bool = False) -> None:
    x1, y1, x2, y2 = box
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour,
                             linewidth=1.2, linestyle="--" if dashed else "-"))
    (_, right), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    # Words stay on the film: to the left of a box at the right, inside one at the top.
    leaning = "right" if x1 > 0.55 * right else "left"
    fits = y1 > 0.05 * bottom
    axes.text(x2 if leaning == "right" else x1, y1 if fits else max(0, y1), words, color=colour,
              fontsize=7.5, ha=leaning, va="bottom" if fits else "top", clip_on=True,
              bbox={"facecolor": "black", "alpha": 0.55, "pad": 1, "linewidth": 0})


def part_words(axes: Axes) -> None:
    """Move words up or down, no further than needed, until none lie on others or off the film."""
    film, taken = axes.get_window_extent(), list[Bbox]()
    for words in axes.texts:
        own = words.get_window_extent().padded(1.5)  # with its dark ground
        places = [own.translated(0, step * own.height)
                  for step in sorted(range(-len(axes.texts), len(axes.texts) + 1), key=abs)]
        free = [place for place in places
                if not any(place.overlaps(other) for other in taken)]
        kept = next((place for place in free if film.y0 <= place.y0 and place.y1 <= film.y1), own)
        taken.append(kept)
        x, y = axes.transData.transform(words.get_position())
        x, y = axes.transData.inverted().transform((x, y + kept.y0 - own.y0))
        words.set_position((x, y))


def _mask(axes: Axes, box: list[float], mask: Tensor, colour: str) -> None:
    x1, y1, x2, y2 = box
    values = mask.float().cpu().numpy()
    level = min(0.5, float(values.max()) / 2)
    if values.min() < level < values.max() and x2 > x1 and y2 > y1:
        cells = (np.arange(len(values)) + 0.5) / len(values)
        axes.contour(x1 + cells * (x2 - x1), y1 + cells * (y2 - y1), values, [level],
                     colors=[colour], linewidths=1.2)


def _colour(label: str) -> str:
    red, green, blue = COLOURS[label]
    return f"#{red:02x}{green:02x}{blue:02x}"
