"""What is written over a slice view: a ruler in its lower left corner, a title in its upper one.

Both lie in the view's plane and are laid anew whenever it moves: they stay in their corners.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk

from .findings import ImageInfo
from .i18n import _
from .scene_nodes import add_node, remove_node

RULER_SHARE = 0.28  # of the view's width, at most
RULER_WIDTH = 2.5  # screen pixels
RULER_AT = (24, 34)  # screen pixels from the view's left and lower edge
TITLE_AT = (18, 30)  # screen pixels from its left and upper edge
COLOUR = (0.85, 0.87, 0.89)
TEXT_SCALE = 2.6  # per cent of the view


class Overlay:
    """Ruler and title of one view, over one image."""

    def __init__(self, scene: Any, slice_node: Any, image: ImageInfo, title: str) -> None:
        self._scene, self._slice, self._image = scene, slice_node, image
        self._ruler = self._node(slicer.vtkMRMLMarkupsLineNode(), "MammoReview ruler")
        display = self._ruler.GetDisplayNode()
        display.SetCurveLineSizeMode(display.UseLineDiameter)
        display.SetPropertiesLabelVisibility(False)
        display.SetPointLabelsVisibility(True)
        self._title = self._node(slicer.vtkMRMLMarkupsFiducialNode(), "MammoReview title")
        self._words = title
        self.lay()

    def lay(self) -> None:
        """Puts both into their corners; the ruler is as long as a round number is."""
        columns, rows, _slices = self._slice.GetDimensions()
        per_pixel = self._slice.GetFieldOfView()[0] / max(columns, 1)
        length = round_length(RULER_SHARE * columns * per_pixel)
        if self._image.spacing_mm is None:
            text = _("{length:g} pixels, not calibrated").format(length=length)
        else:
            text = _("{length:g} mm at detector").format(length=length)
        self._ruler.GetDisplayNode().SetLineDiameter(RULER_WIDTH * per_pixel)
        left, low = RULER_AT
        self._put(self._ruler, [(left, low, ""), (left + length / per_pixel, low, text)])
        if self._words:
            self._put(self._title, [(TITLE_AT[0], rows - TITLE_AT[1], self._words)])

    def close(self) -> None:
        """Takes both out of the scene."""
        for node in (self._ruler, self._title):
            remove_node(self._scene, node)

    def _put(self, node: Any, points: list[tuple[float, float, str]]) -> None:
        to_ras, was = self._slice.GetXYToRAS(), node.StartModify()
        for number, (x, y, text) in enumerate(points):
            ras = to_ras.MultiplyPoint((float(x), float(y), 0.0, 1.0))[:3]
            if node.GetNumberOfControlPoints() <= number:
                node.AddControlPoint(vtk.vtkVector3d(*ras))
            else:
                node.SetNthControlPointPosition(number, *ras)
            node.SetNthControlPointLabel(number, text)
        node.EndModify(was)

    def _node(self, node: Any, name: str) -> Any:
        add_node(self._scene, node, name, self._slice.GetID())
        node.SetHideFromEditors(True)
        node.SetLocked(True)
        display = node.GetDisplayNode()
        display.SetColor(*COLOUR)
        display.SetSelectedColor(*COLOUR)
        display.SetUseGlyphScale(False)
        display.SetGlyphSize(0.01)
        display.SetTextScale(TEXT_SCALE)
        display.SetVisibility3D(False)
        return node


def round_length(most: float) -> float:
    """The longest of 1, 2 and 5 times a power of ten that is not above `most`."""
    power = 10.0 ** np.floor(np.log10(max(most, 1e-6)))
    return float(max(step * power for step in (1, 2, 5) if step * power <= most * 1.0001))
