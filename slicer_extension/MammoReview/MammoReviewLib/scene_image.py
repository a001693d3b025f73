"""A mammogram as a volume of one slice: read by Slicer, laid where our pixels are, windowed.

Slicer's archetype reader turns MONOCHROME1 into bright-is-dense and takes 1 mm where a header has
no spacing. The server's document says which spacing there is: it is set here, so that a pixel is
the same place on both sides. Windows come from the header, by `pydicom`, which Slicer brings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from vtk.util.numpy_support import vtk_to_numpy

from .findings import ImageInfo
from .geometry import ijk_to_ras
from .i18n import _

DICOM_PREFIX_AT = 128
PROFILE = 0.02  # share of a row or column that is breast where the breast still counts


class UnreadableImage(Exception):
    """The mammogram cannot be shown; the message is one sentence."""


@dataclass(frozen=True)
class Window:
    """How dark and bright are chosen: a name for people, centre and width in pixel values."""

    name: str
    centre: float
    width: float


def load_volume(scene: Any, file: Path, image: ImageInfo, depth_mm: float) -> Any:
    """The mammogram's volume node in `scene`, its slice at that depth. Raises UnreadableImage."""
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(file))
    storage.SetSingleFile(1)
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(image.title or "Mammogram")
    node.SetSaveWithScene(False)  # a patient's pixels are not saved by the way
    if not storage.ReadData(node) or node.GetImageData() is None:
        raise UnreadableImage(
            _("Slicer cannot read the image {id}; its file may be damaged.").format(id=image.id)
        )
    columns, rows, _slices = node.GetImageData().GetDimensions()
    if (columns, rows) != (image.width, image.height):
        sentence = _("The image has {columns} × {rows} pixels, its findings {width} × {height}.")
        raise UnreadableImage(
            sentence.format(columns=columns, rows=rows, width=image.width, height=image.height)
        )
    node.SetOrigin(0, 0, depth_mm)
    node.SetSpacing(*(image.spacing_mm or (1.0, 1.0)), 1.0)
    node.SetIJKToRASDirections(*np.sign(ijk_to_ras(None)[:3, :3]).ravel())
    display = slicer.vtkMRMLScalarVolumeDisplayNode()
    display.SetAutoWindowLevel(False)  # before it sees the pixels: it would go through them all
    display.SetDefaultColorMap()
    display.SetSaveWithScene(False)
    scene.AddNode(display)
    node.SetAndObserveDisplayNodeID(display.GetID())
    scene.AddNode(node)
    return node


def pixels_of(volume: Any) -> Any:
    """The volume's pixels [rows, columns], its own memory."""
    data = volume.GetImageData()
    columns, rows, _slices = data.GetDimensions()
    values = vtk_to_numpy(data.GetPointData().GetScalars())
    return values.reshape(rows, columns, -1)[:, :, 0]


def show_window(volume: Any, window: Window) -> None:
    """Shows the volume in that window."""
    display = volume.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(window.width, window.centre)


def windows(file: Path, volume: Any, breast: tuple[int, int, int, int]) -> list[Window]:
    """The header's windows, the best first, then one taken from the breast's own pixels.

    A header's window is dropped where it would show the breast all black or all white.
    """
    x, y, width, height = breast
    part = pixels_of(volume)[y : y + height : 8, x : x + width : 8]
    low, high = (float(value) for value in np.percentile(part, (2, 99.5)))
    own = Window(_("Breast"), (low + high) / 2, max(high - low, 1.0))
    given = [w for w in _readable_windows(file) if w.centre - w.width / 2 < high]
    given = [w for w in given if w.centre + w.width / 2 > low]
    presets = [*given, own]
    display = volume.GetDisplayNode()
    for window in presets:
        display.AddWindowLevelPreset(window.width, window.centre)
    return presets


def _readable_windows(file: Path) -> list[Window]:
    """The header's windows; none where a number of them is none, as "20,0"."""
    try:
        return _of_header(file)
    except (ValueError, TypeError, AttributeError):
        return []


def _of_header(file: Path) -> list[Window]:
    with open(file, "rb") as stream:
        if stream.read(DICOM_PREFIX_AT + 4)[DICOM_PREFIX_AT:] != b"DICM":
            return []
    import pydicom  # only now: it takes a while, and other files need none of it

    header = pydicom.dcmread(file, stop_before_pixels=True)
    centres, widths = _several(header, "WindowCenter"), _several(header, "WindowWidth")
    names = _several(header, "WindowCenterWidthExplanation")
    slope = float(header.get("RescaleSlope") or 1)
    intercept = float(header.get("RescaleIntercept") or 0)
    found = []
    for number, (centre, width) in enumerate(zip(centres, widths)):
        if header.get("PhotometricInterpretation") == "MONOCHROME1":
            # The reader has turned v into max − v before the rescaling; so goes the centre.
            most = 2 ** int(header.BitsStored) - 1
            centre = slope * most + 2 * intercept - float(centre)
        name = str(names[number]) if number < len(names) else _("Window {n}").format(n=number + 1)
        if float(width) > 1:
            found.append(Window(name.capitalize(), float(centre), float(width)))
    return found


def _several(header: Any, name: str) -> list[Any]:
    value = header.get(name)
    if value is None or value == "":
        return []
    return [value] if isinstance(value, (str, int, float)) else list(value)


def breast_box(pixels: Any) -> tuple[int, int, int, int]:
    """(x, y, width, height) of the breast in whole pixels: what the view is filled with."""
    step = max(1, min(pixels.shape) // 300)
    small = pixels[::step, ::step].astype(np.float32)
    low, high = np.percentile(small, (1, 99))
    tissue = small > low + 0.08 * (high - low)
    columns = _longest_run(tissue.mean(axis=0) > PROFILE)
    rows = _longest_run(tissue[:, columns].mean(axis=1) > PROFILE)
    height, width = pixels.shape
    left, top = columns.start * step, rows.start * step
    right, bottom = min(columns.stop * step, width), min(rows.stop * step, height)
    return left, top, right - left, bottom - top


def _longest_run(flags: Any) -> slice:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    if edges.size == 0:
        return slice(0, len(flags))
    longest = int(np.argmax(edges[1::2] - edges[::2]))
    return slice(int(edges[2 * longest]), int(edges[2 * longest + 1]))
