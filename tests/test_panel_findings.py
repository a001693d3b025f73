"""The panel's own findings, masks and geometry against the server's, which it may not import."""

import copy
import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from MammoReviewLib import geometry, masks
from MammoReviewLib.findings import BIRADS, Findings, InvalidFindings, verdict_of, with_mask
from test_findings import MISTAKES, REMOVE, document, is_valid, with_masses

from ftmtl import findings as server
from ftmtl.evaluation.matching import iou
from ftmtl.label_file import HOW
from ftmtl.measure import measure_mask
from ftmtl.rle import encode_rle

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))
SPACING = st.sampled_from([None, (0.07, 0.08), (1.0, 1.0)])


def test_documents_go_both_ways_between_panel_and_server():
    assert BIRADS == server.BIRADS
    value = document()
    value["findings"][0]["birads"] = "4c"
    findings = Findings.from_json(value)
    assert findings.to_json() == value and is_valid(findings.to_json())
    again = server.Findings.from_json(json.loads(json.dumps(findings.to_json())))
    assert again == server.Findings.from_json(value)
    assert Findings.from_json(again.to_json()) == findings
    np.testing.assert_array_equal(findings.findings[0].mask(), again.findings[0].mask())


@pytest.mark.parametrize(("path", "value"), MISTAKES)
def test_the_panel_refuses_what_the_server_refuses(path, value):
    wrong = document()
    place = wrong
    for key in path[:-1]:
        place = place[key]
    if value is REMOVE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(InvalidFindings) as error:
        Findings.from_json(wrong)
    assert str(error.value).endswith(".")


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": [3, 0, 2, 2]},
        {"bbox": [-1, 0, 2, 2]},
        {"bbox": [0, 0, 10**400, 1]},
        {"bbox": [float("nan"), 0, 1, 1]},
        {"id": "Segment_2"},
        {"segmentation": {"size": [4, 3], "counts": [3, 2, 7]}},
        {"segmentation": {"size": [3, 4], "counts": [3, 2, 8]}},
        {"segmentation": {"size": [3, 4], "counts": [12, 0]}},
        {"scores": {"background": 0.5, "benign": 0.5, "malignant": 0.5}},
    ],
)
def test_the_panel_refuses_what_no_schema_can_express(change):
    wrong = document()
    wrong["findings"][0] |= change
    with pytest.raises(InvalidFindings):
        Findings.from_json(wrong)


@settings(deadline=None)
@given(MASKS, SPACING)
def test_masks_are_coded_boxed_and_measured_as_the_server_does(mask, spacing):
    assert masks.encode(mask) == encode_rle(mask)
    np.testing.assert_array_equal(masks.decode(masks.encode(mask)), mask)
    assert masks.box_of(mask) == (server.box_of(mask) if mask.any() else None)
    assert masks.measure(mask, spacing) == pytest.approx(measure_mask(mask, spacing))


@given(MASKS)
def test_the_part_and_the_outline_of_a_mask_are_those_of_its_pixels(mask):
    assume(mask.any())
    x, y, part = masks.crop(masks.encode(mask))
    assert (x, y, *part.shape[::-1]) == masks.box_of(mask)
    np.testing.assert_array_equal(mask[y : y + part.shape[0], x : x + part.shape[1]], part)
    height, width = mask.shape

    def inside(column: int, row: int) -> bool:
        return 0 <= column < width and 0 <= row < height and bool(mask[row, column])

    places = [(c, r) for c in range(width + 1) for r in range(height + 1)]
    border = {((c, r), (c + 1, r)) for c, r in places if inside(c, r) != inside(c, r - 1)}
    border |= {((c, r), (c, r + 1)) for c, r in places if inside(c, r) != inside(c - 1, r)}
    drawn = []
    for x0, y0, x1, y1 in masks.outline(masks.encode(mask)):
        step = (1, 0) if y0 == y1 else (0, 1)
        for n in range(int(x1 - x0 + y1 - y0)):
            start = (x0 + n * step[0], y0 + n * step[1])
            drawn.append((start, (start[0] + step[0], start[1] + step[1])))
    assert len(drawn) == len(border) and set(drawn) == border


def test_a_large_mask_is_measured_as_the_server_does():
    rows, columns = np.mgrid[:600, :500]
    tilted = ((rows - 300) * 0.8 + (columns - 250) * 0.6) ** 2 / 200**2
    tilted = tilted + ((columns - 250) * 0.8 - (rows - 300) * 0.6) ** 2 / 90**2
    mask = (tilted < 1) & (columns != 260)
    expected = measure_mask(mask, (0.07, 0.09))
    assert masks.measure(mask, (0.07, 0.09)) == pytest.approx(expected, rel=1e-6)


def test_the_verdict_after_an_edit_is_the_servers():
    value = document()
    for status in ("proposed", "accepted", "edited", "rejected"):
        for label in ("benign", "malignant"):
            value["findings"] = copy.deepcopy(document()["findings"])
            value["findings"][0] |= {"status": status, "label": label}
            panel, theirs = Findings.from_json(value), server.Findings.from_json(value)
            for ours, expected in (
                (panel.findings, theirs.findings),
                (panel.findings[:1], theirs.findings[:1]),
                ((), ()),
            ):
                got = verdict_of(ours, how="x")
                assert vars(got) == vars(server.Verdict.of(expected, how="x"))


SHARE = st.sampled_from([0, 0.1, 0.4, 0.5, 0.52, 0.6, 0.9, 1])
STATE = st.sampled_from(["proposed", "proposed", "accepted", "edited", "rejected"])


@settings(max_examples=300)
@given(st.lists(st.tuples(SHARE, SHARE, STATE), max_size=4))
def test_the_verdict_of_any_findings_is_the_servers(masses):
    value = with_masses(masses)
    ours, theirs = Findings.from_json(value).findings, server.Findings.from_json(value).findings
    got, expected = verdict_of(ours), server.Verdict.of(theirs, how=HOW)
    assert (got.label, got.how) == (expected.label, expected.how)
    assert got.malignancy == pytest.approx(expected.malignancy)


def test_another_mask_is_measured_anew():
    findings = Findings.from_json(document())
    mask = np.zeros((3, 4), bool)
    mask[1, 1:3] = True
    finding = with_mask(findings.findings[1], mask, "annotated", findings.image)
    assert (finding.area_mm2, finding.diameter_mm) == pytest.approx(
        (2 * 0.07 * 0.08, np.hypot(0.14, 0.08))
    )
    nothing = with_mask(finding, np.zeros((3, 4), bool), "annotated", findings.image)
    assert (nothing.segmentation, nothing.mask_source, nothing.area_mm2) == (None, "none", None)


def test_pixels_lie_where_slicer_lays_them():
    # The middle of the first pixel is IJK 0, RAS 0; columns run to the left, rows down.
    np.testing.assert_allclose(geometry.pixel_to_ras([[0.5, 0.5]], None), [[0, 0, 0]])
    np.testing.assert_allclose(geometry.pixel_to_ras([[3.5, 1.5]], (0.1, 0.2)), [[-0.3, -0.2, 0]])
    centre, size = geometry.box_to_ras((2, 4, 10, 20), (0.1, 0.2))
    np.testing.assert_allclose(centre, [-0.65, -2.7, 0])
    np.testing.assert_allclose(size, [1, 4, 1])


@given(st.tuples(*[st.floats(1, 500)] * 4), SPACING)
def test_a_box_comes_back_from_ras(box, spacing):
    back = geometry.ras_to_box(*geometry.box_to_ras(box, spacing), spacing)
    assert back == pytest.approx(box)


def test_a_box_is_cut_to_its_image():
    assert geometry.clip_box((-5, 10, 20, 200), 100, 50) == (0, 10, 15, 40)
    assert geometry.clip_box((99.5, 0, 20, 20), 100, 50) is None


def test_boxes_overlap_as_in_the_evaluation():
    draw = np.random.default_rng(0)
    boxes = np.column_stack([draw.uniform(0, 60, (40, 2)), draw.uniform(1, 40, (40, 2))])
    ours = [[geometry.overlap(tuple(a), tuple(b)) for b in boxes] for a in boxes]
    np.testing.assert_allclose(ours, iou(boxes, boxes))
    assert 0 < np.mean(np.array(ours) == 0) < 1
