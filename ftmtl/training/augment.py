"""The six augmentations of paper 3.2: rotate, flip, zoom, crop, contrast, smooth.

For each image two to five of them are drawn; image, masks and so boxes go through the same
change. The geometric ones are one affine map and one resampling.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

from ftmtl.config import AugmentConfig

Matrix = NDArray[np.float64]


def augment(
    pixels: NDArray[np.float32],
    masks: NDArray[np.bool_],
    config: AugmentConfig,
    random: Generator,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A changed copy of `pixels` [height, width] in 0…1 and `masks` [T, height, width].

    All chance comes from `random`. What comes in from outside the image is black.
    """
    names = list(_GEOMETRIC) + list(_TONAL)
    fewest, most = config.operations
    drawn = set(random.permutation(len(names))[: random.integers(fewest, most + 1)])
    chosen = [name for i, name in enumerate(names) if i in drawn]
    matrix = np.eye(3)
    for name in chosen:
        if name in _GEOMETRIC:
            matrix = _GEOMETRIC[name](config, random) @ matrix
    if not np.array_equal(matrix, np.eye(3)):
        pixels, masks = _warp(pixels, masks, matrix)
    for name in chosen:
        if name in _TONAL:
            pixels = _TONAL[name](pixels, config, random)
    return np.clip(pixels, 0, 1).astype(np.float32), masks


def _rotate(config: AugmentConfig, random: Generator) -> Matrix:
    angle = np.deg2rad(random.uniform(-config.rotate_degrees, config.rotate_degrees))
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _flip(config: AugmentConfig, random: Generator) -> Matrix:
    horizontal, vertical = random.random(2) < 0.5
    if not config.vertical_flip or not (horizontal or vertical):
        horizontal, vertical = True, False
    return np.diag([-1.0 if horizontal else 1.0, -1.0 if vertical else 1.0, 1.0])


def _zoom(config: AugmentConfig, random: Generator) -> Matrix:
    factor = np.exp(random.uniform(*np.log(config.zoom)))
    return np.diag([factor, factor, 1.0])


def _crop(config: AugmentConfig, random: Generator) -> Matrix:
    """The image moved, so that a strip is cut off at one or two sides and black comes in."""
    keep = 1 - random.uniform(0, config.crop)
    shift = random.uniform(-1, 1, size=2) * (1 - keep)
    # In the centred coordinates of `_warp` the kept window is brought to the middle.
    return np.array([[1, 0, -shift[0]], [0, 1, -shift[1]], [0, 0, 1]])


def _contrast(
    pixels: NDArray[np.float32], config: AugmentConfig, random: Generator
) -> NDArray[np.float32]:
    gamma = np.exp(random.uniform(*np.log(config.gamma)))
    out: NDArray[np.float32] = pixels**gamma * random.uniform(*config.gain)
    return out


def _smooth(
    pixels: NDArray[np.float32], config: AugmentConfig, random: Generator
) -> NDArray[np.float32]:
    sigma = random.uniform(0, config.smooth_sigma)
    out: NDArray[np.float32] = ndimage.gaussian_filter(pixels, sigma)
    return out


_GEOMETRIC: dict[str, Callable[[AugmentConfig, Generator], Matrix]] = {
    "rotate": _rotate,
    "flip": _flip,
    "zoom": _zoom,
    "crop": _crop,
}
_TONAL: dict[
    str, Callable[[NDArray[np.float32], AugmentConfig, Generator], NDArray[np.float32]]
] = {"contrast": _contrast, "smooth": _smooth}


def _warp(
    pixels: NDArray[np.float32], masks: NDArray[np.bool_], matrix: Matrix
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Move the content by `matrix`, about the centre, in units of half the height."""
    height, width = pixels.shape
    # Isotropic units to grid_sample's own, -1…1 across each side; grid_sample asks where each
    # output pixel comes from, hence the inverse.
    to_unit = np.diag([height / width, 1.0, 1.0])
    inverse = to_unit @ np.linalg.inv(matrix) @ np.linalg.inv(to_unit)
    theta = torch.from_numpy(inverse[None, :2]).float()
    stack = torch.from_numpy(np.concatenate([pixels[None], masks.astype(np.float32)]))[None]
    grid = F.affine_grid(theta, list(stack.shape), align_corners=False)
    moved = F.grid_sample(stack, grid, mode="bilinear", align_corners=False)[0].numpy()
    return moved[0], moved[1:] >= 0.5
