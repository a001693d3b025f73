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

from ftmtl.coco_masks import as_rle
from ftmtl.evaluation.inputs import (
    FloatArray,
    IntArray,
    InvalidPredictions,
    InvalidTruth,
    Predictions,
    Truth,
)
from ftmtl.evaluation.matching import MISSED


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
