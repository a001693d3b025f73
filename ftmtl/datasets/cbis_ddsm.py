"""CBIS-DDSM: digitised films with masks (Lee et al., Scientific Data 4:170177, 2017).

Source: a folder with TCIA's `mass_case_description_train_set.csv` and/or `…_test_set.csv` and the
DICOM files below it, or one of the two tables. Every film, crop and mask is a "patient" of its own
there (`Mass-Training_P_00001_LEFT_CC`, and with `_1` for mask and crop of its first mass); the
woman is P_00001. What is a mask is told by its content: in many cases the table, the series
description or the file name says the other way round. File names differ between downloads
(`000000.dcm`, `1-1.dcm`) and are not looked at. Malignant is what the pathology says.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ftmtl.mammogram import UnreadableMammogram, read_header, read_mammogram

from .coco import InvalidDataset
from .published import (
    Skipped,
    agreed,
    by_id,
    files_below,
    hidden,
    masked,
    missing,
    on_film,
    read_table,
    side,
    unique,
    usable,
)
from .records import BENIGN, MALIGNANT, Annotation, ImageRecord

COLUMNS = ("patient id", "left or right breast", "image view", "abnormality id",
           "abnormality type", "assessment", "pathology", "image file path", "roi mask file path")
SPLITS = {"_train_set": "training", "_test_set": "test"}  # of the tables' names
PATHOLOGY = {"BENIGN": BENIGN, "BENIGN_WITHOUT_CALLBACK": BENIGN, "MALIGNANT": MALIGNANT}


def read_cbis_ddsm(source: Path) -> tuple[list[ImageRecord], Skipped]:
    """The records of the films with masses, and what was left out. Raises InvalidDataset."""
    source = Path(source)
    tables = [source] if source.is_file() else sorted(
        source.glob("mass_case_description_*_set.csv"))
    folder = source.parent if source.is_file() else source
    if not tables:
        raise InvalidDataset(
            f"{source}: holds no mass_case_description_train_set.csv. Put TCIA's table there"
        )
    skipped = Skipped()
    films: dict[str, tuple[Path, list[dict[str, str]]]] = {}
    for table in tables:
        for film, rows in _films(table, skipped).items():
            if film in films:
                raise InvalidDataset(
                    f"{films[film][0]} and {table}: both tell of {film}. Remove it from one of them"
                )
            films[film] = table, rows
    cases = by_id(((path.name, path) for path in sorted(folder.rglob("Mass-*"))
                   if path.is_dir() and not hidden(path, folder)), "case")
    named = [*films, *(_case(row["roi mask file path"]) for _, rows in films.values()
                       for row in rows)]
    missing([name for name in named if name not in cases], folder, "films and masks")
    for name in sorted(cases.keys() - set(named)):
        skipped.add("folder of which no table tells", name)
    records = []
    for film, (table, rows) in films.items():
        try:
            records.append(_film(table, film, rows, cases))
        except InvalidDataset as error:
            skipped.refuse(error)
    return usable(records, skipped, source)


def _films(table: Path, skipped: Skipped) -> dict[str, list[dict[str, str]]]:
    """The rows of each film with a mass."""
    films: dict[str, list[dict[str, str]]] = {}
    for row in read_table(table, COLUMNS):
        if row["abnormality type"].lower() != "mass":
            skipped.add(f"{row['abnormality type'] or 'nameless'}, no mass", row["image file path"])
            continue
        films.setdefault(_case(row["image file path"]), []).append(row)
    rows = [row for own in films.values() for row in own]
    unique([_case(row["roi mask file path"]) for row in rows], table, "abnormality")
    return films


def _case(path: str) -> str:
    """The folder of a path of the table that names the "patient": the first, but for a prefix."""
    parts = path.replace("\\", "/").split("/")
    return next((part for part in parts if part.startswith("Mass-")), parts[0])


def _film(
    table: Path, film: str, rows: list[dict[str, str]], cases: dict[str, Path]
) -> ImageRecord:
    where = f"{table}: {film}"
    agreed(rows, ("patient id", "left or right breast", "image view"), where)
    laterality = side(rows[0]["left or right breast"], where)
    view = rows[0]["image view"].upper()
    named = re.search("_(LEFT|RIGHT)_(CC|MLO)", film)
    if named and (named[1][0], named[2]) != (laterality, view):
        raise InvalidDataset(
            f"{where}: its row says {laterality} {view}, its path {named[1]} {named[2]}"
        )
    headers = []
    for file in files_below(cases[film], ".dcm"):
        try:
            headers.append(read_header(file))
        except UnreadableMammogram as error:
            raise InvalidDataset(f"{where}: {error}") from error
    if not headers:
        raise InvalidDataset(f"{where}: there is no DICOM file in {cases[film]}")
    header = max(headers, key=lambda h: h.width * h.height)
    annotations = tuple(
        _mass(table, row, cases, (header.height, header.width)) for row in rows
    )
    return ImageRecord(
        image_id=film, path=header.path, width=header.width, height=header.height,
        patient_id=rows[0]["patient id"], view=view, laterality=laterality,
        split=next((own for name, own in SPLITS.items() if name in table.name), None),
        annotations=annotations,
    )


def _mass(
    table: Path, row: dict[str, str], cases: dict[str, Path], size: tuple[int, int]
) -> Annotation:
    name, pathology = _case(row["roi mask file path"]), row["pathology"].upper()
    where = f"{table}: {name}"
    if pathology not in PATHOLOGY:
        raise InvalidDataset(f"{where}: unknown pathology {row['pathology']!r}")
    mask = on_film(_mask_among(files_below(cases[name], ".dcm"), where), size, where)
    return masked(name, mask, where, category=PATHOLOGY[pathology],
                  assessment=f"{pathology}, BI-RADS {row['assessment']}")


def _mask_among(files: list[Path], where: str) -> NDArray[np.bool_]:
    """The largest picture of two values; a crop of the film has many, and may be unreadable."""
    masks: list[NDArray[np.bool_]] = []
    unread = ""
    for file in files:
        try:
            pixels = read_mammogram(file).pixels
        except UnreadableMammogram as error:
            unread = unread or f": {error}"
            continue
        low, high = pixels.min(), pixels.max()
        if ((pixels == low) | (pixels == high)).all():
            masks.append((pixels == high) & (high > 0))
    if not masks:
        raise InvalidDataset(f"{where}: none of its {len(files)} DICOM files is a mask{unread}")
    return max(masks, key=lambda mask: mask.size)
