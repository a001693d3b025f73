"""INbreast: 410 digital mammograms, outlines as OsiriX property lists (Moreira et al., 2012).

Source: the folder as distributed, with `INbreast.csv` or `INbreast.xls`, the DICOM files
(`20586908_6c613a14b80a8591_MG_R_CC_ANON.dcm`: image, patient, side, view) and `20586908.xml`.

- "Mass" is a mass. A spiculated region that touches an outlined mass is its surroundings; one that
  stands alone is a mass.
- A mass marked by a point, or smaller than 3 mm (the smallest measured mass of the data set has
  15 mm²), is a region to ignore: something is there, and how far it reaches is not known.
- The class is the image's BI-RADS: malignant from 4 on (the paper, 3.1).
"""

from __future__ import annotations

import plistlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from ftmtl.mammogram import MammogramHeader, read_header

from .coco import InvalidDataset
from .published import OVERHANG, Skipped, birads_class, find, missing, read_table, side, unique
from .records import Annotation, ImageRecord, Role

MASS = "mass"
SPICULATED = {"spiculated region", "espiculated region"}  # as the files spell it
OTHERS = {"calcification", "calcifications", "cluster", "asymmetry", "assymetry", "distortion",
          "point 1", "point 3", "unnamed"}
SMALLEST_MM = 3.0
SPACING_MM = 0.07  # of the data set's detector, where a header does not say
_NAME = re.compile(r"(\d+)_([0-9a-f]+)_MG_[LR]_(?:CC|MLO?|FB)_.*\.dcm", re.IGNORECASE)


def read_inbreast(folder: Path) -> tuple[list[ImageRecord], Skipped]:
    """The records of INbreast, and what was left out. Raises InvalidDataset."""
    folder = Path(folder)
    table = find(folder, "INbreast.csv", "INbreast.xls")
    rows = [row for row in read_table(table, ("file name", "laterality", "view", "bi-rads"))
            if row["file name"].isdigit()]  # below the images the table has sums
    unique([row["file name"] for row in rows], table, "image")
    dicom = {found[1]: (file, found[2]) for file in sorted(folder.rglob("*.dcm"))
             if (found := _NAME.fullmatch(file.name))}
    outlines = {file.stem: file for file in sorted(folder.rglob("*.xml"))}
    missing([r["file name"] for r in rows if r["file name"] not in dicom], folder, "images")
    skipped, records = Skipped(), []
    for name in sorted(dicom.keys() - {row["file name"] for row in rows}):
        skipped.add("image that is not in the table", dicom[name][0].name)
    for row in rows:
        name = row["file name"]
        file, patient = dicom[name]
        header = read_header(file)
        try:
            fields = birads_class(row["bi-rads"], f"{table}: image {name}")
            regions = _regions(outlines[name], name, header, fields, skipped) \
                if name in outlines else []
            records.append(ImageRecord(
                image_id=name, path=file, width=header.width, height=header.height,
                patient_id=patient, laterality=side(row["laterality"], f"{table}: image {name}"),
                view=row["view"], assessment=fields["assessment"], annotations=tuple(regions),
            ))
        except InvalidDataset as error:
            skipped.refuse(error)
    return records, skipped


def _regions(
    file: Path, image: str, header: MammogramHeader, fields: dict[str, Any], skipped: Skipped
) -> list[Annotation]:
    masses: list[Annotation] = []
    spiculated: list[Annotation] = []
    for n, roi in enumerate(_rois(file), start=1):
        where = f"{file}: ROI {n}"
        try:
            kind = str(roi["Name"]).strip()
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
    alone = [s for s in spiculated if not any(_touch(s, m) for m in masses)]
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


def _touch(a: Annotation, b: Annotation) -> bool:
    return all(a.bbox[i] < b.bbox[i] + b.bbox[i + 2] and b.bbox[i] < a.bbox[i] + a.bbox[i + 2]
               for i in (0, 1))
