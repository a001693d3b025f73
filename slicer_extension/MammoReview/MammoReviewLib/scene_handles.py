"""Boxes of findings as Slicer's ROI markups, with their labels, and the drawing of new ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable

import slicer
import vtk

from .findings import Finding, ImageInfo
from .geometry import box_to_ras, pixel_to_ras, ras_to_box
from .i18n import _
from .masks import Box
from .scene_nodes import add_node, remove_node
from .scene_segments import COLOURS
from .signal import Signal

TEXT_SCALE = 3.2  # per cent of the view
Later = Callable[[Callable[[], None]], None]  # calls when the present event is over


class Boxes:
    """The ROI nodes of one case, by the ids of their findings."""

    def __init__(
        self, scene: Any, image: ImageInfo, dragged: Signal, placed: Signal, later: Later
    ) -> None:
        self._scene, self._image, self._later = scene, image, later
        self._dragged, self._placed = dragged, placed
        self._nodes: dict[str, Any] = {}
        self._labels = {kind: self._label_node(kind) for kind in COLOURS}
        self._styles: dict[str, tuple[str, bool]] = {}
        self._new: Any = None
        self._observers: dict[str, int] = {}  # by the ids of nodes
        self._quiet = False

    @property
    def placing(self) -> bool:
        """Whether a new box is being drawn."""
        return self._new is not None

    def put(self, finding: Finding) -> None:
        """Draws the finding's box where it is now."""
        node = self._nodes.get(finding.id)
        if node is None:
            node = self._nodes[finding.id] = self._roi()
            end = slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent
            self._observe(node, end, lambda *_args, name=finding.id: self._was_dragged(name))
        self._place_at(node, finding.bbox)

    def remove(self, finding_id: str) -> None:
        """Its finding is no longer shown."""
        self._styles.pop(finding_id, None)
        self._take_away(self._nodes.pop(finding_id))

    def style(self, findings: Iterable[Finding], selected: str | None, relabel: bool) -> None:
        """Colours and handles: only the selected box can be dragged. With `relabel` labels too."""
        for finding in findings:
            node, chosen = self._nodes[finding.id], finding.id == selected
            kind = kind_of(finding)
            if self._styles.get(finding.id) == (kind, chosen):
                continue
            self._styles[finding.id] = kind, chosen
            node.SetLocked(not chosen)
            display = node.GetDisplayNode()
            was = display.StartModify()
            display.SetColor(*COLOURS[kind])
            display.SetSelectedColor(*COLOURS[kind])
            display.SetHandlesInteractive(chosen)
            display.SetScaleHandleVisibility(chosen)
            display.SetOpacity(1.0 if chosen else 0.45 if kind == "rejected" else 0.85)
            display.SetLineThickness(0.35 if chosen else 0.2)
            display.EndModify(was)
        if relabel:
            self._write_labels(findings)

    def _write_labels(self, findings: Iterable[Finding]) -> None:
        begun = {kind: label.StartModify() for kind, label in self._labels.items()}
        for label in self._labels.values():
            label.SetLocked(False)
            label.RemoveAllControlPoints()
        for number, finding in enumerate(findings, start=1):
            text = caption(number, finding)
            self._nodes[finding.id].SetName(text)
            x, y, width, _height = finding.bbox
            corner = pixel_to_ras([[x + width, y]], self._image.spacing_mm)[0]
            label = self._labels[kind_of(finding)]
            point = label.AddControlPoint(vtk.vtkVector3d(*corner))
            label.SetNthControlPointLabel(point, text)
        for kind, label in self._labels.items():
            label.SetLocked(True)
            label.EndModify(begun[kind])

    def set_visible(self, visible: bool) -> None:
        """All boxes and labels."""
        for node in (*self._nodes.values(), *self._labels.values()):
            node.GetDisplayNode().SetVisibility(visible)

    def place(self) -> None:
        """Begins a new box: the next two clicks are its corners."""
        self.stop_placing()
        self._new = self._roi()
        self._new.SetName(_("new box"))
        defined = slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent
        self._observe(self._new, defined, lambda *_args: self._was_placed())
        selection, interaction = self._mouse_nodes()
        if selection is not None:
            selection.SetReferenceActivePlaceNodeClassName("vtkMRMLMarkupsROINode")
            selection.SetActivePlaceNodeID(self._new.GetID())
        interaction.SetPlaceModePersistence(0)
        interaction.SetCurrentInteractionMode(interaction.Place)

    def stop_placing(self) -> None:
        """The new box goes, finished or not."""
        if self._new is None:
            return
        node, self._new = self._new, None
        selection, interaction = self._mouse_nodes()
        if selection is not None:
            selection.SetActivePlaceNodeID(None)
        interaction.SetCurrentInteractionMode(interaction.ViewTransform)
        self._take_away(node)

    def close(self) -> None:
        """Takes every node of ours out of the scene."""
        self.stop_placing()
        for node in (*self._nodes.values(), *self._labels.values()):
            self._take_away(node)
        self.forget()

    def forget(self) -> None:
        """The scene is gone, and the nodes with it."""
        self._nodes, self._labels, self._new, self._observers = {}, {}, None, {}

    # Inside

    def _was_dragged(self, finding_id: str) -> None:
        node = self._nodes.get(finding_id)
        if node is None or self._quiet:
            return
        box = ras_to_box(node.GetCenter(), node.GetSize(), self._image.spacing_mm)
        self._place_at(node, box)  # flat again, whatever the drag did to its depth
        self._dragged.emit(finding_id, box)

    def _was_placed(self) -> None:
        if self._new is not None and self._new.GetNumberOfDefinedControlPoints() > 0:
            # Slicer is still in the middle of this click: a node must not go while it is used.
            self._later(self._look_at_new)

    def _look_at_new(self) -> None:
        node = self._new
        if node is None or min(node.GetSize()[:2]) <= 0:
            return  # the first of two clicks
        box = ras_to_box(node.GetCenter(), node.GetSize(), self._image.spacing_mm)
        self.stop_placing()
        self._placed.emit(box)

    def _place_at(self, node: Any, box: Box) -> None:
        centre, size = box_to_ras(box, self._image.spacing_mm)
        self._quiet = True
        node.SetCenter(*centre)
        node.SetSize(*size)
        for number in range(node.GetNumberOfControlPoints()):  # the middle of a box says nothing
            node.SetNthControlPointVisibility(number, False)
        self._quiet = False

    def _roi(self) -> Any:
        node = add_node(self._scene, slicer.vtkMRMLMarkupsROINode(), "box")
        display = node.GetDisplayNode()
        display.SetFillVisibility(False)
        display.SetPropertiesLabelVisibility(False)
        display.SetPointLabelsVisibility(False)
        display.SetRotationHandleVisibility(False)
        display.SetTranslationHandleVisibility(False)
        display.SetVisibility3D(False)
        return node

    def _label_node(self, kind: str) -> Any:
        node = slicer.vtkMRMLMarkupsFiducialNode()
        add_node(self._scene, node, f"MammoReview {kind}")
        node.SetLocked(True)
        display = node.GetDisplayNode()
        display.SetColor(*COLOURS[kind])
        display.SetSelectedColor(*COLOURS[kind])
        display.SetUseGlyphScale(False)
        display.SetGlyphSize(0.01)
        display.SetTextScale(TEXT_SCALE)
        display.SetVisibility3D(False)
        return node

    def _mouse_nodes(self) -> tuple[Any, Any]:
        selection = self._scene.GetFirstNodeByClass("vtkMRMLSelectionNode")
        return selection, self._scene.GetFirstNodeByClass("vtkMRMLInteractionNode")

    def _take_away(self, node: Any) -> None:
        tag = self._observers.pop(node.GetID(), None)
        if tag is not None:
            node.RemoveObserver(tag)  # ours alone: Slicer's views observe it too
        remove_node(self._scene, node)

    def _observe(self, node: Any, event: Any, call: Callable[..., None]) -> None:
        self._observers[node.GetID()] = node.AddObserver(event, call)


def kind_of(finding: Finding) -> str:
    """What its colour says."""
    return finding.label if finding.stands else "rejected"


def caption(number: int, finding: Finding) -> str:
    """What stands at a box: its number, class and score."""
    if not finding.stands:
        return _("{n} rejected").format(n=number)
    word = _("malignant") if finding.label == "malignant" else _("benign")
    if finding.malignancy is None:
        return f"{number} {word}"
    return f"{number} {word} {100 * finding.malignancy:.0f}"
