"""INbreast: 410 digital mammograms, outlines as OsiriX property lists (Moreira et al., 2012).

Source: the folder as distributed, with `INbreast.xls` (or `.xlsx`, `.csv`), the DICOM files
(`20586908_6c613a14b80a8591_MG_R_CC_ANON.dcm`: image, patient, side, view) and `20586908.xml`. The
XLS comes first: it alone says which images hold a mass.

- "Mass" is a mass. A spiculated region that touches an outlined mass is its surroundings; one that
  stands alone is a mass.
- A mass marked by a point, or smaller than 3 mm (the smallest measured mass of the data set has
  15 mm²), is a region to ignore: something is there, and how far it reaches is not known.
- The class is the image's BI-RADS: malignant from 4 on (the paper, 3.1).
- An image without XML is a normal one, unless its BI-RADS is 4 or more. An XML without a mass is
  right even then, for there may be calcifications alone, unless the table says `Mass`.
"""

from __future__ import annotations

import plistlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ftmtl.coco_masks import as_rle
from ftmtl.mammogram import MammogramHeader, UnreadableMammogram, read_header

from .coco import InvalidDataset
from .published import (
    OVERHANG,
    Skipped,
    birads_class,
    by_id,
    files_below,
    find,
    missing,
    read_table,
    said_malignant,
    side,
    unique,
    usable,
)
from .records import MALIGNANT, Annotation, ImageRecord, Role

MASS = "mass"
SPICULATED = {"spiculated region", "espiculated region"}  # as the files spell it
OTHERS = {"calcification", "calcifications", "cluster", "asymmetry", "assymetry", "distortion",
          "point 1", "point 3", "unnamed"}
SMALLEST_MM = 3.0
SPACING_MM = 0.07  # of the data set's detector, where a header does not say
_NAME = re.compile(r"(\d+)_([0-9a-f]+)_MG_([LR])_(?:CC|MLO?|FB)_.*\.dcm", re.IGNORECASE)


def read_inbreast(folder: Path) -> tuple[list[ImageRecord], Skipped]:
    """The records of INbreast, and what was left out. Raises InvalidDataset."""
    folder = Path(folder)
    table = find(folder, "INbreast.xls", "INbreast.xlsx", "INbreast.csv")
    skipped = Skipped()
    rows = []
    for row in read_table(table, ("file name", "laterality", "view", "bi-rads")):
        if row["file name"].isdigit():
            rows.append(row)
        elif row["file name"]:  # without one: the sums below the images
            skipped.add("row whose file name is no number", row["file name"])
    told = [row["file name"] for row in rows]
    unique(told, table, "image")
    named = {file: found for file in files_below(folder, ".dcm")
             if (found := _NAME.fullmatch(file.name))}
    dicom = by_id(((found[1], file) for file, found in named.items()), "image")
    missing([name for name in told if name not in dicom], folder, "images")
    outlines = _outlines(folder, skipped)
    for name in sorted(dicom.keys() - set(told)):
        skipped.add("image that is not in the table", dicom[name].name)
    for name in sorted(outlines.keys() - set(told)):
        skipped.add("XML that is of no image in the table", outlines[name].name)
    records = []
    for name, row in zip(told, rows, strict=True):
        try:
            records.append(_image(row, named[dicom[name]], dicom[name], outlines.get(name),
                                  f"{table}: image {name}", skipped))
        except (InvalidDataset, UnreadableMammogram) as error:
            skipped.refuse(error)
    return usable(records, skipped, table)


def _outlines(folder: Path, skipped: Skipped) -> dict[str, Path]:
    """The XML of each image. Raises InvalidDataset for none at all, and for two of one image."""
    files = []
    for file in files_below(folder, ".xml"):
        if "muscle" in str(file.relative_to(folder)).lower():  # `PectoralMuscle/…`
            skipped.add("outline of the pectoral muscle", file.name)
        else:
            files.append((file.stem, file))
    if not files:
        raise InvalidDataset(
            f"{folder}: holds no outlines, such as AllXML/20586908.xml. Complete the download"
        )
    return by_id(files, "XML")


def _image(
    row: dict[str, str], named: re.Match[str], file: Path, xml: Path | None, where: str,
    skipped: Skipped,
) -> ImageRecord:
    header = read_header(file)
    fields = birads_class(row["bi-rads"], where)
    laterality = side(row["laterality"], where)
    if laterality != named[3].upper():
        raise InvalidDataset(f"{where}: its row says side {laterality}, its file is {file.name}")
    if not row["view"]:
        raise InvalidDataset(f"{where}: its row has no view")
    if xml is None and fields["category"] == MALIGNANT:
        raise InvalidDataset(
            f"{where}: {fields['assessment']}, and {named[1]}.xml is missing. Complete the download"
        )
    regions = [] if xml is None else _regions(xml, named[1], header, fields, skipped)
    if not regions and row.get("mass", "").upper() == "X":
        raise InvalidDataset(
            f"{where}: it holds a mass, and {xml or 'no XML'} outlines none. Complete the download"
        )
    return ImageRecord(
        image_id=named[1], path=file, width=header.width, height=header.height,
        patient_id=named[2], laterality=laterality, view=row["view"],
        assessment=fields["assessment"], malignant=said_malignant(fields),
        annotations=tuple(regions),
    )


def _regions(
    file: Path, image: str, header: MammogramHeader, fields: dict[str, Any], skipped: Skipped
) -> list[Annotation]:
    masses: list[Annotation] = []
    spiculated: list[Annotation] = []
    for n, roi in enumerate(_rois(file), start=1):
        where = f"{file}: ROI {n}"
        try:
            kind = str(roi["Name"]).strip() or "unnamed"
            texts = list(roi["Point_px"])
        except (KeyError, TypeError) as error:
            raise InvalidDataset(f"{where}: has no Name or no Point_px") from error
        if kind.lower() in OTHERS:
            skipped.add(f"ROI “{kind}”, no mass", f"{file.name}, ROI {n}")
        elif kind.lower() == MASS or kind.lower() in SPICULATED:
            points = _points(texts, header, f"{where} ({kind})")
            annotation = _annotation(f"{image}_{n}", points, header, fields)
            if annotation.role == "ignore":
                small = "a point or a line" if annotation.segmentation is None \
                    else f"less than {SMALLEST_MM:.0f} mm"
                skipped.add(f"ROI “{kind}” of {small}: kept as a region to ignore",
                            f"{file.name}, ROI {n}")
            (masses if kind.lower() == MASS else spiculated).append(annotation)
        else:
            raise InvalidDataset(f"{where}: unknown name {kind!r}")
    outlined = [m for m in masses if m.role == "mass"]
    size = header.height, header.width
    alone = [s for s in spiculated if not any(_touch(s, m, size) for m in outlined)]
    for region in spiculated:
        if region not in alone:
            skipped.add("spiculated region around an outlined mass", f"{file.name}, {region.id}")
    return masses + alone


def _rois(file: Path) -> list[dict[str, Any]]:
    try:
        with file.open("rb") as stream:
            images = plistlib.load(stream)["Images"]
        return [roi for image in images for roi in image["ROIs"]]
    except Exception as error:  # damaged XML meets the parser with errors of every class
        raise InvalidDataset(
            f"{file}: not a property list of ROIs ({type(error).__name__}: {error})"
        ) from error


def _points(texts: list[str], header: MammogramHeader, where: str) -> np.ndarray[Any, Any]:
    """[N, 2] x, y inside the image; "(2389.4, 1511.0)" as OsiriX writes it."""
    try:
        points = np.array([[float(v) for v in text.strip("() ").split(",")] for text in texts])
    except (ValueError, AttributeError) as error:
        raise InvalidDataset(f"{where}: a point is not “(x, y)”") from error
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise InvalidDataset(f"{where}: it has no points, or one that is not “(x, y)”")
    size = np.array([header.width, header.height])
    if outside := [p for p in points if (p < -OVERHANG).any() or (p > size + OVERHANG).any()]:
        raise InvalidDataset(
            f"{where}: its point ({outside[0][0]:g}, {outside[0][1]:g}) lies outside its image of "
            f"{header.width}×{header.height}"
        )
    return np.clip(points, 0, size)


def _annotation(
    identity: str, points: np.ndarray[Any, Any], header: MammogramHeader, fields: dict[str, Any]
) -> Annotation:
    spacing = header.spacing_mm[0] if header.spacing_mm else SPACING_MM
    least = SMALLEST_MM / spacing
    low, high = points.min(axis=0), points.max(axis=0)
    x, y = points.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    outline: list[list[float]] | None = None
    role: Role = "ignore"
    if len(points) < 3 or area == 0:
        middle, half = (low + high) / 2, np.maximum(high - low, least) / 2
        low = np.maximum(middle - half, 0)
        high = np.minimum(middle + half, [header.width, header.height])
    else:
        outline = [points.ravel().tolist()]
        role = "mass" if max(high - low) >= least else "ignore"
    return Annotation(
        id=identity, bbox=(*low.tolist(), *(high - low).tolist()), segmentation=outline,
        mask_source="none" if outline is None else "annotated", role=role, **fields,
    )


def _touch(a: Annotation, b: Annotation, size: tuple[int, int]) -> bool:
    """Whether their outlines, or the box of one that has none, share a pixel of the image."""
    common = coco_mask.merge([_covered(a, size), _covered(b, size)], intersect=True)
    return bool(coco_mask.area(common))


def _covered(annotation: Annotation, size: tuple[int, int]) -> Any:
    x, y, width, height = annotation.bbox
    box = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    return as_rle(annotation.segmentation or box, size)
