"""FT-MTL-Net: backbone, proposals and three heads in one network (paper figure 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ftmtl.config import BoxesFrom, NetworkConfig, Part, SettledBy, Variant

from . import boxes as box_ops
from .backbone import STRIDE, Backbone
from .feature_transfer import (
    transfer,
    transfer_averaged,
    transfer_detached,
    transfer_unweighted,
    unblock,
)
from .heads import (
    BINS,
    ClassificationHead,
    Deconvolution,
    DetectionHead,
    PlainClassificationHead,
    SegmentationHead,
    SpatialDetectionHead,
)
from .mask_rcnn import MaskRcnnClassificationHead
from .roi_align import roi_align
from .rpn import RegionProposalNetwork, RpnOutput, propose
from .settle import Settle, consensus, suppression


@dataclass(frozen=True)
class HeadsOutput:
    """Of R RoIs: `deltas` [R, 4], `mask_logits` [R, 2, 28, 28], `class_logits` [R, 3]."""

    deltas: Tensor
    mask_logits: Tensor
    class_logits: Tensor


@dataclass(frozen=True)
class Detections:
    """What was found on one canvas, best first (by 1 − background).

    `boxes` [K, 4] (x1, y1, x2, y2) in canvas pixels, `class_logits` [K, 3], `masks` [K, 28, 28]:
    probabilities inside each box, of the likelier of benign and malignant. `pooled` [K, 1024]: θ1,
    mean-pooled.
    """

    boxes: Tensor
    class_logits: Tensor
    masks: Tensor
    pooled: Tensor


class FTMTLNet(nn.Module):
    """The network; its parts are handed in, `build` makes the paper's.

    `classification` maps (θ1, θ4, mask logits) to class logits [R, 3]; `settle` thins an image's
    boxes [R, 4] with class logits [R, 3] to one a mass.
    """

    def __init__(
        self,
        config: NetworkConfig,
        *,
        backbone: Backbone,
        rpn: RegionProposalNetwork,
        detection: DetectionHead | SpatialDetectionHead,
        segmentation: SegmentationHead,
        classification: nn.Module,
        settle: Settle,
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.rpn = rpn
        self.detection = detection
        self.segmentation = segmentation
        self.classification = classification
        self.settle = settle

    def parts(self, part: Part) -> list[nn.Module]:
        """The modules of a part, as the training stages name them."""
        modules: dict[Part, list[nn.Module]] = {
            "backbone": [self.backbone],
            "rpn": [self.rpn],
            "heads": [self.detection, self.segmentation, self.classification],
        }
        return modules[part]

    def pool(self, theta0: Tensor, boxes: list[Tensor]) -> Tensor:
        """θ1 [ΣR, 7, 7, 1024]: RoIAlign of each image's boxes [R, 4] on θ0 [B, 1024, h, w]."""
        pooled = [
            roi_align(features, rois, stride=STRIDE, size=BINS)
            for features, rois in zip(theta0, boxes, strict=True)
        ]
        return torch.cat(pooled)

    def heads(self, theta1: Tensor) -> HeadsOutput:
        """All three heads on θ1 [R, 7, 7, 1024], in parallel as in training."""
        deltas = self.detection(theta1)
        theta4, mask_logits = self.segmentation(theta1)
        class_logits: Tensor = self.classification(theta1, theta4, mask_logits)
        return HeadsOutput(deltas, unblock(mask_logits).float(), class_logits)

    def proposals(self, output: RpnOutput, extents: Tensor, keep: int) -> list[Tensor]:
        """Each image's proposals [K, 4]; `extents` [B, 2] (width, height) of the valid area."""
        return [
            propose(output, i, extent, pre_nms=self.config.pre_nms, keep=keep,
                    nms_iou=self.config.proposal_nms_iou)[0]
            for i, extent in enumerate(extents)
        ]

    @torch.inference_mode()
    def detect(
        self, images: Tensor, valid: Tensor, *, boxes: list[Tensor] | None = None
    ) -> list[Detections]:
        """Findings of each canvas: images [B, 1, H, W] in 0…1, valid [B, H, W].

        The order is the paper's (2.3): propose, refine the boxes, pool again on the refined
        boxes, masks, transferred features, classes. Then boxes on the same mass are settled, by
        suppression or by consensus, and what is left is outlined.
        Given `boxes` (each [R, 4]) are described as they are, in order, none dropped or moved.
        """
        theta0 = self.backbone(images, valid)
        prepared = self.prepare(theta0)
        if boxes is not None:
            described = self.describe(prepared, boxes)
            return [Detections(b, c, _of_kind(maps, c), pooled) for b, c, maps, pooled in described]
        extents = extents_of(valid)
        proposals = self.proposals(self.rpn(theta0), extents, self.config.proposals_infer)
        refined = self.refine(theta0, proposals, extents)
        settled = [
            self.settle(boxes, class_logits)
            for boxes, class_logits, _, _ in self.describe(prepared, refined)
        ]
        outlined = self.describe(prepared, [boxes for boxes, _ in settled])
        return [
            Detections(boxes, class_logits, _of_kind(maps, class_logits), pooled)
            for (boxes, class_logits), (_, _, maps, pooled) in zip(settled, outlined, strict=True)
        ]

    def refine(self, theta0: Tensor, proposals: list[Tensor], extents: Tensor) -> list[Tensor]:
        """Each image's proposals [R, 4] moved by the detection head; those left of it [R', 4]."""
        deltas = self._refinements(theta0, proposals).split([len(p) for p in proposals])
        refined = [
            box_ops.clip(box_ops.decode(d, p), extent)
            for d, p, extent in zip(deltas, proposals, extents, strict=True)
        ]
        return [boxes[box_ops.sound(boxes)] for boxes in refined]

    def _refinements(self, theta0: Tensor, proposals: list[Tensor]) -> Tensor:
        """Deltas [ΣR, 4] of each image's proposals [R, 4]."""
        deltas: Tensor = self.detection(self.pool(theta0, proposals))
        return deltas

    def prepare(self, theta0: Tensor) -> Tensor:
        """What `describe` looks at, whichever the boxes: here θ0 itself."""
        return theta0

    def describe(
        self, prepared: Tensor, boxes: list[Tensor]
    ) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """For each image: boxes, class logits [R, 3], maps [R, 2, 28, 28], pooled θ1 [R, 1024]."""
        counts = [len(b) for b in boxes]
        theta1 = self.pool(prepared, boxes)
        theta4, mask_logits = self.segmentation(theta1)
        class_logits = self.classification(theta1, theta4, mask_logits)
        maps = unblock(mask_logits).float().sigmoid()
        pooled = theta1.float().mean(dim=(1, 2))
        parts = (each.split(counts) for each in (class_logits, maps, pooled))
        return list(zip(boxes, *parts, strict=True))


def _of_kind(maps: Tensor, class_logits: Tensor) -> Tensor:
    """The map [R, 28, 28] of the likelier kind of mass, also where background is likelier still."""
    kind = class_logits[:, 1:].argmax(dim=1)
    return maps[torch.arange(len(kind), device=kind.device), kind]


def extents_of(valid: Tensor) -> Tensor:
    """Width and height [B, 2] of the valid top left corner of each canvas [B, H, W]."""
    return torch.stack([valid.any(dim=1).sum(dim=1), valid.any(dim=2).sum(dim=1)], dim=1).float()


DETECTION_HEADS: dict[BoxesFrom, Callable[[], DetectionHead | SpatialDetectionHead]] = {
    "mean": DetectionHead,
    "places": SpatialDetectionHead,
}


CLASSIFIERS: dict[Variant, Callable[[], nn.Module]] = {
    "ft-mtl-net": lambda: ClassificationHead(transfer),
    "ft-mtl-net-deep": lambda: ClassificationHead(transfer, deep=True),
    "mask-rcnn": MaskRcnnClassificationHead,
    "no-transfer": PlainClassificationHead,
    "no-weight-map": lambda: ClassificationHead(transfer_unweighted),
    "detached-weight-map": lambda: ClassificationHead(transfer_detached),
    "average-pooling": lambda: ClassificationHead(transfer_averaged),
}


SETTLED_BY: dict[SettledBy, Callable[[NetworkConfig], Settle]] = {
    "suppression": lambda config: partial(suppression, iou=config.detection_nms_iou),
    "consensus": lambda config: consensus,
}


def build(config: NetworkConfig, *, frozen_backbone: int = 0) -> FTMTLNet:
    """The network of `config.variant`; weights but the backbone's from N(0, std), biases 0."""
    backbone = Backbone(frozen=frozen_backbone)
    rpn = RegionProposalNetwork(sizes=config.anchor_sizes, ratios=config.anchor_ratios)
    detection = DETECTION_HEADS[config.boxes_from]()
    segmentation = SegmentationHead()
    hidden: set[nn.Module] = {segmentation.deconv1, segmentation.deconv2}
    _draw([rpn, detection, segmentation], hidden, config)
    # The classifier is what sets models apart, so it comes last: from one seed all else is alike.
    classification = CLASSIFIERS[config.variant]()
    if isinstance(classification, MaskRcnnClassificationHead | ClassificationHead):
        hidden.update(classification.hidden.modules())
    _draw([classification], hidden, config)
    network = FTMTLNet(
        config,
        backbone=backbone,
        rpn=rpn,
        detection=detection,
        segmentation=segmentation,
        classification=classification,
        settle=SETTLED_BY[config.settled_by](config),
    )
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _draw(parts: list[nn.Module], hidden: set[nn.Module], config: NetworkConfig) -> None:
    """New weights for every layer of `parts`."""
    for part in parts:
        for module in part.modules():
            if isinstance(module, nn.Conv2d | Deconvolution | nn.Linear):
                std = config.hidden_init_std if module in hidden else config.init_std
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
