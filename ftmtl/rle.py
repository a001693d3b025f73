"""Masks as run-length codes: COCO's uncompressed kind, runs down the columns, zeros first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from ftmtl.json_fields import InvalidFindings


class Rle(TypedDict):
    """COCO's uncompressed run-length code of a mask."""

    size: list[int]
    counts: list[int]


def encode_rle(mask: NDArray[np.bool_]) -> Rle:
    """Run-length code of a mask [height, width]: runs down the columns, zeros first."""
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(axis=0))
    if columns.size == 0:
        return {"size": [height, width], "counts": [height * width]}
    # A mass covers few columns, and walking down columns of a whole mammogram is slow.
    first, last = int(columns[0]), int(columns[-1]) + 1
    pixels = mask[:, first:last].astype(bool).ravel(order="F")
    ends = np.append(np.flatnonzero(pixels[1:] != pixels[:-1]) + 1, pixels.size)
    counts: list[int] = np.diff(ends, prepend=0).tolist()
    if pixels[0]:
        counts.insert(0, 0)
    counts[0] += first * height
    after = (width - last) * height
    if not pixels[-1]:
        counts[-1] += after
    elif after:
        counts.append(after)
    return {"size": [height, width], "counts": counts}


def decode_rle(rle: Rle) -> NDArray[np.bool_]:
    """Mask [height, width] (in column order in memory) of a run-length code.

    Raises InvalidFindings if the runs do not add up to height × width.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    check_runs(height, width, counts, "The run-length code")
    ones = np.arange(len(counts)) % 2 == 1
    return np.repeat(ones, np.asarray(counts, dtype=np.int64)).reshape(width, height).T


def box_of(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Smallest box [x, y, width, height] around a mask [height, width] that is not empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        raise ValueError("An empty mask has no box.")
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return float(x), float(y), float(columns[-1] + 1 - x), float(rows[-1] + 1 - y)


def check_runs(height: int, width: int, counts: Sequence[int], here: str) -> None:
    """Raise InvalidFindings unless the runs fill height × width pixels."""
    if height < 1 or width < 1 or any(count < 0 for count in counts):
        raise InvalidFindings(f"{here}: sizes must be above 0 and counts must not be below 0.")
    if sum(counts) != height * width:
        raise InvalidFindings(
            f"{here}: the counts add up to {sum(counts)}, not to {height} × {width} pixels."
        )
