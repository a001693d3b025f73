"""Size of a mass: area and longest diameter, in millimetres at the detector."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def measure_mask(
    mask: NDArray[np.bool_], spacing_mm: tuple[float, float] | None
) -> tuple[float | None, float | None]:
    """Area (mm²) and longest Feret diameter (mm) of a mask [height, width].

    A pixel is a rectangle of spacing_mm (x, y), so the diameter runs from corner to corner: that
    of one pixel is its diagonal. Without spacing the image is not calibrated: (None, None). An
    empty mask measures 0.
    """
    if spacing_mm is None:
        return None, None
    x_mm, y_mm = spacing_mm
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return 0.0, 0.0
    band = mask[rows[0] : rows[-1] + 1]
    area = float(np.count_nonzero(band)) * x_mm * y_mm
    corners = _hull(_row_ends(band)) * (x_mm, y_mm)
    offsets = corners[:, None, :] - corners[None, :, :]
    return area, float(np.sqrt((offsets**2).sum(axis=2).max()))


def _row_ends(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Outer pixel corners (x, y) [N, 2] of every row; the convex hull has no others."""
    rows = np.flatnonzero(mask.any(axis=1))
    lines = mask[rows]
    left = lines.argmax(axis=1)
    right = mask.shape[1] - lines[:, ::-1].argmax(axis=1)
    x = np.concatenate([left, right, left, right])
    y = np.concatenate([rows, rows, rows + 1, rows + 1])
    return np.stack([x, y], axis=1)


def _hull(points: NDArray[np.int64]) -> NDArray[np.float64]:
    """Corners [K, 2] of the convex hull, by Andrew's monotone chain, in exact whole numbers."""
    ordered: list[tuple[int, int]] = [(x, y) for x, y in np.unique(points, axis=0).tolist()]

    def chain(sweep: list[tuple[int, int]]) -> list[tuple[int, int]]:
        kept: list[tuple[int, int]] = []
        for x, y in sweep:
            while len(kept) > 1:
                (x0, y0), (x1, y1) = kept[-2:]
                if (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > 0:
                    break
                kept.pop()
            kept.append((x, y))
        return kept[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]), dtype=np.float64)
