"""COCO JSON in and out: the format of every data set of this project.

Beside COCO's own keys, images may carry `patient_id`, `laterality`, `view`, `pixel_aspect`,
`assessment`, `malignant` and `split`; annotations `mask_source`, `class_known`, `role` and
`assessment`.
Categories are told by their names, benign and malignant; what is written numbers them 1 and 2. A
mask without `mask_source` is taken for annotated, and a crowd (`iscrowd`) for a region to ignore.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from pycocotools import mask as coco_mask

from ftmtl.atomic import write_bytes
from ftmtl.coco_masks import as_rle
from ftmtl.coco_rows import class_known_of, is_identity, is_number, mask_source_of, role_of
from ftmtl.findings import MaskSource

from .records import CATEGORY_NAMES, CATEGORY_OF, Annotation, ImageRecord, Role

Box = tuple[float, float, float, float]


class InvalidDataset(ValueError):
    """A data set that cannot be used; names the file, the place and the remedy."""


def read_coco(file: Path, images: Path) -> list[ImageRecord]:
    """The records of a COCO file; image paths lie below `images`. Raises InvalidDataset."""
    try:
        document = json.loads(Path(file).read_text(encoding="utf-8-sig"))
        image_rows, annotation_rows = document["images"], document["annotations"]
    except FileNotFoundError as error:
        raise InvalidDataset(f"{file}: there is no such file. Give the COCO JSON") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidDataset(
            f"{file}: not a COCO data set ({error!r}). It needs 'images' and 'annotations'"
        ) from error
    if not isinstance(image_rows, list) or not isinstance(annotation_rows, list):
        raise InvalidDataset(f"{file}: 'images' and 'annotations' must be lists")
    categories = _categories(file, document.get("categories"))
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
        by_image[image].append(_annotation(file, row, sizes[image], categories))
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
                **({"patient_id": record.patient_id} if record.patient_known else {}),
                "laterality": record.laterality,
                "view": record.view,
                "pixel_aspect": record.pixel_aspect,
                **({} if record.assessment is None else {"assessment": record.assessment}),
                **({} if record.malignant is None else {"malignant": record.malignant}),
                **({} if record.split is None else {"split": record.split}),
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
    write_bytes(Path(file), json.dumps(document).encode())


def _record(
    file: Path, folder: Path, row: dict[str, Any], annotations: list[Annotation]
) -> ImageRecord:
    patient = row.get("patient_id")
    known = patient not in (None, "")
    aspect = row.get("pixel_aspect")
    if aspect is None:
        aspect = 1.0
    elif not is_number(aspect) or aspect <= 0:
        raise InvalidDataset(
            f"{file}: image {row['id']}: pixel_aspect {aspect!r} is not a number above 0"
        )
    malignant = row.get("malignant")
    if malignant is not None and type(malignant) is not bool:
        raise InvalidDataset(
            f"{file}: image {row['id']}: malignant {malignant!r} is neither true nor false"
        )
    return ImageRecord(
        image_id=row["id"],
        path=folder / _file_name(file, row),
        width=int(row["width"]),
        height=int(row["height"]),
        # Without a patient each image stands alone: no grouping is claimed that is not known.
        patient_id=str(patient) if known else f"image {row['id']}",
        patient_known=known,
        laterality=_word(file, row, "laterality", ("L", "R")),
        view=_word(file, row, "view"),
        pixel_aspect=float(aspect),
        assessment=row.get("assessment"),
        malignant=malignant,
        split=_word(file, row, "split"),
        annotations=tuple(annotations),
    )


def _categories(file: Path, rows: Any) -> dict[int, str]:
    """Category names by id; a set that does not say has ours."""
    if not rows:
        return CATEGORY_NAMES
    if not isinstance(rows, list):
        raise InvalidDataset(f"{file}: 'categories' must be a list")
    names: dict[int, str] = {}
    for row in rows:
        identity = _identity(file, row, "category")
        if type(identity) is not int or identity in names:
            raise InvalidDataset(f"{file}: category id {identity!r} is no number or occurs twice")
        names[identity] = str(_need(file, row, "name", "category")).strip().lower()
    return names


def _annotation(
    file: Path, row: dict[str, Any], size: tuple[int, int], categories: dict[int, str]
) -> Annotation:
    where = f"{file}: annotation {row['id']}"
    category = _need(file, row, "category_id", "annotation")
    name = categories.get(category) if type(category) is int else None
    if name not in CATEGORY_OF:
        raise InvalidDataset(
            f"{where}: unknown category {category!r}{f' ({name})' if name else ''}; "
            "name it benign or malignant"
        )
    known = class_known_of(row)
    if type(known) is not bool:
        raise InvalidDataset(f"{where}: class_known {known!r} is neither true nor false")
    role, source = role_of(row), mask_source_of(row)
    segmentation = row.get("segmentation") or None
    if role not in get_args(Role):
        raise InvalidDataset(f"{where}: unknown role {role!r}; one of {get_args(Role)}")
    if source not in get_args(MaskSource):
        raise InvalidDataset(
            f"{where}: unknown mask_source {source!r}; one of {get_args(MaskSource)}"
        )
    box = _box(where, _need(file, row, "bbox", "annotation"), size)
    if segmentation is not None:
        _check_segmentation(where, segmentation, box, size)
    return Annotation(
        id=row["id"],
        bbox=box,
        category=CATEGORY_OF[name],
        class_known=known,
        mask_source=cast(MaskSource, source),
        segmentation=segmentation,
        role=cast(Role, role),
        assessment=row.get("assessment"),
    )


def _box(where: str, bbox: Any, size: tuple[int, int]) -> Box:
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
        raise InvalidDataset(f"{where}: box {bbox!r:.80} is not 4 numbers")
    x, y, width, height = map(float, bbox)
    if width <= 0 or height <= 0:
        raise InvalidDataset(f"{where}: box {bbox!r} has no area")
    # Owners round boxes up: two pixels of overhang are forgiven.
    outside = x >= size[0] or y >= size[1] or x + width <= 0 or y + height <= 0
    if outside or x < -2 or y < -2 or x + width > size[0] + 2 or y + height > size[1] + 2:
        raise InvalidDataset(f"{where}: box {bbox!r} leaves its image of {size[0]}×{size[1]}")
    return x, y, width, height


def _check_segmentation(where: str, segmentation: Any, box: Box, size: tuple[int, int]) -> None:
    """Raise InvalidDataset unless the mask has pixels, and some of them in its box."""
    try:
        rle = as_rle(segmentation, (size[1], size[0]))
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidDataset(f"{where}: segmentation: {error}") from error
    if not coco_mask.area(rle):
        raise InvalidDataset(f"{where}: segmentation: it is empty, or outside its image")
    left, top, width, height = coco_mask.toBbox(rle)
    x, y = max(left, box[0]), max(top, box[1])
    if x >= min(left + width, box[0] + box[2]) or y >= min(top + height, box[1] + box[3]):
        raise InvalidDataset(f"{where}: segmentation: it lies outside its box {list(box)}")


def _side(file: Path, row: dict[str, Any], key: str) -> int:
    value = _need(file, row, key, "image")
    if not is_number(value) or value < 1 or value != int(value):
        raise InvalidDataset(f"{file}: image {row['id']}: {key} {value!r} is not a count of pixels")
    return int(value)


def _file_name(file: Path, row: dict[str, Any]) -> str:
    name = _need(file, row, "file_name", "image")
    if not isinstance(name, str) or not name:
        raise InvalidDataset(f"{file}: image {row['id']}: file_name {name!r} is no name")
    return name


def _word(file: Path, row: dict[str, Any], key: str, words: Sequence[str] = ()) -> str | None:
    """One of `words`, or any if none are given; None where the image does not say."""
    value = row.get(key)
    if value in (None, ""):
        return None
    if not isinstance(value, str) or (words and value not in words):
        raise InvalidDataset(
            f"{file}: image {row['id']}: {key} {value!r} is not {' or '.join(words) or 'text'}"
        )
    return value


def _identity(file: Path, row: Any, what: str) -> int | str:
    value = _need(file, row, "id", what)
    if not is_identity(value):
        raise InvalidDataset(f"{file}: {what} id {value!r:.80} is neither a number nor a name")
    return cast(int | str, value)


def _need(file: Path, row: Any, key: str, what: str) -> Any:
    if not isinstance(row, dict) or key not in row:
        which = f"{what} {row['id']}" if isinstance(row, dict) and "id" in row else f"an {what}"
        raise InvalidDataset(f"{file}: {which} has no '{key}': {row!r:.120}")
    return row[key]
