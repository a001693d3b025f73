"""What a request for inference asks, checked before anything is done about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import HTTPException

from ftmtl.datasets.labels import LABEL_SUFFIX
from ftmtl.device import NoSuchDevice, pick_device

MOST_BOXES = 200
PARAMETERS = (
    "boxes", "threshold", "max_findings", "device", "result_extension", "result_compress", "output",
    "fresh", "save_label", "label_tag",
)  # fmt: skip
# MONAI Label and its clients (3D Slicer, OHIF, CVAT) add these; they change nothing here.
PASSED_OVER = {
    "model", "image", "label", "session", "source", "client_id", "result_dtype",
    "restore_label_idx", "label_info", "logging", "timeout", "gpus", "multi_gpu",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a request asks, checked."""

    boxes: list[list[float]] | None = None
    threshold: float | None = None
    max_findings: int | None = None
    device: str = "auto"
    extension: str = LABEL_SUFFIX  # of the file that goes with the answer
    compress: bool = True
    json_alone: bool = False
    fresh: bool = False  # ask the network even if the answer is known

    @classmethod
    def of(cls, request: dict[str, Any], *, device: str) -> Question:
        """The question in a request; 400 with the reason where a part of it makes no sense.

        A misspelt parameter is one: its answer would be taken for what was asked.
        """
        if unknown := set(request) - set(PARAMETERS) - PASSED_OVER:
            raise HTTPException(
                400,
                f"Unknown parameters: {', '.join(sorted(unknown))}. "
                f"Parameters: {', '.join(PARAMETERS)}",
            )
        boxes = request.get("boxes")
        if boxes is not None:
            if not isinstance(boxes, list) or not 0 < len(boxes) <= MOST_BOXES:
                raise HTTPException(400, f"boxes is a list of 1 to {MOST_BOXES} [x, y, w, h]")
            for box in boxes:
                if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
                    raise HTTPException(400, f"A box is [x, y, width, height], not {box!r}")
                if box[2] <= 0 or box[3] <= 0:
                    raise HTTPException(400, f"The box {box!r} has no area")
            boxes = [[float(v) for v in box] for box in boxes]
        threshold = request.get("threshold")
        if threshold is not None and not (_is_number(threshold) and 0 <= threshold <= 1):
            raise HTTPException(400, "threshold is a number from 0 to 1")
        most = request.get("max_findings")
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise HTTPException(400, "max_findings is a whole number from 1")
        extension = request.get("result_extension") or LABEL_SUFFIX
        if extension not in (LABEL_SUFFIX, ".nrrd"):
            raise HTTPException(400, f"result_extension is {LABEL_SUFFIX} or .nrrd (a label map)")
        return cls(
            boxes=boxes,
            threshold=None if threshold is None else float(threshold),
            max_findings=most,
            device=check_device(request.get("device") or device),
            extension=extension,
            compress=bool(request.get("result_compress", True)),
            json_alone=request.get("output") == "json",
            fresh=request.get("fresh") is True,
        )


def check_device(device: Any) -> str:
    """The device of that name, as torch names it; 400 where this machine has none."""
    if not isinstance(device, str):
        raise HTTPException(400, f"A device is named by text, not {device!r}")
    try:
        return str(pick_device(device))
    except NoSuchDevice as error:
        raise HTTPException(400, str(error)) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
