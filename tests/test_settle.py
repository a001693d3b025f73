"""One box a mass: consensus, against a loop over boxes and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.box_utils import box_iou

from ftmtl.network.settle import consensus


def slow(boxes: np.ndarray, probabilities: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The docstring of `consensus`, box by box."""
    scores = 1 - probabilities[:, 0]
    overlap = box_iou(torch.tensor(boxes), torch.tensor(boxes)).numpy()
    found, left = [], sorted(range(len(boxes)), key=lambda i: -scores[i])
    while left:
        best = left[0]
        left = [i for i in left if i != best and overlap[best, i] <= 0.1]
        voters = [i for i in range(len(boxes)) if overlap[best, i] > 0.3]
        weights = scores[voters] ** 2
        voted = (boxes[voters] * weights[:, None]).sum(axis=0) / weights.sum()
        near = [i for i in range(len(boxes)) if overlap[best, i] > 0.4]
        supporters = sorted(near, key=lambda i: -scores[i])[:12]
        shares = sum(probabilities[i, 1:] for i in supporters) / 12
        found.append((voted, np.array([1 - shares.sum(), *shares])))
    return sorted(found, key=lambda one: one[1][0])


@pytest.mark.parametrize("seed", range(5))
def test_it_does_what_the_slow_one_does(seed: int) -> None:
    random = np.random.default_rng(seed)
    centres = random.uniform(100, 400, (6, 2))[random.integers(0, 6, 80)]
    corners = centres + random.normal(0, 6, (80, 2)) - random.uniform(10, 40, (80, 2))
    boxes = np.concatenate([corners, corners + random.uniform(20, 80, (80, 2))], axis=1)
    logits = torch.tensor(random.normal(0, 2, (80, 3)))
    expected = slow(boxes, logits.softmax(dim=1).numpy())

    voted, agreed = consensus(torch.tensor(boxes), logits)

    assert len(voted) == len(expected)
    np.testing.assert_allclose(voted.numpy(), [box for box, _ in expected], rtol=1e-6)
    np.testing.assert_allclose(agreed.softmax(dim=1), [p for _, p in expected], atol=1e-6)


def test_many_moderate_boxes_beat_a_lonely_sure_one() -> None:
    """13 boxes of score 0.5 agree on 0.5; one of 0.9 lacks eleven supporters: 0.9 / 12."""
    crowd = torch.tensor([[10.0, 10, 50, 50]]) + torch.arange(13.0)[:, None] / 3
    boxes = torch.cat([torch.tensor([[200.0, 200, 240, 240]]), crowd])
    probabilities = torch.tensor([[0.1, 0.0, 0.9]] + [[0.5, 0.3, 0.2]] * 13)

    voted, logits = consensus(boxes, probabilities.log())

    shares = logits.softmax(dim=1)
    torch.testing.assert_close(voted, torch.tensor([[12.0, 12, 52, 52], [200, 200, 240, 240]]))
    torch.testing.assert_close(shares[0], probabilities[1])
    torch.testing.assert_close(shares[1], torch.tensor([1 - 0.9 / 12, 0.0, 0.9 / 12]))


def test_nothing_agrees_on_nothing() -> None:
    voted, logits = consensus(torch.zeros(0, 4), torch.zeros(0, 3))
    assert voted.shape == (0, 4)
    assert logits.shape == (0, 3)
