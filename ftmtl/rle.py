"""Masks as run-length codes: COCO's uncompressed kind, runs down the columns, zeros first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypedDict

import numpy as np
from numpy.typing import NDArray

from ftmtl.json_fields import InvalidFindings


class Rle(TypedDict):
    """COCO's uncompressed run-length code of a mask."""

    size: list[int]
    counts: list[int]


@dataclass(frozen=True)
class Piece:
    """A mask that is not empty, without the emptiness around it.

    Of many small masses in a large film only this is kept in memory.
    """

    x: int  # column and row of the image at which `pixels` begins
    y: int
    pixels: NDArray[np.bool_]  # [rows, columns]; none of its four sides is empty

    @classmethod
    def of(cls, mask: NDArray[np.bool_], *, x: int = 0, y: int = 0) -> Self:
        """Of a mask [rows, columns] that begins at column x and row y of the image.

        Raises ValueError where it is empty.
        """
        left, top, width, height = map(int, box_of(mask))
        return cls(x + left, y + top, mask[top : top + height, left : left + width])

    @classmethod
    def of_rle(cls, rle: Rle) -> Self:
        """Of a run-length code, without the whole mask in between.

        Raises InvalidFindings if the runs do not add up, ValueError if they hold nothing.
        """
        height, width = rle["size"]
        check_runs(height, width, rle["counts"], "The run-length code")
        counts = np.asarray(rle["counts"], dtype=np.int64)
        counts = counts[: len(counts) // 2 * 2]  # zeros at the end
        first = int(counts[0]) // height if counts.size else 0
        counts[:1] -= first * height
        columns = max(1, -(-int(counts.sum()) // height))
        mask = np.zeros(columns * height, dtype=np.bool_)
        mask[: counts.sum()] = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        return cls.of(mask.reshape(columns, height).T, x=first)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Its box [x, y, width, height]."""
        rows, columns = self.pixels.shape
        return float(self.x), float(self.y), float(columns), float(rows)

    def encode(self, height: int, width: int) -> Rle:
        """Run-length code of the whole mask [height, width]."""
        rows, columns = self.pixels.shape
        stripe = np.zeros((columns, height), dtype=np.bool_)  # a row of it is a column of the image
        stripe[:, self.y : self.y + rows] = self.pixels.T
        pixels = stripe.ravel()
        ends = np.append(np.flatnonzero(pixels[1:] != pixels[:-1]) + 1, pixels.size)
        counts: list[int] = np.diff(ends, prepend=0).tolist()
        if pixels[0]:
            counts.insert(0, 0)
        counts[0] += self.x * height
        after = (width - self.x - columns) * height
        if not pixels[-1]:
            counts[-1] += after
        elif after:
            counts.append(after)
        return {"size": [height, width], "counts": counts}


def encode_rle(mask: NDArray[np.bool_]) -> Rle:
    """Run-length code of a mask [height, width]: runs down the columns, zeros first."""
    height, width = mask.shape
    if not mask.any():
        return {"size": [height, width], "counts": [height * width]}
    return Piece.of(mask.astype(bool, copy=False)).encode(height, width)


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
