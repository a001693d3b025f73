"""COCO JSON in and out: the format of every data set of this project.

Beside COCO's own keys, images may carry `patient_id`, `laterality`, `view`, `pixel_aspect` and
`assessment`; annotations `mask_source`, `class_known`, `role` and `assessment`. Categories are
1 benign, 2 malignant.
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
from ftmtl.findings import MaskSource

from .records import CATEGORY_NAMES, Annotation, ImageRecord, Role


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
    if not isinstance(image_rows, list) or not isinstance(annotation_rows, list):
        raise InvalidDataset(f"{file}: 'images' and 'annotations' must be lists")
    by_image: dict[Any, list[Annotation]] = {}
    sizes: dict[Any, tuple[int, int]] = {}
    for row in image_rows:
        identity = _identity(file, row, "image")
        if identity in sizes:
            raise InvalidDataset(f"{file}: image id {identity} occurs twice")
        sizes[identity] = (_side(file, row, "width"), _side(file, row, "height"))
        by_image[identity] = []
    seen: set[Any] = set()
    for row in annotation_rows:
        identity = _identity(file, row, "annotation")
        image = _need(file, row, "image_id", "annotation")
        if identity in seen:
            raise InvalidDataset(f"{file}: annotation id {identity} occurs twice")
        if isinstance(image, dict | list) or image not in by_image:
            raise InvalidDataset(f"{file}: annotation {identity} is of an unknown image {image}")
        seen.add(identity)
        by_image[image].append(_annotation(file, row, sizes[image]))
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
                **({} if record.assessment is None else {"assessment": record.assessment}),
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
                **({} if a.assessment is None else {"assessment": a.assessment}),
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
    patient = row.get("patient_id")
    aspect = row.get("pixel_aspect")
    if aspect is None:
        aspect = 1.0
    elif not _is_number(aspect) or aspect <= 0:
        raise InvalidDataset(
            f"{file}: image {row['id']}: pixel_aspect {aspect!r} is not a number above 0"
        )
    return ImageRecord(
        image_id=row["id"],
        path=folder / str(_need(file, row, "file_name", "image")),
        width=int(row["width"]),
        height=int(row["height"]),
        # Without a patient each image stands alone: no grouping is claimed that is not known.
        patient_id=f"image {row['id']}" if patient in (None, "") else str(patient),
        laterality=row.get("laterality"),
        view=row.get("view"),
        pixel_aspect=float(aspect),
        assessment=row.get("assessment"),
        annotations=tuple(annotations),
    )


def _annotation(file: Path, row: dict[str, Any], size: tuple[int, int]) -> Annotation:
    where = f"{file}: annotation {row['id']}"
    category = _need(file, row, "category_id", "annotation")
    if category not in list(CATEGORY_NAMES):
        raise InvalidDataset(f"{where}: unknown category {category!r}; 1 benign, 2 malignant")
    role, source = row.get("role", "mass"), row.get("mask_source")
    segmentation = row.get("segmentation") or None
    if source is None:
        source = "annotated" if segmentation else "none"
    if role not in get_args(Role):
        raise InvalidDataset(f"{where}: unknown role {role!r}; one of {get_args(Role)}")
    if source not in get_args(MaskSource):
        raise InvalidDataset(
            f"{where}: unknown mask_source {source!r}; one of {get_args(MaskSource)}"
        )
    if segmentation is not None:
        _check_segmentation(where, segmentation, size)
    return Annotation(
        id=row["id"],
        bbox=_box(where, _need(file, row, "bbox", "annotation"), size),
        category=int(category),
        class_known=bool(row.get("class_known", True)),
        mask_source=cast(MaskSource, source),
        segmentation=segmentation,
        role=cast(Role, role),
        assessment=row.get("assessment"),
    )


def _box(where: str, bbox: Any, size: tuple[int, int]) -> tuple[float, float, float, float]:
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise InvalidDataset(f"{where}: box {bbox!r:.80} is not 4 numbers")
    x, y, width, height = map(float, bbox)
    if width <= 0 or height <= 0:
        raise InvalidDataset(f"{where}: box {bbox!r} has no area")
    # Owners round boxes up: two pixels of overhang are forgiven.
    if x < -2 or y < -2 or x + width > size[0] + 2 or y + height > size[1] + 2:
        raise InvalidDataset(f"{where}: box {bbox!r} leaves its image of {size[0]}×{size[1]}")
    return x, y, width, height


def _check_segmentation(where: str, segmentation: Any, size: tuple[int, int]) -> None:
    """COCO's three kinds: polygons, runs as a list, runs as a string."""
    if isinstance(segmentation, list):
        if any(
            not isinstance(p, list) or len(p) < 6 or len(p) % 2 or not all(map(_is_number, p))
            for p in segmentation
        ):
            raise InvalidDataset(f"{where}: a polygon is a list of x, y of 3 points or more")
        return
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
        raise InvalidDataset(f"{where}: segmentation is neither polygons nor runs (size, counts)")
    counts = segmentation["counts"]
    if segmentation["size"] != [size[1], size[0]]:
        raise InvalidDataset(
            f"{where}: segmentation is of size {segmentation['size']!r}, "
            f"its image of [{size[1]}, {size[0]}] (height, width)"
        )
    if isinstance(counts, str):
        return
    if not isinstance(counts, list) or any(type(c) is not int or c < 0 for c in counts):
        raise InvalidDataset(f"{where}: the counts of a segmentation are a string or whole numbers")
    if sum(counts) != size[0] * size[1]:
        raise InvalidDataset(
            f"{where}: the counts add up to {sum(counts)}, not to {size[0]}×{size[1]} pixels"
        )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _side(file: Path, row: dict[str, Any], key: str) -> int:
    value = _need(file, row, key, "image")
    if not _is_number(value) or value < 1 or value != int(value):
        raise InvalidDataset(f"{file}: image {row['id']}: {key} {value!r} is not a count of pixels")
    return int(value)


def _identity(file: Path, row: Any, what: str) -> int | str:
    value = _need(file, row, "id", what)
    if type(value) not in (int, str):
        raise InvalidDataset(f"{file}: {what} id {value!r:.80} is neither a number nor a name")
    return cast(int | str, value)


def _need(file: Path, row: Any, key: str, what: str) -> Any:
    if not isinstance(row, dict) or key not in row:
        which = f"{what} {row['id']}" if isinstance(row, dict) and "id" in row else f"an {what}"
        raise InvalidDataset(f"{file}: {which} has no '{key}': {row!r:.120}")
    return row[key]
