"""The selected finding's box as Slicer's ROI markup, to be dragged, and the drawing of new ones."""

from __future__ import annotations

from typing import Any, Callable

import slicer

from .findings import Finding, ImageInfo
from .geometry import box_to_ras, ras_to_box
from .i18n import _
from .masks import Box
from .scene_nodes import add_node, remove_node
from .scene_segments import colour_of
from .signal import Signal

Later = Callable[[Callable[[], None]], None]  # calls when the present event is over


class Handles:
    """One ROI node for whichever finding is selected, and one for a box that is being drawn.

    `dragged(finding_id, box)`: a person moved the box; `placed(box or None)`: drew a new one, or
    gave it up, as Slicer lets them with a right click or its mouse mode's arrow.
    """

    def __init__(
        self,
        scene: Any,
        image: ImageInfo,
        view: str,
        dragged: Signal,
        placed: Signal,
        later: Later,
    ) -> None:
        """`view` is the id of the slice node that shows them."""
        self._scene, self._image, self._view, self._later = scene, image, view, later
        self._dragged, self._placed = dragged, placed
        self._observers: dict[str, int] = {}  # by the ids of nodes
        self._held: str | None = None
        self._visible = True
        self._new: Any = None
        self._drawn: Box | None = None  # the new box, once both its corners were clicked
        self._node = self._roi("MammoReview selected")
        end = slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent
        self._observe(self._node, end, lambda *_args: self._was_dragged())
        self.hold(None)

    def hold(self, finding: Finding | None) -> None:
        """Lays the box around that finding; None: there is no box to drag."""
        self._held = None if finding is None else finding.id
        display = self._node.GetDisplayNode()
        was = display.StartModify()
        display.SetVisibility(self._visible and finding is not None)
        if finding is not None:
            display.SetColor(*colour_of(finding))
            display.SetSelectedColor(*colour_of(finding))
            self._place(finding.bbox)
        display.EndModify(was)

    def set_visible(self, visible: bool) -> None:
        """Shows or hides the box that is held."""
        self._visible = visible
        self._node.GetDisplayNode().SetVisibility(visible and self._held is not None)

    # A new box

    @property
    def placing(self) -> bool:
        """Whether a new box is being drawn."""
        return self._new is not None

    def place(self) -> None:
        """Begins a new box: the next two clicks are its corners."""
        self.stop_placing()
        self._new = self._roi(_("new box"))
        defined = slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent
        self._observe(self._new, defined, lambda *_args: self._was_placed())
        selection, interaction = self._mouse_nodes()
        if selection is not None:
            selection.SetReferenceActivePlaceNodeClassName("vtkMRMLMarkupsROINode")
            selection.SetActivePlaceNodeID(self._new.GetID())
        interaction.SetPlaceModePersistence(0)
        interaction.SetCurrentInteractionMode(interaction.Place)
        mode = interaction.InteractionModeChangedEvent
        self._observe(interaction, mode, lambda *_args: self._later(self._look_at_new))

    def stop_placing(self) -> None:
        """The new box goes, finished or not."""
        if self._new is None:
            return
        node, self._new, self._drawn = self._new, None, None
        selection, interaction = self._mouse_nodes()
        self._stop_observing(interaction)
        if selection is not None:
            selection.SetActivePlaceNodeID(None)
        interaction.SetCurrentInteractionMode(interaction.ViewTransform)
        self._take_away(node)

    def close(self) -> None:
        """Takes every node of ours out of the scene."""
        self.stop_placing()
        self._take_away(self._node)

    # Inside

    def _was_dragged(self) -> None:
        if self._held is not None:
            node = self._node
            box = ras_to_box(node.GetCenter(), node.GetSize(), self._image.spacing_mm)
            self._place(box)  # flat again, whatever the drag did to its depth
            self._dragged.emit(self._held, box)

    def _was_placed(self) -> None:
        # The size is asked for now: as soon as the mouse moves, one click alone shows one.
        node = self._new
        if node is not None and min(node.GetSize()[:2]) > 0:
            self._drawn = ras_to_box(node.GetCenter(), node.GetSize(), self._image.spacing_mm)
            # Slicer is still in the middle of this click: a node must not go while it is used.
            self._later(self._look_at_new)

    def _look_at_new(self) -> None:
        _selection, interaction = self._mouse_nodes()
        given_up = interaction.GetCurrentInteractionMode() != interaction.Place
        if self._new is not None and (self._drawn is not None or given_up):
            box = self._drawn
            self.stop_placing()
            self._placed.emit(box)

    def _place(self, box: Box) -> None:
        centre, size = box_to_ras(box, self._image.spacing_mm)
        self._node.SetCenter(*centre)
        self._node.SetSize(*size)
        for number in range(self._node.GetNumberOfControlPoints()):  # a box's middle says nothing
            self._node.SetNthControlPointVisibility(number, False)

    def _roi(self, name: str) -> Any:
        node = add_node(self._scene, slicer.vtkMRMLMarkupsROINode(), name, self._view)
        display = node.GetDisplayNode()
        display.SetFillVisibility(False)
        display.SetPropertiesLabelVisibility(False)
        display.SetPointLabelsVisibility(False)
        display.SetRotationHandleVisibility(False)
        display.SetTranslationHandleVisibility(False)
        display.SetHandlesInteractive(True)
        display.SetScaleHandleVisibility(True)
        display.SetLineThickness(0.35)
        display.SetVisibility3D(False)
        return node

    def _mouse_nodes(self) -> tuple[Any, Any]:
        selection = self._scene.GetFirstNodeByClass("vtkMRMLSelectionNode")
        return selection, self._scene.GetFirstNodeByClass("vtkMRMLInteractionNode")

    def _take_away(self, node: Any) -> None:
        self._stop_observing(node)
        remove_node(self._scene, node)

    def _stop_observing(self, node: Any) -> None:
        tag = self._observers.pop(node.GetID(), None)
        if tag is not None:
            node.RemoveObserver(tag)  # ours alone: Slicer's views observe it too

    def _observe(self, node: Any, event: Any, call: Callable[..., None]) -> None:
        self._observers[node.GetID()] = node.AddObserver(event, call)
