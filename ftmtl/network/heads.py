"""The three heads on the pooled RoIs θ1 (paper 2.2), channels last: [R, 7, 7, 1024]."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbone import CHANNELS
from .feature_transfer import Transfer

BINS = 7  # θ1 is 7×7 (2.1.2)
TRANSFERRED = 256
CLASSES = 3  # background, benign, malignant
HIDDEN = 1024


def hidden_layers(inputs: int) -> nn.Sequential:
    """The two layers that Mask R-CNN classifies with (matterport's `fpn_classifier_graph`)."""
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()
    )


class DetectionHead(nn.Module):
    """Mean pooling, then four class-agnostic deltas an RoI (2.2.1)."""

    def __init__(self) -> None:
        super().__init__()
        self.deltas = nn.Linear(CHANNELS, 4)

    def forward(self, theta1: Tensor) -> Tensor:
        """Deltas [R, 4] of θ1 [R, 7, 7, 1024]."""
        deltas: Tensor = self.deltas(theta1.mean(dim=(1, 2)))
        return deltas.float()


class SpatialDetectionHead(nn.Module):
    """Deltas from where in the RoI things lie: 1×1 convolution, hidden layer, four deltas.

    What the mean over an RoI no longer tells is on which side the mass sticks out of it.
    """

    REDUCED = 128
    HIDDEN = 256

    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Linear(CHANNELS, self.REDUCED)  # a 1×1 convolution, channels last
        self.hidden = nn.Linear(BINS * BINS * self.REDUCED, self.HIDDEN)
        self.deltas = nn.Linear(self.HIDDEN, 4)

    def forward(self, theta1: Tensor) -> Tensor:
        """Deltas [R, 4] of θ1 [R, 7, 7, 1024]."""
        return self.after_reduce(self.reduce(theta1))

    def after_reduce(self, reduced: Tensor) -> Tensor:
        """The same from what the first layer gives, [R, 7, 7, 128]."""
        hidden = F.relu(self.hidden(F.relu(reduced).flatten(1)))
        deltas: Tensor = self.deltas(hidden)
        return deltas.float()


class Deconvolution(nn.Module):
    """A deconvolution with 2×2 kernel and stride 2.

    Its kernels do not overlap, so it is one linear map from each pixel to its 2×2 block.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.weight = nn.Parameter(torch.empty(4 * outputs, inputs))  # (block place, channel) rows
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Blocks [R, h, w, 4, outputs] of x [R, h, w, inputs]; place 2·row + column."""
        flat: Tensor = F.linear(x, self.weight, self.bias.repeat(4))
        blocks: Tensor = flat.unflatten(-1, (4, self.outputs))
        return blocks


class SegmentationHead(nn.Module):
    """Two stride-2 deconvolutions to 28×28 and a 1×1 convolution (2.2.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.deconv1 = Deconvolution(CHANNELS, TRANSFERRED)
        self.deconv2 = Deconvolution(TRANSFERRED, TRANSFERRED)
        self.masks = nn.Linear(TRANSFERRED, 2)  # a 1×1 convolution, channels last

    def forward(self, theta1: Tensor) -> tuple[Tensor, Tensor]:
        """θ4 [R, 14, 14, 4, 256] and the logits of M_b, M_m [R, 14, 14, 4, 2], in 2×2 blocks."""
        return self.after_deconv1(self.deconv1(theta1))

    def after_deconv1(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """The same from what the first deconvolution gives, [R, 7, 7, 4, 256]."""
        rois, height, width = blocks.shape[:3]
        blocks = F.relu(blocks)
        theta3 = blocks.unflatten(3, (2, 2)).transpose(2, 3).reshape(
            rois, 2 * height, 2 * width, TRANSFERRED
        )
        theta4 = F.relu(self.deconv2(theta3))
        return theta4, self.masks(theta4)


class ClassificationHead(nn.Module):
    """Mean-pooled θ1 joined to the transferred features: 1280 → 3 (2.2.3).

    The transfer adds 256 × 3 = 768 weights to a plain 1024 → 3 classifier. A `deep` one, beyond the
    paper, has Mask R-CNN's two hidden layers between: the paper sets them against the transfer, but
    nothing keeps a classifier from having both.
    """

    def __init__(self, transfer: Transfer, *, deep: bool = False) -> None:
        super().__init__()
        self.transfer = transfer
        inputs = CHANNELS + TRANSFERRED
        self.hidden = hidden_layers(inputs) if deep else nn.Identity()
        self.classes = nn.Linear(HIDDEN if deep else inputs, CLASSES)

    def forward(self, theta1: Tensor, theta4: Tensor, mask_logits: Tensor) -> Tensor:
        """Logits [R, 3] of background, benign, malignant."""
        return self.of_joined(theta1.mean(dim=(1, 2)), self.transfer(theta4, mask_logits))

    def of_joined(self, pooled: Tensor, transferred: Tensor) -> Tensor:
        """Logits [R, 3] of θ6, from its parts [R, 1024] and [R, 256]."""
        theta6 = torch.cat([pooled, transferred], dim=1)
        logits: Tensor = self.classes(self.hidden(theta6))
        return logits.float()


class PlainClassificationHead(nn.Module):
    """Ablation: no transfer. Mean-pooled θ1 alone, 1024 → 3."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Linear(CHANNELS, CLASSES)

    def forward(self, theta1: Tensor, theta4: Tensor, mask_logits: Tensor) -> Tensor:
        """Logits [R, 3] of background, benign, malignant; only θ1 is looked at."""
        logits: Tensor = self.classes(theta1.mean(dim=(1, 2)))
        return logits.float()
