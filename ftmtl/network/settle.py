"""One box a mass: what refinement leaves on an image is settled by suppression or by consensus.

A mass usually has many refined boxes, and a false positive few. Suppression (the paper's, by way of
matterport) keeps the best box and throws away what the others say. In a consensus the neighbours of
each kept box vote: its place is their mean, weighted by the square of their scores (box voting:
Gidaris & Komodakis 2015, section 4), and its score and classes are the mean over its best
supporters. A lonely box counts as one with supporters of score 0: agreement itself is evidence.

Both take an image's boxes [R, 4] (x1, y1, x2, y2) in canvas pixels with class logits [R, 3], and
return those that remain, best first by the score 1 − p_background.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import boxes as box_ops

Settle = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

APART_IOU = 0.1  # kept boxes that overlap more are one mass
VOTER_IOU = 0.3  # neighbours nearer than this place the box
SUPPORTER_IOU = 0.4  # and nearer than this say what it is
SUPPORTERS = 12  # the best of them, whether there are as many or not


def suppression(boxes: Tensor, class_logits: Tensor, *, iou: float) -> tuple[Tensor, Tensor]:
    """The boxes that non-maximum suppression by class keeps, and their logits, as they were."""
    kind = class_logits[:, 1:].argmax(dim=1)
    scores = 1 - class_logits.softmax(dim=1)[:, 0]
    kept = box_ops.nms(boxes, scores, iou, groups=kind)
    return boxes[kept], class_logits[kept]


def consensus(boxes: Tensor, class_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Voted boxes [K, 4] and the class logits [K, 3] that their supporters agree on.

    The logits are logarithms of probabilities: their softmax is the consensus. With s_i the
    score 1 − p_background of the i-th best supporter, the consensus scores Σ s_i / 12; benign and
    malignant share that as they share Σ p_benign and Σ p_malignant of the same supporters.
    """
    probabilities = class_logits.double().softmax(dim=1)
    scores = 1 - probabilities[:, 0]
    kept = box_ops.nms(boxes, scores, APART_IOU)
    overlaps = box_ops.iou(boxes[kept], boxes)  # [K, R]
    votes = torch.where(overlaps > VOTER_IOU, scores.square(), 0.0)
    voted = (votes @ boxes.double()) / votes.sum(dim=1, keepdim=True)
    support = torch.where(overlaps > SUPPORTER_IOU, scores, 0.0)
    best = support.topk(min(SUPPORTERS, len(boxes)), dim=1)
    taken = best.values > 0  # [K, S]; the others stand for supporters that are not there
    masses = (probabilities[best.indices, 1:] * taken[:, :, None]).sum(dim=1) / SUPPORTERS
    agreed = torch.cat([1 - masses.sum(dim=1, keepdim=True), masses], dim=1)
    order = agreed[:, 0].argsort(stable=True)
    logits = agreed[order].clamp(min=1e-12).log()
    return voted[order].to(boxes), logits.to(class_logits)
