"""CBIS-DDSM films that a third party resized to one square, whatever their true shape.

Source: a folder with `annotations.json` (COCO; images carry `original_width` and
`original_height`) and `images/`. The stretch becomes `pixel_aspect`, and boxes whose pathology
is uncertain get `class_known: false`. CBIS-DDSM: Lee et al., Scientific Data 4:170177 (2017).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from .coco import InvalidDataset, read_coco
from .published import Skipped
from .records import ImageRecord


def read_stretched_cbis(folder: Path) -> tuple[list[ImageRecord], Skipped]:
    """The records of the stretched set, paths below `folder`. Raises InvalidDataset."""
    skipped = Skipped()
    file = Path(folder) / "annotations.json"
    records = read_coco(file, Path(folder))
    document = json.loads(file.read_text(encoding="utf-8-sig"))
    originals = {row["id"]: row for row in document["images"]}
    uncertain = {row["id"] for row in document["annotations"] if row.get("label_uncertain")}
    out = []
    for record in records:
        row = originals[record.image_id]
        for annotation in record.annotations:
            if annotation.id in uncertain:
                skipped.add("class that is uncertain: the mass is kept, without it", annotation.id)
        original = row.get("original_width"), row.get("original_height")
        if not all(isinstance(side, int | float) and side > 0 for side in original):
            raise InvalidDataset(f"{file}: image {record.image_id} does not tell its original size")
        # A stored pixel covers original/stored film pixels along each axis.
        pixel_height = row["original_height"] / record.height
        pixel_width = row["original_width"] / record.width
        out.append(
            replace(
                record,
                pixel_aspect=pixel_height / pixel_width,
                annotations=tuple(
                    replace(a, class_known=a.class_known and a.id not in uncertain)
                    for a in record.annotations
                ),
            )
        )
    return out, skipped
