"""Region proposal network (paper 2.1.2; Ren et al. 2017): where could a mass be?

A 3×3 convolution over θ0, then an objectness and four deltas for each anchor. All anchor sizes
and ratios stand at each cell, because C4 is the only map.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import boxes as box_ops
from .backbone import CHANNELS, STRIDE


@dataclass(frozen=True)
class RpnOutput:
    """Of a batch: `objectness` [B, N] logits and `deltas` [B, N, 4] for `anchors` [N, 4]."""

    objectness: Tensor
    deltas: Tensor
    anchors: Tensor


class RegionProposalNetwork(nn.Module):
    """Objectness and box deltas for anchors of the given sizes (√area) and ratios (h / w)."""

    def __init__(self, *, sizes: tuple[float, ...], ratios: tuple[float, ...]) -> None:
        super().__init__()
        self.shapes = [(s / sqrt(r), s * sqrt(r)) for s in sizes for r in ratios]  # width, height
        self.conv: nn.Module = nn.Conv2d(CHANNELS, 512, 3, padding=1)
        self.objectness = nn.Conv2d(512, len(self.shapes), 1)
        self.deltas = nn.Conv2d(512, 4 * len(self.shapes), 1)

    def forward(self, theta0: Tensor) -> RpnOutput:
        """Scores and deltas over θ0 [B, 1024, h, w]; anchors run row, column, shape."""
        x = F.relu(self.conv(theta0))
        batch, _, height, width = x.shape
        objectness = self.objectness(x).permute(0, 2, 3, 1).reshape(batch, -1)
        deltas = self.deltas(x).permute(0, 2, 3, 1).reshape(batch, -1, 4)
        return RpnOutput(objectness.float(), deltas.float(), self.anchors(height, width, x.device))

    def anchors(self, height: int, width: int, device: torch.device) -> Tensor:
        """Anchors [height · width · shapes, 4] around the centres of the cells."""
        y = (torch.arange(height, device=device) + 0.5) * STRIDE
        x = (torch.arange(width, device=device) + 0.5) * STRIDE
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2)  # [h, w, 2] (x, y)
        half = torch.tensor(self.shapes, device=device) / 2
        corners = torch.stack([-half, half], dim=1).view(1, 1, -1, 4)  # [1, 1, A, 4]
        return (centres.repeat(1, 1, 2)[:, :, None] + corners).reshape(-1, 4)


def propose(
    output: RpnOutput, image: int, extent: Tensor, *, pre_nms: int, keep: int, nms_iou: float
) -> tuple[Tensor, Tensor]:
    """One image's proposals, best first: boxes [K, 4] and objectness probabilities [K].

    The `pre_nms` best anchors are refined, cut to `extent` [2] (width, height of the image on
    the canvas), thinned by non-maximum suppression, and the first `keep` remain.
    """
    scores = output.objectness[image].detach()
    best = scores.topk(min(pre_nms, len(scores))).indices
    boxes = box_ops.decode(output.deltas[image].detach()[best], output.anchors[best])
    boxes = box_ops.clip(boxes, extent)
    sound = box_ops.sound(boxes)
    boxes, scores = boxes[sound], scores[best][sound]
    kept = box_ops.nms(boxes, scores, nms_iou, keep=keep)
    return boxes[kept], scores[kept].sigmoid()
