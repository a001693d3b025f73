"""What a reader does with the open case: buttons, keys, the mouse in the slice view."""

from __future__ import annotations

from typing import Any, Callable, Protocol

from .birads_field import KEYS as BIRADS_KEYS
from .birads_field import KEYS_SAID as BIRADS_KEYS_SAID
from .birads_field import BiradsField
from .case import Case
from .case_view import SLIDER_STEPS, CaseView
from .comment_fields import CommentFields
from .comparison import Comparison
from .handing_in import HandingIn
from .i18n import _
from .keys import Keys
from .masks import Box
from .ports import Ask
from .scene import Scene
from .session import Session

STEP = 20  # of the threshold slider's thousand, for a key
NUMBERS = range(1, 10)
REPEATING = ("[", "]", "Down", "Up")  # held, any other key would decide what nobody looked at
EDIT = "E"


class MaskEditor(Protocol):
    """Slicer's Segment Editor, as far as it is needed here."""

    def open(self, area: Any, scene: Scene, finding_id: str) -> None:
        """Shows itself in `area` and lets a person draw the finding's segment."""
        ...

    def close(self) -> None:
        """Stops drawing."""
        ...


class CaseActions:
    """Joins buttons, `keys` and mouse to the case. `handing_in`: how the reader is done with it."""

    def __init__(
        self,
        ui: Any,
        session: Session,
        scene: Scene,
        view: CaseView,
        comparison: Comparison,
        editor: MaskEditor,
        ask: Ask,
    ) -> None:
        self._ui, self._session, self._scene, self._view = ui, session, scene, view
        self._editor = editor
        self.handing_in = HandingIn(session, self.take_up, ask)
        self._case: Case | None = None
        self._editing: str | None = None
        self._comments = CommentFields(ui.findingComment, ui.imageComment)
        self._birads = BiradsField(ui.biradsButton, self._comments.keep)
        accept = _("It is a mass, as drawn")
        mask = _("Opens Slicer's Segment Editor on the selected finding; again: takes its mask")
        add = _("Two clicks in the image; the model answers with a mask and a score")
        go_on = _("… and opens the next case")
        beside = _("Beside the case: its breast's other view, the other breast, or nothing")
        buttons: list[tuple[Any, str, str, Callable[[], Any]]] = [
            (ui.acceptButton, "A", accept, self.accept),
            (ui.rejectButton, "X", _("It is none"), self.reject),
            (ui.classButton, "C", _("Benign becomes malignant, and back"), self.change_class),
            (ui.addButton, "B", add, self.add_box),
            (ui.maskButton, EDIT, mask, self.edit_mask),
            (ui.noMassButton, "0", _("Rejects what is shown: there is no mass"), self.no_mass),
            (ui.undoButton, "Ctrl+Z", _("Takes the last step back"), self.undo),
            (ui.redoButton, "Ctrl+Y", _("Does it again"), self.redo),
            (ui.askButton, "Q", _("A new mask and score for the selected box"), self.ask_model),
            (ui.hideButton, "H", _("The breast alone, or with findings"), self.hide),
            (ui.fitButton, "F", _("The breast fills the view"), scene.fit),
            (ui.windowButton, "W", _("The file's next window"), self.next_window),
            (ui.compareButton, "V", beside, comparison.choose_next),
            (ui.submitButton, "S", _("Sends the label to the server"), self.handing_in.submit),
            (ui.submitNextButton, "Shift+S", go_on, self.handing_in.submit_and_go_on),
        ]
        keys: list[tuple[str, Callable[[], Any]]] = []
        said = [(key, tip) for _button, key, tip, _action in buttons]
        self._tips = {key: f"{tip} ({key})" for key, tip in said}
        for button, key, _tip, action in buttons:
            button.clicked.connect(lambda *_, action=action: action())
            button.setToolTip(self._tips[key])
            keys.append((key, action))
        ui.editorDoneButton.clicked.connect(lambda *_: self.edit_mask())
        keys += [("Escape", self.escape), ("M", ui.findingComment.setFocus)]
        keys += [("Shift+M", ui.imageComment.setFocus)]
        keys += [("[", lambda: self._slide(-STEP)), ("]", lambda: self._slide(STEP))]
        keys += [("Down", lambda: self._step(1)), ("Up", lambda: self._step(-1))]
        keys += [(str(n), lambda n=n: self._select(n)) for n in NUMBERS]
        keys += [(key, lambda b=b: self._birads.choose(b)) for key, b in BIRADS_KEYS.items()]
        said += [
            (BIRADS_KEYS_SAID, _("BI-RADS of the selected finding, or none")),
            (f"{NUMBERS[0]} … {NUMBERS[-1]}, ↓, ↑", _("Selects a finding")),
            ("[, ]", _("Shows more proposals, or fewer")),
            ("M, Shift+M", _("A comment on the finding, on the image; Enter ends it")),
            ("Escape", _("Gives up a box that is being drawn, else selects nothing")),
        ]
        self.keys = Keys(keys, said, repeating=REPEATING)
        for edit in (ui.findingComment, ui.imageComment):
            edit.returnPressed.connect(ui.findingsTable.setFocus)  # the keys act again
        scene.box_dragged.connect(self._dragged)
        scene.box_placed.connect(self._placed)
        scene.clicked.connect(self._clicked)
        session.case_closes.connect(self.take_up)
        session.case_changed.connect(self._open)
        session.sending.changed.connect(self._show)
        session.sending.arrived.connect(self._show)
        self._open()

    # Keys

    def listen(self, window: Any) -> None:
        """Keys of `window` act on the case."""
        self.keys.listen(window)
        self._show()

    def deafen(self) -> None:
        """Keys belong to others again."""
        self.keys.deafen()

    # Corrections

    def accept(self) -> None:
        """Accepts the selected finding and goes on to the next undecided one."""
        self._decide(lambda case, name: case.accept(name))

    def reject(self) -> None:
        """Rejects the selected finding and goes on to the next undecided one."""
        self._decide(lambda case, name: case.reject(name))

    def change_class(self) -> None:
        """Benign becomes malignant, and the reverse."""
        self._with_selected(
            lambda case, name: case.set_label(
                name, "benign" if case.find(name).label == "malignant" else "malignant"
            )
        )

    def add_box(self) -> None:
        """The next two clicks in the image are a box; pressed again, they are not."""
        self._ui.addButton.setChecked(self._case is not None and not self._scene.placing)
        if self._scene.placing:
            self._give_up_box()
        elif self._case is not None:
            self._scene.place_box()
            words = _("Click two opposite corners of the mass in the image; Escape gives it up.")
            self._session.said.emit(words)

    def edit_mask(self) -> None:
        """Opens the Segment Editor on the selected finding; pressed again, takes its mask."""
        case = self._case
        if self._editing is not None:
            finding_id, self._editing = self._editing, None
            self._editor.close()
            mask = self._scene.end_mask()
            if case is not None and finding_id in {f.id for f in case.document.findings}:
                case.set_mask(finding_id, mask)
        elif case is not None and case.selected is not None:
            self._editing = case.selected
            self._scene.begin_mask(case.selected)
            number = [finding.id for finding in case.shown].index(case.selected) + 1
            words = _("You draw the mask of finding {n}. Its own undo holds until you are done.")
            self._ui.editorLabel.setText(words.format(n=number))
            self._editor.open(self._ui.editorArea, self._scene, case.selected)
        self._show()
        self._view.show()

    def no_mass(self) -> None:
        """No mass in this image."""
        if self._case is not None:
            self._case.no_mass()

    def ask_model(self) -> None:
        """A new mask and score for the selected box."""
        self._with_selected(lambda case, name: self._session.ask_model(name))

    def undo(self) -> None:
        """Takes the last step back."""
        if self._case is not None and self._editing is None:
            self._case.undo()

    def redo(self) -> None:
        """Does it again."""
        if self._case is not None and self._editing is None:
            self._case.redo()

    def hide(self) -> None:
        """Shows the breast alone, or the findings again; first of all what the model found."""
        if self._case is not None and self._case.veiled:
            self._session.unveil()
        else:
            self._scene.set_visible(not self._scene.visible)
        self._show()

    def next_window(self) -> None:
        """Shows the image in the file's next window, and says which that is."""
        self._scene.next_window()
        self._show()

    def escape(self) -> None:
        """Stops placing a box, else selects nothing."""
        if self._scene.placing:
            self._give_up_box()
        elif self._case is not None:
            self._comments.keep()
            self._case.select(None)

    def take_up(self) -> None:
        """What is being typed or drawn becomes steps of the case."""
        self._comments.keep()
        if self._editing is not None:
            self.edit_mask()

    # Inside

    def _open(self) -> None:
        if self._case is not None:
            self._case.changed.disconnect(self._show)
            self._case.selected_changed.disconnect(self._show)
        self._case = self._session.case
        if self._case is not None:
            self._case.changed.connect(self._show)
            self._case.selected_changed.connect(self._show)
        self._show()

    def _show(self, *_selected: Any) -> None:
        ui, case = self._ui, self._case
        chosen = case is not None and case.selected is not None and self._editing is None
        veiled = case is not None and case.veiled
        for button in (ui.acceptButton, ui.rejectButton, ui.classButton):
            button.setEnabled(chosen)
        ui.askButton.setEnabled(chosen and not veiled)
        ui.maskButton.setEnabled(chosen or self._editing is not None)
        ui.maskButton.setChecked(self._editing is not None)
        ui.addButton.setChecked(self._scene.placing)
        for button in (ui.addButton, ui.noMassButton):
            button.setEnabled(case is not None and self._editing is None)
        for button in (ui.hideButton, ui.fitButton, ui.windowButton, ui.compareButton):
            button.setEnabled(case is not None)
        free = case is not None and self._editing is None
        undo, redo = ("", "") if case is None else (case.undo_name, case.redo_name)
        for button, key, step in ((ui.undoButton, "Ctrl+Z", undo), (ui.redoButton, "Ctrl+Y", redo)):
            button.setEnabled(bool(step) and free)
            tip = self._tips[key]
            button.setToolTip(f"{tip}: {step}" if step else tip)
        # The Segment Editor has keys of its own.
        self.keys.leave_only(None if self._editing is None else EDIT)
        ui.hideButton.setText(_("Show the model's") if veiled else _("Hide findings"))
        ui.hideButton.setChecked(not self._scene.visible)
        ui.editorFrame.setVisible(self._editing is not None)
        windows = [_("Window: {name}").format(name=w.name) for w in self._scene.windows]
        ui.windowButton.setText(windows[self._scene.window] if windows else _("Window"))
        words = _("Submit changes") if case is not None and case.based_on else _("Submit")
        handed_in = self._session.is_handed_in
        ui.submitButton.setText(_("Submitted") if handed_in else words)
        ui.submitButton.setEnabled(case is not None and not handed_in)
        ui.submitNextButton.setText(_("Next case") if handed_in else _("Submit, next"))
        ui.submitNextButton.setEnabled(case is not None)
        self._comments.show(case)
        info = self._session.connection.info
        offered = info is not None and info.takes_birads
        ui.biradsButton.setVisible(offered)
        self._birads.show(case if chosen and offered else None)

    def _with_selected(self, do: Callable[[Case, str], None]) -> None:
        if self._case is not None and self._case.selected is not None and self._editing is None:
            self._comments.keep()
            do(self._case, self._case.selected)

    def _decide(self, do: Callable[[Case, str], None]) -> None:
        self._with_selected(do)
        case = self._case
        if case is not None:
            following = case.undecided()
            if following:
                case.select(following[0].id)

    def _dragged(self, finding_id: str, box: Box) -> None:
        if self._case is not None:
            self._comments.keep()
            self._case.set_box(finding_id, box)
            self._view.show()
            if self._case.find(finding_id).segmentation is None:
                self._session.ask_model(finding_id)

    def _give_up_box(self) -> None:
        self._scene.stop_placing()
        self._placed(None)

    def _placed(self, box: Box | None) -> None:
        self._ui.addButton.setChecked(False)
        self._session.said.emit("")  # how to draw one
        self._comments.keep()
        finding_id = None if self._case is None or box is None else self._case.add_box(box)
        if finding_id is not None:
            self._session.ask_model(finding_id)

    def _clicked(self, finding_id: str | None) -> None:
        if self._case is not None and finding_id is not None and self._editing is None:
            self._comments.keep()
            self._case.select(finding_id)

    def _select(self, number: int) -> None:
        if self._case is not None and self._editing is None and number <= len(self._view.rows):
            self._comments.keep()
            self._case.select(self._view.rows[number - 1].id)

    def _step(self, step: int) -> None:
        ids = [finding.id for finding in self._view.rows]
        if self._case is not None and ids:
            now = ids.index(self._case.selected) if self._case.selected in ids else -step
            self._select(min(max(now + step, 0), len(ids) - 1) + 1)

    def _slide(self, by: int) -> None:
        if self._case is not None:
            place = round(self._case.threshold * SLIDER_STEPS) + by
            self._ui.thresholdSlider.setValue(place)
