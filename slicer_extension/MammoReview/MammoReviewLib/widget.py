"""The whole panel: its rooms, made and joined. Everything from outside is handed in."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import qt

from .case_actions import CaseActions, MaskEditor
from .case_view import CaseView
from .comparison import Comparison
from .comparison_view import ComparisonView
from .connection_view import COLOURS as STATUS_COLOURS
from .connection_view import ConnectionView, waiting_words
from .i18n import _
from .jobs import Jobs
from .look import as_text, height_of_lines
from .ports import Ask, Settings
from .scene import Scene
from .scene_image import UnreadableImage
from .scene_label_files import SlicerLabelFiles
from .score_plot import draw
from .session import Session
from .training_view import TrainingView
from .worklist_view import WorklistView

SECTIONS = ("connection", "worklist", "training")


class QtTimer:
    """`ports.Timer` by a QTimer."""

    def __init__(self) -> None:
        self._timer = qt.QTimer()

    def start(self, milliseconds: int, callback: Callable[[], None]) -> None:
        """Calls `callback` every so many milliseconds."""
        self._timer.timeout.connect(callback)
        self._timer.start(milliseconds)

    def stop(self) -> None:
        """Calls it no more."""
        self._timer.stop()


@dataclass(frozen=True)
class Surroundings:
    """What Slicer brings and tests bring in its place."""

    make_scene: Callable[[], Scene]
    editor: MaskEditor
    ask: Ask
    settings: Settings
    folder: Path  # of drafts and outbox
    window: Any  # whose keys act while the panel is open


class Panel:
    """The panel, in the loaded `ui`."""

    def __init__(self, ui: Any, around: Surroundings) -> None:
        self._ui, self._window, self._ask = ui, around.window, around.ask
        self._said = self._opens = ""
        label_files = SlicerLabelFiles()
        self.session = Session(Jobs(QtTimer()), label_files, around.folder)
        self.scene = around.make_scene()
        self.session.case_changed.connect(self._show_image)  # first: others draw into it
        self.view = CaseView(ui, self.session, self.scene)
        comparison = Comparison(self.session, label_files)
        self.comparison = ComparisonView(
            ui.compareButton, comparison, self.scene, around.settings, self._say
        )
        self.actions = CaseActions(
            ui, self.session, self.scene, self.view, comparison, around.editor, around.ask
        )
        self.connection = ConnectionView(self.session, around.settings, around.ask)
        handing_in = self.actions.handing_in
        self.worklist = WorklistView(self.session, handing_in.may_leave, around.settings)
        handing_in.next_wanted.connect(self.worklist.open_next)
        self.training = TrainingView(self.session, draw, around.ask)
        for area, view in (
            (ui.connectionArea, self.connection),
            (ui.worklistArea, self.worklist),
            (ui.trainingArea, self.training),
        ):
            area.layout().addWidget(view.widget)
        for name in SECTIONS:
            button, area = getattr(ui, f"{name}Button"), getattr(ui, f"{name}Area")
            button.toggled.connect(lambda on, b=button, a=area: self._fold(b, a, on))
        ui.saidLabel.setMinimumHeight(height_of_lines(2))
        ui.keysButton.setToolTip(_("Every key of this panel"))
        ui.keysButton.clicked.connect(lambda *_: self._say_keys())
        ui.cancelButton.setToolTip(_("Gives up what the panel waits for"))
        ui.cancelButton.clicked.connect(lambda *_: self.session.cancel())
        self.session.said.connect(self._say)
        self.session.opening.connect(self._opening)
        self.session.connection.established.connect(self._connected)
        self.session.connection.changed.connect(self._show_status)
        self.session.sending.changed.connect(self._show_refused)
        self.session.sending.changed.connect(self._show_status)
        self._show_status()
        self._say("")

    def enter(self) -> None:
        """The panel is looked at: its keys act."""
        self.actions.listen(self._window)
        self.worklist.keys.listen(self._window)

    def exit(self) -> None:
        """Another module is looked at. The case stays open; keys and mouse belong to others.

        A mask that is being drawn is taken: an open Segment Editor would go on painting it.
        """
        self.actions.take_up()
        self.actions.deafen()
        self.worklist.keys.deafen()
        self.scene.stop_placing()

    def close(self) -> None:
        """The panel goes; edits are on disk, and the scene is as it was found."""
        self.exit()
        self.session.close_case()
        self.scene.close()
        self.session.close()

    def scene_closes(self) -> None:
        """Slicer empties its scene: our nodes go with it, the edits stay as a draft."""
        self.actions.take_up()
        self.scene.forget()
        self.session.close_case()

    def _say_keys(self) -> None:
        lines = [*self.worklist.keys.said, *self.actions.keys.said]
        cell = "<td style='white-space: nowrap; padding: 1px 12px 1px 0'>{}</td>"
        rows = (f"<tr>{cell.format(f'<b>{k}</b>')}{cell.format(words)}</tr>" for k, words in lines)
        self._ask(f"<table>{''.join(rows)}</table>", [_("Close")])

    def _show_image(self) -> None:
        case = self.session.case
        if case is None:
            self.scene.close()
            return
        try:
            self.scene.open(case.image_file, case.document)
        except UnreadableImage as error:
            self.session.close_case()
            self._say(str(error))
        except Exception as error:  # whatever a file does to Slicer, the reader is told
            logging.exception("A mammogram could not be shown")
            self.session.close_case()
            self._say(_("This image cannot be shown: {reason}").format(reason=error))

    def _connected(self) -> None:
        self._ui.connectionButton.setChecked(False)  # its line below goes on saying how things are
        self._show_refused()

    def _show_refused(self) -> None:
        if self.session.sending.refused:  # somebody must decide, there
            self._ui.connectionButton.setChecked(True)

    def _show_status(self) -> None:
        connection = self.session.connection
        colour = as_text(STATUS_COLOURS[connection.status])
        self._ui.cancelButton.setVisible(connection.status == "busy")
        words, waiting = f"● {connection.sentence}", len(self.session.sending.waiting)
        if waiting and connection.status in ("lost", "off"):
            words = f"{words} {waiting_words(waiting)}"
        self._ui.statusLabel.setText(words)
        self._ui.statusLabel.setStyleSheet(f"color: {colour}; font-weight: bold; padding: 0 4px;")

    def _opening(self, image_id: str | None) -> None:
        if image_id is not None:
            name = self.session.worklist.name(image_id)
            self._opens = _("Opening {image} …").format(image=name)
            self._say(self._opens)
        elif self._said == self._opens:  # what was said since is still to be read
            self._say("")

    def _say(self, sentence: str) -> None:
        self._said = sentence
        self._ui.saidLabel.setText(sentence)

    def _fold(self, button: Any, area: Any, is_open: bool) -> None:
        area.setVisible(is_open)
        button.setArrowType(qt.Qt.DownArrow if is_open else qt.Qt.RightArrow)


def ask_in_window(window: Any) -> Ask:
    """Questions as a dialog of `window`."""

    def ask(text: str, answers: list[str]) -> int:
        chosen = [len(answers) - 1]
        box = qt.QMessageBox(window)
        box.setWindowTitle(_("MammoReview"))
        box.setText(text)
        for number, answer in enumerate(answers):
            button = box.addButton(answer, qt.QMessageBox.ActionRole)
            button.clicked.connect(lambda *_, number=number: chosen.__setitem__(0, number))
            if number == len(answers) - 1:
                box.setEscapeButton(button)
        box.exec_()
        return chosen[0]

    return ask
