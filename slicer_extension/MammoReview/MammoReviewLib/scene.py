"""The open case in Slicer's scene: the image in the red slice view, boxes, contours, captions.

Another film of the woman may stand beside it in the yellow one (`scene_companion`).

Everything that is added here is taken away again by `close`, and the view is left as it was found.
Nothing else in the scene is touched. All of it runs on the main thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer

from .findings import Finding, Findings, ImageInfo
from .geometry import pixel_to_ras
from .masks import Mask
from .scene_companion import Companion
from .scene_handles import Handles, Later
from .scene_image import Window, breast_box, load_volume, pixels_of, show_window, windows
from .scene_nodes import add_node, remove_node
from .scene_outlines import Outlines
from .scene_segments import mask_of, put_segment, set_reference
from .scene_view import SliceView
from .signal import Signal


class Scene:
    """One case at a time.

    `box_dragged(finding_id, box)`: a person moved a box. `box_placed(box or None)`: drew a new one,
    or gave it up.
    `clicked(finding_id or None)`: clicked into the image.
    """

    def __init__(
        self, mrml_scene: Any, view: SliceView, companion: Companion, later: Later
    ) -> None:
        """`later(call)` calls when the present event is over: in Slicer QTimer.singleShot(0)."""
        self.box_dragged = Signal()
        self.box_placed = Signal()
        self.clicked = Signal()
        self.windows: list[Window] = []
        self._scene, self._view, self._later = mrml_scene, view, later
        self.companion = companion
        self._document: Findings | None = None
        self._volume: Any = None
        self._outlines: Outlines | None = None
        self._handles: Handles | None = None
        self._segmentation: Any = None
        self._findings: tuple[Finding, ...] = ()
        self._selected: str | None = None
        self._drawing: str | None = None  # the finding whose mask is being edited
        self._visible = True
        self._fit_is_due = False
        self.window = 0  # the one of `windows` that it is shown in
        view.clicked.connect(self._click)
        for resized in (view.resized, companion.view.resized):
            # Slicer is in the middle of it, and would take its own matrices back.
            resized.connect(lambda: later(self._fit_again))
        view.released.connect(self._work_ended)

    @property
    def segmentation(self) -> Any:
        """What Slicer's Segment Editor edits; None while no mask is being drawn."""
        return self._segmentation

    @property
    def volume(self) -> Any:
        """The mammogram's volume node; None without a case."""
        return self._volume

    def open(self, file: Path, document: Findings) -> None:
        """Shows a mammogram; its findings come with `show`. Raises UnreadableImage."""
        self.close()
        self._visible = True
        image = document.image
        self._volume = load_volume(self._scene, file, image, self._view.place.depth_mm)
        self._document = document
        self._outlines = Outlines(self._scene, image, self._view.id)
        self._handles = Handles(
            self._scene, image, self._view.id, self.box_dragged, self.box_placed, self._later
        )
        breast = breast_box(pixels_of(self._volume))
        self.windows = windows(file, self._volume, breast)
        self.set_window(0)
        self._view.show(self._volume, image, breast)

    def close(self) -> None:
        """Removes what was added, and gives the view back."""
        if self._volume is None:
            return
        self.companion.close()  # its view came last, so it goes first
        self._view.restore()
        for drawn in (self._outlines, self._handles):
            if drawn is not None:
                drawn.close()
        for node in (self._segmentation, self._volume):
            remove_node(self._scene, node)
        self._let_go()

    def forget(self) -> None:
        """The scene itself is being closed: our nodes go with it."""
        self.stop_placing()  # the mouse's mode outlives it
        self.companion.forget()
        self._view.forget()
        self._let_go()

    def show(self, findings: tuple[Finding, ...], selected: str | None) -> None:
        """Draws these findings, numbered in their order; only what changed is drawn anew."""
        if self._outlines is None or self._handles is None:
            return
        self._findings, self._selected = findings, selected
        self._outlines.draw(findings, selected, hidden=self._drawing)
        held = next((f for f in findings if f.id == selected and self._drawing is None), None)
        self._handles.hold(held)

    def set_visible(self, visible: bool) -> None:
        """Shows or hides all findings, to look at the breast alone."""
        self._visible = visible
        if self._outlines is not None and self._handles is not None:
            self._outlines.set_visible(visible)
            self._handles.set_visible(visible)
        self.companion.set_visible(visible)

    @property
    def placing(self) -> bool:
        """Whether a new box is being drawn."""
        return self._handles is not None and self._handles.placing

    @property
    def visible(self) -> bool:
        """Whether findings are drawn."""
        return self._visible

    def place_box(self) -> None:
        """The next two clicks in the view are the corners of a new box."""
        if self._handles is not None:
            self._handles.place()

    def stop_placing(self) -> None:
        """No new box after all."""
        if self._handles is not None:
            self._handles.stop_placing()
            self._work_ended()

    def set_window(self, number: int) -> None:
        """Shows the image in that of `windows`."""
        if self.windows:
            self.window = number % len(self.windows)
            show_window(self._volume, self.windows[self.window])
            self.companion.set_window(self.window)

    def next_window(self) -> None:
        """Shows it in the next one."""
        self.set_window(self.window + 1)

    def fit(self) -> None:
        """The breast fills the view again; two films are shown at one scale."""
        self._fit(self._films())

    def compare(self, film: Path, image: ImageInfo, findings: tuple[Finding, ...]) -> None:
        """Shows another film where room was made for it. Raises UnreadableImage."""
        if self.companion.image != image:
            self.companion.show_film(film, image)
            self.companion.set_visible(self._visible)
            self.companion.set_window(self.window)
            self._fit_again()
        self.companion.show(findings)

    def make_room(self, *, left: bool) -> None:
        """Another film is on its way to stand beside the case, on its left or right."""
        if self._volume is not None:
            self.companion.make_room(left=left)

    def stop_comparing(self) -> None:
        """The case stands alone."""
        self.companion.close()

    def go_to(self, finding_id: str) -> None:
        """Brings a finding into sight, if it is outside."""
        finding = self._find(finding_id)
        if finding is not None and self._document is not None:
            x, y, width, height = finding.bbox
            centre = [[x + width / 2, y + height / 2]]
            self._view.bring(pixel_to_ras(centre, self._document.image.spacing_mm)[0])

    def begin_mask(self, finding_id: str) -> None:
        """Lays the finding's mask out as a segment, and gets out of the Segment Editor's way.

        Nothing else is in `segmentation`: no other finding can be painted over.
        """
        finding = self._find(finding_id)
        if finding is None or self._document is None:
            return
        number = self._findings.index(finding) + 1
        node = slicer.vtkMRMLSegmentationNode()
        name = f"MammoReview finding {number}"
        self._segmentation = add_node(self._scene, node, name, self._view.id)
        set_reference(self._segmentation, self._document.image)
        display = self._segmentation.GetDisplayNode()
        display.SetVisibility2DFill(False)
        display.SetSliceIntersectionThickness(2)
        display.SetVisibility3D(False)
        put_segment(self._segmentation, number, finding, self._document)
        self._drawing = finding_id
        self.show(self._findings, self._selected)

    def end_mask(self) -> Mask | None:
        """The mask as the editor left it; its box can be dragged again."""
        if self._drawing is None or self._document is None:
            return None
        mask = mask_of(self._segmentation, self._drawing, self._document.image)
        remove_node(self._scene, self._segmentation)
        self._segmentation = self._drawing = None
        self._work_ended()
        self.show(self._findings, self._selected)
        return mask

    def _films(self) -> list[tuple[SliceView, ImageInfo]]:
        """What is on the screen, and in which view."""
        films = [] if self._document is None else [(self._view, self._document.image)]
        if films and self.companion.image is not None:
            films.append((self.companion.view, self.companion.image))
        return films

    def _fit_again(self) -> None:
        """Something else than a person changed the views.

        What a person chose to see stays, and nothing moves under a brush or a box in hand.
        """
        self._fit_is_due = self._view.held or self.placing or self._drawing is not None
        resting = [film for film in self._films() if not film[0].by_hand]
        self._fit([f for f in resting if f[0] is not self._view or not self._fit_is_due])

    def _work_ended(self) -> None:
        if self._fit_is_due:
            self._later(self._fit_again)

    def _fit(self, films: list[tuple[SliceView, ImageInfo]]) -> None:
        scales = [view.scale_to_fit() for view, _image in films]
        if len({image.spacing_mm is None for _view, image in films}) == 1:
            scales = [max(scales)] * len(films)  # millimetres and pixels are not compared
        for (view, _image), scale in zip(films, scales):
            view.fit(scale)

    def _let_go(self) -> None:
        self._document = self._volume = self._segmentation = self._drawing = None
        self._outlines = self._handles = None
        self._findings, self._selected, self.windows = (), None, []

    def _find(self, finding_id: str | None) -> Finding | None:
        return next((f for f in self._findings if f.id == finding_id), None)

    def _click(self, x: float, y: float) -> None:
        hit = [
            finding for finding in self._findings
            if finding.bbox[0] <= x <= finding.bbox[0] + finding.bbox[2]
            and finding.bbox[1] <= y <= finding.bbox[1] + finding.bbox[3]
        ]
        if self._visible and not self.placing:
            smallest = min(hit, key=lambda f: f.bbox[2] * f.bbox[3], default=None)
            self.clicked.emit(None if smallest is None else smallest.id)
