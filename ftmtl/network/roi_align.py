"""RoIAlign (He et al. 2017) in plain torch, equal to torchvision's with `aligned=True`.

Bilinear sampling is separable, and so is the mean over a bin's samples. An RoI's pooled map is
therefore `rows @ features @ columnsᵀ`, with one small matrix of interpolation weights an axis:
two matrix products in place of a gather, forward and backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLES = 2  # sampling points a bin and axis, as in the field's usual configurations


def roi_align(
    features: Tensor, boxes: Tensor, *, stride: float, size: int, samples: int = SAMPLES
) -> Tensor:
    """Pool each box to size × size bins, each of samples × samples points.

    `features` [C, H, W] of one image, `boxes` [R, 4] (x1, y1, x2, y2) in canvas pixels,
    `stride` canvas pixels a feature cell. Returns [R, size, size, C]. A sampling point more than
    one cell outside the map counts as 0, one nearer takes the edge's value.
    """
    channels, height, width = features.shape
    scaled = boxes.float() / stride
    rows = _axis_weights(scaled[:, 1], scaled[:, 3], height, size, samples).to(features.dtype)
    columns = _axis_weights(scaled[:, 0], scaled[:, 2], width, size, samples).to(features.dtype)
    # Channels last, so that the large product is one [R·size, H] @ [H, W·C].
    flat = features.permute(1, 2, 0).reshape(height, width * channels)
    by_row = (rows.reshape(-1, height) @ flat).view(len(boxes), size, width, channels)
    return columns[:, None] @ by_row  # [R, 1, size, W] @ [R, size, W, C]


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
