"""Every number of the network's shape and of its training, in frozen dataclasses.

Two presets: `PAPER` is the paper to the letter (its open points settled as the comments say; but
with either `ftmtl/veto.py` gives a mass its malignancy and an image its verdict); `RECOMMENDED` is
what the starter weights were made with. "matterport" names the Mask R-CNN package whose defaults
the paper inherits (paper 3.3).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Literal, Self, get_args, get_type_hints

Part = Literal["backbone", "rpn", "heads"]
Cost = Literal["proposal", "unified"]
# What classifies an RoI: the paper's network, its baseline, both in one, and four ablations of the
# transfer.
Variant = Literal[
    "ft-mtl-net", "mask-rcnn", "ft-mtl-net-deep", "no-transfer", "no-weight-map",
    "detached-weight-map", "average-pooling",
]
# What the detection head sees of θ1: its mean (paper 2.2.1), or each of its 7×7 places.
BoxesFrom = Literal["mean", "places"]
# How many boxes on one mass become one (network/settle.py).
SettledBy = Literal["suppression", "consensus"]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The network's shape and its proposals; sizes in canvas pixels."""

    canvas: tuple[int, int]  # height, width; multiples of 16
    anchor_sizes: tuple[float, ...]  # square root of the anchor's area
    anchor_ratios: tuple[float, ...]  # height / width
    init_std: float  # of every weight that does not come from ImageNet, but for hidden layers
    pre_nms: int  # proposals kept by objectness before non-maximum suppression
    proposals_train: int  # and after it
    proposals_infer: int
    proposal_nms_iou: float = 0.7
    detection_nms_iou: float = 0.3  # by class (DESIGN of the inference order; matterport)
    settled_by: SettledBy = "suppression"
    variant: Variant = "ft-mtl-net"
    boxes_from: BoxesFrom = "mean"
    # Of the heads' hidden layers: the deconvolutions, and what Mask R-CNN classifies with. 0.05 is
    # the paper's (Table 1, step 2) and about He's √(2 / 1024). At 0.01 two layers in a row hand on
    # a hundredth of what they are given, and no classifier learns to read it
    # (docs/experiments/live_transfer.md).
    hidden_init_std: float = 0.05


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """Which anchors and RoIs teach what."""

    rpn_positive_iou: float = 0.7
    rpn_negative_iou: float = 0.3
    rpn_samples: int = 256
    rpn_positive_fraction: float = 0.5
    roi_samples: int
    roi_positive_fraction: float
    roi_positive_iou: float = 0.5
    add_truth: bool  # true boxes join the proposals, so that heads see positives from the start
    # "false_positives": background RoIs learn an empty mask (paper 3.4.3: "trained with both
    # true positive and false positive detections"); "positives": matterport's rule.
    masks_on: Literal["false_positives", "positives"] = "false_positives"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One optimised step of the paper's Table 1."""

    name: str
    trains: tuple[Part, ...]
    minimises: tuple[Cost, ...]
    epochs: int
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float | None = None  # None: the training's
    # The heads see boxes as the detection head leaves them, besides the proposals: as in reading.
    refined_rois: bool = False


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Ranges of the six operations of paper 3.2; two to five of them are drawn for each image."""

    operations: tuple[int, int] = (2, 5)
    rotate_degrees: float = 15.0
    zoom: tuple[float, float] = (0.8, 1.25)
    crop: float = 0.15  # largest strip that a crop cuts off, as a share of half the height
    gamma: tuple[float, float] = (0.7, 1.4)  # contrast
    gain: tuple[float, float] = (0.85, 1.15)  # contrast
    smooth_sigma: float = 1.0  # canvas pixels
    vertical_flip: bool = True


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the weights are learned."""

    stages: tuple[Stage, ...]
    batch_size: int
    learning_rate: float = 0.005
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    momentum: float = 0.9  # of SGD, as its decay
    weight_decay: float = 1e-4  # matterport; AdamW decays by torch's own 0.01
    clip_norm: float = 5.0  # matterport
    steps_per_epoch: int | None = None  # None: each image about once
    frozen_backbone: int = 0  # stages of ResNet never trained: 1 is the stem, 2 adds layer1
    loss_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)  # λ1, λ2, λ3 of Eq. 10
    augment: AugmentConfig = AugmentConfig()
    checkpoint_minutes: float = 5.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A whole recipe: network, targets and training."""

    name: str
    network: NetworkConfig
    targets: TargetConfig
    training: TrainingConfig

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """The preset that `to_json` wrote; TypeError where a number is missing or unknown."""
        preset = _rebuild(cls, document)
        if not isinstance(preset, cls):
            raise TypeError(f"a preset is a mapping of its settings, not {document!r:.40}")
        return preset


def _rebuild(kind: Any, value: Any) -> Any:
    """A dataclass from nested dicts; lists become the tuples that frozen configs hold."""
    if is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        known = {f.name for f in fields(kind)}
        if unknown := set(value) - known:
            raise TypeError(f"unknown settings {sorted(unknown)} in {kind}")
        return kind(**{k: _rebuild(hints[k], v) for k, v in value.items()})  # type: ignore[operator]
    if isinstance(value, list | tuple):
        inner = Stage if value and isinstance(value[0], dict) else None
        return tuple(_rebuild(inner, v) for v in value)
    return value


PAPER = Preset(
    name="paper",
    network=NetworkConfig(
        canvas=(512, 512),  # 2.1.1
        anchor_sizes=(32, 64, 128, 256, 512),  # matterport, all at each cell of the one C4 map
        anchor_ratios=(0.5, 1, 2),
        init_std=0.05,  # Table 1, step 2
        pre_nms=6000,
        proposals_train=2000,
        proposals_infer=1000,
    ),
    targets=TargetConfig(roi_samples=200, roi_positive_fraction=0.33, add_truth=False),
    training=TrainingConfig(
        stages=(  # Table 1, steps 3 to 5; "iterations" are epochs of 1,000 steps
            Stage(
                name="proposals", trains=("backbone", "rpn"), minimises=("proposal",), epochs=10
            ),
            Stage(name="heads", trains=("heads",), minimises=("unified",), epochs=10),
            Stage(
                name="together", trains=("backbone", "heads"), minimises=("unified",), epochs=10
            ),
        ),
        batch_size=8,
        steps_per_epoch=1000,
    ),
)

RECOMMENDED = Preset(
    name="recommended",
    network=NetworkConfig(
        # A breast is taller than wide: 640×384 shows it a quarter larger than 512×512 does,
        # at less work. 95 % of breast crops are narrower than 0.67 of their height.
        canvas=(640, 384),
        anchor_sizes=(20, 32, 48, 72, 108, 162),
        anchor_ratios=(0.6, 1, 1.6),
        init_std=0.01,  # 0.05 is 3.4 times too hot for the RPN's 3×3×1024 kernels
        pre_nms=1000,
        proposals_train=200,
        proposals_infer=100,
        settled_by="consensus",  # docs/experiments/consensus.md
        variant="ft-mtl-net-deep",  # docs/experiments/heads_on_a_trunk.md, as the boxes and stage 2
        boxes_from="places",
    ),
    targets=TargetConfig(
        rpn_positive_iou=0.6, roi_samples=32, roi_positive_fraction=0.25, add_truth=True
    ),
    training=TrainingConfig(
        stages=(
            Stage(
                name="end to end",
                trains=("backbone", "rpn", "heads"),
                minimises=("proposal", "unified"),
                epochs=9,
            ),
            Stage(
                name="heads",
                trains=("heads",),
                minimises=("unified",),
                epochs=3,
                optimizer="adamw",
                learning_rate=5e-4,
                refined_rois=True,
            ),
        ),
        batch_size=4,
        learning_rate=0.0075,
        schedule="cosine",
        warmup_steps=100,
        frozen_backbone=2,
        # Breasts do not hang upside down, and a short schedule has no use for wild changes.
        augment=AugmentConfig(rotate_degrees=10, crop=0.1, vertical_flip=False),
    ),
)

PRESETS = {preset.name: preset for preset in (PAPER, RECOMMENDED)}

MASKS_ON_POSITIVES = "masks-on-positives"
MODELS: tuple[str, ...] = (*get_args(Variant), MASKS_ON_POSITIVES)


def preset_of(model: str, preset: Preset) -> Preset:
    """`preset` with one of `MODELS` in place of its own network; all else is the same.

    `masks-on-positives` is FT-MTL-Net whose mask cost is matterport's. Raises KeyError.
    """
    if model not in MODELS:
        raise KeyError(model)
    if model == MASKS_ON_POSITIVES:
        ours = preset_of("ft-mtl-net", preset)
        return replace(ours, targets=replace(ours.targets, masks_on="positives"))
    return replace(preset, network=replace(preset.network, variant=model))  # type: ignore[arg-type]
