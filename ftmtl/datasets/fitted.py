"""Mask shapes for masses of which only the box is known: `mask_source: fitted`.

The one place where a mask is made up. It is the ellipse inscribed in the box; it teaches the
network where a mass lies, never how good a mask is: Dice is computed on annotated masks alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def fitted_mask(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """The ellipse inscribed in `box` (x1, y1, x2, y2), on a grid of `size` (height, width)."""
    x1, y1, x2, y2 = box
    x = (np.arange(size[1]) + 0.5 - (x1 + x2) / 2) / max((x2 - x1) / 2, 0.5)
    y = (np.arange(size[0]) + 0.5 - (y1 + y2) / 2) / max((y2 - y1) / 2, 0.5)
    return np.asarray(x[None, :] ** 2 + y[:, None] ** 2 <= 1)
