"""Which prediction found which mass.

FROC matches one to one: predictions choose in the order of their scores, each the best overlapping
mass that is still free. What a prediction takes never depends on those scored below it, so one pass
serves every threshold. A second prediction on a mass that is taken is a false positive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ftmtl.evaluation.inputs import BoolArray, FloatArray, IntArray, Predictions, Truth

FALSE_POSITIVE = -1
IGNORED = -2
MISSED = -1
IGNORE_IOU = 0.2
IGNORE_COVER = 0.5  # of the prediction; as in training (`training.targets.IGNORED`)

Criterion = Callable[[FloatArray, FloatArray, FloatArray], BoolArray]
"""(boxes [N, 4], masses [M, 4], their IoU [N, M]) -> [N, M], true where the box hits the mass."""


def iou(a: FloatArray, b: FloatArray) -> FloatArray:
    """[N, M] intersection over union of boxes a [N, 4] and b [M, 4], `[x, y, width, height]`."""
    inside = _intersection(a, b)
    area_a, area_b = a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]
    ratio: FloatArray = inside / (area_a[:, None] + area_b[None, :] - inside)
    return ratio


def in_ignored(boxes: FloatArray, regions: FloatArray) -> BoolArray:
    """[N] whether a box of boxes [N, 4] belongs to one of the ignore regions [K, 4].

    It does with an IoU > 0.2, or where more than half of it lies in the region: within a large
    region the IoU of a box is small wherever it lies (COCO judges by the latter, for crowds).
    """
    cover = _intersection(boxes, regions) / (boxes[:, 2] * boxes[:, 3])[:, None]
    inside: BoolArray = ((iou(boxes, regions) > IGNORE_IOU) | (cover > IGNORE_COVER)).any(axis=1)
    return inside


def _intersection(a: FloatArray, b: FloatArray) -> FloatArray:
    """[N, M] the areas that boxes a [N, 4] and b [M, 4] share."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    shared: FloatArray = np.clip(high - low, 0, None).prod(axis=2)
    return shared


def iou_above(least: float) -> Criterion:
    """Hit where the IoU is greater than `least` (paper, 3.4.2: 0.2)."""
    return lambda boxes, masses, overlap: overlap > least


def centre_inside(boxes: FloatArray, masses: FloatArray, overlap: FloatArray) -> BoolArray:
    """Hit where the centre of the predicted box lies in the mass's box, its edge included."""
    centre = boxes[:, None, :2] + boxes[:, None, 2:] / 2
    low = masses[None, :, :2]
    inside: BoolArray = ((centre >= low) & (centre <= low + masses[None, :, 2:])).all(axis=2)
    return inside


CRITERIA: dict[str, Criterion] = {
    "iou>0.2": iou_above(0.2),
    "iou>0.5": iou_above(0.5),
    "centre": centre_inside,
}


def _by_image(truth: Truth, predictions: Predictions) -> Iterator[tuple[IntArray, IntArray, int]]:
    """For each image with predictions: (their indices, the indices of its masses, the image)."""
    order = np.argsort(predictions.image, kind="stable")
    ends = np.flatnonzero(np.diff(predictions.image[order])) + 1
    of_image: dict[int, list[int]] = {}
    for mass, image in enumerate(truth.mass_image.tolist()):
        of_image.setdefault(image, []).append(mass)
    for chosen in np.split(order, ends):
        if len(chosen):
            image = int(predictions.image[chosen[0]])
            yield chosen, np.asarray(of_image.get(image, []), dtype=np.int64), image


def _one_to_one(
    score: FloatArray, box: FloatArray, overlap: FloatArray, hits: BoolArray
) -> IntArray:
    """[N] the mass that each prediction takes, or FALSE_POSITIVE.

    Equal scores go by overlap, then by place: the order of the file does not matter.
    """
    taken = np.full(len(score), FALSE_POSITIVE, dtype=np.int64)
    free = np.ones(overlap.shape[1], dtype=bool)
    order = np.lexsort((*box.T, -overlap.max(axis=1), -score))
    for i in order[hits[order].any(axis=1)]:
        candidates = hits[i] & free
        if candidates.any():
            taken[i] = np.where(candidates, overlap[i], -1).argmax()
            free[taken[i]] = False
    return taken


def match(truth: Truth, predictions: Predictions, criterion: Criterion) -> IntArray:
    """[N] for each prediction the index of the mass it found, FALSE_POSITIVE or IGNORED.

    A prediction that found no mass and belongs to an ignore region (`in_ignored`) is IGNORED.
    """
    found = np.full(len(predictions.score), FALSE_POSITIVE, dtype=np.int64)
    for chosen, masses, image in _by_image(truth, predictions):
        boxes = predictions.box[chosen]
        if len(masses):
            overlap = iou(boxes, truth.mass_box[masses])
            hits = criterion(boxes, truth.mass_box[masses], overlap)
            taken = _one_to_one(predictions.score[chosen], boxes, overlap, hits)
            found[chosen] = np.where(taken >= 0, masses[taken], FALSE_POSITIVE)
        regions = truth.ignore_box[truth.ignore_image == image]
        missed = found[chosen] == FALSE_POSITIVE
        found[chosen[missed & in_ignored(boxes, regions)]] = IGNORED
    return found


def detected(
    truth: Truth, predictions: Predictions, threshold: float, least: float = 0.4
) -> tuple[IntArray, FloatArray]:
    """([M] the prediction that speaks for each mass, or MISSED; [M] its IoU, 0 where missed).

    It is the best scored one with IoU > `least` (paper, 3.4.2) among those that score at least
    `threshold`; of equal scores the better overlapping, of equal boxes the more malignant: the
    order of the file does not matter.
    """
    speaker = np.full(truth.masses, MISSED, dtype=np.int64)
    quality = np.zeros(truth.masses)
    malignancies = predictions.malignancy
    for chosen, masses, _ in _by_image(truth, predictions):
        if not len(masses):
            continue
        overlap = iou(predictions.box[chosen], truth.mass_box[masses])
        score, malignancy = predictions.score[chosen], malignancies[chosen]
        for column, mass in enumerate(masses):
            able = np.flatnonzero((overlap[:, column] > least) & (score >= threshold))
            if len(able):
                by = (-malignancy[able], -overlap[able, column], -score[able])
                best = able[np.lexsort(by)[0]]
                speaker[mass], quality[mass] = chosen[best], overlap[best, column]
    return speaker, quality
