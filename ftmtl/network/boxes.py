"""Box arithmetic: deltas (paper Eq. 3 and 4), overlap, non-maximum suppression.

Boxes are float tensors [N, 4] (x1, y1, x2, y2) in canvas pixels.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

# Eq. 3's offsets and logarithms are scaled to about unit spread (matterport's standard deviations
# .1, .1, .2, .2), so that the Smooth L1 of Eq. 2 weighs them alike.
PLACE_SCALE, SIZE_SCALE = 10.0, 5.0
LARGEST_GROWTH = log(1000 / 16)  # of a side, so that no untrained network overflows the exponential
NMS_BLOCK = 256  # boxes settled at once
_NO_AREA = 1e-6  # square pixels


def encode(targets: Tensor, references: Tensor) -> Tensor:
    """Deltas [N, 4] (dx, dy, log dw, log dh) that take references to targets (Eq. 4, scaled)."""
    (centres, sizes), (from_centres, from_sizes) = _middles(targets), _middles(references)
    places = PLACE_SCALE * (centres - from_centres) / from_sizes
    return torch.cat([places, SIZE_SCALE * (sizes / from_sizes).log()], dim=1)


def decode(deltas: Tensor, references: Tensor) -> Tensor:
    """The boxes [N, 4] that deltas [N, 4] make of references [N, 4] (inverse of Eq. 3)."""
    places, growths = deltas.float().split(2, dim=1)
    from_centres, from_sizes = _middles(references)
    centres = places / PLACE_SCALE * from_sizes + from_centres
    halves = (growths / SIZE_SCALE).clamp(max=LARGEST_GROWTH).exp() * from_sizes / 2
    return torch.cat([centres - halves, centres + halves], dim=1)


def _middles(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sizes, both [N, 2]."""
    corners, opposite = boxes.split(2, dim=1)
    return (corners + opposite) / 2, opposite - corners


def clip(boxes: Tensor, extent: Tensor) -> Tensor:
    """Boxes cut to 0…width, 0…height; `extent` [2] is (width, height)."""
    limits = torch.cat([extent, extent]).to(boxes)
    return torch.minimum(boxes.clamp(min=0), limits)


def sound(boxes: Tensor) -> Tensor:
    """Which boxes [N] are at least 2 canvas pixels wide and high: smaller is nothing."""
    return ((boxes[:, 2:] - boxes[:, :2]) >= 2).all(dim=1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [len(a), len(b)]; 0 of two boxes without area."""
    shared = _intersection(a, b)
    union = _area(a)[:, None] + _area(b) - shared
    return shared / union.clamp(min=_NO_AREA)


def coverage(a: Tensor, b: Tensor) -> Tensor:
    """The share of each box of `a` that the best box of `b` covers, [len(a)]."""
    if len(b) == 0:
        return a.new_zeros(len(a))
    return (_intersection(a, b) / _area(a).clamp(min=_NO_AREA)[:, None]).amax(dim=1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    """The areas [len(a), len(b)] that each two boxes share."""
    size = torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])
    return size.clamp(min=0).prod(dim=2)


def nms(boxes: Tensor, scores: Tensor, threshold: float, *, groups: Tensor | None = None,
        keep: int | None = None) -> Tensor:
    """Indices of the boxes that greedy non-maximum suppression keeps, best first; `keep` at most.

    A box falls to any better kept box (of its group, where `groups` [N] is given) with
    IoU > `threshold`; of equal scores the earlier is better. Boxes come in blocks, best first:
    those of a block that no box kept before overlaps are settled among themselves. So time and
    memory grow with the number of boxes times that of the kept, and where `keep` is given the
    blocks after it are never looked at.
    """
    def overlapping(a: Tensor, b: Tensor) -> Tensor:
        overlaps = iou(boxes[a], boxes[b]) > threshold
        return overlaps if groups is None else overlaps & (groups[a][:, None] == groups[b])

    order = torch.argsort(scores, descending=True, stable=True)
    kept = order[:0]
    for block in order.split(NMS_BLOCK):
        free = block[~overlapping(block, kept).any(dim=1)]
        kept = torch.cat([kept, free[_greedy(overlapping(free, free))]])
        if keep is not None and len(kept) >= keep:
            break
    return kept[:keep]


def _greedy(overlaps: Tensor) -> Tensor:
    """Which of N boxes [N], best first, greedy suppression keeps; `overlaps` [N, N] is symmetric.

    It is the only fixed point of "kept if no better kept box overlaps", and iterating that rule
    settles at least one more rank each round: in practice a handful of rounds on the whole
    matrix, without a loop over boxes.
    """
    better = torch.triu(overlaps, diagonal=1).float()  # [i, j]: i is better than j and overlaps
    kept = torch.ones(len(overlaps), device=overlaps.device)
    while True:
        survivors = (kept @ better == 0).float()
        if torch.equal(survivors, kept):
            return kept.bool()
        kept = survivors
