"""Records from a server's labels: what radiologists said about the studies.

Where they lie, below the server's workspace; nothing there is ever changed, only added:

    labels/<image>/<tag>/0003.json        one submission: who, when, of what, standing
    labels/<image>/<tag>/0003.seg.nrrd    its label file

`<image>` is the image id, percent-encoded where a file system needs it. A submission counts from
the moment its `.json` is there. The newest one that is not `conflict` speaks for the image; if that
one is a `withdrawal`, nothing does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args
from urllib.parse import quote, unquote

from ftmtl.digest import sha256_of
from ftmtl.findings import Finding, Findings, ImageInfo
from ftmtl.label_file import UnreadableLabel, read_label_file
from ftmtl.mammogram import LONGEST_NAME, UnreadableMammogram, read_header

from .published import hidden
from .records import BENIGN, MALIGNANT, Annotation, ImageRecord, Role

logger = logging.getLogger(__name__)

Standing = Literal["label", "conflict", "withdrawal"]
LABEL_SUFFIX = ".seg.nrrd"
FINAL = "final"  # the tag of labels that training learns from


@dataclass(frozen=True, kw_only=True)
class LabelVersion:
    """One submission, as its `.json` says it; `file` is None for a withdrawal."""

    version: int
    image: dict[str, Any]  # ImageInfo and pixel_aspect; no path, which may hold a name
    tag: str
    standing: Standing
    time: str  # ISO 8601, UTC
    annotator: str | None
    file: str | None = None
    sha256: str | None = None  # of the file as it was sent
    model: dict[str, Any] | None = None  # whose proposals the annotator began from
    findings: dict[str, int] | None = None  # how many of each label
    submission_id: str | None = None
    based_on: int | None = None
    source: str | None = None  # what was sent, where `file` had to be made from it
    comment: str | None = None
    side: str | None = None  # of the patient: "train" | "validation"
    image_sha256: str | None = None  # where the image's id is but its path

    @classmethod
    def read(cls, file: Path) -> Self:
        """The submission in `file`. Raises ValueError where it is not one."""
        try:
            row = json.loads(file.read_text(encoding="utf-8"))
            known = {f.name for f in fields(cls)}
            version = cls(**{k: v for k, v in row.items() if k in known})
        except (OSError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{file}: not the record of a label ({error})") from error
        if version.standing not in get_args(Standing) or version.version != int(file.stem):
            raise ValueError(f"{file}: not the record of a label")
        return version

    def to_json(self) -> dict[str, Any]:
        """As written to disk and shown to clients."""
        return asdict(self)

    def is_of(self, sha256: str | None) -> bool:
        """Whether it may be of the image with that digest: always, where either is unknown."""
        return None in (self.image_sha256, sha256) or self.image_sha256 == sha256


def image_folder(labels: Path, image_id: str) -> Path:
    """Where the labels of an image lie; always directly below `labels`."""
    name = quote(image_id, safe="")
    if len(name) > LONGEST_NAME or name.startswith("."):
        name = hashlib.sha256(image_id.encode()).hexdigest()
    return labels / name


def read_versions(folder: Path) -> list[LabelVersion]:
    """All submissions in `labels/<image>/<tag>`, oldest first; what is no record is passed over."""
    versions = []
    for file in folder.glob("[0-9]*.json"):
        try:
            versions.append(LabelVersion.read(file))
        except ValueError:
            # The id of an image that is no DICOM is its path, which may hold a name.
            image = folder.parent.name
            place = f"{image}/{folder.name}" if set(image) <= set("0123456789.") else folder.name
            logger.warning("%s/%s is not a label's record; it is passed over", place, file.name)
    return sorted(versions, key=lambda v: v.version)


def current(versions: Iterable[LabelVersion]) -> LabelVersion | None:
    """The submission that speaks for the image, of `versions` in order; None where none does."""
    newest = None
    for version in versions:
        if version.standing != "conflict":
            newest = version
    return newest if newest is not None and newest.standing == "label" else None


def current_labels(labels: Path, tag: str = FINAL) -> list[tuple[LabelVersion, Path]]:
    """Every image's submission that speaks for it, with its label file, in order of folder."""
    found = []
    for folder in sorted(labels.glob(f"*/{tag}")):
        version = current(read_versions(folder))
        if version is not None and version.file is not None:
            found.append((version, folder / version.file))
    return found


def read_labels(
    workspace: Path,
    studies: Path | None = None,
    *,
    images: Mapping[str, Path] | None = None,
    named: Callable[[str], str] = str,
) -> tuple[list[ImageRecord], list[str]]:
    """The labelled images of a server as records for training, and the labels left out, with why.

    `images` says where an image with a label lies; else every header below `studies`, and of what
    was uploaded or came from a PACS, is read to find out, and a label is left out where another
    image has the name of its own now. `named` is what an image is called by its id in the reasons.
    `patient_id` is the keyed hash, never the id in the file.
    """
    searched = images is None
    if images is None:
        folders = [workspace / "uploads", workspace / "pacs"]
        images = images_by_id(*([studies] if studies else []), *folders)
    records, left_out = [], []
    for version, file in current_labels(workspace / "labels"):
        try:
            info = info_of(version.image)
            aspect = float(version.image.get("pixel_aspect", 1.0))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            image = named(unquote(file.parent.parent.name))
            left_out.append(f"{image}: what {version.version:04d}.json says of it cannot be read "
                            f"({error!r}). Send the label again")
            continue
        path = images.get(info.id)
        by_name = version.image_sha256 is not None
        if path is None or (searched and by_name and not version.is_of(sha256_of(path))):
            why = ", or another image has its name now" if by_name else ""
            left_out.append(f"{named(info.id)}: it is no longer among the studies{why}")
            continue
        try:
            findings = read_label_file(file, image=info)
        except UnreadableLabel as error:
            left_out.append(f"{named(info.id)}: its label {file.name} cannot be used: "
                            f"{error.reason}. {error.remedy}")
            continue
        records.append(to_record(findings, path, pixel_aspect=aspect))
    return sorted(records, key=lambda r: str(r.image_id)), left_out


def info_of(image: dict[str, Any]) -> ImageInfo:
    """The image as findings documents name it, from what the server's lists say of it."""
    row = {k: v for k, v in image.items() if k not in ("pixel_aspect", "examination", "sha256")}
    row["spacing_mm"] = row["spacing_mm"] and tuple(row["spacing_mm"])
    return ImageInfo(**row)


def images_by_id(*folders: Path) -> dict[str, Path]:
    """Image id -> file, of every mammogram below the folders; of two copies the first."""
    images: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if hidden(file, folder) or not file.is_file():
                continue
            with contextlib.suppress(UnreadableMammogram):
                images.setdefault(read_header(file, root=folder).image_id, file)
    return images


def to_record(findings: Findings, path: Path, *, pixel_aspect: float = 1.0) -> ImageRecord:
    """What one document teaches: masses, regions to ignore and hard negatives."""
    image = findings.image
    annotations = (_annotation(finding, image) for finding in findings.findings)
    return ImageRecord(
        image_id=image.id,
        path=path,
        width=image.width,
        height=image.height,
        patient_id=image.patient_key or f"image {image.id}",
        patient_known=image.patient_key is not None,
        laterality=image.laterality,
        view=image.view,
        pixel_aspect=pixel_aspect,
        annotations=tuple(a for a in annotations if a is not None),
    )


def _annotation(finding: Finding, image: ImageInfo) -> Annotation | None:
    # A box may overhang the border by rounding; what training sees lies inside the image.
    x, y, width, height = finding.bbox
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + width, float(image.width)), min(y + height, float(image.height))
    if right <= left or bottom <= top:
        return None
    # Somebody looked at it and left it, agreed with it, drew it, or threw it out.
    role: Role = "mass"
    if finding.status == "proposed":
        role = "ignore"
    elif finding.status == "rejected":
        role = "hard_negative"
    return Annotation(
        id=f"{image.id}/{finding.id}",
        bbox=(left, top, right - left, bottom - top),
        category=MALIGNANT if finding.label == "malignant" else BENIGN,
        # As it came: a mask that the model drew stays "model", which training leaves alone.
        mask_source=finding.mask_source,
        segmentation=None if finding.segmentation is None else dict(finding.segmentation),
        role=role,
        class_known=role != "ignore",
        assessment=None if finding.birads is None else f"BI-RADS {finding.birads}",
    )
