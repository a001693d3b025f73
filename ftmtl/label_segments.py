"""Segments of a `.seg.nrrd`: what its header says of them, in Slicer's words and in ours.

Slicer drops header keys that it does not know, but keeps a segment's tags. So every segment carries

    ftmtl.label      benign | malignant
    ftmtl.finding    the finding in JSON, without its mask, percent-coded
    ftmtl.mask       a digest of its mask, to tell whether somebody changed it
    ftmtl.image      the image's id; ftmtl.model: the model in JSON; both percent-coded

Header fields after Slicer 5.13: `SegmentN_Extent` (first and last column, row and slice, counted
in the file's own grid) limits a segment, `Segmentation_ReferenceImageExtentOffset` is where that
grid begins in the image, `SegmentN_Layer` and `SegmentN_LabelValue` say which voxels are meant.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ftmtl.findings import (
    LABELS,
    Finding,
    Findings,
    ImageInfo,
    Label,
    ModelInfo,
    Piece,
    Rle,
)
from ftmtl.label_grid import LabelGrid, UnreadableLabel, wrong_size

REJECTED = "(rejected)"
MOST_SEGMENTS = 1000  # each is looked for in the whole image; a film never has so many findings

# Okabe and Ito's colours: eyes that see no red or green tell them apart too.
_COLOURS = {"benign": "0.337 0.706 0.914", "malignant": "0.835 0.369 0", "rejected": "0.6 0.6 0.6"}
_READABLE = " {}[]\",:.-_/'"  # stays as it is in percent-coded tags, where '|' would end one
_CLASS_NAME = re.compile(r"\s*(benign|malignant)(?![a-z])", re.IGNORECASE)
_GEOMETRY = re.compile(r"Reference image geometry\|([^|]*)\|")


def class_of(name: str) -> Label | None:
    """The class that a name begins with ("malignant", "Benign_2"), or None."""
    match = _CLASS_NAME.match(name)
    return None if match is None else next(one for one in LABELS if one == match[1].lower())


def digest(rle: Rle | None) -> str:
    """Short digest of a mask; "none" without one."""
    if rle is None:
        return "none"
    return hashlib.sha256(",".join(map(str, rle["counts"])).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Segment:
    """One segment as a file has it, its mask laid on the image.

    The mask is kept as a code alone: a file may have hundreds, each as large as the image.
    """

    id: str
    name: str
    tags: Mapping[str, str]  # ours, without their "ftmtl."
    rle: Rle | None  # of its mask; None where that is empty

    @property
    def image_id(self) -> str | None:
        """The image that it was written for, by its tag."""
        return unquote(self.tags["image"]) if "image" in self.tags else None

    @property
    def named(self) -> Label | None:
        """What its name says."""
        return class_of(self.name)

    @property
    def tagged(self) -> Label | None:
        """What its tag says."""
        return class_of(self.tags.get("label", ""))

    def written(self) -> Finding | None:
        """The finding that was once written to this segment, as far as its tags tell.

        With its mask where nobody changed that since, otherwise without. None if there are no such
        tags, or if this is a copy of another segment.
        """
        try:
            value = json.loads(unquote(self.tags["finding"]))
            if value["id"] != self.id:
                return None
            same = self.rle is not None and digest(self.rle) == self.tags.get("mask")
            value["segmentation"] = self.rle if same else None
            value["mask_source"] = value["mask_source"] if same else "none"
            return Finding.from_json(value)
        except (LookupError, TypeError, ValueError, RecursionError):
            return None

    def model(self) -> ModelInfo | None:
        """The model that proposed it, by its tag."""
        try:
            return ModelInfo(**json.loads(unquote(self.tags["model"])))
        except (LookupError, TypeError, ValueError, RecursionError):
            return None


# --- to a header ----------------------------------------------------------------------------


def segmentation_header(image: ImageInfo) -> dict[str, str]:
    """Header fields of the whole segmentation, whose grid is the image's."""
    x_mm, y_mm = image.spacing_mm or (1.0, 1.0)
    geometry = [-x_mm, 0, 0, 0, 0, -y_mm, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]  # IJK to RAS
    geometry += [0, image.width - 1, 0, image.height - 1, 0, 0]
    return {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        # With it Slicer saves the whole grid again, and we know on which image it was drawn.
        "Segmentation_ConversionParameters": "Reference image geometry|"
        + "".join(f"{number!r};" for number in geometry)
        + "|&",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }


def segment_header(number: int, findings: Findings, layer: int, value: int) -> dict[str, str]:
    """Header fields of the segment of finding `number`, whose voxels have `value` in `layer`."""
    finding, image = findings.findings[number], findings.image
    rejected = finding.status == "rejected"
    fields = {
        "ID": finding.id,
        "Name": f"{finding.label} {number + 1}" + f" {REJECTED}" * rejected,
        "NameAutoGenerated": "0",
        "Color": _COLOURS["rejected" if rejected else finding.label],
        "ColorAutoGenerated": "0",
        "LabelValue": str(value),
        "Layer": str(layer),
        "Extent": f"0 {image.width - 1} 0 {image.height - 1} 0 0",
        "Tags": _tags(finding, findings),
    }
    return {f"Segment{number}_{name}": field for name, field in fields.items()}


def _tags(finding: Finding, findings: Findings) -> str:
    model = findings.model if finding.source == "model" else None
    tags = {
        "label": finding.label,
        "finding": _coded(finding.to_json() | {"segmentation": None}),
        "mask": digest(finding.segmentation),
        "image": quote(findings.image.id, safe=_READABLE),
    }
    if model is not None:
        tags["model"] = _coded({key: getattr(model, key) for key in ("name", "version", "sha256")})
    return "".join(f"ftmtl.{name}:{value}|" for name, value in tags.items())


def _coded(value: dict[str, Any]) -> str:
    return quote(json.dumps(value, separators=(",", ":")), safe=_READABLE)


# --- from a header --------------------------------------------------------------------------


def read_segments(path: Path, grid: LabelGrid, image: ImageInfo) -> list[Segment]:
    """All segments, in the order of their numbers; raises UnreadableLabel."""
    header = {key: value for key, value in grid.header.items() if isinstance(value, str)}
    fields: dict[int, dict[str, str]] = {}
    for key, value in header.items():
        if m := re.match(r"Segment(\d{1,6})_", key):
            fields.setdefault(int(m[1]), {})[key[m.end() :]] = value
    if len(fields) > MOST_SEGMENTS:
        raise UnreadableLabel(
            path,
            f"it has {len(fields)} segments, and {MOST_SEGMENTS} is the most",
            "Remove those that are empty and send it again.",
        )
    try:
        x, y = _origin(path, grid, header, image)
        return [_segment(n, fields[n], grid, image, x, y) for n in sorted(fields)]
    except (ValueError, IndexError) as error:
        if isinstance(error, UnreadableLabel):
            raise
        raise UnreadableLabel(
            path, f"its header is damaged ({error})", "Save the label and send it again."
        ) from error


def _origin(
    path: Path, grid: LabelGrid, header: Mapping[str, str], image: ImageInfo
) -> tuple[int, int]:
    """Column and row of the image at which the file's grid begins."""
    _, rows, columns = grid.layers.shape
    geometry = _GEOMETRY.search(header.get("Segmentation_ConversionParameters", ""))
    if geometry is not None:
        first_x, last_x, first_y, last_y = _whole_numbers(geometry[1].replace(";", " "), 22)[16:20]
        size = [last_x - first_x + 1, last_y - first_y + 1]
        if size != [image.width, image.height]:
            raise wrong_size(path, size, image.width, image.height)
    offset = header.get("Segmentation_ReferenceImageExtentOffset")
    x, y = (0, 0) if offset is None else _whole_numbers(offset, 3)[:2]
    whole = (columns, rows) == (image.width, image.height)
    if offset is None and not whole and not is_blank_voxel(grid):
        raise wrong_size(path, [columns, rows], image.width, image.height)
    if x < 0 or y < 0 or x + columns > image.width or y + rows > image.height:
        raise wrong_size(path, [x + columns, y + rows], image.width, image.height)
    return x, y


def is_blank_voxel(grid: LabelGrid) -> bool:
    """Whether the file is what Slicer saves of empty segments: one voxel."""
    return grid.layers.shape[1:] == (1, 1) and not grid.layers.any()


def _segment(
    number: int, fields: Mapping[str, str], grid: LabelGrid, image: ImageInfo, x: int, y: int
) -> Segment:
    _, rows, columns = grid.layers.shape
    # Slicer before 4.11 wrote one layer for each segment, and its voxels are 1.
    layer = int(fields.get("Layer", number if grid.listed else 0))
    value = int(fields.get("LabelValue", 1 if grid.listed else number + 1))
    if layer < 0 or value == 0:
        raise ValueError(f"segment {number} has layer {layer} and value {value}")
    x0, x1, y0, y1 = 0, columns - 1, 0, rows - 1
    if "Extent" in fields:
        x0, x1, y0, y1 = _whole_numbers(fields["Extent"], 6)[:4]
        x0, y0 = max(x0, 0), max(y0, 0)
    drawn = grid.layers[layer, y0 : max(y1 + 1, 0), x0 : max(x1 + 1, 0)] == value
    rle = None
    if drawn.any():
        rle = Piece.of(drawn, x=x + x0, y=y + y0).encode(image.height, image.width)
    tags = (tag.partition(":") for tag in fields.get("Tags", "").split("|"))
    return Segment(
        id=fields.get("ID", f"Segment_{number}"),
        name=fields.get("Name", ""),
        tags={key[len("ftmtl.") :]: value for key, _, value in tags if key.startswith("ftmtl.")},
        rle=rle,
    )


def _whole_numbers(text: str, count: int) -> list[int]:
    numbers = text.split()
    if len(numbers) != count:
        raise ValueError(f"{count} numbers were expected instead of {text[:40]!r}")
    # The geometry's matrix has fractions; only whole numbers are asked for.
    return [int(number) if re.fullmatch(r"-?\d{1,9}", number) else 0 for number in numbers]
