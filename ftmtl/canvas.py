"""What the network sees of a mammogram, and the exact way back.

The breast's box is cut out (paper 3.2), windowed by percentiles of breast pixels (never by the
header), brought to a tone that the films of training have, scaled with its aspect kept and laid in
the top left corner of a canvas; the rest is padding, marked in `Canvas.valid`. Coordinates are
(x, y), 0 at the left/top edge of the first pixel, in the image as in the canvas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label
from torch.nn import functional as F

EDITION = 2  # counts up when the same pixels give another canvas: whoever keeps canvases names it
SURVEY_SIDE = 256  # the breast is looked for on a copy of about this many pixels a side
THINNEST_BREAST = 9  # on that copy; what is thinner is a label or a frame
MARGIN = 4  # on that copy, around the breast: faint skin and what opening rounds off
GLARE = 0.28  # a breast below this share of the film's range is outshone by something else
WINDOW_PERCENTILES = (1.0, 99.5)
# Medians of the breast after windowing. Nine in ten of CBIS-DDSM's training films lie between; what
# lies outside is brought to the nearer end by a gamma (docs/experiments/tone.md).
TONES = (0.28, 0.66)
DARKEST_TISSUE = 0.35  # median of tissue, of the film's range, below which skin needs brightening


@dataclass(frozen=True)
class CanvasGeometry:
    """Where the canvas lies on the image: `canvas = (image - origin) * scale`.

    `origin` (x, y) and `extent` (width, height) of the breast's box in image pixels, `scale`
    (x, y) in canvas pixels an image pixel, `image_size` and `canvas_size` as (height, width).
    """

    origin: tuple[int, int]
    extent: tuple[int, int]
    scale: tuple[float, float]
    image_size: tuple[int, int]
    canvas_size: tuple[int, int]

    @property
    def filled(self) -> tuple[int, int]:
        """Height and width of the part of the canvas that holds image."""
        return (
            round(self.extent[1] * self.scale[1]),
            round(self.extent[0] * self.scale[0]),
        )

    def points_to_canvas(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Image points [..., 2] (x, y) as canvas points [..., 2]."""
        return (np.asarray(points, dtype=np.float64) - self.origin) * self.scale

    def points_to_image(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Canvas points [..., 2] (x, y) as image points [..., 2]."""
        return np.asarray(points, dtype=np.float64) / self.scale + self.origin

    def boxes_to_canvas(self, boxes: NDArray[Any]) -> NDArray[np.float64]:
        """Image boxes [N, 4] (x, y, width, height) as canvas boxes [N, 4] (x1, y1, x2, y2)."""
        xywh = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        corners = np.stack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        return self.points_to_canvas(corners).reshape(-1, 4)

    def boxes_to_image(self, boxes: NDArray[Any]) -> NDArray[np.float64]:
        """Canvas boxes [N, 4] (x1, y1, x2, y2) as image boxes [N, 4] (x, y, width, height)."""
        corners = self.points_to_image(np.asarray(boxes, dtype=np.float64).reshape(-1, 2, 2))
        return np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], axis=1)

    def mask_to_canvas(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """An image mask [height, width] on the canvas: a canvas pixel is in where half of it is."""
        x, y = self.origin
        width, height = self.extent
        cut = torch.from_numpy(np.ascontiguousarray(mask[y : y + height, x : x + width]))
        small = _resize(cut.float(), self.filled)
        out = np.zeros(self.canvas_size, dtype=bool)
        out[: self.filled[0], : self.filled[1]] = (small >= 0.5).numpy()
        return out


@dataclass(frozen=True)
class Canvas:
    """`pixels` float32 [height, width] in 0…1 (padding 0) and `valid` bool of the same shape."""

    pixels: NDArray[np.float32]
    valid: NDArray[np.bool_]
    geometry: CanvasGeometry


def make_canvas(
    pixels: NDArray[Any], size: tuple[int, int], *, pixel_aspect: float = 1.0
) -> Canvas:
    """The canvas of `size` (height, width) for stored pixels [rows, columns], brighter = denser.

    `pixel_aspect` is the height of a pixel divided by its width (DICOM's Pixel Aspect Ratio).
    """
    breast = breast_mask(pixels)
    geometry = fit_geometry(box_of(breast.mask, breast.step, pixels.shape), pixels.shape, size,
                            pixel_aspect=pixel_aspect)
    x, y = geometry.origin
    width, height = geometry.extent
    cut = torch.from_numpy(pixels[y : y + height, x : x + width].astype(np.float32))
    low, high = breast.window
    small = ((_resize(cut, geometry.filled) - low) / (high - low)).clamp_(0, 1)
    if breast.gamma != 1:
        small.pow_(breast.gamma)
    canvas = np.zeros(size, dtype=np.float32)
    valid = np.zeros(size, dtype=bool)
    rows, columns = geometry.filled
    canvas[:rows, :columns] = small.numpy()
    valid[:rows, :columns] = True
    return Canvas(canvas, valid, geometry)


@dataclass(frozen=True)
class BreastMask:
    """The breast on every `step`-th pixel, its intensity window (low < high) and tone.

    A windowed pixel v, 0 to 1, is to be shown as v ** `gamma`.
    """

    mask: NDArray[np.bool_]
    step: int
    window: tuple[float, float]
    gamma: float = 1.0


def breast_mask(pixels: NDArray[Any]) -> BreastMask:
    """The largest bright region that is no thin frame; all of a frame without contrast.

    Every threshold is relative to the image's own range, so that a scaled copy (another bit
    depth) gives the same mask.
    """
    step = max(1, round(max(pixels.shape) / SURVEY_SIDE))
    survey = pixels[::step, ::step].astype(np.float32)
    darkest, brightest = np.percentile(survey, (0.5, 99.5))
    if brightest <= darkest:
        flat, top = float(survey.min()), float(survey.max())
        window = (flat, top if top > flat else flat + max(1.0, abs(flat)))  # beyond rounding
        return BreastMask(np.ones(survey.shape, bool), step, window)
    mask = _largest_thick(survey, darkest, brightest)
    # A label or an edge far brighter than the breast takes the range for itself, and faint skin
    # is lost: then the breast sets the range. Upper quartile: an edge may be part of the region.
    while (lit := np.percentile(survey[mask], 75)) - darkest < GLARE * (brightest - darkest):
        brightest = lit
        mask = _largest_thick(survey, darkest, brightest)
    low, high = np.percentile(survey[mask], WINDOW_PERCENTILES)
    if high <= low:
        low, high = float(darkest), float(brightest)
    middle = float(np.clip((np.median(survey[mask]) - low) / (high - low), 0, 1))
    return BreastMask(mask, step, (float(low), float(high)), _towards(middle, TONES))


def _towards(middle: float, tones: tuple[float, float]) -> float:
    """The exponent that brings `middle` to the nearer end of `tones`; 1 where it lies between."""
    if not 0 < middle < 1:
        return 1.0
    return math.log(min(max(middle, tones[0]), tones[1])) / math.log(middle)


def _largest_thick(
    survey: NDArray[np.float32], darkest: float, brightest: float
) -> NDArray[np.bool_]:
    """The largest region well above `darkest`, thin ones left out where there are others."""
    relative = np.clip((survey - darkest) / (brightest - darkest), 0, 1)
    # In a dark picture fat is nearer to air than to gland. The cube root tells tissue from air in
    # dark and bright ones alike, but takes haze around a bright breast for skin.
    root = np.cbrt(relative)
    tissue = relative[root > 0.7 * threshold_otsu(root)]
    if tissue.size:
        relative = relative ** _towards(float(np.median(tissue)), (DARKEST_TISSUE, 1.0))
    # Fat under the skin lies well below Otsu's level between air and gland.
    bright = relative > 0.5 * threshold_otsu(relative)
    # Burned-in labels, scratches and the white edges of films are thinner than any breast.
    thick = ndimage.binary_opening(bright, iterations=THINNEST_BREAST // 2)
    regions = label(thick if thick.any() else bright)
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    return np.asarray(regions == sizes.argmax())


def box_of(
    mask: NDArray[np.bool_], step: int, shape: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """The box (x, y, width, height) in image pixels around a mask of every `step`-th pixel."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    y1, y2 = max(0, (rows[0] - MARGIN) * step), min(shape[0], (rows[-1] + 1 + MARGIN) * step)
    x1, x2 = max(0, (columns[0] - MARGIN) * step), min(shape[1], (columns[-1] + 1 + MARGIN) * step)
    return int(x1), int(y1), int(x2 - x1), int(y2 - y1)


def fit_geometry(
    box: tuple[int, int, int, int],
    image_size: tuple[int, ...],
    canvas_size: tuple[int, int],
    *,
    pixel_aspect: float = 1.0,
) -> CanvasGeometry:
    """The largest placement of `box` on the canvas that keeps the true aspect."""
    x, y, width, height = box
    zoom = min(canvas_size[1] / width, canvas_size[0] / (height * pixel_aspect))
    columns = min(canvas_size[1], max(1, round(width * zoom)))
    rows = min(canvas_size[0], max(1, round(height * pixel_aspect * zoom)))
    return CanvasGeometry(
        origin=(x, y),
        extent=(width, height),
        scale=(columns / width, rows / height),
        image_size=(image_size[0], image_size[1]),
        canvas_size=canvas_size,
    )


def _resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear, averaging where it shrinks; the outer pixel edges of both grids coincide."""
    if size[1] == 1 < size[0]:  # torch's filter goes astray in a result one pixel wide, not high
        return _resize(image.T.contiguous(), (1, size[0])).T
    return F.interpolate(
        image[None, None], size=size, mode="bilinear", antialias=True, align_corners=False
    )[0, 0]
