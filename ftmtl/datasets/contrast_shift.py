"""A data set as another machine might have shown it: the same breasts under other grey values.

Film and digital detectors, and the processing behind them, map the same tissue to different greys.
What a model reports on the films that it comes from says little of how it takes that. Here every
image passes a gamma that no image of training passed (`AugmentConfig.gamma` ends before these) and
then the sigmoid of a digital viewer (VOI LUT function SIGMOID, DICOM PS3.3 C.11.2.1.3.1). Place,
shape and class of every mass stay as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ftmtl.atomic import atomic_write
from ftmtl.datasets.coco import write_coco
from ftmtl.datasets.film import read_film
from ftmtl.datasets.records import ImageRecord

DARKER, BRIGHTER = (1.6, 2.2), (0.4, 0.6)  # gammas; half of the images each
SIGMOID_CENTRE, SIGMOID_WIDTH = 0.5, 1.0  # of the range of greys that the image uses


def shift(pixels: NDArray[Any], gamma: float) -> NDArray[np.uint16]:
    """Pixels [rows, columns] under another tone curve, 0 to 65535; brighter stays brighter.

    With x from 0 (darkest) to 1 (brightest): 1 / (1 + exp(−4 (x^gamma − 0.5) / 1)), stretched to
    the whole range again.
    """
    values = pixels.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    x = (values - low) / max(high - low, 1e-9)
    curve = _sigmoid(x**gamma)
    ends = _sigmoid(np.array([0.0, 1.0]))
    shifted: NDArray[np.uint16] = np.rint(
        65535 * (curve - ends[0]) / (ends[1] - ends[0])
    ).astype(np.uint16)
    return shifted


def write_shifted(
    records: Sequence[ImageRecord],
    out: Path,
    *,
    on_file: Callable[[int, int, Path], None] = lambda done, total, path: None,
) -> list[ImageRecord]:
    """Write the shifted images as 16-bit PNG into `out`/images, and `out`/coco.json.

    An image's gamma follows from its id, so that every copy is the same. A stretch that only the
    file's header knew goes into the record, since a PNG has none. Raises UnreadableMammogram for
    an image that cannot be read or is not of its record's size.
    """
    folder = Path(out) / "images"
    folder.mkdir(parents=True, exist_ok=True)
    shifted = []
    for number, record in enumerate(records, 1):
        film = read_film(record)
        pixels = shift(film.pixels, gamma_of(record.image_id))
        path = folder / f"{number:06d}.png"
        with atomic_write(path) as stream:
            Image.fromarray(pixels).save(stream, format="PNG", compress_level=1)
        shifted.append(replace(record, path=path, pixel_aspect=film.pixel_aspect))
        on_file(number, len(records), path)
    write_coco(shifted, Path(out) / "coco.json", images=Path(out))
    return shifted


def gamma_of(image_id: int | str) -> float:
    """The image's gamma, from `DARKER` or `BRIGHTER`."""
    digest = hashlib.sha256(f"contrast {image_id}".encode()).digest()
    low, high = (DARKER, BRIGHTER)[digest[0] % 2]
    return low + (high - low) * int.from_bytes(digest[1:5], "big") / 2**32


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    curve: NDArray[np.float64] = 1 / (1 + np.exp(-4 * (x - SIGMOID_CENTRE) / SIGMOID_WIDTH))
    return curve
