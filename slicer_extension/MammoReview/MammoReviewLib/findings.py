"""What was found in one mammogram, as the server and the label files have it.

The same document as `findings.schema.json` of the server, read and written here without it. All
values are immutable: an edit makes new ones, so that the past of a case is a list of them.

Coordinates are pixels of the stored image, x along columns and y along rows, 0 at the left and
top *edge* of the first pixel. A box is (x, y, width, height). Millimetres are at the detector.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from . import masks
from .i18n import _
from .masks import Box, Mask, Rle

SCHEMA_VERSION = 1
LABELS = ("benign", "malignant")
CLASSES = ("background", "benign", "malignant")
MASK_SOURCES = ("annotated", "model", "fitted", "none")
SOURCES = ("model", "annotator")
STATUSES = ("proposed", "accepted", "edited", "added", "rejected")
# A reader's assessment of a mass, and the class that it says: malignant from 4 on.
BIRADS = {
    "2": "benign",
    "3": "benign",
    **dict.fromkeys(("4", "4a", "4b", "4c", "5", "6"), "malignant"),
}
KEPT = frozenset({"accepted", "edited", "added"})  # a person stands by these
HARDLY_A_MASS = 0.1  # as the server's `ftmtl.veto`
EDITED_RULE = (
    "largest p(malignant) / (0.1 + 0.9 x largest p(mass)); malignant above one half, and wherever "
    "a likely mass is; a person's finding is a mass for certain, malignant 1 or 0"
)
OTHER_VIEW = "the other view of the breast"  # in `how`, where the server listened to it
OUTSIDE = 0.01  # pixels by which a box may stick out of its image: rounding

LARGEST_SIDE = 65535

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PATIENT_KEY = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class InvalidFindings(ValueError):
    """A document that breaks the vocabulary; the message is one sentence."""


@dataclass(frozen=True)
class Finding:
    """One mass: where it is, what it is, and who says so."""

    id: str
    label: str  # benign | malignant
    bbox: Box
    source: str  # model | annotator
    status: str  # proposed | accepted | edited | added | rejected
    scores: dict[str, float] | None = field(default=None, hash=False)
    malignancy: float | None = None  # 0 to 1, calibrated, by the malignant-veto
    segmentation: Rle | None = field(default=None, hash=False)
    mask_source: str = "none"  # annotated | model | fitted | none
    area_mm2: float | None = None
    diameter_mm: float | None = None
    comment: str = ""
    birads: str | None = None  # of BIRADS, where a reader gave one

    @property
    def score(self) -> float:
        """How likely it is a mass at all: 1 − background. A person's own finding: 1."""
        return 1.0 if self.scores is None else 1.0 - self.scores["background"]

    @property
    def stands(self) -> bool:
        """It was not rejected."""
        return self.status != "rejected"

    def to_json(self) -> dict[str, Any]:
        """The finding as plain dicts, lists, strings and numbers."""
        document = {**vars(self), "bbox": list(self.bbox)}
        if self.birads is None:  # servers of before it know no such name
            del document["birads"]
        return document

    def mask(self) -> Mask | None:
        """Mask [height, width] of the whole image, or None where only a box is known."""
        return None if self.segmentation is None else masks.decode(self.segmentation)


@dataclass(frozen=True)
class ImageInfo:
    """The mammogram that a document is about."""

    id: str
    width: int
    height: int
    spacing_mm: tuple[float, float] | None = None  # (x, y); None: not calibrated
    laterality: str | None = None
    view: str | None = None
    patient_key: str | None = None

    @property
    def title(self) -> str:
        """Side and view, such as "L MLO"; empty where the file says neither."""
        return " ".join(filter(None, (self.laterality, self.view)))

    @property
    def patient(self) -> str:
        """As much of the patient's key as people compare; empty where the file names nobody."""
        return (self.patient_key or "")[:8]


@dataclass(frozen=True)
class Verdict:
    """What is said of the whole image; `how` names the rule.

    A "no finding" of doubtful masses has a malignancy too: it ranks the image among others.
    """

    malignancy: float
    label: str  # malignant | benign | no finding
    how: str

    @property
    def of_both_views(self) -> bool:
        """Whether the model's masses heard the other view of their breast."""
        return OTHER_VIEW in self.how


@dataclass(frozen=True)
class Findings:
    """The document of one image. `model` is {name, version, sha256}, or None without a model."""

    image: ImageInfo
    findings: tuple[Finding, ...]
    verdict: Verdict
    model: dict[str, str] | None = field(default=None, hash=False)

    def to_json(self) -> dict[str, Any]:
        """The document as plain dicts, lists, strings and numbers."""
        image = asdict(self.image)
        image["spacing_mm"] = image["spacing_mm"] and list(image["spacing_mm"])
        return {
            "schema_version": SCHEMA_VERSION,
            "image": image,
            "model": self.model and dict(self.model),
            "findings": [finding.to_json() for finding in self.findings],
            "verdict": asdict(self.verdict),
        }

    @classmethod
    def from_json(cls, document: Any) -> Findings:
        """Reads and checks a document. Raises InvalidFindings."""
        return _read_document(document)


def verdict_of(findings: Iterable[Finding], how: str = EDITED_RULE) -> Verdict:
    """Of the findings that stand: each counts by how evident it is beside the most evident one.

    The image is malignant also where a likely mass is; "no finding" where no mass is likely.
    A finding that a person stands by is a mass for certain, of malignancy 1 or 0 by its class.
    The server takes its verdict from edited label files in the same way.
    """
    standing = [finding for finding in findings if finding.stands]
    if not standing:
        return Verdict(0.0, "no finding", how)
    said = [_said(finding) for finding in standing]
    evident = HARDLY_A_MASS + (1 - HARDLY_A_MASS) * max(mass for mass, _ in said)
    malignancy = max(mass * malignancy for mass, malignancy in said) / evident
    likely = [malignancy for mass, malignancy in said if mass > 0.5]
    if not likely:
        return Verdict(malignancy, "no finding", how)
    malignant = malignancy > 0.5 or max(likely) > 0.5
    return Verdict(malignancy, "malignant" if malignant else "benign", how)


def with_mask(finding: Finding, mask: Mask | None, source: str, image: ImageInfo) -> Finding:
    """The finding with another mask (None or empty: with none), its sizes measured anew."""
    box = None if mask is None else masks.box_of(mask)
    if mask is None or box is None:
        return replace(
            finding, segmentation=None, mask_source="none", area_mm2=None, diameter_mm=None
        )
    area, diameter = masks.measure(mask, image.spacing_mm)
    return replace(
        finding,
        segmentation=masks.encode(mask),
        mask_source=source,
        area_mm2=area,
        diameter_mm=diameter,
    )


def _said(finding: Finding) -> tuple[float, float]:
    """How evident a mass is, and how malignant."""
    if finding.malignancy is None or finding.scores is None or finding.status in KEPT:
        return 1.0, 1.0 if finding.label == "malignant" else 0.0
    return 1.0 - finding.scores["background"], finding.malignancy


# --- reading a document ---------------------------------------------------------------------


def _read_document(document: Any) -> Findings:
    names = ("schema_version", "image", "model", "findings", "verdict")
    fields = _object(document, "The document", names)
    if not _is_number(fields["schema_version"]) or fields["schema_version"] != SCHEMA_VERSION:
        raise InvalidFindings(
            _("The document is of version {version}, and this panel knows only {known}.").format(
                version=fields["schema_version"], known=SCHEMA_VERSION
            )
        )
    image = _read_image(fields["image"])
    _need(isinstance(fields["findings"], list), "The document", "findings")
    findings = tuple(_read_finding(value, image) for value in fields["findings"])
    if len({finding.id for finding in findings}) < len(findings):
        raise InvalidFindings(_("Two findings have the same id."))
    return Findings(
        image, findings, _read_verdict(fields["verdict"]), _read_model(fields["model"])
    )


def _read_image(value: Any) -> ImageInfo:
    here = "image"
    fields = _object(value, here, tuple(ImageInfo.__dataclass_fields__))
    _need(isinstance(fields["id"], str) and fields["id"] != "", here, "id")
    for side in ("width", "height"):
        number = fields[side]
        _need(_is_number(number, 1, LARGEST_SIDE) and number == int(number), here, side)
    spacing = fields["spacing_mm"]
    if spacing is not None:
        _numbers(spacing, 2, here, "spacing_mm")
        _need(min(spacing) > 0, here, "spacing_mm")
    key = fields["patient_key"]
    _need(fields["laterality"] in ("L", "R", None), here, "laterality")
    _need(fields["view"] is None or isinstance(fields["view"], str), here, "view")
    _need(key is None or _matches(_PATIENT_KEY, key), here, "patient_key")
    return ImageInfo(
        **{
            **fields,
            "width": int(fields["width"]),
            "height": int(fields["height"]),
            "spacing_mm": spacing and (float(spacing[0]), float(spacing[1])),
        }
    )


def _read_model(value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    fields = _object(value, "model", ("name", "version", "sha256"))
    for name in ("name", "version"):
        _need(isinstance(fields[name], str) and fields[name] != "", "model", name)
    _need(_matches(_SHA256, fields["sha256"]), "model", "sha256")
    return fields


def _read_verdict(value: Any) -> Verdict:
    fields = _object(value, "verdict", ("malignancy", "label", "how"))
    _need(_is_number(fields["malignancy"], 0, 1), "verdict", "malignancy")
    _need(fields["label"] in ("malignant", "benign", "no finding"), "verdict", "label")
    _need(isinstance(fields["how"], str) and fields["how"] != "", "verdict", "how")
    return Verdict(float(fields["malignancy"]), fields["label"], fields["how"])


def _read_finding(value: Any, image: ImageInfo) -> Finding:
    name = value.get("id") if isinstance(value, dict) else None
    here = f"finding {name}" if isinstance(name, str) else "finding"
    value = {"birads": None, **value} if isinstance(value, dict) else value
    fields = _object(value, here, tuple(Finding.__dataclass_fields__))
    _need(_matches(_ID, fields["id"]), here, "id")
    for field_name, options in (
        ("label", LABELS), ("mask_source", MASK_SOURCES), ("source", SOURCES), ("status", STATUSES)
    ):
        _need(fields[field_name] in options, here, field_name)
    _need(isinstance(fields["comment"], str), here, "comment")
    birads = fields["birads"]
    known = isinstance(birads, str) and BIRADS.get(birads) == fields["label"]
    _need(birads is None or known, here, "birads")
    scores = fields["scores"]
    if scores is not None:
        _object(scores, here, CLASSES)
        _need(all(_is_number(scores[name], 0, 1) for name in CLASSES), here, "scores")
        _need(abs(sum(scores.values()) - 1) <= 0.01, here, "scores")
    for field_name, most in (("malignancy", 1), ("area_mm2", None), ("diameter_mm", None)):
        number = fields[field_name]
        _need(number is None or _is_number(number, 0, most), here, field_name)
        uncalibrated = most is None and image.spacing_mm is None
        _need(number is None or not uncalibrated, here, field_name)
    x, y, width, height = _numbers(fields["bbox"], 4, here, "bbox")
    inside = min(x, y) >= -OUTSIDE and x + width <= image.width + OUTSIDE
    inside = inside and y + height <= image.height + OUTSIDE
    _need(inside and min(width, height) > 0, here, "bbox")
    rle = fields["segmentation"]
    _need((rle is None) == (fields["mask_source"] == "none"), here, "mask_source")
    if rle is not None:
        runs = _object(rle, here, ("size", "counts"))
        size = _numbers(runs["size"], 2, here, "segmentation")
        _need(list(size) == [image.height, image.width], here, "segmentation")
        counts = _numbers(runs["counts"], None, here, "segmentation")
        whole = all(count >= 0 and count == int(count) for count in counts)
        _need(whole and sum(counts) == image.height * image.width, here, "segmentation")
        _need(any(counts[1::2]), here, "segmentation")
        rle = {"size": [image.height, image.width], "counts": [int(count) for count in counts]}
    return Finding(**{**fields, "bbox": (x, y, width, height), "segmentation": rle})


def _object(value: Any, here: str, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise InvalidFindings(
            _("{where} is not an object of {names}.").format(where=here, names=", ".join(names))
        )
    return dict(value)


def _numbers(value: Any, length: int | None, here: str, name: str) -> tuple[float, ...]:
    _need(isinstance(value, list) and length in (None, len(value)), here, name)
    _need(all(_is_number(number) for number in value), here, name)
    return tuple(value)


def _is_number(value: Any, least: float | None = None, most: float | None = None) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if not abs(value) < 1e300:  # not finite, or a whole number too long to be one here
        return False
    return (least is None or value >= least) and (most is None or value <= most)


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _need(holds: bool, here: str, name: str) -> None:
    if not holds:
        raise InvalidFindings(
            _("{name} of {where} is not as the server and this panel agreed.").format(
                name=name, where=here
            )
        )
