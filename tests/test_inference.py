"""The network for reading finds what the plain network finds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ftmtl.config import PAPER, BoxesFrom, Variant
from ftmtl.network.inference import InferenceNet
from ftmtl.network.model import Detections, FTMTLNet, build

SMALL = replace(PAPER.network, canvas=(96, 64), anchor_sizes=(24, 40), proposals_infer=30)


def untrained(variant: Variant = "ft-mtl-net", boxes_from: BoxesFrom = "mean") -> FTMTLNet:
    """A small network whose every number counts: batch norms and biases are no ones and zeros."""
    torch.manual_seed(3)
    network = build(replace(SMALL, variant=variant, boxes_from=boxes_from))
    with torch.no_grad():  # random convolutions blow up: bring θ0 and the RPN to about unit size
        for norm in network.backbone.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.uniform_(-0.3, 0.3)
                norm.running_mean.uniform_(-0.5, 0.5)
                norm.running_var.uniform_(4, 6)
        network.rpn.conv.weight *= 0.01
        for part in network.parts("heads"):
            for name, parameter in part.named_parameters():
                if name.endswith("bias"):
                    parameter.uniform_(-0.2, 0.2)
    return network.eval()


@pytest.fixture(scope="module")
def canvases() -> tuple[Tensor, Tensor]:
    images = torch.rand(2, 1, *SMALL.canvas, generator=torch.Generator().manual_seed(2))
    valid = torch.ones(2, *SMALL.canvas, dtype=torch.bool)
    valid[1, :, 40:] = False
    return images, valid


@pytest.mark.parametrize(
    ("variant", "boxes_from"),
    [("ft-mtl-net", "mean"), ("mask-rcnn", "mean"), ("ft-mtl-net", "places")],
)
def test_it_finds_what_the_plain_network_finds(
    variant: Variant, boxes_from: BoxesFrom, canvases: tuple[Tensor, Tensor]
) -> None:
    plain = untrained(variant, boxes_from)
    expected = plain.detect(*canvases)
    found = InferenceNet(plain, torch.device("cpu")).detect(*canvases)
    assert sum(len(e.boxes) for e in expected) > 5  # no comparison of nothing
    for f, e in zip(found, expected, strict=True):
        assert_alike(f, e)


def test_asked_about_boxes_it_says_the_same(canvases: tuple[Tensor, Tensor]) -> None:
    """More boxes than go in one piece, over the edges and outside, and none at all."""
    random = torch.Generator().manual_seed(4)
    corners = torch.rand(21, 2, generator=random) * 90 - 20
    boxes = torch.cat([corners, corners + 3 + 50 * torch.rand(21, 2, generator=random)], dim=1)
    asked = [boxes, boxes[:0]]
    expected = untrained().detect(*canvases, boxes=asked)
    found = InferenceNet(untrained(), torch.device("cpu")).detect(*canvases, boxes=asked)
    for f, e, own in zip(found, expected, asked, strict=True):
        assert torch.equal(f.boxes, own)
        assert_alike(f, e)


def assert_alike(found: Detections, expected: Detections) -> None:
    assert found.boxes.shape == expected.boxes.shape
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        found.class_logits.softmax(1), expected.class_logits.softmax(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.masks, expected.masks, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.pooled, expected.pooled, rtol=1e-4, atol=1e-4)
