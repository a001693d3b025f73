"""RoIAlign against plain loops over torchvision's `aligned=True, sampling_ratio=2`."""

from __future__ import annotations

from math import floor

import pytest
import torch
from torch import Tensor

from ftmtl.network.roi_align import roi_align

BOXES = {
    "inside": [[20.0, 30, 70, 90], [3.5, 8.25, 41.75, 60.5]],
    "beyond the edge": [[-40.0, -30, 30, 50], [60, 70, 300, 400], [-500, 0, -300, 50]],
    "around the whole": [[-60.0, -60, 220, 200]],
    "tiny": [[33.0, 41, 33.4, 41.2], [50, 50, 50, 50], [0, 0, 1, 1]],
    "along the last cells": [[100.0, 70, 112, 80], [111.9, 79.9, 130, 100]],
}


@pytest.mark.parametrize("boxes", BOXES.values(), ids=BOXES.keys())
def test_equals_the_slow_loops(boxes: list[list[float]]) -> None:
    features = noise(3, 5, 7)
    places = torch.tensor(boxes)
    fast = roi_align(features, places, stride=16, size=7)
    torch.testing.assert_close(fast, slow(features, places, 16, 7), atol=1e-5, rtol=1e-5)


def test_equals_the_slow_loops_on_random_boxes_of_odd_sizes() -> None:
    numbers = torch.rand(12, 4, generator=torch.Generator().manual_seed(3)) * 140 - 20
    boxes = torch.cat([torch.minimum(numbers[:, :2], numbers[:, 2:]),
                       torch.maximum(numbers[:, :2], numbers[:, 2:])], dim=1)
    features = noise(2, 6, 9)
    for size, stride, some in ((1, 16, boxes), (3, 10.5, boxes), (28, 16, boxes[:1])):
        fast = roi_align(features, some, stride=stride, size=size)
        torch.testing.assert_close(fast, slow(features, some, stride, size), atol=1e-5, rtol=1e-5)


def test_a_map_of_one_cell_and_no_boxes() -> None:
    features = noise(4, 1, 1)
    boxes = torch.tensor([[0.0, 0, 16, 16], [-8, -8, 24, 24], [-30, 0, 60, 16]])
    fast = roi_align(features, boxes, stride=16, size=7)
    torch.testing.assert_close(fast, slow(features, boxes, 16, 7), atol=1e-6, rtol=1e-6)
    assert roi_align(features, boxes[:0], stride=16, size=7).shape == (0, 7, 7, 4)


def test_gradients_equal_the_slow_loops_in_double_precision() -> None:
    boxes = torch.tensor(
        [[5.0, 9, 61, 70], [-20, -20, 40, 30], [70, 30, 200, 90], [33, 41, 34, 42]]
    )
    weights = noise(4 * 4 * 4 * 2, 1, 1).double().view(4, 4, 4, 2)
    gradients = []
    for function in (lambda f: roi_align(f, boxes, stride=16, size=4),
                     lambda f: slow(f, boxes, 16, 4)):
        features = noise(2, 5, 6).double().requires_grad_()
        (function(features) * weights).sum().backward()
        gradients.append(features.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-6)


def test_gradcheck() -> None:
    boxes = torch.tensor([[5.0, 9, 41, 50], [-20, -20, 40, 30]])
    features = noise(2, 3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: roi_align(f, boxes, stride=16, size=3), (features,))


def test_a_ramp_is_read_off_at_the_bins_centres() -> None:
    """Of features that say where they are, each bin says where it is: no half-pixel shift."""
    y, x = torch.meshgrid(torch.arange(8) + 0.5, torch.arange(10) + 0.5, indexing="ij")
    features = torch.stack([x, y]) * 16
    box = torch.tensor([[21.0, 30, 126, 86]])
    pooled = roi_align(features, box, stride=16, size=7)[0]
    torch.testing.assert_close(pooled[0, :, 0], 21 + (torch.arange(7) + 0.5) * 15)
    torch.testing.assert_close(pooled[:, 0, 1], 30 + (torch.arange(7) + 0.5) * 8)


def noise(channels: int, height: int, width: int) -> Tensor:
    return torch.randn(channels, height, width, generator=torch.Generator().manual_seed(channels))


def slow(features: Tensor, boxes: Tensor, stride: float, size: int) -> Tensor:
    """One RoI, bin, sampling point at a time, after torchvision's kernel."""
    out = []
    for x1, y1, x2, y2 in (boxes.double() / stride - 0.5).tolist():
        width, height = (x2 - x1) / size, (y2 - y1) / size
        for row in range(size):
            for column in range(size):
                samples = [
                    bilinear(features, y1 + (row + a) * height, x1 + (column + b) * width)
                    for a in (0.25, 0.75) for b in (0.25, 0.75)
                ]
                out.append(torch.stack(samples).mean(dim=0))
    return torch.stack(out).view(len(boxes), size, size, len(features))


def bilinear(features: Tensor, y: float, x: float) -> Tensor:
    """The features [C] at a point in cell indices; 0 more than one cell outside."""
    _, height, width = features.shape
    if y < -1 or y > height or x < -1 or x > width:
        return features.new_zeros(len(features))
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = floor(y), floor(x)
    if top >= height - 1:
        top, y = height - 1, float(height - 1)
    if left >= width - 1:
        left, x = width - 1, float(width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    b, r = y - top, x - left
    return (
        features[:, top, left] * (1 - b) * (1 - r) + features[:, top, right] * (1 - b) * r
        + features[:, bottom, left] * b * (1 - r) + features[:, bottom, right] * b * r
    )
