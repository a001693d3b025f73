"""How well the outline fits: Dice = 2|A and B| / (|A| + |B|) at the image's own resolution.

The paper's equation has the union below the line, which would make a perfect outline score 2; the
sum of the areas is Dice's own (1945). Only masks that somebody drew count: a shape fitted into a
box says nothing about an outline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ftmtl.evaluation.inputs import (
    FloatArray,
    IntArray,
    InvalidPredictions,
    InvalidTruth,
    Predictions,
    Truth,
)
from ftmtl.evaluation.matching import MISSED


def _counts(text: bytes) -> list[int]:
    """The run lengths in a compressed RLE: five bits a character, from the fourth run on the
    difference to the run but one before (COCO's format).
    """
    runs: list[int] = []
    value = shift = 0
    for byte in text:
        bits = byte - 48
        if not 0 <= bits < 64:
            raise ValueError("its counts hold characters that are not RLE")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs


def as_rle(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Compressed RLE of polygons, or of an RLE with its counts as a list, text or bytes.

    size is the image's (height, width), (0, 0) where it is not known. Raises ValueError with the
    reason: pycocotools itself trusts what it reads.
    """
    rows, columns = size
    if isinstance(segmentation, list):
        if not rows:
            raise ValueError("it is a polygon in an image of unknown size")
        usable = segmentation and all(
            isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and np.isfinite(p).all()
            for p in segmentation
        )
        if not usable:
            raise ValueError("its polygons are not lists of three or more points")
        merged: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(segmentation, rows, columns))
        return merged
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= set(segmentation):
        raise ValueError("it is neither polygons nor an RLE with size and counts")
    height, width = (int(side) for side in segmentation["size"])
    if rows and (height, width) != (rows, columns):
        raise ValueError(f"its size {height} by {width} is not the image's {rows} by {columns}")
    counts = segmentation["counts"]
    listed = isinstance(counts, list)
    if isinstance(counts, str):
        counts = counts.encode("latin-1", "replace")
    runs = counts if listed else _counts(counts)
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"its runs do not add up to {height} by {width} pixels")
    if listed:
        compressed: dict[str, Any] = coco_mask.frPyObjects(
            {"size": [height, width], "counts": counts}, height, width
        )
        return compressed
    return {"size": [height, width], "counts": counts}


def dice(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """Dice of two compressed RLEs of one size; 0 where both are empty."""
    both = int(coco_mask.area(coco_mask.merge([a, b], intersect=True)))
    total = int(coco_mask.area(a)) + int(coco_mask.area(b))
    return 2 * both / total if total else 0.0


def mass_dice(
    truth: Truth, predictions: Predictions, speaker: IntArray
) -> tuple[FloatArray, IntArray, str | None]:
    """([n] Dice, [n] mass) of the n masses with an `annotated` mask, and why there are none.

    `speaker` [M] is the prediction that speaks for each mass (`matching.detected`). A missed mass
    is 0, and so is one whose prediction came without a mask while others have theirs. Where no
    prediction at all has a mask, n is 0.
    """
    outlined = [m for m, mask in enumerate(truth.mass_mask) if mask is not None]
    if not outlined:
        return np.empty(0), np.empty(0, dtype=np.int64), "no mass has an annotated mask"
    if len(predictions.score) and all(mask is None for mask in predictions.mask):
        return np.empty(0), np.empty(0, dtype=np.int64), "no prediction has a mask"
    values = np.zeros(len(outlined))
    for row, mass in enumerate(outlined):
        spoken = int(speaker[mass])
        if spoken == MISSED or predictions.mask[spoken] is None:
            continue
        image = int(truth.mass_image[mass])
        size = truth.image_size[image]
        try:
            drawn = as_rle(truth.mass_mask[mass], size)
        except (ValueError, TypeError) as error:
            raise InvalidTruth(
                f"{truth.name}: annotation {truth.mass_id[mass]!r}: segmentation: {error}"
            ) from error
        if not int(coco_mask.area(drawn)):
            raise InvalidTruth(
                f"{truth.name}: annotation {truth.mass_id[mass]!r}: segmentation: it is empty"
            )
        try:
            values[row] = dice(as_rle(predictions.mask[spoken], tuple(drawn["size"])), drawn)
        except (ValueError, TypeError) as error:
            raise InvalidPredictions(
                f"{predictions.name}: prediction {spoken} (image {truth.image_ids[image]!r}): "
                f"segmentation: {error}"
            ) from error
    return values, np.asarray(outlined, dtype=np.int64), None
