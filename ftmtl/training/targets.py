"""Which anchors and RoIs of an image teach what: matching and sampling.

Chance comes from a generator seeded by the sample, on the CPU: the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ftmtl.config import TargetConfig
from ftmtl.network import boxes as box_ops
from ftmtl.network.roi_align import roi_align

from .samples import Sample

MASK_SIZE = 28
IGNORED = 0.5  # covered by an ignore region for more than this, a box is no negative


@dataclass(frozen=True)
class AnchorTargets:
    """Of the sampled anchors: `index` [N], `labels` [N] (1 mass, 0 none), `deltas` [N, 4]."""

    index: Tensor
    labels: Tensor
    deltas: Tensor


@dataclass(frozen=True)
class RoiTargets:
    """Of the sampled RoIs `boxes` [R, 4]: what each head should say.

    `classes` [R] (0 background, 1 benign, 2 malignant), `class_known` [R], `deltas` [R, 4],
    `masks` [R, 28, 28], empty on background.
    """

    boxes: Tensor
    classes: Tensor
    class_known: Tensor
    deltas: Tensor
    masks: Tensor


def anchor_targets(anchors: Tensor, extent: Tensor, sample: Sample, config: TargetConfig,
                   random: torch.Generator) -> AnchorTargets:
    """Sample anchors [A, 4] (paper 2.1.2; Ren et al.: positive from 0.7, negative under 0.3).

    The best anchors of each mass are positive whatever their overlap. Anchors whose centre lies
    on the padding (beyond `extent` [2], width and height) take no part.
    """
    overlap = box_ops.iou(anchors, sample.boxes)
    best, truth = _best(overlap)
    positive = best >= config.rpn_positive_iou
    if len(sample.boxes):
        top = overlap.amax(dim=0)
        positive |= ((overlap >= top - 1e-4) & (top > 0)).any(dim=1)
    inside = ((anchors[:, :2] + anchors[:, 2:]) / 2 < extent).all(dim=1)
    negative = (best < config.rpn_negative_iou) & inside & ~positive
    negative &= box_ops.coverage(anchors, sample.ignore) <= IGNORED
    chosen, positives = _draw(positive, negative, config.rpn_samples,
                              config.rpn_positive_fraction, random)
    labels = torch.zeros(len(chosen), dtype=torch.long, device=anchors.device)
    labels[:positives] = 1
    deltas = _deltas(anchors[chosen], sample.boxes, truth[chosen], positives)
    return AnchorTargets(chosen, labels, deltas)


def roi_targets(proposals: Tensor, sample: Sample, config: TargetConfig,
                random: torch.Generator) -> RoiTargets:
    """Sample RoIs from proposals [P, 4]: positive from IoU 0.5 with a mass, the rest background."""
    if config.add_truth:
        proposals = torch.cat([proposals, sample.boxes])
    # Rejected findings always compete as background: that is what the reader taught.
    rejected = len(sample.hard_negatives)
    proposals = torch.cat([sample.hard_negatives, proposals])
    best, truth = _best(box_ops.iou(proposals, sample.boxes))
    positive = best >= config.roi_positive_iou
    negative = ~positive & (box_ops.coverage(proposals, sample.ignore) <= IGNORED)
    first = torch.zeros_like(positive)
    first[:rejected] = True
    chosen, positives = _draw(positive, negative, config.roi_samples,
                              config.roi_positive_fraction, random, first=first)
    boxes, matched = proposals[chosen], truth[chosen]
    classes = torch.zeros(len(chosen), dtype=torch.long, device=boxes.device)
    known = torch.ones(len(chosen), dtype=torch.bool, device=boxes.device)
    masks = torch.zeros(len(chosen), MASK_SIZE, MASK_SIZE, device=boxes.device)
    if positives:
        own = matched[:positives]
        classes[:positives] = sample.classes[own]
        known[:positives] = sample.class_known[own]
        masks[:positives] = _crop_masks(sample.masks, boxes[:positives], own)
    deltas = _deltas(boxes, sample.boxes, matched, positives)
    return RoiTargets(boxes, classes, known, deltas, masks)


def _best(overlap: Tensor) -> tuple[Tensor, Tensor]:
    """The largest overlap [N] of each row of [N, T], and its column [N]; 0 without columns."""
    if overlap.shape[1] == 0:
        zero = overlap.new_zeros(len(overlap))
        return zero, zero.long()
    best = overlap.max(dim=1)
    return best.values, best.indices


def _draw(positive: Tensor, negative: Tensor, count: int, fraction: float,
          random: torch.Generator, *, first: Tensor | None = None) -> tuple[Tensor, int]:
    """Indices of at most `count` rows, positives first, and how many those are.

    Negatives fill what positives leave; those marked `first` come before chance.
    """
    positives = _shuffled(positive, random)[: int(count * fraction)]
    negatives = _shuffled(negative, random)
    if first is not None:
        negatives = negatives[torch.argsort((~first[negatives]).int(), stable=True)]
    negatives = negatives[: count - len(positives)]
    return torch.cat([positives, negatives]), len(positives)


def _shuffled(mask: Tensor, random: torch.Generator) -> Tensor:
    index = mask.nonzero()[:, 0]
    return index[torch.randperm(len(index), generator=random).to(index.device)]


def _deltas(boxes: Tensor, truth: Tensor, matched: Tensor, positives: int) -> Tensor:
    deltas = torch.zeros_like(boxes)
    if positives:
        deltas[:positives] = box_ops.encode(truth[matched[:positives]], boxes[:positives])
    return deltas


def _crop_masks(masks: Tensor, boxes: Tensor, own: Tensor) -> Tensor:
    """Each box's part of its own mass's mask [T, H, W], as [R, 28, 28] of 0 and 1."""
    crops = roi_align(masks, boxes, stride=1, size=MASK_SIZE)  # of every mass, channels last
    return (crops[torch.arange(len(boxes), device=boxes.device), :, :, own] >= 0.5).float()
