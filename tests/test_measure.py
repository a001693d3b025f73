"""Area and longest diameter, against values worked by hand and a slow reference."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.draw import disk

from ftmtl.measure import measure_mask


def slow_diameter(mask, x_mm, y_mm):
    """Largest distance between any two corners of any two pixels."""
    corners = {
        (x + dx, y + dy) for y, x in np.argwhere(mask).tolist() for dx in (0, 1) for dy in (0, 1)
    }
    pairs = itertools.product(corners, repeat=2)
    return max(math.hypot((a[0] - b[0]) * x_mm, (a[1] - b[1]) * y_mm) for a, b in pairs)


@settings(deadline=None)  # the machine may be busy
@given(
    hnp.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))),
    st.sampled_from([(1.0, 1.0), (0.07, 0.07), (0.05, 0.2)]),
)
def test_any_mask_against_the_slow_reference(mask, spacing):
    area, diameter = measure_mask(mask, spacing)
    if mask.any():
        assert area == pytest.approx(mask.sum() * spacing[0] * spacing[1])
        assert diameter == pytest.approx(slow_diameter(mask, *spacing))
    else:
        assert (area, diameter) == (0.0, 0.0)


def test_by_hand():
    mask = np.zeros((10, 20), dtype=bool)
    mask[2:6, 3:6] = True  # 3 columns and 4 rows
    assert measure_mask(mask, (1.0, 1.0)) == (12.0, 5.0)
    assert measure_mask(mask, (0.2, 0.1)) == pytest.approx((0.24, math.hypot(0.6, 0.4)))


def test_disk_of_one_centimetre():
    mask = np.zeros((300, 300), dtype=bool)
    mask[disk((150, 140), 5 / 0.07)] = True
    area, diameter = measure_mask(mask, (0.07, 0.07))
    assert area == pytest.approx(math.pi * 25, rel=0.01)
    assert diameter == pytest.approx(10, abs=0.14)


def test_not_calibrated_without_spacing():
    assert measure_mask(np.ones((2, 2), dtype=bool), None) == (None, None)
