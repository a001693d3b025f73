"""The one vocabulary: what was found in one mammogram, and its JSON document.

Every part of the system speaks it: the network writes it, the server sends it, the panel in
3D Slicer edits it, training learns from it. numpy and the standard library are all it needs.

Coordinates are pixels of the stored image, x along columns and y along rows, 0 at the left and
top *edge* of the first pixel. A box is ``[x, y, width, height]``. A mask is COCO's uncompressed
run-length code: ``{"size": [height, width], "counts": [...]}``, runs down the columns, the first
run one of zeros. Millimetres are at the detector.

`ftmtl/schema/findings.schema.json` (JSON Schema, draft-07) says the same to other programs. What
a schema cannot express (runs that do not add up, a box outside its image, an id used twice) is
checked here alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ftmtl.json_fields import Fields, InvalidFindings, check_choice, check_range, check_text
from ftmtl.rle import Piece, Rle, box_of, check_runs, decode_rle, encode_rle
from ftmtl.veto import ImageWord, called, of_image

__all__ = [
    "Finding",
    "Findings",
    "ImageInfo",
    "InvalidFindings",
    "Label",
    "ModelInfo",
    "Piece",
    "Rle",
    "Verdict",
    "box_of",
    "decode_rle",
    "encode_rle",
]

SCHEMA_VERSION = 1
SCHEMA_FILE = Path(__file__).parent / "schema" / "findings.schema.json"

Label = Literal["benign", "malignant"]
MaskSource = Literal["annotated", "model", "fitted", "none"]
Source = Literal["model", "annotator"]
Status = Literal["proposed", "accepted", "edited", "added", "rejected"]

LABELS: tuple[Label, ...] = get_args(Label)
# A reader's assessment of a mass, and the class that it says: malignant from 4 on, as in the paper.
BIRADS: dict[str, Label] = {
    "2": "benign",
    "3": "benign",
    **dict.fromkeys(("4", "4a", "4b", "4c", "5", "6"), "malignant"),
}
CLASSES = ("background", "benign", "malignant")
OPTIONAL = ("birads",)  # names of a finding that a document may leave out
KEPT: frozenset[Status] = frozenset({"accepted", "edited", "added"})

LARGEST_SIDE = 65535  # DICOM's Rows and Columns are 16 bits wide
OUTSIDE = 0.01  # pixels by which a box may stick out of its image: rounding, not error

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PATIENT_KEY = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One mass: where it is, what it is, and who says so."""

    id: str
    label: Label
    scores: dict[str, float] | None = None  # background, benign, malignant; they add up to 1
    malignancy: float | None = None  # 0 to 1, by the veto
    bbox: tuple[float, float, float, float]
    segmentation: Rle | None = None
    mask_source: MaskSource = "none"
    area_mm2: float | None = None
    diameter_mm: float | None = None  # longest Feret diameter
    source: Source
    status: Status
    comment: str = ""
    birads: str | None = None  # of BIRADS, where a reader gave one

    def __post_init__(self) -> None:
        here = f"Finding {self.id!r}"
        if not _ID.fullmatch(self.id):
            raise InvalidFindings(
                f"{here}: an id is 1 to 64 letters, digits, dots, dashes or underscores and "
                "starts with a letter or digit."
            )
        check_choice(self.label, LABELS, f"{here}: label")
        check_choice(self.mask_source, get_args(MaskSource), f"{here}: mask_source")
        check_choice(self.source, get_args(Source), f"{here}: source")
        check_choice(self.status, get_args(Status), f"{here}: status")
        if self.birads is not None:
            check_choice(self.birads, tuple(BIRADS), f"{here}: birads")
            if self.label != BIRADS[self.birads]:
                raise InvalidFindings(
                    f"{here}: with BI-RADS {self.birads} its label must be {BIRADS[self.birads]}."
                )
        if self.scores is not None:
            if set(self.scores) != set(CLASSES):
                raise InvalidFindings(f"{here}: scores are those of {', '.join(CLASSES)}.")
            for name in CLASSES:
                check_range(self.scores[name], 0, 1, f"{here}: scores.{name}")
            if abs(sum(self.scores.values()) - 1) > 0.01:
                raise InvalidFindings(f"{here}: scores must add up to 1.")
        for name, value, most in (
            ("malignancy", self.malignancy, 1),
            ("area_mm2", self.area_mm2, math.inf),
            ("diameter_mm", self.diameter_mm, math.inf),
        ):
            if value is not None:
                check_range(value, 0, most, f"{here}: {name}")
        if len(self.bbox) != 4 or not all(math.isfinite(side) for side in self.bbox):
            raise InvalidFindings(f"{here}: bbox must be four finite numbers.")
        if not (self.bbox[2] > 0 and self.bbox[3] > 0):
            raise InvalidFindings(f"{here}: the width and height of bbox must be above 0.")
        if (self.segmentation is None) != (self.mask_source == "none"):
            raise InvalidFindings(
                f"{here}: mask_source must be 'none' without a segmentation, and only then."
            )
        if self.segmentation is not None:
            height, width = self.segmentation["size"]
            counts = self.segmentation["counts"]
            check_runs(height, width, counts, f"{here}: segmentation")
            if not any(counts[1::2]):
                raise InvalidFindings(
                    f"{here}: the segmentation is empty; it must be null without a mask."
                )

    def mask(self) -> NDArray[np.bool_] | None:
        """Mask [height, width] of the whole image, or None where only a box is known."""
        return None if self.segmentation is None else decode_rle(self.segmentation)

    def piece(self) -> Piece | None:
        """The same without the emptiness around it, which is most of a mammogram."""
        return None if self.segmentation is None else Piece.of_rle(self.segmentation)

    def to_json(self) -> dict[str, Any]:
        """The finding as plain dicts, lists, strings and numbers, ready for `json.dump`."""
        return _finding_to_json(self)

    @classmethod
    def from_json(cls, value: object, *, number: int = 1) -> Finding:
        """Read and check a finding; `number` names one that has no id in the error's message."""
        return _finding_from_json(value, number)


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """The mammogram that a document is about."""

    id: str
    width: int
    height: int
    spacing_mm: tuple[float, float] | None = None  # (x, y)
    laterality: str | None = None
    view: str | None = None
    patient_key: str | None = None  # 16 hexadecimal digits: see ftmtl.patient_key

    def __post_init__(self) -> None:
        if not self.id:
            raise InvalidFindings("The image: id must not be empty.")
        for name, side in (("width", self.width), ("height", self.height)):
            check_range(side, 1, LARGEST_SIDE, f"The image: {name}")
        if self.spacing_mm is not None and not (
            len(self.spacing_mm) == 2 and all(math.isfinite(s) and s > 0 for s in self.spacing_mm)
        ):
            raise InvalidFindings("The image: spacing_mm must be two numbers above 0, or null.")
        if self.laterality not in ("L", "R", None):
            raise InvalidFindings("The image: laterality must be 'L', 'R' or null.")
        # A real hospital number almost never looks like this: none gets in by mistake.
        if self.patient_key is not None and not _PATIENT_KEY.fullmatch(self.patient_key):
            raise InvalidFindings(
                "The image: patient_key must be 16 hexadecimal digits (a keyed hash) or null."
            )


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The weights that proposed the findings."""

    name: str
    version: str
    sha256: str

    def __post_init__(self) -> None:
        for name in ("name", "version", "sha256"):
            check_text(getattr(self, name), f"The model: {name}")
        if not self.name or not self.version:
            raise InvalidFindings("The model: name and version must not be empty.")
        if not _SHA256.fullmatch(self.sha256):
            raise InvalidFindings("The model: sha256 must be 64 hexadecimal digits.")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is said of the whole image; `how` names the rule that was used.

    "No finding" means that nothing is likelier a mass than background; its malignancy still ranks
    the image among others.
    """

    malignancy: float
    label: ImageWord
    how: str

    def __post_init__(self) -> None:
        check_range(self.malignancy, 0, 1, "The verdict: malignancy")
        check_choice(self.label, get_args(ImageWord), "The verdict: label")
        if not self.how:
            raise InvalidFindings("The verdict: how must say which rule was used.")

    @classmethod
    def of(cls, findings: Iterable[Finding], *, how: str) -> Verdict:
        """Of the findings that were not rejected, by the rules of an image (`ftmtl.veto`).

        A person's finding is a mass for certain, of malignancy 1 or 0 by its label: one that is
        malignant makes the image so. "No finding" has malignancy 0 where there is none: no mass
        came above the threshold, or none was left.
        """
        standing = [finding for finding in findings if finding.status != "rejected"]
        if not standing:
            return cls(malignancy=0.0, label="no finding", how=how)
        scores, malignancies = zip(*map(_said, standing), strict=True)
        return cls(
            malignancy=of_image(scores, malignancies), label=called(scores, malignancies), how=how
        )


def _said(finding: Finding) -> tuple[float, float]:
    """How evident a mass is, and how malignant."""
    if finding.malignancy is None or finding.scores is None or finding.status in KEPT:
        return 1.0, 1.0 if finding.label == "malignant" else 0.0
    return 1.0 - finding.scores["background"], float(finding.malignancy)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The document of one image. A label that nobody's model took part in has no `model`."""

    image: ImageInfo
    model: ModelInfo | None
    findings: tuple[Finding, ...]
    verdict: Verdict

    def __post_init__(self) -> None:
        image = self.image
        seen: set[str] = set()
        for finding in self.findings:
            here = f"Finding {finding.id!r}"
            if finding.id in seen:
                raise InvalidFindings(f"{here}: its id is used twice.")
            seen.add(finding.id)
            x, y, width, height = finding.bbox
            if not (
                min(x, y) >= -OUTSIDE
                and x + width <= image.width + OUTSIDE
                and y + height <= image.height + OUTSIDE
            ):
                raise InvalidFindings(
                    f"{here}: bbox must lie inside the image of {image.width} × {image.height} "
                    "pixels."
                )
            rle = finding.segmentation
            if rle is not None and list(rle["size"]) != [image.height, image.width]:
                raise InvalidFindings(
                    f"{here}: the size of the segmentation must be that of the image, "
                    f"[{image.height}, {image.width}]."
                )
            measured = finding.area_mm2 is not None or finding.diameter_mm is not None
            if image.spacing_mm is None and measured:
                raise InvalidFindings(
                    f"{here}: area_mm2 and diameter_mm must be null where the image has no spacing."
                )

    def kept(self) -> tuple[Finding, ...]:
        """Those that a person stands by (accepted, edited or added): the truth for training."""
        return tuple(finding for finding in self.findings if finding.status in KEPT)

    def heading(self) -> str:
        """What the image is called, in words that hold beside the findings that are shown with it.

        Those that are no likely mass have no part in the verdict.
        """
        standing = [finding for finding in self.findings if finding.status != "rejected"]
        label = self.verdict.label
        if label == "no finding":
            return "no likely mass" if standing else label
        if label == "benign" and any(finding.label == "malignant" for finding in standing):
            return "no likely malignant mass"
        if label == "malignant" and self.verdict.malignancy <= 0.5:
            return "malignant mass"  # the number beside it is the image's
        return label

    def to_json(self) -> dict[str, Any]:
        """The document as plain dicts, lists, strings and numbers, ready for `json.dump`."""
        spacing = self.image.spacing_mm
        image = asdict(self.image) | {
            "width": int(self.image.width),
            "height": int(self.image.height),
            "spacing_mm": None if spacing is None else [float(side) for side in spacing],
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "image": image,
            "model": None if self.model is None else asdict(self.model),
            "findings": [finding.to_json() for finding in self.findings],
            "verdict": asdict(self.verdict) | {"malignancy": float(self.verdict.malignancy)},
        }

    @classmethod
    def from_json(cls, document: object) -> Findings:
        """Read and check a document; raises InvalidFindings with the reason."""
        fields = Fields(
            document,
            "The document",
            ("schema_version", "image", "model", "findings", "verdict"),
        )
        version = fields.integer("schema_version")
        if version != SCHEMA_VERSION:
            raise InvalidFindings(
                f"The document: schema_version is {version}, and this program knows only "
                f"{SCHEMA_VERSION}."
            )
        model = fields["model"]
        return cls(
            image=_image_from_json(fields["image"]),
            model=None if model is None else _model_from_json(model),
            findings=tuple(
                Finding.from_json(finding, number=number)
                for number, finding in enumerate(fields.items("findings"), start=1)
            ),
            verdict=_verdict_from_json(fields["verdict"]),
        )


# --- out of Python and back -----------------------------------------------------------------


def _finding_to_json(finding: Finding) -> dict[str, Any]:
    """Numbers as Python's own: networks give numpy's, which json refuses."""

    def number(value: float | None) -> float | None:
        return None if value is None else float(value)

    scores, rle = finding.scores, finding.segmentation
    return {
        "id": finding.id,
        "label": finding.label,
        "scores": None if scores is None else {name: float(scores[name]) for name in CLASSES},
        "malignancy": number(finding.malignancy),
        "bbox": [float(side) for side in finding.bbox],
        "segmentation": None
        if rle is None
        else {"size": [int(n) for n in rle["size"]], "counts": [int(n) for n in rle["counts"]]},
        "mask_source": finding.mask_source,
        "area_mm2": number(finding.area_mm2),
        "diameter_mm": number(finding.diameter_mm),
        "source": finding.source,
        "status": finding.status,
        "comment": finding.comment,
        # Programs of before it know no such name; they read what says nothing of it.
        **({} if finding.birads is None else {"birads": finding.birads}),
    }


def _finding_from_json(value: object, number: int) -> Finding:
    name = value.get("id") if isinstance(value, dict) else None
    here = f"Finding {name!r}" if isinstance(name, str) else f"Finding number {number}"
    names = tuple(name for name in Finding.__dataclass_fields__ if name not in OPTIONAL)
    fields = Fields(value, here, names, optional=OPTIONAL)
    box = fields.numbers("bbox", 4)
    rle: Rle | None = None
    if fields["segmentation"] is not None:
        runs = Fields(fields["segmentation"], f"{here}: segmentation", ("size", "counts"))
        rle = {"size": runs.integers("size", 2), "counts": runs.integers("counts")}
    scores: dict[str, float] | None = None
    if fields["scores"] is not None:
        three = Fields(fields["scores"], f"{here}: scores", CLASSES)
        scores = {score: three.number(score) for score in CLASSES}
    return Finding(
        id=fields.text("id"),
        label=fields.choice("label", LABELS),
        scores=scores,
        malignancy=fields.optional_number("malignancy"),
        bbox=(box[0], box[1], box[2], box[3]),
        segmentation=rle,
        mask_source=fields.choice("mask_source", get_args(MaskSource)),
        area_mm2=fields.optional_number("area_mm2"),
        diameter_mm=fields.optional_number("diameter_mm"),
        source=fields.choice("source", get_args(Source)),
        status=fields.choice("status", get_args(Status)),
        comment=fields.text("comment"),
        birads=fields.optional_choice("birads", tuple(BIRADS)),
    )


def _image_from_json(value: object) -> ImageInfo:
    fields = Fields(value, "The image", tuple(ImageInfo.__dataclass_fields__))
    spacing = None
    if fields["spacing_mm"] is not None:
        x, y = fields.numbers("spacing_mm", 2)
        spacing = (x, y)
    return ImageInfo(
        id=fields.text("id"),
        width=fields.integer("width"),
        height=fields.integer("height"),
        spacing_mm=spacing,
        laterality=fields.optional_text("laterality"),
        view=fields.optional_text("view"),
        patient_key=fields.optional_text("patient_key"),
    )


def _model_from_json(value: object) -> ModelInfo:
    fields = Fields(value, "The model", tuple(ModelInfo.__dataclass_fields__))
    return ModelInfo(
        name=fields.text("name"), version=fields.text("version"), sha256=fields.text("sha256")
    )


def _verdict_from_json(value: object) -> Verdict:
    fields = Fields(value, "The verdict", tuple(Verdict.__dataclass_fields__))
    return Verdict(
        malignancy=fields.number("malignancy"),
        label=fields.choice("label", get_args(ImageWord)),
        how=fields.text("how"),
    )
