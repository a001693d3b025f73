"""The open case on real MRML: Slicer's own reader, nodes, slice view, mouse and editor."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import slicer
import vtk
from MammoReviewLib.findings import Finding, Findings, ImageInfo, verdict_of, with_mask
from MammoReviewLib.geometry import pixel_to_ras
from MammoReviewLib.scene import Scene
from MammoReviewLib.scene_image import UnreadableImage, pixels_of
from MammoReviewLib.scene_label_files import SlicerLabelFiles
from MammoReviewLib.scene_segments import mask_of
from MammoReviewLib.unpacking import unpack
from panel_scene import events_pass, scene_on
from slicer_qt.core import SlicerCore

from ftmtl.findings import Findings as ServerFindings
from ftmtl.label_file import read_label_file, write_label_file
from ftmtl.mammogram import read_mammogram

WIDTH, HEIGHT = 480, 640


@pytest.fixture(scope="module")
def core() -> Iterator[SlicerCore]:
    core = SlicerCore()
    yield core
    core.close()


@pytest.fixture
def scene(core: SlicerCore) -> Iterator[Scene]:
    with scene_on(core) as scene:
        yield scene


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A breast-like half disc at the left edge, brighter blob inside, as a DICOM mammogram."""
    return write_dicom(tmp_path_factory.mktemp("phantom") / "phantom.dcm")


def write_dicom(file: Path, **tags: Any) -> Path:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels = np.zeros((HEIGHT, WIDTH), np.uint16)
    breast = (columns / 300) ** 2 + ((rows - 320) / 260) ** 2 < 1
    pixels[breast] = 1200 + 2 * columns[breast]
    pixels[(columns - 150) ** 2 + (rows - 300) ** 2 < 900] = 3000
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2"
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.Modality, dataset.Rows, dataset.Columns = "MG", HEIGHT, WIDTH
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.ImageLaterality, dataset.ViewPosition = "L", "CC"
    dataset.ImagerPixelSpacing = [0.07, 0.07]
    for name, value in tags.items():
        setattr(dataset, name, value)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = 4095 - pixels
    dataset.PixelData = pixels.tobytes()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    dataset.save_as(file, write_like_original=False)
    return file


IMAGE = ImageInfo("1.2.3.4", WIDTH, HEIGHT, (0.07, 0.07), "L", "CC")


def finding(name: str, x: int, y: int, side: int, label: str = "malignant", **more: Any) -> Finding:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + side, x : x + side] = True
    mask[y, x] = False  # no box: a mask has a shape
    plain = Finding(
        name, label, (float(x), float(y), float(side), float(side)), "model", "proposed",
        {"background": 0.1, "benign": 0.2, "malignant": 0.7}, 0.83, **more,
    )  # fmt: skip
    return with_mask(plain, mask, "model", IMAGE)


def without_mask(one: Finding) -> Finding:
    return with_mask(one, None, "none", IMAGE)


def document(*findings: Finding, image: ImageInfo = IMAGE) -> Findings:
    model = {"name": "ft_mtl_net", "version": "starter", "sha256": "0" * 64}
    return Findings(image, findings, verdict_of(findings), model)


def nodes(core: SlicerCore) -> set[str]:
    return {core.scene.GetNthNode(n).GetID() for n in range(core.scene.GetNumberOfNodes())}


def on_screen(core: SlicerCore, x: float, y: float) -> tuple[int, int]:
    return core.view.xy(pixel_to_ras([[x, y]], IMAGE.spacing_mm)[0])


# --- the image -------------------------------------------------------------------------------


def test_a_real_mammogram_lies_as_the_file_has_it_and_fills_the_view(
    core: SlicerCore, scene: Scene, samples: Path, tmp_path: Path
) -> None:
    file = shutil.copy(samples / "P_00820_L_CC.dcm", tmp_path / "film.dcm")
    stored = read_mammogram(file).pixels
    assert pydicom.dcmread(file).file_meta.TransferSyntaxUID == pydicom.uid.RLELossless
    unpack(file)
    unpacked = pydicom.dcmread(file)
    assert unpacked.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    np.testing.assert_array_equal(unpacked.pixel_array, stored)
    image = ImageInfo("real", stored.shape[1], stored.shape[0], None, "L", "CC")
    scene.open(file, document(image=image))
    np.testing.assert_array_equal(pixels_of(scene.volume), stored)
    drawn = core.view.render()[:, :, 0].astype(float)
    lit = drawn > 40
    assert lit[:, : drawn.shape[1] // 2].mean() > 2 * lit[:, drawn.shape[1] // 2 :].mean()
    rows, columns = np.flatnonzero(lit.mean(1) > 0.05), np.flatnonzero(lit.mean(0) > 0.05)
    assert max(np.ptp(rows) / drawn.shape[0], np.ptp(columns) / drawn.shape[1]) > 0.75


def test_what_cannot_be_unpacked_stays_as_it_is(samples: Path, tmp_path: Path) -> None:
    packed = (samples / "P_00820_L_CC.dcm").read_bytes()
    plain = write_dicom(tmp_path / "plain.dcm").read_bytes()
    for content in (packed[:200_000], packed[:900], plain, b"", b"no image at all"):
        file = tmp_path / "film"
        file.write_bytes(content)
        unpack(file)
        assert file.read_bytes() == content


def test_monochrome1_and_its_window_look_like_monochrome2(
    core: SlicerCore, scene: Scene, tmp_path: Path, phantom: Path
) -> None:
    windowed = {"WindowWidth": [2000, 900], "WindowCenterWidthExplanation": ["NORMAL", "HARDER"]}
    plain = write_dicom(tmp_path / "2.dcm", WindowCenter=[1500, 1900], **windowed)
    turned = write_dicom(
        tmp_path / "1.dcm",
        PhotometricInterpretation="MONOCHROME1",
        WindowCenter=[4095 - 1500, 4095 - 1900],
        **windowed,
    )
    shown = []
    for file in (plain, turned):
        scene.open(file, document())
        assert [window.name for window in scene.windows] == ["Normal", "Harder", "Breast"]
        shown.append(core.view.render())
        scene.set_window(1)
        shown.append(core.view.render())
    np.testing.assert_array_equal(shown[0], shown[2])
    np.testing.assert_array_equal(shown[1], shown[3])
    assert (shown[0] != shown[1]).any()
    x, y = on_screen(core, 150, 300)
    assert shown[0][core.view.size[1] - 1 - y, x, 0] == 255, "the mass is bright"


def test_a_window_that_is_no_number_is_none(core: SlicerCore, scene: Scene, tmp_path: Path) -> None:
    file = write_dicom(tmp_path / "film.dcm", WindowCenter="1200", WindowWidth="800")
    scene.open(file, document())
    assert len(scene.windows) == 2
    file.write_bytes(file.read_bytes().replace(b"1200", b"20,0"))
    scene.open(file, document())
    assert [window.name for window in scene.windows] == ["Breast"]


def test_the_ruler_says_what_it_measures(core: SlicerCore, scene: Scene, phantom: Path) -> None:
    scene.open(phantom, document())
    said = []
    for spacing in ((0.07, 0.07), None):
        scene.open(phantom, document(image=dataclasses.replace(IMAGE, spacing_mm=spacing)))
        ruler = core.scene.GetFirstNodeByName("MammoReview ruler")
        said.append(ruler.GetNthControlPointLabel(1))
        a, b = (np.array(core.view.xy(ruler.GetNthControlPointPosition(n))) for n in (0, 1))
        length = float(said[-1].split()[0])
        fov = core.view.node.GetFieldOfView()[0]
        assert abs(np.linalg.norm(b - a) * fov / core.view.size[0] - length) < 0.02 * length
    assert said[0].endswith("mm at detector")
    assert said[1].endswith("pixels, not calibrated")
    assert core.view.node.GetOrientationMarkerType() == core.view.node.OrientationMarkerTypeNone


def test_closing_leaves_the_scene_and_view_of_others_as_they_were(
    core: SlicerCore, scene: Scene, phantom: Path
) -> None:
    volume, theirs = slicer.vtkMRMLScalarVolumeNode(), slicer.vtkMRMLMarkupsROINode()
    for node in (volume, theirs):
        core.scene.AddNode(node)
    theirs.SetCenter(1, 2, 3)
    theirs.SetSize(4, 5, 6)
    composite = core.view.logic.GetSliceCompositeNode()
    composite.SetBackgroundVolumeID(volume.GetID())
    core.view.node.SetOrientationToSagittal()
    core.view.node.SetRulerType(core.view.node.RulerTypeThick)
    before, field = nodes(core), core.view.node.GetFieldOfView()
    scene.open(phantom, document(finding("F1", 100, 250, 80)))
    scene.show((finding("F1", 100, 250, 80),), "F1")
    scene.place_box()
    assert len(nodes(core)) > len(before)
    assert not core.frame.shown, "nothing but the slice"
    scene.close()
    assert core.frame.shown
    assert nodes(core) == before
    assert composite.GetBackgroundVolumeID() == volume.GetID()
    assert core.view.node.GetOrientation() == "Sagittal"
    assert core.view.node.GetRulerType() == core.view.node.RulerTypeThick
    assert core.view.node.GetFieldOfView() == pytest.approx(field)
    assert (tuple(theirs.GetCenter()), tuple(theirs.GetSize())) == ((1, 2, 3), (4, 5, 6))
    for node in (volume, theirs):
        core.scene.RemoveNode(node)


def test_an_image_that_is_another_or_none_is_refused(scene: Scene, tmp_path: Path) -> None:
    file = write_dicom(tmp_path / "other.dcm")
    with pytest.raises(UnreadableImage, match="480 × 640"):
        scene.open(file, document(image=dataclasses.replace(IMAGE, width=481)))
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"no image at all")
    with pytest.raises(UnreadableImage, match="cannot read"):
        scene.open(broken, document())


# --- boxes and masks -------------------------------------------------------------------------


def test_a_box_lies_where_its_pixels_are(core: SlicerCore, scene: Scene, phantom: Path) -> None:
    scene.open(phantom, document())
    scene.show((without_mask(finding("F1", 100, 250, 100)),), None)
    drawn = core.view.render().astype(int)
    orange = (drawn[:, :, 0] - drawn[:, :, 2] > 120) & (drawn[:, :, 1] < 140)
    for x, y in ((100, 300), (200, 300), (150, 250), (150, 350)):  # the middles of its sides
        column, up = on_screen(core, x, y)
        row = core.view.size[1] - 1 - up
        assert orange[row - 3 : row + 4, column - 3 : column + 4].any(), (x, y)
    column, up = on_screen(core, 150, 300)
    assert not orange[core.view.size[1] - 1 - up, column]


def test_dragging_a_corner_with_the_mouse_moves_the_box(
    core: SlicerCore, scene: Scene, phantom: Path
) -> None:
    dragged: list[Any] = []
    scene.box_dragged.connect(lambda name, box: dragged.append((name, box)))
    scene.open(phantom, document())
    scene.show((finding("F1", 100, 250, 100), finding("F2", 20, 400, 60)), "F1")
    core.view.render()
    core.view.drag(on_screen(core, 100, 250), on_screen(core, 60, 220))
    ((name, box),) = dragged
    assert name == "F1"
    assert box == pytest.approx((60, 220, 140, 130), abs=2)
    roi = core.scene.GetFirstNodeByName("MammoReview selected")
    assert roi.GetSize()[2] == 1 and roi.GetCenter()[2] == 0
    core.view.drag(on_screen(core, 20, 400), on_screen(core, 40, 420))
    assert len(dragged) == 1, "a box that is not selected stays"


def test_a_click_selects_the_smallest_box_under_it(
    core: SlicerCore, scene: Scene, phantom: Path
) -> None:
    clicked: list[str | None] = []
    scene.clicked.connect(clicked.append)
    scene.open(phantom, document())
    scene.show((finding("F1", 100, 250, 120), finding("F2", 120, 270, 30)), None)
    for x, y in ((135, 285), (210, 360), (400, 100)):
        core.view.click(*on_screen(core, x, y))
    assert clicked == ["F2", "F1", None]


def test_two_clicks_place_a_flat_box(core: SlicerCore, scene: Scene, phantom: Path) -> None:
    placed: list[Any] = []
    scene.box_placed.connect(placed.append)
    scene.open(phantom, document())
    before = nodes(core)
    scene.place_box()
    core.view.click(*on_screen(core, 120, 260))
    core.view.click(*on_screen(core, 180, 330))
    events_pass(scene)
    (box,) = placed
    assert box == pytest.approx((120, 260, 60, 70), abs=2)
    assert nodes(core) == before


def test_one_click_and_a_moving_mouse_are_no_box_and_a_right_click_gives_up(
    core: SlicerCore, scene: Scene, phantom: Path
) -> None:
    placed: list[Any] = []
    scene.box_placed.connect(placed.append)
    scene.open(phantom, document())
    before = nodes(core)

    scene.place_box()
    x, y = on_screen(core, 120, 260)
    core.view.click(x, y)
    core.view.move(x + 4, y - 4)  # Slicer shows a box already
    events_pass(scene)
    assert placed == [] and scene.placing
    core.view.click(*on_screen(core, 180, 330))
    events_pass(scene)
    assert placed == [pytest.approx((120, 260, 60, 70), abs=2)]
    assert not scene.placing and nodes(core) == before

    for clicks in (0, 1):
        placed.clear()
        scene.place_box()
        for _click in range(clicks):
            core.view.click(x, y)
        core.view.right_click(*on_screen(core, 100, 200))
        events_pass(scene)
        assert placed == [None] and not scene.placing and nodes(core) == before


def test_only_what_changed_is_drawn_anew(core: SlicerCore, scene: Scene, phantom: Path) -> None:
    scene.open(phantom, document())
    first, second = finding("F1", 100, 250, 80), finding("F2", 110, 260, 80, "benign")

    def lines(kind: str) -> Any:
        return core.scene.GetFirstNodeByName(f"MammoReview {kind} lines").GetPolyData()

    def captions(kind: str) -> list[str]:
        node = core.scene.GetFirstNodeByName(f"MammoReview {kind}")
        return [node.GetNthControlPointLabel(n) for n in range(node.GetNumberOfControlPoints())]

    scene.show((first, second), None)
    kept = lines("malignant")
    assert kept.GetNumberOfLines() == 4 + 6, "a box, and a square without its first pixel"
    assert (captions("malignant"), captions("benign")) == (["1 malignancy 83"], ["2 malignancy 83"])
    scene.show((first, dataclasses.replace(second, status="accepted")), None)
    assert captions("benign") == ["2 benign"], "with a number it would be read as 83 % benign"
    scene.show((first, dataclasses.replace(second, status="rejected")), "F2")
    assert lines("malignant") is kept
    assert lines("selected").GetNumberOfLines() == 6, "its box is the one with handles"
    assert (captions("benign"), captions("rejected")) == ([], ["2 rejected"])
    scene.show((second,), None)
    assert [lines(k).GetNumberOfLines() for k in ("malignant", "benign", "selected")] == [0, 10, 0]
    scene.set_visible(False)
    hidden = core.view.render()
    scene.show((), None)
    np.testing.assert_array_equal(core.view.render(), hidden)


def test_a_contour_lies_on_its_pixels(core: SlicerCore, scene: Scene, phantom: Path) -> None:
    scene.open(phantom, document())
    one = dataclasses.replace(finding("F1", 120, 260, 60), bbox=(90.0, 230.0, 120.0, 120.0))
    for selected in (None, "F1"):
        scene.show((one,), selected)
        drawn = core.view.render().astype(int)
        orange = (drawn[:, :, 0] - drawn[:, :, 2] > 120) & (drawn[:, :, 1] < 140)
        for x, y in ((120, 290), (180, 290), (150, 260), (150, 320)):
            column, up = on_screen(core, x, y)
            row = core.view.size[1] - 1 - up
            assert orange[row - 3 : row + 4, column - 3 : column + 4].any(), (x, y, selected)


def test_a_mask_is_edited_and_undone_with_slicers_editor(
    core: SlicerCore, scene: Scene, phantom: Path
) -> None:
    one, two = finding("F1", 100, 250, 80), finding("F2", 110, 260, 80, "benign")
    scene.open(phantom, document(one, two))
    scene.show((one, two), "F1")
    scene.begin_mask("F1")
    editor = slicer.vtkMRMLSegmentEditorNode()
    core.scene.AddNode(editor)
    logic = slicer.vtkSlicerSegmentEditorLogic()
    logic.SetMRMLScene(core.scene)
    logic.SetSegmentEditorNode(editor)
    logic.SetSegmentationNode(scene.segmentation)
    logic.SetSourceVolumeNode(scene.volume)
    editor.SetSelectedSegmentID("F1")
    editor.SetOverwriteMode(editor.OverwriteNone)
    brush = slicer.vtkOrientedImageData()
    brush.SetExtent(200, 219, 300, 309, 0, 0)
    brush.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    brush.GetPointData().GetScalars().Fill(1)
    matrix = vtk.vtkMatrix4x4()
    scene.volume.GetIJKToRASMatrix(matrix)
    brush.SetImageToWorldMatrix(matrix)
    assert scene.segmentation.GetSegmentation().GetSegmentIDs() == ("F1",)
    logic.SaveStateForUndo()
    logic.ModifySegmentByLabelmap(
        scene.segmentation, "F1", brush, logic.ModificationModeAdd, True, False
    )
    expected = one.mask()
    expected[300:310, 200:220] = True
    drawn = slicer.vtkMRMLSegmentationNode()
    drawn.Copy(scene.segmentation)
    np.testing.assert_array_equal(mask_of(drawn, "F1", IMAGE), expected)
    logic.Undo()
    np.testing.assert_array_equal(scene.end_mask(), one.mask())
    assert scene.segmentation is None
    scene.begin_mask("F2")
    np.testing.assert_array_equal(scene.end_mask(), two.mask())
    core.scene.RemoveNode(editor)


# --- label files -----------------------------------------------------------------------------

CASES = {
    "none": (),
    "one": (finding("F1", 100, 250, 80),),
    "overlapping": (finding("F1", 100, 250, 80), finding("F2", 130, 280, 60, "benign")),
    "box alone": (finding("F1", 100, 250, 80), without_mask(finding("F2", 20, 300, 50))),
    "boxes only": (without_mask(finding("F2", 20, 300, 50)),),
    "assessed": (finding("F1", 100, 250, 80, birads="4b"),),
    "words": (finding("F1", 100, 250, 80, comment='a "quoted" back\\slash\n| and %41 ü'),),
}


@pytest.mark.parametrize("name", CASES)
def test_the_server_reads_what_the_panel_writes_and_the_reverse(name: str, tmp_path: Path) -> None:
    ours, file = document(*CASES[name]), tmp_path / "label.seg.nrrd"
    SlicerLabelFiles().write(ours, file)
    theirs = ServerFindings.from_json(ours.to_json())
    assert read_label_file(file, image=theirs.image) == theirs
    assert SlicerLabelFiles().read(file, IMAGE) == ours
    write_label_file(file, theirs)
    assert SlicerLabelFiles().read(file, IMAGE) == ours


@pytest.mark.parametrize("name", CASES)
def test_a_label_saved_again_by_slicer_comes_back(name: str, tmp_path: Path) -> None:
    """Slicer drops our header field on saving; ids, classes, masks and status are in its tags."""
    ours, file = document(*CASES[name]), tmp_path / "label.seg.nrrd"
    write_label_file(file, ServerFindings.from_json(ours.to_json()))
    node, storage = slicer.vtkMRMLSegmentationNode(), slicer.vtkMRMLSegmentationStorageNode()
    own = slicer.vtkMRMLScene()
    own.AddNode(node)
    own.AddNode(storage)
    storage.SetFileName(str(file))
    if name == "none":
        SlicerLabelFiles().write(ours, file)
    assert storage.ReadData(node)
    again = tmp_path / "again.seg.nrrd"
    storage.SetFileName(str(again))
    assert storage.WriteData(node)
    assert b"ftmtl_findings" not in again.read_bytes()
    back = SlicerLabelFiles().read(again, IMAGE)
    assert back.findings == ours.findings
    on_server = read_label_file(again, image=ServerFindings.from_json(ours.to_json()).image)
    # The server measures masks anew where the document is lost, to the last bit but one.
    pairs = zip(on_server.to_json()["findings"], ours.to_json()["findings"], strict=True)
    for theirs, mine in pairs:
        for name in ("area_mm2", "diameter_mm"):
            assert theirs.pop(name) == pytest.approx(mine.pop(name))
        assert theirs == mine


def test_a_label_of_another_image_or_cut_off_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "label.seg.nrrd"
    SlicerLabelFiles().write(document(finding("F1", 100, 250, 80)), file)
    other = dataclasses.replace(IMAGE, id="another")
    with pytest.raises(ValueError, match="another image"):
        SlicerLabelFiles().read(file, other)
    shutil.copy(file, cut := tmp_path / "cut.seg.nrrd")
    cut.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match="damaged"):
        SlicerLabelFiles().read(cut, IMAGE)
    with pytest.raises(OSError, match="could not write"):
        SlicerLabelFiles().write(document(), tmp_path / "nowhere" / "label.seg.nrrd")
