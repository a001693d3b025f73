"""Malignant-veto (paper 2.3), worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftmtl.veto import Mass, likelier, masses, monotone, of_image, paper, predicted, worst

FAR = [100.0, 100.0, 110.0, 110.0]


def rows(*values):
    return np.array(values, dtype=np.float64)


def test_paper_takes_the_largest_malignant_score():
    # Two malignant boxes (0.5, 0.6) and a surer benign one: 0.6, whatever the benign one says.
    assert paper(rows([0.1, 0.4, 0.5], [0.1, 0.3, 0.6], [0.0, 0.95, 0.05])) == 0.6


def test_paper_takes_one_minus_the_largest_benign_score():
    assert paper(rows([0.1, 0.7, 0.2], [0.0, 0.8, 0.2])) == pytest.approx(0.2)


def test_monotone_takes_the_largest_share_of_malignant():
    assert monotone(rows([0.5, 0.4, 0.1], [0.2, 0.2, 0.6])) == pytest.approx(0.75)
    assert monotone(rows([0.1, 0.6, 0.3])) == pytest.approx(1 / 3)


def test_paper_is_not_monotone_and_the_other_is():
    less, more = rows([0.25, 0.40, 0.35]), rows([0.25, 0.35, 0.40])
    assert paper(less) == pytest.approx(0.6) and paper(more) == pytest.approx(0.4)
    assert monotone(less) < 0.5 < monotone(more)


@pytest.mark.parametrize("formula", [paper, monotone])
def test_background_does_not_vote(formula):
    background = [0.5, 0.05, 0.45]
    assert formula(rows(background)) == 0.0
    assert formula(rows(background, [0.1, 0.8, 0.1])) == formula(rows([0.1, 0.8, 0.1]))
    assert formula(np.empty((0, 3))) == 0.0


def test_a_malignant_box_on_a_benign_one_is_one_malignant_mass():
    boxes = rows([0, 0, 10, 10], [1, 1, 11, 11], FAR)
    probabilities = rows([0.05, 0.9, 0.05], [0.3, 0.3, 0.4], [0.4, 0.6, 0.0])
    # Scores 0.95, 0.7, 0.6: the benign box is the best of the mass, the malignant one has the veto.
    assert masses(boxes, probabilities, formula=paper, takes_part=predicted) == [
        Mass(best=0, members=(0, 1), malignancy=0.4),
        Mass(best=2, members=(2,), malignancy=0.4),
    ]
    found = masses(boxes, probabilities)
    assert [mass.malignancy for mass in found] == pytest.approx([4 / 7, 0.0])


def test_iou_of_exactly_a_fifth_does_not_join():
    # 10 × 6 and 10 × 6, shifted by 4: 20 shared of 100.
    exactly = rows([0, 0, 10, 6], [0, 4, 10, 10])
    probabilities = rows([0.1, 0.9, 0.0], [0.2, 0.8, 0.0])
    assert [mass.members for mass in masses(exactly, probabilities)] == [(0,), (1,)]
    above = rows([0, 0, 10, 6], [0, 3.99, 10, 9.99])
    assert [mass.members for mass in masses(above, probabilities)] == [(0, 1)]


def test_greedy_by_score_and_not_by_chain():
    # A chain of three: the middle one overlaps both, the ends do not touch.
    boxes = rows([0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10])
    ends_first = rows([0.1, 0.9, 0.0], [0.3, 0.7, 0.0], [0.2, 0.8, 0.0])
    assert [mass.members for mass in masses(boxes, ends_first)] == [(0, 1), (2,)]
    middle_first = rows([0.2, 0.8, 0.0], [0.1, 0.9, 0.0], [0.3, 0.7, 0.0])
    assert [mass.members for mass in masses(boxes, middle_first)] == [(1, 0, 2)]


def test_nothing_found_is_zero():
    assert masses(np.empty((0, 4)), np.empty((0, 3))) == []
    assert masses(rows(FAR), rows([0.5, 0.1, 0.4])) == []
    assert masses(rows(FAR), rows([0.4, 0.3, 0.3]), formula=paper, takes_part=predicted) == []
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


def test_a_mass_of_which_nobody_knows_the_kind_is_still_a_mass():
    (found,) = masses(rows(FAR), rows([0.44, 0.22, 0.34]))
    assert found.malignancy == pytest.approx(0.34 / 0.56)
    assert paper(rows([0.44, 0.22, 0.34])) == 0.0


def test_boxes_and_rows_must_agree():
    with pytest.raises(ValueError, match="2 boxes but 1 rows"):
        masses(rows(FAR, FAR), rows([0.1, 0.8, 0.1]))


@st.composite
def readings(draw):
    count = draw(st.integers(0, 8))
    number = st.integers(0, 20)
    boxes = [
        [x, y, x + draw(number), y + draw(number)]
        for x, y in draw(st.lists(st.tuples(number, number), min_size=count, max_size=count))
    ]
    parts = draw(st.lists(st.tuples(*[st.integers(1, 9)] * 3), min_size=count, max_size=count))
    shares = np.array(parts, dtype=float).reshape(-1, 3)
    return np.array(boxes, dtype=float).reshape(-1, 4), shares / shares.sum(axis=1, keepdims=True)


@settings(deadline=None)  # the machine may be busy
@given(readings(), st.sampled_from([(paper, predicted), (monotone, likelier)]))
def test_every_foreground_box_is_in_one_mass(reading, rule):
    boxes, probabilities = reading
    formula, takes_part = rule
    found = masses(boxes, probabilities, formula=formula, takes_part=takes_part)
    members = sorted(member for mass in found for member in mass.members)
    background, benign, malignant = probabilities.T
    foreground = {predicted: background < np.maximum(benign, malignant),
                  likelier: background < 0.5}[takes_part]
    assert members == np.flatnonzero(foreground).tolist()
    scores = [1 - probabilities[mass.best, 0] for mass in found]
    assert scores == sorted(scores, reverse=True)
    for mass in found:
        assert mass.best == mass.members[0] and 0 <= mass.malignancy <= 1
