"""The open case in Slicer's scene: the image in the red slice view, boxes, contours, labels.

Everything that is added here is taken away again by `close`, and the view is left as it was found.
Nothing else in the scene is touched. All of it runs on the main thread.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import slicer

from .findings import Finding, Findings
from .geometry import pixel_to_ras
from .masks import Mask
from .scene_boxes import Boxes, Later
from .scene_image import Window, breast_box, load_volume, pixels_of, show_window, windows
from .scene_nodes import add_node, remove_node
from .scene_segments import describe, mask_of, put_segment, set_reference
from .scene_view import SliceView
from .signal import Signal


class Scene:
    """One case at a time.

    `box_dragged(finding_id, box)`: a person moved a box. `box_placed(box)`: drew a new one.
    `clicked(finding_id or None)`: clicked into the image.
    """

    def __init__(self, mrml_scene: Any, view: SliceView, later: Later) -> None:
        """`later(call)` calls when the present event is over: in Slicer QTimer.singleShot(0)."""
        self.box_dragged = Signal()
        self.box_placed = Signal()
        self.clicked = Signal()
        self.windows: list[Window] = []
        self._scene, self._view, self._later = mrml_scene, view, later
        self._document: Findings | None = None
        self._volume: Any = None
        self._segmentation: Any = None
        self._boxes: Boxes | None = None
        self._drawn: dict[str, tuple[int, Finding]] = {}
        self._selected: str | None = None
        self._visible = True
        self._window = 0
        view.clicked.connect(self._click)

    @property
    def segmentation(self) -> Any:
        """The case's segmentation node, for Slicer's Segment Editor; None without a case."""
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
        name = " ".join(part for part in (image.laterality, image.view) if part) or "Mammogram"
        self._volume = load_volume(self._scene, file, image, name)
        self._document = document
        node = slicer.vtkMRMLSegmentationNode()
        self._segmentation = add_node(self._scene, node, f"{name} findings")
        set_reference(self._segmentation, image)
        display = self._segmentation.GetDisplayNode()
        display.SetVisibility2DFill(False)
        display.SetSliceIntersectionThickness(2)
        display.SetVisibility3D(False)
        self._boxes = Boxes(self._scene, image, self.box_dragged, self.box_placed, self._later)
        breast = breast_box(pixels_of(self._volume))
        self.windows = windows(file, self._volume, breast)
        self.set_window(0)
        self._view.show(self._volume, image, breast)

    def close(self) -> None:
        """Removes what was added, and gives the view back."""
        if self._volume is None:
            return
        self._view.restore()
        if self._boxes is not None:
            self._boxes.close()
        for node in (self._segmentation, self._volume):
            remove_node(self._scene, node)
        self._document = self._volume = self._segmentation = self._boxes = None
        self._drawn, self.windows, self._selected = {}, [], None

    def forget(self) -> None:
        """The scene itself is being closed: our nodes go with it."""
        if self._boxes is not None:
            self._boxes.forget()
        self._view.forget()
        self._document = self._volume = self._segmentation = self._boxes = None
        self._drawn, self.windows, self._selected = {}, [], None

    def show(self, findings: tuple[Finding, ...], selected: str | None) -> None:
        """Draws these findings, numbered in their order; only what changed is drawn anew."""
        if self._segmentation is None or self._boxes is None or self._document is None:
            return
        wanted = {finding.id: (n, finding) for n, finding in enumerate(findings, start=1)}
        segmentation = self._segmentation.GetSegmentation()
        for finding_id in [name for name in self._drawn if name not in wanted]:
            segmentation.RemoveSegment(finding_id)
            self._boxes.remove(finding_id)
        changed = set(self._drawn) != set(wanted)
        for finding_id, (number, finding) in wanted.items():
            before = self._drawn.get(finding_id)
            if before == (number, finding):
                continue
            changed = True
            old = None if before is None else before[1]
            if old is None or old.segmentation != finding.segmentation:
                put_segment(self._segmentation, number, finding, self._document)
            else:
                segment = segmentation.GetSegment(finding_id)
                describe(segment, number, finding, self._document)
            self._boxes.put(finding)
        self._drawn = wanted
        if changed or selected != self._selected:
            self._selected = selected
            self._boxes.style(findings, selected, relabel=changed)
            display = self._segmentation.GetDisplayNode()
            was = display.StartModify()
            for finding_id in wanted:
                weight = 1.0 if selected in (None, finding_id) else 0.55
                if display.GetSegmentOpacity2DOutline(finding_id) != weight:
                    display.SetSegmentOpacity2DOutline(finding_id, weight)
            display.EndModify(was)

    def set_visible(self, visible: bool) -> None:
        """Shows or hides all findings, to look at the breast alone."""
        self._visible = visible
        if self._segmentation is not None and self._boxes is not None:
            self._segmentation.GetDisplayNode().SetVisibility(visible)
            self._boxes.set_visible(visible)

    @property
    def placing(self) -> bool:
        """Whether a new box is being drawn."""
        return self._boxes is not None and self._boxes.placing

    @property
    def visible(self) -> bool:
        """Whether findings are drawn."""
        return self._visible

    def place_box(self) -> None:
        """The next two clicks in the view are the corners of a new box."""
        if self._boxes is not None:
            self._boxes.place()

    def stop_placing(self) -> None:
        """No new box after all."""
        if self._boxes is not None:
            self._boxes.stop_placing()

    def set_window(self, number: int) -> None:
        """Shows the image in that of `windows`."""
        if self.windows:
            self._window = number % len(self.windows)
            show_window(self._volume, self.windows[self._window])

    def next_window(self) -> int:
        """Shows it in the next one, and says which that is."""
        self.set_window(self._window + 1)
        return self._window

    def fit(self) -> None:
        """The breast fills the view again."""
        self._view.fit()

    def go_to(self, finding_id: str) -> None:
        """Brings a finding into sight, if it is outside."""
        if finding_id in self._drawn and self._document is not None:
            x, y, width, height = self._drawn[finding_id][1].bbox
            centre = [[x + width / 2, y + height / 2]]
            self._view.bring(pixel_to_ras(centre, self._document.image.spacing_mm)[0])

    def begin_mask(self, finding_id: str) -> None:
        """Gets out of the Segment Editor's way: no box can be dragged while a mask is drawn."""
        if self._boxes is not None:
            self._boxes.set_visible(False)

    def end_mask(self, finding_id: str) -> Mask | None:
        """The mask as the editor left it; boxes are there again."""
        if self._boxes is None or self._document is None:
            return None
        self._boxes.set_visible(self._visible)
        mask = mask_of(self._segmentation, finding_id, self._document.image)
        number, finding = self._drawn[finding_id]
        # What the editor drew is not what `show` drew: it has to look again.
        self._drawn[finding_id] = number, with_no_mask(finding)
        return mask

    def _click(self, x: float, y: float) -> None:
        hit = [
            finding for _, finding in self._drawn.values()
            if finding.bbox[0] <= x <= finding.bbox[0] + finding.bbox[2]
            and finding.bbox[1] <= y <= finding.bbox[1] + finding.bbox[3]
        ]
        if self._visible and self._boxes is not None and not self._boxes.placing:
            smallest = min(hit, key=lambda f: f.bbox[2] * f.bbox[3], default=None)
            self.clicked.emit(None if smallest is None else smallest.id)


def with_no_mask(finding: Finding) -> Finding:
    """The finding as if nothing had been drawn of it."""
    return replace(finding, segmentation={"size": [0, 0], "counts": []}, mask_source="none")
