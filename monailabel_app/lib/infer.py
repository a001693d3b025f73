"""The inference task: one mammogram in, the findings document and a file of it out."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import torch
from fastapi import HTTPException
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from ftmtl.datasets.labels import LABEL_SUFFIX
from ftmtl.findings import Findings, decode_rle
from ftmtl.label_file import write_label_file
from ftmtl.mammogram import Mammogram, UnreadableMammogram, read_mammogram
from ftmtl.patient_key import PatientKey
from ftmtl.predict import InvalidBoxes, Predictor

from .models import MODEL, ModelRegistry, ModelVersion

logger = logging.getLogger(__name__)

LABELS = {"benign": 1, "malignant": 2}
MOST_BOXES = 200


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

    @classmethod
    def of(cls, request: dict[str, Any], *, device: str) -> Question:
        """The question in a request; 400 with the reason where a part of it makes no sense."""
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
        )


class FindMasses(InferTask):  # type: ignore[misc]
    """Boxes, masks and malignancy of the masses in a mammogram."""

    def __init__(self, registry: ModelRegistry, key: PatientKey, *, device: str) -> None:
        super().__init__(
            type=InferType.SEGMENTATION,
            labels=LABELS,
            dimension=2,
            description="Breast masses in a mammogram: box, mask, benign or malignant",
        )
        self.registry, self.key, self.device = registry, key, check_device(device)
        self._loaded: dict[str, tuple[ModelVersion, Predictor]] = {}
        self._loading = threading.Lock()

    def is_valid(self) -> bool:
        """There is a model in service."""
        return self.registry.current() is not None

    def info(self) -> dict[str, Any]:
        """What `/info/` says of the model: also which version is in service, and all others."""
        current = self.registry.current()
        return {
            **super().info(),
            "name": MODEL,
            "version": current.version if current else None,
            "sha256": current.sha256 if current else None,
            "device": self.device,
            "metadata": self._metadata(),
            "versions": [
                {**v.to_json(), "in_service": current is not None and v.version == current.version}
                for v in self.registry.versions()
            ],
            "publications": self.registry.publications(),
        }

    def get_path(self, validate: bool = True) -> str | None:
        """The weights in service."""
        current = self.registry.current()
        return str(self.registry.path(current)) if current else None

    def warm_up(self) -> None:
        """Loads the model and runs it once, so that the first reader does not wait for that."""
        height, width = 1024, 768
        y, x = np.mgrid[:height, :width]
        breast = (x / 500) ** 2 + ((y - 512) / 480) ** 2 < 1
        noise = np.random.default_rng(0).integers(800, 1600, size=breast.shape)
        pixels = np.where(breast, noise, 0).astype(np.uint16)
        nobody = Mammogram(pixels=pixels, image_id="warm-up", path=Path("warm-up"))
        self.predictor(self.device)(nobody, boxes=[[100, 400, 200, 200]])
        self.predictor(self.device)(nobody)

    def predictor(self, device: str) -> Predictor:
        """The model in service, loaded; again when another version has been published."""
        current = self.registry.current()
        if current is None:
            raise HTTPException(503, "No version of the model is in service")
        with self._loading:
            loaded = self._loaded.get(device)
            if loaded is None or loaded[0].sha256 != current.sha256:
                file = self.registry.path(current)
                predictor = Predictor.load(file, device=device, version=current.version)
                loaded = self._loaded[device] = (current, predictor)
                logger.info("Version %s of %s is loaded on %s", current.version, MODEL, device)
            return loaded[1]

    def __call__(self, request: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """The answer to a request whose `image` is a path that the app has vouched for.

        Returns the file (None where only JSON is wanted; the caller deletes it) and the document.
        """
        question = Question.of(request, device=self.device)
        began = time.monotonic()
        mammogram = read(Path(request["image"]), request.get("root"))
        was_read = time.monotonic()
        try:
            findings = self.predictor(question.device)(
                mammogram,
                boxes=question.boxes,
                threshold=question.threshold,
                max_findings=question.max_findings,
                patient_key=self.key.of(mammogram),
            )
        except InvalidBoxes as error:
            raise HTTPException(400, str(error)) from error
        was_found = time.monotonic()
        file = None if question.json_alone else _write(findings, question)
        document = findings.to_json()
        if question.extension != LABEL_SUFFIX:
            document["label_names"] = LABELS  # the stock plugin reads a label map by it
        logger.info(
            "%d findings: read %.3f s, model %.3f s, wrote %.3f s",
            len(findings.findings),
            *(was_read - began, was_found - was_read, time.monotonic() - was_found),
        )
        return file, document

    def _metadata(self) -> dict[str, Any]:
        loaded = self._loaded.get(self.device)
        return dict(loaded[1].metadata) if loaded else {}


def read(path: Path, root: str | None) -> Mammogram:
    """The mammogram; 422 with the reason, and without the server's folders, where it is none."""
    try:
        return read_mammogram(path, root=Path(root) if root else None)
    except UnreadableMammogram as error:
        reason = f"The image cannot be read: {error.reason}. {error.remedy}"
        raise HTTPException(422, reason) from error


def check_device(device: Any) -> str:
    """A name that torch knows and this machine has; else 400."""
    if device in ("auto", "cpu"):
        return str(device)
    cards = torch.cuda.device_count()
    if device == "cuda" and cards:
        return "cuda"
    names = {f"cuda:{i}": f"cuda:{i}" for i in range(cards)}
    names |= {torch.cuda.get_device_name(i): f"cuda:{i}" for i in range(cards)}
    if isinstance(device, str) and device in names:
        return names[device]
    known = ", ".join(["auto", "cpu", *names])
    raise HTTPException(400, f"There is no device {device!r}. Devices: {known}")


def _write(findings: Findings, question: Question) -> str:
    with tempfile.NamedTemporaryFile(suffix=question.extension, delete=False) as stream:
        file = Path(stream.name)
    if question.extension == LABEL_SUFFIX:
        write_label_file(file, findings)
    else:
        _write_label_map(file, findings, compress=question.compress)
    return str(file)


def _write_label_map(file: Path, findings: Findings, *, compress: bool) -> None:
    """A plain label map, one slice, as ITK sees the image: 1 benign, 2 malignant on top."""
    image = findings.image
    pixels = np.zeros((image.height, image.width), np.uint8)
    for finding in sorted(findings.findings, key=lambda f: LABELS[f.label]):
        if finding.segmentation is not None:
            pixels[decode_rle(finding.segmentation)] = LABELS[finding.label]
    x, y = image.spacing_mm or (1.0, 1.0)
    header = {
        "space": "left-posterior-superior",
        "space directions": [[x, 0, 0], [0, y, 0], [0, 0, 1]],
        "space origin": [0, 0, 0],
        "kinds": ["domain", "domain", "domain"],
        "encoding": "gzip" if compress else "raw",
    }
    nrrd.write(str(file), pixels.T[:, :, None], header, compression_level=1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
