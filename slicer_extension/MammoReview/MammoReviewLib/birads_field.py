"""The BI-RADS assessment of the selected finding: a box to choose from, and keys."""

from __future__ import annotations

from typing import Any, Callable

from .case import Case
from .findings import BIRADS
from .i18n import _

NONE = ""  # no assessment
KEYS = {"Alt+0": NONE, **{f"Alt+{n}": n for n in BIRADS if len(n) == 1}}
KEYS_SAID = "Alt+2 … Alt+6, Alt+0"


class BiradsField:
    """Shows and changes it. `before()` comes first: what is being typed is a step of its own."""

    def __init__(self, box: Any, before: Callable[[], None]) -> None:
        self._box, self._before = box, before
        self._case: Case | None = None
        self._quiet = False
        self._words = {_("BI-RADS –"): NONE}
        for birads in BIRADS:
            self._words[_("BI-RADS {category}").format(category=birads.upper())] = birads
        for words in self._words:
            box.addItem(words)
        tip = _("Assessment of the selected finding; from 4 on it is malignant ({keys})")
        box.setToolTip(tip.format(keys=KEYS_SAID))
        box.currentTextChanged.connect(self._chosen)
        self.show(None)

    def show(self, case: Case | None) -> None:
        """The selected finding's; without one there is nothing to choose."""
        self._case = case
        selected = None if case is None else case.selected
        birads = None if case is None or selected is None else case.find(selected).birads
        self._quiet = True
        self._box.setCurrentIndex([NONE, *BIRADS].index(birads or NONE))
        self._quiet = False
        self._box.setEnabled(selected is not None)

    def choose(self, birads: str) -> None:
        """Gives the selected finding that assessment; NONE takes it back."""
        case = self._case
        if case is not None and case.selected is not None:
            self._before()
            case.set_birads(case.selected, birads or None)

    def _chosen(self, words: str) -> None:
        if not self._quiet:
            self.choose(self._words.get(words, NONE))
