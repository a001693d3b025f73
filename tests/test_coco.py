"""Data sets: COCO in and out, what is refused, stretched films, who is held out, fitted masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_sets import breast, write_dicom
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy import ndimage

from ftmtl.canvas import fit_geometry
from ftmtl.datasets.coco import InvalidDataset, read_coco, to_coco
from ftmtl.datasets.film import read_film
from ftmtl.datasets.fitted import fitted_mask
from ftmtl.datasets.records import Annotation, ImageRecord
from ftmtl.datasets.split import hold_out, part_of
from ftmtl.datasets.stretched_cbis import read_stretched_cbis
from ftmtl.mammogram import UnreadableMammogram

IMAGES = Path("films")


def document() -> dict[str, Any]:
    """Two films of two women, one without masses."""
    return {
        "images": [
            {"id": 7, "file_name": "a/1.png", "width": 40, "height": 60, "patient_id": "W1",
             "laterality": "L", "view": "CC", "pixel_aspect": 1.25},
            {"id": "b", "file_name": "2.png", "width": 50, "height": 50},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "bbox": [1, 2.5, 10, 20], "category_id": 2},
            {"id": "x", "image_id": 7, "bbox": [5, 6, 7, 8], "category_id": 1,
             "class_known": False, "role": "ignore",
             "segmentation": [[5, 6, 12, 6, 12, 14, 5, 14]]},
        ],
    }


def written(folder: Path, content: Any) -> Path:
    file = folder / "set.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_a_set_is_read_as_it_says(tmp_path: Path) -> None:
    first, second = read_coco(written(tmp_path, document()), IMAGES)
    assert first == ImageRecord(
        image_id=7, path=IMAGES / "a/1.png", width=40, height=60, patient_id="W1", laterality="L",
        view="CC", pixel_aspect=1.25, annotations=first.annotations,
    )
    mass, ignored = first.annotations
    assert mass == Annotation(id=1, bbox=(1, 2.5, 10, 20), category=2)
    assert mass.class_known and mass.mask_source == "none" and mass.role == "mass"
    assert ignored.mask_source == "annotated" and not ignored.class_known
    assert first.masses == (mass,)
    # Nothing is known of the second woman: she is nobody else.
    assert second.annotations == () and second.patient_id == "image b" and second.pixel_aspect == 1
    assert first.patient_known and not second.patient_known
    assert [i.get("patient_id") for i in to_coco([first, second])["images"]] == ["W1", None]


def test_a_category_is_what_its_name_says(tmp_path: Path) -> None:
    content = document()
    content["categories"] = [{"id": 2, "name": "Benign"}, {"id": 1, "name": "malignant"},
                             {"id": 9, "name": "calcification"}]  # of which there is none
    content["annotations"][1]["iscrowd"] = content["annotations"][0]["iscrowd"] = 1
    first, _ = read_coco(written(tmp_path, content), IMAGES)
    assert [a.category for a in first.annotations] == [1, 2]
    assert [a.role for a in first.annotations] == ["ignore", "ignore"]  # crowds
    # Nobody said what they are, and reading and writing them does not say it either.
    assert not any(a["class_known"] for a in to_coco([first])["annotations"])


def test_patient_0_is_a_patient(tmp_path: Path) -> None:
    content = document()
    for image in content["images"]:
        image["patient_id"] = 0
    assert {r.patient_id for r in read_coco(written(tmp_path, content), IMAGES)} == {"0"}


boxes = st.tuples(st.integers(0, 20), st.integers(0, 20), st.floats(0.5, 10), st.integers(1, 30))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(boxes, st.sampled_from([1, 2]), st.booleans(),
                  st.sampled_from(["annotated", "model", "fitted", "none"]),
                  st.sampled_from(["mass", "ignore", "hard_negative"])),
        max_size=5,
    ),
    st.sampled_from([None, "L", "R"]), st.floats(0.2, 5), st.text(min_size=1),
    st.sampled_from([None, True, False]),
)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], side: str | None, aspect: float,
    patient: str, malignant: bool | None,
) -> None:
    runs = {"size": [60, 40], "counts": [0, 2400]}
    record = ImageRecord(
        image_id="é/1", path=Path("sub/é 1.png"), width=40, height=60, patient_id=patient,
        laterality=side, pixel_aspect=aspect, malignant=malignant,
        annotations=tuple(
            Annotation(id=i, bbox=box, category=category, class_known=known, mask_source=source,
                       segmentation=runs if source == "annotated" else None, role=role)
            for i, (box, category, known, source, role) in enumerate(rows)
        ),
    )
    folder = tmp_path_factory.mktemp("set")
    again = read_coco(written(folder, to_coco([record])), Path())
    assert again == [record]


def test_cocos_own_reader_reads_what_is_written(tmp_path: Path) -> None:
    records = read_coco(written(tmp_path, document()), IMAGES)
    own = COCO(str(written(tmp_path, to_coco(records))))
    assert {c["name"]: c["id"] for c in own.dataset["categories"]} == {"benign": 1, "malignant": 2}
    [polygon] = own.loadAnns(own.getAnnIds(imgIds=7, catIds=1))
    assert polygon["area"] == 56 == own.annToMask(polygon).sum()


def image(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda d: d["images"][0].update(changes)


def mass(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda d: d["annotations"][0].update(changes)


def named(one: Any, a: str, other: Any, b: str) -> Callable[[dict[str, Any]], None]:
    return lambda d: d.update(categories=[{"id": one, "name": a}, {"id": other, "name": b}])


def without(part: str, key: str) -> Callable[[dict[str, Any]], None]:
    return lambda d: d[part][0].pop(key) and None


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda d: d.pop("images"), "'images'"),
        (lambda d: d.update(annotations={}), "lists"),
        (lambda d: d.update(images=None), "lists"),
        (lambda d: d["images"].append("film"), "an image has no 'id'"),
        (lambda d: d["images"].append(d["images"][0]), "image id 7 occurs twice"),
        (lambda d: d["annotations"].append(d["annotations"][1]), "annotation id x occurs twice"),
        (image(id=[7]), "image id [7]"),
        (image(id=8), "annotation 1 is of an unknown image 7"),
        (mass(image_id=[7]), "annotation 1 is of an unknown image"),
        (image(width="wide"), "image 7: width 'wide'"),
        (image(width=None), "image 7: width None"),
        (image(height=0), "image 7: height 0"),
        (image(height=1.5), "image 7: height 1.5"),
        (image(pixel_aspect=0), "image 7: pixel_aspect 0"),
        (image(pixel_aspect="square"), "image 7: pixel_aspect 'square'"),
        (image(malignant="no"), "image 7: malignant 'no' is neither true nor false"),
        (image(pixel_aspect=float("nan")), "image 7: pixel_aspect nan"),
        (without("images", "file_name"), "image 7 has no 'file_name'"),
        (without("images", "width"), "image 7 has no 'width'"),
        (without("annotations", "id"), "an annotation has no 'id'"),
        (without("annotations", "bbox"), "annotation 1 has no 'bbox'"),
        (without("annotations", "category_id"), "annotation 1 has no 'category_id'"),
        (without("annotations", "image_id"), "annotation 1 has no 'image_id'"),
        (mass(bbox=[1, 2, 3]), "annotation 1: box [1, 2, 3] is not 4 numbers"),
        (mass(bbox="1 2 3 4"), "annotation 1: box '1 2 3 4' is not 4 numbers"),
        (mass(bbox=[1, 2, None, 4]), "annotation 1: box [1, 2, None, 4]"),
        (mass(bbox=[1, 2, float("inf"), 4]), "annotation 1: box [1, 2, inf, 4]"),
        (mass(bbox=[1, 2, 0, 4]), "annotation 1: box [1, 2, 0, 4] has no area"),
        (mass(bbox=[30, 2, 13, 4]), "annotation 1: box [30, 2, 13, 4] leaves its image of 40×60"),
        (mass(bbox=[-3, 2, 13, 4]), "annotation 1: box [-3, 2, 13, 4] leaves its image"),
        (mass(bbox=[40.5, 2, 1, 4]), "annotation 1: box [40.5, 2, 1, 4] leaves its image"),
        (mass(bbox=[10**400, 2, 1, 4]), "annotation 1: box [10"),
        (mass(category_id=3), "annotation 1: unknown category 3; name it benign or malignant"),
        (mass(category_id=True), "annotation 1: unknown category True"),
        (named(1, "mass", 2, "calcification"), "annotation 1: unknown category 2 (calcification)"),
        (named(1, "benign", 1, "malignant"), "category id 1"),
        (named("1", "benign", 2, "malignant"), "category id '1'"),
        (mass(class_known="false"), "annotation 1: class_known 'false'"),
        (image(laterality="LEFT"), "image 7: laterality 'LEFT' is not L or R"),
        (image(view=1), "image 7: view 1 is not text"),
        (image(file_name=None), "image 7: file_name None"),
        (mass(category_id=[1]), "annotation 1: unknown category [1]"),
        (mass(role="friend"), "annotation 1: unknown role 'friend'"),
        (mass(mask_source="guessed"), "annotation 1: unknown mask_source 'guessed'"),
        (mass(segmentation="1 2"), "annotation 1: segmentation: it is neither"),
        (mass(segmentation=[[1, 2, 3, 4]]), "annotation 1: segmentation: its polygons"),
        (mass(segmentation=[[1, 45, 9, 45, 9, 55, 1, 55]]), "it lies outside its box"),
        (mass(segmentation=[[81, 5, 90, 5, 90, 15, 81, 15]]), "it is empty, or outside its image"),
        (mass(segmentation={"size": [40, 60], "counts": "a"}), "annotation 1: segmentation: its "),
        (mass(segmentation={"size": [60, 40], "counts": [1, 2]}), "its runs do not add up"),
        (mass(segmentation={"size": [60, 40], "counts": [-1, 2401]}), "its runs do not add up"),
        (mass(segmentation={"size": [60, 40], "counts": [2400]}), "it is empty"),
        (mass(segmentation={"size": [60, 40], "counts": "zzzzzzzz"}), "its counts"),
        (mass(segmentation={"size": [60, 40], "counts": "ö"}), "its counts hold characters"),
    ],
)
def test_what_is_wrong_is_refused_with_the_file_and_the_place(
    tmp_path: Path, damage: Callable[[dict[str, Any]], None], named: str
) -> None:
    content = document()
    damage(content)
    file = written(tmp_path, content)
    with pytest.raises(InvalidDataset) as refusal:
        read_coco(file, IMAGES)
    assert str(refusal.value).startswith(f"{file}: ")
    assert named in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"images"', "\x00\xff"])
def test_what_is_no_data_set_is_refused(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(InvalidDataset, match=r"set\.json"):
        read_coco(file, IMAGES)
    with pytest.raises(InvalidDataset, match="no such file"):
        read_coco(tmp_path / "other.json", IMAGES)
    with pytest.raises(InvalidDataset, match=tmp_path.name):
        read_coco(tmp_path, IMAGES)  # a folder


def test_two_pixels_of_overhang_are_forgiven(tmp_path: Path) -> None:
    content = document()
    content["annotations"][0]["bbox"] = [-2, 0, 44, 62]
    assert read_coco(written(tmp_path, content), IMAGES)[0].masses[0].bbox == (-2, 0, 44, 62)


# Stretched films


def stretched() -> dict[str, Any]:
    """As the third party writes it: no pixel_aspect, names of folders in the file names."""
    return {
        "info": {"licence": "CC BY 3.0"},
        "categories": [{"id": 1, "name": "benign"}, {"id": 2, "name": "malignant"}],
        "images": [
            {"id": 1, "file_name": "images/00484_RIGHT_CC.jpg", "width": 800, "height": 800,
             "original_width": 3000, "original_height": 5400, "patient_id": "P_00484",
             "laterality": "R", "view": "CC", "breast_density": "2", "pathologies": "MALIGNANT"},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "bbox": [400, 200, 90, 50], "area": 4500,
             "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40], "area": 1200,
             "iscrowd": 0, "label_uncertain": True},
        ],
    }


def test_a_stretched_film_gets_its_shape_back(tmp_path: Path) -> None:
    (tmp_path / "annotations.json").write_text(json.dumps(stretched()))
    [record], skipped = read_stretched_cbis(tmp_path)
    assert skipped.lines() == [
        "1 × class that is uncertain: the mass is kept, without it (first: 2)"]
    assert record.path == tmp_path / "images/00484_RIGHT_CC.jpg"
    # 5400 rows were pressed into 800 and 3000 columns into 800: a stored pixel is 1.8 times as
    # high as wide.
    assert record.pixel_aspect == pytest.approx(1.8)
    assert [(a.category, a.class_known) for a in record.annotations] == [(2, True), (1, False)]
    content = stretched()  # as an editor on Windows saves it, a class unknown by its own word
    content["annotations"][0]["class_known"] = False
    (tmp_path / "annotations.json").write_text(json.dumps(content), "utf-8-sig")
    [saved], _ = read_stretched_cbis(tmp_path)
    assert [a.class_known for a in saved.annotations] == [False, False]
    # 90 × 50 stored pixels are a circle's box on the film, and on the canvas.
    geometry = fit_geometry((0, 0, 800, 800), (800, 800), (640, 384),
                            pixel_aspect=record.pixel_aspect)
    x1, y1, x2, y2 = geometry.boxes_to_canvas(np.array([record.annotations[0].bbox]))[0]
    assert (x2 - x1) / (y2 - y1) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("side", [None, 0, "tall"])
def test_a_stretched_film_of_unknown_shape_is_refused(tmp_path: Path, side: Any) -> None:
    content = stretched()
    content["images"][0]["original_height"] = side
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(InvalidDataset, match="image 1 does not tell its original size"):
        read_stretched_cbis(tmp_path)


def test_a_records_shape_goes_before_its_files_and_its_size_must_be_the_files(
    tmp_path: Path
) -> None:
    file = write_dicom(tmp_path / "1.dcm", breast(60, 40), PixelAspectRatio=["3", "2"])
    record = ImageRecord(image_id=1, path=file, width=40, height=60, patient_id="a")
    assert read_film(record).pixel_aspect == 1.5
    assert read_film(replace(record, pixel_aspect=1.25)).pixel_aspect == 1.25
    with pytest.raises(UnreadableMammogram, match="has 40×60 pixels, the data set says 60×40"):
        read_film(replace(record, width=60, height=40))


# Who is held out


def people(count: int) -> list[ImageRecord]:
    """Four films of each woman."""
    return [
        ImageRecord(image_id=4 * i + k, path=Path(f"{i}-{k}.png"), width=1, height=1,
                    patient_id=f"P_{i:05d}")
        for i in range(count) for k in range(4)
    ]


def test_no_woman_is_on_both_sides_and_the_parts_are_alike() -> None:
    records = people(500)
    train, test = hold_out(records, parts=5)
    assert len(train) + len(test) == len(records)
    assert {r.patient_id for r in train}.isdisjoint(r.patient_id for r in test)
    sizes = [sum(part_of(f"P_{i:05d}", 5) == part for i in range(500)) for part in range(5)]
    assert len({r.patient_id for r in test}) == sizes[0]
    assert all(75 <= size <= 125 for size in sizes) and sum(sizes) == 500


def test_who_is_held_out_never_changes() -> None:
    few, many = people(20), people(200)
    _, held = hold_out(few)
    _, later = hold_out([replace(r, view="CC") for r in reversed(many)])
    names = {r.patient_id for r in few}
    assert {r.patient_id for r in held} == {r.patient_id for r in later} & names
    # Published figures stand on this very split.
    assert [part_of(f"P_{i:05d}", 5) for i in range(10)] == [2, 0, 0, 2, 2, 4, 0, 2, 4, 0]


# Fitted masks


@pytest.mark.parametrize("box", [(3, 4, 23, 44), (0.5, 0.25, 7.25, 30.5), (10, 10, 11, 11)])
def test_a_fitted_mask_is_the_ellipse_in_the_box(box: tuple[float, float, float, float]) -> None:
    mask = fitted_mask(box, (50, 40))
    assert mask.shape == (50, 40)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    found = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    assert np.abs(np.subtract(found, box)).max() <= 1
    # Of more than a few pixels: filled as an ellipse is, and a polygon of it agrees.
    width, height = box[2] - box[0], box[3] - box[1]
    assert mask.sum() == pytest.approx(np.pi / 4 * width * height, rel=0.05, abs=1)
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    outline = np.stack([(box[0] + box[2]) / 2 + width / 2 * np.cos(angle),
                        (box[1] + box[3]) / 2 + height / 2 * np.sin(angle)], axis=1)
    polygon = coco_mask.frPyObjects([outline.ravel().tolist()], 50, 40)
    drawn = coco_mask.decode(polygon)[..., 0].astype(bool)
    edge = ndimage.binary_dilation(drawn, np.ones((3, 3))) & ~ndimage.binary_erosion(drawn)
    assert not ((mask != drawn) & ~edge).any()


def test_a_fitted_mask_of_less_than_a_pixel_is_not_lost() -> None:
    assert fitted_mask((5.2, 5.2, 5.6, 5.6), (10, 10)).sum() >= 1
    assert fitted_mask((-2, -2, 4, 4), (10, 10))[0, 0]  # cut off by the border
