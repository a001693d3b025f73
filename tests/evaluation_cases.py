"""Small sets that can be worked by hand, and random ones for comparison with references."""

from __future__ import annotations

from typing import Any

import numpy as np

Coco = dict[str, Any]


def image(image_id: int | str, patient: str | None = None, side: str | None = "L") -> Coco:
    """A 1000 x 1000 image; without a patient it is its own."""
    entry = {"id": image_id, "width": 1000, "height": 1000, "laterality": side, "view": "CC"}
    return {**entry, "patient_id": patient} if patient else entry


def mass(image_id: int | str, bbox: list[float], malignant: bool = False, **more: Any) -> Coco:
    """An annotation; its id is given by `truth`."""
    return {"image_id": image_id, "bbox": bbox, "category_id": 1 + malignant, **more}


def truth(images: list[Coco], masses: list[Coco]) -> Coco:
    """A COCO data set with annotation ids 1, 2, …"""
    return {
        "images": images,
        "annotations": [{"id": i + 1, **m} for i, m in enumerate(masses)],
        "categories": [{"id": 1, "name": "benign"}, {"id": 2, "name": "malignant"}],
    }


def prediction(
    image_id: int | str, bbox: list[float], score: float, malignancy: float = 0.5, **more: Any
) -> Coco:
    """A COCO result whose p_m / (p_b + p_m) is `malignancy`."""
    scores = [1 - score, score * (1 - malignancy), score * malignancy]
    result = {"image_id": image_id, "bbox": bbox, "score": score, "scores": scores}
    return {**result, "category_id": 2 if malignancy > 0.5 else 1, **more}


def random_set(
    seed: int, *, images: int = 30, patients: int = 12, digits: int = 9
) -> tuple[Coco, list[Coco]]:
    """Crowded images, some without masses; `digits` rounds the scores, few of them make ties."""
    draw = np.random.default_rng(seed)
    entries, masses, predictions = [], [], []
    for i in range(1, images + 1):
        entries.append(image(i, f"P{draw.integers(patients)}", "LR"[draw.integers(2)]))
        for _ in range(draw.integers(0, 4)):
            box = [*draw.uniform(0, 800, 2), *draw.uniform(60, 200, 2)]
            masses.append(mass(i, box, bool(draw.integers(2))))
            for _ in range(draw.integers(0, 4)):  # none, one, or several on the same mass
                near = [v + draw.normal(0, 15) for v in box]
                score = round(float(draw.beta(3, 2)), digits)
                predictions.append(prediction(i, near, score, float(draw.uniform())))
        for _ in range(draw.integers(0, 8)):
            box = [*draw.uniform(0, 800, 2), *draw.uniform(60, 200, 2)]
            score = round(float(draw.beta(2, 3)), digits)
            predictions.append(prediction(i, box, score, float(draw.uniform())))
    draw.shuffle(predictions)
    return truth(entries, masses), predictions
