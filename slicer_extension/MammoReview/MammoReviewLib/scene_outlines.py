"""Boxes, contours and captions of all findings, drawn in a handful of nodes.

A node for each finding is what makes Slicer slow: its views draw a segment as a picture as large
as the view, and an ROI with all its handles. Here everything of one colour is one model of lines
and one list of captions, so that fifty findings are drawn as fast as one. The selected finding's
contour is a model of its own; its box is the one that can be dragged (`scene_handles`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray

from .case_words import class_word
from .findings import Finding, ImageInfo
from .geometry import pixel_to_ras
from .i18n import _
from .masks import outline
from .scene_nodes import add_node, remove_node
from .scene_segments import COLOURS, colour_of, kind_of

TEXT_SCALE = 3.2  # per cent of the view
OPACITY = {"benign": 0.85, "malignant": 0.85, "rejected": 0.45}
THICKNESS, THICKNESS_SELECTED = 2, 3  # screen pixels
SELECTED = "selected"


class Outlines:
    """All findings of one image as lines and words, in one view."""

    def __init__(
        self, scene: Any, image: ImageInfo, view: str, *, depth_mm: float = 0.0,
        numbered: bool = True,
    ) -> None:
        """`view` is the slice node's id. Not `numbered`: no table says which number is which."""
        self._scene, self._image, self._view = scene, image, view
        self._depth, self._numbered = depth_mm, numbered
        self._lines = {kind: self._model(kind) for kind in (*COLOURS, SELECTED)}
        self._captions = {kind: self._caption_node(kind) for kind in COLOURS}
        self._drawn: dict[str, Any] = {}  # what each node shows
        self._of: dict[Finding, tuple[Any, Any]] = {}  # its box and contour, as lines

    def draw(self, findings: tuple[Finding, ...], selected: str | None, hidden: str | None) -> None:
        """Draws findings, numbered in their order; only nodes whose content changed.

        Of the one that is `hidden` (its mask is being edited) nothing is drawn.
        """
        visible = [(n, f) for n, f in enumerate(findings, start=1) if f.id != hidden]
        self._of = {f: self._of.get(f) or self._lines_of(f) for f in findings}
        chosen = next((f for _n, f in visible if f.id == selected), None)
        for kind in COLOURS:
            same = [f for _n, f in visible if kind_of(f) == kind and f is not chosen]
            self._draw_lines(kind, [line for f in same for line in self._of[f]], same)
            said = [(number, f) for number, f in visible if kind_of(f) == kind]
            self._write(kind, said)
        if chosen is not None:
            display = self._lines[SELECTED].GetDisplayNode()
            if display.GetColor() != colour_of(chosen):
                display.SetColor(*colour_of(chosen))
        self._draw_lines(SELECTED, [] if chosen is None else [self._of[chosen][1]], chosen)

    def set_visible(self, visible: bool) -> None:
        """All lines and captions."""
        for node in self._lines.values():
            node.GetDisplayNode().SetVisibility(visible)
        self.set_captions_visible(visible)

    def set_captions_visible(self, visible: bool) -> None:
        """The captions alone."""
        for node in self._captions.values():
            node.GetDisplayNode().SetVisibility(visible)

    def close(self) -> None:
        """Takes every node of ours out of the scene."""
        for node in (*self._lines.values(), *self._captions.values()):
            remove_node(self._scene, node)

    # Inside

    def _draw_lines(self, name: str, lines: list[Any], of: Any) -> None:
        if self._drawn.get(name) != of:
            self._drawn[name] = of
            self._lines[name].SetAndObservePolyData(self._polydata(lines))

    def _write(self, kind: str, findings: list[tuple[int, Finding]]) -> None:
        name, node = f"captions {kind}", self._captions[kind]
        said = [(f.bbox, caption(number if self._numbered else None, f)) for number, f in findings]
        if self._drawn.get(name, []) == said:
            return
        self._drawn[name] = said
        was = node.StartModify()
        node.SetLocked(False)
        node.RemoveAllControlPoints()
        for (x, y, _width, _height), text in said:  # above the box: beside it, views end sooner
            corner = pixel_to_ras([[x, y]], self._image.spacing_mm, self._depth)[0]
            point = node.AddControlPoint(vtk.vtkVector3d(*corner))
            node.SetNthControlPointLabel(point, text)
        node.SetLocked(True)
        node.EndModify(was)

    def _lines_of(self, finding: Finding) -> tuple[Any, Any]:
        x, y, width, height = finding.bbox
        right, bottom = x + width, y + height
        box = [(x, y, right, y), (x, bottom, right, bottom), (x, y, x, bottom)]
        box.append((right, y, right, bottom))
        contour = np.zeros((0, 4))
        if finding.segmentation is not None:
            contour = outline(finding.segmentation)
        return np.array(box), contour

    def _polydata(self, lines: list[Any]) -> Any:
        """Lines [N, 4] (x0, y0, x1, y1) in pixels as VTK's, in RAS on the slice."""
        ends = np.concatenate([np.zeros((0, 4)), *lines]).reshape(-1, 2)
        points, cells, polydata = vtk.vtkPoints(), vtk.vtkCellArray(), vtk.vtkPolyData()
        ras = pixel_to_ras(ends, self._image.spacing_mm, self._depth)
        points.SetData(numpy_to_vtk(ras, deep=True))
        ids = np.arange(len(ends), dtype=np.int64)
        cells.SetData(2, numpy_to_vtkIdTypeArray(ids, deep=True))
        polydata.SetPoints(points)
        polydata.SetLines(cells)
        return polydata

    def _model(self, kind: str) -> Any:
        node = slicer.vtkMRMLModelNode()
        add_node(self._scene, node, f"MammoReview {kind} lines", self._view)
        node.SetHideFromEditors(True)
        display = node.GetDisplayNode()
        display.SetVisibility3D(False)
        display.SetVisibility2D(True)
        display.SetSliceDisplayModeToProjection()  # lines that lie in a slice do not cut it
        display.SetColor(*COLOURS.get(kind, COLOURS["malignant"]))
        display.SetOpacity(OPACITY.get(kind, 1.0))
        display.SetSliceIntersectionThickness(
            THICKNESS_SELECTED if kind == SELECTED else THICKNESS
        )
        return node

    def _caption_node(self, kind: str) -> Any:
        node = slicer.vtkMRMLMarkupsFiducialNode()
        add_node(self._scene, node, f"MammoReview {kind}", self._view)
        node.SetHideFromEditors(True)
        node.SetLocked(True)
        display = node.GetDisplayNode()
        display.SetColor(*COLOURS[kind])
        display.SetSelectedColor(*COLOURS[kind])
        display.SetUseGlyphScale(False)
        display.SetGlyphSize(0.01)
        display.SetTextScale(TEXT_SCALE)
        display.SetVisibility3D(False)
        return node


def caption(number: int | None, finding: Finding) -> str:
    """What stands at a box: its number; of a proposal how malignant, else what a person said.

    A class with a number behind it would be read as the certainty of that class.
    """
    if not finding.stands:
        word = _("rejected")
    elif finding.status == "proposed" and finding.malignancy is not None:
        word = _("malignancy {percent}").format(percent=f"{100 * finding.malignancy:.0f}")
    else:
        word = class_word(finding)
    return word if number is None else f"{number} {word}"
