"""The paper's idea (2.2.2): the segmentation head's features, weighted by its own maps.

θ4 [R, 256, 28, 28] and the mask logits of benign and malignant [R, 2, 28, 28] become 256
numbers an RoI that describe the mass and nothing around it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def weight_map(mask_logits: Tensor) -> Tensor:
    """M_w = max(M_b, M_m), Eq. 5: [R, 2, β, γ] logits to [R, 1, β, γ] in 0…1."""
    return mask_logits.amax(dim=1, keepdim=True).sigmoid()  # the sigmoid keeps the order


def transfer(theta4: Tensor, mask_logits: Tensor) -> Tensor:
    """θ4* = θ4 · M_w (Eq. 6), max-pooled 2×2 and averaged to [R, 256]."""
    weighted = theta4 * weight_map(mask_logits)
    return torch.mean(F.max_pool2d(weighted, 2), dim=(2, 3))
