"""CMMD: 5,202 digital mammograms with biopsied lesions, told by breast (Cui et al., TCIA, 2021).

Source: the folder with `CMMD_clinicaldata_revision.xlsx` (or `.csv`) and the DICOM files below it;
whose they are and of which side stands in their headers.

It says of a breast what was in it, calcification, mass or both, and what the biopsy said, but not
where. So there are no boxes, and no image is free of findings: each carries one region to ignore as
large as itself, with the class of the breast. Such an image teaches neither a mass nor background;
detection cannot be scored on it. What the breast holds is in its `assessment`. Where that is a
malignant calcification alone, no mass is malignant, and the region's class is unknown.
"""

from __future__ import annotations

from pathlib import Path

from ftmtl.mammogram import MammogramHeader, UnreadableMammogram, read_header

from .coco import InvalidDataset
from .published import (
    Skipped,
    by_id,
    files_below,
    find,
    missing,
    read_table,
    side,
    unique,
    usable,
)
from .records import CATEGORY_OF, MALIGNANT, Annotation, ImageRecord

COLUMNS = ("id1", "leftright", "abnormality", "classification")
ABNORMALITIES = {"mass", "calcification", "both"}


def read_cmmd(folder: Path) -> tuple[list[ImageRecord], Skipped]:
    """The records of CMMD, and what was left out. Raises InvalidDataset."""
    folder = Path(folder)
    table = find(folder, "CMMD_clinicaldata_revision.xlsx", "CMMD_clinicaldata_revision.csv")
    rows = read_table(table, COLUMNS)
    unique([f"{row['id1']} {row['leftright']}" for row in rows], table, "breast")
    skipped = Skipped()
    images: dict[tuple[str | None, str | None], list[MammogramHeader]] = {}
    for file in files_below(folder, ".dcm"):
        try:
            header = read_header(file)
            images.setdefault((header.patient_id, header.laterality), []).append(header)
        except UnreadableMammogram as error:
            skipped.refuse(error)
    women = {patient for patient, _ in images}
    missing([row["id1"] for row in rows if row["id1"] not in women], folder, "patients")
    records: list[ImageRecord] = []
    for row in rows:
        where = f"{table}: {row['id1']} {row['leftright']}"
        try:
            breast = row["id1"], side(row["leftright"], where)
            if row["classification"].lower() not in CATEGORY_OF:
                raise InvalidDataset(f"{where}: unknown class {row['classification']!r}")
            if row["abnormality"].lower() not in ABNORMALITIES:
                raise InvalidDataset(f"{where}: unknown abnormality {row['abnormality']!r}")
            headers = images.pop(breast, [])
            if not headers:
                skipped.add("breast of the table without an image", " ".join(breast))
            records += [_record(header, row) for header in headers]
        except InvalidDataset as error:
            skipped.refuse(error)
    for (patient, laterality), headers in images.items():
        for header in headers:
            skipped.add("image of a breast of which the table says nothing",
                        f"{patient} {laterality}, {header.path}")
    by_id(((str(record.image_id), record.path) for record in records), "image")
    return usable(records, skipped, table)


def _record(header: MammogramHeader, row: dict[str, str]) -> ImageRecord:
    assessment = f"{row['classification']}, {row['abnormality']}"
    category = CATEGORY_OF[row["classification"].lower()]
    malignant = category == MALIGNANT
    somewhere = Annotation(
        id=f"{header.image_id}_breast", role="ignore",
        bbox=(0.0, 0.0, float(header.width), float(header.height)),
        category=category, assessment=assessment,
        class_known=not (malignant and row["abnormality"].lower() == "calcification"),
    )
    return ImageRecord(
        image_id=header.image_id, path=header.path, width=header.width, height=header.height,
        patient_id=row["id1"], laterality=header.laterality, view=header.view,
        assessment=assessment, malignant=malignant, annotations=(somewhere,),
    )
