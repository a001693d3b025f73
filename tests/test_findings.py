"""The findings document: masks against pycocotools, the reader against the schema."""

import copy
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from ftmtl.datasets.coco import to_coco
from ftmtl.datasets.labels import to_record
from ftmtl.datasets.published import birads_class
from ftmtl.datasets.records import CATEGORY_OF
from ftmtl.findings import (
    BIRADS,
    SCHEMA_FILE,
    Finding,
    Findings,
    ImageInfo,
    InvalidFindings,
    Piece,
    Verdict,
    box_of,
    decode_rle,
    encode_rle,
)

SCHEMA = json.loads(SCHEMA_FILE.read_text())
MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def document() -> dict:
    """A document that uses every field: a model's mass, a person's box, a rejected one."""
    return {
        "schema_version": 1,
        "image": {
            "id": "1.2.840.1",
            "width": 4,
            "height": 3,
            "spacing_mm": [0.07, 0.08],
            "laterality": "L",
            "view": "CC",
            "patient_key": "0123456789abcdef",
        },
        "model": {"name": "ft_mtl_net", "version": "7", "sha256": "ab" * 32},
        "findings": [
            {
                "id": "f1",
                "label": "malignant",
                "scores": {"background": 0.1, "benign": 0.2, "malignant": 0.7},
                "malignancy": 0.75,
                "bbox": [1.0, 0.0, 2.0, 2.0],
                "segmentation": {"size": [3, 4], "counts": [3, 2, 7]},
                "mask_source": "model",
                "area_mm2": 0.0112,
                "diameter_mm": 0.17,
                "source": "model",
                "status": "proposed",
                "comment": "",
            },
            {
                "id": "Segment_2",
                "label": "benign",
                "scores": None,
                "malignancy": None,
                "bbox": [0.5, 0.5, 1.0, 1.0],
                "segmentation": None,
                "mask_source": "none",
                "area_mm2": None,
                "diameter_mm": None,
                "source": "annotator",
                "status": "added",
                "comment": "läuft\naus",
            },
        ],
        "verdict": {"malignancy": 0.75, "label": "malignant", "how": "monotone malignant-veto"},
    }


def is_valid(value: object) -> bool:
    """Whether the schema accepts a document."""
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    return jsonschema.Draft7Validator(SCHEMA).is_valid(value)


def with_masses(masses: Iterable[tuple[float, float, str]]) -> dict:
    """A document of masses by score, malignancy and status."""
    one = document()["findings"][1]
    return document() | {"findings": [
        one | {
            "id": f"F{n}", "label": "malignant" if malignancy > 0.5 else "benign",
            "malignancy": malignancy, "status": status,
            "scores": {"background": 1 - score, "benign": score * (1 - malignancy),
                       "malignant": score * malignancy},
        }
        for n, (score, malignancy, status) in enumerate(masses)
    ]}


@settings(deadline=None)  # the machine may be busy
@given(MASKS)
def test_masks_are_coded_as_pycocotools_codes_them(mask):
    rle = encode_rle(mask)
    height, width = mask.shape
    packed = coco.frPyObjects(rle, height, width)
    assert packed == coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    np.testing.assert_array_equal(coco.decode(packed).astype(bool), mask)
    np.testing.assert_array_equal(decode_rle(rle), mask)
    if mask.any():
        piece = Piece.of_rle(rle)
        assert box_of(mask) == tuple(coco.toBbox(packed)) == piece.box
        np.testing.assert_array_equal(piece.pixels, Piece.of(mask).pixels)
        assert piece.encode(height, width) == rle
    else:
        with pytest.raises(ValueError):
            box_of(mask)


@pytest.mark.parametrize("counts", [[11], [13], [], [6, -1, 7], [0, 13]])
def test_runs_that_do_not_fill_the_image_are_refused(counts):
    with pytest.raises(InvalidFindings):
        decode_rle({"size": [3, 4], "counts": counts})


def test_a_document_goes_there_and_back():
    value = document()
    assert is_valid(value)
    findings = Findings.from_json(value)
    assert findings.to_json() == value
    assert Findings.from_json(json.loads(json.dumps(findings.to_json()))) == findings
    expected = np.zeros((3, 4), dtype=bool)
    expected[:2, 1] = True
    np.testing.assert_array_equal(findings.findings[0].mask(), expected)
    assert findings.findings[1].mask() is None


def test_documents_with_little_in_them():
    value = document()
    value["model"] = None
    value["findings"] = []
    value["image"] |= dict.fromkeys(("spacing_mm", "laterality", "view", "patient_key"))
    value["verdict"] = {"malignancy": 0.0, "label": "no finding", "how": "x"}
    assert is_valid(value)
    assert Findings.from_json(value).to_json() == value


def test_numbers_of_a_network_become_plain_json():
    finding = Finding(
        id="f1",
        label="benign",
        scores={
            "background": np.float32(0.25),
            "benign": np.float32(0.5),
            "malignant": np.float32(0.25),
        },
        malignancy=np.float32(0.5),
        bbox=tuple(np.float32([0, 0, 1, 1])),
        source="model",
        status="proposed",
    )
    image = ImageInfo(id="a", width=np.int64(4), height=np.int64(3))
    verdict = Verdict.of([finding], how="x")
    findings = Findings(image=image, model=None, findings=(finding,), verdict=verdict)
    value = json.loads(json.dumps(findings.to_json()))
    assert is_valid(value)
    assert Findings.from_json(value) == findings


REMOVE = object()
MISTAKES = [
    (("schema_version",), 2),
    (("schema_version",), "1"),
    (("image",), None),
    (("image", "id"), ""),
    (("image", "width"), 0),
    (("image", "width"), 4.5),
    (("image", "width"), True),
    (("image", "height"), 70000),
    (("image", "spacing_mm"), [0.07]),
    (("image", "spacing_mm"), [0.07, 0]),
    (("image", "laterality"), "left"),
    (("image", "view"), 3),
    (("image", "patient_key"), "P_00173"),
    (("image", "patient_name"), "Doe^Jane"),
    (("model", "sha256"), "abc"),
    (("model", "version"), 7),
    (("model", "name"), ""),
    (("findings",), {}),
    (("findings", 0), "f1"),
    (("findings", 0, "id"), "f 1"),
    (("findings", 0, "id"), ""),
    (("findings", 0, "label"), "Malignant"),
    (("findings", 0, "label"), None),
    (("findings", 0, "scores"), [0.1, 0.2, 0.7]),
    (("findings", 0, "scores", "background"), 1.1),
    (("findings", 0, "scores", "background"), REMOVE),
    (("findings", 0, "scores", "normal"), 0.0),
    (("findings", 0, "malignancy"), 1.5),
    (("findings", 0, "malignancy"), "0.5"),
    (("findings", 0, "bbox"), [1, 0, 2]),
    (("findings", 0, "bbox"), [1, 0, 0, 2]),
    (("findings", 0, "bbox"), [1, 0, 2, None]),
    (("findings", 0, "bbox"), None),
    (("findings", 0, "segmentation"), None),
    (("findings", 0, "segmentation"), [[0, 0, 1, 1, 2, 2]]),
    (("findings", 0, "segmentation", "size"), [3, 4, 1]),
    (("findings", 0, "segmentation", "counts"), "3N7"),
    (("findings", 0, "segmentation", "counts"), [3, -2, 11]),
    (("findings", 0, "segmentation", "counts"), [12]),
    (("findings", 0, "mask_source"), "none"),
    (("findings", 0, "mask_source"), "drawn"),
    (("findings", 1, "mask_source"), "model"),
    (("findings", 0, "area_mm2"), -1),
    (("findings", 0, "source"), "radiologist"),
    (("findings", 0, "status"), "final"),
    (("findings", 0, "comment"), None),
    (("findings", 0, "birads"), 4),
    (("findings", 0, "birads"), "1"),
    (("findings", 0, "birads"), "3"),  # of a malignant mass
    (("findings", 1, "birads"), "4b"),  # of a benign one
    (("findings", 0, "BI-RADS"), "4"),
    (("verdict",), None),
    (("verdict", "label"), "suspicious"),
    (("verdict", "malignancy"), None),
    (("verdict", "how"), ""),
    (("image", "spacing_mm"), None),  # but the finding is measured in millimetres
]


@pytest.mark.parametrize(("path", "value"), MISTAKES)
def test_schema_and_reader_refuse_the_same(path, value):
    wrong = document()
    place = wrong
    for key in path[:-1]:
        place = place[key]
    if value is REMOVE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    assert not is_valid(wrong)
    with pytest.raises(InvalidFindings) as error:
        Findings.from_json(wrong)
    assert str(error.value).endswith(".")
    if path[0] == "findings" and len(path) > 1:
        assert str(error.value).startswith("Finding ")


@pytest.mark.parametrize("name", list(document()))
def test_nothing_may_be_missing(name):
    wrong = document()
    del wrong[name]
    assert not is_valid(wrong)
    with pytest.raises(InvalidFindings, match=f"{name} is missing"):
        Findings.from_json(wrong)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": [3, 0, 2, 2]}, "'f1': bbox must lie inside the image of 4 × 3"),
        ({"bbox": [-1, 0, 2, 2]}, "'f1': bbox must lie inside"),
        ({"bbox": [0, 0, 10**400, 1]}, "'f1': bbox must be a finite number"),
        ({"bbox": [float("nan"), 0, 1, 1]}, "'f1': bbox must be a finite number"),
        ({"id": "Segment_2"}, "'Segment_2': its id is used twice"),
        ({"segmentation": {"size": [4, 3], "counts": [3, 2, 7]}}, "'f1': the size of the seg"),
        ({"segmentation": {"size": [3, 4], "counts": [3, 2, 8]}}, "'f1': segmentation: the counts"),
        ({"segmentation": {"size": [3, 4], "counts": [12, 0]}}, "'f1': the segmentation is empty"),
        ({"scores": {"background": 0.5, "benign": 0.5, "malignant": 0.5}}, "add up to 1"),
    ],
)
def test_reader_refuses_what_a_schema_cannot_express(change, reason):
    wrong = document()
    wrong["findings"][0] |= change
    with pytest.raises(InvalidFindings, match=reason):
        Findings.from_json(wrong)


def test_an_assessment_says_the_class_and_may_be_left_out():
    for birads, label in BIRADS.items():
        published = birads_class(birads, "here")
        assert published["category"] == CATEGORY_OF[label], "as in the sets that others published"
        value = document()
        value["findings"][1] |= {"birads": birads, "label": label}
        assert is_valid(value)
        findings = Findings.from_json(value)
        assert findings.findings[1].birads == birads
        assert findings.to_json() == value, "and a finding without one says nothing of it"
        record = to_record(findings, Path("film.dcm"))
        assert record.masses[0].assessment == published["assessment"]
        (row,) = (row for row in to_coco([record])["annotations"] if row["role"] == "mass")
        assert row["assessment"] == f"BI-RADS {birads}"
    value["findings"][1] |= {"birads": None, "label": "benign"}
    assert is_valid(value) and Findings.from_json(value) == Findings.from_json(document())


def test_kept_and_verdict_follow_the_status():
    value = document()
    base = value["findings"][1]
    value["findings"] += [
        copy.deepcopy(base) | {"id": status, "status": status}
        for status in ("accepted", "edited", "rejected")
    ]
    findings = Findings.from_json(value)
    assert [finding.id for finding in findings.kept()] == ["Segment_2", "accepted", "edited"]
    # A person's finding is a mass for certain, by its label; a proposal counts by how evident it is
    # beside it (0.9 × 0.75); a rejected one not.
    one, person, *_ = findings.findings
    rejected = findings.findings[-1]
    assert Verdict.of([one, person], how="x").malignancy == pytest.approx(0.675)
    assert Verdict.of([one, person], how="x").label == "malignant"
    assert Verdict.of([one], how="x").malignancy == pytest.approx(0.675 / 0.91)
    scores = {"background": 0.8, "benign": 0.0, "malignant": 0.2}
    faint = replace(one, scores=scores, malignancy=1.0)
    assert Verdict.of([faint, person], how="x").label == "benign"
    assert Verdict.of([faint], how="x").label == "no finding", "likelier background"
    assert Verdict.of([faint, replace(person, label="malignant")], how="x").malignancy == 1
    assert Verdict.of([person], how="x") == Verdict(malignancy=0.0, label="benign", how="x")
    assert Verdict.of([rejected], how="x") == Verdict(malignancy=0.0, label="no finding", how="x")


def test_the_heading_holds_beside_the_findings_that_are_shown():
    def heading(*masses):
        findings = Findings.from_json(with_masses(masses))
        verdict = Verdict.of(findings.findings, how="x")
        return replace(findings, verdict=verdict).heading()

    likely, doubtful, cyst = (0.9, 0.9, "proposed"), (0.4, 0.9, "proposed"), (0.95, 0.1, "proposed")
    assert heading(likely, cyst) == "malignant"
    assert heading((0.55, 0.8, "proposed"), cyst) == "malignant mass", "the image's number is 46"
    assert heading(cyst) == "benign"
    assert heading(cyst, doubtful) == "no likely malignant mass"
    assert heading(cyst, (*doubtful[:2], "rejected")) == "benign"
    assert heading(doubtful) == "no likely mass"
    assert heading((*doubtful[:2], "rejected")) == heading() == "no finding"
