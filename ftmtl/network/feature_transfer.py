"""The paper's idea (2.2.2): the segmentation head's features, weighted by its own maps.

θ4 and the maps of benign and malignant become 256 numbers an RoI that describe the mass and
nothing around it. θ4 (28×28) is held as its 2×2 blocks: [R, 14, 14, 4, 256]. That is how a
stride-2 deconvolution makes it, and the blocks are what the max pooling looks at.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Transfer = Callable[[Tensor, Tensor], Tensor]
"""(θ4 [R, 14, 14, 4, 256], mask logits [R, 14, 14, 4, 2]) -> [R, 256], both in 2×2 blocks."""


def weight_map(mask_logits: Tensor) -> Tensor:
    """M_w = max(M_b, M_m), Eq. 5: logits [..., 2] to weights [..., 1] in 0…1."""
    return mask_logits.amax(dim=-1, keepdim=True).sigmoid()  # the sigmoid keeps the order


def transfer(theta4: Tensor, mask_logits: Tensor) -> Tensor:
    """θ4* = θ4 · M_w (Eq. 6), max-pooled 2×2 and averaged to [R, 256].

    `theta4` [R, 14, 14, 4, 256] and `mask_logits` [R, 14, 14, 4, 2] in 2×2 blocks.
    """
    return _pooled(theta4 * weight_map(mask_logits))


def transfer_unweighted(theta4: Tensor, mask_logits: Tensor) -> Tensor:
    """Ablation: θ4 as it is, in and around the mass alike (what 2.2.2 argues against)."""
    return _pooled(theta4)


def transfer_detached(theta4: Tensor, mask_logits: Tensor) -> Tensor:
    """Ablation: as `transfer`, but the class cost does not teach the weight map."""
    return transfer(theta4, mask_logits.detach())


def transfer_averaged(theta4: Tensor, mask_logits: Tensor) -> Tensor:
    """Ablation: as `transfer`, with a mean over each 2×2 block in place of the maximum."""
    return (theta4 * weight_map(mask_logits)).mean(dim=(1, 2, 3))


def _pooled(theta4: Tensor) -> Tensor:
    """Max pooling 2×2 and the global mean: [R, 14, 14, 4, 256] to [R, 256]."""
    return theta4.amax(dim=3).mean(dim=(1, 2))


def unblock(maps: Tensor) -> Tensor:
    """Lay 2×2 blocks [R, h, w, 4, C] out as maps [R, C, 2h, 2w]."""
    rois, height, width, _, channels = maps.shape
    blocks = maps.view(rois, height, width, 2, 2, channels)
    return blocks.permute(0, 5, 1, 3, 2, 4).reshape(rois, channels, 2 * height, 2 * width)
