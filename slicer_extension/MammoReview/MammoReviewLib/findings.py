"""What was found in one mammogram, as the server and the label files have it.

The same document as `findings.schema.json` of the server, read and written here without it. All
values are immutable: an edit makes new ones, so that the past of a case is a list of them.

Coordinates are pixels of the stored image, x along columns and y along rows, 0 at the left and
top *edge* of the first pixel. A box is (x, y, width, height). Millimetres are at the detector.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from . import masks
from .masks import Box, Mask, Rle

SCHEMA_VERSION = 1
LABELS = ("benign", "malignant")
CLASSES = ("background", "benign", "malignant")
MASK_SOURCES = ("annotated", "model", "fitted", "none")
SOURCES = ("model", "annotator")
STATUSES = ("proposed", "accepted", "edited", "added", "rejected")
KEPT = frozenset({"accepted", "edited", "added"})  # a person stands by these
EDITED_RULE = "maximum over findings; a person's label counts 0 or 1"
OUTSIDE = 0.01  # pixels by which a box may stick out of its image: rounding

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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

    @property
    def score(self) -> float:
        """How likely it is a mass at all: 1 − background. A person's own finding: 1."""
        return 1.0 if self.scores is None else 1.0 - self.scores["background"]

    @property
    def stands(self) -> bool:
        """It was not rejected."""
        return self.status != "rejected"

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


@dataclass(frozen=True)
class Verdict:
    """What is said of the whole image; `how` names the rule."""

    malignancy: float
    label: str  # malignant | benign | no finding
    how: str


@dataclass(frozen=True)
class Findings:
    """The document of one image. `model` is {name, version, sha256}, or None without a model."""

    image: ImageInfo
    findings: tuple[Finding, ...]
    verdict: Verdict
    model: dict[str, str] | None = field(default=None, hash=False)

    def get(self, finding_id: str) -> Finding:
        """The finding of that id; KeyError without one."""
        for finding in self.findings:
            if finding.id == finding_id:
                return finding
        raise KeyError(finding_id)

    def to_json(self) -> dict[str, Any]:
        """The document as plain dicts, lists, strings and numbers."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, document: Any) -> Findings:
        """Reads and checks a document. Raises InvalidFindings."""
        raise NotImplementedError


def verdict_of(findings: Iterable[Finding], how: str = EDITED_RULE) -> Verdict:
    """The worst of the findings that stand.

    A finding that a person stands by counts by its class, 1 or 0; a proposal by its malignancy.
    The server takes its verdict from edited label files in the same way.
    """
    standing = [finding for finding in findings if finding.stands]
    if not standing:
        return Verdict(0.0, "no finding", how)
    malignant = any(finding.label == "malignant" for finding in standing)
    worst = max(_malignancy(finding) for finding in standing)
    return Verdict(worst, "malignant" if malignant else "benign", how)


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


def _malignancy(finding: Finding) -> float:
    if finding.malignancy is None or finding.status in KEPT:
        return 1.0 if finding.label == "malignant" else 0.0
    return finding.malignancy
