"""A DICOM Segmentation says what the findings say: read back with pydicom alone, bit by bit."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from test_datastore import HEIGHT, WIDTH, write_dicom

from ftmtl.dicom_seg import NothingToSegment, to_dicom_seg
from ftmtl.findings import Finding, Findings, ImageInfo, ModelInfo, Verdict, encode_rle

IMAGE = ImageInfo(id="1.2.840.5", width=WIDTH, height=HEIGHT)
MODEL = ModelInfo(name="ft_mtl_net", version="7", sha256="0" * 64)


def document(*findings: Finding) -> Findings:
    verdict = Verdict.of(findings, how="by hand")
    return Findings(image=IMAGE, model=MODEL, findings=findings, verdict=verdict)


@pytest.fixture
def source(tmp_path: Path) -> pydicom.Dataset:
    uids = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.2"}
    file = write_dicom(tmp_path / "x.dcm", IMAGE.id, "Doe^Jane", **uids)
    return pydicom.dcmread(file, stop_before_pixels=True)


def test_masks_classes_and_who_drew_them(
    source: pydicom.Dataset, recwarn: pytest.WarningsRecorder
) -> None:
    drawn, kept = np.zeros((2, HEIGHT, WIDTH), bool)
    drawn[3:50, 7:31] = np.arange(24) % 3 > 0
    kept[40:60, 20:41] = True  # the two overlap
    by_hand = Finding(
        id="a", label="malignant", bbox=(8, 3, 23, 47), segmentation=encode_rle(drawn),
        mask_source="annotated", source="annotator", status="added", birads="4c",
    )  # fmt: skip
    accepted = Finding(
        id="b", label="benign", bbox=(20, 40, 21, 20), segmentation=encode_rle(kept),
        mask_source="model", source="model", status="accepted",
    )  # fmt: skip
    rejected = replace(accepted, id="c", status="rejected")
    box = Finding(
        id="d", label="benign", bbox=(60.4, 10, 9.8, 5), source="model", status="proposed"
    )
    speck = replace(box, id="e", bbox=(-0.004, 29.6, 0.3, 0.4))  # less than a pixel
    found = document(by_hand, accepted, rejected, box, speck)
    stream = io.BytesIO()
    to_dicom_seg(found, source, name="final 2").save_as(stream)
    stream.seek(0)
    seg = pydicom.dcmread(stream)

    boxed = np.zeros((HEIGHT, WIDTH), bool)
    boxed[10:15, 60:70] = True
    point = np.zeros((HEIGHT, WIDTH), bool)
    point[30, 0] = True
    assert np.array_equal(seg.pixel_array.astype(bool), [drawn, kept, boxed, point])
    labels = [segment.SegmentLabel for segment in seg.SegmentSequence]
    assert labels == ["malignant 1", "benign 2", "benign 3 (box alone)", "benign 4 (box alone)"]
    # SNOMED CT's own numbers: a mass, and in it 21594007 malignant or 30807003 benign.
    masses = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in seg.SegmentSequence]
    kinds = [mass.SegmentedPropertyTypeModifierCodeSequence[0] for mass in masses]
    codes = [(mass.CodeValue, kind.CodeValue) for mass, kind in zip(masses, kinds, strict=True)]
    assert codes == [("4147007", "21594007")] + [("4147007", "30807003")] * 3
    said = [segment.get("SegmentDescription") for segment in seg.SegmentSequence]
    assert said == ["BI-RADS 4C", None, None, None]
    algorithms = [segment.SegmentAlgorithmType for segment in seg.SegmentSequence]
    assert algorithms == ["MANUAL", "SEMIAUTOMATIC", "AUTOMATIC", "AUTOMATIC"]
    assert seg.SegmentSequence[1].SegmentAlgorithmName == "ft_mtl_net"
    assert (seg.StudyInstanceUID, seg.PatientID) == ("1.2.3.1", "Doe^Jane")
    assert seg.SourceImageSequence[0].ReferencedSOPInstanceUID == IMAGE.id
    assert (seg.Rows, seg.Columns, seg.SegmentationType) == (HEIGHT, WIDTH, "BINARY")
    assert not [w for w in recwarn if "Doe" in str(w.message)], "a warning tells the name"

    assert to_dicom_seg(found, source, name="final 2").SOPInstanceUID == seg.SOPInstanceUID
    assert to_dicom_seg(found, source, name="final 3").SOPInstanceUID != seg.SOPInstanceUID
    with pytest.raises(NothingToSegment):
        to_dicom_seg(document(rejected), source)


def test_a_box_at_the_last_edge_is_drawn_however_thin(source: pydicom.Dataset) -> None:
    corner = (WIDTH - 0.4, HEIGHT - 0.3, 0.4, 0.3)
    thin = Finding(id="a", label="benign", bbox=corner, source="annotator", status="added")
    drawn = to_dicom_seg(document(thin), source).pixel_array
    assert np.argwhere(drawn).tolist() == [[HEIGHT - 1, WIDTH - 1]]


def test_a_uid_stands_for_one_content_and_a_tracking_uid_for_one_finding(
    source: pydicom.Dataset
) -> None:
    box = Finding(id="F1", label="benign", bbox=(5, 5, 9, 9), source="model", status="proposed")
    found = document(box)
    edited = document(replace(box, bbox=(4, 5, 10, 9), label="malignant", status="edited"))
    reread = replace(found, model=replace(MODEL, sha256="1" * 64))
    elsewhere = replace(found, image=replace(IMAGE, patient_key="2" * 16))
    versions = [found, edited, reread, elsewhere]
    segs = [to_dicom_seg(version, source, name="final 1") for version in versions]
    assert len({seg.SOPInstanceUID for seg in segs}) == len(segs)
    assert len({seg.SeriesInstanceUID for seg in segs}) == len(segs)
    first, *others = [seg.SegmentSequence[0].TrackingUID for seg in segs]
    assert [uid == first for uid in others] == [True, False, False]
    by_hand = [replace(d, findings=(replace(box, source="annotator"),)) for d in (found, reread)]
    first, second = (to_dicom_seg(d, source).SegmentSequence[0].TrackingUID for d in by_hand)
    assert first == second  # whichever model read the image beside her


def test_a_frame_of_reference_and_a_count_of_one_frame_are_no_volume(
    source: pydicom.Dataset
) -> None:
    box = Finding(id="a", label="benign", bbox=(5, 5, 9, 9), source="annotator", status="added")
    plain = to_dicom_seg(document(box), source)
    source.FrameOfReferenceUID, source.NumberOfFrames = "1.2.3.4", 1
    seg = to_dicom_seg(document(box), source)
    assert np.array_equal(seg.pixel_array, plain.pixel_array)
    assert "FrameOfReferenceUID" not in seg
    assert (source.FrameOfReferenceUID, source.NumberOfFrames) == ("1.2.3.4", 1)
