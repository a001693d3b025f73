"""Figures worked by hand: what counts as found, as false, as malignant, and what has no answer."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import image, mass, prediction, random_set, truth

from ftmtl.coco_masks import as_rle
from ftmtl.evaluation import evaluate, operating_points
from ftmtl.evaluation.evaluate import judge as settle
from ftmtl.evaluation.evaluate import summarise
from ftmtl.evaluation.inputs import parse_predictions, parse_truth

FAR = [800.0, 800.0, 50.0, 50.0]


def judge(images, masses, predictions, **options):
    return evaluate(truth(images, masses), predictions, **{"bootstraps": 0, **options})


def test_froc_by_hand() -> None:
    """Ten images, two masses: found at 0.9 and 0.5; false positives at 0.8, 0.7, 0.6 and 0.4."""
    result = judge(
        [image(i) for i in range(10)],
        [mass(0, [100, 100, 100, 100]), mass(1, [100, 100, 100, 100])],
        [
            prediction(0, [100, 100, 100, 100], 0.9),
            prediction(0, [105, 100, 100, 100], 0.8),  # a second one on the same mass
            prediction(1, FAR, 0.7),
            prediction(2, FAR, 0.6),  # on an image without a mass
            prediction(1, [100, 150, 100, 100], 0.5),  # IoU 1/3, its centre on the edge
            prediction(3, FAR, 0.4),
        ],
    )
    assert result["patients"] == 10  # who has no name is nobody else
    overlap = result["detection"]["iou>0.2"]
    assert overlap["froc"] == [[0.9, 0.0, 0.5], [0.5, 0.3, 1.0], [0.4, 0.4, 1.0]]
    assert overlap["tpr_at_fpi"] == {"0.3": 1, "0.8": 1, "1": 1, "3.67": 1, "5": 1}
    assert overlap["threshold_at_fpi"]["0.3"] == 0.5
    assert overlap["threshold_at_fpi"]["3.67"] == 0.4  # the predictions end before
    assert any("0.40 false positives an image" in note for note in result["notes"])
    # On the two images with a mass there are two false positives: one an image.
    lesion = overlap["fpi_over_lesion_images"]
    assert lesion["froc"] == [[0.9, 0.0, 0.5], [0.5, 1.0, 1.0]]
    assert lesion["tpr_at_fpi"]["0.8"] == 0.5
    assert lesion["tpr_at_fpi"]["1"] == 1
    assert result["detection"]["iou>0.5"]["tpr_at_fpi"]["5"] == 0.5
    assert result["detection"]["centre"]["tpr_at_fpi"]["5"] == 1


def test_an_overlap_of_exactly_the_limit_is_no_hit() -> None:
    """Two boxes of 100 by 60 that share 100 by 20 have an IoU of 0.2."""
    at_limit = judge([image(0)], [mass(0, [0, 0, 100, 60])], [prediction(0, [0, 40, 100, 60], 0.9)])
    assert at_limit["detection"]["iou>0.2"]["tpr_at_fpi"]["5"] == 0
    above = judge([image(0)], [mass(0, [0, 0, 100, 60])], [prediction(0, [0, 39, 100, 60], 0.9)])
    assert above["detection"]["iou>0.2"]["tpr_at_fpi"]["5"] == 1


def test_one_prediction_finds_one_mass() -> None:
    """A box over two masses takes the better fitting one; the next takes the one left over."""
    masses = [mass(0, [0, 0, 100, 100]), mass(0, [60, 0, 100, 100])]
    wide = prediction(0, [20, 0, 120, 100], 0.9)
    result = judge([image(0)], masses, [wide])
    assert result["detection"]["iou>0.2"]["tpr_at_fpi"]["5"] == 0.5
    result = judge([image(0)], masses, [wide, prediction(0, [0, 0, 120, 100], 0.8)])
    assert result["detection"]["iou>0.2"]["froc"] == [[0.9, 0, 0.5], [0.8, 0, 1]]


def test_equal_scores_go_by_overlap_whatever_their_order() -> None:
    """The one that fits takes its mass first, so the other is left the second: both are found.

    Of two alike in place and score the more malignant speaks for the mass.
    """
    masses = [mass(0, [0, 0, 100, 100], True), mass(0, [90, 0, 100, 100])]
    pair = [prediction(0, [0, 0, 100, 100], 0.6), prediction(0, [30, 0, 100, 100], 0.6)]
    twins = [prediction(0, [0, 0, 100, 100], 0.7, m) for m in (0.1, 0.9)]
    other = prediction(0, [90, 0, 100, 100], 0.7, 0.5)
    for turn in (1, -1):
        found = judge([image(0)], masses, pair[::turn])["detection"]["iou>0.2"]
        assert found["froc"] == [[0.6, 0, 1]]
        result = judge([image(0)], masses, [*twins[::turn], other])
        assert result["classification"]["auc_mass_detected"] == 1


@pytest.mark.parametrize("turn", [1, -1])
def test_equal_scores_and_overlaps_go_by_place_whatever_their_order(turn: int) -> None:
    """One box touches one mass, one touches two, both as well: which comes first decides."""
    masses = [mass(0, [100, 0, 100, 100]), mass(0, [200, 0, 100, 100])]
    one, two = prediction(0, [50, 0, 100, 100], 0.6), prediction(0, [150, 0, 100, 100], 0.6)
    found = judge([image(0)], masses, [one, two][::turn])["detection"]["iou>0.2"]
    assert found["froc"] == [[0.6, 0, 1]]


def test_equal_scores_are_one_point() -> None:
    """A hit and a false positive of one score stand or fall together, in whatever order."""
    pair = [prediction(0, [0, 0, 100, 100], 0.6), prediction(0, FAR, 0.6)]
    for order in (pair, pair[::-1]):
        part = judge([image(0)], [mass(0, [0, 0, 100, 100])], order)["detection"]["iou>0.2"]
        assert part["froc"] == [[0.6, 1.0, 1.0]]
        assert part["tpr_at_fpi"]["0.8"] == 0
        assert part["tpr_at_fpi"]["1"] == 1
        assert part["threshold_at_fpi"]["0.8"] > 0.6  # nothing may pass


def test_ignore_regions_and_hard_negatives() -> None:
    """A box on an undecided region is neither right nor wrong; on a rejected one it is wrong."""
    masses = [
        mass(0, [0, 0, 100, 100]),
        mass(0, [300, 0, 100, 100], role="ignore"),
        mass(0, [600, 0, 100, 100], role="hard_negative"),
    ]
    predictions = [
        prediction(0, [300, 0, 100, 100], 0.9),
        prediction(0, [600, 0, 100, 100], 0.8),
        prediction(0, [0, 0, 100, 100], 0.7),
    ]
    result = judge([image(0)], masses, predictions)
    assert (result["masses"], result["ignore_regions"]) == (1, 1)
    assert result["detection"]["iou>0.2"]["froc"] == [[0.7, 1.0, 1.0]]


def test_a_box_in_a_large_region_to_ignore_is_ignored() -> None:
    """More than half of the box counts, as for COCO's crowds; its IoU with the region is 0.02."""
    region = mass(0, [0, 0, 500, 500], role="ignore")
    for left, criterion in [(n, c) for n in (449, 450) for c in ("iou>0.2", "iou>0.5", "centre")]:
        beside = prediction(0, [left, 100, 100, 50], 0.9)
        hit = prediction(0, [800, 800, 100, 100], 0.8)
        masses = [region, mass(0, [800, 800, 100, 100])]
        result = judge([image(0)], masses, [beside, hit])
        [[_, fpi, tpr]] = result["detection"][criterion]["froc"]
        assert (fpi, tpr) == (float(left == 450), 1)
        assert result["calibration"]["mass"]["n"] == 1 + (left == 450)
    # A mass within the region is found all the same.
    inside = [100, 100, 100, 100]
    result = judge([image(0)], [region, mass(0, inside)], [prediction(0, inside, 0.9)])
    assert result["detection"]["iou>0.2"]["froc"] == [[0.9, 0, 1]]


def test_a_region_is_the_whole_image_by_its_width_and_its_height() -> None:
    """Of a tall image; and where its size is not told, no region is known to be all of it."""
    tall = {**image(0), "height": 2000}
    sizeless = {k: v for k, v in image(0).items() if k not in ("width", "height")}
    for entry, box, searched in ((tall, [0, 0, 1000, 2000], 0), (tall, [0, 0, 1000, 1999], 1),
                                 (tall, [0, 1, 1000, 1999], 1), (tall, [0, 0, 999, 2000], 1),
                                 (sizeless, [0, 0, 1000, 2000], 1)):
        result = judge([entry], [mass(0, box, role="ignore")], [])
        assert result["searched_images"] == searched, box
    # A mass in such an image makes it none of the images with a mass that are counted on.
    masses = [mass(0, FAR), mass(0, [0, 0, 1000, 2000], role="ignore"), mass(1, FAR)]
    result = judge([tall, image(1)], masses, [prediction(1, [0, 0, 50, 50], 0.9)])
    lesion = result["detection"]["iou>0.2"]["fpi_over_lesion_images"]
    assert lesion["froc"] == [[0.9, 1, 0]]


def test_an_image_that_is_ignored_as_a_whole_does_not_thin_the_false_positives() -> None:
    """A copy of CMMD beside mammograms with masses changes no figure of detection."""
    coco, results = random_set(5, images=20)
    breasts = [image(f"C{n}", f"C{n % 3}") for n in range(9)]
    regions = [mass(b["id"], [0.0, 0.0, 1000.0, 1000.0], role="ignore") for b in breasts]
    on_them = [prediction(b["id"], FAR, 0.95) for b in breasts]
    numbered = [{"id": f"R{n}", **region} for n, region in enumerate(regions)]
    both = {**coco, "images": [*coco["images"], *breasts],
            "annotations": [*coco["annotations"], *numbered]}
    alone = evaluate(coco, results, bootstraps=0)
    result = evaluate(both, [*results, *on_them], bootstraps=0)
    for part in ("detection", "detected", "localisation", "calibration"):
        assert result[part] == alone[part]
    assert operating_points(both, [*results, *on_them]) == operating_points(coco, results)
    assert (result["images"], result["searched_images"]) == (29, 20)
    assert any(note.startswith("9 of 29 images lie wholly") for note in result["notes"])
    # The bootstrap divides by the same images: with everybody drawn once it is the figure itself.
    told = parse_truth(both)
    judged = settle(told, parse_predictions([*results, *on_them], told))
    for fpi, tpr in alone["detection"]["iou>0.2"]["tpr_at_fpi"].items():
        drawn = judged.frocs["iou>0.2"].tpr(float(fpi))(np.ones((1, told.patients)))
        assert drawn[0] == pytest.approx(tpr)

    result = judge(breasts, regions, on_them, bootstraps=20)
    why = "every image lies wholly in a region to ignore"
    for part in (result["detection"]["centre"], result["localisation"]):
        assert set(part["reasons"].values()) == {why}
    for figures in ("tpr_at_fpi", "threshold_at_fpi"):
        assert set(result["detection"]["iou>0.2"][figures].values()) == {None}
    assert result["detected"]["reasons"]["fraction"] == why
    assert result["calibration"]["mass"]["ece"] is None
    assert result["calibration"]["mass"]["reasons"]["ece"] == why
    assert any(note.startswith("9 of 9 images") for note in result["notes"])


def test_mass_auc_with_and_without_the_missed() -> None:
    """Malignant 0.9 and 0.3, benign 0.5 and a miss: 3 of 4 pairs with a miss = 0, else 1 of 2."""
    box = [0.0, 0.0, 100.0, 100.0]
    result = judge(
        [image(i) for i in range(5)],
        [mass(0, box, True), mass(1, box, True), mass(2, box), mass(3, box),
         mass(4, box, class_known=False)],  # in no AUC, whichever way it is read
        [
            prediction(0, box, 0.9, 0.9),
            prediction(1, box, 0.8, 0.3),
            prediction(2, box, 0.7, 0.5),
            prediction(3, [0, 0, 100, 40], 0.6, 0.99),  # IoU 0.4 exactly: not detected
            prediction(4, box, 0.9, 0.7),
        ],
    )
    classes = result["classification"]
    assert classes["auc_mass_detected"] == 0.5
    assert classes["auc_mass_all"] == 0.75
    assert classes["n"]["auc_mass_detected"] == {"malignant": 2, "other": 1}
    assert classes["n"]["auc_mass_all"] == {"malignant": 2, "other": 2}
    assert result["calibration"]["malignancy"]["n"] == 3
    assert result["detected"]["masses"] == 4
    assert result["detected"]["median_iou"] == 1.0


def test_the_best_scored_detection_speaks() -> None:
    """Of several boxes on a mass the best scored one counts, not the best fitting one."""
    result = judge(
        [image(0), image(1)],
        [mass(0, [0, 0, 100, 100], True), mass(1, [0, 0, 100, 100])],
        [
            prediction(0, [0, 0, 100, 50], 0.9, 0.2),
            prediction(0, [0, 0, 100, 100], 0.8, 0.9),
            prediction(1, [0, 0, 100, 100], 0.9, 0.4),
        ],
    )
    assert result["classification"]["auc_mass_all"] == 0
    assert result["detected"]["median_iou"] == 0.75


def test_what_counts_as_detected_scores_above_the_line_of_froc() -> None:
    """3.67 false positives an image by IoU > 0.2: five that overlap by 0.45 are none of them."""
    places = [[200.0 * i, 0.0, 100.0, 100.0] for i in range(5)]
    halves = [prediction(0, [x, y, 100, 45], 0.9) for x, y, _, _ in places]
    masses = [mass(0, box) for box in places]
    assert judge([image(0)], masses, halves)["detected"]["fraction"] == 1
    false = [prediction(0, [200.0 * i, 500, 50, 50], 0.8) for i in range(4)]
    late = prediction(0, places[4], 0.7)
    part = judge([image(0)], masses, [*halves[:4], *false[:3], late])["detected"]
    assert (part["masses"], part["rule"]["threshold"]) == (5, 0.7)
    part = judge([image(0)], masses, [*halves[:4], *false, late])["detected"]
    assert (part["masses"], part["rule"]["threshold"]) == (4, 0.9)


def test_a_replicate_without_a_patient_is_without_her_masses() -> None:
    """Of three patients the first one's mass is missed; draws of one alone give her own figures."""
    def block(height: float) -> list[list[float]]:
        return [[0, 0, 100, 0, 100, height, 0, height]]

    drawn = {"segmentation": block(100), "mask_source": "annotated"}
    told = parse_truth(truth([image(i, f"P{i}") for i in range(3)],
                             [mass(i, [0, 0, 100, 100], **drawn) for i in range(3)]))
    said = [prediction(i, [0, 0, 100, height], 0.9,
                       segmentation=as_rle(block(height), (1000, 1000)))
            for i, height in ((1, 50), (2, 80))]
    judged = settle(told, parse_predictions(said, told))
    for patient, (fraction, overlap, dice) in enumerate(
            [(0, None, None), (1, 0.5, 2 / 3), (1, 0.8, 160 / 180)]):
        result = summarise(judged, np.repeat(3.0 * np.eye(3)[[patient]], 20, axis=0))
        assert result["detected"]["ci95"] == {
            "fraction": [fraction] * 2,
            "median_iou": None if overlap is None else pytest.approx([overlap] * 2)}
        assert result["segmentation"]["ci95"] == {
            "dice_detected": None if dice is None else pytest.approx([dice] * 2),
            "dice_all": pytest.approx([dice or 0] * 2)}
    alone = judge([image(0)], [mass(0, [0, 0, 100, 100])], [], bootstraps=20)
    assert alone["bootstrap"]["replicates"] == 0  # of one patient there is nothing to draw
    assert alone["detected"]["ci95"]["fraction"] is None


def test_image_breast_and_patient() -> None:
    """The worst image decides; what nobody knows is left out."""
    box = [0.0, 0.0, 100.0, 100.0]
    images = [image(1, "A"), image(2, "A", "R"), image(3, "B"), image(4, "C"), image(5, "D")]
    masses = [
        mass(1, box, True),
        mass(2, box),
        mass(4, box, class_known=False),
        mass(5, box, role="ignore"),
    ]
    predictions = [
        prediction(1, box, 0.9, 0.3),
        prediction(2, box, 0.9, 0.6),
        prediction(2, FAR, 0.8, 0.1),
        prediction(3, FAR, 0.2, 0.5),
        prediction(4, box, 0.9, 0.9),
    ]
    classes = judge(images, masses, predictions)["classification"]
    assert classes["auc_image"] == 0.0  # 0.27 / 0.91 against 0.54 / 0.91 and 0.1 / 0.28
    assert classes["n"]["auc_image"] == {"malignant": 1, "other": 2}
    assert classes["auc_breast"] == 0.0
    assert classes["auc_patient"] == 1.0  # A has 0.59, B 0.36
    assert classes["n"]["auc_patient"] == {"malignant": 1, "other": 1}
    assert judge(images[::-1], masses, predictions)["classification"] == classes
    images[2]["laterality"] = None
    classes = judge(images, masses, predictions)["classification"]
    assert classes["auc_breast"] is None
    assert "1 images have no laterality" in classes["reasons"]["auc_breast"]


def test_a_breast_of_known_class_is_ranked_without_a_mass() -> None:
    """As in CMMD: one region to ignore, as large as its image, with the class of the breast."""
    whole = [0.0, 0.0, 1000.0, 1000.0]
    breasts = [
        mass(1, whole, True, role="ignore", class_known=True),
        mass(2, whole, role="ignore", class_known=True),
        mass(3, whole, True, role="ignore", class_known=True),
        mass(4, whole, role="ignore"),
    ]
    predictions = [
        prediction(n, FAR, 0.9, malignancy) for n, malignancy in enumerate((0.9, 0.5, 0.3, 0.8), 1)
    ]
    result = judge([image(n, f"P{n}") for n in range(1, 5)], breasts, predictions)
    classes = result["classification"]
    assert classes["n"]["auc_patient"] == {"malignant": 2, "other": 1}
    assert classes["auc_image"] == classes["auc_patient"] == 0.5  # 0.9 and 0.3 against 0.5
    assert (result["masses"], result["ignore_regions"]) == (0, 4)


def test_what_is_malignant_without_a_malignant_mass_is_on_neither_side() -> None:
    """A suspicious calcification is no mass, and its film no example of one that is not malignant.

    A has a malignant mass and a calcification in her other breast; B a calcification, C a benign
    mass beside one; D and E are not said to be malignant, of F a mass of unknown class is known;
    G's is of unknown class and she is said to be malignant, which is told of her once.
    """
    box = [0.0, 0.0, 100.0, 100.0]
    said = {"malignant": True}
    images = [
        {**image(1, "A"), **said}, {**image(2, "A", "R"), **said}, {**image(3, "B"), **said},
        {**image(4, "C"), **said}, {**image(5, "D"), "malignant": False}, image(6, "E"),
        image(7, "F"), {**image(8, "G"), **said},
    ]
    masses = [mass(1, box, True), mass(4, box), mass(7, box, class_known=False),
              mass(8, box, class_known=False)]
    predictions = [prediction(n, box, 0.9, 0.9 if n in (2, 3, 4) else 0.5) for n in range(1, 6)]
    result = judge(images, masses, predictions)
    classes = result["classification"]
    otherwise = "said to be malignant, but no mass of theirs is"
    unknown = "they hold a mass of unknown class, and none known to be malignant"
    for unit, count in {"image": 4, "breast": 4, "patient": 3}.items():
        assert classes["n"][f"auc_{unit}"] == {"malignant": 1, "other": 2}
        assert classes["left_out"][f"auc_{unit}"] == {otherwise: count, unknown: 1}
        assert f"AUC by {unit}: {count} are left out: {otherwise}" in result["notes"]
    # 0.5 against 0.5 and nothing; by patient A's other breast raises her.
    assert (classes["auc_image"], classes["auc_patient"]) == (0.75, 1)


@pytest.mark.parametrize(("score", "auc"), [(0.1, 1), (0.8, 0)])
def test_a_mass_speaks_for_its_image_as_loudly_as_it_is_evident(score: float, auc: float) -> None:
    """Eight of malignancy 0.99 beside an evident benign mass."""
    box = [0.0, 0.0, 100.0, 100.0]
    others = [prediction(2, [100.0 * i, 500, 50, 50], score, 0.99) for i in range(8)]
    evident = [prediction(1, box, 0.9, 0.6), prediction(2, box, 0.9, 0.2)]
    result = judge([image(1), image(2)], [mass(1, box, True), mass(2, box)], others + evident)
    assert result["classification"]["auc_image"] == auc


def test_a_class_that_never_occurs_has_no_auc() -> None:
    """Null with the reason, while detection goes on."""
    box = [0.0, 0.0, 100.0, 100.0]
    classes = judge([image(0), image(1)], [mass(0, box), mass(1, box)], [prediction(0, box, 0.9)])
    for key in ("auc_mass_detected", "auc_mass_all", "auc_image", "auc_patient"):
        assert classes["classification"][key] is None
        assert classes["classification"]["reasons"][key].startswith("no malignant")
    assert classes["detection"]["iou>0.2"]["tpr_at_fpi"]["1"] == 0.5


def test_no_predictions() -> None:
    """Everything is missed; nothing fails."""
    box = [0.0, 0.0, 100.0, 100.0]
    masses = [mass(0, box, True), mass(1, box)]
    result = judge([image(0, "A"), image(1, "B")], masses, [], bootstraps=50)
    assert result["detection"]["iou>0.2"]["tpr_at_fpi"]["5"] == 0
    assert result["detection"]["iou>0.2"]["ci95"]["5"] == [0, 0]
    assert result["detection"]["iou>0.2"]["froc"] == []
    assert result["classification"]["auc_mass_detected"] is None
    assert result["classification"]["auc_mass_all"] == 0.5
    assert result["detected"]["fraction"] == 0
    assert operating_points(truth([image(0)], []), []) == {"0.3": 1, "1": 1, "3.67": 1}


def test_no_masses() -> None:
    """Normal images have false positives and operating points, and no TPR."""
    images = [image(i) for i in range(10)]
    predictions = [prediction(i, FAR, 0.1 * (i + 1)) for i in range(9)]
    result = judge(images, [], predictions, bootstraps=50)
    assert result["detection"]["iou>0.2"]["tpr_at_fpi"]["1"] is None
    assert result["detection"]["iou>0.2"]["reasons"]["1"] == "no mass to be found"
    assert result["segmentation"]["dice_all"] is None
    points = operating_points(truth(images, []), predictions)
    assert points["0.3"] == pytest.approx(0.7)
    assert points["1"] == pytest.approx(0.1)


def test_dice_by_hand() -> None:
    """Drawn 100 by 100, predicted 100 by 50 of it: 2 * 5000 / 15000. A miss is 0."""

    def block(height: int) -> list[list[int]]:
        return [[0, 0, 100, 0, 100, height, 0, height]]

    def rle(height: int) -> dict:
        column = [height, 1000 - height]
        counts = [0, *column * 99, height, 1000 - height + 900 * 1000]
        return {"size": [1000, 1000], "counts": counts}

    box = [0.0, 0.0, 100.0, 100.0]
    drawn = {"segmentation": block(100), "mask_source": "annotated"}
    fitted = {"segmentation": block(100), "mask_source": "fitted"}
    images = [image(i) for i in range(3)]
    masses = [mass(0, box, **drawn), mass(1, box, **drawn), mass(2, box, **fitted)]
    predictions = [
        prediction(0, box, 0.9, segmentation=rle(50)),
        prediction(2, box, 0.9, segmentation=rle(1)),
    ]
    part = judge(images, masses, predictions)["segmentation"]
    assert part["dice_detected"] == pytest.approx(2 / 3)
    assert part["dice_all"] == pytest.approx(1 / 3)
    assert part["n"] == {"dice_detected": 1, "dice_all": 2}

    # One that came without a mask, while others have theirs, outlines nothing.
    bare = [*predictions, prediction(1, box, 0.9)]
    part = judge(images, masses, bare)["segmentation"]
    assert part["dice_detected"] == part["dice_all"] == pytest.approx(1 / 3)
    assert part["n"] == {"dice_detected": 2, "dice_all": 2}

    part = judge(images, masses[2:], predictions)["segmentation"]
    assert part["dice_all"] is None
    assert part["reasons"]["dice_all"] == "no mass has an annotated mask"
    part = judge(images, masses, [prediction(0, box, 0.9)])["segmentation"]
    assert part["dice_all"] is None
    assert part["reasons"]["dice_detected"] == "no prediction has a mask"
