"""Malignant-veto (paper 2.3), worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftmtl.veto import called, gather, likelier, monotone, of_image, worst

FAR = [100.0, 100.0, 110.0, 110.0]


def rows(*values):
    return np.array(values, dtype=np.float64)


def test_monotone_takes_the_largest_share_of_malignant():
    assert monotone(rows([0.5, 0.4, 0.1], [0.2, 0.2, 0.6])) == pytest.approx(0.75)
    assert monotone(rows([0.1, 0.6, 0.3])) == pytest.approx(1 / 3)


def test_the_likelier_kind_of_a_box_decides():
    # Where the paper's formula gives 0.6 and 0.4.
    less, more = rows([0.25, 0.40, 0.35]), rows([0.25, 0.35, 0.40])
    assert monotone(less) < 0.5 < monotone(more)


def test_background_does_not_vote():
    background = [0.5, 0.05, 0.45]
    assert monotone(rows(background)) == 0.0
    assert monotone(rows(background, [0.1, 0.8, 0.1])) == monotone(rows([0.1, 0.8, 0.1]))
    assert monotone(np.empty((0, 3))) == 0.0


def test_a_mass_of_which_nobody_knows_the_kind_is_still_a_mass():
    assert monotone(rows([0.44, 0.22, 0.34])) == pytest.approx(0.34 / 0.56)
    assert likelier(rows([0.5, 0.05, 0.45], [0.44, 0.22, 0.34])).tolist() == [False, True]


def test_a_malignant_box_on_a_benign_one_is_one_malignant_mass():
    boxes = rows([0, 0, 10, 10], [1, 1, 11, 11], FAR)
    probabilities = rows([0.05, 0.9, 0.05], [0.3, 0.3, 0.4], [0.4, 0.6, 0.0])
    # Scores 0.95, 0.7, 0.6: the benign box is the best of the mass, the malignant one has the veto.
    groups = gather(boxes, 1 - probabilities[:, 0])
    assert groups == [(0, 1), (2,)]
    assert [monotone(probabilities[list(g)]) for g in groups] == pytest.approx([4 / 7, 0.0])


def test_iou_of_exactly_a_fifth_does_not_join():
    # 10 × 6 and 10 × 6, shifted by 4: 20 shared of 100.
    assert gather(rows([0, 0, 10, 6], [0, 4, 10, 10]), [0.9, 0.8]) == [(0,), (1,)]
    assert gather(rows([0, 0, 10, 6], [0, 3.99, 10, 9.99]), [0.9, 0.8]) == [(0, 1)]
    # Apart both ways, by 8: the product of the two gaps is no area.
    assert gather(rows([0, 0, 10, 10], [18, 18, 28, 28]), [0.9, 0.8]) == [(0,), (1,)]


def test_greedy_by_score_and_not_by_chain():
    # A chain of three: the middle one overlaps both, the ends do not touch.
    boxes = rows([0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10])
    assert gather(boxes, [0.9, 0.7, 0.8]) == [(0, 1), (2,)]
    assert gather(boxes, [0.8, 0.9, 0.7]) == [(1, 0, 2)]


def test_nothing_found_is_zero():
    assert gather(np.empty((0, 4)), []) == []
    assert worst([]) == 0.0
    assert worst([0.2, 0.7, 0.1]) == 0.7


def test_in_an_image_a_mass_counts_by_how_evident_it_is():
    assert of_image([], []) == 0.0
    assert of_image([0.9], [0.5]) == pytest.approx(0.45 / 0.91)
    # Half as evident as the best, half as loud: 0.45 × 0.9 beside 0.9 × 0.1.
    assert of_image([0.9, 0.45], [0.1, 0.9]) == pytest.approx(0.405 / 0.91)
    assert of_image([0.45], [0.9]) == pytest.approx(0.405 / 0.505)
    # Hardly anything like a mass: little is left of its 0.9.
    assert of_image([0.02], [0.9]) == pytest.approx(0.018 / 0.118)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6),
       st.integers(0, 5), st.floats(0, 1))
def test_an_image_is_no_less_malignant_for_a_more_malignant_mass(found, which, more):
    scores, malignancies = (list(column) for column in zip(*found, strict=True))
    before = of_image(scores, malignancies)
    assert 0 <= before <= max(malignancies)
    which %= len(found)
    malignancies[which] = max(malignancies[which], more)
    assert of_image(scores, malignancies) >= before


def test_an_image_is_called_what_its_likely_masses_are():
    # Scores 0.50 and 0.47 by `of_image`, beside a mass that is shown as malignant.
    assert called([0.9], [0.505]) == called([0.95, 0.52], [0.05, 0.9]) == "malignant"
    # Likelier background than masses: they have no veto, but may raise the score above one half.
    assert called([0.95, 0.4], [0.05, 0.9]) == "benign"
    assert called([0.6, 0.49], [0.5, 1.0]) == "malignant"
    assert called([], []) == called([0.5, 0.4], [0.9, 0.9]) == "no finding"


@st.composite
def boxes_and_scores(draw):
    count = draw(st.integers(0, 8))
    number = st.integers(0, 20)
    boxes = [
        [x, y, x + draw(number), y + draw(number)]
        for x, y in draw(st.lists(st.tuples(number, number), min_size=count, max_size=count))
    ]
    scores = draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    return np.array(boxes, dtype=float).reshape(-1, 4), np.array(scores)


@settings(deadline=None)  # the machine may be busy
@given(boxes_and_scores())
def test_every_box_is_in_one_mass(drawn):
    boxes, scores = drawn
    groups = gather(boxes, scores)
    assert sorted(member for group in groups for member in group) == list(range(len(boxes)))
    best = [scores[group[0]] for group in groups]
    assert best == sorted(best, reverse=True)
    for group in groups:
        assert scores[group[0]] == scores[list(group)].max()
