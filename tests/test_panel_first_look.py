"""A reader's own look comes before the model's: what it found is shown when they ask, or submit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from panel_morning import Morning, quick_morning
from panel_screen import Screen


@pytest.fixture(scope="module")
def morning(tmp_path_factory: pytest.TempPathFactory, untrained: Path) -> Iterator[Morning]:
    with quick_morning(tmp_path_factory.mktemp("morning"), untrained) as morning:
        yield morning


@pytest.fixture
def screen(morning: Morning) -> Screen:
    """Connected; cases open veiled."""
    screen = morning.screen
    session = screen.panel.session
    if session.connection.info is None:
        session.connect(morning.server.url, client_id="ann")
        screen.wait(lambda: session.connection.info and session.worklist.rows)
    screen.panel.worklist.look_first.setChecked(True)
    return screen


def open_case(screen: Screen, number: int) -> None:
    row = screen.panel.session.worklist.rows[number]
    screen.panel.worklist.open(row.id)
    screen.wait(lambda: screen.case is not None and screen.case.image.id == row.id)


def proposals(screen: Screen) -> list[str]:
    """Of the model, as the case would show them."""
    case = screen.case
    found = case.opened.findings
    return [f.id for f in found if f.status == "proposed" and f.score >= case.threshold]


def test_nothing_tells_what_the_model_found_until_the_reader_asks(screen: Screen) -> None:
    open_case(screen, 0)
    assert len(proposals(screen)) > 1
    assert screen.table() == []
    breast = screen.core.view.render()
    assert screen.ui.verdictLabel.text().endswith("your own look first")
    assert screen.ui.verdictBar.value() == 0
    worklist = screen.panel.worklist
    assert worklist.table.isColumnHidden(3)
    assert worklist.table.horizontalHeaderItem(3).text() == "Malignancy"
    assert not screen.ui.thresholdRow.isEnabled()
    screen.press("[")  # which is not to bring them in by the back door
    screen.core.view.click(*screen.at(*middle(screen)))
    assert screen.table() == [] and screen.case.selected is None
    screen.press("H")
    assert len(screen.table()) == len(screen.case.shown) >= len(proposals(screen))
    assert "of 100" in screen.ui.verdictLabel.text()
    assert (screen.core.view.render() != breast).any(), "and they are drawn"
    assert screen.ui.thresholdRow.isEnabled() and not screen.case.dirty
    screen.press("H")
    assert screen.ui.hideButton.isChecked() and len(screen.table()) > 1, "hidden, as ever"


def middle(screen: Screen) -> tuple[float, float]:
    x, y, width, height = screen.case.opened.findings[0].bbox
    return x + width / 2, y + height / 2


def test_what_a_reader_drew_alone_stands_whatever_the_model_says(screen: Screen) -> None:
    open_case(screen, 1)
    screen.panel.scene.box_placed.emit((300.0, 900.0, 200.0, 200.0))
    own = screen.case.selected
    assert [row[4] for row in screen.table()] == ["added"], "it alone"
    assert not screen.ui.askButton.isEnabled()
    assert not screen.panel.session.jobs.is_running(f"box {own}"), "nobody asks the model yet"
    screen.answer = "Keep as draft"
    open_case(screen, 0)
    open_case(screen, 1)
    assert [row[4] for row in screen.table()] == ["added"], "a draft is as veiled as it was"
    screen.press("H")
    screen.wait(lambda: screen.case.find(own).malignancy is not None)
    answered = screen.case.find(own)
    assert answered.scores["benign"] > answered.scores["malignant"], "else this shows nothing"
    assert answered.label == "malignant", "the reader's word"
    open_case(screen, 0)
    open_case(screen, 1)
    assert len(screen.table()) > 1, "what was shown is not hidden again"


def test_a_mass_that_both_found_stands_once(screen: Screen) -> None:
    screen.answer = "Discard"
    open_case(screen, 3)
    names = proposals(screen)
    x, y, width, height = screen.case.find(names[0]).bbox
    screen.panel.scene.box_placed.emit((x + 0.1 * width, y, width, height))
    own = screen.case.selected
    screen.press("H")
    assert [f.id for f in screen.case.shown] == [*names[1:], own]
    screen.wait(lambda: screen.case.find(own).malignancy is not None)
    screen.press("Ctrl+Z")
    assert [f.id for f in screen.case.shown] == names, "its own has gone"
    open_case(screen, 0)


def test_submitting_shows_the_models_first(screen: Screen) -> None:
    screen.answer = "Keep as draft"
    open_case(screen, 2)
    screen.press("0")
    assert "no finding" in screen.ui.verdictLabel.text()
    screen.press("S")
    assert f"proposes {len(proposals(screen))} more" in screen.said()
    assert len(screen.table()) == len(proposals(screen)) and screen.case.based_on == 0
    screen.answer = "Reject all"
    screen.press("S")
    screen.wait(lambda: screen.case.based_on == 1)


def test_where_the_model_proposes_nothing_one_submission_does(screen: Screen) -> None:
    open_case(screen, 3)
    screen.case.set_threshold(1.0)
    assert proposals(screen) == []
    screen.press("0")
    screen.press("S")
    screen.wait(lambda: screen.case.based_on == 1)


def test_the_choice_is_kept_and_a_label_that_stands_is_shown(screen: Screen) -> None:
    open_case(screen, 0)
    open_case(screen, 3)
    assert screen.case.labelled_by == "ann" and not screen.case.veiled
    assert screen.panel.worklist.reason.text().startswith("Labelled by ann")
    session, settings = screen.panel.session, screen.panel.worklist._settings
    view = type(screen.panel.worklist)
    again = view(session, lambda: True, settings)
    assert again.look_first.isChecked()
    again.look_first.setChecked(False)
    assert not again.table.isColumnHidden(3)
    assert not view(session, lambda: True, settings).look_first.isChecked()
