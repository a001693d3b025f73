"""Another film of the same woman, in the yellow slice view beside the case: looked at, not edited.

It lies at a depth of its own, and its nodes are shown in its view alone: no click, brush or box
that is meant for one film can end up on the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .findings import Finding, ImageInfo
from .i18n import _
from .scene_image import Window, breast_box, load_volume, pixels_of, show_window, windows
from .scene_nodes import remove_node
from .scene_outlines import Outlines
from .scene_view import LEFT, RIGHT, SliceView


class Companion:
    """`view` is public: the case's film and this one are fitted together."""

    def __init__(self, mrml_scene: Any, view: SliceView) -> None:
        self.view = view
        self.image: ImageInfo | None = None  # of the film that is shown
        self._scene = mrml_scene
        self._volume: Any = None
        self._outlines: Outlines | None = None
        self._windows: list[Window] = []

    def make_room(self, *, left: bool) -> None:
        """The view stands beside the case's, on its left or right, black until a film comes."""
        self.view.place = LEFT if left else RIGHT
        self.view.clear()
        self._take_away()

    def show_film(self, file: Path, image: ImageInfo) -> None:
        """Shows a mammogram without findings. Raises UnreadableImage."""
        self.view.clear()
        self._take_away()
        depth = self.view.place.depth_mm
        self._volume = load_volume(self._scene, file, image, depth)
        breast = breast_box(pixels_of(self._volume))
        self._windows = windows(file, self._volume, breast)
        self._outlines = Outlines(
            self._scene, image, self.view.id, depth_mm=depth, numbered=False
        )
        self.image = image
        title = _("{film}, to compare").format(film=image.title or _("another film"))
        self.view.show(self._volume, image, breast, title)

    def show(self, findings: tuple[Finding, ...]) -> None:
        """Draws these findings."""
        if self._outlines is not None:
            self._outlines.draw(findings, None, None)

    def set_visible(self, visible: bool) -> None:
        """Shows or hides its findings."""
        if self._outlines is not None:
            self._outlines.set_visible(visible)

    def set_window(self, number: int) -> None:
        """Shows it in its own window of that number; the last one where there are fewer."""
        if self._windows:
            show_window(self._volume, self._windows[min(number, len(self._windows) - 1)])

    def close(self) -> None:
        """Takes the film and its view away; the case stands alone again."""
        self.view.restore()
        self._take_away()

    def forget(self) -> None:
        """The scene itself is being closed: our nodes go with it."""
        self.view.forget()
        self._let_go()

    def _take_away(self) -> None:
        """The view has let go of the film: Slicer gives one that it still shows new nodes."""
        if self._outlines is not None:
            self._outlines.close()
        remove_node(self._scene, self._volume)
        self._let_go()

    def _let_go(self) -> None:
        self.image = self._volume = self._outlines = None
        self._windows = []
