"""The records that every data set is read into."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

from ftmtl.findings import MaskSource

BENIGN, MALIGNANT = 1, 2
CATEGORY_NAMES = {BENIGN: "benign", MALIGNANT: "malignant"}
CATEGORY_OF = {name: category for category, name in CATEGORY_NAMES.items()}


class Kind(IntEnum):
    """What films are dealt by, to folds and to batches."""

    NORMAL = 0
    BENIGN = 1
    MALIGNANT = 2
    UNKNOWN = 3


# What an annotation is to training: a mass; a region that is neither positive nor negative (a
# finding nobody judged); a place that a reader said holds no mass.
Role = Literal["mass", "ignore", "hard_negative"]


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One box [x, y, width, height] in image pixels, with its class and, if known, its mask."""

    id: int | str
    bbox: tuple[float, float, float, float]
    category: int
    class_known: bool = True
    mask_source: MaskSource = "none"
    segmentation: dict[str, Any] | list[list[float]] | None = None  # COCO RLE or polygons
    role: Role = "mass"
    assessment: str | None = None  # as its owner says it: "BI-RADS 4a", "BENIGN_WITHOUT_CALLBACK"


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """One mammogram of a data set; `pixel_aspect` is height ÷ width of a stored pixel."""

    image_id: int | str
    path: Path
    width: int
    height: int
    patient_id: str
    patient_known: bool = True  # else `patient_id` is made up, and each image stands alone
    laterality: str | None = None
    view: str | None = None
    pixel_aspect: float = 1.0
    assessment: str | None = None  # of the breast, where its owner says one
    # What its owner says of the image or breast as a whole, lesions included that are no masses.
    malignant: bool | None = None
    split: str | None = None  # its owner's: "training" or "test"
    annotations: tuple[Annotation, ...] = ()

    @property
    def masses(self) -> tuple[Annotation, ...]:
        """The annotations that are masses."""
        return tuple(a for a in self.annotations if a.role == "mass")

    @property
    def kind(self) -> Kind:
        """Of its masses; one that is known to be malignant decides, then one of unknown class."""
        known = {mass.category for mass in self.masses if mass.class_known}
        if MALIGNANT in known:
            return Kind.MALIGNANT
        if not all(mass.class_known for mass in self.masses):
            return Kind.UNKNOWN
        return Kind.BENIGN if known else Kind.NORMAL
