"""Masks: COCO's uncompressed run-length code, the box around a mask, its size.

A mask is a bool array [height, width]. Runs go down the columns, zeros first. A box is
[x, y, width, height] in pixels, 0 at the left and top edge of the first pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Box = tuple[float, float, float, float]
Rle = dict[str, list[int]]  # {"size": [height, width], "counts": […]}
Mask = Any  # a bool array [height, width]; numpy's own types need a newer Python


def encode(mask: Mask) -> Rle:
    """Run-length code of a mask [height, width]."""
    height, width = mask.shape
    pixels = np.asarray(mask, dtype=bool)
    columns = np.flatnonzero(pixels.any(axis=0))
    if columns.size == 0:
        return {"size": [height, width], "counts": [height * width]}
    first, last = int(columns[0]), int(columns[-1]) + 1  # a mass covers few columns
    line = pixels[:, first:last].ravel(order="F")
    turns = np.flatnonzero(line[1:] != line[:-1]) + 1
    counts = np.diff(np.concatenate([[0], turns, [line.size]])).tolist()
    if line[0]:
        counts.insert(0, 0)
    counts[0] += first * height
    after = (width - last) * height
    if len(counts) % 2:
        counts[-1] += after
    elif after:
        counts.append(after)
    return {"size": [height, width], "counts": counts}


def decode(rle: Rle) -> Mask:
    """Mask [height, width] of a run-length code whose runs add up (`findings` checks that)."""
    height, width = rle["size"]
    values = np.arange(len(rle["counts"])) % 2 == 1
    return np.repeat(values, np.asarray(rle["counts"], dtype=np.int64)).reshape(width, height).T


def crop(rle: Rle) -> tuple[int, int, Mask]:
    """(x, y, part): the smallest part of a mask that is not empty with all its pixels.

    `part` [height, width] has its first pixel at column x and row y of the image. What lies
    around it is never laid out: a mask is a small part of a mammogram.
    """
    height = rle["size"][0]
    turns = np.cumsum(rle["counts"])
    begins, ends = turns[:-1:2], turns[1::2]
    begins, ends = begins[begins < ends], ends[begins < ends] - 1  # first and last pixel of a run
    left, right = begins[0] // height, ends[-1] // height
    if (begins // height == ends // height).all():
        top, bottom = (begins % height).min(), (ends % height).max()
    else:  # a run goes on at the top of the next column
        top, bottom = 0, height - 1
    rows = bottom + 1 - top
    steps = np.zeros((right + 1 - left) * rows + 1, dtype=np.int8)
    np.add.at(steps, (begins // height - left) * rows + begins % height - top, 1)
    np.add.at(steps, (ends // height - left) * rows + ends % height - top + 1, -1)
    part = np.cumsum(steps[:-1], dtype=np.int8).astype(bool).reshape(-1, rows).T
    return int(left), int(top), part


def outline(rle: Rle) -> Any:
    """The border of a mask that is not empty, as lines [N, 4] (x0, y0, x1, y1).

    They lie on the edges between pixels inside and outside, each as long as it is straight.
    """
    x, y, part = crop(rle)
    inside = np.pad(part, 1)
    down, left, right = _runs(inside[1:] != inside[:-1])
    across = np.column_stack([left - 1, down, right - 1, down])
    along, top, bottom = _runs((inside[:, 1:] != inside[:, :-1]).T)
    upright = np.column_stack([along, top - 1, along, bottom - 1])
    return np.concatenate([across, upright]) + np.array([x, y, x, y], dtype=float)


def _runs(flags: Any) -> tuple[Any, Any, Any]:
    """Line, begin and end of every run of true values along the lines of `flags` [N, M]."""
    padded = np.pad(flags, ((0, 0), (1, 1)))
    begins = np.nonzero(padded[:, 1:] & ~padded[:, :-1])
    ends = np.nonzero(~padded[:, 1:] & padded[:, :-1])
    return begins[0], begins[1], ends[1]


def box_of(mask: Mask) -> Box | None:
    """Smallest box around a mask; None where it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return float(x), float(y), float(columns[-1] + 1 - x), float(rows[-1] + 1 - y)


def measure(
    mask: Mask, spacing_mm: tuple[float, float] | None
) -> tuple[float | None, float | None]:
    """Area (mm²) and longest Feret diameter (mm), pixel corner to pixel corner, at the detector.

    `spacing_mm` is (x, y); without it the image is not calibrated: (None, None).
    """
    if spacing_mm is None:
        return None, None
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return 0.0, 0.0
    area = float(np.count_nonzero(mask)) * spacing_mm[0] * spacing_mm[1]
    return area, diameter(mask, spacing_mm)


def cut_to(mask: Mask, box: Box) -> Mask:
    """The part of a mask whose pixels lie in the box, if only by their centres."""
    x, y, width, height = box
    cut = mask.copy()
    left, right = round(x), round(x + width)
    top, bottom = round(y), round(y + height)
    cut[:top], cut[bottom:], cut[:, :left], cut[:, right:] = False, False, False, False
    return cut


def diameter(mask: Mask, spacing: tuple[float, float] = (1.0, 1.0)) -> float:
    """Longest Feret diameter of a mask that is not empty, in units of `spacing` (x, y)."""
    rows = np.flatnonzero(mask.any(axis=1))
    lines = mask[rows]
    left = lines.argmax(axis=1)
    right = mask.shape[1] - lines[:, ::-1].argmax(axis=1)
    x = np.concatenate([left, right, left, right]) * spacing[0]
    y = np.concatenate([rows, rows, rows + 1, rows + 1]) * spacing[1]
    # The two corners that are farthest apart are corners of the convex hull, and those stick out
    # farthest in some direction.
    angles = np.linspace(0, np.pi, 180, endpoint=False)
    along = np.outer(np.cos(angles), x) + np.outer(np.sin(angles), y)
    hull = np.unique(np.concatenate([along.argmax(axis=1), along.argmin(axis=1)]))
    across, down = x[hull], y[hull]
    squares = (across[:, None] - across) ** 2 + (down[:, None] - down) ** 2
    return float(np.sqrt(squares.max()))
