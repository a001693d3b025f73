"""A label as it comes in: everything is checked before anything is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from ftmtl.datasets.labels import LABEL_SUFFIX, info_of
from ftmtl.findings import Finding, Findings, ImageInfo, Status, Verdict
from ftmtl.label_file import (
    HOW,
    UnreadableLabel,
    largest_part,
    read_label_file,
    write_label_file,
)
from ftmtl.label_segments import digest

from .label_store import Submission
from .refusals import NAME, check_object

LONGEST_COMMENT = 2000


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What goes with a label that is sent, checked."""

    client_id: str | None = None
    submission_id: str | None = None
    based_on: int | None = None
    comment: str | None = None
    label_info: Sequence[dict[str, Any]] | None = None
    to_pacs: bool = False

    @classmethod
    def of(cls, params: Any) -> Wishes:
        """The wishes in a request's `params`; 400 with the reason where one makes no sense."""
        params = check_object(params or {}, "params")
        for name in ("client_id", "submission_id"):
            value = params.get(name)
            if value is not None and not (isinstance(value, str) and NAME.fullmatch(value)):
                raise HTTPException(
                    400, f"{name} is 1 to 128 letters, digits, spaces and . _ - : + @"
                )
        based_on = params.get("based_on")
        if based_on is not None and (isinstance(based_on, bool) or not isinstance(based_on, int)):
            raise HTTPException(400, "based_on is the version that you began from, 0 for none")
        comment = params.get("comment")
        if comment is not None and not (
            isinstance(comment, str) and len(comment) <= LONGEST_COMMENT
        ):
            raise HTTPException(400, f"comment is a text of up to {LONGEST_COMMENT} letters")
        label_info = params.get("label_info")
        if label_info is not None and not (
            isinstance(label_info, list) and all(isinstance(row, dict) for row in label_info)
        ):
            raise HTTPException(400, "label_info is a list of objects {name, idx}")
        to_pacs = params.get("to_pacs", False)
        if not isinstance(to_pacs, bool):
            raise HTTPException(400, "to_pacs is true or false")
        return cls(**{name: params[name] for name in cls.__dataclass_fields__ if name in params})


def check_submission(
    sent: Path,
    image: dict[str, Any],
    tag: str,
    wishes: Wishes,
    folder: Path,
    seen: Callable[[], Findings | None] = lambda: None,
) -> Submission:
    """The submission of a file that was sent for an image; 422 where it is no label of it.

    What is no label file of ours, or would be read otherwise without `label_info`, is written as
    one into `folder`. So is what holds masks of the model's (`seen`: all that it saw in the image)
    and does not say that they are.
    """
    info = info_of(image)
    try:
        findings = read_label_file(sent, image=info, label_info=wishes.label_info)
        told = _recognised(findings, seen) if findings.model is None else findings
    except UnreadableLabel as error:
        reason = f"The label cannot be used: {error.reason}. {error.remedy}"
        raise HTTPException(422, reason) from error
    label = None
    if told != findings or not _speaks_for_itself(sent, info, findings, wishes):
        label = folder / f"label{LABEL_SUFFIX}"
        write_label_file(label, told)
    return Submission(
        image=image,
        tag=tag,
        sent=sent,
        label=label,
        model=asdict(told.model) if told.model else None,
        findings=dict(Counter(f.label for f in told.findings)),
        annotator=wishes.client_id,
        submission_id=wishes.submission_id,
        based_on=wishes.based_on,
        comment=wishes.comment,
    )


def _recognised(findings: Findings, seen: Callable[[], Findings | None]) -> Findings:
    """Of a label without a model: masks that are the model's to the pixel are its, not drawn.

    A label map cannot say who drew what, and one that comes back as it was sent would make the
    model's outlines the truth.
    """
    if not findings.findings or (model_s := seen()) is None:
        return findings
    size = findings.image.height, findings.image.width
    masks: dict[str, Finding] = {}
    for finding in model_s.findings:
        if (piece := finding.piece()) is not None:
            masks.setdefault(digest(largest_part(piece).encode(*size)), finding)
    told: list[Finding] = []
    for finding in findings.findings:
        its = masks.pop(digest(finding.segmentation), None)
        if its is not None:
            status: Status = "accepted" if its.label == finding.label else "edited"
            finding = replace(its, id=finding.id, label=finding.label, status=status)
        told.append(finding)
    if told == list(findings.findings):
        return findings
    verdict = Verdict.of(told, how=HOW)
    return replace(findings, model=model_s.model, findings=tuple(told), verdict=verdict)


def _speaks_for_itself(sent: Path, image: ImageInfo, findings: Findings, wishes: Wishes) -> bool:
    if not sent.name.lower().endswith(LABEL_SUFFIX):
        return False
    if not wishes.label_info:
        return True
    try:
        return read_label_file(sent, image=image) == findings
    except UnreadableLabel:
        return False
