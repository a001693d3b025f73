"""The history of scores as a picture, drawn by VTK's own charts into a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import vtk

from .i18n import _

COLOURS = {"0.3": (208, 58, 58), "1": (47, 127, 208), "3.67": (46, 158, 79)}
AUC_COLOUR = (122, 95, 208)


def draw(scores: list[dict[str, Any]], file: Path, *, width: int = 480, height: int = 260) -> bool:
    """Draws masses found at 0.3, 1 and 3.67 false positives an image, and the AUC, by version.

    Nothing is drawn, and False returned, without a score.
    """
    lines = {
        _("found at {fpi} FPI").format(fpi=fpi): (
            [_number((row.get("tpr") or {}).get(fpi)) for row in scores],
            COLOURS[fpi],
        )
        for fpi in COLOURS
    }
    lines[_("AUC of masses")] = ([_number(row.get("auc_mass")) for row in scores], AUC_COLOUR)
    if not any(value is not None for values, _colour in lines.values() for value in values):
        return False
    chart = vtk.vtkChartXY()
    chart.SetShowLegend(True)
    chart.GetLegend().SetHorizontalAlignment(vtk.vtkChartLegend.LEFT)
    chart.GetLegend().SetVerticalAlignment(vtk.vtkChartLegend.BOTTOM)
    for name, (values, colour) in lines.items():
        points = [(number, value) for number, value in enumerate(values) if value is not None]
        if points:
            _add_line(chart, name, points, colour)
    _label_axes(chart, [str(row.get("version", "")) for row in scores])

    view = vtk.vtkContextView()
    view.GetRenderer().SetBackground(1.0, 1.0, 1.0)
    view.GetScene().AddItem(chart)
    window = view.GetRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(0)
    window.SetSize(width, height)
    window.Render()
    picture = vtk.vtkWindowToImageFilter()
    picture.SetInput(window)
    picture.ReadFrontBufferOff()
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(str(file))
    writer.SetInputConnection(picture.GetOutputPort())
    writer.Write()
    return True


def _add_line(
    chart: Any, name: str, points: list[tuple[int, float]], colour: tuple[int, int, int]
) -> None:
    across, up = vtk.vtkFloatArray(), vtk.vtkFloatArray()
    across.SetName("x")
    up.SetName(name)
    for x, y in points:
        across.InsertNextValue(x)
        up.InsertNextValue(y)
    table = vtk.vtkTable()
    table.AddColumn(across)
    table.AddColumn(up)
    line = chart.AddPlot(vtk.vtkChart.LINE if len(points) > 1 else vtk.vtkChart.POINTS)
    line.SetInputData(table, 0, 1)
    line.SetColor(*colour, 255)
    line.SetWidth(2.0)
    line.SetMarkerStyle(vtk.vtkPlotPoints.CIRCLE)


def _label_axes(chart: Any, versions: list[str]) -> None:
    bottom, left = chart.GetAxis(vtk.vtkAxis.BOTTOM), chart.GetAxis(vtk.vtkAxis.LEFT)
    bottom.SetTitle(_("version of the model"))
    left.SetTitle("")
    left.SetBehavior(vtk.vtkAxis.FIXED)
    left.SetRange(0.0, 1.0)
    places, names = vtk.vtkDoubleArray(), vtk.vtkStringArray()
    for number, version in enumerate(versions):
        places.InsertNextValue(number)
        names.InsertNextValue(version)
    bottom.SetBehavior(vtk.vtkAxis.FIXED)
    bottom.SetRange(-0.5, max(len(versions) - 0.5, 0.5))
    bottom.SetCustomTickPositions(places, names)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
