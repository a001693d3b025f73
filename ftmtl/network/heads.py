"""The three heads on the pooled RoIs θ1 [R, 1024, 7, 7] (paper 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbone import CHANNELS
from .feature_transfer import transfer

TRANSFERRED = 256
CLASSES = 3  # background, benign, malignant


class DetectionHead(nn.Module):
    """Mean pooling, then four class-agnostic deltas an RoI (2.2.1)."""

    def __init__(self) -> None:
        super().__init__()
        self.deltas = nn.Linear(CHANNELS, 4)

    def forward(self, theta1: Tensor) -> Tensor:
        """Deltas [R, 4] of θ1 [R, 1024, 7, 7]."""
        deltas: Tensor = self.deltas(theta1.mean(dim=(2, 3)))
        return deltas.float()


class SegmentationHead(nn.Module):
    """Two stride-2 deconvolutions to 28×28 and a 1×1 convolution (2.2.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.deconv1 = nn.ConvTranspose2d(CHANNELS, TRANSFERRED, 2, stride=2)
        self.deconv2 = nn.ConvTranspose2d(TRANSFERRED, TRANSFERRED, 2, stride=2)
        self.masks = nn.Conv2d(TRANSFERRED, 2, 1)

    def forward(self, theta1: Tensor) -> tuple[Tensor, Tensor]:
        """θ4 [R, 256, 28, 28] and the logits of M_b, M_m [R, 2, 28, 28]."""
        theta3 = F.relu(self.deconv1(theta1))
        theta4 = F.relu(self.deconv2(theta3))
        return theta4, self.masks(theta4)


class ClassificationHead(nn.Module):
    """Mean-pooled θ1 joined to the transferred features: 1280 → 3 (2.2.3).

    The transfer adds 256 × 3 = 768 weights to a plain 1024 → 3 classifier.
    """

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Linear(CHANNELS + TRANSFERRED, CLASSES)

    def forward(self, theta1: Tensor, theta4: Tensor, mask_logits: Tensor) -> Tensor:
        """Logits [R, 3] of background, benign, malignant."""
        theta6 = torch.cat([theta1.mean(dim=(2, 3)), transfer(theta4, mask_logits)], dim=1)
        logits: Tensor = self.classes(theta6)
        return logits.float()
