"""Label files by Slicer's own `.seg.nrrd` writer and reader, in a scene of their own.

Slicer's writer knows no header field but its own: the findings document, which the server reads
under `ftmtl_findings`, is put into the header when the file is written. Where another program
dropped it, the findings come back from the segments' tags. Masks are always those of the segments.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import slicer

from .findings import (
    LABELS,
    Finding,
    Findings,
    ImageInfo,
    InvalidFindings,
    verdict_of,
    with_mask,
)
from .i18n import _
from .masks import box_of, encode
from .scene_segments import digest, mask_of, put_segment, set_reference, tag

BYTES = {b"short": 2, b"unsigned short": 2, b"int": 4, b"unsigned int": 4}  # the rest: 1
FIELD = b"ftmtl_findings:="
NO_MASS = "no-mass"  # the id of an empty segment: Slicer writes no file without any


class SlicerLabelFiles:
    """`ports.LabelFiles` by a real Slicer."""

    def write(self, findings: Findings, file: Path) -> None:
        """Writes the label. Raises OSError where the disk refuses."""
        scene = slicer.vtkMRMLScene()
        node = slicer.vtkMRMLSegmentationNode()
        scene.AddNode(node)
        set_reference(node, findings.image)
        for number, finding in enumerate(findings.findings, start=1):
            put_segment(node, number, finding, findings)
        if not findings.findings:
            empty = slicer.vtkSegment()
            empty.SetName("no mass")
            empty.AddRepresentation("Binary labelmap", slicer.vtkOrientedImageData())
            node.GetSegmentation().AddSegment(empty, NO_MASS)
        node.GetSegmentation().CollapseBinaryLabelmaps(False)
        storage = slicer.vtkMRMLSegmentationStorageNode()
        scene.AddNode(storage)
        storage.SetFileName(str(file))
        if not storage.WriteData(node):
            raise OSError(_("Slicer could not write the label file {file}.").format(file=file))
        _add_field(file, json.dumps(findings.to_json(), separators=(",", ":")))

    def read(self, file: Path, image: ImageInfo) -> Findings:
        """The findings of a label file. Raises InvalidFindings."""
        damaged = InvalidFindings(_("The label file is damaged; ask for it again."))
        text = _field(file)
        document = None
        if text is not None:
            try:
                document = Findings.from_json(json.loads(text))
            except ValueError as error:  # JSON's errors, and InvalidFindings
                raise damaged from error
            if document.image.id != image.id:
                raise InvalidFindings(_("The label belongs to another image."))
            if not document.findings:
                return document
        scene = slicer.vtkMRMLScene()
        node = slicer.vtkMRMLSegmentationNode()
        scene.AddNode(node)
        storage = slicer.vtkMRMLSegmentationStorageNode()
        scene.AddNode(storage)
        storage.SetFileName(str(file))
        if not _is_whole(file) or not storage.ReadData(node):
            raise damaged
        if document is None:
            return _from_tags(node, image)
        found = [_as_drawn(node, finding, document.image) for finding in document.findings]
        kept = tuple(finding for finding in found if finding is not None)
        same = kept == document.findings
        verdict = document.verdict if same else verdict_of(kept)
        return replace(document, findings=kept, verdict=verdict)


def _as_drawn(node: Any, finding: Finding, image: ImageInfo) -> Finding | None:
    """The finding with its segment's mask; one whose mask was deleted is rejected, or gone."""
    mask = mask_of(node, finding.id, image)
    if mask is None:
        if finding.segmentation is None:
            return finding
        return replace(finding, status="rejected") if finding.source == "model" else None
    if encode(mask) == finding.segmentation:
        return finding
    status = "added" if finding.status == "added" else "edited"
    changed = with_mask(finding, mask, "annotated", image)
    return replace(changed, bbox=box_of(mask) or finding.bbox, status=status)


def _from_tags(node: Any, image: ImageInfo) -> Findings:
    found, model = [], None
    segmentation = node.GetSegmentation()
    for number in range(segmentation.GetNumberOfSegments()):
        segment_id = segmentation.GetNthSegmentID(number)
        segment = segmentation.GetSegment(segment_id)
        if tag(segment, "image") and unquote(tag(segment, "image")) != image.id:
            raise InvalidFindings(_("The label belongs to another image."))
        finding = _of_tags(node, segment_id, segment, image)
        if finding is not None:
            found.append(finding)
            model = model or (json.loads(unquote(tag(segment, "model")) or "null"))
    findings = tuple(found)
    document = Findings(image, findings, verdict_of(findings), model)
    return Findings.from_json(document.to_json())


def _of_tags(node: Any, segment_id: str, segment: Any, image: ImageInfo) -> Finding | None:
    mask = mask_of(node, segment_id, image)
    try:
        written = json.loads(unquote(tag(segment, "finding")))
        source = written.pop("mask_source")
        finding = Finding(**{**written, "bbox": tuple(written["bbox"])})
    except (ValueError, TypeError, KeyError):
        if mask is None:
            return None
        name = segment.GetName().strip().lower()
        label = next((one for one in LABELS if name.startswith(one)), None)
        box = box_of(mask)
        if label is None or box is None:
            raise InvalidFindings(
                _("A segment's name must begin with benign or malignant.")
            ) from None
        finding = Finding(segment_id, label, box, "annotator", "added")
        return with_mask(finding, mask, "annotated", image)
    if mask is not None and digest(encode(mask)) == tag(segment, "mask"):
        return replace(with_mask(finding, mask, source, image), status=finding.status)
    if mask is None and tag(segment, "mask") == "none":
        return finding
    original = finding if mask is None else replace(finding, segmentation=encode(mask))
    if mask is None:  # it had one, and somebody deleted it
        return replace(finding, status="rejected") if finding.source == "model" else None
    status = "added" if finding.status == "added" else "edited"
    changed = with_mask(original, mask, "annotated", image)
    return replace(changed, bbox=box_of(mask) or finding.bbox, status=status)


def _add_field(file: Path, text: str) -> None:
    """Puts the document into the header of a NRRD file, whose end is an empty line."""
    header, end, voxels = file.read_bytes().partition(b"\n\n")
    value = text.replace("\\", "\\\\").encode()
    part = file.with_name(f".{file.name}.part")
    part.write_bytes(header + b"\n" + FIELD + value + end + voxels)
    part.replace(file)


def _is_whole(file: Path) -> bool:
    """Whether all voxels are there: Slicer's reader ends the program on a file that was cut off."""
    header, _end, voxels = file.read_bytes().partition(b"\n\n")
    fields = dict(re.findall(rb"^(sizes|type|encoding): (.+?)\r?$", header, re.MULTILINE))
    try:
        size = BYTES.get(fields[b"type"], 1)
        for side in fields[b"sizes"].split():
            size *= int(side)
        if fields[b"encoding"] in (b"gzip", b"gz"):
            voxels = zlib.decompress(voxels, wbits=31)
        return len(voxels) == size
    except (KeyError, ValueError, zlib.error):
        return False


def _field(file: Path) -> str | None:
    with open(file, "rb") as stream:
        for line in stream:
            line = line.rstrip(b"\r\n")
            if not line:
                return None
            if line.startswith(FIELD):
                value = line[len(FIELD) :].decode("utf-8", "replace")
                return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], value)
    return None
