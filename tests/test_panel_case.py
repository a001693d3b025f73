"""Correcting a case: what each step does, and that every step can be taken back."""

import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from MammoReviewLib.case import Case
from MammoReviewLib.case_words import cells, verdict_line
from MammoReviewLib.findings import (
    BIRADS,
    EDITED_RULE,
    Finding,
    Findings,
    ImageInfo,
    Verdict,
    with_mask,
)

from ftmtl import findings as server

IMAGE = ImageInfo("1.2.3", 60, 40, (0.1, 0.1), "L", "CC", None)


def square(x: int, y: int, side: int) -> np.ndarray:
    mask = np.zeros((IMAGE.height, IMAGE.width), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def proposal(name: str, x: int, score: float, malignancy: float) -> Finding:
    finding = Finding(
        name,
        "malignant" if malignancy > 0.5 else "benign",
        (x, 5, 10, 10),
        "model",
        "proposed",
        scores={
            "background": 1 - score,
            "benign": score * (1 - malignancy),
            "malignant": score * malignancy,
        },
        malignancy=malignancy,
    )
    return with_mask(finding, square(x + 1, 6, 8), "model", IMAGE)


@pytest.fixture
def case() -> Case:
    likely, unlikely = proposal("F1", 5, 0.9, 0.8), proposal("F3", 40, 0.2, 0.9)
    findings = (likely, proposal("F2", 20, 0.6, 0.3), unlikely)
    verdict = Verdict(0.95, "malignant", "malignant-veto")
    model = {"name": "ft_mtl_net", "version": "1", "sha256": "ab" * 32}
    document = Findings(IMAGE, findings, verdict, model)
    return Case(document, Path("image.dcm"), threshold=0.5)


def statuses(case: Case) -> dict[str, str]:
    return {finding.id: finding.status for finding in case.document.findings}


def test_what_is_shown_and_what_the_verdict_is(case):
    assert [f.id for f in case.shown] == ["F1", "F2"]
    assert [f.id for f in case.undecided()] == ["F1", "F2"]
    case.set_threshold(0.1)
    assert [f.id for f in case.shown] == ["F1", "F2", "F3"]
    assert case.verdict.malignancy == 0.95 and not case.dirty, "the model's own, until an edit"
    case.set_threshold(0.5)
    case.reject("F1")
    alone = Verdict(pytest.approx(0.6 * 0.3 / (0.1 + 0.9 * 0.6)), "benign", EDITED_RULE)
    assert case.verdict == alone, "what is hidden does not count"
    case.accept("F2")
    assert case.verdict == Verdict(0.0, "benign", EDITED_RULE), "a person called it benign"
    assert [f.id for f in case.label.findings] == ["F1", "F2"], "nobody was shown F3"
    assert server.Findings.from_json(case.label.to_json()).verdict.malignancy == 0


@pytest.mark.parametrize(
    ("label", "malignancy", "shown", "line"),
    [
        ("malignant", 0.62, (0.9,), "malignant, 62 of 100"),
        ("malignant", 0.47, (0.9, 0.1), "malignant mass, image 47 of 100"),
        ("benign", 0.31, (0.2,), "benign, 31 of 100"),
        ("benign", 0.31, (0.2, 0.9), "no likely malignant mass, 31 of 100"),
        ("no finding", 0.46, (0.9, 0.2), "no likely mass (46 of 100)"),
        ("no finding", 0.09, (), "no finding (9 of 100)"),
        ("no finding", 0.0, (), "no finding"),
    ],
)
def test_the_verdict_as_one_line(label, malignancy, shown, line):
    findings = [proposal(f"F{n}", 5, 0.5, each) for n, each in enumerate(shown)]
    gone = replace(proposal("F9", 5, 0.5, 0.9), status="rejected")
    said = verdict_line(Verdict(malignancy, label, "x"), IMAGE, [*findings, gone])
    assert said == f"L CC · {line}"


def test_accept_reject_and_change_of_class(case):
    case.accept("F1")
    case.reject("F2")
    assert statuses(case) == {"F1": "accepted", "F2": "rejected", "F3": "proposed"}
    case.accept("F2")
    assert statuses(case)["F2"] == "accepted"
    case.set_label("F1", "benign")
    assert case.find("F1").label == "benign" and statuses(case)["F1"] == "edited"
    case.reject("F1")
    case.accept("F1")
    assert statuses(case)["F1"] == "edited", "its class is not the model's any more"
    assert not case.undecided()


def test_an_assessment_says_the_class_and_a_class_takes_it_back(case):
    case.set_birads("F1", "3")
    assessed = case.find("F1")
    assert (assessed.birads, assessed.label, assessed.status) == ("3", "benign", "edited")
    assert cells(1, assessed, IMAGE)[1] == "BI-RADS 3"
    case.set_birads("F1", "4a")
    assert case.find("F1").label == "malignant"
    case.set_birads("F1", None)
    assert case.find("F1").birads is None and case.find("F1").label == "malignant"
    case.undo()
    case.reject("F1")
    case.accept("F1")
    assert statuses(case)["F1"] == "edited", "what it was is more than the model said"
    case.set_label("F1", "benign")
    assert case.find("F1").birads is None
    name = case.add_box((30, 20, 8, 8))
    case.set_birads(name, "5")
    for birads in ("5", None):
        case.set_birads(name, birads)
        case.apply_answer(name, case.find(name).bbox, proposal("F9", 30, 0.7, 0.2))
        assert case.find(name).label == "malignant", "whatever the model thinks"
    case.set_birads(name, "5")
    reopened = Case(case.document, Path("image.dcm"))
    reopened.apply_answer(name, case.find(name).bbox, proposal("F9", 30, 0.7, 0.2))
    assert reopened.find(name).label == "malignant"


def test_a_dragged_box_loses_the_models_mask_and_cuts_a_drawn_one(case):
    case.set_box("F1", (-4, 3, 20, 90))
    moved = case.find("F1")
    assert moved.bbox == (0, 3, 16, 37) and moved.mask() is None and moved.status == "edited"
    case.set_mask("F2", square(20, 10, 8))
    case.set_box("F2", (22, 12, 4, 3))
    drawn = case.find("F2")
    assert drawn.mask().sum() == 12 and drawn.mask_source == "annotated"
    case.set_box("F2", (500, 12, 4, 3))
    assert case.find("F2") == drawn, "a box outside the image is no box"


def test_an_edited_mask_moves_its_box_in_one_step(case):
    case.set_mask("F1", square(30, 20, 5))
    edited = case.find("F1")
    assert edited.bbox == (30, 20, 5, 5) and edited.area_mm2 == pytest.approx(0.25)
    assert (edited.mask_source, edited.status, edited.source) == ("annotated", "edited", "model")
    case.set_mask("F1", edited.mask())
    case.undo()
    assert case.find("F1").bbox == (5, 5, 10, 10) and not case.dirty
    case.set_mask("F1", None)
    assert case.find("F1").segmentation is None and case.find("F1").bbox == (5, 5, 10, 10)


def test_a_new_box_and_the_models_answer_are_one_step(case):
    name = case.add_box((30, 20, 8, 8))
    assert case.selected == name and case.find(name).status == "added"
    answer = proposal("F1", 30, 0.7, 0.2)
    assert case.apply_answer(name, case.find(name).bbox, answer)
    added = case.find(name)
    assert added.segmentation == answer.segmentation and added.malignancy == 0.2
    assert added.label == "benign" and added.source == "annotator", "the class was not chosen yet"
    case.set_label(name, "malignant")
    assert case.apply_answer(name, added.bbox, answer) and case.find(name).label == "malignant"
    case.undo()
    case.undo()
    assert len(case.document.findings) == 3 and case.selected is None
    assert not case.apply_answer(name, added.bbox, answer), "an answer that comes too late"
    case.redo()
    assert case.find(name).segmentation == answer.segmentation
    case.reject(name)
    assert len(case.document.findings) == 3, "a person's own finding goes altogether"


def test_a_drawn_mask_outlives_the_models_answer(case):
    case.set_mask("F1", square(4, 4, 6))
    case.apply_answer("F1", case.find("F1").bbox, proposal("F1", 5, 0.3, 0.1))
    assert case.find("F1").mask().sum() == 36 and case.find("F1").malignancy == 0.1


def test_scores_of_two_models_do_not_go_into_one_label(case):
    name, before = case.add_box((30, 20, 8, 8)), case.find("F1")
    answer = proposal("F1", 30, 0.7, 0.2)
    assert case.apply_answer(name, case.find(name).bbox, answer, scored=False)
    assert case.find(name).segmentation == answer.segmentation
    assert case.find(name).scores is None and case.find(name).label == "malignant"
    case.apply_answer("F1", before.bbox, proposal("F1", 5, 0.3, 0.1), scored=False)
    after = case.find("F1")
    assert (after.scores, after.malignancy) == (before.scores, before.malignancy)


def test_no_mass_here(case):
    case.add_box((30, 20, 8, 8))
    case.no_mass()
    assert statuses(case) == {"F1": "rejected", "F2": "rejected", "F3": "proposed"}
    assert case.verdict.label == "no finding" and not case.undecided() and case.dirty
    case.undo()
    assert len(case.shown) == 3


def test_no_mass_where_the_model_found_none_is_an_edit_too():
    document = Findings(IMAGE, (), Verdict(0.0, "no finding", "x"))
    case = Case(document, Path("x.dcm"))
    case.no_mass()
    assert case.dirty and case.undo_name
    case.undo()
    assert not case.dirty


def test_all_at_once_and_comments(case):
    case.accept_all()
    assert statuses(case) == {"F1": "accepted", "F2": "accepted", "F3": "proposed"}
    case.undo()
    case.reject_all()
    assert statuses(case)["F1"] == "rejected"
    case.set_comment("dense", "F1")
    case.set_comment("poor positioning")
    assert case.find("F1").comment == "dense" and case.comment == "poor positioning"
    case.undo()
    assert case.comment == "" and case.redo_name


@pytest.mark.parametrize("seed", range(20))
def test_whatever_was_done_can_be_taken_back_and_done_again(case, seed):
    chance = random.Random(seed)
    opened = case.state
    for _ in range(30):
        ids = [f.id for f in case.shown]
        one = chance.choice(ids)
        box = (chance.randint(-5, 55), chance.randint(-5, 35), chance.randint(1, 20), 9)
        mask = square(chance.randint(0, 50), 3, chance.randint(0, 9))
        steps = [
            partial(case.accept, one),
            partial(case.reject, one),
            partial(case.set_label, one, chance.choice(["benign", "malignant"])),
            partial(case.set_birads, one, chance.choice([None, *BIRADS])),
            partial(case.set_box, one, box),
            partial(case.add_box, box),
            partial(case.set_mask, one, mask),
            partial(case.set_comment, str(chance.random()), one),
            case.undo,
            case.redo,
        ]
        chance.choice(steps)()
        if not case.shown:
            case.undo()
        server.Findings.from_json(case.document.to_json())  # never anything the server refuses
    last, steps = case.state, 0
    while case.undo_name:
        case.undo()
        steps += 1
    assert case.state == opened and not case.dirty
    for _ in range(steps):
        case.redo()
    assert case.state == last


def test_submitted_and_then_edited_again(case):
    case.accept("F1")
    handed_in = case.state
    case.mark_submitted(handed_in)
    assert not case.dirty
    case.accept("F2")
    assert case.dirty
    case.undo()
    assert not case.dirty
    assert replace(case.document, verdict=case.opened.verdict) != case.opened
