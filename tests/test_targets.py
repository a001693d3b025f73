"""What each anchor and RoI is taught, on canvases small enough to see the answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ftmtl.config import PAPER, RECOMMENDED
from ftmtl.network import boxes as box_ops
from ftmtl.training.samples import Sample
from ftmtl.training.targets import AnchorTargets, RoiTargets, anchor_targets, roi_targets

SIDE = 100
NONE = torch.zeros(0, 4)
EXTENT = torch.tensor([100.0, 100.0])


def sample(boxes: list[list[float]], **changes: Any) -> Sample:
    """Masses of known, alternating class; a mass's mask is the left half of its box."""
    places = torch.tensor(boxes).reshape(-1, 4)
    masks = torch.zeros(len(boxes), SIDE, SIDE)
    for mask, (x1, y1, x2, y2) in zip(masks, places.int().tolist(), strict=True):
        mask[y1:y2, x1 : (x1 + x2) // 2] = 1
    fields: dict[str, Any] = {
        "image": torch.zeros(1, SIDE, SIDE), "valid": torch.ones(SIDE, SIDE, dtype=torch.bool),
        "boxes": places, "classes": torch.arange(len(boxes)) % 2 + 1,
        "class_known": torch.ones(len(boxes), dtype=torch.bool), "masks": masks,
        "ignore": NONE, "hard_negatives": NONE, "seed": 0,
    }
    return Sample(**(fields | changes))


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def taught(targets: AnchorTargets, count: int) -> dict[int, int]:
    """The label of each sampled anchor."""
    assert len(set(targets.index.tolist())) == len(targets.index) <= count
    return dict(zip(targets.index.tolist(), targets.labels.tolist(), strict=True))


# Anchors

# Overlaps with the mass (20, 20, 40, 40): 1 − the share of the rows that the anchor lacks.
MASS = [20.0, 20, 40, 40]
ANCHORS = torch.tensor([
    [20.0, 20, 40, 40],  # 0: 1
    [20, 20, 40, 34],    # 1: .7 exactly
    [20, 20, 40, 33],    # 2: .65, neither
    [20, 20, 40, 26],    # 3: .3 exactly, neither
    [20, 20, 40, 25],    # 4: .25
    [60, 60, 80, 80],    # 5: 0
    [85, 60, 105, 80],   # 6: 0, its centre is 95 across
])


def test_anchors_from_70_percent_are_positive_and_below_30_negative() -> None:
    targets = anchor_targets(ANCHORS, EXTENT, sample([MASS]), PAPER.targets, chance())
    assert taught(targets, 7) == {0: 1, 1: 1, 4: 0, 5: 0, 6: 0}
    assert targets.labels.tolist() == [1, 1, 0, 0, 0]  # positives first, as the deltas lie
    where = targets.index.tolist().index(1)
    # 1's height is 14 and its centre 27 down: 3 higher than the mass, in matterport's scale.
    expected = torch.tensor([0, 3 / 14 / 0.1, 0, torch.tensor(20 / 14).log().item() / 0.2])
    torch.testing.assert_close(targets.deltas[where], expected)
    assert (targets.deltas[2:] == 0).all()


def test_the_best_anchors_of_each_mass_are_positive_however_small_their_overlap() -> None:
    """Two equally good ones too; a mass that no anchor touches makes none positive."""
    other = [60.0, 60, 70, 65]  # a fourth of anchor 5's width and a half of its height
    anchors = torch.cat([ANCHORS, torch.tensor([[60.0, 45, 80, 65]])])
    far = [0.0, 90, 5, 95]
    targets = anchor_targets(anchors, EXTENT, sample([MASS, other, far]), PAPER.targets, chance())
    assert taught(targets, 8) == {0: 1, 1: 1, 4: 0, 5: 1, 6: 0, 7: 1}
    where = targets.index.tolist().index(7)
    torch.testing.assert_close(
        targets.deltas[where][None], box_ops.encode(torch.tensor([other]), anchors[7:])
    )


def test_anchors_whose_centre_is_padding_take_no_part() -> None:
    narrow = torch.tensor([94.0, 100.0])
    targets = anchor_targets(ANCHORS, narrow, sample([MASS]), PAPER.targets, chance())
    assert taught(targets, 7) == {0: 1, 1: 1, 4: 0, 5: 0}
    flat = torch.tensor([100.0, 69.0])
    targets = anchor_targets(ANCHORS, flat, sample([MASS]), PAPER.targets, chance())
    assert taught(targets, 7) == {0: 1, 1: 1, 4: 0}


def test_anchors_mostly_on_an_ignore_region_are_no_negatives() -> None:
    ignore = torch.tensor([[60.0, 60, 71, 100], [85, 60, 94, 80]])  # 55 % of 5, 45 % of 6
    shown = sample([MASS], ignore=ignore)
    targets = anchor_targets(ANCHORS, EXTENT, shown, PAPER.targets, chance())
    assert taught(targets, 7) == {0: 1, 1: 1, 4: 0, 6: 0}


def test_an_image_without_masses_teaches_background() -> None:
    targets = anchor_targets(ANCHORS, EXTENT, sample([]), PAPER.targets, chance())
    assert taught(targets, 7) == dict.fromkeys(range(7), 0)
    assert (targets.deltas == 0).all()


def test_of_many_anchors_at_most_half_the_sample_is_positive() -> None:
    """256 an image, at most half of them positive; negatives fill the rest."""
    crowd = torch.cat([ANCHORS[:1].repeat(300, 1), ANCHORS[5:6].repeat(400, 1)])
    targets = anchor_targets(crowd, EXTENT, sample([MASS]), PAPER.targets, chance())
    assert len(targets.index) == 256
    assert targets.labels.sum() == 128
    few = torch.cat([ANCHORS[:1].repeat(10, 1), ANCHORS[5:6].repeat(400, 1)])
    targets = anchor_targets(few, EXTENT, sample([MASS]), PAPER.targets, chance())
    assert len(targets.index) == 256
    assert targets.labels.sum() == 10


def test_chance_is_the_seeds_alone() -> None:
    crowd = torch.cat([ANCHORS[:1].repeat(300, 1), ANCHORS[5:6].repeat(400, 1)])
    torch.manual_seed(1)
    first = anchor_targets(crowd, EXTENT, sample([MASS]), PAPER.targets, chance(7))
    rois = roi_targets(crowd, sample([MASS]), PAPER.targets, chance(7))
    torch.manual_seed(2)
    assert torch.equal(
        first.index, anchor_targets(crowd, EXTENT, sample([MASS]), PAPER.targets, chance(7)).index
    )
    again = roi_targets(crowd, sample([MASS]), PAPER.targets, chance(7))
    assert all(torch.equal(value, getattr(again, name)) for name, value in vars(rois).items())
    other = anchor_targets(crowd, EXTENT, sample([MASS]), PAPER.targets, chance(8))
    assert not torch.equal(first.index, other.index)


# RoIs


def rows(targets: RoiTargets) -> dict[tuple[float, ...], int]:
    """The class of each sampled box."""
    places = [tuple(box) for box in targets.boxes.tolist()]
    return dict(zip(places, targets.classes.tolist(), strict=True))


def test_rois_from_50_percent_take_their_masss_class_and_delta() -> None:
    masses = [MASS, [60.0, 60, 80, 80]]
    proposals = torch.tensor([
        [20.0, 20, 40, 30],  # .5 of the first exactly
        [20, 20, 40, 29],  # .45
        [58, 60, 80, 80],  # .91 of the second
        [0, 0, 10, 10],
    ])
    config = replace(PAPER.targets, roi_samples=20)  # a third of them may be positive
    targets = roi_targets(proposals, sample(masses), config, chance())
    assert rows(targets) == {
        (20, 20, 40, 30): 1, (20, 20, 40, 29): 0, (58, 60, 80, 80): 2, (0, 0, 10, 10): 0
    }
    assert targets.class_known.all()
    for box, kind, delta in zip(targets.boxes, targets.classes, targets.deltas, strict=True):
        expected = torch.zeros(1, 4)
        if kind > 0:
            expected = box_ops.encode(torch.tensor([masses[int(kind) - 1]]), box[None])
        torch.testing.assert_close(delta[None], expected)


def test_true_boxes_join_the_proposals_only_where_the_preset_says_so() -> None:
    far = torch.tensor([[0.0, 0, 10, 10]])
    assert RECOMMENDED.targets.add_truth
    with_truth = roi_targets(far, sample([MASS]), RECOMMENDED.targets, chance())
    assert rows(with_truth) == {tuple(MASS): 1, (0, 0, 10, 10): 0}
    assert not PAPER.targets.add_truth
    without = roi_targets(far, sample([MASS]), PAPER.targets, chance())
    assert rows(without) == {(0, 0, 10, 10): 0}


def test_a_mass_of_unknown_class_says_so() -> None:
    unknown = sample([MASS], class_known=torch.tensor([False]))
    targets = roi_targets(torch.tensor([[0.0, 0, 9, 9]]), unknown, RECOMMENDED.targets, chance())
    assert targets.classes.tolist() == [1, 0]
    assert targets.class_known.tolist() == [False, True]


def test_rois_on_an_ignore_region_teach_nothing_unless_they_are_a_mass() -> None:
    ignore = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    proposals = torch.tensor([[0.0, 0, 10, 15], [0, 0, 10, 25], [20, 20, 40, 39]])
    targets = roi_targets(proposals, sample([MASS], ignore=ignore), PAPER.targets, chance())
    assert rows(targets) == {(0, 0, 10, 25): 0, (20, 20, 40, 39): 1}


def test_rejected_findings_are_always_taught_as_background() -> None:
    """Whatever chance says, among hundreds of other negatives."""
    rejected = torch.tensor([[70.0, 10, 90, 30], [10, 70, 30, 90]])
    crowd = torch.tensor([[60.0, 60, 80, 80]]).repeat(500, 1) + torch.arange(500)[:, None] * 1e-3
    shown = sample([MASS], hard_negatives=rejected)
    for seed in range(5):
        targets = roi_targets(crowd, shown, RECOMMENDED.targets, chance(seed))
        found = rows(targets)
        assert found[(70, 10, 90, 30)] == found[(10, 70, 30, 90)] == 0
        assert len(targets.boxes) == RECOMMENDED.targets.roi_samples
    # One that lies on a true mass is no negative: the truth wins.
    contradicted = sample([MASS], hard_negatives=torch.tensor([MASS]))
    assert rows(roi_targets(NONE, contradicted, PAPER.targets, chance())) == {tuple(MASS): 1}


def test_masks_are_the_boxs_part_of_its_own_masss_mask() -> None:
    """The mass's mask is the left half of (20, 20, 48, 76)."""
    masses = [[20.0, 20, 48, 76], [20.0, 30, 48, 80]]
    masses_sample = sample(masses)
    masses_sample.masks[1] = 0  # the other mass, which overlaps, has its own: empty
    config = replace(PAPER.targets, roi_samples=9, roi_positive_fraction=1.0)
    exact = torch.tensor([[20.0, 20, 48, 76]])
    shifted = torch.tensor([[13.0, 20, 41, 76]])  # 7 pixels to the left: 7 outside, then 14 on it
    both = roi_targets(torch.cat([exact, shifted]), masses_sample, config, chance())
    seen = {box[0]: mask for box, mask in zip(both.boxes.tolist(), both.masks, strict=True)}
    half = torch.zeros(28, 28)
    half[:, :14] = 1
    assert torch.equal(seen[20], half)
    assert torch.equal(seen[13], half.roll(7, dims=1))
    own = roi_targets(torch.tensor([[20.0, 30, 48, 80]]), masses_sample, config, chance())
    assert own.classes.tolist() == [2]
    assert not own.masks.any()


def test_without_proposals_there_is_nothing_to_teach() -> None:
    targets = roi_targets(NONE, sample([]), PAPER.targets, chance())
    assert targets.boxes.shape == (0, 4)
    assert targets.masks.shape == (0, 28, 28)
