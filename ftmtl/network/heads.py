"""The three heads on the pooled RoIs θ1 (paper 2.2), channels last: [R, 7, 7, 1024]."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbone import CHANNELS
from .feature_transfer import Transfer

TRANSFERRED = 256
CLASSES = 3  # background, benign, malignant


class DetectionHead(nn.Module):
    """Mean pooling, then four class-agnostic deltas an RoI (2.2.1)."""

    def __init__(self) -> None:
        super().__init__()
        self.deltas = nn.Linear(CHANNELS, 4)

    def forward(self, theta1: Tensor) -> Tensor:
        """Deltas [R, 4] of θ1 [R, 7, 7, 1024]."""
        deltas: Tensor = self.deltas(theta1.mean(dim=(1, 2)))
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

    The transfer adds 256 × 3 = 768 weights to a plain 1024 → 3 classifier.
    """

    def __init__(self, transfer: Transfer) -> None:
        super().__init__()
        self.transfer = transfer
        self.classes = nn.Linear(CHANNELS + TRANSFERRED, CLASSES)

    def forward(self, theta1: Tensor, theta4: Tensor, mask_logits: Tensor) -> Tensor:
        """Logits [R, 3] of background, benign, malignant."""
        theta6 = torch.cat([theta1.mean(dim=(1, 2)), self.transfer(theta4, mask_logits)], dim=1)
        logits: Tensor = self.classes(theta6)
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
