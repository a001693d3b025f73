"""RoIAlign (He et al. 2017) in plain torch, equal to torchvision's with `aligned=True`.

Bilinear sampling is separable, and so is the mean over a bin's samples: a bin is a weighted sum of
cells, whose weights are products of one number a row and one a column. Two samples an axis touch
four cells at most, so a bin of them is a bag of 16 cells; no cell is looked at that has no part in
it, forward or backward. One bin of many samples touches many cells and is a row of a matrix
product.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SAMPLES = 2  # sampling points a bin and axis, as in the field's usual configurations


def roi_align(features: Tensor, boxes: Tensor, *, stride: float, size: int) -> Tensor:
    """Pool each box to size × size bins, each of 2 × 2 points.

    `features` [C, H, W] of one image, `boxes` [R, 4] (x1, y1, x2, y2) in canvas pixels,
    `stride` canvas pixels a feature cell. Returns [R, size, size, C]. A sampling point more than
    one cell outside the map counts as 0, one nearer takes the edge's value.
    """
    channels, height, width = features.shape
    rows, columns = _weights(boxes.float() / stride, height, width, size, SAMPLES)
    by_row, row = rows.topk(min(2 * SAMPLES, height))  # [R, size, 4], zeros among them
    by_column, column = columns.topk(min(2 * SAMPLES, width))
    cells = row[:, :, None, :, None] * width + column[:, None, :, None, :]
    weights = by_row[:, :, None, :, None] * by_column[:, None, :, None, :]  # [R, size, size, 4, 4]
    pooled = F.embedding_bag(
        cells.flatten(3).flatten(0, 2), _by_cell(features), mode="sum",
        per_sample_weights=weights.flatten(3).flatten(0, 2).to(features.dtype),
    )
    return pooled.view(len(boxes), size, size, channels)


def roi_mean(features: Tensor, boxes: Tensor, *, stride: float, size: int) -> Tensor:
    """The mean over the bins of `roi_align`, [R, C]: one bin with as many samples."""
    _, height, width = features.shape
    rows, columns = _weights(boxes.float() / stride, height, width, 1, size * SAMPLES)
    weights = rows.mT * columns  # [R, H, W]
    return weights.flatten(1).to(features.dtype) @ _by_cell(features)


def _by_cell(features: Tensor) -> Tensor:
    """[C, H, W] as [H·W, C]; no copy of what is channels last."""
    return features.permute(1, 2, 0).flatten(0, 1)


def _weights(
    boxes: Tensor, height: int, width: int, size: int, samples: int
) -> tuple[Tensor, Tensor]:
    """Interpolation weights of rows [R, size, H] and columns [R, size, W]; boxes in cells."""
    return (_axis_weights(boxes[:, 1], boxes[:, 3], height, size, samples),
            _axis_weights(boxes[:, 0], boxes[:, 2], width, size, samples))


def _axis_weights(
    start: Tensor, end: Tensor, cells: int, size: int, samples: int
) -> Tensor:
    """Interpolation weights [R, size, cells] of one axis; start and end [R] in cells."""
    step = (end - start)[:, None] / (size * samples)
    points = torch.arange(size * samples, device=start.device) + 0.5
    centres = start[:, None] + points * step - 0.5  # in cell indices, 0 at the first cell's centre
    inside = (centres >= -1) & (centres <= cells)
    centres = centres.clamp(0, cells - 1)
    grid = torch.arange(cells, device=start.device)
    hat = (1 - (centres[..., None] - grid).abs()).clamp(min=0) * inside[..., None]
    return hat.view(len(start), size, samples, cells).mean(dim=2)
