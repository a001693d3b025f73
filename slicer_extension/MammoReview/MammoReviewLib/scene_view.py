"""The red slice view while a mammogram is open: only the slice, the breast filling it, a ruler.

What the view was like before is remembered and given back. No orientation marker is shown: a
mammogram lies in no anatomical space, and letters on it would be wrong.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import slicer
import vtk

from .findings import ImageInfo
from .geometry import box_to_ras
from .i18n import _
from .scene_nodes import add_node, remove_node
from .signal import Signal

MARGIN = 1.04  # of the breast's size
RULER_SHARE = 0.28  # of the view's width, at most
RULER_WIDTH = 2.5  # screen pixels
RULER_AT = (24, 34)  # screen pixels from the view's left and lower edge


class Frame(Protocol):
    """What an application shows around and over its slice view."""

    def hide(self) -> None:
        """The slice alone."""
        ...

    def give_back(self) -> None:
        """As it was before `hide`."""
        ...


class SliceView:
    """Slicer's red slice view. `clicked(x, y)`: a mouse press, in the image's pixels."""

    def __init__(self, scene: Any, logic: Any, interactor: Any, frame: Frame) -> None:
        """`logic` is the vtkMRMLSliceLogic, `interactor` the view's vtkRenderWindowInteractor."""
        self.clicked = Signal()
        self._scene, self._logic, self._interactor = scene, logic, interactor
        self._node = logic.GetSliceNode()
        self._frame = frame
        self._image: ImageInfo | None = None
        self._breast = (0, 0, 1, 1)
        self._before: dict[str, Any] | None = None
        self._ruler: Any = None
        self._observers: list[tuple[Any, int]] = []

    def show(self, volume: Any, image: ImageInfo, breast: tuple[int, int, int, int]) -> None:
        """Shows a volume alone, right way up."""
        self._remember()
        self._image, self._breast = image, breast
        layout = self._scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        if layout is not None:
            layout.SetViewArrangement(layout.SlicerLayoutOneUpRedSliceView)
        composite = self._logic.GetSliceCompositeNode()
        composite.SetBackgroundVolumeID(volume.GetID())
        composite.SetForegroundVolumeID(None)
        composite.SetLabelVolumeID(None)
        self._node.SetOrientationToAxial()
        self._node.SetOrientationMarkerType(self._node.OrientationMarkerTypeNone)
        self._node.SetRulerType(self._node.RulerTypeNone)  # ours says what is measured
        self._logic.SetSliceOffset(0)
        self._ruler = self._ruler_node()
        self._frame.hide()
        self.fit()
        press = vtk.vtkCommand.LeftButtonPressEvent
        self._observe(self._interactor, press, self._pressed)
        self._observe(self._node, vtk.vtkCommand.ModifiedEvent, lambda *_args: self._lay_ruler())

    def fit(self) -> None:
        """The breast fills the view."""
        if self._image is None:
            return
        x, y, width, height = self._breast
        box = (float(x), float(y), float(width), float(height))
        centre, size = box_to_ras(box, self._image.spacing_mm)
        columns, rows, _slices = self._node.GetDimensions()
        per_pixel = MARGIN * max(size[0] / max(columns, 1), size[1] / max(rows, 1))
        depth = self._node.GetFieldOfView()[2]
        was = self._node.StartModify()
        self._node.SetFieldOfView(per_pixel * columns, per_pixel * rows, depth)
        matrix = self._node.GetSliceToRAS()
        for axis in range(2):
            matrix.SetElement(axis, 3, float(centre[axis]))
        self._node.SetXYZOrigin(0, 0, 0)
        self._node.UpdateMatrices()
        self._node.EndModify(was)
        self._lay_ruler()

    def bring(self, ras: Any) -> None:
        """Moves the view so that a RAS point is in sight; not if it is already."""
        x, y = self._to_screen(ras)
        columns, rows, _slices = self._node.GetDimensions()
        if not (0 < x < columns and 0 < y < rows):
            self._node.JumpSliceByCentering(*(float(value) for value in ras))

    def restore(self) -> None:
        """The view as it was before `show`."""
        if self._before is None:
            return
        before, node = self._before, self._node
        self._stop_observing()
        layout = self._scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        if layout is not None:
            layout.SetViewArrangement(before["layout"])
        composite = self._logic.GetSliceCompositeNode()
        composite.SetBackgroundVolumeID(before["background"])
        composite.SetForegroundVolumeID(before["foreground"])
        composite.SetLabelVolumeID(before["label"])
        node.SetOrientationMarkerType(before["marker"])
        node.SetRulerType(before["ruler"])
        node.GetSliceToRAS().DeepCopy(before["matrix"])
        node.SetFieldOfView(*before["field"])
        node.SetXYZOrigin(*before["origin"])
        node.UpdateMatrices()
        self._remove_ruler()
        self._frame.give_back()
        self._before = self._image = None

    def forget(self) -> None:
        """The scene is being closed: there is nothing to give back."""
        self._stop_observing()
        self._frame.give_back()
        self._ruler = self._before = self._image = None

    # Inside

    def _remember(self) -> None:
        if self._before is not None:
            return
        composite, node = self._logic.GetSliceCompositeNode(), self._node
        layout = self._scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy(node.GetSliceToRAS())
        self._before = {
            "layout": None if layout is None else layout.GetViewArrangement(),
            "background": composite.GetBackgroundVolumeID(),
            "foreground": composite.GetForegroundVolumeID(),
            "label": composite.GetLabelVolumeID(),
            "marker": node.GetOrientationMarkerType(),
            "ruler": node.GetRulerType(),
            "matrix": matrix,
            "field": tuple(node.GetFieldOfView()),
            "origin": tuple(node.GetXYZOrigin()),
        }

    def _observe(self, thing: Any, event: Any, call: Any) -> None:
        self._observers.append((thing, thing.AddObserver(event, call)))

    def _stop_observing(self) -> None:
        for thing, number in self._observers:
            thing.RemoveObserver(number)
        self._observers.clear()

    def _pressed(self, interactor: Any, _event: str) -> None:
        if self._image is None:
            return
        x, y = interactor.GetEventPosition()
        ras = self._node.GetXYToRAS().MultiplyPoint((float(x), float(y), 0.0, 1.0))
        spacing = self._image.spacing_mm or (1.0, 1.0)
        self.clicked.emit(0.5 - ras[0] / spacing[0], 0.5 - ras[1] / spacing[1])

    def _to_screen(self, ras: Any) -> tuple[float, float]:
        inverse = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self._node.GetXYToRAS(), inverse)
        x, y, _z, _w = inverse.MultiplyPoint((*(float(value) for value in ras), 1.0))
        return x, y

    def _ruler_node(self) -> Any:
        node = add_node(self._scene, slicer.vtkMRMLMarkupsLineNode(), "MammoReview ruler")
        node.SetLocked(True)
        display = node.GetDisplayNode()
        display.SetColor(0.85, 0.87, 0.89)
        display.SetSelectedColor(0.85, 0.87, 0.89)
        display.SetUseGlyphScale(False)
        display.SetGlyphSize(0.01)
        display.SetCurveLineSizeMode(display.UseLineDiameter)
        display.SetPropertiesLabelVisibility(False)
        display.SetPointLabelsVisibility(True)
        display.SetTextScale(2.6)
        display.SetVisibility3D(False)
        return node

    def _lay_ruler(self) -> None:
        """Puts the ruler into the view's lower left corner, as long as a round number is."""
        if self._ruler is None or self._image is None:
            return
        columns, _rows, _slices = self._node.GetDimensions()
        per_pixel = self._node.GetFieldOfView()[0] / max(columns, 1)
        length = round_length(RULER_SHARE * columns * per_pixel)
        if self._image.spacing_mm is None:
            text = _("{length:g} pixels, not calibrated").format(length=length)
        else:
            text = _("{length:g} mm at detector").format(length=length)
        to_ras = self._node.GetXYToRAS()
        ends = []
        for along in (0.0, length / per_pixel):
            point = (RULER_AT[0] + along, float(RULER_AT[1]), 0.0, 1.0)
            ends.append(to_ras.MultiplyPoint(point)[:3])
        self._ruler.GetDisplayNode().SetLineDiameter(RULER_WIDTH * per_pixel)
        was = self._ruler.StartModify()
        for number, end in enumerate(ends):
            if self._ruler.GetNumberOfControlPoints() <= number:
                self._ruler.AddControlPoint(vtk.vtkVector3d(*end))
            else:
                self._ruler.SetNthControlPointPosition(number, *end)
        self._ruler.SetNthControlPointLabel(0, "")
        self._ruler.SetNthControlPointLabel(1, text)
        self._ruler.EndModify(was)

    def _remove_ruler(self) -> None:
        remove_node(self._scene, self._ruler)
        self._ruler = None


def round_length(most: float) -> float:
    """The longest of 1, 2 and 5 times a power of ten that is not above `most`."""
    power = 10.0 ** np.floor(np.log10(max(most, 1e-6)))
    return float(max(step * power for step in (1, 2, 5) if step * power <= most * 1.0001))
