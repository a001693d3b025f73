"""The loop as a reader has it: the real panel on Slicer and Qt, the real server, real films.

The tests of this file are one morning in order: each goes on where the one before it ended.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from MammoReviewLib.server_info import ServerInfo
from panel_morning import SHOTS, Morning, quick_weights
from panel_screen import APPLICATION, Screen
from PySide6.QtCore import QPoint
from PySide6.QtGui import QShortcut

from ftmtl.findings import Findings as ServerFindings
from ftmtl.label_file import read_label_file
from ftmtl.weights_file import STARTER_WEIGHTS

SHORT = {"max_epochs": 1, "steps": 2, "stages": "heads", "publish": "always"}


@pytest.fixture(scope="module")
def morning(tmp_path_factory: pytest.TempPathFactory, untrained: Path) -> Iterator[Morning]:
    folder = tmp_path_factory.mktemp("morning")
    weights = STARTER_WEIGHTS if SHOTS else quick_weights(untrained, folder)
    morning = Morning(folder, weights)
    yield morning
    morning.screen.close()
    morning.stack.close()


@pytest.fixture
def screen(morning: Morning) -> Screen:
    return morning.screen


def test_connecting_shows_the_list_and_next_opens_a_read_case(
    morning: Morning, screen: Screen
) -> None:
    connection = screen.panel.connection
    connection.address.setEditText(morning.server.url)
    connection.reader.setText("ann")
    connection.connect_button.click()
    screen.wait(lambda: screen.panel.worklist.table.rowCount() == 4)
    assert "Connected" in screen.status()
    assert not screen.ui.connectionArea.isVisible(), "the address has done its duty"
    screen.panel.worklist.next_button.click()
    screen.wait(lambda: screen.case is not None)
    info = screen.panel.session.connection.info
    assert screen.case.threshold == pytest.approx(info.threshold)
    assert screen.ui.thresholdSlider.value() == round(1000 * info.threshold)
    assert "False positives an image: 1," in screen.ui.fpiLabel.text()
    about = screen.ui.meaningLabel.text()
    patient = screen.case.image.patient_key[:8]
    assert about.startswith(f"Patient {patient} · model 1 · both views · research use only")
    assert "meant in training" in about
    assert screen.case.image.laterality in screen.ui.verdictLabel.text()
    pixels = screen.core.view.render()
    assert (pixels > 60).mean() > 0.1, "a breast is on the screen"


def test_findings_are_chosen_decided_and_taken_back_by_keys(
    morning: Morning, screen: Screen
) -> None:
    while len(screen.case.shown) < 3 and screen.ui.thresholdSlider.value() > 20:
        screen.press("[")
    case = screen.case
    assert len(case.shown) >= 3, "the starter weights propose something on this film"
    assert len(screen.table()) == len(case.shown)
    first, second, third = (finding.id for finding in case.shown[:3])
    screen.press("1")
    assert case.selected == first
    assert screen.ui.findingsTable.currentRow() == 0
    screen.press("A")
    assert case.find(first).status == "accepted"
    assert case.selected == second, "the next to decide is selected"
    screen.press("X")
    assert case.find(second).status == "rejected"
    assert screen.table()[1][4] == "rejected"
    before = case.find(third).label
    screen.press("3")
    screen.press("C")
    assert case.find(third).label != before
    screen.press("Ctrl+Z")
    screen.press("Ctrl+Z")
    assert (case.find(third).label, case.find(second).status) == (before, "proposed")
    screen.press("Ctrl+Y")
    screen.press("Ctrl+Y")
    assert case.find(third).label != before
    assert case.find(second).status == "rejected"
    screen.core.view.click(*screen.at(*middle(case.find(first))))
    assert case.selected is not None
    morning.shot("decided")


def test_no_button_moves_under_the_mouse_when_something_is_said(screen: Screen) -> None:
    image = screen.panel.session.worklist.name(screen.case.image.id)
    words = f"{image}: bob submitted a label for this image after you opened it."
    places = []
    for sentence in ("", words):
        screen.panel.session.said.emit(sentence)
        APPLICATION.processEvents()
        places.append(screen.ui.rejectButton.mapTo(screen.window, QPoint(0, 0)))
    assert places[0] == places[1]


def test_on_a_small_screen_what_decides_is_in_sight(morning: Morning, screen: Screen) -> None:
    ui = screen.ui
    always = [ui.saidLabel, ui.statusLabel, ui.submitButton, ui.submitNextButton]
    with screen.as_slicer_docks_it(600):
        assert all(screen.in_sight(widget) for widget in always)
        assert not screen.in_sight(ui.imageComment), "the rest is scrolled to"
    ui.worklistButton.setChecked(False)
    with screen.as_slicer_docks_it(790):  # of a screen of 1080, with Slicer's bars and frame
        assert all(map(screen.in_sight, (*always, ui.imageComment, ui.acceptButton)))
    ui.worklistButton.setChecked(True)
    table = screen.panel.worklist.table
    with screen.as_slicer_docks_it(1000):
        least = table.height()
    with screen.as_slicer_docks_it(1300):
        assert table.height() > least + 150, "where there is room, the list has it"


def test_a_larger_font_cuts_no_word(screen: Screen) -> None:
    font, table = APPLICATION.font(), screen.ui.findingsTable
    larger = APPLICATION.font()
    larger.setPointSizeF(1.6 * font.pointSizeF())
    APPLICATION.setFont(larger)
    try:
        screen.press("]")
        screen.press("[")
        for column in range(table.columnCount() - 1):
            needs = max(table.sizeHintForColumn(column),
                        table.horizontalHeader().sectionSizeHint(column))
            assert table.columnWidth(column) >= needs
        assert screen.ui.verdictLabel.font().pointSizeF() > larger.pointSizeF()
    finally:
        APPLICATION.setFont(font)


def test_every_key_that_acts_is_said(morning: Morning, screen: Screen) -> None:
    screen.answer = "Close"
    screen.ui.keysButton.click()
    said = " ".join(re.findall("<b>(.*?)</b>", screen.questions.pop()))
    alt = " ".join(f"Alt+{n}" for n in range(2, 7))
    for short, whole in (
        ("1 … 9", "1 2 3 4 5 6 7 8 9"), ("Alt+2 … Alt+6", alt),
        ("↓", "Down"), ("↑", "Up"), ("Escape", "Esc"),
    ):  # fmt: skip
        assert short in said
        said = said.replace(short, whole)
    names = set(re.split(r"[\s,]+", said))
    acting = {key.key().toString() for key in screen.window.findChildren(QShortcut)}
    assert acting <= names, acting - names


def test_a_key_that_is_held_decides_once(screen: Screen) -> None:
    keys = {key.key().toString(): key for key in screen.window.findChildren(QShortcut)}
    assert {"A", "S", "Ctrl+N"} < set(keys)
    assert {name for name, key in keys.items() if key.autoRepeat()} == {"[", "]", "Up", "Down"}


def test_a_box_is_dragged_and_another_drawn_and_the_model_answers(
    morning: Morning, screen: Screen
) -> None:
    case = screen.case
    first = case.shown[0].id
    screen.press("1")
    x, y, width, height = case.find(first).bbox
    screen.core.view.render()
    screen.core.view.drag(screen.at(x, y), screen.at(x - 0.3 * width, y - 0.3 * height))
    assert case.find(first).status == "edited"
    assert case.find(first).bbox[2] == pytest.approx(1.3 * width, rel=0.2)
    screen.wait(lambda: case.find(first).segmentation is not None)
    screen.press("B")
    assert screen.ui.addButton.isChecked() and "two opposite corners" in screen.said()
    screen.press("Escape")
    assert not screen.ui.addButton.isChecked() and screen.said() == ""
    screen.press("B")
    rows, columns = np.array([0.45, 0.55]) * case.image.height, np.array([0.15, 0.25])
    for row, column in zip(rows, columns * case.image.width, strict=True):
        screen.core.view.click(*screen.at(column, row))
    screen.wait(lambda: case.selected and case.find(case.selected).status == "added")
    added = case.selected
    assert not screen.ui.addButton.isChecked()
    screen.wait(lambda: case.find(added).scores is not None)
    assert screen.table()[-1][2] != "–"
    morning.shot("added")


def test_the_other_view_stands_beside_the_case(morning: Morning, screen: Screen) -> None:
    before = screen.case.state
    alone = screen.look()
    screen.press("V")
    assert screen.ui.compareButton.text() == "Beside: L MLO"
    companion = screen.panel.scene.companion
    screen.wait(lambda: companion.image is not None)
    both = screen.look()
    assert both.shape == alone.shape
    mine, other = np.array_split(both, 2, axis=1)
    assert min((mine > 60).mean(), (other > 60).mean()) > 0.1, "two breasts are on the screen"
    morning.shot("beside")
    while screen.ui.compareButton.text() != "Beside: none":
        screen.press("V")
    assert screen.case.state == before
    np.testing.assert_array_equal(screen.look(), alone)


def test_an_assessment_is_given_by_key_or_from_its_box(screen: Screen) -> None:
    case, box = screen.case, screen.ui.biradsButton
    added = case.selected
    screen.press("Alt+3")
    assert screen.table()[-1][1] == box.text() == "BI-RADS 3"
    (action,) = (a for a in box.menu().actions() if a.text() == "BI-RADS 4C")
    action.trigger()
    assert screen.table()[-1][1] == "BI-RADS 4C" and case.find(added).label == "malignant"
    screen.press("Ctrl+Z")
    assert box.text() == "BI-RADS 3" and case.find(added).birads == "3"
    screen.press("Escape")
    assert not box.isEnabled() and box.text() == "BI-RADS –"
    screen.press(str(len(case.shown)))
    screen.press("Alt+0")
    assert screen.table()[-1][1] == "benign", "the class stays"
    connection = screen.panel.session.connection
    before = connection.info
    connection.info = ServerInfo({**before._document, "label_fields": None})
    screen.press("Escape")
    screen.press(str(len(case.shown)))
    screen.press("Alt+5")
    assert not box.isVisible() and case.find(added).birads is None, "an older server refuses it"
    connection.info = before
    screen.press("Escape")
    screen.press(str(len(case.shown)))
    screen.press("Alt+4")
    assert box.isVisible() and case.find(added).birads == "4"


def test_a_drawn_mask_moves_its_box_and_is_one_step(morning: Morning, screen: Screen) -> None:
    case = screen.case
    added = case.selected
    x, y, width, height = (int(side) for side in case.find(added).bbox)
    steps = case.undo_name
    screen.press("E")
    assert screen.ui.editorFrame.isVisible()
    screen.press("Ctrl+Z")
    assert case.undo_name == steps, "undo belongs to the editor while it is open"
    screen.editor.paint(x, y, width + 80, height)
    screen.editor.paint(x, y, width + 80, height + 40)
    screen.press("E")
    assert not screen.ui.editorFrame.isVisible()
    assert case.find(added).bbox == pytest.approx((x, y, width + 80, height + 40), abs=1.5)
    assert case.find(added).mask_source == "annotated"
    screen.press("Ctrl+Z")
    assert case.find(added).bbox[2] == pytest.approx(width, abs=1.5)
    screen.press("Ctrl+Y")
    screen.ui.findingComment.setFocus()
    screen.ui.findingComment.insert("spiculated")
    screen.ui.findingComment.textEdited.emit("spiculated")
    screen.ui.findingComment.editingFinished.emit()
    assert case.find(added).comment == "spiculated"


def test_leaving_asks_and_each_answer_is_done(morning: Morning, screen: Screen) -> None:
    first, edited = screen.case.image.id, screen.case.state
    second = next(row.id for row in screen.panel.session.worklist.rows if row.id != first)
    screen.questions.clear()
    leave(screen, second, "Stay")
    assert screen.questions == ["This case has edits that are not submitted."]
    assert screen.case.image.id == first and screen.case.dirty

    leave(screen, second, "Keep as draft")
    screen.wait(lambda: screen.case.image.id == second)
    assert not screen.case.dirty
    worklist = screen.panel.worklist
    worklist.state.setCurrentText("not submitted or sent")
    (row,) = screen.panel.session.worklist.shown
    assert row.id == first and worklist.table.item(0, 2).text().endswith(", draft here")
    worklist.state.setCurrentIndex(0)
    screen.press("0")
    assert screen.case.dirty
    leave(screen, first, "Discard")
    screen.wait(lambda: screen.case.image.id == first)
    assert screen.case.state == edited and screen.case.dirty, "the draft is back"
    assert "back" in screen.said()
    assert screen.panel.session.drafts.images() == {first}


def test_submitting_asks_once_and_the_server_has_what_was_seen(
    morning: Morning, screen: Screen
) -> None:
    case = screen.case
    while not case.undecided():
        screen.press("[")
    undecided = [finding.id for finding in case.undecided()]
    screen.questions.clear()
    screen.answer = "Go back"
    screen.press("S")
    assert case.dirty and [finding.id for finding in case.undecided()] == undecided
    assert case.selected == undecided[0], "where to go on"
    screen.ui.imageComment.setText("dense")
    screen.ui.imageComment.textEdited.emit("dense")
    screen.answer = "Reject all"
    screen.press("S")
    screen.wait(lambda: case.based_on == 1)
    assert len(screen.questions) == 2
    assert all("neither accepted nor rejected" in text for text in screen.questions)
    assert not case.dirty and {case.find(name).status for name in undecided} == {"rejected"}
    assert screen.ui.submitButton.text() == "Submitted" and not screen.ui.submitButton.isEnabled()
    screen.press("S")
    assert not screen.panel.session.sending.waiting, "the same label again would be a version more"
    assert "nothing changed" in screen.said()
    screen.press("Ctrl+Z")
    assert screen.ui.submitButton.text() == "Submit changes" and screen.ui.submitButton.isEnabled()
    screen.press("Ctrl+Y")
    label = morning.server.get("/datastore/label", label=case.image.id, tag="final")
    file = morning.folder / "label.seg.nrrd"
    file.write_bytes(label.content)
    stored = read_label_file(file, image=ServerFindings.from_json(case.label.to_json()).image)
    assert stored.to_json()["findings"] == case.label.to_json()["findings"]
    screen.wait(lambda: screen.panel.session.worklist.find(case.image.id).state == "labelled")
    morning.shot("submitted")


def test_a_score_on_the_readers_own_labels_stands_beside_the_slider(
    morning: Morning, screen: Screen
) -> None:
    training = screen.panel.training
    assert not training.plot.isVisibleTo(training.widget), "nothing was scored yet"
    training.score_button.click()
    screen.wait(lambda: "of this server" in screen.ui.fpiLabel.text())
    info = screen.panel.session.connection.info
    fpi, images = info.false_positives(screen.case.threshold)
    assert images == 1 and f"{fpi:.2g}, on 1 image(s) of this server" in screen.ui.fpiLabel.text()
    assert training.plot.isVisibleTo(training.widget)


def test_the_model_reads_ahead(morning: Morning, screen: Screen) -> None:
    worklist = screen.panel.worklist
    assert worklist.ahead_button.text() == "Read ahead"
    worklist.ahead_button.click()
    screen.wait(lambda: screen.panel.session.ahead.batch.status == "DONE")
    assert "3 images were read ahead" in worklist.ahead_words.text()
    rows = screen.panel.session.worklist.rows
    screen.wait(lambda: {row.state for row in screen.panel.session.worklist.rows} == {
        "read", "labelled"
    })
    assert len(rows) == 4


def test_the_model_learns_and_the_next_case_is_read_by_the_new_one(
    morning: Morning, screen: Screen
) -> None:
    session, training = screen.panel.session, screen.panel.training
    before = session.connection.info.model_version
    session.learning.start(SHORT)
    screen.wait(lambda: session.connection.info.training.state == "running", 240)
    assert not training.start_button.isEnabled() and training.stop_button.isEnabled()
    screen.wait(lambda: session.connection.info.training.state == "done", 240)
    screen.wait(lambda: session.connection.info.model_version != before)
    now = session.connection.info.model_version
    assert session.connection.info.training.published
    assert f"Version {now} learned from 1 images" in training.result.text()
    assert training.result.text().endswith("It is in service now.")
    table = training.versions
    shown = [[table.item(r, c).text() for c in range(5)] for r in range(table.rowCount())]
    assert [row[0] for row in shown] == [before, now]
    assert [row[4] for row in shown] == ["", "●"]
    assert not training.take_button.isVisibleTo(training.widget)
    labelled = screen.case.image.id
    screen.ui.worklistButton.setChecked(False)
    assert not screen.ui.worklistArea.isVisible(), "its keys act all the same"
    screen.press("Ctrl+N")
    screen.wait(lambda: screen.case is not None and screen.case.image.id != labelled)
    assert screen.case.document.model["version"] == session.connection.info.model_version
    assert screen.case.document.model["version"] in screen.ui.meaningLabel.text()
    screen.ui.worklistButton.setChecked(True)


def test_no_mass_here_is_a_label_too_and_a_labelled_case_comes_back(
    morning: Morning, screen: Screen
) -> None:
    empty = screen.case.image.id
    screen.press("0")
    assert "no finding" in screen.ui.verdictLabel.text()
    screen.press("S")
    screen.wait(lambda: screen.case.based_on == 1)
    assert screen.ui.submitNextButton.text() == "Next case", "it is handed in"
    screen.press("Shift+S")
    screen.wait(lambda: screen.case.image.id != empty)
    second = screen.case.image.id
    screen.press("0")
    screen.press("Shift+S")
    screen.wait(lambda: screen.case.image.id not in (empty, second))
    assert screen.case.based_on == 0, "the next one without a label"
    worklist = screen.panel.session.worklist
    screen.wait(lambda: {worklist.find(i).state for i in (empty, second)} == {"labelled"})
    labelled = (r for r in worklist.rows if r.state == "labelled")
    first = next(row for row in labelled if row.id not in (empty, second))
    screen.panel.worklist.open(first.id)
    screen.wait(lambda: screen.case.image.id == first.id)
    assert {finding.status for finding in screen.case.shown} >= {"edited", "rejected", "added"}
    assert screen.case.labelled_by == "ann"
    assert screen.case.comment == screen.ui.imageComment.text() == "dense"
    assert not screen.case.dirty
    assert screen.ui.submitButton.text() == "Submit changes"


def test_a_server_that_dies_takes_no_edit_with_it(morning: Morning, screen: Screen) -> None:
    case, before = screen.case, screen.case.based_on
    screen.press("1")
    screen.press("C")
    morning.server.kill()
    screen.answer = "Accept all"
    screen.press("S")
    screen.wait(lambda: screen.panel.session.connection.status == "lost")
    assert len(screen.panel.session.sending.waiting) == 1
    assert state_of(screen, case.image.id) == "labelled, label not sent"
    assert "again" in screen.status() and "1 label(s) wait here" in screen.status()
    screen.press("1")
    screen.press("C")
    assert case.dirty, "reading goes on without a server"
    screen.press("Ctrl+Z")
    port = int(morning.server.url.rsplit(":", 1)[1])
    morning.server = morning.serve(port=port)
    screen.wait(lambda: not screen.panel.session.sending.waiting, 180)
    assert case.based_on == before + 1
    assert state_of(screen, case.image.id) == "labelled"


def test_a_colleagues_newer_label_stands_until_the_reader_says_otherwise(
    morning: Morning, screen: Screen
) -> None:
    case, sending = screen.case, screen.panel.session.sending
    bob = {"client_id": "bob", "submission_id": "of-bob", "based_on": case.based_on}
    content = (morning.folder / "label.seg.nrrd").read_bytes()
    answer = morning.server.put(
        "/datastore/label",
        params={"image": case.image.id, "tag": "final"},
        files={"label": ("label.seg.nrrd", content)},
        data={"params": json.dumps(bob)},
    )
    assert answer.status_code == 200, answer.text
    theirs = case.based_on + 1
    screen.press("1")
    screen.press("C")
    screen.press("S")
    screen.wait(lambda: sending.refused)
    assert sending.refused[0].current == theirs
    image = screen.panel.session.worklist.name(case.image.id)
    assert screen.said().startswith(f"{image}: bob submitted a label for this image after you")
    assert screen.ui.connectionArea.isVisible(), "where to decide is in sight"
    outbox = screen.panel.connection.outbox
    buttons = outbox.findChildren(type(screen.panel.connection.connect_button))
    (mine,) = (b for b in buttons if b.text() == "Submit mine on top" and b.isVisibleTo(outbox))
    mine.click()
    screen.wait(lambda: not sending.refused and not sending.waiting)
    assert case.based_on > theirs


def test_leaving_gives_the_keys_back_and_closing_empties_only_our_part(screen: Screen) -> None:
    case = screen.case
    label = case.find(case.shown[0].id).label
    screen.panel.exit()
    screen.press("1")
    screen.press("C")
    screen.press("Ctrl+N")
    assert case.find(case.shown[0].id).label == label
    assert not screen.panel.session.jobs.running
    screen.panel.enter()
    screen.panel.scene_closes()
    assert screen.case is None
    screen.core.scene.Clear(0)
    assert screen.ui.verdictLabel.text() == "No case is open"
    screen.panel.session.open(case.image.id)
    screen.wait(lambda: screen.case is not None)
    assert (screen.core.view.render() > 60).mean() > 0.1


def leave(screen: Screen, image_id: str, answer: str) -> None:
    """Opens another case from the list, and answers the question about unsaved edits."""
    screen.answer = answer
    screen.panel.worklist.open(image_id)


def state_of(screen: Screen, image_id: str) -> str:
    """As the list says it."""
    ids = [row.id for row in screen.panel.session.worklist.shown]
    text: str = screen.panel.worklist.table.item(ids.index(image_id), 2).text()
    return text


def middle(finding: Any) -> tuple[float, float]:
    x, y, width, height = finding.bbox
    return x + width / 2, y + height / 2
