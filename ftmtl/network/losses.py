"""The costs: L_prop for the proposals and the three terms of L_uni for the heads (Eq. 10).

Each takes one image's outputs; the caller averages over the images of a batch, so that a batch
split over processes gives the same number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def proposal_loss(objectness: Tensor, deltas: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """L_prop (Ren et al. 2017): cross entropy of objectness plus Smooth L1 of the deltas.

    Of N sampled anchors: `objectness` [N] logits, `deltas` and `targets` [N, 4], `labels` [N]
    1 for a mass, 0 for none. Deltas count on positives alone.
    """
    if len(labels) == 0:
        return objectness.sum() * 0
    objectness_loss = F.binary_cross_entropy_with_logits(objectness, labels.float())
    return objectness_loss + box_loss(deltas, targets, labels > 0)


def box_loss(deltas: Tensor, targets: Tensor, positive: Tensor) -> Tensor:
    """L_box, Eq. 1 and 2: Smooth L1 [R, 4], averaged over the positive RoIs; 0 without one."""
    if not positive.any():
        return deltas.sum() * 0
    return F.smooth_l1_loss(deltas[positive], targets[positive])


def class_loss(logits: Tensor, classes: Tensor, known: Tensor) -> Tensor:
    """L_cls, Eq. 9: −log p_u, averaged over RoIs [R]; a mass of unknown class does not count."""
    if not known.any():
        return logits.sum() * 0
    return F.cross_entropy(logits[known], classes[known])


MaskLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def mask_loss_on_positives(logits: Tensor, masks: Tensor, classes: Tensor) -> Tensor:
    """L_mask, Eq. 7 and 8, on masses alone: the true class's map against its mask (matterport).

    `logits` [R, 2, 28, 28], `masks` [R, 28, 28] in {0, 1}, `classes` [R] (0 background, 1, 2).
    """
    rows = classes > 0
    if not rows.any():
        return logits.sum() * 0
    own = _map_of_class(logits[rows], classes[rows])
    return F.binary_cross_entropy_with_logits(own, masks[rows])


def mask_loss_with_false_positives(logits: Tensor, masks: Tensor, classes: Tensor) -> Tensor:
    """L_mask where background RoIs learn two empty maps besides (paper 3.4.3).

    The weight map of Eq. 5 then falls to 0 off the masses, and with it what is transferred.
    Arguments as in `mask_loss_on_positives`; each RoI weighs the same.
    """
    if len(classes) == 0:
        return logits.sum() * 0
    own = F.binary_cross_entropy_with_logits(
        _map_of_class(logits, classes.clamp(min=1)), masks, reduction="none"
    ).mean(dim=(1, 2))
    empty = F.softplus(logits).mean(dim=(1, 2, 3))  # cross entropy against an empty mask
    return torch.where(classes > 0, own, empty).mean()


MASK_LOSSES: dict[str, MaskLoss] = {
    "positives": mask_loss_on_positives,
    "false_positives": mask_loss_with_false_positives,
}


def _map_of_class(logits: Tensor, classes: Tensor) -> Tensor:
    """The map [R, 28, 28] of each RoI's own class (1 or 2)."""
    return logits[torch.arange(len(classes), device=logits.device), classes - 1]
