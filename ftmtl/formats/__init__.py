"""What a file format hands to `ftmtl.mammogram`: the facts of one image and how to decode it.

One room a family: `dicom` (with `codecs`), `raster` (PNG, JPEG, TIFF), `volume` (NIfTI, NRRD).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ftmtl.display import Display

MAX_PIXELS = 100_000_000  # a finely digitised 24 x 30 cm film has 40 million
MIN_SIDE = 16


class Refused(Exception):
    """This file is not a mammogram that can be read: why, and what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, kw_only=True)
class Content:
    """One image as its format describes it, before any pixel is decoded."""

    width: int
    height: int
    decode: Callable[[], NDArray[Any]]  # [height, width], brighter = denser
    spacing_mm: tuple[float, float] | None = None  # (x, y)
    pixel_aspect: float = 1.0
    sop_instance_uid: str | None = None
    laterality: str | None = None
    view: str | None = None
    patient_id: str | None = None
    study_uid: str | None = None
    display: Display | None = None


def check_size(width: int, height: int) -> None:
    """Refuse a size that no mammogram has, before memory is taken for it."""
    if min(width, height) < MIN_SIDE:
        raise Refused(
            f"the image is {width} x {height} pixels", f"Give an image of {MIN_SIDE} pixels or more"
        )
    if width * height > MAX_PIXELS:
        raise Refused(
            f"the header claims {width} x {height} pixels, more than any mammogram has",
            "Export the image again; its header is probably damaged",
        )


def grey_of(pixels: NDArray[Any]) -> NDArray[Any]:
    """Turn [rows, columns, 3] into [rows, columns] where the three channels are equal.

    Some programs save a grey picture as RGB. Anything with a colour in it is refused.
    """
    grey = pixels[..., 0]
    if not ((grey == pixels[..., 1]).all() and (grey == pixels[..., 2]).all()):
        raise Refused("it is a colour picture", "Give the grey image that the unit made")
    return grey


def aspect_of(spacing_mm: tuple[float, float] | None) -> float:
    """Give height / width of one pixel; 1 within a thousandth is 1."""
    if spacing_mm is None:
        return 1.0
    aspect = spacing_mm[1] / spacing_mm[0]
    return 1.0 if abs(aspect - 1) < 1e-3 else aspect
