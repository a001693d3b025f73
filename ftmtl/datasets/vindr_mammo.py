"""VinDr-Mammo: 20,000 digital mammograms with boxes (Nguyen et al., Scientific Data 10:277, 2023).

Source: the folder with `finding_annotations.csv` and `images/STUDY/IMAGE.dicom`. A row is one box
of one or more findings, or an image without any ("No Finding"). Boxes among whose findings is a
mass are kept, with the BI-RADS of the finding; there are no outlines. A study is a patient.
"""

from __future__ import annotations

import ast
from pathlib import Path

from ftmtl.mammogram import UnreadableMammogram, read_header

from .coco import InvalidDataset
from .film import check_size
from .published import (
    Skipped,
    agreed,
    birads_class,
    boxed,
    by_id,
    files_below,
    find,
    missing,
    number,
    once,
    read_table,
    said_malignant,
    side,
    usable,
)
from .records import Annotation, ImageRecord

CORNERS = ("xmin", "ymin", "xmax", "ymax")
COLUMNS = ("study id", "image id", "laterality", "view position", "height", "width",
           "breast birads", "finding categories", "finding birads", "split", *CORNERS)
FINDINGS = {
    "Mass", "Suspicious Calcification", "Architectural Distortion", "Asymmetry",
    "Focal Asymmetry", "Global Asymmetry", "Suspicious Lymph Node", "Skin Thickening",
    "Skin Retraction", "Nipple Retraction", "No Finding",
}


def read_vindr_mammo(folder: Path) -> tuple[list[ImageRecord], Skipped]:
    """The records of VinDr-Mammo, and what was left out. Raises InvalidDataset."""
    folder = Path(folder)
    table = find(folder, "finding_annotations.csv")
    images: dict[str, list[dict[str, str]]] = {}
    for row in read_table(table, COLUMNS):
        images.setdefault(row["image id"], []).append(row)
    found = files_below(table.parent / "images", ".dicom", ".dcm")
    files = by_id(((file.stem, file) for file in found), "image")
    missing([name for name in images if name not in files], table.parent, "images")
    skipped, records = Skipped(), []
    for name in sorted(files.keys() - images.keys()):
        skipped.add("image that is not in the table", files[name].name)
    for name, rows in images.items():
        rows = once(rows, name, skipped)
        try:
            records.append(_image(name, rows, files[name], f"{table}: image {name}", skipped))
        except (InvalidDataset, UnreadableMammogram) as error:
            skipped.refuse(error)
    return usable(records, skipped, table)


def _image(
    name: str, rows: list[dict[str, str]], file: Path, where: str, skipped: Skipped
) -> ImageRecord:
    agreed(rows, ("study id", "laterality", "width", "height", "split"), where)
    first = rows[0]
    width, height = (_pixels(first[key], f"{where}: {key}") for key in ("width", "height"))
    masses = []
    for n, row in enumerate(rows, start=1):
        here = f"{where}, finding {n}"
        kinds = _kinds(row["finding categories"], here)
        if "Mass" in kinds:
            box = boxed([number(row[key], f"{here}: {key}") for key in CORNERS],
                        (width, height), here, skipped)
            masses.append(Annotation(id=f"{name}_{n}", bbox=box,
                                     **birads_class(row["finding birads"], here)))
        elif kinds != ["No Finding"]:
            skipped.add(f"{', '.join(kinds)}, no mass", f"{name}, finding {n}")
    of_breast = birads_class(first["breast birads"], where)
    record = ImageRecord(
        image_id=name, path=file, width=width, height=height, patient_id=first["study id"],
        laterality=side(first["laterality"], where), view=first["view position"],
        assessment=of_breast["assessment"], malignant=said_malignant(of_breast),
        split=first["split"], annotations=tuple(masses),
    )
    header = read_header(file)
    check_size(record, (header.height, header.width))
    if header.laterality not in (None, record.laterality):
        raise InvalidDataset(
            f"{where}: its row says side {record.laterality}, {file} says {header.laterality}"
        )
    return record


def _pixels(text: str, where: str) -> int:
    count = number(text, where)
    if count < 1 or not count.is_integer():
        raise InvalidDataset(f"{where}: {text!r} is not a count of pixels")
    return int(count)


def _kinds(text: str, where: str) -> list[str]:
    """The findings of a box; the table holds them as a Python list."""
    try:
        kinds = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        kinds = None
    if not isinstance(kinds, list) or not kinds or not all(isinstance(k, str) for k in kinds):
        raise InvalidDataset(f"{where}: {text!r:.80} is no list of findings")
    if unknown := [kind for kind in kinds if kind not in FINDINGS]:
        raise InvalidDataset(f"{where}: unknown finding {unknown[0]!r}")
    return kinds
