"""Label files: our own, the same saved again by 3D Slicer, plain label maps, and broken ones.

The files in `slicer_files` were written by the real thing (PyPI's slicer-core 5.13.31053,
vtkMRMLSegmentationStorageNode), from the file that `write_label_file(…, reading())` makes:

    saved_again   opened and saved again: the document is gone, tags and masks are there
    edited        f1 deleted, f2 renamed to "malignant", f3 drawn anew, "Benign_2" added
    foreign       drawn without us: "benign" in two places, "malignant" over it, "Segment_3" empty;
                  two layers, cropped to columns 3–23 and rows 5–32
    empty         one empty segment: one voxel
"""

import gzip
import os
import re
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest

from ftmtl.atomic import atomic_write
from ftmtl.findings import Finding, Findings, ImageInfo, ModelInfo, Verdict, box_of, encode_rle
from ftmtl.label_file import UnreadableLabel, read_label_file, write_label_file
from ftmtl.measure import measure_mask

SLICER = Path(__file__).parent / "slicer_files"
IMAGE = ImageInfo(
    id="1.2.3",
    width=30,
    height=40,
    spacing_mm=(0.07, 0.07),
    laterality="L",
    view="CC",
    patient_key="0" * 16,
)


def area(rows, columns):
    """Mask of a rectangle."""
    mask = np.zeros((IMAGE.height, IMAGE.width), dtype=bool)
    mask[rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


MASKS = {"f1": area((5, 12), (3, 9)), "f2": area((20, 32), (13, 19)), "f3": area((8, 25), (5, 15))}


def drawn(name, label, mask, **fields):
    mm2, mm = measure_mask(mask, IMAGE.spacing_mm)
    return Finding(
        id=name,
        label=label,
        bbox=box_of(mask),
        segmentation=encode_rle(mask),
        area_mm2=mm2,
        diameter_mm=mm,
        **fields,
    )


def reading():
    """A model's mass, a person's, a rejected one that overlaps both, and a box without a mask."""
    findings = (
        drawn(
            "f1",
            "malignant",
            MASKS["f1"],
            scores={"background": 0.1, "benign": 0.1, "malignant": 0.8},
            malignancy=0.87,
            mask_source="model",
            source="model",
            status="proposed",
            comment='say "x" | \\ ä\nnew: line',
        ),
        drawn(
            "f2", "benign", MASKS["f2"], mask_source="annotated", source="annotator", status="added"
        ),
        drawn("f3", "benign", MASKS["f3"], mask_source="model", source="model", status="rejected"),
        Finding(id="f4", label="malignant", bbox=(1.5, 2, 3, 4), source="model", status="accepted"),
    )
    return Findings(
        image=IMAGE,
        model=ModelInfo(name="ft_mtl_net", version="3", sha256="a" * 64),
        findings=findings,
        verdict=Verdict.of(findings, how="monotone malignant-veto"),
    )


@pytest.fixture
def ours(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    write_label_file(path, reading())
    return path


def masks(findings):
    return {finding.id: finding.mask() for finding in findings.findings}


def saved_by_another(path, change, header_change=None):
    """Change the voxels of a file and save it with all its header, as pynrrd does."""
    voxels, header = nrrd.read(str(path))
    change(voxels)
    if header_change:
        header_change(header)
    nrrd.write(str(path), voxels, header)


def value_of(path, name):
    """Layer and value of the segment with an id."""
    header = nrrd.read_header(str(path))
    number = next(n for n in range(9) if header[f"Segment{n}_ID"] == name)
    return int(header[f"Segment{number}_Layer"]), int(header[f"Segment{number}_LabelValue"])


# --- our own file ---------------------------------------------------------------------------


def test_it_comes_back_as_it_went(ours):
    assert read_label_file(ours, image=IMAGE) == reading()
    voxels, header = nrrd.read(str(ours))
    assert voxels.shape == (2, 30, 40, 1) and header["kinds"][0] == "list"
    assert header["space"] == "left-posterior-superior"
    assert np.nanmax(np.abs(header["space directions"][1:] - np.diag([0.07, 0.07, 1]))) == 0
    for name, mask in MASKS.items():  # [column, row] in the file
        layer, value = value_of(ours, name)
        np.testing.assert_array_equal(value == voxels[layer, :, :, 0].T, mask)


def test_without_overlap_it_has_three_axes(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    findings = replace(reading(), findings=reading().findings[:2])
    write_label_file(path, findings)
    assert nrrd.read_header(str(path))["sizes"].tolist() == [30, 40, 1]
    assert read_label_file(path, image=IMAGE) == findings


def test_an_image_without_a_mass_is_a_label(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    image = replace(IMAGE, spacing_mm=None)
    verdict = Verdict.of([], how="monotone malignant-veto")
    findings = Findings(image=image, model=None, findings=(), verdict=verdict)
    write_label_file(path, findings)
    assert read_label_file(path, image=image) == findings


def test_many_findings_need_more_than_255_values(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    one = reading().findings[3]
    spots = [area((n // 30, n // 30 + 1), (n % 30, n % 30 + 1)) for n in range(300)]
    many = tuple(
        replace(one, id=f"f{n}", segmentation=encode_rle(spot), mask_source="model")
        for n, spot in enumerate(spots)
    )
    write_label_file(path, replace(reading(), findings=many))
    assert read_label_file(path, image=IMAGE).findings == many


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a"]


# --- changed by somebody else ---------------------------------------------------------------


def test_masks_are_truth_even_where_the_document_survived(ours):
    layer, value = value_of(ours, "f1")

    def paint(voxels):
        voxels[layer, 9:12, 5:7, 0] = value

    saved_by_another(ours, paint)
    read = read_label_file(ours, image=IMAGE)
    assert read.verdict.how != reading().verdict.how  # no longer the model's alone
    found = {finding.id: finding for finding in read.findings}
    expected = MASKS["f1"].copy()
    expected[5:7, 9:12] = True
    np.testing.assert_array_equal(found["f1"].mask(), expected)
    assert found["f1"].bbox == (3, 5, 9, 7)
    assert (found["f1"].status, found["f1"].mask_source) == ("edited", "annotated")
    assert found["f1"].area_mm2 == pytest.approx(expected.sum() * 0.07**2)
    assert found["f1"].malignancy == 0.87 and found["f1"].comment == reading().findings[0].comment
    assert [found[name] for name in ("f2", "f3", "f4")] == list(reading().findings[1:])


def test_an_emptied_segment_takes_its_finding_away(ours):
    places = [value_of(ours, name) for name in ("f1", "f2")]

    def erase(voxels):
        for layer, value in places:
            voxels[layer][voxels[layer] == value] = 0

    saved_by_another(ours, erase)
    read = read_label_file(ours, image=IMAGE)
    assert [(finding.id, finding.status) for finding in read.findings] == [
        ("f1", "rejected"),  # the model's: a hard negative
        ("f3", "rejected"),  # a person's, f2, is gone
        ("f4", "accepted"),
    ]
    assert read.verdict.malignancy == 1.0  # of f4


def test_a_mask_drawn_for_a_box(ours):
    layer, value = value_of(ours, "f4")

    def paint(voxels):
        voxels[layer, 24:27, 34:36, 0] = value

    saved_by_another(ours, paint)
    last = read_label_file(ours, image=IMAGE).findings[3]
    assert (last.bbox, last.mask_source, last.status) == ((24, 34, 3, 2), "annotated", "edited")


@pytest.mark.parametrize(
    ("name", "tag", "label"),
    [
        ("benign 1", None, "benign"),
        ("malignant 1", "benign", "benign"),
        ("Läsion", None, "malignant"),
    ],
)
def test_a_class_changed_in_name_or_tag(ours, name, tag, label):
    def rename(header):
        header["Segment0_Name"] = name.encode("ascii", "ignore").decode()
        if tag:
            header["Segment0_Tags"] = re.sub(
                "label:malignant", f"label:{tag}", header["Segment0_Tags"], count=1
            )

    saved_by_another(ours, lambda voxels: None, rename)
    first = read_label_file(ours, image=IMAGE).findings[0]
    assert first.label == label
    assert first.status == ("proposed" if label == "malignant" else "edited")
    assert first.mask_source == "model"


def test_an_assessment_goes_with_its_class(tmp_path):
    path, plain = tmp_path / "a.seg.nrrd", reading()
    assessed = replace(plain.findings[0], birads="5"), replace(plain.findings[1], birads="3")
    write_label_file(path, replace(plain, findings=(*assessed, *plain.findings[2:])))

    def rename(header):
        del header["ftmtl_findings"]  # by a program that keeps tags alone
        header["Segment0_Name"] = "benign 1"

    saved_by_another(path, lambda voxels: None, rename)
    first, second, *_ = read_label_file(path, image=IMAGE).findings
    assert (first.label, first.birads) == ("benign", None)
    assert (second.label, second.birads) == ("benign", "3")


def test_a_class_changed_in_the_document_alone(ours):
    text = ours.read_bytes()
    old = b'"findings":[{"id":"f1","label":"malignant"'
    assert text.count(old) == 1
    ours.write_bytes(text.replace(old, old.replace(b"malignant", b"benign")))
    assert read_label_file(ours, image=IMAGE).findings[0].label == "benign"


def test_saved_again_by_slicer():
    read = read_label_file(SLICER / "saved_again.seg.nrrd", image=IMAGE)
    assert b"ftmtl_findings" not in (SLICER / "saved_again.seg.nrrd").read_bytes()
    assert read.findings == reading().findings
    assert read.model == reading().model
    assert (read.verdict.malignancy, read.verdict.label) == (1.0, "malignant")


def test_edited_in_slicer():
    read = read_label_file(SLICER / "edited.seg.nrrd", image=IMAGE)
    f2, f3, f4, new = read.findings
    assert f2 == replace(reading().findings[1], label="malignant")
    assert (f3.id, f3.status, f3.bbox, f3.mask_source) == (
        "f3",
        "edited",
        (2, 30, 5, 4),
        "annotated",
    )
    assert f4 == reading().findings[3]
    assert (new.label, new.status, new.source) == ("benign", "added", "annotator")
    np.testing.assert_array_equal(new.mask(), area((20, 23), (20, 23)))


def test_drawn_in_slicer_without_us():
    """Cropped, overlapping, no tags of ours: each component is a finding."""
    read = read_label_file(SLICER / "foreign.seg.nrrd", image=IMAGE)
    assert nrrd.read_header(str(SLICER / "foreign.seg.nrrd"))["sizes"].tolist() == [2, 21, 28, 1]
    assert [finding.label for finding in read.findings] == ["benign", "benign", "malignant"]
    expected = [MASKS["f1"], area((30, 33), (20, 24)), MASKS["f3"]]
    for mask, finding in zip(expected, read.findings, strict=True):
        np.testing.assert_array_equal(finding.mask(), mask)
        assert (finding.source, finding.status) == ("annotator", "added")
        assert finding.mask_source == "annotated"


def spots(path, count):
    """What Slicer's Threshold leaves of a whole film: one segment of so many specks."""
    film = ImageInfo(id="1.2.3", width=2000, height=2500, spacing_mm=(0.07, 0.07))
    voxels = np.zeros((film.width, film.height, 1), np.uint8)
    for n in range(count):
        voxels[n % 40 * 49 : n % 40 * 49 + 3, n // 40 * 200 : n // 40 * 200 + 3] = 1
    nrrd.write(str(path), voxels, {"Segment0_ID": "s", "Segment0_Name": "malignant"})
    return film


def test_memory_does_not_grow_with_the_findings(tmp_path):
    film = spots(tmp_path / "a.seg.nrrd", 200)
    tracemalloc.start()
    try:
        read = read_label_file(tmp_path / "a.seg.nrrd", image=film)
        write_label_file(tmp_path / "b.seg.nrrd", read)
        again = read_label_file(tmp_path / "b.seg.nrrd", image=film)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(read.findings) == 200 and again == read
    assert {finding.bbox[2:] for finding in read.findings} == {(3, 3)}
    assert peak < 12 * film.width * film.height, "not a mask of the whole film for each"


def test_specks_are_refused(tmp_path):
    film = spots(tmp_path / "a.seg.nrrd", 201)
    with pytest.raises(UnreadableLabel, match=r"201 separate pieces.* Remove the specks"):
        read_label_file(tmp_path / "a.seg.nrrd", image=film)


def test_one_voxel_means_no_mask():
    assert read_label_file(SLICER / "empty.seg.nrrd", image=IMAGE).findings == ()


def test_an_extent_limits_its_segment(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    old = (SLICER / "foreign.seg.nrrd").read_bytes()
    text = re.sub(rb"Segment0_Extent:=.*", b"Segment0_Extent:=0 2 0 1 0 0", old)
    path.write_bytes(text)
    first = read_label_file(path, image=IMAGE).findings[0]
    np.testing.assert_array_equal(first.mask(), area((5, 7), (3, 6)))


def test_a_cropped_file_must_lie_inside_the_image(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    old = (SLICER / "foreign.seg.nrrd").read_bytes()
    path.write_bytes(old.replace(b"ExtentOffset:=3 5 0", b"ExtentOffset:=10 5 0"))
    with pytest.raises(UnreadableLabel, match="that of the image 30 × 40"):
        read_label_file(path, image=IMAGE)


def test_a_label_of_another_image_is_refused(ours):
    for path in (ours, SLICER / "saved_again.seg.nrrd"):
        with pytest.raises(UnreadableLabel, match=r"label of image 1\.2\.3, not of 4\.5\.6"):
            read_label_file(path, image=replace(IMAGE, id="4.5.6"))


def test_a_label_of_a_smaller_image_is_refused(tmp_path, ours):
    larger = replace(IMAGE, width=60, height=80)
    # It could be a crop; but Slicer writes the geometry of the image on which it was drawn.
    path = tmp_path / "untagged.seg.nrrd"
    path.write_bytes((SLICER / "saved_again.seg.nrrd").read_bytes().replace(b"ftmtl.", b"other."))
    read = read_label_file(path, image=IMAGE)  # f3 was rejected, f4 has no mask
    assert [finding.id for finding in read.findings] == ["f1", "f2"]
    for file in (ours, path):
        with pytest.raises(UnreadableLabel, match="30 × 40, that of the image 60 × 80"):
            read_label_file(file, image=larger)


def test_any_image_id_and_a_document_that_is_gone(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    image = replace(IMAGE, id="Klinik (Süd)__a|b:c\\d%20+.png", spacing_mm=None)
    findings = tuple(
        replace(finding, area_mm2=None, diameter_mm=None) for finding in reading().findings
    )
    write_label_file(path, replace(reading(), image=image, findings=findings))
    text = path.read_bytes()
    assert read_label_file(path, image=image).findings == findings
    path.write_bytes(re.sub(rb"ftmtl_findings:=.*\n", b"", text))
    assert read_label_file(path, image=image).findings == findings
    assert read_label_file(path, image=image).model == reading().model


def test_a_copied_segment_is_a_new_finding(ours):
    def copy(header):
        del header["ftmtl_findings"]
        for name in ("Name", "Tags", "Layer", "LabelValue", "Extent"):
            header[f"Segment4_{name}"] = header[f"Segment0_{name}"]
        header["Segment4_ID"] = "f1 copy"

    saved_by_another(ours, lambda voxels: None, copy)
    copied = read_label_file(ours, image=IMAGE).findings[-1]
    assert (copied.id, copied.label, copied.status) == ("f1-copy", "malignant", "added")
    assert copied.malignancy is None and copied.bbox == (3, 5, 6, 7)


def test_an_unknown_name_is_refused(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    old = (SLICER / "foreign.seg.nrrd").read_bytes()
    path.write_bytes(old.replace(b"Segment0_Name:=benign", b"Segment0_Name:=Tissue"))
    with pytest.raises(UnreadableLabel, match="'Tissue' is neither benign nor malignant"):
        read_label_file(path, image=IMAGE)


# --- label maps -----------------------------------------------------------------------------


def label_map():
    """Two components of 1, of which one hangs together by a corner, and one of 2."""
    voxels = np.zeros((IMAGE.height, IMAGE.width), dtype=np.uint8)
    voxels[2:4, 5:8] = 1
    voxels[4, 8] = 1
    voxels[20:25, 1:3] = 1
    voxels[30:33, 10:14] = 2
    return voxels


def save_map(path, voxels):
    """Save [row, column] as programs do: axes (column, row, slice)."""
    if path.name.endswith(".nrrd"):
        nrrd.write(str(path), voxels.T[..., None])
    else:
        nib.save(nib.Nifti1Image(voxels.T[..., None], np.diag([-0.07, -0.07, 1, 1])), path)
    return path


@pytest.mark.parametrize("name", ["a.nrrd", "a.nii.gz", "a.nii"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_label_map_by_values(tmp_path, name, kind):
    read = read_label_file(save_map(tmp_path / name, label_map().astype(kind)), image=IMAGE)
    assert [(finding.label, finding.bbox) for finding in read.findings] == [
        ("benign", (5, 2, 4, 3)),
        ("benign", (1, 20, 2, 5)),
        ("malignant", (10, 30, 4, 3)),
    ]
    assert {(f.source, f.status, f.mask_source) for f in read.findings} == {
        ("annotator", "added", "annotated")
    }
    total = sum(finding.mask() for finding in read.findings)
    np.testing.assert_array_equal(total, label_map() > 0)
    assert read.findings[0].area_mm2 == pytest.approx(7 * 0.07**2)


def test_label_map_by_names(tmp_path):
    path = save_map(tmp_path / "a.nrrd", label_map())
    info = [{"name": "Malignant_2", "idx": 1}, {"name": "background", "idx": 2}]
    read = read_label_file(path, image=IMAGE, label_info=info)
    assert [finding.label for finding in read.findings] == ["malignant", "malignant"]


def test_label_map_of_two_axes_and_without_a_mass(tmp_path):
    path = tmp_path / "a.nrrd"
    nrrd.write(str(path), label_map().T)
    assert len(read_label_file(path, image=IMAGE).findings) == 3
    nrrd.write(str(path), np.zeros((30, 40, 1), np.uint8))
    assert read_label_file(path, image=IMAGE).verdict.label == "no finding"
    nrrd.write(str(path), np.zeros((1, 1, 1), np.uint8))
    assert read_label_file(path, image=IMAGE).findings == ()


# --- what cannot be read --------------------------------------------------------------------


def write_bytes(content):
    return lambda path: path.write_bytes(content)


def write_nrrd(voxels, **header):
    return lambda path: nrrd.write(str(path), voxels, header)


ONE = np.ones((30, 40, 1), np.uint8)
SECRET = (
    b"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 30 40\nencoding: raw\ndata file: /etc/hosts\n\n"
)


@pytest.mark.parametrize(
    ("write", "info", "reason"),
    [
        (write_bytes(b""), None, "the file is empty"),
        (write_bytes(b"hello, world"), None, "neither NRRD nor NIfTI"),
        (write_bytes(b"NRRD0004\n"), None, "damaged or cut off"),
        (write_bytes(gzip.compress(b"hello")), None, "damaged or cut off"),
        (write_bytes(gzip.compress(bytes(9_000_000))), None, "more than one slice"),
        (write_bytes(SECRET), None, "voxels are in another file"),
        (write_nrrd(np.ones((30, 40, 5), np.uint8)), None, "volume of 30 × 40 × 5"),
        (write_nrrd(np.ones((40, 30, 1), np.uint8)), None, "size is 40 × 30, that of the image"),
        (write_nrrd(np.ones((15, 20, 1), np.uint8)), None, "size is 15 × 20, that of the image"),
        (write_nrrd(np.zeros((1, 1, 1), np.uint8) + 1), None, "size is 1 × 1"),
        (write_nrrd(ONE * 3), None, "nothing says what its value 3 means"),
        (write_nrrd(ONE), [{"name": "benign", "idx": 2}], "nothing says what its value 1 means"),
        (write_nrrd(ONE), [{"name": "liver", "idx": 1}], "'liver' is neither benign nor"),
        (write_nrrd(ONE), [{"label": "benign"}], "label_info is not a list"),
        (write_nrrd(ONE), ["benign"], "label_info is not a list"),
        (write_nrrd(ONE * 0.5), None, "not whole numbers"),
        (write_nrrd(ONE * np.nan), None, "not whole numbers"),
        (write_nrrd(ONE, Segmentation_MasterRepresentation="x"), None, "names no segment"),
        (write_nrrd(ONE, ftmtl_findings="{"), None, "is not JSON"),
        (write_nrrd(ONE, ftmtl_findings="{}"), None, "schema_version is missing"),
        (write_nrrd(ONE, Segment0_ID="a", Segment0_Layer="1"), None, "header is damaged"),
        (write_nrrd(ONE, **{f"Segment{n}_ID": "a" for n in range(1001)}), None, "has 1001 segm"),
        (write_nrrd(ONE, Segment0_ID="a", Segment0_Extent="0 1"), None, "header is damaged"),
        (lambda path: None, None, "cannot be opened"),
        (lambda path: path.mkdir(), None, "cannot be opened"),
    ],
)
def test_the_reason_and_the_file_are_named(tmp_path, write, info, reason):
    path = tmp_path / "a.nrrd"
    write(path)
    with pytest.raises(UnreadableLabel, match=reason) as error:
        read_label_file(path, image=IMAGE, label_info=info)
    assert str(error.value).startswith(f"{path}: ") and error.value.remedy.endswith(".")


@pytest.mark.parametrize("name", ["ours", "saved_again.seg.nrrd", "a.nrrd", "a.nii.gz", "a.nii"])
def test_damage_of_any_kind_ends_in_one_error(tmp_path, ours, name):
    """Cut off anywhere: never read. Bytes changed anywhere: read or refused, nothing else."""
    if name == "ours":
        whole = ours.read_bytes()
    elif name.startswith("saved"):
        whole = (SLICER / name).read_bytes()
    else:
        whole = save_map(tmp_path / name, label_map()).read_bytes()
    path = tmp_path / f"broken-{name}"
    random = np.random.default_rng(0)
    for length in {*range(0, len(whole), max(1, len(whole) // 100)), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(UnreadableLabel):
            read_label_file(path, image=IMAGE)
    for _ in range(200):
        broken = bytearray(whole)
        for place in random.integers(0, len(whole), size=random.integers(1, 4)):
            broken[place] = random.integers(256)
        path.write_bytes(broken)
        with suppress(UnreadableLabel):
            assert read_label_file(path, image=IMAGE).image == IMAGE
