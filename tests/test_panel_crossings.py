"""What comes while a reader is busy: answers, other cases, the end of a scene. Nothing may be lost.

The real panel, server and films; a gate holds one of the client's answers back for as long as a
test needs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from MammoReviewLib.failures import Failure
from MammoReviewLib.image_files import KEPT
from panel_morning import Morning, quick_morning
from panel_screen import Screen
from PySide6.QtGui import QKeySequence
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QLabel

Hold = Callable[[str], threading.Event]


@pytest.fixture(scope="module")
def morning(tmp_path_factory: pytest.TempPathFactory, untrained: Path) -> Iterator[Morning]:
    with quick_morning(tmp_path_factory.mktemp("morning"), untrained) as morning:
        yield morning


@pytest.fixture
def screen(morning: Morning) -> Iterator[Screen]:
    """Connected, with the first film open as the model reads it, and no other fetched yet."""
    screen = morning.screen
    session = screen.panel.session
    session.connect(morning.server.url, client_id="ann")
    screen.wait(lambda: session.connection.info and session.worklist.rows)
    forget_images(screen)
    first = session.worklist.rows[0].id
    session.open(first)
    screen.wait(lambda: screen.case is not None)
    screen.ui.thresholdSlider.setValue(0)
    screen.questions.clear()
    yield screen
    session.disconnect()
    session.drafts.forget(first)
    morning.server.delete("/datastore/label", params={"id": first, "tag": "final"})


@pytest.fixture
def hold(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hold]:
    """Holds a method of the client back until its event is set."""
    gates: list[threading.Event] = []

    def close(name: str) -> threading.Event:
        gate, client = threading.Event(), screen.panel.session.connection.client
        method = getattr(client, name)

        def held(*args: Any, **more: Any) -> Any:
            gate.wait(60)
            return method(*args, **more)

        monkeypatch.setattr(client, name, held)
        gates.append(gate)
        return gate

    yield close
    for gate in gates:
        gate.set()


def another(screen: Screen) -> str:
    rows = screen.panel.session.worklist.rows
    return next(row.id for row in rows if row.id != screen.case.image.id)


def forget_images(screen: Screen) -> None:
    """Images that were fetched once are fetched no second time."""
    for file in screen.panel.session.images.folder.iterdir():
        file.unlink()


def versions_that_arrive(screen: Screen) -> list[int]:
    versions: list[int] = []
    screen.panel.session.sending.arrived.connect(lambda *of: versions.append(of[2]))
    return versions


def draw(screen: Screen) -> str:
    """Begins a mask on the first finding and paints a little of it."""
    screen.press("1")
    name = screen.case.selected
    screen.press("E")
    x, y, width, height = (int(side) for side in screen.case.find(name).bbox)
    screen.editor.paint(x, y, width + 90, height)
    return name


def test_what_is_being_typed_stays_when_the_model_and_the_label_answer(
    screen: Screen, hold: Hold
) -> None:
    case, model = screen.case, hold("infer")
    screen.panel.scene.box_placed.emit((300.0, 900.0, 200.0, 200.0))
    added = case.selected
    screen.ui.findingComment.setFocus()
    QTest.keyClicks(screen.ui.findingComment, "spiculated")
    model.set()
    screen.wait(lambda: case.find(added).scores is not None)
    assert screen.ui.findingComment.text() == "spiculated"
    label = hold("submit_label")
    case.accept_all()
    screen.press("S")
    assert case.find(added).comment == "spiculated", "it goes with the label"
    screen.ui.imageComment.setFocus()
    QTest.keyClicks(screen.ui.imageComment, "compare with 2024")
    label.set()
    screen.wait(lambda: not screen.panel.session.sending.waiting)
    assert screen.ui.imageComment.text() == "compare with 2024"
    screen.panel.session.close_case()
    assert screen.panel.session.drafts.find(case.image.id).state.comment == "compare with 2024"


def test_a_label_waits_for_the_models_word_on_its_boxes(screen: Screen, hold: Hold) -> None:
    case, session, model = screen.case, screen.panel.session, hold("infer")
    case.reject_all()
    screen.panel.scene.box_placed.emit((300.0, 900.0, 200.0, 200.0))
    added = case.selected
    assert case.find(added).label == "malignant"
    screen.press("S")
    assert case.dirty and not session.sending.waiting, "its outline and its class would come after"
    assert "still answering" in screen.said()
    model.set()
    screen.wait(lambda: case.find(added).scores is not None)
    number = len(case.shown)
    assert case.find(added).label == "benign"
    assert screen.said() == f"The model takes finding {number} for benign. C changes its class."
    screen.press("S")
    screen.wait(lambda: case.based_on)
    assert not case.dirty


def test_escape_gives_the_keys_back_and_keeps_what_was_typed(screen: Screen) -> None:
    screen.press("1")
    name = screen.case.selected
    screen.ui.findingComment.setFocus()
    QTest.keyClicks(screen.ui.findingComment, "spiculated")
    QTest.keySequence(screen.ui.findingComment, QKeySequence("Escape"))
    assert screen.case.selected is None
    assert screen.case.find(name).comment == "spiculated"


def late_arrival(screen: Screen, hold: Hold) -> str:
    gate, coming = hold("download_image"), another(screen)
    screen.panel.worklist.open(coming)
    name = draw(screen)
    gate.set()
    screen.wait(lambda: screen.case.image.id == coming)
    return name


def scene_closing(screen: Screen, hold: Hold) -> str:
    name = draw(screen)
    screen.panel.scene_closes()
    screen.core.scene.Clear(0)
    return name


def disconnecting(screen: Screen, hold: Hold) -> str:
    name = draw(screen)
    screen.panel.session.disconnect()
    return name


def another_module(screen: Screen, hold: Hold) -> str:
    name = draw(screen)
    screen.panel.exit()
    screen.panel.enter()
    return name


@pytest.mark.parametrize("leave", [late_arrival, scene_closing, disconnecting, another_module])
def test_a_mask_that_is_being_drawn_is_taken_when_its_case_goes(
    screen: Screen, hold: Hold, leave: Callable[[Screen, Hold], str]
) -> None:
    image = screen.case.image.id
    name = leave(screen, hold)
    assert screen.questions == []
    assert not screen.ui.editorFrame.isVisible() and screen.editor.closed
    draft = screen.panel.session.drafts.find(image)
    (drawn,) = (finding for finding in draft.state.findings if finding.id == name)
    assert drawn.mask_source == "annotated" and drawn.segmentation is not None
    assert screen.panel.scene.segmentation is None


def test_a_question_about_a_case_that_has_gone_sends_nothing(
    screen: Screen, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, session = screen.case, screen.panel.session
    assert one.undecided()
    gate, coming = hold("download_image"), another(screen)
    screen.panel.worklist.open(coming)

    def question(text: str, answers: list[str]) -> int:
        gate.set()
        screen.wait(lambda: session.case is not one)
        return answers.index("Accept all")

    monkeypatch.setattr(screen.panel.actions.handing_in, "_ask", question)
    screen.press("S")
    assert session.case.image.id == coming
    assert session.sending.waiting == () and not session.case.dirty and not one.dirty
    assert screen.said().startswith("Another case has opened meanwhile.")


def test_a_draft_follows_the_label_that_it_was_begun_on(screen: Screen, hold: Hold) -> None:
    one, session, label = screen.case, screen.panel.session, hold("submit_label")
    arrived = versions_that_arrive(screen)
    one.accept_all()
    screen.press("1")
    screen.press("S")
    screen.press("C")  # a correction while the label is on its way
    gate = hold("download_image")
    session.close_case()
    forget_images(screen)
    session.open(one.image.id)  # and the case is opened again meanwhile
    label.set()
    screen.wait(lambda: not session.sending.waiting)
    gate.set()
    screen.wait(lambda: screen.case is not None)
    assert (screen.case.based_on, screen.case.follows) == (arrived[-1], None)
    screen.press("S")
    screen.wait(lambda: not session.sending.waiting)
    assert session.sending.refused == (), "no conflict with one's own label"


def test_a_case_opens_from_the_label_that_arrived_while_its_image_came(
    screen: Screen, hold: Hold
) -> None:
    one, session, label = screen.case, screen.panel.session, hold("submit_label")
    arrived = versions_that_arrive(screen)
    one.no_mass()
    screen.press("S")
    gate = hold("download_image")
    session.close_case()
    forget_images(screen)
    session.open(one.image.id)
    label.set()
    screen.wait(lambda: not session.sending.waiting)
    gate.set()
    screen.wait(lambda: screen.case is not None)
    assert screen.case.based_on == arrived[-1]
    assert screen.case.labelled_by == "ann" and not screen.case.undecided()


def test_what_is_told_of_a_label_names_its_image_and_outlasts_the_next_ones_opening(
    screen: Screen, hold: Hold
) -> None:
    session, one, coming = screen.panel.session, screen.case.image.id, another(screen)
    label, image = hold("submit_label"), hold("download_image")
    arrived = versions_that_arrive(screen)
    screen.case.no_mass()
    screen.press("S")
    screen.panel.worklist.open(coming)
    assert screen.said() == f"Opening {session.worklist.name(coming)} …"
    label.set()
    screen.wait(lambda: arrived)
    image.set()
    screen.wait(lambda: screen.case.image.id == coming)
    name, row = session.worklist.name(one), session.worklist.find(one)
    assert name == f"{row.title} of patient {row.patient_key[:8]}"
    assert screen.said() == f"The label of {name} has arrived (version {arrived[0]})."


def test_a_label_is_handed_in_once_until_it_was_thrown_away(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(*_label: Any, **_more: Any) -> dict[str, Any]:
        raise Failure("forbidden", "The server does not allow this.")

    sending, button = screen.panel.session.sending, screen.ui.submitButton
    monkeypatch.setattr(screen.panel.session.connection.client, "submit_label", forbid)
    screen.case.no_mass()
    screen.press("S")
    screen.wait(lambda: sending.refused)
    assert button.text() == "Submitted"
    told = f"{screen.panel.session.worklist.name(screen.case.image.id)}: The server does not allow"
    outbox = screen.panel.connection.outbox
    assert any(label.text().startswith(told) for label in outbox.findChildren(QLabel))
    assert screen.said().startswith(told)
    screen.press("S")
    assert len(sending.refused) == 1 and not sending.waiting
    sending.drop(sending.refused[0])
    assert button.text() == "Submit" and button.isEnabled()


def test_the_film_that_is_read_again_does_not_go_first(screen: Screen) -> None:
    one, files = screen.case.image.id, screen.panel.session.images
    (film,) = files.folder.iterdir()
    screen.panel.session.close_case()
    os.utime(film, (0, 0))
    for number in range(KEPT):  # fetched since, whether or not they were looked at
        (files.folder / f"{number}.dcm").touch()
    screen.panel.session.open(one)
    screen.wait(lambda: screen.case is not None)
    assert film.exists() and screen.case.image_file == film
    forget_images(screen)


def test_a_label_that_cannot_be_read_is_said(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen.case.no_mass()
    screen.press("S")
    session = screen.panel.session
    screen.wait(lambda: not session.sending.waiting)
    image = screen.case.image.id
    session.close_case()

    def damaged(_image: str, file: Path, **_more: Any) -> Path:
        file.write_bytes(b"NRRD0004\nftmtl_findings:={}\n\nxx")
        return file

    monkeypatch.setattr(session.connection.client, "download_label", damaged)
    session.open(image)
    screen.wait(lambda: screen.said() and not screen.said().startswith("Opening"))
    assert screen.case is None
    assert "label" in screen.said()


def test_placing_ends_where_slicer_ends_it(screen: Screen) -> None:
    interaction = screen.core.scene.GetFirstNodeByClass("vtkMRMLInteractionNode")
    screen.press("B")
    assert screen.ui.addButton.isChecked() and screen.panel.scene.placing
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)  # its toolbar's arrow
    screen.wait(lambda: not screen.panel.scene.placing)
    assert not screen.ui.addButton.isChecked()
