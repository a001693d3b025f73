"""Truth and predictions as arrays, checked once, so that no metric has to doubt its input.

Truth is a COCO data set (categories 1 benign, 2 malignant), predictions are COCO results. Boxes are
`[x, y, width, height]` in pixels. An annotation's `role` says what it is: "mass" (the default) is
truth, "ignore" is a region that nobody has decided about, "hard_negative" is no truth at all.
An image's `fold` is the part of a cross-validation that it was predicted in; its `malignant` is
what its owner says of the image or breast as a whole, lesions included that are no masses.
Every overlap is a ratio of areas, so films that were stretched need no correction here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftmtl.coco_rows import is_identity, is_number, mask_source_of, role_of

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

BENIGN, MALIGNANT = 1, 2
UNKNOWN_CLASS = 0
ROLES = ("mass", "ignore", "hard_negative")


class InvalidTruth(ValueError):
    """The truth cannot be evaluated against; the message names the file, the id and the reason."""


class InvalidPredictions(ValueError):
    """A prediction that cannot be judged; the message names the file, the entry and the reason."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """I images of P patients with M masses and K ignore regions.

    Where an image has no `patient_id` it is its own patient. `breast` is -1 where the laterality
    is unknown.
    """

    name: str
    image_ids: list[int | str]
    image_size: list[tuple[int, int]]  # (height, width), (0, 0) where the data set does not say
    patient: IntArray  # [I] index of the image's patient, 0…P-1
    patients: int  # P
    images_without_patient: int
    breast: IntArray  # [I] index of the image's breast
    said_malignant: BoolArray  # [I] the owner says so of the image or breast as a whole
    fold: IntArray | None  # [I] the fold that each image was held out in, where all have one
    mass_id: list[Any]
    mass_image: IntArray  # [M]
    mass_box: FloatArray  # [M, 4]
    mass_class: IntArray  # [M] BENIGN, MALIGNANT or UNKNOWN_CLASS
    mass_mask: list[Any]  # [M] COCO segmentation where it is `annotated`, otherwise None
    ignore_image: IntArray  # [K]
    ignore_box: FloatArray  # [K, 4]
    ignore_class: IntArray  # [K] as mass_class; the region is malignant somewhere, or nowhere

    @property
    def images(self) -> int:
        """How many images there are, with and without masses."""
        return len(self.image_ids)

    @property
    def masses(self) -> int:
        """How many masses there are to be found."""
        return len(self.mass_image)

    @property
    def lesion_image(self) -> BoolArray:
        """[I], true where the image holds at least one mass."""
        return np.bincount(self.mass_image, minlength=self.images) > 0

    @property
    def searched_image(self) -> BoolArray:
        """[I], false where one ignore region covers the whole image: nothing is false there.

        Such an image is not among those that false positives are counted on and divided by.
        """
        size = np.asarray(self.image_size, dtype=np.float64)[self.ignore_image]  # height, width
        low, high = self.ignore_box[:, :2], self.ignore_box[:, :2] + self.ignore_box[:, 2:]
        whole = (low <= 0).all(axis=1) & (high >= size[:, ::-1]).all(axis=1) & size.all(axis=1)
        searched = np.ones(self.images, dtype=bool)
        searched[self.ignore_image[whole]] = False
        return searched

    @property
    def unsearchable(self) -> str:
        """Why there is no mass to be found, where there is none."""
        if not self.searched_image.any():
            return "every image lies wholly in a region to ignore"
        return "no mass to be found"


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """N predicted masses, in the order of the file."""

    name: str
    image: IntArray  # [N] index into Truth.image_ids
    box: FloatArray  # [N, 4]
    score: FloatArray  # [N] 1 - p(background)
    probabilities: FloatArray  # [N, 3] background, benign, malignant
    mask: list[Any]  # [N] COCO RLE or None

    @property
    def malignancy(self) -> FloatArray:
        """[N] p_m / (p_b + p_m): given that it is a mass, is it malignant? 0 where both are 0.

        It rises with p_m and falls with p_b, and how sure the network is that there is a mass
        at all does not enter, unlike in p_m itself.
        """
        benign, malignant = self.probabilities[:, 1], self.probabilities[:, 2]
        mass = benign + malignant
        return np.divide(malignant, mass, out=np.zeros_like(mass), where=mass > 0)


def load_json(source: Any, error: type[ValueError], fallback: str) -> tuple[Any, str]:
    """(content, name): a path is read as JSON, anything else is taken as it is, named `fallback`.

    Raises `error`, naming the file.
    """
    if not isinstance(source, str | Path):
        return source, fallback
    try:
        return json.loads(Path(source).read_text(encoding="utf-8-sig")), str(source)
    except OSError as reason:
        raise error(f"{source}: cannot be read: {reason.strerror}") from reason
    except (ValueError, RecursionError) as reason:
        raise error(f"{source}: is not JSON: {reason}") from reason


def _box_fault(box: Any, size: tuple[int, int]) -> str | None:
    """What is wrong with a box in an image of size (height, width), or None."""
    if not (isinstance(box, Sequence) and len(box) == 4 and all(is_number(v) for v in box)):
        return f"bbox {box!r} is not four finite numbers [x, y, width, height]"
    x, y, width, height = box
    if width <= 0 or height <= 0:
        return f"bbox {box!r} has no area"
    rows, columns = size
    if rows and (x >= columns or y >= rows or x + width <= 0 or y + height <= 0):
        return f"bbox {box!r} lies outside its image of {columns} by {rows} pixels"
    return None


def _boxes(boxes: list[Any]) -> FloatArray:
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


def _indices(values: list[int]) -> IntArray:
    return np.asarray(values, dtype=np.int64)


def parse_truth(coco: Mapping[str, Any], name: str = "truth") -> Truth:
    """The COCO data set as arrays; `name` (usually the file) stands in the errors.

    Raises InvalidTruth for a set without images, ids that repeat or point nowhere, boxes without
    area or outside their image, and classes or roles that are not ours.
    """

    def refuse(what: str, reason: str) -> InvalidTruth:
        return InvalidTruth(f"{name}: {what}: {reason}")

    if not isinstance(coco, Mapping) or not isinstance(coco.get("images"), list):
        raise refuse("data set", "is not COCO: it has no list of images")
    if not coco["images"]:
        raise refuse("data set", "holds no image")
    for part in ("images", "annotations", "categories"):
        rows = coco.get(part, [] if part == "categories" else None)
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise refuse("data set", f"is not COCO: its {part} are not a list of objects")
    for category in coco.get("categories", []):
        expected = {BENIGN: "benign", MALIGNANT: "malignant"}.get(category.get("id"))
        if expected and str(category.get("name", expected)).lower() != expected:
            raise refuse(
                f"category {category['id']}",
                f"is {category['name']!r}, not {expected}; `ftmtl dataset coco` renumbers them",
            )

    index: dict[int | str, int] = {}
    sizes: list[tuple[int, int]] = []
    patients: dict[Any, int] = {}
    breasts: dict[Any, int] = {}
    patient: list[int] = []
    breast: list[int] = []
    folds: list[int | None] = []
    said_malignant: list[bool] = []
    nameless = 0
    for image in coco["images"]:
        image_id = image.get("id")
        if not is_identity(image_id):
            raise refuse(f"image {image_id!r}", "has no id")
        if image_id in index:
            raise refuse(f"image {image_id!r}", "occurs twice")
        index[image_id] = len(index)
        size = image.get("height") or 0, image.get("width") or 0
        if not all(is_number(side) and side >= 0 and side == int(side) for side in size):
            raise refuse(f"image {image_id!r}", f"its sides {size!r} are no counts of pixels")
        sizes.append((int(size[0]), int(size[1])))
        who: Any = image.get("patient_id")
        for key in ("patient_id", "laterality"):
            if not is_identity(image.get(key, "")) and image[key] is not None:
                raise refuse(f"image {image_id!r}", f"{key} {image[key]!r} is no name")
        if who is None or who == "":
            nameless += 1
            who = ("image", image_id)
        patient.append(patients.setdefault(who, len(patients)))
        side = image.get("laterality")
        breast.append(breasts.setdefault((who, side), len(breasts)) if side else -1)
        said = image.get("malignant")
        if said is not None and not isinstance(said, bool):
            raise refuse(f"image {image_id!r}", f"malignant {said!r} is neither true nor false")
        said_malignant.append(said is True)
        fold = image.get("fold")
        if fold is not None and (not isinstance(fold, int) or isinstance(fold, bool) or fold < 0):
            raise refuse(f"image {image_id!r}", f"fold {fold!r} is not a number from 0")
        folds.append(fold)
    unfolded = folds.count(None)
    if 0 < unfolded < len(folds):
        raise refuse("data set", f"{unfolded} of {len(folds)} images have no fold")

    mass: dict[str, list[Any]] = {"id": [], "image": [], "box": [], "class": [], "mask": []}
    ignore: dict[str, list[Any]] = {"image": [], "box": [], "class": []}
    seen: set[Any] = set()
    for annotation in coco["annotations"]:
        what = f"annotation {annotation.get('id')!r}"
        if not is_identity(annotation.get("id")):
            raise refuse(what, "has no id")
        if annotation["id"] in seen:
            raise refuse(what, "occurs twice")
        seen.add(annotation["id"])
        if not is_identity(annotation.get("image_id")) or annotation["image_id"] not in index:
            raise refuse(what, f"belongs to unknown image {annotation.get('image_id')!r}")
        at = index[annotation["image_id"]]
        fault = _box_fault(annotation.get("bbox"), sizes[at])
        if fault:
            raise refuse(what, fault)
        role = role_of(annotation)
        if role not in ROLES:
            raise refuse(what, f"role {role!r} is none of {', '.join(ROLES)}")
        if role == "ignore":
            ignore["image"].append(at)
            ignore["box"].append(annotation["bbox"])
        if role == "hard_negative":
            continue
        # Of a region that nobody decided about the class is known only where the set says so.
        known = annotation.get("class_known", role == "mass")
        if not isinstance(known, bool):
            raise refuse(what, f"class_known {known!r} is neither true nor false")
        if known and annotation.get("category_id") not in (BENIGN, MALIGNANT):
            raise refuse(what, f"category {annotation.get('category_id')!r} is not 1 or 2")
        kind = annotation["category_id"] if known else UNKNOWN_CLASS
        if role == "ignore":
            ignore["class"].append(kind)
            continue
        masked = mask_source_of(annotation) == "annotated"
        mass["id"].append(annotation.get("id"))
        mass["image"].append(at)
        mass["box"].append(annotation["bbox"])
        mass["class"].append(kind)
        mass["mask"].append(annotation.get("segmentation") or None if masked else None)

    return Truth(
        name=name,
        image_ids=list(index),
        image_size=sizes,
        patient=_indices(patient),
        patients=len(patients),
        images_without_patient=nameless,
        breast=_indices(breast),
        said_malignant=np.asarray(said_malignant, dtype=np.bool_),
        fold=None if unfolded else _indices([fold for fold in folds if fold is not None]),
        mass_id=mass["id"],
        mass_image=_indices(mass["image"]),
        mass_box=_boxes(mass["box"]),
        mass_class=_indices(mass["class"]),
        mass_mask=mass["mask"],
        ignore_image=_indices(ignore["image"]),
        ignore_box=_boxes(ignore["box"]),
        ignore_class=_indices(ignore["class"]),
    )


def _prediction_fault(entry: Any, index: Mapping[Any, int], truth: Truth) -> str | None:
    """What is wrong with one COCO result, or None."""
    if not isinstance(entry, Mapping):
        return "is not a JSON object"
    for key in ("image_id", "bbox", "category_id", "score", "scores"):
        if key not in entry:
            return f"has no {key!r}"
    image_id = entry["image_id"]
    if not is_identity(image_id) or image_id not in index:
        return f"image_id {image_id!r} is not in {truth.name}"
    if entry["category_id"] not in (BENIGN, MALIGNANT):
        return f"category_id {entry['category_id']!r} is not 1 or 2"
    score, scores = entry["score"], entry["scores"]
    if not is_number(score) or not 0 <= score <= 1:
        return f"score {score!r} is not a number from 0 to 1"
    if not (
        isinstance(scores, Sequence)
        and len(scores) == 3
        and all(is_number(p) and 0 <= p <= 1 for p in scores)
    ):
        return f"scores {scores!r} are not [background, benign, malignant] from 0 to 1"
    if abs(sum(scores) - 1) > 0.02:  # room for half precision and rounding
        return f"scores {scores!r} do not add up to 1"
    if abs(score + scores[0] - 1) > 0.02:
        return f"score {score!r} is not 1 - background of its scores {scores!r}"
    return _box_fault(entry["bbox"], truth.image_size[index[image_id]])


def parse_predictions(
    results: Sequence[Mapping[str, Any]], truth: Truth, name: str = "predictions"
) -> Predictions:
    """The COCO results as arrays; `name` (usually the file) stands in the errors.

    Needed keys: image_id, bbox, category_id, score (1 - background) and scores [background,
    benign, malignant]; `segmentation` is optional. Raises InvalidPredictions for the first entry
    that is wrong, with its position in the file.
    """
    if not isinstance(results, Sequence) or isinstance(results, str | bytes):
        raise InvalidPredictions(f"{name}: is not a list of COCO results")
    index = {image_id: i for i, image_id in enumerate(truth.image_ids)}
    for position, entry in enumerate(results):
        fault = _prediction_fault(entry, index, truth)
        if fault:
            known = isinstance(entry, Mapping) and "image_id" in entry
            at = f" (image {entry['image_id']!r})" if known else ""
            raise InvalidPredictions(f"{name}: prediction {position}{at}: {fault}")
    return Predictions(
        name=name,
        image=_indices([index[entry["image_id"]] for entry in results]),
        box=_boxes([entry["bbox"] for entry in results]),
        score=np.asarray([entry["score"] for entry in results], dtype=np.float64),
        probabilities=np.asarray([e["scores"] for e in results], dtype=np.float64).reshape(-1, 3),
        mask=[entry.get("segmentation") for entry in results],
    )
