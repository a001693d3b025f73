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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ftmtl.coco_rows import class_known_of, is_identity, is_number, mask_source_of, role_of
from ftmtl.datasets.records import BENIGN, CATEGORY_NAMES, MALIGNANT, Role

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

UNKNOWN_CLASS = 0
CLASSES = (BENIGN, MALIGNANT)
ROLES = get_args(Role)


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
    folded: bool  # each image says in which fold it was held out
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

    def refuse(what: str, fault: str | None) -> None:
        if fault:
            raise InvalidTruth(f"{name}: {what}: {fault}")

    refuse("data set", _document_fault(coco))
    for category in coco.get("categories", []):
        refuse(f"category {category.get('id')!r}", _category_fault(category))

    index: dict[int | str, int] = {}
    sizes: list[tuple[int, int]] = []
    patients: dict[Any, int] = {}
    breasts: dict[Any, int] = {}
    patient: list[int] = []
    breast: list[int] = []
    nameless = 0
    for image in coco["images"]:
        refuse(f"image {image.get('id')!r}", _image_fault(image, index))
        index[image["id"]] = len(index)
        sizes.append((int(image.get("height") or 0), int(image.get("width") or 0)))
        who: Any = image.get("patient_id")
        if who is None or who == "":
            nameless += 1
            who = ("image", image["id"])
        patient.append(patients.setdefault(who, len(patients)))
        side = image.get("laterality")
        breast.append(breasts.setdefault((who, side), len(breasts)) if side else -1)
    unfolded = sum(image.get("fold") is None for image in coco["images"])
    if 0 < unfolded < len(index):
        refuse("data set", f"{unfolded} of {len(index)} images have no fold")

    rows: dict[str, list[Any]] = {role: [] for role in ROLES}
    seen: set[int | str] = set()
    for annotation in coco["annotations"]:
        refuse(f"annotation {annotation.get('id')!r}",
               _annotation_fault(annotation, index, sizes, seen))
        seen.add(annotation["id"])
        rows[role_of(annotation)].append(annotation)
    masses, ignored = rows["mass"], rows["ignore"]
    return Truth(
        name=name,
        image_ids=list(index),
        image_size=sizes,
        patient=_indices(patient),
        patients=len(patients),
        images_without_patient=nameless,
        breast=_indices(breast),
        said_malignant=np.array([i.get("malignant") is True for i in coco["images"]], np.bool_),
        folded=not unfolded,
        mass_id=[mass["id"] for mass in masses],
        mass_image=_indices([index[mass["image_id"]] for mass in masses]),
        mass_box=_boxes([mass["bbox"] for mass in masses]),
        mass_class=_indices([_class_of(mass) for mass in masses]),
        mass_mask=[
            mass.get("segmentation") or None if mask_source_of(mass) == "annotated" else None
            for mass in masses
        ],
        ignore_image=_indices([index[region["image_id"]] for region in ignored]),
        ignore_box=_boxes([region["bbox"] for region in ignored]),
        ignore_class=_indices([_class_of(region) for region in ignored]),
    )


def _document_fault(coco: Any) -> str | None:
    """What is wrong with a data set as a whole, or None."""
    if not isinstance(coco, Mapping) or not isinstance(coco.get("images"), list):
        return "is not COCO: it has no list of images"
    if not coco["images"]:
        return "holds no image"
    for part in ("images", "annotations", "categories"):
        rows = coco.get(part, [] if part == "categories" else None)
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            return f"is not COCO: its {part} are not a list of objects"
    return None


def _category_fault(category: Mapping[str, Any]) -> str | None:
    """What is wrong with a category, or None; others than ours are not looked at."""
    for number, expected in CATEGORY_NAMES.items():
        name = category.get("name", expected)
        if category.get("id") == number and str(name).lower() != expected:
            return f"is {name!r}, not {expected}; `ftmtl dataset coco` renumbers them"
    return None


def _image_fault(image: Mapping[str, Any], index: Mapping[Any, int]) -> str | None:
    """What is wrong with an image, or None; `index` has those before it."""
    if not is_identity(image.get("id")):
        return "has no id"
    if image["id"] in index:
        return "occurs twice"
    size = image.get("height") or 0, image.get("width") or 0
    if not all(is_number(side) and side >= 0 and side == int(side) for side in size):
        return f"its sides {size!r} are no counts of pixels"
    for key in ("patient_id", "laterality"):
        if not is_identity(image.get(key, "")) and image[key] is not None:
            return f"{key} {image[key]!r} is no name"
    said, fold = image.get("malignant"), image.get("fold")
    if said is not None and not isinstance(said, bool):
        return f"malignant {said!r} is neither true nor false"
    if fold is not None and (not isinstance(fold, int) or isinstance(fold, bool) or fold < 0):
        return f"fold {fold!r} is not a number from 0"
    return None


def _annotation_fault(
    annotation: Mapping[str, Any], index: Mapping[Any, int], sizes: Sequence[tuple[int, int]],
    seen: Collection[int | str],
) -> str | None:
    """What is wrong with an annotation, or None; `seen` are the ids of those before it."""
    if not is_identity(annotation.get("id")):
        return "has no id"
    if annotation["id"] in seen:
        return "occurs twice"
    image_id = annotation.get("image_id")
    if not is_identity(image_id) or image_id not in index:
        return f"belongs to unknown image {image_id!r}"
    fault = _box_fault(annotation.get("bbox"), sizes[index[image_id]])
    if fault:
        return fault
    role = role_of(annotation)
    if role not in ROLES:
        return f"role {role!r} is none of {', '.join(ROLES)}"
    if role == "hard_negative":
        return None
    known = class_known_of(annotation)
    if not isinstance(known, bool):
        return f"class_known {known!r} is neither true nor false"
    if known and annotation.get("category_id") not in CLASSES:
        return f"category {annotation.get('category_id')!r} is not 1 or 2"
    return None


def _class_of(annotation: Mapping[str, Any]) -> int:
    return int(annotation["category_id"]) if class_known_of(annotation) else UNKNOWN_CLASS


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
    if entry["category_id"] not in CLASSES:
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
