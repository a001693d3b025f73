"""The BI-RADS assessment of the selected finding: a button with a menu, and keys.

No combo box: the wheel that scrolls the panel would change an assessment, and with it a class.
"""

from __future__ import annotations

from typing import Any, Callable

import qt

from .case import Case
from .findings import BIRADS
from .i18n import _

NONE = ""  # no assessment
KEYS = {"Alt+0": NONE, **{f"Alt+{n}": n for n in BIRADS if len(n) == 1}}
KEYS_SAID = "Alt+2 … Alt+6, Alt+0"


class BiradsField:
    """Shows and changes it. `before()` comes first: what is being typed is a step of its own."""

    def __init__(self, button: Any, before: Callable[[], None]) -> None:
        self._button, self._before = button, before
        self._case: Case | None = None
        self._menu = qt.QMenu(button)
        for birads in (NONE, *BIRADS):
            action = self._menu.addAction(_words(birads))
            action.triggered.connect(lambda *_, birads=birads: self.choose(birads))
        button.setMenu(self._menu)
        tip = _("Assessment of the selected finding; from 4 on it is malignant ({keys})")
        button.setToolTip(tip.format(keys=KEYS_SAID))
        self.show(None)

    def show(self, case: Case | None) -> None:
        """The selected finding's; without one there is nothing to choose."""
        self._case = case
        selected = None if case is None else case.selected
        birads = None if case is None or selected is None else case.find(selected).birads
        self._button.setText(_words(birads or NONE))
        self._button.setEnabled(selected is not None)

    def choose(self, birads: str) -> None:
        """Gives the selected finding that assessment; NONE takes it back."""
        case = self._case
        if case is not None and case.selected is not None:
            self._before()
            case.set_birads(case.selected, birads or None)


def _words(birads: str) -> str:
    return _("BI-RADS {category}").format(category=birads.upper() or "–")
