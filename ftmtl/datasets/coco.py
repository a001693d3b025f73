"""COCO JSON in and out: the format of every data set of this project.

Beside COCO's own keys, images may carry `patient_id`, `laterality`, `view`, `pixel_aspect`;
annotations `mask_source`, `class_known`, `role`. Categories are 1 benign, 2 malignant.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from ftmtl.atomic import atomic_write

from .records import CATEGORY_NAMES, Annotation, ImageRecord, MaskSource, Role


class InvalidDataset(ValueError):
    """A data set that cannot be used; names the file, the place and the remedy."""


def read_coco(file: Path, images: Path) -> list[ImageRecord]:
    """The records of a COCO file; image paths lie below `images`. Raises InvalidDataset."""
    try:
        document = json.loads(Path(file).read_text(encoding="utf-8"))
        image_rows, annotation_rows = document["images"], document["annotations"]
    except FileNotFoundError as error:
        raise InvalidDataset(f"{file}: there is no such file. Give the COCO JSON") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidDataset(
            f"{file}: not a COCO data set ({error!r}). It needs 'images' and 'annotations'"
        ) from error
    by_image: dict[Any, list[Annotation]] = {}
    sizes: dict[Any, tuple[int, int]] = {}
    for row in image_rows:
        identity = _need(file, row, "id", "image")
        if identity in sizes:
            raise InvalidDataset(f"{file}: image id {identity} occurs twice")
        sizes[identity] = (int(_need(file, row, "width", "image")),
                           int(_need(file, row, "height", "image")))
        by_image[identity] = []
    seen: set[Any] = set()
    for row in annotation_rows:
        annotation = _annotation(file, row)
        image = _need(file, row, "image_id", "annotation")
        if annotation.id in seen:
            raise InvalidDataset(f"{file}: annotation id {annotation.id} occurs twice")
        if image not in by_image:
            raise InvalidDataset(f"{file}: annotation {annotation.id}: unknown image {image}")
        _check_inside(file, annotation, sizes[image])
        seen.add(annotation.id)
        by_image[image].append(annotation)
    return [_record(file, Path(images), row, by_image[row["id"]]) for row in image_rows]


def to_coco(records: Iterable[ImageRecord]) -> dict[str, Any]:
    """The COCO document of records; `file_name` is the record's path as it stands."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record in records:
        images.append(
            {
                "id": record.image_id,
                "file_name": str(record.path),
                "width": record.width,
                "height": record.height,
                "patient_id": record.patient_id,
                "laterality": record.laterality,
                "view": record.view,
                "pixel_aspect": record.pixel_aspect,
            }
        )
        annotations += [
            {
                "id": a.id,
                "image_id": record.image_id,
                "bbox": list(a.bbox),
                "area": a.bbox[2] * a.bbox[3],
                "iscrowd": 0,
                "category_id": a.category,
                "class_known": a.class_known,
                "mask_source": a.mask_source,
                "role": a.role,
                **({} if a.segmentation is None else {"segmentation": a.segmentation}),
            }
            for a in record.annotations
        ]
    categories = [{"id": k, "name": v} for k, v in CATEGORY_NAMES.items()]
    return {"categories": categories, "images": images, "annotations": annotations}


def write_coco(records: Iterable[ImageRecord], file: Path, *, images: Path) -> None:
    """Write records as a COCO file, paths relative to the folder `images`."""
    document = to_coco(
        replace(r, path=Path(os.path.relpath(r.path, images))) for r in records
    )
    with atomic_write(Path(file)) as stream:
        stream.write(json.dumps(document).encode())


def _record(
    file: Path, folder: Path, row: dict[str, Any], annotations: list[Annotation]
) -> ImageRecord:
    return ImageRecord(
        image_id=row["id"],
        path=folder / str(_need(file, row, "file_name", "image")),
        width=int(row["width"]),
        height=int(row["height"]),
        # Without a patient each image stands alone: no grouping is claimed that is not known.
        patient_id=str(row.get("patient_id") or f"image {row['id']}"),
        laterality=row.get("laterality"),
        view=row.get("view"),
        pixel_aspect=float(row.get("pixel_aspect", 1.0)),
        annotations=tuple(annotations),
    )


def _annotation(file: Path, row: dict[str, Any]) -> Annotation:
    identity = _need(file, row, "id", "annotation")
    bbox = _need(file, row, "bbox", "annotation")
    try:
        x, y, width, height = (float(v) for v in bbox)
    except (TypeError, ValueError) as error:
        raise InvalidDataset(
            f"{file}: annotation {identity}: box {bbox!r} is not 4 numbers"
        ) from error
    if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        raise InvalidDataset(f"{file}: annotation {identity}: box {bbox!r} has no area")
    category = _need(file, row, "category_id", "annotation")
    if category not in CATEGORY_NAMES:
        raise InvalidDataset(
            f"{file}: annotation {identity}: unknown category {category!r}; 1 benign, 2 malignant"
        )
    role, source = row.get("role", "mass"), row.get("mask_source")
    segmentation = row.get("segmentation") or None
    if source is None:
        source = "annotated" if segmentation else "none"
    if role not in get_args(Role) or source not in get_args(MaskSource):
        raise InvalidDataset(f"{file}: annotation {identity}: unknown role {role!r} or {source!r}")
    return Annotation(
        id=identity,
        bbox=(x, y, width, height),
        category=int(category),
        class_known=bool(row.get("class_known", True)),
        mask_source=cast(MaskSource, source),
        segmentation=segmentation,
        role=cast(Role, role),
    )


def _check_inside(file: Path, annotation: Annotation, size: tuple[int, int]) -> None:
    x, y, width, height = annotation.bbox
    # Owners round boxes up: two pixels of overhang are forgiven.
    if x < -2 or y < -2 or x + width > size[0] + 2 or y + height > size[1] + 2:
        raise InvalidDataset(
            f"{file}: annotation {annotation.id}: box {list(annotation.bbox)} "
            f"leaves its image of {size[0]}×{size[1]}"
        )


def _need(file: Path, row: Any, key: str, what: str) -> Any:
    try:
        return row[key]
    except (KeyError, TypeError) as error:
        raise InvalidDataset(f"{file}: an {what} has no '{key}': {row!r:.120}") from error
