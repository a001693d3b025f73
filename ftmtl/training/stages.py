"""One step of one stage (paper Table 1): which parts learn, from which costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ftmtl.config import Preset, Stage, TrainingConfig
from ftmtl.network.losses import MASK_LOSSES, box_loss, class_loss, proposal_loss
from ftmtl.network.model import FTMTLNet, extents_of

from .samples import Sample
from .targets import anchor_targets, roi_targets


def trainable(network: FTMTLNet, stage: Stage) -> list[nn.Parameter]:
    """The parameters that the stage trains; all others lose their gradient.

    What the backbone itself holds frozen (its batch norms, its first stages) stays so.
    """
    held = network.backbone.held()
    modules = [module for part in stage.trains for module in network.parts(part)]
    trained = {p for module in modules for p in module.parameters()} - held
    for parameter in network.parameters():
        parameter.requires_grad_(parameter in trained)
    return [p for p in network.parameters() if p.requires_grad]


def optimizer_of(
    parameters: list[nn.Parameter], stage: Stage, config: TrainingConfig
) -> torch.optim.Optimizer:
    """What the stage learns with; its rate is `learning_rate`'s, set before each step."""
    if stage.optimizer == "adamw":
        return torch.optim.AdamW(parameters)
    return torch.optim.SGD(
        parameters, momentum=config.momentum, weight_decay=config.weight_decay
    )


def learning_rate(config: TrainingConfig, stage: Stage, step: int, steps: int) -> float:
    """The rate of a step of a stage of so many steps: warm-up, then constant or a half cosine."""
    rate = config.learning_rate if stage.learning_rate is None else stage.learning_rate
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    decay = 0.5 * (1 + math.cos(math.pi * step / steps)) if config.schedule == "cosine" else 1.0
    return rate * warm * decay


def losses(
    network: FTMTLNet, samples: Sequence[Sample], stage: Stage, preset: Preset
) -> dict[str, Tensor]:
    """The costs of a batch, by name, each averaged over its images; their sum is minimised."""
    images = torch.stack([s.image for s in samples])
    valid = torch.stack([s.valid for s in samples])
    extents = extents_of(valid)
    generators = [torch.Generator().manual_seed(s.seed) for s in samples]
    with torch.set_grad_enabled("backbone" in stage.trains):
        theta0 = network.backbone(images, valid)
    with torch.set_grad_enabled("proposal" in stage.minimises):
        rpn = network.rpn(theta0)
    found: dict[str, Tensor] = {}
    if "proposal" in stage.minimises:
        each = []
        for i, sample in enumerate(samples):
            t = anchor_targets(rpn.anchors, extents[i], sample, preset.targets, generators[i])
            each.append(proposal_loss(
                rpn.objectness[i][t.index], rpn.deltas[i][t.index], t.labels, t.deltas
            ))
        found["proposal"] = torch.stack(each).mean()
    if "unified" in stage.minimises:
        proposals = network.proposals(rpn, extents, network.config.proposals_train)
        if stage.refined_rois:
            with torch.no_grad():
                refined = network.refine(theta0, proposals, extents)
            proposals = [torch.cat(both) for both in zip(proposals, refined, strict=True)]
        found |= _unified(network, theta0, proposals, samples, generators, preset)
    return found


def _unified(
    network: FTMTLNet, theta0: Tensor, proposals: list[Tensor], samples: Sequence[Sample],
    generators: list[torch.Generator], preset: Preset,
) -> dict[str, Tensor]:
    """λ1 L_cls, λ2 L_box and λ3 L_mask (Eq. 10) on sampled RoIs."""
    targets = [roi_targets(p, s, preset.targets, g)
               for p, s, g in zip(proposals, samples, generators, strict=True)]
    counts = [len(t.boxes) for t in targets]
    output = network.heads(network.pool(theta0, [t.boxes for t in targets]))
    mask_loss = MASK_LOSSES[preset.targets.masks_on]
    each = [
        torch.stack([
            class_loss(logits, t.classes, t.class_known),
            box_loss(deltas, t.deltas, t.classes > 0),
            mask_loss(masks, t.masks, t.classes),
        ])
        for t, deltas, masks, logits in zip(
            targets, output.deltas.split(counts), output.mask_logits.split(counts),
            output.class_logits.split(counts), strict=True,
        )
    ]
    mean = torch.stack(each).mean(dim=0)
    weights = preset.training.loss_weights
    return {name: weights[i] * mean[i] for i, name in enumerate(("class", "box", "mask"))}
