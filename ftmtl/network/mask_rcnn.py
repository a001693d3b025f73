"""The paper's baseline: Mask R-CNN (He et al. 2017) as FT-MTL-Net's twin.

Backbone, proposals, detection and segmentation heads, costs and schedule are FT-MTL-Net's own. Its
classifier alone differs: no transferred features, but two layers of 1024, matterport's
(`fpn_classifier_graph`). On the mean-pooled θ1 these are the "~2M parameters" that the paper's
introduction sets against the 768 of the transfer: 2 × 1024 × 1024.
"""

from __future__ import annotations

from torch import Tensor, nn

from .backbone import CHANNELS
from .heads import CLASSES, HIDDEN, hidden_layers


class MaskRcnnClassificationHead(nn.Module):
    """Mean-pooled θ1 through two hidden layers: 1024 → 1024 → 1024 → 3."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = hidden_layers(CHANNELS)
        self.classes = nn.Linear(HIDDEN, CLASSES)

    def forward(self, theta1: Tensor, theta4: Tensor, mask_logits: Tensor) -> Tensor:
        """Logits [R, 3] of background, benign, malignant; only θ1 is looked at."""
        logits: Tensor = self.classes(self.hidden(theta1.mean(dim=(1, 2))))
        return logits.float()
