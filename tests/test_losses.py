"""The costs, each against figures worked by hand from the paper's equations."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import pytest
import torch
from torch import Tensor

from ftmtl.config import PAPER, RECOMMENDED, Preset
from ftmtl.network.losses import (
    MASK_LOSSES,
    box_loss,
    class_loss,
    mask_loss_on_positives,
    mask_loss_with_false_positives,
    proposal_loss,
)
from ftmtl.network.model import build
from ftmtl.training.samples import Sample
from ftmtl.training.stages import losses
from ftmtl.training.targets import anchor_targets, roi_targets

YES, NO = True, False


def logit(probability: float) -> float:
    return log(probability / (1 - probability))


def test_box_cost_is_equation_1_and_2_of_the_positives() -> None:
    deltas = torch.tensor([[0.5, -1, 3, 0], [2, 0, 0, 0], [9, 9, 9, 9]])
    targets = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 0.25], [0, 0, 0, 0]])
    # |x| < 1: x²/2, else |x| − ½. The third RoI is background.
    by_hand = [0.5 * 0.25, 1 - 0.5, 3 - 0.5, 0, 2 - 0.5, 0, 0, 0.5 * 0.0625]
    cost = box_loss(deltas, targets, torch.tensor([YES, YES, NO]))
    assert cost.item() == pytest.approx(sum(by_hand) / 8)


def test_class_cost_is_equation_9_of_the_known() -> None:
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    classes, known = torch.tensor([0, 2, 1]), torch.tensor([YES, YES, NO])
    cost = class_loss(probabilities.log() + 5, classes, known)  # softmax takes no note of the 5
    assert cost.item() == pytest.approx((-log(0.7) - log(0.25)) / 2, rel=1e-5)


def test_proposal_cost_is_cross_entropy_and_boxes_of_the_positives() -> None:
    objectness = torch.tensor([logit(0.8), logit(0.3)])
    deltas = torch.tensor([[2.0, 0, 0, 0], [7, 7, 7, 7]])
    cost = proposal_loss(objectness, deltas, torch.tensor([1, 0]), torch.zeros(2, 4))
    assert cost.item() == pytest.approx((-log(0.8) - log(0.7)) / 2 + 1.5 / 4, rel=1e-5)


def two_rois() -> tuple[Tensor, Tensor]:
    """Logits [3, 2, 2, 2]: constant maps of M_b and M_m, and masks with a pixel of 4 set."""
    values = [[0.9, 0.2], [0.6, 0.3], [0.25, 0.5]]
    logits = torch.tensor([[logit(b), logit(m)] for b, m in values])
    masks = torch.zeros(3, 2, 2)
    masks[:, 0, 1] = 1
    return logits[:, :, None, None].expand(3, 2, 2, 2), masks


def entropy(probability: float) -> float:
    """Eq. 7 and 8 of a constant map against a mask with one pixel of four set."""
    return (-log(probability) - 3 * log(1 - probability)) / 4


def test_mask_cost_on_positives_is_equation_7_and_8_of_the_true_class() -> None:
    logits, masks = two_rois()
    classes = torch.tensor([1, 2, 0])
    cost = mask_loss_on_positives(logits, masks, classes)
    assert cost.item() == pytest.approx((entropy(0.9) + entropy(0.3)) / 2, rel=1e-5)


def test_mask_cost_with_false_positives_empties_both_maps_of_background() -> None:
    logits, masks = two_rois()
    classes = torch.tensor([1, 2, 0])
    # The third is background: both of its maps against nothing, whatever its mask says.
    empty = (-log(1 - 0.25) - log(1 - 0.5)) / 2
    cost = mask_loss_with_false_positives(logits, masks, classes)
    assert cost.item() == pytest.approx((entropy(0.9) + entropy(0.3) + empty) / 3, rel=1e-5)


def test_costs_stay_finite_for_a_network_that_is_very_sure_and_wrong() -> None:
    logits = torch.full((1, 2, 2, 2), 200.0)
    cost = mask_loss_with_false_positives(logits, torch.zeros(1, 2, 2), torch.tensor([0]))
    assert cost.item() == pytest.approx(200)
    sure = class_loss(torch.tensor([[200.0, 0, 0]]), torch.tensor([2]), torch.tensor([YES]))
    assert sure.item() == pytest.approx(200 + log(1 + 2 * exp(-200)))


def test_without_anything_to_learn_each_cost_is_a_zero_that_can_be_minimised() -> None:
    """No RoI at all, or none that counts: 0, not NaN, and with a gradient of 0."""
    nobody = torch.zeros(0, dtype=torch.bool)
    unknown = torch.tensor([NO, NO])
    ones, none = torch.tensor([1, 2]), torch.zeros(0, dtype=torch.long)

    def zero(size: int, *shape: int) -> Tensor:
        return torch.randn(size, *shape, requires_grad=True)

    cases = [
        (zero(0, 4), lambda x: box_loss(x, torch.zeros(0, 4), nobody)),
        (zero(2, 4), lambda x: box_loss(x, torch.zeros(2, 4), unknown)),
        (zero(0, 3), lambda x: class_loss(x, none, nobody)),
        (zero(2, 3), lambda x: class_loss(x, ones, unknown)),
        (zero(0), lambda x: proposal_loss(x, torch.zeros(0, 4), none, torch.zeros(0, 4))),
    ]
    background = torch.tensor([0, 0])
    for name, classes in (("positives", none), ("false_positives", none),
                          ("positives", background)):
        cases.append((
            zero(len(classes), 2, 28, 28),
            lambda x, f=MASK_LOSSES[name], c=classes: f(x, torch.zeros(len(x), 28, 28), c),
        ))
    for x, cost in cases:
        value = cost(x)
        value.backward()
        assert value.item() == 0
        assert x.grad is not None
        assert (x.grad == 0).all()


# The costs together, on a network of its own


def mammogram(seed: int) -> Sample:
    """A noisy canvas with one mass, and none on every second."""
    count = seed % 2
    masks = torch.zeros(count, 64, 64)
    masks[:, 12:40, 10:38] = 1
    return Sample(
        image=torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(seed)),
        valid=torch.ones(64, 64, dtype=torch.bool),
        boxes=torch.tensor([[10.0, 12, 38, 40]])[:count], classes=torch.full((count,), 2),
        class_known=torch.ones(count, dtype=torch.bool), masks=masks,
        ignore=torch.zeros(0, 4), hard_negatives=torch.zeros(0, 4), seed=seed,
    )


def tiny(weights: tuple[float, float, float]) -> Preset:
    return replace(
        RECOMMENDED,
        network=replace(RECOMMENDED.network, canvas=(64, 64), proposals_train=20),
        training=replace(RECOMMENDED.training, loss_weights=weights),
    )


def test_the_heads_cost_is_equation_10_averaged_over_the_images() -> None:
    """λ1 L_cls + λ2 L_box + λ3 L_mask; L_prop beside it, from anchors drawn first."""
    torch.manual_seed(0)
    preset = tiny((2.0, 3.0, 5.0))
    network = build(preset.network).eval()
    samples = [mammogram(1), mammogram(2)]
    with torch.no_grad():
        found = losses(network, samples, preset.training.stages[0], preset)
        expected = dict.fromkeys(("proposal", "class", "box", "mask"), 0.0)
        for s in samples:
            random = torch.Generator().manual_seed(s.seed)
            extent = torch.tensor([64.0, 64.0])
            theta0 = network.backbone(s.image[None], s.valid[None])
            rpn = network.rpn(theta0)
            a = anchor_targets(rpn.anchors, extent, s, preset.targets, random)
            expected["proposal"] += 0.5 * float(proposal_loss(
                rpn.objectness[0, a.index], rpn.deltas[0, a.index], a.labels, a.deltas))
            proposals = network.proposals(rpn, extent[None], 20)
            t = roi_targets(proposals[0], s, preset.targets, random)
            heads = network.heads(network.pool(theta0, [t.boxes]))
            mask_cost = mask_loss_with_false_positives(heads.mask_logits, t.masks, t.classes)
            class_cost = class_loss(heads.class_logits, t.classes, t.class_known)
            expected["class"] += 0.5 * 2 * float(class_cost)
            expected["box"] += 0.5 * 3 * float(box_loss(heads.deltas, t.deltas, t.classes > 0))
            expected["mask"] += 0.5 * 5 * float(mask_cost)
    assert min(expected.values()) > 0
    assert {k: float(v) for k, v in found.items()} == pytest.approx(expected, rel=1e-3)


def test_each_of_the_papers_steps_minimises_its_own_cost() -> None:
    """Table 1: L_prop, then L_uni of the heads alone, then L_uni through the backbone too."""
    torch.manual_seed(0)
    preset = replace(tiny((1.0, 1.0, 1.0)), training=PAPER.training)
    network = build(preset.network)
    costs, moved = [], []
    for stage in PAPER.training.stages:
        network.zero_grad()
        terms = losses(network, [mammogram(1)], stage, preset)
        costs.append(set(terms))
        torch.stack(list(terms.values())).sum().backward()
        moved.append({name.split(".")[0] for name, p in network.named_parameters()
                      if p.grad is not None and p.grad.any()})
    unified = {"class", "box", "mask"}
    assert costs == [{"proposal"}, unified, unified]
    heads = {"detection", "segmentation", "classification"}
    assert moved == [{"backbone", "rpn"}, heads, {"backbone"} | heads]
