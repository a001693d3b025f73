"""Label files: a mammogram's findings and masks in one `.seg.nrrd` that 3D Slicer opens.

One segment for each finding, `SegmentN_ID` being the finding's id; a finding known only by its box
has an empty segment, so that it too is seen in Slicer's list and survives a re-saving there. The
grid is the image's, one slice; where segments overlap it is 4-D with the layers first. It lies
where Slicer lays a mammogram (LPS axes, origin 0, the image's spacing or 1 mm), except for NIfTI
and NRRD images with axes of their own, which fit by pixel only. The findings document stands in
the header under `ftmtl_findings`, and once more, in pieces, in the segments' tags.

Reading: **masks come from the segments**, whoever drew them last. The rest comes from the document,
and where that was lost from the tags. A segment nobody knows is a new finding. A segment that was
deleted or emptied takes its finding away: the model's is then rejected, a person's is gone. If the
document, the tag `ftmtl.label` and the segment's name disagree on the class, the one that departs
from what was written is right; of a foreign segment it is the tag, else the name that tells.
Whatever was changed becomes `edited`, and the verdict is then taken from the findings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ftmtl.atomic import atomic_write
from ftmtl.findings import (
    Finding,
    Findings,
    ImageInfo,
    InvalidFindings,
    Label,
    ModelInfo,
    Piece,
    Verdict,
)
from ftmtl.label_grid import LabelGrid, UnreadableLabel, read_grid, wrong_size
from ftmtl.label_segments import (
    REJECTED,
    Segment,
    class_of,
    digest,
    is_blank_voxel,
    read_segments,
    segment_header,
    segmentation_header,
)
from ftmtl.measure import measure_mask
from ftmtl.veto import IMAGE_RULE, WORD_RULE

__all__ = ["HOW", "UnreadableLabel", "largest_part", "read_label_file", "write_label_file"]

DOCUMENT = "ftmtl_findings"
MOST_DRAWN = 200  # new findings in one file; one mammogram never has so many masses
HOW = f"{IMAGE_RULE}; {WORD_RULE}; a person's finding is a mass for certain, malignant 1 or 0"


# --- writing --------------------------------------------------------------------------------


def write_label_file(path: Path, findings: Findings) -> None:
    """Write findings as a `.seg.nrrd`, atomically. An image without a mass is a label too."""
    x_mm, y_mm = findings.image.spacing_mm or (1.0, 1.0)
    layers, places = _stack(findings)
    listed = len(layers) > 1
    # Files number voxels column first: the transpose of [row, column] is already in their order.
    voxels = np.stack([layer.T for layer in layers]) if listed else layers[0].T
    axes = [[x_mm, 0.0, 0.0], [0.0, y_mm, 0.0], [0.0, 0.0, 1.0]]
    header: dict[str, Any] = {
        "space": "left-posterior-superior",
        "kinds": ["list"] * listed + ["domain"] * 3,
        "space directions": np.array([[np.nan] * 3] * listed + axes),
        "space origin": np.zeros(3),
        "encoding": "gzip",
    }
    for number, (layer, value) in enumerate(places):
        header |= segment_header(number, findings, layer, value)
    header |= segmentation_header(findings.image)
    document = json.dumps(findings.to_json(), separators=(",", ":"))
    header[DOCUMENT] = document.replace("\\", "\\\\")  # NRRD's escape, which pynrrd leaves to us
    with atomic_write(path) as file:
        nrrd.write(file, voxels[..., None], header, compression_level=1)


def _stack(findings: Findings) -> tuple[list[NDArray[np.uint8]], list[tuple[int, int]]]:
    """Layers [height, width], and for each finding its layer and its value there (1 to 255)."""
    shape = findings.image.height, findings.image.width
    layers: list[NDArray[np.uint8]] = [np.zeros(shape, np.uint8)]
    used = [0]
    places: list[tuple[int, int]] = []
    for finding in findings.findings:
        piece, crop = finding.piece(), np.s_[0:0, 0:0]
        if piece is not None:
            rows, columns = piece.pixels.shape
            crop = np.s_[piece.y : piece.y + rows, piece.x : piece.x + columns]
        for number, layer in enumerate(layers):
            if used[number] < 255 and (piece is None or not layer[crop][piece.pixels].any()):
                break
        else:
            number = len(layers)
            layers.append(np.zeros(shape, np.uint8))
            used.append(0)
        used[number] += 1
        places.append((number, used[number]))
        if piece is not None:
            layers[number][crop][piece.pixels] = used[number]
    return layers, places


# --- reading --------------------------------------------------------------------------------


def read_label_file(
    path: Path, *, image: ImageInfo, label_info: Sequence[Mapping[str, Any]] | None = None
) -> Findings:
    """Findings of `image` from a label file; raises UnreadableLabel, and nothing else.

    Reads our own `.seg.nrrd`, one that another program saved again, and label maps of one slice
    (`.nrrd`, `.nii.gz`). A label map's values are named by `label_info`, [{"name", "idx"}]; without
    it 1 is benign and 2 malignant. Each connected component (8 neighbours) of it is a finding;
    more than 200 are refused.
    """
    grid = read_grid(path, width=image.width, height=image.height)
    try:
        if any(key == DOCUMENT or key.startswith("Segment") for key in grid.header):
            return _from_segments(path, grid, image)
        return _document(image, _from_label_map(path, grid, image, label_info), None)
    except InvalidFindings as error:
        raise UnreadableLabel(
            path, f"its findings are not valid ({error})", "Correct them and send it again."
        ) from error


def _from_segments(path: Path, grid: LabelGrid, image: ImageInfo) -> Findings:
    document = _read_document(path, grid, image)
    segments = read_segments(path, grid, image)
    if not segments and document is None and grid.layers.any():
        raise UnreadableLabel(
            path, "it has voxels but names no segment", "Save it from 3D Slicer as .seg.nrrd."
        )
    known = {finding.id: finding for finding in document.findings} if document else {}
    ids = set(known)
    before, model = list(known.values()), document.model if document else None
    found: list[Finding] = []
    drawn = 0
    for segment in segments:
        _check_image(path, segment.image_id, image)
        written = segment.written()
        original = known.pop(segment.id, None)
        mask = "none" if original is None else digest(original.segmentation)
        if document is None and written is not None and segment.id not in ids:
            original, mask = written, segment.tags.get("mask", "none")
            model = model or segment.model()
            ids.add(segment.id)
        if original is None:
            new = _new(path, segment, image, ids, drawn)
            drawn += len(new)
            found += new
        else:
            found += _merge(original, segment, written, mask, image)
    # What the document has left has no segment: a box alone, or a mask that was deleted.
    for original in known.values():
        found += [original] if original.segmentation is None else _taken_away(original)
    if document is None or document.image.spacing_mm != image.spacing_mm:
        found = [_measured(finding, image) for finding in found]
        before = [_measured(finding, image) for finding in before]
    order = {name: number for number, name in enumerate(finding.id for finding in before)}
    found.sort(key=lambda finding: order.get(finding.id, len(order)))
    verdict = document.verdict if document is not None and found == before else None
    return _document(image, found, model, verdict)


def _merge(
    original: Finding, segment: Segment, written: Finding | None, mask: str, image: ImageInfo
) -> list[Finding]:
    """A finding as its segment now has it; `mask` is the digest of what its mask was."""
    said = [original.label, segment.tagged, segment.named]
    if written is None:
        label = segment.tagged or segment.named or original.label
    else:  # two classes: whoever departs from what was written, they cannot contradict each other
        label = next((one for one in said if one not in (None, written.label)), written.label)
    redrawn = digest(segment.rle) != mask
    if not redrawn and label == original.label:
        return [original]
    if redrawn and segment.rle is None:
        return _taken_away(original)
    changes: dict[str, Any] = {"label": label}
    if label != original.label:
        changes["birads"] = None  # it said the other class
    if original.status != "added":
        changes["status"] = "edited"
    if redrawn and segment.rle is not None:
        changes |= {
            "segmentation": segment.rle,
            "bbox": Piece.of_rle(segment.rle).box,
            "mask_source": "annotated",
        }
    return [_measured(replace(original, **changes), image)]


def _taken_away(original: Finding) -> list[Finding]:
    return [replace(original, status="rejected")] if original.source == "model" else []


def _new(
    path: Path, segment: Segment, image: ImageInfo, ids: set[str], before: int
) -> list[Finding]:
    """Findings of a segment that nobody knows: one for each component, unless tagged by us."""
    if segment.rle is None or segment.name.endswith(REJECTED):
        return []
    label = segment.tagged or segment.named
    if label is None:
        raise _unknown_name(path, segment.name)
    whole = Piece.of_rle(segment.rle)
    parts = [whole] if segment.tags else _components(path, whole, before)
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", segment.id).lstrip("._-")[:48] or "segment"
    names = [stem] if len(parts) == 1 else [f"{stem}-{n}" for n in range(1, len(parts) + 1)]
    return [_added(name, label, part, image, ids) for name, part in zip(names, parts, strict=True)]


def _from_label_map(
    path: Path,
    grid: LabelGrid,
    image: ImageInfo,
    label_info: Sequence[Mapping[str, Any]] | None,
) -> list[Finding]:
    layers, rows, columns = grid.layers.shape
    if is_blank_voxel(grid):
        return []
    if (columns, rows) != (image.width, image.height):
        raise wrong_size(path, [columns, rows], image.width, image.height)
    if layers != 1:
        raise UnreadableLabel(
            path, f"it is a label map of {layers} layers", "Save overlapping masks as .seg.nrrd."
        )
    names = _names(path, label_info)
    voxels = grid.layers[0]
    ids: set[str] = set()
    found: list[Finding] = []
    for value in np.unique(voxels).tolist():
        if value == 0:
            continue
        if value not in names:
            raise UnreadableLabel(
                path,
                f"nothing says what its value {value} means",
                "Name each value benign or malignant in label_info (without it 1 is benign and 2 "
                "malignant).",
            )
        label = class_of(names[value])
        if label is None and names[value].strip().lower() != "background":
            raise _unknown_name(path, names[value])
        if label is not None:
            for part in _components(path, Piece.of(voxels == value), len(found)):
                found.append(_added(f"{label}-{len(found) + 1}", label, part, image, ids))
    return found


def _names(path: Path, label_info: Sequence[Mapping[str, Any]] | None) -> dict[int, str]:
    if not label_info:
        return {1: "benign", 2: "malignant"}
    try:
        return {int(entry["idx"]): str(entry["name"]) for entry in label_info}
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise UnreadableLabel(
            path, "its label_info is not a list of {name, idx}", "Correct label_info."
        ) from error


def _components(path: Path, mask: Piece, before: int) -> list[Piece]:
    """Parts of a mask that hang together, corners included.

    Raises UnreadableLabel where they are more than a person draws, with the `before` that the file
    has shown already: Slicer's Threshold leaves hundreds of specks, and each would be a finding.
    """
    parts, count = ndimage.label(mask.pixels, np.ones((3, 3)))
    if before + count > MOST_DRAWN:
        raise UnreadableLabel(
            path,
            f"what is drawn falls into {before + count} separate pieces, and {MOST_DRAWN} is the "
            "most",
            "Remove the specks (Segment Editor, Islands, Remove small islands) and send it again.",
        )
    return _cut(mask, parts)


def largest_part(mask: Piece) -> Piece:
    """The largest of a mask's parts that hang together: in a label map it is one finding."""
    parts, _ = ndimage.label(mask.pixels, np.ones((3, 3)))
    return max(_cut(mask, parts), key=lambda part: int(part.pixels.sum()))


def _cut(mask: Piece, parts: NDArray[np.int32]) -> list[Piece]:
    return [
        Piece(mask.x + columns.start, mask.y + rows.start, parts[rows, columns] == number)
        for number, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1)
    ]


def _added(name: str, label: Label, piece: Piece, image: ImageInfo, ids: set[str]) -> Finding:
    """A person's new finding, under a name that is still free."""
    free, number = name, 1
    while free in ids:
        number += 1
        free = f"{name}.{number}"
    ids.add(free)
    finding = Finding(
        id=free,
        label=label,
        bbox=piece.box,
        segmentation=piece.encode(image.height, image.width),
        mask_source="annotated",
        source="annotator",
        status="added",
    )
    return _measured(finding, image)


def _measured(finding: Finding, image: ImageInfo) -> Finding:
    piece = finding.piece()
    area, diameter = (None, None) if piece is None else measure_mask(piece.pixels, image.spacing_mm)
    return replace(finding, area_mm2=area, diameter_mm=diameter)


def _document(
    image: ImageInfo,
    findings: Sequence[Finding],
    model: ModelInfo | None,
    verdict: Verdict | None = None,
) -> Findings:
    return Findings(
        image=image,
        model=model,
        findings=tuple(findings),
        verdict=verdict or Verdict.of(findings, how=HOW),
    )


def _read_document(path: Path, grid: LabelGrid, image: ImageInfo) -> Findings | None:
    text = grid.header.get(DOCUMENT)
    if text is None:
        return None
    try:
        document = Findings.from_json(json.loads(text.replace("\\\\", "\\")))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UnreadableLabel(
            path, f"{DOCUMENT} in its header is not JSON", "Save the label and send it again."
        ) from error
    _check_image(path, document.image.id, image)
    size = [document.image.width, document.image.height]
    if size != [image.width, image.height]:
        raise wrong_size(path, size, image.width, image.height)
    return document


def _check_image(path: Path, name: str | None, image: ImageInfo) -> None:
    if name is not None and name != image.id:
        raise UnreadableLabel(
            path,
            f"it is the label of image {name}, not of {image.id}",
            "Send it to the image that it belongs to.",
        )


def _unknown_name(path: Path, name: str) -> UnreadableLabel:
    return UnreadableLabel(
        path,
        f"{name!r} is neither benign nor malignant",
        "Rename the segment so that its name begins with benign or malignant.",
    )
