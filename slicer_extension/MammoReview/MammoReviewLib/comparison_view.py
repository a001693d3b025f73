"""The film beside the case, in the yellow slice view, and the button that says which it is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Callable

from .comparison import ALONE, CHOICES, Comparison
from .i18n import _
from .ports import Settings
from .scene import Scene
from .scene_image import UnreadableImage

BESIDE = "MammoReview/beside"


class ComparisonView:
    """Draws `comparison` into button and scene, and remembers what a person chose."""

    def __init__(
        self,
        button: Any,
        comparison: Comparison,
        scene: Scene,
        settings: Settings,
        say: Callable[[str], None],
    ) -> None:
        self._button, self.comparison, self._scene = button, comparison, scene
        self._say = say
        self._refused: Path | None = None  # a film that cannot be shown is told of once
        chosen = settings.value(BESIDE, ALONE)
        comparison.choice = chosen if chosen in CHOICES else ALONE
        comparison.chosen.connect(lambda choice: settings.setValue(BESIDE, choice))
        comparison.changed.connect(self._show)
        self._show()

    def _show(self) -> None:
        row, film = self.comparison.row, self.comparison.film
        title = _("none") if row is None else row.title
        self._button.setText(_("Beside: {film}").format(film=title))
        try:
            if row is None:
                self._scene.stop_comparing()
            elif film is None:
                self._refused = None
                # As films are hung: R before L, CC before MLO.
                self._scene.make_room(left=self.comparison.comes_first)
            elif film != self._refused:
                self._scene.compare(film, row.image, self.comparison.findings)
        except UnreadableImage as error:
            self._refused = film
            self._say(str(error))
        except Exception as error:  # whatever a file does to Slicer, the case beside it stays
            self._refused = film
            logging.exception("A film to compare could not be shown")
            self._say(_("The film beside cannot be shown: {reason}").format(reason=error))
