"""Masks as COCO files hold them: polygons, runs as a list, runs as text; checked before use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


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
    sides = segmentation["size"]
    if not isinstance(sides, Sequence) or [type(side) for side in sides] != [int, int]:
        raise ValueError(f"its size {sides!r:.80} is not [height, width]")
    height, width = sides
    if rows and (height, width) != (rows, columns):
        raise ValueError(f"its size {height} by {width} is not the image's {rows} by {columns}")
    counts = segmentation["counts"]
    listed = isinstance(counts, list)
    if isinstance(counts, str):
        counts = counts.encode("latin-1", "replace")
    # Half a run would send pycocotools round for ever.
    if not (isinstance(counts, bytes) or (listed and all(type(run) is int for run in counts))):
        raise ValueError("its counts are neither text nor a list of whole numbers")
    runs = counts if listed else _counts(counts)
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"its runs do not add up to {height} by {width} pixels")
    if listed:
        compressed: dict[str, Any] = coco_mask.frPyObjects(
            {"size": [height, width], "counts": counts}, height, width
        )
        return compressed
    return {"size": [height, width], "counts": counts}


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
