"""Eight-bit pictures of a mammogram for a person: the header's VOI, else percentiles.

The network never sees this (it is windowed in `ftmtl.canvas`). DICOM PS3.3 C.11.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

WindowFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]


@dataclass(frozen=True, kw_only=True)
class Window:
    """A VOI window, in modality units."""

    centre: float
    width: float
    function: WindowFunction = "LINEAR"

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map modality values to 0…1 (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
        if self.function == "SIGMOID":
            power = np.clip(-4 * (values - self.centre) / self.width, -700, 700)
            return np.asarray(1 / (1 + np.exp(power)))
        if self.function == "LINEAR_EXACT":
            return np.asarray(np.clip((values - self.centre) / self.width + 0.5, 0, 1))
        centre, width = self.centre - 0.5, self.width - 1
        if width <= 0:
            return np.asarray(values > centre, dtype=np.float64)
        return np.asarray(np.clip((values - centre) / width + 0.5, 0, 1))


@dataclass(frozen=True, kw_only=True)
class LookUp:
    """A look-up table of a header: the first value mapped, the bits of its output, the table."""

    first: int
    bits: int
    table: NDArray[np.uint16] = field(repr=False)

    def __call__(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Look values up; those outside the table take its first or last entry."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.table) - 1).astype(np.intp)
        return np.asarray(self.table[index])


@dataclass(frozen=True, kw_only=True)
class Display:
    """How a header wants its image shown.

    `bits` and `signed` tell the range of stored values; `flipped` whether `Mammogram.pixels` are
    those values turned upside down; `inverted` whether low values are bright (MONOCHROME1).
    """

    voi: Window | LookUp
    bits: int
    signed: bool
    flipped: bool
    inverted: bool
    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Give [rows, columns] uint8 from integer pixels, through one table of all values."""
        index_type = np.dtype(f"u{pixels.dtype.itemsize}")
        every = np.arange(2 ** (8 * index_type.itemsize)).astype(index_type).view(pixels.dtype)
        stored = flip(every, bits=self.bits, signed=self.signed) if self.flipped else every
        values = stored.astype(np.float64) * self.slope + self.intercept
        if isinstance(self.voi, Window):
            shade = self.voi(values)
        else:
            shade = self.voi(values) / (2.0**self.voi.bits - 1)
        if self.inverted:
            shade = 1 - shade
        table = np.rint(np.clip(shade, 0, 1) * 255).astype(np.uint8)
        return np.asarray(table[pixels.view(index_type)])


def flip(pixels: NDArray[Any], *, bits: int, signed: bool) -> NDArray[Any]:
    """Turn dark into bright within the stored range: 2^bits - 1 - v, or -1 - v where signed."""
    if signed:
        return np.asarray(np.invert(pixels))
    return np.asarray(np.bitwise_xor(pixels, pixels.dtype.type(2**bits - 1)))


def stretch(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Show percentiles 0.5 to 99.5 of the image as black to white, where no VOI is given."""
    step = max(1, min(pixels.shape) // 500)
    low, high = (float(v) for v in np.percentile(pixels[::step, ::step], (0.5, 99.5)))
    if high <= low:
        low, high = float(pixels.min()), float(pixels.max())
    scale = 255 / (high - low) if high > low else 0.0
    if pixels.dtype.kind == "f":
        return np.rint(np.clip((pixels - low) * scale, 0, 255)).astype(np.uint8)
    index_type = np.dtype(f"u{pixels.dtype.itemsize}")
    every = np.arange(2 ** (8 * index_type.itemsize)).astype(index_type).view(pixels.dtype)
    table = np.rint(np.clip((every.astype(np.float64) - low) * scale, 0, 255)).astype(np.uint8)
    return np.asarray(table[pixels.view(index_type)])
