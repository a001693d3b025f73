"""A slice view while a mammogram is open in it: only the slice, the breast filling it, a ruler.

What the view was like before is remembered and given back. No orientation marker is shown: a
mammogram lies in no anatomical space, and letters on it would be wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import slicer
import vtk

from .findings import ImageInfo
from .geometry import box_to_ras
from .scene_overlay import Overlay
from .signal import Signal

MARGIN = 1.04  # of the breast's size
SAME = 1e-6  # of lengths that are equal but for rounding


class Frame(Protocol):
    """What an application shows around and over its slice view."""

    def hide(self) -> None:
        """The slice alone."""
        ...

    def give_back(self) -> None:
        """As it was before `hide`."""
        ...


@dataclass(frozen=True)
class Place:
    """Where a view shows its film: which of Slicer's layouts has the view, at which depth it cuts.

    Films at other depths share no plane: what is drawn or clicked on one is never on the other.
    Views of one group follow each other to where a person points (Shift and the mouse).
    """

    layout: int
    depth_mm: float
    group: int
    description: str = ""  # of a layout that Slicer has not got


OURS = 5310  # Slicer's own numbers of layouts and groups end below 1000
ALONE = Place(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView, 0.0, OURS)
RIGHT = Place(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView, 1000.0, OURS + 1)
LEFT = Place(
    OURS,
    1000.0,
    OURS + 1,
    '<layout type="horizontal">'
    '<item><view class="vtkMRMLSliceNode" singletontag="Yellow"></view></item>'
    '<item><view class="vtkMRMLSliceNode" singletontag="Red"></view></item>'
    "</layout>",
)


class SliceView:
    """One of Slicer's slice views.

    `clicked(x, y)`: a mouse press, in the image's pixels. `released()`: the button is up again.
    `resized()`: the view has another size. `by_hand`: a person moved or zoomed since `fit`.
    `held`: the mouse button is down.
    """

    def __init__(self, scene: Any, logic: Any, interactor: Any, frame: Frame, place: Place) -> None:
        """`logic` is the vtkMRMLSliceLogic, `interactor` the view's vtkRenderWindowInteractor."""
        self.clicked = Signal()
        self.released = Signal()
        self.resized = Signal()
        self.place, self.by_hand, self.held = place, False, False
        self._scene, self._logic, self._interactor = scene, logic, interactor
        self._node = logic.GetSliceNode()
        self._frame = frame
        self._image: ImageInfo | None = None
        self._breast = (0, 0, 1, 1)
        self._before: dict[str, Any] | None = None
        self._overlay: Overlay | None = None
        self._size: tuple[int, ...] = ()  # in which `fit` left the view, where it still has it
        self._fitted: tuple[float, ...] = ()  # scale and centre as `fit` left them
        self._observers: list[tuple[Any, int]] = []

    @property
    def id(self) -> str:
        """Its slice node's, to show nodes in this view alone."""
        return str(self._node.GetID())

    def clear(self) -> None:
        """Shows nothing, and a mammogram as soon as there is one."""
        self._stop_observing()
        self._remember()
        layout = self._layout()
        if layout is not None:
            if self.place.description and not layout.IsLayoutDescription(self.place.layout):
                layout.AddLayoutDescription(self.place.layout, self.place.description)
            layout.RemoveAllMaximizedViewNodes()  # by a double click: Slicer would show that alone
            layout.SetViewArrangement(self.place.layout)
            # Like our films: another program has no such layout, and a file knows but two groups.
            layout.SetSaveWithScene(False)
        self._node.SetSaveWithScene(False)
        self._logic.GetSliceCompositeNode().SetSaveWithScene(False)
        self._show_volume(None)
        self._node.SetOrientationToAxial()
        self._node.SetOrientationMarkerType(self._node.OrientationMarkerTypeNone)
        self._node.SetRulerType(self._node.RulerTypeNone)  # ours says what is measured
        self._node.SetViewGroup(self.place.group)
        self._logic.SetSliceOffset(self.place.depth_mm)
        self._frame.hide()

    def show(
        self, volume: Any, image: ImageInfo, breast: tuple[int, int, int, int], title: str = ""
    ) -> None:
        """Shows a volume alone, right way up."""
        self.clear()
        self._image, self._breast = image, breast
        self._show_volume(volume.GetID())
        self._overlay = Overlay(self._scene, self._node, image, title)
        self.fit(self.scale_to_fit())
        press = vtk.vtkCommand.LeftButtonPressEvent
        self._observe(self._interactor, press, self._pressed)
        release = vtk.vtkCommand.LeftButtonReleaseEvent
        self._observe(self._interactor, release, lambda *_args: self._let_go())
        self._observe(self._node, vtk.vtkCommand.ModifiedEvent, lambda *_args: self._moved())

    def scale_to_fit(self) -> float:
        """Millimetres (pixels without a spacing) on a screen pixel where the breast just fits."""
        _centre, size = self._breast_in_ras()
        columns, rows, _slices = self._node.GetDimensions()
        return float(MARGIN * max(size[0] / max(columns, 1), size[1] / max(rows, 1)))

    def fit(self, scale: float) -> None:
        """The breast in the middle, at that many millimetres on a screen pixel."""
        centre, _size = self._breast_in_ras()
        columns, rows, _slices = self._node.GetDimensions()
        depth = self._node.GetFieldOfView()[2]
        was = self._node.StartModify()
        self._logic.SetSliceOffset(self.place.depth_mm)
        self._node.SetFieldOfView(scale * columns, scale * rows, depth)
        matrix = self._node.GetSliceToRAS()
        for axis in range(2):
            matrix.SetElement(axis, 3, float(centre[axis]))
        self._node.SetXYZOrigin(0, 0, 0)
        self._node.UpdateMatrices()
        self._size, self._fitted, self.by_hand = (columns, rows), self._where(), False
        self._node.EndModify(was)
        if self._overlay is not None:
            self._overlay.lay()

    def bring(self, ras: Any) -> None:
        """Moves the view so that a RAS point is in sight; not if it is already."""
        x, y = self._to_screen(ras)
        columns, rows, _slices = self._node.GetDimensions()
        if not (0 < x < columns and 0 < y < rows):
            self._node.JumpSliceByCentering(*(float(value) for value in ras))

    def restore(self) -> None:
        """The view as it was before anything was shown."""
        if self._before is None:
            return
        before, composite = self._before, self._logic.GetSliceCompositeNode()
        self._stop_observing()
        composite.SetBackgroundVolumeID(before["background"])
        composite.SetForegroundVolumeID(before["foreground"])
        composite.SetLabelVolumeID(before["label"])
        self._give_back(before)

    def forget(self) -> None:
        """The scene is being closed: volumes go, and views stay, which are given back."""
        self._overlay = None
        self._stop_observing()
        if self._before is not None:
            self._give_back(self._before)

    # Inside

    def _layout(self) -> Any:
        return self._scene.GetFirstNodeByClass("vtkMRMLLayoutNode")

    def _give_back(self, before: dict[str, Any]) -> None:
        layout, node = self._layout(), self._node
        if layout is not None:
            layout.RemoveAllMaximizedViewNodes()
            layout.SetViewArrangement(before["layout"])
            layout.SetSaveWithScene(before["layout is saved"])
        node.SetSaveWithScene(before["is saved"])
        composite = self._logic.GetSliceCompositeNode()
        composite.SetSaveWithScene(before["films are saved"])
        composite.SetLinkedControl(before["linked"])
        node.SetOrientationMarkerType(before["marker"])
        node.SetRulerType(before["ruler"])
        node.SetViewGroup(before["group"])
        node.GetSliceToRAS().DeepCopy(before["matrix"])
        node.SetFieldOfView(*before["field"])
        node.SetXYZOrigin(*before["origin"])
        node.UpdateMatrices()
        self._frame.give_back()
        self._before = self._image = None

    def _remember(self) -> None:
        if self._before is not None:
            return
        composite, node, layout = self._logic.GetSliceCompositeNode(), self._node, self._layout()
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy(node.GetSliceToRAS())
        self._before = {
            "layout": None if layout is None else layout.GetViewArrangement(),
            "layout is saved": layout is not None and layout.GetSaveWithScene(),
            "is saved": node.GetSaveWithScene(),
            "films are saved": composite.GetSaveWithScene(),
            "background": composite.GetBackgroundVolumeID(),
            "foreground": composite.GetForegroundVolumeID(),
            "label": composite.GetLabelVolumeID(),
            "linked": composite.GetLinkedControl(),
            "marker": node.GetOrientationMarkerType(),
            "ruler": node.GetRulerType(),
            "group": node.GetViewGroup(),
            "matrix": matrix,
            "field": tuple(node.GetFieldOfView()),
            "origin": tuple(node.GetXYZOrigin()),
        }

    def _show_volume(self, volume_id: str | None) -> None:
        composite = self._logic.GetSliceCompositeNode()
        composite.SetLinkedControl(False)  # two films are two places
        composite.SetBackgroundVolumeID(volume_id)
        composite.SetForegroundVolumeID(None)
        composite.SetLabelVolumeID(None)

    def _breast_in_ras(self) -> tuple[Any, Any]:
        assert self._image is not None
        x, y, width, height = self._breast
        box = (float(x), float(y), float(width), float(height))
        return box_to_ras(box, self._image.spacing_mm)

    def _where(self) -> tuple[float, ...]:
        matrix, columns = self._node.GetSliceToRAS(), max(self._node.GetDimensions()[0], 1)
        centre = (matrix.GetElement(0, 3), matrix.GetElement(1, 3))
        return (self._node.GetFieldOfView()[0] / columns, *centre, *self._node.GetXYZOrigin())

    def _moved(self) -> None:
        if self._size and self._size != tuple(self._node.GetDimensions()[:2]):
            self._size = ()  # Slicer changes the scale with it: nobody's doing until the next fit
            self.resized.emit()
        elif self._size:
            pairs = zip(self._where(), self._fitted)
            same = all(abs(now - then) <= SAME * max(abs(then), 1.0) for now, then in pairs)
            self.by_hand = self.by_hand or not same
        if self._overlay is not None:
            self._overlay.lay()

    def _observe(self, thing: Any, event: Any, call: Any) -> None:
        self._observers.append((thing, thing.AddObserver(event, call)))

    def _stop_observing(self) -> None:
        for thing, number in self._observers:
            thing.RemoveObserver(number)
        self._observers.clear()
        self.held = False
        if self._overlay is not None:
            self._overlay.close()
            self._overlay = None

    def _pressed(self, interactor: Any, _event: str) -> None:
        if self._image is None:
            return
        self.held = True
        x, y = interactor.GetEventPosition()
        ras = self._node.GetXYToRAS().MultiplyPoint((float(x), float(y), 0.0, 1.0))
        spacing = self._image.spacing_mm or (1.0, 1.0)
        self.clicked.emit(0.5 - ras[0] / spacing[0], 0.5 - ras[1] / spacing[1])

    def _let_go(self) -> None:
        self.held = False
        self.released.emit()

    def _to_screen(self, ras: Any) -> tuple[float, float]:
        inverse = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self._node.GetXYToRAS(), inverse)
        x, y, _z, _w = inverse.MultiplyPoint((*(float(value) for value in ras), 1.0))
        return x, y
