"""A MRML scene with the logics, nodes and the two slice views that Slicer's application sets up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from PIL import Image
from vtk.util.numpy_support import vtk_to_numpy

DISPLAYABLE_MANAGERS = (
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
)
MODULES = {
    "markups": "vtkSlicerMarkupsLogic",
    "segmentations": "vtkSlicerSegmentationsModuleLogic",
    "subjecthierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "volumes": "vtkSlicerVolumesLogic",
}


class SliceView:
    """A slice view of `width` × `height` screen pixels, drawn into memory."""

    def __init__(self, scene: Any, app_logic: Any, name: str, width: int, height: int) -> None:
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetNumberOfLayers(2)
        self._ground, self._renderer = vtk.vtkRenderer(), vtk.vtkRenderer()
        self._renderer.SetLayer(1)
        # Handles of boxes are drawn in eye coordinates; with this angle one unit is one pixel.
        self._renderer.GetActiveCamera().SetViewAngle(89.2)
        self.window.AddRenderer(self._ground)
        self.window.AddRenderer(self._renderer)
        self.interactor = vtk.vtkGenericRenderWindowInteractor()
        self.window.SetInteractor(self.interactor)
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(app_logic)
        self.logic.SetMRMLScene(scene)
        self.node = self.logic.AddSliceNode(name)
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        actor = vtk.vtkActor2D()
        actor.SetMapper(self._mapper)
        self._ground.AddViewProp(actor)
        self.style = slicer.vtkMRMLSliceViewInteractorStyle()
        self.style.SetSliceLogic(self.logic)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(app_logic)
        for name in DISPLAYABLE_MANAGERS:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self.managers = factory.InstantiateDisplayableManagers(self._renderer)
        self.managers.SetMRMLDisplayableNode(self.node)
        self.style.SetDisplayableManagers(self.managers)
        self.interactor.Initialize()
        self.interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
        self.style.SetInteractor(self.interactor)
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        """The view is as large as a layout leaves it."""
        self.size = width, height
        self.window.SetSize(width, height)
        self.interactor.SetSize(width, height)
        self.logic.ResizeSliceNode(width, height)

    def render(self) -> NDArray[np.uint8]:
        """Pixels [height, width, 3] of the view as it is drawn now."""
        self.logic.UpdatePipeline()
        connection = self.logic.GetImageDataConnection()
        self._mapper.SetInputConnection(connection)
        self._ground.SetDraw(connection is not None)
        self.window.Render()
        shot = vtk.vtkWindowToImageFilter()
        shot.SetInput(self.window)
        shot.ReadFrontBufferOff()
        shot.ShouldRerenderOff()
        shot.Update()
        image = shot.GetOutput()
        columns, rows, _ = image.GetDimensions()
        pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)
        return pixels[::-1, :, :3].copy()

    def save(self, file: Path) -> None:
        """The view as PNG."""
        Image.fromarray(self.render()).save(file)

    # --- the mouse ---------------------------------------------------------------------------

    def xy(self, ras: Any) -> tuple[int, int]:
        """Where a RAS point is on the screen, from the left and the bottom."""
        inverse = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.node.GetXYToRAS(), inverse)
        x, y, _, _ = inverse.MultiplyPoint((*(float(v) for v in ras), 1.0))
        return round(x), round(y)

    def move(self, x: int, y: int) -> None:
        self.interactor.SetEventInformation(x, y)
        self.interactor.InvokeEvent(vtk.vtkCommand.MouseMoveEvent)

    def click(self, x: int, y: int) -> None:
        self.move(x, y)
        self.interactor.SetEventInformation(x, y)
        self.interactor.InvokeEvent(vtk.vtkCommand.LeftButtonPressEvent)
        self.interactor.InvokeEvent(vtk.vtkCommand.LeftButtonReleaseEvent)

    def right_click(self, x: int, y: int) -> None:
        self.move(x, y)
        self.interactor.SetEventInformation(x, y)
        self.interactor.InvokeEvent(vtk.vtkCommand.RightButtonPressEvent)
        self.interactor.InvokeEvent(vtk.vtkCommand.RightButtonReleaseEvent)

    def drag(self, start: tuple[int, int], end: tuple[int, int], steps: int = 5) -> None:
        """Press at `start`, move to `end` and let go, as a hand does: by and by."""
        self.move(*start)
        self.window.Render()  # handles are found where they were drawn last
        self.move(*start)
        self.interactor.SetEventInformation(*start)
        self.interactor.InvokeEvent(vtk.vtkCommand.LeftButtonPressEvent)
        for step in range(1, steps + 1):
            part = step / steps
            self.move(*(round(a + (b - a) * part) for a, b in zip(start, end, strict=True)))
        self.interactor.InvokeEvent(vtk.vtkCommand.LeftButtonReleaseEvent)


class Frame:
    """What Slicer shows around its slice view, as far as it can be told without it."""

    def __init__(self) -> None:
        self.shown = True

    def hide(self) -> None:
        self.shown = False

    def give_back(self) -> None:
        self.shown = True


class SlicerCore:
    """What Slicer's application has when it has started: a scene, logics, two slice views."""

    def __init__(self, width: int = 700, height: int = 900) -> None:
        self.scene = slicer.vtkMRMLScene()
        self.app_logic = slicer.vtkMRMLApplicationLogic()
        self.app_logic.SetMRMLScene(self.scene)
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene, True)
        self._colours = slicer.vtkMRMLColorLogic()
        self._colours.SetMRMLScene(self.scene)  # adds the grey table that volumes are shown with
        self.logics = {name: getattr(slicer, kind)() for name, kind in MODULES.items()}
        for name, logic in self.logics.items():
            logic.SetMRMLApplicationLogic(self.app_logic)
            logic.SetMRMLScene(self.scene)
            self.app_logic.SetModuleLogic(name.capitalize(), logic)
        for kind in ("vtkMRMLLayoutNode", "vtkMRMLInteractionNode", "vtkMRMLCrosshairNode"):
            if self.scene.GetFirstNodeByClass(kind) is None:
                node = getattr(slicer, kind)()
                node.SetSingletonOn()
                self.scene.AddNode(node)
        self.view = SliceView(self.scene, self.app_logic, "Red", width, height)
        self.beside = SliceView(self.scene, self.app_logic, "Yellow", width, height)
        self.frame, self.frame_beside = Frame(), Frame()
        self._size = width, height

    @property
    def shown(self) -> list[SliceView]:
        """The views that the layout has, from left to right; of Slicer's own we know one."""
        layout = self.scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        if layout.GetViewArrangement() == layout.SlicerLayoutSideBySideView:
            return [self.view, self.beside]
        described = layout.GetLayoutDescription(layout.GetViewArrangement())
        named = re.findall(r'class="vtkMRMLSliceNode" singletontag="(\w+)"', described)
        return [{"Red": self.view, "Yellow": self.beside}[name] for name in named] or [self.view]

    def lay_out(self) -> None:
        """Gives the views the room that the layout leaves them, as Slicer does after the event."""
        width, height = self._size
        for view in (self.view, self.beside):
            view.resize(width // len(self.shown), height)

    def render(self) -> NDArray[np.uint8]:
        """Pixels of the views that the layout has, beside each other."""
        return np.concatenate([view.render() for view in self.shown], axis=1)

    def close(self) -> None:
        for view in (self.view, self.beside):
            view.managers.SetMRMLDisplayableNode(None)
            view.style.SetDisplayableManagers(None)
            view.window.Finalize()
        self.scene.Clear(1)
