"""Box arithmetic against figures worked by hand and slow loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.apps.detection.utils.box_coder import BoxCoder
from monai.data.box_utils import box_iou
from torch import Tensor

from ftmtl.network.boxes import NMS_BLOCK, clip, coverage, decode, encode, iou, nms


def test_deltas_are_equation_3_and_4_in_matterport_scale() -> None:
    """A reference 20 wide, 40 high around (30, 60); a target 30 wide, 20 high around (34, 54)."""
    reference = torch.tensor([[20.0, 40, 40, 80]])
    target = torch.tensor([[19.0, 44, 49, 64]])
    # Eq. 4: offsets in widths and heights of the reference, logarithms of the ratios; matterport
    # divides them by (.1, .1, .2, .2).
    by_hand = [4 / 20 / 0.1, -6 / 40 / 0.1, math.log(30 / 20) / 0.2, math.log(20 / 40) / 0.2]
    assert encode(target, reference)[0].tolist() == pytest.approx(by_hand, rel=1e-5)
    assert decode(torch.tensor([by_hand]), reference)[0].tolist() == pytest.approx([19, 44, 49, 64])


def test_no_delta_leaves_a_box_where_it_is_and_none_are_no_boxes() -> None:
    boxes = random_boxes(5, seed=0)
    torch.testing.assert_close(decode(torch.zeros(5, 4), boxes), boxes)
    assert decode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)


def test_decode_is_the_way_back_from_encode() -> None:
    targets, references = random_boxes(200, seed=1), random_boxes(200, seed=2)
    back = decode(encode(targets, references), references)
    torch.testing.assert_close(back, targets, atol=1e-3, rtol=1e-4)


def test_a_wild_delta_gives_a_large_box_and_not_infinity() -> None:
    box = decode(torch.tensor([[0.0, 0, 1e4, 1e4]]), torch.tensor([[0.0, 0, 10, 10]]))
    assert torch.isfinite(box).all()


def test_clip_is_to_width_then_height() -> None:
    boxes = torch.tensor([[-5.0, -6, 200, 300], [10, 20, 30, 40]])
    assert clip(boxes, torch.tensor([96.0, 128.0])).tolist() == [[0, 0, 96, 128], [10, 20, 30, 40]]


def test_overlap_by_hand() -> None:
    a = torch.tensor([[0.0, 0, 10, 10], [5, 5, 5, 5]])
    b = torch.tensor([[5.0, 0, 15, 10], [0, 0, 10, 10], [10, 0, 20, 10], [2, 2, 4, 7]])
    # 50 of 150; the same; touching; 10 of 100. A box without area overlaps nothing.
    torch.testing.assert_close(iou(a, b), torch.tensor([[1 / 3, 1, 0, 0.1], [0, 0, 0, 0]]))
    assert iou(a[:0], b).shape == (0, 4)
    assert iou(a, b[:0]).shape == (2, 0)


def test_deltas_boxes_and_overlaps_are_monais() -> None:
    """Its box coder and its overlap, which check every value and so are slow on a GPU."""
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    targets, references = random_boxes(200, seed=3), random_boxes(200, seed=4)
    deltas = encode(targets, references)
    torch.testing.assert_close(deltas, coder.encode_single(targets, references))
    wild = torch.randn(200, 4, generator=torch.Generator().manual_seed(5)) * 20  # some are clamped
    torch.testing.assert_close(decode(wild, references), coder.decode_single(wild, references))
    torch.testing.assert_close(iou(targets, references), box_iou(targets, references))


def test_coverage_is_the_share_of_each_box_that_one_other_covers() -> None:
    a = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    b = torch.tensor([[0.0, 0, 4, 10], [5, 0, 100, 10]])
    assert coverage(a, b).tolist() == pytest.approx([0.5, 0])
    assert coverage(a, b[:0]).tolist() == [0, 0]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(  # few places and few scores, so that ties and duplicates are common
            st.integers(0, 6), st.integers(0, 6), st.integers(1, 6), st.integers(1, 6),
            st.integers(0, 3), st.integers(0, 1),
        ),
        max_size=30,
    ),
    st.sampled_from([0.0, 0.3, 0.5, 0.7]),
    st.booleans(),
)
def test_nms_is_the_greedy_loop(
    rows: list[tuple[int, int, int, int, int, int]], threshold: float, by_group: bool
) -> None:
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h, _, _ in rows]).reshape(-1, 4).float()
    scores = torch.tensor([row[4] / 4 for row in rows])
    groups = torch.tensor([row[5] for row in rows], dtype=torch.long) if by_group else None
    kept = nms(boxes, scores, threshold, groups=groups)
    assert kept.tolist() == greedy(boxes, scores, threshold, groups)


def test_nms_is_the_greedy_loop_on_long_chains() -> None:
    """Each box falls only to its neighbour: suppression must be undone along the whole chain."""
    start = torch.arange(60.0) * 4
    boxes = torch.stack([start, torch.zeros(60), start + 10, torch.full((60,), 10.0)], dim=1)
    scores = torch.linspace(1, 0, 60)
    kept = nms(boxes, scores, 0.4).tolist()  # neighbours overlap by 6 / 14
    assert kept == greedy(boxes, scores, 0.4, None) == list(range(0, 60, 2))


@pytest.mark.parametrize("keep", [None, 7, 60])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_nms_is_the_greedy_loop_on_a_crowd(seed: int, grouped: bool, keep: int | None) -> None:
    """Of several blocks."""
    count = 3 * NMS_BLOCK - 50
    boxes = random_boxes(count, seed=seed)
    chance = torch.Generator().manual_seed(seed)
    scores = torch.rand(count, generator=chance)
    groups = torch.randint(3, (count,), generator=chance) if grouped else None
    kept = nms(boxes, scores, 0.4, groups=groups, keep=keep).tolist()
    assert kept == greedy(boxes, scores, 0.4, groups)[:keep]
    assert len(kept) == keep if keep else len(kept) > 60


def random_boxes(count: int, *, seed: int) -> Tensor:
    numbers = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed))
    corner, size = numbers[:, :2] * 100, 2 + numbers[:, 2:] * 60
    return torch.cat([corner, corner + size], dim=1)


def greedy(
    boxes: Tensor, scores: Tensor, threshold: float, groups: Tensor | None
) -> list[int]:
    """The textbook loop: take the best left, drop what it overlaps, of equals the first."""
    places = boxes.tolist()
    left = sorted(range(len(places)), key=lambda i: (-float(scores[i]), i))
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [
            i for i in left
            if (groups is not None and groups[i] != groups[best])
            or overlap(places[i], places[best]) <= threshold
        ]
    return kept


def overlap(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / both
