"""Phantoms: mammogram-like DICOM files of women who never lived, with exact masks.

For trying things out and for tests of learning from end to end. Four views a woman; a mass is in
both views of its breast, equally deep. Nothing measured on phantoms says how well real mammograms
are read. The same seed gives the same bytes, and woman n is the same however many are made.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian

from ftmtl.atomic import write_bytes
from ftmtl.rle import box_of, encode_rle

from .coco import InvalidDataset, write_coco
from .phantom_anatomy import (
    HEIGHT_MM,
    NIPPLE,
    Breast,
    Kind,
    Mass,
    View,
    in_muscle,
    outline,
    render,
    tissue,
)
from .records import BENIGN, MALIGNANT, Annotation, ImageRecord

SIDES = ("L", "R")
VIEWS: tuple[View, ...] = ("CC", "MLO")
# Of five women in a row two have a cancer, two a benign mass, one nothing.
HEALTH: tuple[Kind | None, ...] = ("malignant", "benign", "malignant", "benign", None)
SECOND_MASS = 0.25  # share of diseased women with a benign mass more
# Where rows and columns lead, PS3.3 C.7.6.1.1.1; a left breast has its chest wall at the left.
ORIENTATION = {
    ("L", "CC"): ["A", "R"], ("R", "CC"): ["P", "L"],
    ("L", "MLO"): ["A", "FR"], ("R", "MLO"): ["P", "FL"],
}  # fmt: skip
VIEW_CODES = {"CC": ("399162004", "cranio-caudal"), "MLO": ("399368009", "medio-lateral oblique")}


def make_phantoms(
    out: Path,
    *,
    patients: int = 20,
    seed: int = 0,
    rows: int = 640,
    on_file: Callable[[int, int, Path], None] = lambda done, total, path: None,
) -> list[ImageRecord]:
    """Write `patients`·4 DICOM files of [rows, 3/4 rows] pixels and `coco.json` into `out`.

    Gives their records. Files lie in `out`/images; those of the same name are written over.
    Raises InvalidDataset for less than one patient and for a seed below 0.
    """
    if patients < 1 or seed < 0:
        raise InvalidDataset(
            f"{out}: no phantoms of {patients} patients and seed {seed}. Give 1 patient or more, "
            "and a seed of 0 or more"
        )
    folder = Path(out) / "images"
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for patient in range(1, patients + 1):
        for side, breast in zip(SIDES, make_patient(seed, patient), strict=True):
            volume = tissue(breast)
            for view in VIEWS:
                pixels, masks = render(breast, view, volume, rows)
                if side == "R":
                    pixels, masks = pixels[:, ::-1], [mask[:, ::-1] for mask in masks]
                name = f"{patient:04d}_{side}_{view}"
                path = folder / f"{name}.dcm"
                dataset = _dataset(pixels, seed, patient, side, view)
                write_bytes(path, _bytes(dataset))
                annotations = tuple(
                    _annotation(f"{name}_{n}", mass, mask)
                    for n, (mass, mask) in enumerate(zip(breast.masses, masks, strict=True), 1)
                )
                records.append(ImageRecord(
                    image_id=str(dataset.SOPInstanceUID), path=path, width=pixels.shape[1],
                    height=rows, patient_id=str(dataset.PatientID), laterality=side, view=view,
                    annotations=annotations,
                ))
                on_file(len(records), 4 * patients, path)
    write_coco(records, Path(out) / "coco.json", images=Path(out))
    return records


def make_patient(seed: int, patient: int) -> tuple[Breast, Breast]:
    """The left and right breast of a woman: alike in size and density, unlike in tissue."""
    random = np.random.default_rng([seed, patient])
    depth, width, height = random.uniform((75, 62, 80), (115, 85, 100))
    density, muscle = random.beta(2, 2), random.uniform(40, 70)
    breasts = [
        Breast(
            depth=depth * random.uniform(0.96, 1.04), half_width=width, half_height=height,
            density=density, muscle=muscle, masses=(), seed=int(random.integers(2**31)),
        )
        for _ in SIDES
    ]
    health = HEALTH[patient % len(HEALTH)]
    kinds: list[Kind] = []
    if health is not None:
        kinds = [health, "benign"] if random.random() < SECOND_MASS else [health]
    for kind in kinds:
        side = int(random.integers(2))
        breasts[side] = _with_mass(breasts[side], kind, random)
    return breasts[0], breasts[1]


def _with_mass(breast: Breast, kind: Kind, random: np.random.Generator) -> Breast:
    """The breast with a mass more, where both views show all of it and it hides no other."""
    low, high = (5.0, 12.0) if kind == "benign" else (6.0, 14.0)
    while True:
        mass = Mass(
            kind=kind, centre=tuple(random.uniform((0.2, -0.75, -0.75), (0.85, 0.75, 0.75))),
            radius=random.uniform(low, high), seed=int(random.integers(2**31)),
            contrast=random.uniform(0.20, 0.34) if kind == "benign" else random.uniform(0.28, 0.45),
        )
        if all(_has_room(breast, mass, view) for view in VIEWS):
            return Breast(**{**vars(breast), "masses": (*breast.masses, mass)})


def _has_room(breast: Breast, mass: Mass, view: View) -> bool:
    deep, up = breast.place(mass.centre, view)
    angle = np.linspace(0, 2 * np.pi, 16, dtype=np.float32)
    reach = 1.5 * mass.radius
    z, v = deep + reach * np.cos(angle), up + reach * np.sin(angle)
    top = NIPPLE[view] * HEIGHT_MM
    fits = outline(breast, view, z, v).all() and z.min() > 0 and top - HEIGHT_MM < v.min()
    others = (breast.place(other.centre, view) for other in breast.masses)
    return bool(
        fits and v.max() < top and in_muscle(breast, view, z, v).max() < 0
        and all(np.hypot(deep - z2, up - v2) > 40 for z2, v2 in others)
    )


def _annotation(identity: str, mass: Mass, mask: NDArray[np.bool_]) -> Annotation:
    return Annotation(
        id=identity, bbox=box_of(mask), category=BENIGN if mass.kind == "benign" else MALIGNANT,
        mask_source="annotated", segmentation=dict(encode_rle(mask)),
    )


def _dataset(
    pixels: NDArray[np.uint16], seed: int, patient: int, side: str, view: View
) -> Dataset:
    """A Digital Mammography X-Ray Image, FOR PRESENTATION (PS3.3 A.27), anonymous and undated."""

    def uid(*of: object) -> str:
        words = ["ftmtl phantom", str(seed), *map(str, of)]
        return str(pydicom.uid.generate_uid(entropy_srcs=words))

    rows, columns = pixels.shape
    dataset = Dataset()
    dataset.SOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    dataset.SOPInstanceUID = uid(patient, side, view, rows)
    dataset.StudyInstanceUID = uid(patient)
    dataset.SeriesInstanceUID = uid(patient, side, view)
    dataset.FrameOfReferenceUID = uid(patient, side, view, "frame")
    dataset.PatientName = f"Phantom^{patient:04d}"
    dataset.PatientID = f"PHANTOM-{seed}-{patient:04d}"
    dataset.PatientBirthDate, dataset.PatientSex = "", "F"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20200101", "120000", "1"
    dataset.ContentDate, dataset.ContentTime = "20200101", "120000"
    dataset.AccessionNumber, dataset.ReferringPhysicianName = "", ""
    dataset.StudyDescription = "Phantom, not a patient"
    dataset.SeriesDescription = f"{side} {view}"
    dataset.SeriesNumber = 1 + 2 * SIDES.index(side) + VIEWS.index(view)
    dataset.InstanceNumber = 1
    dataset.Manufacturer, dataset.ManufacturerModelName = "FT-MTL-Net", "phantom"
    dataset.Modality, dataset.PresentationIntentType = "MG", "FOR PRESENTATION"
    dataset.ImageType = ["DERIVED", "PRIMARY", ""]
    dataset.BodyPartExamined, dataset.PositionerType = "BREAST", "MAMMOGRAPHIC"
    dataset.Laterality = dataset.ImageLaterality = side
    dataset.ViewPosition, dataset.PatientOrientation = view, ORIENTATION[side, view]
    dataset.AnatomicRegionSequence = [_code("76752008", "Breast")]
    dataset.ViewCodeSequence = [_code(*VIEW_CODES[view])]
    dataset.ViewCodeSequence[0].ViewModifierCodeSequence = []
    dataset.AcquisitionContextSequence = []
    dataset.DetectorType, dataset.OrganExposed = "DIRECT", "BREAST"
    dataset.BreastImplantPresent, dataset.PartialView = "NO", "NO"
    dataset.ImagerPixelSpacing = dataset.PixelSpacing = [HEIGHT_MM / rows, HEIGHT_MM / rows]
    dataset.BurnedInAnnotation, dataset.LossyImageCompression = "NO", "00"
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LOG", 1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.WindowCenter, dataset.WindowWidth = "2000", "3200"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = np.ascontiguousarray(pixels, dtype="<u2").tobytes()
    return dataset


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SCT", meaning
    return code


def _bytes(dataset: Dataset) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, write_like_original=False)
    return stream.getvalue()
