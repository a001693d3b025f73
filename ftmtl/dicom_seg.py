"""A mammogram's findings as a DICOM Segmentation, the form in which a PACS keeps masks.

One segment for each finding that a person or the model stands by (rejected ones are left out), of
type *mass* with the modifier *benign* or *malignant*; the segments may overlap. Rows and columns
are those of the mammogram, which the object names as its source (DICOM PS3.3, A.51 and C.8.20). A
finding that is known only by its box is drawn as that box, and its label says so.
"""

from __future__ import annotations

import json
import warnings

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from ftmtl import __version__
from ftmtl.findings import Finding, Findings

# SNOMED CT, as DICOM PS3.16 uses it
CATEGORY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
MASS = Code("4147007", "SCT", "Mass")
CLASSES = {
    "benign": Code("30807003", "SCT", "Benign"),
    "malignant": Code("21594007", "SCT", "Malignant"),
}
LEARNED = Code("123110", "DCM", "Artificial Intelligence")
TAKEN_OVER = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
# A projection has no place in space, and one frame: told either, highdicom asks for what only a
# volume has. Rows and columns say where a segment lies.
NOT_TAKEN_OVER = ("FrameOfReferenceUID", "NumberOfFrames")
SERIES_NUMBER = 9000  # behind the series that modalities number


class NothingToSegment(ValueError):
    """A segmentation cannot say "no mass": it has at least one segment."""


def to_dicom_seg(findings: Findings, source: Dataset, *, name: str = "") -> Dataset:
    """The Segmentation of `findings` on the mammogram with the header `source`.

    The same findings on the same image under the same `name` (a label's version, say) get the same
    SOPInstanceUID, so that sending them twice stores them once; others get another, also where two
    servers count their versions alike. Raises NothingToSegment.
    """
    drawn = [finding for finding in findings.findings if finding.status != "rejected"]
    if not drawn:
        raise NothingToSegment(f"{findings.image.id}: there is no finding to draw")
    pixels = np.stack([_area(finding, findings) for finding in drawn], axis=-1)[None]
    content = json.dumps(findings.to_json(), sort_keys=True)
    root = [findings.image.id, name, __version__, content]
    with warnings.catch_warnings():
        # One of highdicom's warnings repeats the patient's name, which belongs in no log.
        warnings.simplefilter("ignore")
        return hd.seg.Segmentation(
            source_images=[_filled(source)],
            pixel_array=pixels,  # [1, rows, columns, segments]
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_description(n, f, findings) for n, f in enumerate(drawn, 1)],
            series_instance_uid=generate_uid(entropy_srcs=["series", *root]),
            series_number=SERIES_NUMBER,
            sop_instance_uid=generate_uid(entropy_srcs=["instance", *root]),
            instance_number=1,
            manufacturer="FT-MTL-Net",
            manufacturer_model_name="ftmtl",
            software_versions=__version__,
            device_serial_number="0",
            content_label="MASSES",
            content_description="Masses in a mammogram",
            series_description="Masses in a mammogram",
            omit_empty_frames=False,
        )


def _filled(source: Dataset) -> Dataset:
    """The header with every attribute that a Segmentation takes over, empty where it has none."""
    filled = Dataset()
    filled.update(source)
    for keyword in NOT_TAKEN_OVER:
        if keyword in filled:
            delattr(filled, keyword)
    for keyword in TAKEN_OVER:
        if keyword not in filled:
            setattr(filled, keyword, None)
    return filled


def _area(finding: Finding, findings: Findings) -> NDArray[np.bool_]:
    """Its mask [rows, columns], or its box; at least a pixel of that, also at the last edge."""
    mask = finding.mask()
    if mask is None:
        image = findings.image
        mask = np.zeros((image.height, image.width), dtype=np.bool_)
        x, y, width, height = finding.bbox
        top, left = min(max(round(y), 0), image.height - 1), min(max(round(x), 0), image.width - 1)
        mask[top : max(round(y + height), top + 1), left : max(round(x + width), left + 1)] = True
    return mask


def _tracking_uid(finding: Finding, findings: Findings) -> str:
    """One UID for a finding through all versions of an image's label, edited or not.

    Ids are counted anew in every reading and every workspace. So a model's finding is that of its
    weights, and all are the workspace's, of which the patient's keyed hash knows; a finding of
    which neither is told has its image and id alone.
    """
    of_model = finding.source == "model" and findings.model is not None
    weights = findings.model.sha256 if of_model and findings.model else ""
    workspace = findings.image.patient_key or ""
    return generate_uid(entropy_srcs=[findings.image.id, workspace, weights, finding.id])


def _description(number: int, finding: Finding, findings: Findings) -> hd.seg.SegmentDescription:
    alone = "" if finding.segmentation is not None else " (box alone)"
    kinds = hd.seg.SegmentAlgorithmTypeValues
    kind, algorithm = kinds.MANUAL, None
    if finding.source == "model" and findings.model is not None:
        kind = kinds.AUTOMATIC if finding.status == "proposed" else kinds.SEMIAUTOMATIC
        algorithm = hd.AlgorithmIdentificationSequence(
            name=findings.model.name, family=LEARNED, version=findings.model.version
        )
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"{finding.label} {number}{alone}",
        segmented_property_category=CATEGORY,
        segmented_property_type=MASS,
        algorithm_type=kind,
        algorithm_identification=algorithm,
        tracking_uid=_tracking_uid(finding, findings),
        tracking_id=finding.id,
    )
    if finding.birads is not None:
        segment.SegmentDescription = f"BI-RADS {finding.birads.upper()}"
    (mass,) = segment.SegmentedPropertyTypeCodeSequence
    modifier = CodedConcept.from_code(CLASSES[finding.label])
    mass.SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return segment
