"""Small data sets in the formats of INbreast, CBIS-DDSM, mini-MIAS, VinDr-Mammo and CMMD.

Made up from the public descriptions of the formats; no image or annotation of theirs is in them.
"""

from __future__ import annotations

import csv
import plistlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pydicom
import xlwt
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

Pixels = NDArray[Any]


def write_dicom(file: Path, pixels: Pixels, **header: Any) -> Path:
    """A grey DICOM image of 8 or 16 bits."""
    file.parent.mkdir(parents=True, exist_ok=True)
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2"
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(file)])
    dataset.Modality, dataset.PresentationIntentType = "MG", "FOR PRESENTATION"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    bits = 8 * pixels.dtype.itemsize
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    dataset.PixelData = pixels.tobytes()
    for name, value in header.items():
        setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    pydicom.dcmwrite(file, dataset, write_like_original=False)
    return file


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return file


def breast(height: int, width: int, dtype: Any = np.uint16) -> Pixels:
    pixels = np.zeros((height, width), dtype)
    pixels[10 : height - 10, : width * 2 // 3] = 90
    return pixels


# INbreast

IN_WIDTH, IN_HEIGHT = 260, 400


def roi(name: str, points: Sequence[tuple[float, float]], n: int = 0) -> dict[str, Any]:
    """A region as OsiriX writes it."""
    return {
        "Area": 1.5, "Center": "(1.0, 2.0, 0.0)", "Dev": 1.0, "IndexInImage": n, "Max": 9.0,
        "Mean": 5.0, "Min": 1.0, "Name": name, "NumberOfPoints": len(points),
        "Point_mm": [f"({x * 0.07:f}, {y * 0.07:f}, 0.000000)" for x, y in points],
        "Point_px": [f"({x:f}, {y:f})" for x, y in points], "Total": 1.0,
        "Type": 19 if len(points) == 1 else 15,
    }


def write_rois(file: Path, *rois: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = {"ImageIndex": 0, "NumberOfROIs": len(rois), "ROIs": list(rois)}
    file.write_bytes(plistlib.dumps({"Images": [image]}))
    return file


def octagon(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    angles = np.arange(8) * np.pi / 4
    return [(x + radius * float(np.cos(a)), y + radius * float(np.sin(a))) for a in angles]


def inbreast(
    folder: Path, birads: Mapping[int, str], *, xls: bool = False, masses: Sequence[int] = ()
) -> Path:
    """Images 100, 101 … of the women aa00, aa01 (two each) with their BI-RADS.

    The XLS alone says which hold `masses`.
    """
    rows = []
    for number, value in birads.items():
        side, view = "LR"[number % 2], ("CC", "MLO")[number % 2]
        woman = f"{0xAA00 + (number - 100) // 2:016x}"
        write_dicom(folder / "AllDICOMs" / f"{number}_{woman}_MG_{side}_{view[:2]}_ANON.dcm",
                    breast(IN_HEIGHT, IN_WIDTH), ImagerPixelSpacing=[0.07, 0.07],
                    PatientID="removed")
        rows.append({"Patient ID": "removed", "Patient age": "removed", "Laterality": side,
                     "View": view, "Acquisition date": 201001, "File Name": number, "ACR": 2,
                     "Bi-Rads": value, **({"Mass ": "X" * (number in masses)} if xls else {})})
    if not xls:
        write_csv(folder / "INbreast.csv", rows, ";")
        return folder
    book = xlwt.Workbook()
    sheet = book.add_sheet("INbreast")
    for n, cells in enumerate([list(rows[0]), *(list(r.values()) for r in rows), ["", "sum", 115]]):
        for column, cell in enumerate(cells):
            whole = isinstance(cell, str) and cell.isdigit()
            sheet.write(n, column, int(cell) if whole else cell)
    book.save(str(folder / "INbreast.xls"))
    return folder


# CBIS-DDSM

CBIS_SIZE = 500, 300  # height, width of a film


def cbis_mask(size: tuple[int, int] = CBIS_SIZE) -> Pixels:
    """A mask whose mass covers the same share of any film: rows 0.4…0.5, columns 0.2…0.4."""
    mask = np.zeros(size, np.uint8)
    mask[round(0.4 * size[0]) : round(0.5 * size[0]),
         round(0.2 * size[1]) : round(0.4 * size[1])] = 255
    return mask


def cbis_crop() -> Pixels:
    return np.random.default_rng(0).integers(20, 200, (60, 70)).astype(np.uint16)


def cbis_case(
    folder: Path, woman: str, view: str, *pathologies: str, mask: Pixels | None = None,
    swapped: bool = False, part: str = "Training",
) -> list[dict[str, Any]]:
    """The DICOM files of a film with its masses, and their rows of the table."""
    film = f"Mass-{part}_{woman}_LEFT_{view}"
    write_dicom(folder / "CBIS-DDSM" / film / "1.3.6.1" / "1.3.6.2" / "1-1.dcm",
                breast(*CBIS_SIZE), PatientID=film, PatientOrientation=view)
    rows = []
    for number, pathology in enumerate(pathologies, start=1):
        case = f"{film}_{number}"
        place = folder / "CBIS-DDSM" / case / "1.3.6.3" / "1.3.6.4"
        crop_name, mask_name = ("1-2.dcm", "1-1.dcm") if swapped else ("1-1.dcm", "1-2.dcm")
        kinds = ("ROI mask images", "cropped images")
        write_dicom(place / mask_name, cbis_mask() if mask is None else mask, PatientID=case,
                    SeriesDescription=kinds[swapped])
        write_dicom(place / crop_name, cbis_crop(), PatientID=case,
                    SeriesDescription=kinds[not swapped])
        uids = "1.3.6.3/1.3.6.4"
        rows.append({
            "patient_id": woman, "breast_density": 2, "left or right breast": "LEFT",
            "image view": view, "abnormality id": number, "abnormality type": "mass",
            "mass shape": "OVAL", "mass margins": "CIRCUMSCRIBED", "assessment": 4,
            "pathology": pathology, "subtlety": 4,
            "image file path": f"{film}/1.3.6.1/1.3.6.2/000000.dcm",
            "cropped image file path": f"{case}/{uids}/000000.dcm",
            "ROI mask file path": f"{case}/{uids}/000001.dcm\n",
        })
    return rows


def cbis_table(folder: Path, rows: Sequence[Mapping[str, Any]], part: str = "train") -> Path:
    return write_csv(folder / f"mass_case_description_{part}_set.csv", rows)


# mini-MIAS


def mini_mias(folder: Path, lines: str) -> Path:
    """`Info.txt` with those lines and a film for each."""
    text = "INFORMATION:\n\n1st column: MIAS database reference number.\n\n" + lines
    (folder / "Info.txt").write_text(text)
    for name in {line.split()[0] for line in lines.splitlines() if line.startswith("mdb")}:
        pixels = breast(1024, 1024, np.uint8)
        (folder / f"{name}.pgm").write_bytes(b"P5\n1024 1024\n255\n" + pixels.tobytes())
    return folder


# VinDr-Mammo


def vindr_row(image: str, categories: str, birads: str = "", box: Any = ("",) * 4, **more: Any
              ) -> dict[str, Any]:
    return {
        "study_id": "study1", "series_id": "series1", "image_id": image, "laterality": "L",
        "view_position": "CC", "height": 400, "width": 260, "breast_birads": "BI-RADS 4",
        "breast_density": "DENSITY C", "finding_categories": categories,
        "finding_birads": birads, **dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)),
        "split": "training", **more,
    }


def vindr(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    for row in rows:
        write_dicom(folder / "images" / row["study_id"] / f"{row['image_id']}.dicom",
                    breast(400, 260))
    write_csv(folder / "finding_annotations.csv", rows)
    return folder


# CMMD


def cmmd(folder: Path, rows: Sequence[Sequence[Any]], images: Sequence[tuple[str, str]]) -> Path:
    """Rows of ID1, LeftRight, Age, number, abnormality, classification, subtype; two views each."""
    book = openpyxl.Workbook()
    book.active.append(["ID1", "LeftRight", "Age", "number", "abnormality", "classification",
                        "subtype"])
    for row in rows:
        book.active.append(list(row))
    book.save(folder / "CMMD_clinicaldata_revision.xlsx")
    for patient, side in images:
        for n, code in enumerate(("399162004", "399368009"), start=1):
            view = Dataset()
            view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = code, "SCT", "view"
            write_dicom(folder / "CMMD" / patient / "07-18-2010" / f"70244{side}" / f"1-{n}.dcm",
                        breast(300, 200, np.uint8), PatientID=patient, ImageLaterality=side,
                        ViewCodeSequence=[view])
    return folder
