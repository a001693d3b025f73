"""Data sets as their owners publish them: what is read, what is left out, what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest
from published_sets import (
    CBIS_SIZE,
    IN_HEIGHT,
    IN_WIDTH,
    breast,
    cbis_case,
    cbis_mask,
    cbis_table,
    cmmd,
    inbreast,
    mini_mias,
    octagon,
    roi,
    vindr,
    vindr_row,
    write_csv,
    write_dicom,
    write_rois,
)
from pycocotools.coco import COCO
from skimage.draw import polygon2mask

from ftmtl.cli import main
from ftmtl.datasets.cbis_ddsm import read_cbis_ddsm
from ftmtl.datasets.cmmd import read_cmmd
from ftmtl.datasets.coco import InvalidDataset, read_coco, write_coco
from ftmtl.datasets.inbreast import read_inbreast
from ftmtl.datasets.mini_mias import read_mini_mias
from ftmtl.datasets.published import on_film
from ftmtl.datasets.records import BENIGN, MALIGNANT, ImageRecord
from ftmtl.datasets.vindr_mammo import read_vindr_mammo
from ftmtl.rle import decode_rle
from ftmtl.training.samples import CanvasCache, TrainingSet


def written_and_read(records: list[ImageRecord], folder: Path) -> None:
    """Everything survives COCO, and every image can be trained on."""
    write_coco(records, folder / "coco.json", images=folder)
    assert read_coco(folder / "coco.json", folder) == records
    own = COCO(str(folder / "coco.json"))
    assert all((folder / i["file_name"]).is_file() and not Path(i["file_name"]).is_absolute()
               for i in own.dataset["images"])
    cache = CanvasCache(folder / "canvases", (160, 96))
    samples = TrainingSet(records, cache, augmentation=None, seed=0)
    for n, record in enumerate(records):
        assert len(samples[0, n, 0].boxes) == len(record.masses)


# INbreast


def test_inbreast(tmp_path: Path) -> None:
    inbreast(tmp_path, {100: "5", 101: "2", 102: "4a", 103: "1", 104: "0"})
    xml = tmp_path / "AllXML"
    mass, far = octagon(100, 150, 40), octagon(60, 330, 30)
    write_rois(xml / "100.xml", roi("Mass", mass), roi("Calcification", [(20, 20)]),
               roi("Spiculated Region", octagon(105, 150, 60)), roi("Espiculated Region", far))
    write_rois(xml / "101.xml", roi("Mass", octagon(90, 90, 25)), roi("Mass", [(50.0, 60.0)]),
               roi("Mass", octagon(150, 300, 4)), roi("Cluster", octagon(80, 200, 20)))
    write_rois(xml / "102.xml", roi("Mass", octagon(30, 200, 31)))
    write_rois(xml / "104.xml", roi("Mass", octagon(90, 90, 25)))
    records, skipped = read_inbreast(tmp_path)
    by_id = {r.image_id: r for r in records}
    assert list(by_id) == ["100", "101", "102", "103", "104"]
    assert [r.laterality for r in records] == ["L", "R", "L", "R", "L"]
    assert [r.view for r in records] == ["CC", "MLO", "CC", "MLO", "CC"]
    assert by_id["100"].patient_id == by_id["101"].patient_id == "000000000000aa00"
    assert len({r.patient_id for r in records}) == 3
    first, alone = by_id["100"].annotations
    assert (first.bbox, alone.bbox) == ((60, 110, 80, 80), (30, 300, 60, 60))
    assert first.category == MALIGNANT and first.assessment == "BI-RADS 5"
    assert first.segmentation == [pytest.approx(np.ravel(mass).tolist())]
    benign, point, small = by_id["101"].annotations
    assert benign.category == BENIGN and by_id["101"].masses == (benign,)
    assert (point.role, point.segmentation) == ("ignore", None)
    assert point.bbox == pytest.approx((50 - 1.5 / 0.07, 60 - 1.5 / 0.07, 3 / 0.07, 3 / 0.07))
    assert small.role == "ignore" and small.bbox == pytest.approx((146, 296, 8, 8))
    assert by_id["102"].masses[0].assessment == "BI-RADS 4a"
    assert by_id["102"].masses[0].category == MALIGNANT
    assert by_id["102"].masses[0].bbox == (0, 169, 61, 62)  # a pixel beyond the edge is cut off
    assert by_id["103"].annotations == () and by_id["103"].assessment == "BI-RADS 1"
    assert not by_id["104"].masses[0].class_known
    assert [r.malignant for r in records] == [True, False, True, False, None]
    assert skipped.lines() == [
        "1 × ROI “Calcification”, no mass (first: 100.xml, ROI 2)",
        "1 × spiculated region around an outlined mass (first: 100.xml, 100_3)",
        "1 × ROI “Mass” of a point or a line: kept as a region to ignore (first: 101.xml, ROI 2)",
        "1 × ROI “Mass” of less than 3 mm: kept as a region to ignore (first: 101.xml, ROI 3)",
        "1 × ROI “Cluster”, no mass (first: 101.xml, ROI 4)",
    ]
    written_and_read(records, tmp_path)
    # scikit-image fills the outline on its own grid of pixel centres.
    own = COCO(str(tmp_path / "coco.json"))
    drawn = own.annToMask(own.loadAnns(["100_1"])[0])
    filled = polygon2mask((IN_HEIGHT, IN_WIDTH), np.array(mass)[:, ::-1] - 0.5)
    assert (drawn != filled).sum() < 0.03 * filled.sum()


@pytest.mark.parametrize(
    ("birads", "category", "known"),
    [("1", 1, True), ("2", 1, True), ("3", 1, True), ("4", 2, True), ("4a", 2, True),
     ("4b", 2, True), ("4C", 2, True), ("5", 2, True), ("6", 2, True), ("0", 1, False),
     ("", 1, False)],
)
def test_inbreast_is_malignant_from_birads_4_on(
    tmp_path: Path, birads: str, category: int, known: bool
) -> None:
    inbreast(tmp_path, {100: birads}, xls=True)
    write_rois(tmp_path / "100.xml", roi("Mass", octagon(100, 150, 40)))
    [record], _ = read_inbreast(tmp_path)
    [mass] = record.masses
    assert (mass.category, mass.class_known) == (category, known)


@pytest.mark.parametrize(
    ("region", "named"),
    [
        (roi("Mass", octagon(250, 150, 40)), "ROI 1 (Mass): its point (290, 150) lies outside"),
        (roi("Nodule", octagon(100, 150, 40)), "ROI 1: unknown name 'Nodule'"),
        (roi("Mass", []), "ROI 1 (Mass): it has no points"),
        ({**roi("Mass", octagon(9, 9, 3)), "Point_px": ["(1, x)"]}, "ROI 1 (Mass): a point is not"),
        ({"Area": 1.0}, "ROI 1: has no Name or no Point_px"),
    ],
)
def test_inbreast_refuses_what_cannot_be(
    tmp_path: Path, region: dict[str, Any], named: str
) -> None:
    """Its image is left out: a mass that is not known must not become background."""
    inbreast(tmp_path, {100: "5", 101: "2"})
    file = write_rois(tmp_path / "AllXML" / "100.xml", region)
    records, skipped = read_inbreast(tmp_path)
    assert [r.image_id for r in records] == ["101"]
    [line] = skipped.lines()
    assert str(file) in line and named in line


def test_inbreast_whose_xml_is_damaged(tmp_path: Path) -> None:
    inbreast(tmp_path, {100: "5", 101: "VII", 102: "1"})
    (tmp_path / "100.xml").write_text("<plist><dict>")
    records, skipped = read_inbreast(tmp_path)
    assert [r.image_id for r in records] == ["102"]
    assert "100.xml: not a property list" in skipped.lines()[0]
    assert "image 101: unknown BI-RADS 'VII'" in skipped.lines()[1]


def cut_dicom(folder: Path) -> None:
    file = next(folder.rglob("100_*.dcm"))
    file.write_bytes(file.read_bytes()[:200])


def in_table(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "INbreast.csv"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda folder: (folder / "100.xml").unlink(), "100: BI-RADS 5, and 100.xml is missing"),
        (lambda folder: inbreast(folder, {100: "5", 101: "2"}, xls=True, masses=[100]),
         "100.xml outlines none"),
        (lambda folder: (inbreast(folder, {100: "3", 101: "2"}, xls=True, masses=[100]),
                         (folder / "100.xml").unlink()), "and no XML outlines none"),
        (cut_dicom, "it holds no image"),
        (in_table(";L;CC;", ";R;CC;"), "its row says side R, its file is 100_"),
        (in_table(";CC;", ";;"), "its row has no view"),
    ],
)
def test_inbreast_refuses_an_image_of_which_its_files_disagree(
    tmp_path: Path, change: Callable[[Path], object], named: str
) -> None:
    """Without them calcifications alone are right in a BI-RADS 5, and no XML in a BI-RADS 2."""
    inbreast(tmp_path, {100: "5", 101: "2"})
    write_rois(tmp_path / "100.xml", roi("Cluster", octagon(80, 200, 20)))
    write_rois(tmp_path / "102.xml")
    assert [r.annotations for r in read_inbreast(tmp_path)[0]] == [(), ()]
    change(tmp_path)
    records, skipped = read_inbreast(tmp_path)
    assert [r.image_id for r in records] == ["101"]
    assert named in skipped.lines()[-1]


@pytest.mark.parametrize("mark", [[(100, 150)], octagon(100, 150, 15)])
def test_a_mark_in_a_spiculated_region_does_not_delete_it(
    tmp_path: Path, mark: list[tuple[float, float]]
) -> None:
    inbreast(tmp_path, {100: "5"})
    write_rois(tmp_path / "100.xml", roi("Mass", mark),
               roi("Spiculated Region", octagon(100, 150, 60)))
    [record], _ = read_inbreast(tmp_path)
    assert [a.id for a in record.masses] == ["100_2"]


def test_a_spiculated_region_whose_box_alone_meets_a_mass_is_one_of_its_own(
    tmp_path: Path
) -> None:
    inbreast(tmp_path, {100: "5"})
    write_rois(tmp_path / "100.xml", roi("Mass", octagon(60, 100, 40)),
               roi("Spiculated Region", octagon(130, 170, 40)))  # 99 pixels from it
    [record], skipped = read_inbreast(tmp_path)
    assert [a.id for a in record.masses] == ["100_1", "100_2"] and not skipped.lines()


def test_inbreasts_thin_masses_and_what_stands_apart_from_them(tmp_path: Path) -> None:
    """A mass of 4.2 by 1 mm is larger than 3; three points in a line bound nothing."""
    inbreast(tmp_path, {100: "5"})
    write_rois(tmp_path / "100.xml", roi("Mass", [(50, 100), (110, 100), (110, 115), (50, 115)]),
               roi("Mass", [(150, 50), (160, 70), (170, 90)]),
               roi("Spiculated Region", octagon(80, 60, 25)))  # above the mass, beside no other
    [record], _ = read_inbreast(tmp_path)
    thin, line, spiculated = record.annotations
    assert [a.role for a in record.annotations] == ["mass", "ignore", "mass"]
    assert (thin.bbox, spiculated.bbox) == ((50, 100, 60, 15), (55, 35, 50, 50))
    least = 3 / 0.07
    assert line.segmentation is None
    assert line.bbox == pytest.approx((160 - least / 2, 70 - least / 2, least, least))


def test_inbreast_however_it_was_saved(tmp_path: Path) -> None:
    """Upper case, `100.0` of pandas, what macOS leaves; each left-over is said."""
    inbreast(tmp_path, {100: "5", 101: "2"})
    in_table(";100;", ";100.0;")(tmp_path)
    in_table(";101;", ";101.dcm;")(tmp_path)
    image = next(tmp_path.rglob("100_*.dcm"))
    image.rename(image.with_suffix(".DCM"))
    mass = roi("Mass", octagon(100, 150, 40))
    write_rois(tmp_path / "AllXML" / "100.XML", mass, roi("", [(20, 20)]))
    write_rois(tmp_path / "AllXML" / "._100.xml", mass)
    write_rois(tmp_path / "AllXML" / "999.xml", mass)
    write_rois(tmp_path / "PectoralMuscle" / "100.xml", roi("Pectoral Muscle", [(1, 1)]))
    [record], skipped = read_inbreast(tmp_path)
    assert len(record.masses) == 1 and record.image_id == "100"
    assert [line.partition(" (first: ")[::2] for line in skipped.lines()] == [
        ("1 × row whose file name is no number", "101.dcm)"),
        ("1 × outline of the pectoral muscle", "100.xml)"),
        ("1 × image that is not in the table", "101_000000000000aa00_MG_R_ML_ANON.dcm)"),
        ("1 × XML that is of no image in the table", "999.xml)"),
        ("1 × ROI “unnamed”, no mass", "100.XML, ROI 2)"),
    ]
    book = openpyxl.Workbook()
    book.active.append(["Laterality", "View", "File Name", "Bi-Rads"])
    book.active.append(["L", "CC", 100, 2])
    (tmp_path / "INbreast.csv").unlink()
    book.save(tmp_path / "inbreast.xlsx")
    assert read_inbreast(tmp_path)[0][0].assessment == "BI-RADS 2"


def test_inbreast_that_is_not_whole_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"no INbreast\.xls or .* or INbreast\.csv"):
        read_inbreast(tmp_path)
    with pytest.raises(InvalidDataset, match="no such folder"):
        read_inbreast(tmp_path / "elsewhere")
    inbreast(tmp_path, {100: "5", 101: "1", 102: "1"})
    with pytest.raises(InvalidDataset, match="holds no outlines"):
        read_inbreast(tmp_path)
    for folder in ("AllXML", "copy"):
        twice = write_rois(tmp_path / folder / "100.xml")
    with pytest.raises(InvalidDataset, match=r"AllXML/100\.xml and .*copy/100\.xml: both are"):
        read_inbreast(tmp_path)
    twice.unlink()
    other = write_dicom(tmp_path / "100_aa_MG_L_CC_ANON.dcm", np.zeros((20, 20), np.uint8))
    with pytest.raises(InvalidDataset, match=f"{other} and .*/100_0.*: both are the image 100"):
        read_inbreast(tmp_path)
    other.unlink()
    for number in (100, 101):
        next(tmp_path.rglob(f"{number}_*.dcm")).unlink()
    with pytest.raises(InvalidDataset, match="2 images of the table are missing, 100 first"):
        read_inbreast(tmp_path)
    table = tmp_path / "INbreast.csv"
    text = table.read_text()
    table.write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(InvalidDataset, match=r"INbreast\.csv: image 100 occurs twice"):
        read_inbreast(tmp_path)
    table.write_text(text.replace("Bi-Rads", "Score"))
    with pytest.raises(InvalidDataset, match="lacks the column bi-rads; it has patient id"):
        read_inbreast(tmp_path)
    table.write_bytes(text.replace("removed", "não").encode("latin-1"))
    with pytest.raises(InvalidDataset, match=r"not a table .* Save it as CSV in UTF-8, XLS or"):
        read_inbreast(tmp_path)


# CBIS-DDSM


def test_cbis_ddsm(tmp_path: Path) -> None:
    """Swapped files and masks of another size are the same masses; a woman is one."""
    larger = cbis_mask((CBIS_SIZE[0] * 2, CBIS_SIZE[1] * 2))
    rows = [
        *cbis_case(tmp_path, "P_00001", "CC", "MALIGNANT", "BENIGN"),
        *cbis_case(tmp_path, "P_00001", "MLO", "MALIGNANT", swapped=True),
        *cbis_case(tmp_path, "P_00002", "CC", "BENIGN_WITHOUT_CALLBACK", mask=larger),
    ]
    calcification = {**rows[0], "abnormality type": "calcification"}
    cbis_table(tmp_path, [*rows, calcification])
    cbis_table(tmp_path, cbis_case(tmp_path, "P_00003", "CC", "BENIGN", part="Test"), "test")
    everything, left_out = read_cbis_ddsm(tmp_path)
    assert list(left_out.reasons) == ["calcification, no mass"]
    assert [r.patient_id for r in everything] == ["P_00003", "P_00001", "P_00001", "P_00002"] \
        or [r.patient_id for r in everything] == ["P_00001", "P_00001", "P_00002", "P_00003"]
    assert {r.patient_id: r.split for r in everything} == {
        "P_00001": "training", "P_00002": "training", "P_00003": "test"}
    records, skipped = read_cbis_ddsm(tmp_path / "mass_case_description_train_set.csv")
    assert [r.image_id for r in records] == [
        "Mass-Training_P_00001_LEFT_CC", "Mass-Training_P_00001_LEFT_MLO",
        "Mass-Training_P_00002_LEFT_CC"]
    assert [(r.laterality, r.view) for r in records] == [("L", "CC"), ("L", "MLO"), ("L", "CC")]
    assert [[a.category for a in r.masses] for r in records] == [[2, 1], [2], [1]]
    assert records[2].masses[0].assessment == "BENIGN_WITHOUT_CALLBACK, BI-RADS 4"
    for record in records:
        for mass in record.masses:
            assert mass.bbox == (60, 200, 60, 50) and mass.mask_source == "annotated"
            assert isinstance(mass.segmentation, dict)
            found = decode_rle(mass.segmentation)  # type: ignore[arg-type]
            assert np.array_equal(found, cbis_mask() > 0)
    assert skipped.lines() == [
        f"1 × calcification, no mass (first: {calcification['image file path']})",
        "2 × folder of which no table tells (first: Mass-Test_P_00003_LEFT_CC)",
    ]
    written_and_read(records, tmp_path)


def test_cbis_ddsms_film_and_mask_are_the_largest_of_their_folders(tmp_path: Path) -> None:
    rows = cbis_case(tmp_path, "P_00001", "CC", "MALIGNANT")
    cbis_table(tmp_path, rows)
    film, case = (tmp_path / "CBIS-DDSM" / f"Mass-Training_P_00001_LEFT_CC{n}" for n in ("", "_1"))
    for n in (0, 9):  # before and after them
        write_dicom(film / f"{n}.dcm", breast(100, 60))
        write_dicom(case / f"{n}.dcm", cbis_mask((100, 60))[::-1].copy())
    [record], _ = read_cbis_ddsm(tmp_path)
    assert (record.width, record.height) == CBIS_SIZE[::-1]
    assert record.masses[0].bbox == (60, 200, 60, 50)


def test_a_mask_of_another_size_is_read_at_the_films_pixel_centres() -> None:
    mask = np.random.default_rng(0).random((7, 7)) < 0.5
    assert np.array_equal(on_film(mask, (3, 3), ""), mask[np.ix_([1, 3, 5], [1, 3, 5])])


def prefixed(folder: Path, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["image file path"] = "./" + row["image file path"]
        row["ROI mask file path"] = "CBIS-DDSM/" + row["ROI mask file path"]


def upper(folder: Path, rows: list[dict[str, Any]]) -> None:
    for file in list(folder.rglob("*.dcm")):
        file.rename(file.with_suffix(".DCM"))


def damaged_crop(folder: Path, rows: list[dict[str, Any]]) -> None:
    [crop] = folder.rglob("*_1/*/*/1-1.dcm")
    crop.write_bytes(b"no image")


def from_macos(folder: Path, rows: list[dict[str, Any]]) -> None:
    for file in list(folder.rglob("1-1.dcm")):
        file.with_name("._1-1.dcm").write_bytes(b"no image")


@pytest.mark.parametrize("change", [prefixed, upper, damaged_crop, from_macos])
def test_cbis_ddsm_however_it_was_saved(
    tmp_path: Path, change: Callable[[Path, list[dict[str, Any]]], None]
) -> None:
    rows = cbis_case(tmp_path, "P_00001", "CC", "BENIGN")
    change(tmp_path, rows)
    cbis_table(tmp_path, rows)
    [record], skipped = read_cbis_ddsm(tmp_path)
    assert len(record.masses) == 1 and skipped.lines() == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ([{"left or right breast": "RIGHT"}] * 2, "its row says R CC, its path LEFT CC"),
        ([{"image view": "MLO"}] * 2, "its row says L MLO, its path LEFT CC"),
        ([{}, {"image view": "MLO"}], "disagree on its image view: CC, MLO"),
        ([{}, {"left or right breast": "RIGHT"}], "disagree on its left or right breast: LEFT, R"),
        ([{}, {"patient_id": "P_00077"}], "disagree on its patient id: P_00001, P_00077"),
    ],
)
def test_cbis_ddsm_refuses_a_film_of_which_its_rows_disagree(
    tmp_path: Path, changes: list[dict[str, str]], named: str
) -> None:
    rows = cbis_case(tmp_path, "P_00001", "CC", "BENIGN", "MALIGNANT")
    changed = [{**row, **change} for row, change in zip(rows, changes, strict=True)]
    cbis_table(tmp_path, [*changed, *cbis_case(tmp_path, "P_00002", "CC", "BENIGN")])
    records, skipped = read_cbis_ddsm(tmp_path)
    assert [r.patient_id for r in records] == ["P_00002"]
    [line] = skipped.lines()
    assert "Mass-Training_P_00001_LEFT_CC: " in line and named in line


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mask": cbis_mask() * 0}, "its mask is empty"),
        ({"mask": cbis_mask((300, 500))}, "its mask of 500×300 pixels is not of the shape"),
        ({"mask": np.arange(150000, dtype=np.uint16).reshape(CBIS_SIZE)}, "files is a mask"),
        ({"pathology": "UNSURE"}, "unknown pathology 'UNSURE'"),
    ],
)
def test_cbis_ddsm_refuses_what_cannot_be(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    rows = [*cbis_case(tmp_path, "P_00001", "CC", change.get("pathology", "BENIGN"),
                       mask=change.get("mask")),
            *cbis_case(tmp_path, "P_00002", "CC", "BENIGN")]
    table = cbis_table(tmp_path, rows)
    records, skipped = read_cbis_ddsm(tmp_path)
    assert [r.patient_id for r in records] == ["P_00002"]
    [line] = skipped.lines()
    assert f"{table}: Mass-Training_P_00001_LEFT_CC_1" in line and named in line


def test_cbis_ddsm_that_is_not_whole_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"holds no mass_case_description_train_set\.csv"):
        read_cbis_ddsm(tmp_path)
    rows = cbis_case(tmp_path, "P_00001", "CC", "BENIGN")
    cbis_table(tmp_path, rows * 2)
    with pytest.raises(InvalidDataset, match="Mass-Training_P_00001_LEFT_CC_1 occurs twice"):
        read_cbis_ddsm(tmp_path)
    for part in ("test", "train"):
        table = cbis_table(tmp_path, rows, part)
    with pytest.raises(InvalidDataset, match=f"test_set.csv and {table}: both tell of Mass-Train"):
        read_cbis_ddsm(tmp_path)
    (tmp_path / "mass_case_description_test_set.csv").unlink()
    case = next(tmp_path.rglob("Mass-*_1"))
    other = shutil.copytree(case, tmp_path / "of another download" / case.name)
    with pytest.raises(InvalidDataset, match=f"{case} and {other}: both are the case {case.name}"):
        read_cbis_ddsm(tmp_path)
    shutil.rmtree(other)
    lost = {**rows[0], "image file path": "Mass-Training_P_9_LEFT_CC/1/2/000000.dcm",
            "ROI mask file path": "Mass-Training_P_9_LEFT_CC_1/1/2/000001.dcm"}
    cbis_table(tmp_path, [rows[0], lost])
    with pytest.raises(InvalidDataset, match="2 films and masks of the table are missing, Mass-"):
        read_cbis_ddsm(tmp_path)
    cbis_table(tmp_path, [{k: v for k, v in rows[0].items() if k != "pathology"}])
    with pytest.raises(InvalidDataset, match="lacks the column pathology"):
        read_cbis_ddsm(tmp_path)


# mini-MIAS


def test_mini_mias(tmp_path: Path) -> None:
    mini_mias(tmp_path, "mdb001 G CIRC B 535 425 197\n"
                        "mdb002 G CIRC M 522 280 69\n"
                        "mdb003 D NORM\n"
                        "mdb005 F CIRC B 477 133 30\n"
                        "mdb005 F CIRC B 500 168 26\n"
                        "mdb005 F CIRC B 500 168 26\n"
                        "mdb059 F CIRC B *NOTE 3*\n"
                        "mdb216 D CALC M *NOTE 3*\n"
                        "mdb218 G CALC B 519 629 8\n"
                        "mdb072 G ASYM M 266 517 28\n"
                        "mdb184 F SPIC M 352 1000 114\n")
    records, skipped = read_mini_mias(tmp_path)
    by_id = {r.image_id: r for r in records}
    # y counts from the bottom: 425 from there is 599 from the top.
    assert by_id["mdb001"].masses[0].bbox == (535 - 197, 599 - 197, 394, 394)
    assert [a.category for a in by_id["mdb002"].masses] == [MALIGNANT]
    assert by_id["mdb001"].patient_id == by_id["mdb002"].patient_id != by_id["mdb003"].patient_id
    assert (by_id["mdb001"].laterality, by_id["mdb002"].laterality) == ("R", "L")
    assert by_id["mdb003"].annotations == () and by_id["mdb003"].view == "MLO"
    assert len(by_id["mdb005"].masses) == 2
    # The circle at the upper edge is cut off there.
    assert by_id["mdb184"].masses[0].bbox == (238, 0, 228, 138)
    assert by_id["mdb184"].masses[0].segmentation is None
    assert by_id["mdb216"].annotations == by_id["mdb218"].annotations == ()
    assert "mdb059" not in by_id
    said = {name for name, record in by_id.items() if record.malignant}
    assert said == {"mdb002", "mdb216", "mdb072", "mdb184"}
    assert {r.malignant for r in records} == {True, False}
    lines = skipped.lines()
    assert lines[:-1] == [
        "1 × line that says again what another says (first: mdb005)",
        "1 × CALC, without a place (note 3) (first: mdb216_1)",
        "1 × CALC, no mass (first: mdb218_1)",
        "1 × ASYM, no mass (first: mdb072_1)",
    ]
    assert lines[-1].endswith("Info.txt: mdb059: a mass without a place (note 3)")
    written_and_read(records, tmp_path)
    [corner], _ = read_mini_mias(mini_mias(tmp_path, "mdb206 F CIRC M 1000 20 30\n"))
    assert corner.masses[0].bbox == (970, 974, 54, 50)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("mdb001 G CIRC B 535 425 0", "its circle has the radius 0"),
        ("mdb001 G CIRC B 1024 0 0.001", "its circle has the radius 0.001"),
        ("mdb001 G CIRC B 1535 425 20", "its centre (1535, 425) lies outside"),
        ("mdb001 G CIRC B 535 425", "has no x, y and radius"),
        ("mdb001 G CIRC B 535 top 20", "'top' is not a number"),
        ("mdb001 G LUMP B 535 425 20", "unknown abnormality 'LUMP'"),
        ("mdb001 G CIRC X 535 425 20", "unknown severity 'X'"),
        ("mdb001 G CALC X 535 425 20", "unknown severity 'X'"),
    ],
)
def test_mini_mias_refuses_what_cannot_be(tmp_path: Path, line: str, named: str) -> None:
    mini_mias(tmp_path, f"{line}\nmdb002 G NORM\n")
    records, skipped = read_mini_mias(tmp_path)
    assert [r.image_id for r in records] == ["mdb002"]
    [said] = skipped.lines()
    assert "Info.txt: mdb001: " in said and named in said


def test_mini_mias_of_another_size_or_not_in_the_table(tmp_path: Path) -> None:
    lines = "mdb001 G NORM\nmdb002 G NORM\nmdb003 G NORM\n"
    mini_mias(tmp_path, lines)
    (tmp_path / "Info.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    (tmp_path / "mdb002.pgm").write_bytes(b"P5\n512 512\n255\n" + bytes(512 * 512))
    shutil.copy(tmp_path / "mdb001.pgm", tmp_path / "mdb009.PGM")
    records, skipped = read_mini_mias(tmp_path)
    assert [r.image_id for r in records] == ["mdb001", "mdb003"]
    other, small = skipped.lines()
    assert other == "1 × film that is not in the table (first: mdb009.PGM)"
    assert "mdb002.pgm: it is of 512×512 pixels, and the places in Info.txt are of 1024×" in small


def test_mini_mias_that_is_not_whole_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"holds no Info\.txt"):
        read_mini_mias(tmp_path)
    mini_mias(tmp_path, "mdb001 G NORM\nmdb002 G NORM\n")
    (tmp_path / "mdb002.pgm").unlink()
    with pytest.raises(InvalidDataset, match="1 films of the table are missing, mdb002 first"):
        read_mini_mias(tmp_path)
    (tmp_path / "Info.txt").write_text("nothing\n")
    with pytest.raises(InvalidDataset, match="no line of it begins with a film"):
        read_mini_mias(tmp_path)


# VinDr-Mammo


def test_vindr_mammo(tmp_path: Path) -> None:
    both = "['Mass', 'Suspicious Calcification']"
    rows = [
        vindr_row("a", "['Mass']", "BI-RADS 3", (20.5, 30, 60.5, 90)),
        vindr_row("a", both, "BI-RADS 5", (100, 200, 140, 261.5)),
        vindr_row("a", "['Asymmetry']", "BI-RADS 4", (1, 2, 3, 4)),
        vindr_row("b", "['No Finding']", laterality="R", view_position="MLO",
                  breast_birads="BI-RADS 1"),
        vindr_row("c", "['Mass']", "BI-RADS 4", (-1.5, 0, 40, 401), study_id="study2"),
        vindr_row("d", "['Mass']", "BI-RADS 4", (-30, 300, 70, 340), study_id="study2",
                  split="test"),
    ]
    records, skipped = read_vindr_mammo(vindr(tmp_path, [*rows, rows[0]]))
    first, second, third, fourth = records
    assert [(a.bbox, a.category) for a in first.masses] == [
        ((20.5, 30, 40, 60), BENIGN), ((100, 200, 40, 61.5), MALIGNANT)]
    assert first.masses[1].assessment == "BI-RADS 5" and first.assessment == "BI-RADS 4"
    assert (second.laterality, second.view, second.annotations) == ("R", "MLO", ())
    assert third.masses[0].bbox == (0, 0, 40, 400)
    assert fourth.masses[0].bbox == (0, 300, 70, 40)
    assert [r.malignant for r in records] == [True, False, True, True]
    assert [r.split for r in records] == ["training", "training", "training", "test"]
    assert first.patient_id == second.patient_id != third.patient_id
    assert skipped.lines() == [
        "1 × line that says again what another says (first: a)",
        "1 × Asymmetry, no mass (first: a, finding 3)",
        "1 × part of a box, outside its image (first: "
        f"{tmp_path / 'finding_annotations.csv'}: image d, finding 1)",
    ]
    written_and_read(records, tmp_path)


def test_the_films_of_its_owners_split_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [vindr_row(name, "['No Finding']", split=split)
            for name, split in (("a", "training"), ("b", "test"), ("c", "training"))]
    vindr(tmp_path, rows)
    command = ["dataset", "vindr-mammo", str(tmp_path), "--out", str(tmp_path / "own.json")]
    for split, images in (("training", ["a", "c"]), ("test", ["b"])):
        assert main([*command, "--split", split]) == 0
        assert [r.image_id for r in read_coco(tmp_path / "own.json", tmp_path)] == images
    # It is kept in COCO, and so can be asked for there.
    assert main(["dataset", "coco", str(tmp_path / "own.json"), "--split", "training",
                 "--out", str(tmp_path / "none.json")]) == 2
    assert "no film is said to be of the training split" in capsys.readouterr().err
    assert not (tmp_path / "none.json").exists()


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (vindr_row("a", "['Mass']", "BI-RADS 4", (250, 30, 271, 90)), "finding 1: its box [250.0"),
        (vindr_row("a", "['Mass']", "BI-RADS 4", (20, 30, 20, 90)), "has no area"),
        (vindr_row("a", "['Mass']", "BI-RADS 4", (-1.9, 30, -0.1, 90)), "has no area in its image"),
        (vindr_row("a", "[['Mass']]", "BI-RADS 4", (20, 30, 60, 90)), "is no list of findings"),
        (vindr_row("a", "['No Finding']", width=0), "width: '0' is not a count of pixels"),
        (vindr_row("a", "['No Finding']", height=400.5), "height: '400.5' is not a count of"),
        (vindr_row("a", "['Mass']", "BI-RADS 4", (20, "", 30, 90)), "ymin: '' is not a number"),
        (vindr_row("a", "['Mass']", "BI-RADS 9", (20, 30, 60, 90)), "unknown BI-RADS 'BI-RADS 9'"),
        (vindr_row("a", "['Lump']", "BI-RADS 4", (20, 30, 60, 90)), "unknown finding 'Lump'"),
        (vindr_row("a", "Mass", "BI-RADS 4", (20, 30, 60, 90)), "'Mass' is no list of findings"),
        (vindr_row("a", "['No Finding']", laterality="U"), "unknown laterality 'U'"),
    ],
)
def test_vindr_mammo_refuses_what_cannot_be(
    tmp_path: Path, row: dict[str, Any], named: str
) -> None:
    records, skipped = read_vindr_mammo(
        vindr(tmp_path, [row, vindr_row("b", "['No Finding']")]))
    assert [r.image_id for r in records] == ["b"]
    [line] = skipped.lines()
    assert "finding_annotations.csv: image a" in line and named in line


@pytest.mark.parametrize(
    ("change", "named"),
    [({"laterality": "R"}, "laterality: L, R"), ({"height": 500}, "height: 400, 500"),
     ({"study_id": "study2"}, "study id: study1, study2")],
)
def test_vindr_mammo_refuses_an_image_of_which_its_rows_disagree(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    row = vindr_row("a", "['No Finding']")
    vindr(tmp_path, [row, vindr_row("b", "['No Finding']"), vindr_row("z", "['No Finding']")])
    write_csv(tmp_path / "finding_annotations.csv",
              [row, {**row, **change}, vindr_row("b", "['No Finding']")])
    records, skipped = read_vindr_mammo(tmp_path)
    assert [r.image_id for r in records] == ["b"]
    other, refused = skipped.lines()
    assert other == "1 × image that is not in the table (first: z.dicom)"
    assert refused.endswith(f"image a: its rows disagree on its {named}")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda file: file.write_bytes(b""), "it is empty"),
        (lambda file: write_dicom(file, breast(200, 130)),
         "it has 130×200 pixels, the data set says 260×400"),
        (lambda file: write_dicom(file, breast(400, 260), ImageLaterality="R"), "side L, "),
    ],
)
def test_vindr_mammo_refuses_an_image_whose_file_is_another(
    tmp_path: Path, change: Callable[[Path], object], named: str
) -> None:
    """Its boxes would lie elsewhere, or on the other breast."""
    vindr(tmp_path, [vindr_row(name, "['No Finding']") for name in "ab"])
    file = tmp_path / "images" / "study1" / "a.dicom"
    change(file)
    records, skipped = read_vindr_mammo(tmp_path)
    assert [r.image_id for r in records] == ["b"]
    [line] = skipped.lines()
    assert str(file) in line and named in line


# CMMD


def test_cmmd_says_what_a_breast_holds_and_not_where(tmp_path: Path) -> None:
    cmmd(tmp_path, [("D1-0001", "R", 44, 2, "calcification", "Benign", None),
                    ("D2-0002", "L", 51, 2, "both", "Malignant", "Luminal A"),
                    ("D2-0002", "R", 51, 2, "lump", "Malignant", "Luminal A"),
                    ("D3-0003", "R", 51, 2, "mass", "Malignant", "Luminal A"),
                    ("D4-0004", "L", 60, 2, "calcification", "Malignant", None)],
         [("D1-0001", "R"), ("D2-0002", "L"), ("D2-0002", "R"), ("D1-0001", "L"),
          ("D3-0003", "L"), ("D4-0004", "L")])
    records, skipped = read_cmmd(tmp_path)
    assert [(r.patient_id, r.laterality, r.view) for r in records] == [
        ("D1-0001", "R", "CC"), ("D1-0001", "R", "MLO"),
        ("D2-0002", "L", "CC"), ("D2-0002", "L", "MLO"),
        ("D4-0004", "L", "CC"), ("D4-0004", "L", "MLO")]
    assert [r.malignant for r in records[::2]] == [False, True, True]
    # Of a malignant calcification alone nobody knows that a mass would be.
    assert [r.annotations[0].class_known for r in records[::2]] == [True, True, False]
    assert [r.assessment for r in records[1:3]] == ["Benign, calcification", "Malignant, both"]
    for record in records:
        [region] = record.annotations
        assert region.role == "ignore" and region.bbox == (0, 0, 200, 300) and not record.masses
    assert records[2].annotations[0].category == MALIGNANT
    assert [line.split(" (first")[0] for line in skipped.lines()[:2]] == [
        "1 × breast of the table without an image",
        "6 × image of a breast of which the table says nothing"]
    assert "D2-0002 R: unknown abnormality 'lump'" in skipped.lines()[2]
    written_and_read(records, tmp_path)
    copy = shutil.copy(records[0].path, tmp_path / "copy.dcm")
    with pytest.raises(InvalidDataset, match=f"1-1.dcm and {copy}: both are the image 1"):
        read_cmmd(tmp_path)
    cmmd(tmp_path, [("D9-0001", "R", 44, 2, "mass", "Benign", None)], [])
    with pytest.raises(InvalidDataset, match="1 patients of the table are missing, D9-0001 first"):
        read_cmmd(tmp_path)


# All of them


@pytest.mark.parametrize(
    ("read", "make", "named"),
    [
        (read_inbreast, lambda folder: write_rois(inbreast(folder, {100: "5"}) / "9.xml"),
         "1 were refused. .*100.xml is missing"),
        (read_cbis_ddsm, lambda folder: cbis_table(folder, [
            {**row, "abnormality type": "calcification"}
            for row in cbis_case(folder, "P_00001", "CC", "BENIGN")]),
         "0 were refused. 1 × calcification"),
        (read_mini_mias, lambda folder: mini_mias(folder, "mdb001 F CIRC B *NOTE 3*\n"),
         "1 were refused. .*a mass without a place"),
        (read_vindr_mammo, lambda folder: vindr(folder, [vindr_row("a", "['Lump']")]),
         "1 were refused. .*unknown finding 'Lump'"),
        (read_cmmd, lambda folder: cmmd(folder, [], []), "0 were refused. Give the table as"),
    ],
)
def test_a_set_without_a_usable_image_is_one_error(
    tmp_path: Path, read: Callable[[Path], object], make: Callable[[Path], object], named: str
) -> None:
    make(tmp_path)
    with pytest.raises(InvalidDataset, match=f": no image is left, {named}"):
        read(tmp_path)


# The command line


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("inbreast", lambda folder: write_rois(
            inbreast(folder, {100: "5"}) / "100.xml", roi("Mass", octagon(100, 150, 40)),
            roi("Cluster", octagon(80, 200, 20)))),
        ("cbis-ddsm", lambda folder: cbis_table(folder, [
            *(rows := cbis_case(folder, "P_00001", "CC", "BENIGN")),
            {**rows[0], "abnormality type": "calcification"}])),
        ("mini-mias", lambda folder: mini_mias(
            folder, "mdb001 G CIRC B 535 425 197\nmdb218 G CALC B 519 629 8\n")),
        ("vindr-mammo", lambda folder: vindr(folder, [
            vindr_row("a", "['Mass']", "BI-RADS 3", (20, 30, 60, 90)),
            vindr_row("a", "['Asymmetry']", "BI-RADS 4", (1, 2, 3, 4))])),
    ],
)
def test_one_command_for_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, make: Callable[[Path], object]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    make(source)
    out = tmp_path / "coco.json"
    assert main(["dataset", name, str(source), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "1 masses" in said.out and "left out: 1 × " in said.err and ", no mass" in said.err
    [mass] = [a for r in read_coco(out, source) for a in r.masses]
    assert mass.category in (BENIGN, MALIGNANT)


def test_a_table_of_something_else_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "finding_annotations.csv", [{"a": 1, "b": 2}])
    assert main(["dataset", "vindr-mammo", str(tmp_path), "--out", str(tmp_path / "x.json")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ftmtl: ") and "lacks the columns study id, image id" in said
    assert said.count("\n") == 1 and not (tmp_path / "x.json").exists()
    assert main(["dataset", "cmmd", "--out", str(tmp_path / "x.json")]) == 2
