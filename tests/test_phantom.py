"""Phantoms: the same bytes each time, valid DICOM, exact masks, tissue as in mammograms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops

from ftmtl.datasets.coco import InvalidDataset, read_coco
from ftmtl.datasets.phantom import make_patient, make_phantoms
from ftmtl.datasets.phantom_anatomy import HEIGHT_MM, View, render, tissue
from ftmtl.datasets.records import BENIGN, MALIGNANT, ImageRecord
from ftmtl.mammogram import read_mammogram
from ftmtl.rle import decode_rle

ROWS = 320
MM = HEIGHT_MM / ROWS
PATIENTS = 5  # one round of what women have


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> list[ImageRecord]:
    return make_phantoms(tmp_path_factory.mktemp("phantoms"), patients=PATIENTS, seed=7, rows=ROWS)


def mask_of(record: ImageRecord, number: int = 0) -> NDArray[np.bool_]:
    return decode_rle(record.annotations[number].segmentation)  # type: ignore[arg-type]


def test_the_same_seed_makes_the_same_bytes(tmp_path: Path, phantoms: list[ImageRecord]) -> None:
    again = make_phantoms(tmp_path / "again", patients=2, seed=7, rows=ROWS)
    assert [r.path.read_bytes() for r in again] == [r.path.read_bytes() for r in phantoms[:8]]
    [other, *_] = make_phantoms(tmp_path / "other", patients=1, seed=8, rows=ROWS)
    assert other.path.read_bytes() != phantoms[0].path.read_bytes()
    assert other.image_id != phantoms[0].image_id and other.patient_id != phantoms[0].patient_id


@pytest.mark.parametrize(("patients", "seed"), [(0, 0), (1, -1)])
def test_no_patients_or_a_seed_below_0_is_one_sentence(
    tmp_path: Path, patients: int, seed: int
) -> None:
    with pytest.raises(InvalidDataset, match=f"of {patients} patients and seed {seed}. Give 1"):
        make_phantoms(tmp_path / "out", patients=patients, seed=seed)
    assert not (tmp_path / "out").exists()


def test_the_set_is_whole(phantoms: list[ImageRecord]) -> None:
    folder = phantoms[0].path.parent.parent
    assert read_coco(folder / "coco.json", folder) == phantoms
    women = sorted({r.patient_id for r in phantoms})
    assert len(women) == PATIENTS and len(phantoms) == 4 * PATIENTS
    by_woman = [{a.category for r in phantoms if r.patient_id == w for a in r.masses}
                for w in women]
    assert sum(MALIGNANT in kinds for kinds in by_woman) == 2
    assert sum(kinds == {BENIGN} for kinds in by_woman) == 2
    assert by_woman.count(set()) == 1


def test_the_files_are_mammograms(phantoms: list[ImageRecord]) -> None:
    """As our reader sees them, and ITK's own DICOM library, GDCM, which Slicer uses too."""
    for record in phantoms[:4]:
        mammogram = read_mammogram(record.path)
        assert mammogram.image_id == record.image_id
        assert mammogram.patient_id == record.patient_id
        assert (mammogram.laterality, mammogram.view) == (record.laterality, record.view)
        assert mammogram.spacing_mm == (MM, MM) and mammogram.display is not None
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(record.path))
        image = reader.Execute()
        assert np.array_equal(SimpleITK.GetArrayFromImage(image)[0], mammogram.pixels)
        assert image.GetSpacing()[:2] == (MM, MM)
        tags = {"0008|0060": "MG", "0008|0068": "FOR PRESENTATION", "0028|0004": "MONOCHROME2",
                "0020|0062": record.laterality, "0018|5101": record.view}
        assert {tag: reader.GetMetaData(tag).strip() for tag in tags} == tags
        # The chest wall is where PatientOrientation says that it is: opposite to anterior.
        bright = mammogram.pixels > 300
        wall = bright[:, :5].any(), bright[:, -5:].any()
        assert wall == (record.laterality == "L", record.laterality == "R")
        assert reader.GetMetaData("0020|0020")[0] == ("A" if record.laterality == "L" else "P")


@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_a_mask_is_what_the_mass_changed(view: View) -> None:
    """The picture with and without the mass: a benign one alters its mask alone."""
    for patient in (1, 2, 3, 6):
        for breast in make_patient(7, patient):
            volume = tissue(breast)
            bare, _ = render(replace(breast, masses=()), view, volume, ROWS)
            for mass in breast.masses:
                image, [mask] = render(replace(breast, masses=(mass,)), view, volume, ROWS)
                changed = image != bare
                assert (image[mask] >= bare[mask]).all() and changed[mask].mean() > 0.97
                if mass.kind == "benign":
                    assert not (changed & ~mask).any()
                else:  # strands run on beyond the body
                    assert (changed & ~ndimage.binary_dilation(mask, iterations=2)).any()


def test_an_mlo_view_shows_the_pectoral_muscle_and_a_cc_view_does_not() -> None:
    """The picture with and without it: a bright wedge at the upper wall, narrower further down."""
    for breast in make_patient(7, 0):
        volume = tissue(breast)
        cc, bare_cc, mlo, bare = (render(changed, view, volume, ROWS)[0].astype(int)
                                  for view in ("CC", "MLO")
                                  for changed in (breast, replace(breast, muscle=-50)))
        assert np.array_equal(cc, bare_cc)
        muscle = mlo - bare > 200
        width = muscle.sum(axis=1) * MM
        assert muscle[: ROWS // 4, 0].all() and not muscle[ROWS * 7 // 8 :].any()
        assert width[ROWS // 16] > 1.3 * width[ROWS // 3] > 10
        assert mlo[muscle].mean() > 1.3 * bare[muscle].mean()


def test_benign_masses_are_smooth_and_malignant_ones_are_not(phantoms: list[ImageRecord]) -> None:
    solid = {BENIGN: [], MALIGNANT: []}  # type: dict[int, list[float]]
    for record in phantoms:
        for number, annotation in enumerate(record.masses):
            mask = ndimage.zoom(mask_of(record, number).astype(np.uint8), 2, order=0)
            solid[annotation.category].append(float(regionprops(mask)[0].solidity))
    assert min(solid[BENIGN]) > 0.93 > 0.90 > max(solid[MALIGNANT])


def test_both_views_show_a_mass_equally_deep(phantoms: list[ImageRecord]) -> None:
    pairs = [(cc, mlo) for cc, mlo in zip(phantoms[::2], phantoms[1::2], strict=True) if cc.masses]
    assert len(pairs) >= 4
    for cc, mlo in pairs:
        assert len(cc.masses) == len(mlo.masses)
        for number in range(len(cc.masses)):
            deep, radius = [], 0.0
            for record in (cc, mlo):
                mask = mask_of(record, number)
                column = ndimage.center_of_mass(mask)[1] + 0.5
                deep.append(column if record.laterality == "L" else record.width - column)
                radius = float(np.sqrt(mask.sum() / np.pi))
            assert abs(deep[0] - deep[1]) < 0.35 * radius


def test_the_power_spectrum_falls_as_in_mammograms(phantoms: list[ImageRecord]) -> None:
    """The exponent β of P(f) ~ 1/f^β inside normal breasts, by a windowed periodogram.

    Burgess et al. (2001) measured 2.8 on average over 213 mammograms, nearly all within 2.3…3.4.
    """
    side = 96
    window = np.hanning(side)[:, None] * np.hanning(side)
    y, x = np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side), indexing="ij")
    frequency = np.hypot(x, y) / MM  # per mm
    rings = np.digitize(frequency, np.geomspace(0.06, 0.5, 9))
    found = []
    for record in phantoms:
        if record.view != "CC" or record.masses:
            continue
        pixels = read_mammogram(record.path).pixels.astype(float)
        pixels = pixels if record.laterality == "L" else pixels[:, ::-1]
        part = pixels[ROWS // 2 - side // 2 : ROWS // 2 + side // 2, 8 : 8 + side]
        power = np.abs(np.fft.fft2((part - part.mean()) * window)) ** 2
        bands = [(np.log(frequency[rings == k].mean()), np.log(power[rings == k].mean()))
                 for k in range(1, 9)]
        found.append(-np.polyfit(*np.transpose(bands), 1)[0])
    assert len(found) >= 5
    assert 2.5 < np.mean(found) < 3.3 and min(found) > 2 and max(found) < 3.8, found
