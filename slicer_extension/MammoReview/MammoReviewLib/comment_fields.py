"""The two lines for comments: on the selected finding, on the image as a whole."""

from __future__ import annotations

from typing import Any

from .case import Case


class CommentFields:
    """Two line edits; what is typed there belongs to the case that was shown last."""

    def __init__(self, finding: Any, image: Any) -> None:
        self._edits = {"finding": finding, "image": image}
        self._case: Case | None = None
        self._typed = {"finding": "", "image": ""}
        self._shown: dict[str, tuple[Any, ...]] = {}  # whose comment stands in a line, and which
        for name, edit in self._edits.items():
            edit.textEdited.connect(lambda text, name=name: self._type(name, text))
            edit.editingFinished.connect(self.keep)

    def show(self, case: Case | None) -> None:
        """The case's comments. Whatever else changed in it, what is being typed stays."""
        self._case = case
        selected = None if case is None else case.selected
        self._edits["finding"].setEnabled(selected is not None)
        self._edits["image"].setEnabled(case is not None)
        of_finding = "" if case is None or selected is None else case.find(selected).comment
        of_image = "" if case is None else case.comment
        self._fill("finding", of_finding, case, selected)
        self._fill("image", of_image, case)

    def keep(self) -> None:
        """What was typed becomes a step of the case."""
        case, typed = self._case, dict(self._typed)
        if case is None:
            return
        if case.selected is not None and case.find(case.selected).comment != typed["finding"]:
            case.set_comment(typed["finding"], case.selected)
        if case.comment != typed["image"]:
            case.set_comment(typed["image"])

    def _type(self, name: str, text: str) -> None:
        self._typed[name] = text

    def _fill(self, name: str, text: str, *whose: Any) -> None:
        if self._shown.get(name) == (text, *whose):
            return
        self._shown[name] = (text, *whose)
        if self._typed[name] != text:
            self._typed[name] = text
            self._edits[name].setText(text)
