"""A tiny data set of films on disk, and a recipe small enough to train on it in seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ftmtl.config import PAPER, Preset
from ftmtl.datasets.records import Annotation, ImageRecord

HEIGHT, WIDTH = 160, 110
STEPS = 8  # of all stages: two an epoch
PROPOSALS, HEADS, TOGETHER = PAPER.training.stages

TINY: Preset = replace(
    PAPER,
    name="tiny",
    network=replace(PAPER.network, canvas=(64, 48), anchor_sizes=(8, 16), init_std=0.01,
                    hidden_init_std=0.01, pre_nms=60, proposals_train=20, proposals_infer=8),
    targets=replace(PAPER.targets, rpn_samples=16, roi_samples=8, add_truth=True),
    training=replace(
        PAPER.training, batch_size=2, steps_per_epoch=2,
        # The paper's stages, the second as the shipped recipe's last.
        stages=(replace(PROPOSALS, epochs=1),
                replace(HEADS, epochs=2, optimizer="adamw", learning_rate=1e-3, refined_rois=True),
                replace(TOGETHER, epochs=1)),
    ),
)
# Adam turns the rounding of a tiny gradient into a whole step: no sums in another order for it.
TINY_SGD: Preset = replace(TINY, training=replace(TINY.training, stages=tuple(
    replace(stage, optimizer="sgd", learning_rate=None) for stage in TINY.training.stages)))
SAVING: Preset = replace(TINY, training=replace(TINY.training, checkpoint_minutes=0.0))


def film(seed: int, boxes: list[tuple[float, ...]]) -> np.ndarray[Any, Any]:
    """Half an ellipse of breast with a bright disc in each box, 8 bits."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    breast = np.hypot(x / 100, (y - HEIGHT / 2) / 75) < 1
    image = np.where(breast, 110, 3) + random.normal(0, 4, breast.shape)
    for left, top, width, height in boxes:
        inside = np.hypot((x - left - width / 2) / width, (y - top - height / 2) / height) < 0.5
        image[inside] += 90
    return np.asarray(image.clip(0, 255).astype(np.uint8))


def _record(folder: Path, number: int, rows: list[dict[str, Any]], suffix: str) -> ImageRecord:
    image = film(number, [row["bbox"] for row in rows])
    path = folder / f"film{number}{suffix}"
    if suffix == ".jpg":
        Image.fromarray(image).save(path, quality=92)
    else:
        Image.fromarray(image.astype(np.uint16) * 256).save(path)
    annotations = tuple(
        Annotation(id=100 * number + i, **{"category": 1, **row}) for i, row in enumerate(rows)
    )
    return ImageRecord(image_id=number, path=path, width=WIDTH, height=HEIGHT,
                       patient_id=f"W{number // 2}", annotations=annotations)


def make_set(folder: Path) -> list[ImageRecord]:
    """Eight films: three malignant, three benign, two without a mass; PNG and JPEG in turn.

    Film 5 also has a region nobody judged and one that a reader rejected.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places: list[list[dict[str, Any]]] = [
        [{"bbox": (20, 50, 24, 24), "category": 2}],
        [{"bbox": (50, 80, 16, 20), "category": 2,
          "segmentation": [[50, 80, 66, 80, 66, 100, 50, 100]], "mask_source": "annotated"}],
        [{"bbox": (30, 60, 30, 22), "category": 2}, {"bbox": (10, 100, 14, 14)}],
        [{"bbox": (40, 70, 20, 20)}],
        [{"bbox": (12, 90, 26, 18), "class_known": False}],
        [{"bbox": (22, 42, 20, 26)},
         {"bbox": (60, 60, 20, 20), "role": "ignore"},
         {"bbox": (15, 100, 22, 16), "role": "hard_negative"}],
        [],
        [],
    ]
    return [_record(folder, i, rows, ".png" if i % 2 else ".jpg") for i, rows in enumerate(places)]
