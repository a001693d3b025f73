"""Malignant-veto (paper 2.3): from boxes to masses, to the image, to the patient.

A mass is a box together with all boxes that overlap it. One malignant box is enough to call the
mass malignant. The paper's formula for its score (the largest malignant score, or one minus the
largest benign one) is not monotone: a box of benign 0.35 and malignant 0.4 scores 0.4, and one of
benign 0.4 and malignant 0.35 scores 0.6. So no preset uses it; the one here never falls when a box
becomes more malignant.

In the paper the worst of an image's masses speaks for it, however doubtful that mass is. Of many
doubtful ones some look malignant by chance. So in `of_image` a mass counts by how evident it is
(docs/experiments/image_score.md). That ranks images. What one is `called` holds to the paper, of
likely masses: where one is malignant, so is the image.

Probabilities are rows of [background, benign, malignant]. Which boxes take part? In the paper those
whose largest entry is not background. But a box of background 0.44, benign 0.22 and malignant 0.34
is likelier a mass than not, and would be passed over because nobody knows which. So all take part
that are `likelier` a mass than background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

ImageWord = Literal["malignant", "benign", "no finding"]

BACKGROUND, BENIGN, MALIGNANT = 0, 1, 2
HARDLY_A_MASS = 0.1
IMAGE_RULE = f"largest p(malignant) / ({HARDLY_A_MASS:g} + {1 - HARDLY_A_MASS:g} x largest p(mass))"
WORD_RULE = "malignant above one half, and wherever a likely mass is"


def likelier(probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows [N, 3] are likelier a mass, of either kind, than background."""
    return np.asarray(probabilities[:, BACKGROUND] < 0.5)


def monotone(probabilities: NDArray[np.float64]) -> float:
    """Malignancy of one mass from its boxes [K, 3]: the largest p_m / (p_b + p_m).

    Of boxes likelier a mass than not. It is above ½ exactly where one of them is likelier
    malignant than benign, and never falls when a box becomes more malignant or joins the mass. 0
    where no box is left.
    """
    found = probabilities[likelier(probabilities)]
    if not len(found):
        return 0.0
    return float((found[:, MALIGNANT] / found[:, BENIGN:].sum(axis=1)).max())


def gather(boxes: ArrayLike, scores: ArrayLike, *, iou: float = 0.2) -> list[tuple[int, ...]]:
    """Gather boxes [N, 4] (x1 y1 x2 y2) with scores [N] into groups of indices, best first.

    Greedy: the box with the highest score, and all that are left with IoU above `iou` to it, are
    one group, by falling score; then the next.
    """
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    left = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    groups: list[tuple[int, ...]] = []
    while left.size:
        together = _iou(corners[left[0]], corners[left]) > iou
        together[0] = True  # a box without area has IoU 0 even to itself
        groups.append(tuple(int(member) for member in left[together]))
        left = left[~together]
    return groups


def of_image(scores: ArrayLike, malignancies: ArrayLike) -> float:
    """Malignancy of an image from its masses' scores p(mass) [K] and malignancies [K]; 0 for none.

    The largest p(malignant) = p(mass) · malignancy, set against the largest p(mass): the most
    evident mass speaks with nearly its own malignancy, one half as evident with half of it. Where
    even the best is hardly a mass, p(mass) below `HARDLY_A_MASS`, little is left of either.
    """
    mass, malignancy = np.asarray(scores, np.float64), np.asarray(malignancies, np.float64)
    if not mass.size:
        return 0.0
    evident = HARDLY_A_MASS + (1 - HARDLY_A_MASS) * mass.max()
    return float((mass * malignancy).max() / evident)


def called(scores: ArrayLike, malignancies: ArrayLike) -> ImageWord:
    """What an image is called by its masses' scores p(mass) [K] and malignancies [K].

    "No finding" where nothing is likelier a mass than background. A reader who is shown a likely
    mass as malignant is not told that the image is benign, also where an evident cyst beside it
    keeps `of_image` below one half.
    """
    mass, malignancy = np.asarray(scores, np.float64), np.asarray(malignancies, np.float64)
    likely = mass > 0.5
    if not likely.any():
        return "no finding"
    malignant = of_image(mass, malignancy) > 0.5 or bool((malignancy[likely] > 0.5).any())
    return "malignant" if malignant else "benign"


def worst(malignancies: Sequence[float]) -> float:
    """Malignancy of a patient from her images: the maximum (paper 2.3), 0 without any."""
    return max(malignancies, default=0.0)


def _iou(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of one box [4] with others [N, 4]; 0 where both have no area."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    area = (box[2:] - box[:2]).prod()
    union = area + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    iou: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou
