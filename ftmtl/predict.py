"""From a mammogram to findings; also "what is in this box?"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ftmtl.canvas import Canvas, CanvasGeometry, make_canvas
from ftmtl.device import pick_device
from ftmtl.findings import (
    Finding,
    Findings,
    ImageInfo,
    ModelInfo,
    Piece,
    Rle,
    Verdict,
)
from ftmtl.mammogram import Mammogram, MammogramHeader
from ftmtl.measure import measure_mask
from ftmtl.network.inference import InferenceNet
from ftmtl.network.model import Detections, FTMTLNet
from ftmtl.other_view import RULE as OTHER_VIEW_RULE
from ftmtl.other_view import told_by, with_other_view
from ftmtl.probabilities import Calibration
from ftmtl.reading import Candidate, Reading, malignancy_of
from ftmtl.veto import IMAGE_RULE, WORD_RULE, called, gather, likelier, monotone
from ftmtl.weights_file import Weights, load_weights

SCORE_FLOOR = 0.001  # what lies under it is never a candidate, also not for a FROC curve
LEAST_SIDE = 1.0  # of a candidate, canvas pixels
MASS_IOU = 0.2  # boxes that overlap more are one mass (paper 2.3)
THRESHOLD_WITHOUT_HELD_OUT_FIGURES = 0.5
VERDICT_RULE = f"malignant-veto by evidence: {IMAGE_RULE}; {WORD_RULE}"


class InvalidBoxes(ValueError):
    """Boxes to be described that are no boxes of the image; says which and why."""


class Predictor:
    """A network with its weights, ready to read mammograms on one device."""

    def __init__(self, network: FTMTLNet, weights: Weights, *, version: str, device: torch.device
                 ) -> None:
        self.network = InferenceNet(network, device)
        self.device = device
        self.preset = weights.preset
        self.metadata: dict[str, Any] = weights.metadata
        name = weights.preset.network.variant.replace("-", "_")
        self.model = ModelInfo(name=name, version=version, sha256=weights.sha256)
        self.calibration = Calibration.of(self.metadata)
        points: dict[str, float] = self.metadata.get("operating_points", {})
        self.default_threshold = points.get("1", THRESHOLD_WITHOUT_HELD_OUT_FIGURES)

    @classmethod
    def load(cls, weights: Path, *, device: str = "auto", version: str | None = None) -> Self:
        """From a file that `ftmtl train` wrote. Raises UnusableWeights, NoSuchDevice."""
        read = load_weights(weights)
        named = version or str(read.metadata.get("version", Path(weights).stem))
        return cls(read.network(), read, version=named, device=pick_device(device))

    def __call__(
        self,
        mammogram: Mammogram,
        *,
        boxes: Sequence[Sequence[float]] | None = None,
        threshold: float | None = None,
        max_findings: int | None = None,
        patient_key: str | None = None,
        others: Sequence[Reading] = (),
    ) -> Findings:
        """The findings of a mammogram, most suspicious of being a mass first.

        Masses that score at least `threshold` (default: one false positive an image on held-out
        films) are findings. Given `boxes` [x, y, width, height], each is described as it lies,
        in order, whatever it scores. `others` are readings of the breast's other view, which is
        then heard (`ftmtl.other_view`). Raises InvalidBoxes.
        """
        image = image_info(mammogram, patient_key)
        if boxes is None:
            reading = with_other_view(self.read(mammogram), others)
            return self.findings(reading, image, threshold=threshold, max_findings=max_findings)
        asked = _checked(boxes, mammogram.pixels.shape)
        alone = self._describe(self.canvas(mammogram), asked)
        told = told_by(alone, others)
        candidates = alone if told is None else told
        how = _how(heard=told is not None)
        return self._document(image, shown=candidates, seen=candidates, how=how)

    def read(self, mammogram: Mammogram) -> Reading:
        """What the network sees, before any threshold."""
        return self.read_canvas(self.canvas(mammogram))

    def read_mirrored(self, mammogram: Mammogram) -> Reading:
        """The same with left and right changed over before the network, and back after it."""
        canvas = self.canvas(mammogram)
        rows, columns = canvas.geometry.filled
        pixels = canvas.pixels.copy()
        pixels[:rows, :columns] = pixels[:rows, :columns][:, ::-1]
        seen = self.read_canvas(replace(canvas, pixels=pixels))
        # The breast's box lies somewhere in the image, and mirrors about its own middle.
        edges = 2 * canvas.geometry.origin[0] + canvas.geometry.extent[0]
        back = tuple(
            replace(c, box=(edges - c.box[0] - c.box[2], *c.box[1:]), mask=c.mask[:, ::-1])
            for c in seen.candidates
        )
        return replace(seen, candidates=back)

    def findings(
        self,
        reading: Reading,
        image: ImageInfo,
        *,
        threshold: float | None = None,
        max_findings: int | None = None,
    ) -> Findings:
        """The document of a reading, as `__call__` would have made it; the network is not run."""
        least = self.default_threshold if threshold is None else threshold
        shown = [c for c in reading.candidates if c.score >= least][:max_findings]
        how = _how(heard=reading.heard)
        return self._document(image, shown=shown, seen=reading.candidates, how=how)

    def _document(
        self, image: ImageInfo, *, shown: Sequence[Candidate], seen: Sequence[Candidate], how: str
    ) -> Findings:
        return Findings(
            image=image,
            model=self.model,
            findings=tuple(_finding(n, c, image) for n, c in enumerate(shown, start=1)),
            verdict=_verdict(seen, how),
        )

    def canvas(self, mammogram: Mammogram) -> Canvas:
        """What the network will be shown of a mammogram; needs no network."""
        return make_canvas(mammogram.pixels, self.preset.network.canvas,
                           pixel_aspect=mammogram.pixel_aspect)

    def read_canvas(self, canvas: Canvas) -> Reading:
        """The same as `read` of the canvas's mammogram."""
        return self.gathered(self._detect(canvas), canvas)

    def gathered(self, detections: Detections, canvas: Canvas) -> Reading:
        """A reading from what the network detected on a canvas."""
        probabilities = self._probabilities(detections.class_logits)
        boxes = detections.boxes.float().cpu().numpy()
        features = _features(detections.pooled.cpu().numpy(), 1 - probabilities[:, 0])
        # A box that refinement moved off the breast is clipped to nothing: it is no candidate.
        sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
        above = np.flatnonzero((1 - probabilities[:, 0] >= SCORE_FLOOR) & (sides >= LEAST_SIDE))
        boxes = boxes[above]
        probabilities = probabilities[above]
        maps = detections.masks.float().cpu().numpy()[above]
        groups = gather(boxes, 1 - probabilities[:, 0], iou=MASS_IOU)
        candidates = tuple(
            _candidate(canvas.geometry, boxes[g[0]], probabilities[list(g)], maps[g[0]])
            for g in groups
        )
        return Reading(candidates, features)

    def _describe(self, canvas: Canvas, boxes: NDArray[np.float64]) -> list[Candidate]:
        on_canvas = canvas.geometry.boxes_to_canvas(boxes)
        detections = self._detect(canvas, torch.from_numpy(on_canvas).float())
        probabilities = self._probabilities(detections.class_logits)
        maps = detections.masks.float().cpu().numpy()
        return [
            Candidate(
                box=(float(b[0]), float(b[1]), float(b[2]), float(b[3])),
                probabilities=p, malignancy=_malignancy(p[None]), mask=m,
            )
            for b, p, m in zip(boxes, probabilities, maps, strict=True)
        ]

    def _detect(self, canvas: Canvas, boxes: Tensor | None = None) -> Detections:
        image = torch.from_numpy(canvas.pixels)[None, None].to(self.device)
        valid = torch.from_numpy(canvas.valid)[None].to(self.device)
        asked = None if boxes is None else [boxes.to(self.device)]
        return self.network.detect(image, valid, boxes=asked)[0]

    def _probabilities(self, logits: Tensor) -> NDArray[np.float64]:
        """Calibrated probabilities [K, 3] of class logits [K, 3]."""
        return self.calibration(logits.double().cpu().numpy())


def _how(*, heard: bool) -> str:
    return f"{VERDICT_RULE}; {OTHER_VIEW_RULE}" if heard else VERDICT_RULE


def _verdict(seen: Sequence[Candidate], how: str) -> Verdict:
    """Of an image, by all candidates, shown or not."""
    label = called([c.score for c in seen], [c.malignancy for c in seen])
    return Verdict(malignancy=malignancy_of(seen), label=label, how=how)


def image_info(mammogram: Mammogram | MammogramHeader, patient_key: str | None) -> ImageInfo:
    """What a document says of its image; never the patient's own id."""
    return ImageInfo(
        id=mammogram.image_id,
        width=mammogram.width,
        height=mammogram.height,
        spacing_mm=mammogram.spacing_mm,
        laterality=mammogram.laterality,
        view=mammogram.view,
        patient_key=patient_key,
    )


def _checked(boxes: Sequence[Sequence[float]], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Boxes [N, 4] cut to the image of `shape` (height, width)."""
    try:
        asked = np.array(boxes, dtype=np.float64).reshape(len(boxes), 4)
    except (TypeError, ValueError) as error:
        raise InvalidBoxes(
            f"boxes must be [[x, y, width, height], …], not {boxes!r:.80}"
        ) from error
    height, width = shape[:2]
    corners = np.concatenate([asked[:, :2], asked[:, :2] + asked[:, 2:]], axis=1)
    cut = np.clip(corners, 0, [width, height, width, height])
    sizes = cut[:, 2:] - cut[:, :2]
    for number, (box, size) in enumerate(zip(asked, sizes, strict=True), start=1):
        if not np.isfinite(box).all() or (size < 1).any():
            raise InvalidBoxes(
                f"box {number}, {box.tolist()}, covers no pixel of the image of {width}×{height}"
            )
    return np.concatenate([cut[:, :2], sizes], axis=1)


def _candidate(geometry: CanvasGeometry, box: NDArray[Any], members: NDArray[np.float64],
               mask: NDArray[np.float32]) -> Candidate:
    """A mass from its best box (x1, y1, x2, y2) on the canvas and all its boxes' [K, 3]."""
    height, width = geometry.image_size
    x, y, w, h = geometry.boxes_to_image(box[None])[0]
    x1, y1 = max(0.0, x), max(0.0, y)
    x2, y2 = min(float(width), x + w), min(float(height), y + h)
    return Candidate((x1, y1, x2 - x1, y2 - y1), members[0], _malignancy(members), mask)


def _malignancy(members: NDArray[np.float64]) -> float:
    """The veto's malignancy of a mass; where background is likelier for all, the best box's."""
    if likelier(members).any():
        return monotone(members)
    return float(members[0, 2] / max(members[0, 1:].sum(), 1e-12))


def _features(pooled: NDArray[np.float32], scores: NDArray[np.float64]) -> NDArray[np.float32]:
    """[1024] of length 1: pooled θ1 [K, 1024] of the boxes, averaged by their scores."""
    mean = scores.astype(np.float32) @ pooled
    length = float(np.linalg.norm(mean))
    return np.asarray(mean / length if length > 0 else mean, dtype=np.float32)


def _finding(number: int, candidate: Candidate, image: ImageInfo) -> Finding:
    rle, area, diameter = _mask(candidate, (image.height, image.width), image.spacing_mm)
    background, benign, malignant = (float(p) for p in candidate.probabilities)
    return Finding(
        id=f"F{number}",
        label="malignant" if candidate.malignancy > 0.5 else "benign",
        scores={"background": background, "benign": benign, "malignant": malignant},
        malignancy=candidate.malignancy,
        bbox=candidate.box,
        segmentation=rle,
        mask_source="none" if rle is None else "model",
        area_mm2=area,
        diameter_mm=diameter,
        source="model",
        status="proposed",
    )


def _mask(candidate: Candidate, size: tuple[int, int], spacing: tuple[float, float] | None
          ) -> tuple[Rle | None, float | None, float | None]:
    """The mask at the image's own resolution, with area and diameter; None where it is empty."""
    return _stretched(candidate.mask.tobytes(), candidate.mask.shape, candidate.box, size, spacing)


@lru_cache(maxsize=256)
def _stretched(map_bytes: bytes, shape: tuple[int, int], box: tuple[float, float, float, float],
               size: tuple[int, int], spacing: tuple[float, float] | None
               ) -> tuple[Rle | None, float | None, float | None]:
    """`_mask`, remembered: a film asked about again has the same masks, whatever the threshold.

    Only the columns of the box are ever filled: a film is large and a mass is small.
    """
    small = np.frombuffer(map_bytes, np.float32).reshape(shape).copy()
    x, y, w, h = box
    left, right = int(np.floor(x)), min(size[1], int(np.ceil(x + w)))
    top, bottom = int(np.floor(y)), min(size[0], int(np.ceil(y + h)))
    # Where each pixel's centre lies in the box, -1…1 from edge to edge.
    across = torch.from_numpy((np.arange(left, right) + 0.5 - x) / w * 2 - 1)
    down = torch.from_numpy((np.arange(top, bottom) + 0.5 - y) / h * 2 - 1)
    grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=2)[None].float()
    probable = F.grid_sample(torch.from_numpy(small)[None, None], grid, mode="bilinear",
                             padding_mode="border", align_corners=False)[0, 0]
    # Where background RoIs learn empty maps, a map is the probability of a mass here at all times
    # that of the pixel being in it. Half its own peak asks the second question alone.
    inside = probable >= min(0.5, float(small.max()) / 2)
    if not inside.any():
        return None, None, None
    piece = Piece.of(inside.numpy(), x=left, y=top)
    area, diameter = measure_mask(piece.pixels, spacing)
    return piece.encode(*size), area, diameter
