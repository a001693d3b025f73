"""From pixels to Slicer's space and back.

Slicer lays a mammogram with direction diag(−1, −1, 1), origin 0 and the image's spacing (1 mm
without): RAS = (−spacing_x · i, −spacing_y · j, 0), where the centre of the first pixel is IJK 0.
Our pixel coordinates count from that pixel's left and top edge, so IJK = pixel − 0.5.
"""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from .masks import Box

Spacing = Optional[tuple[float, float]]


def ijk_to_ras(spacing_mm: Spacing) -> Any:
    """The 4×4 matrix of a mammogram in Slicer."""
    x, y = spacing_mm or (1.0, 1.0)
    return np.diag([-x, -y, 1.0, 1.0])


def pixel_to_ras(points: Any, spacing_mm: Spacing, depth_mm: float = 0.0) -> Any:
    """Points (column, row) [N, 2] as RAS [N, 3] on the slice, which lies at that depth."""
    pixels = np.asarray(points, dtype=float).reshape(-1, 2)
    depth = np.full(len(pixels), depth_mm)
    ijk = np.column_stack([pixels - 0.5, depth, np.ones(len(pixels))])
    return (ijk @ ijk_to_ras(spacing_mm).T)[:, :3]


def ras_to_pixel(points: Any, spacing_mm: Spacing) -> Any:
    """RAS points [N, 3] as (column, row) [N, 2]."""
    ras = np.asarray(points, dtype=float).reshape(-1, 3)
    whole = np.column_stack([ras, np.ones(len(ras))])
    return (whole @ np.linalg.inv(ijk_to_ras(spacing_mm)).T)[:, :2] + 0.5


def box_to_ras(box: Box, spacing_mm: Spacing) -> tuple[Any, Any]:
    """Centre [3] and size [3] in RAS of a box; it is one slice thick, centred on the slice."""
    x, y, width, height = box
    corners = pixel_to_ras([[x, y], [x + width, y + height]], spacing_mm)
    size = np.abs(corners[1] - corners[0])
    size[2] = 1.0
    return corners.mean(axis=0), size


def ras_to_box(centre: Any, size: Any, spacing_mm: Spacing) -> Box:
    """The box (x, y, width, height) of a RAS centre [3] and size [3]; z is ignored."""
    centre, half = np.asarray(centre, dtype=float), np.abs(np.asarray(size, dtype=float)) / 2
    corners = ras_to_pixel([centre - half, centre + half], spacing_mm)
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    return float(left), float(top), float(right - left), float(bottom - top)


def clip_box(box: Box, width: int, height: int) -> Box | None:
    """The part of a box inside an image of `width` × `height`; None below one pixel a side."""
    x, y, w, h = box
    left, top = max(0.0, x), max(0.0, y)
    right, bottom = min(float(width), x + w), min(float(height), y + h)
    if right - left < 1 or bottom - top < 1:
        return None
    return left, top, right - left, bottom - top


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)
