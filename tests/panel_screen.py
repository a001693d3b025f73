"""The panel on a real Slicer core and real Qt: its window, its slice view, its questions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import slicer
import vtk
from MammoReviewLib.geometry import pixel_to_ras
from MammoReviewLib.scene import Scene
from numpy.typing import NDArray
from panel_qt import application
from panel_scene import scene_in
from PIL import Image
from PySide6.QtCore import QObject, QSettings, Qt, QTimer
from PySide6.QtGui import QKeySequence
from PySide6.QtTest import QTest
from PySide6.QtUiTools import QUiLoader
from PySide6.QtWidgets import (
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QSpacerItem,
    QVBoxLayout,
    QWidget,
)
from slicer_qt.core import SlicerCore

APPLICATION = application()

from MammoReviewLib.widget import Panel, Surroundings, ask_in_window  # noqa: E402  needs `qt`

EXTENSION = Path(__file__).resolve().parents[1] / "slicer_extension" / "MammoReview"
UI = EXTENSION / "Resources" / "UI" / "MammoReview.ui"
SIZE = 440, 1060


class EditorLogic:
    """Slicer's Segment Editor without its widget: the same logic, a brush given by the test."""

    def __init__(self, scene: Any) -> None:
        self._mrml = scene
        self._open: tuple[Any, Any, Scene, str] | None = None

    def open(self, area: Any, scene: Scene, finding_id: str) -> None:
        node = slicer.vtkMRMLSegmentEditorNode()
        self._mrml.AddNode(node)
        logic = slicer.vtkSlicerSegmentEditorLogic()
        logic.SetMRMLScene(self._mrml)
        logic.SetSegmentEditorNode(node)
        logic.SetSegmentationNode(scene.segmentation)
        logic.SetSourceVolumeNode(scene.volume)
        node.SetSelectedSegmentID(finding_id)
        node.SetOverwriteMode(node.OverwriteNone)
        self._open = node, logic, scene, finding_id

    def paint(self, x: int, y: int, width: int, height: int) -> None:
        assert self._open is not None
        _node, logic, scene, finding_id = self._open
        brush = slicer.vtkOrientedImageData()
        brush.SetExtent(x, x + width - 1, y, y + height - 1, 0, 0)
        brush.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        brush.GetPointData().GetScalars().Fill(1)
        matrix = vtk.vtkMatrix4x4()
        scene.volume.GetIJKToRASMatrix(matrix)
        brush.SetImageToWorldMatrix(matrix)
        logic.ModifySegmentByLabelmap(
            scene.segmentation, finding_id, brush, logic.ModificationModeAdd, True, False
        )

    @property
    def closed(self) -> bool:
        return self._open is None

    def close(self) -> None:
        assert self._open is not None
        self._mrml.RemoveNode(self._open[0])
        self._open = None


class Screen:
    """A panel beside a slice view, and the hands of a person."""

    def __init__(self, folder: Path) -> None:
        self.core = SlicerCore()
        self.window = QUiLoader().load(str(UI))
        named = (c for c in self.window.findChildren(QObject) if c.objectName())
        self.ui = SimpleNamespace(**{child.objectName(): child for child in named})
        self.editor = EditorLogic(self.core.scene)
        self.questions: list[str] = []
        self.answer = ""
        self._ask = ask_in_window(self.window)
        around = Surroundings(
            make_scene=self._make_scene,
            editor=self.editor,
            ask=self._answered,
            settings=QSettings(str(folder / "settings.ini"), QSettings.Format.IniFormat),
            folder=folder / "panel",
            window=self.window,
        )
        self.panel = Panel(self.ui, around)
        self.window.resize(*SIZE)
        self.window.show()
        self.window.activateWindow()
        self.panel.enter()
        APPLICATION.processEvents()

    def _make_scene(self) -> Scene:
        return scene_in(self.core, lambda call: QTimer.singleShot(0, call))

    def _answered(self, text: str, answers: list[str]) -> int:
        """The real dialog, whose button of the text in `answer` is clicked."""
        self.questions.append(text)

        def click() -> None:
            box = APPLICATION.activeModalWidget()
            (button,) = (b for b in box.buttons() if b.text() == self.answer)
            button.click()

        QTimer.singleShot(50, click)
        return self._ask(text, answers)

    @contextlib.contextmanager
    def as_slicer_docks_it(self, height: int) -> Iterator[None]:
        """The panel where Slicer puts a module: in a scroll area of that height."""
        dock, inside = QScrollArea(), QWidget()
        column = QVBoxLayout(inside)
        column.addWidget(QPushButton("Help && Acknowledgement"))
        column.addWidget(self.window, 1)
        column.addItem(QSpacerItem(0, 0, vData=QSizePolicy.Policy.MinimumExpanding))
        dock.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        dock.setWidgetResizable(True)
        dock.setWidget(inside)
        dock.resize(460, height)
        dock.show()
        APPLICATION.processEvents()
        try:
            yield
        finally:
            column.removeWidget(self.window)
            self.window.setParent(None)
            self.window.resize(*SIZE)
            self.window.show()
            dock.close()
            APPLICATION.processEvents()

    def in_sight(self, widget: QWidget) -> bool:
        """Whether all of it is to be seen without scrolling."""
        return bool(widget.visibleRegion().boundingRect() == widget.rect())

    @property
    def case(self) -> Any:
        return self.panel.session.case

    def wait(self, until: Callable[[], Any], seconds: float = 120) -> None:
        began = time.monotonic()
        while not until():
            assert time.monotonic() - began < seconds, (self.said(), self.status())
            APPLICATION.processEvents()
            time.sleep(0.005)
        APPLICATION.processEvents()

    def press(self, key: str) -> None:
        """A key, as a person presses it somewhere in the panel."""
        self.window.activateWindow()  # a question that was answered took that away
        # Qt calls a window active also where its dialog is, which a shortcut does not.
        self.wait(lambda: APPLICATION.activeWindow() == self.window)
        self.ui.findingsTable.setFocus()
        QTest.keySequence(self.window, QKeySequence(key))
        APPLICATION.processEvents()

    def said(self) -> str:
        return self.ui.saidLabel.text()

    def status(self) -> str:
        return self.ui.statusLabel.text()

    def table(self) -> list[list[str]]:
        table = self.ui.findingsTable
        columns = range(table.columnCount())
        return [[table.item(r, c).text() for c in columns] for r in range(table.rowCount())]

    def at(self, x: float, y: float) -> tuple[int, int]:
        """Where a pixel of the mammogram is on the screen."""
        return self.core.view.xy(pixel_to_ras([[x, y]], self.case.image.spacing_mm)[0])

    def look(self) -> NDArray[np.uint8]:
        """The slice views, when Slicer has laid them out and nothing is left to do."""
        self.core.lay_out()
        APPLICATION.processEvents()
        return self.core.render()

    def shot(self, file: Path) -> None:
        """Panel and slice views side by side, as a small PNG."""
        view = Image.fromarray(np.ascontiguousarray(self.look()))
        grabbed = file.with_suffix(".panel.png")
        self.window.grab().save(str(grabbed))
        panel = Image.open(grabbed).convert("RGB")
        grabbed.unlink()
        both = Image.new("RGB", (panel.width + view.width, max(panel.height, view.height)))
        both.paste(panel, (0, 0))
        both.paste(view, (panel.width, 0))
        both.quantize(200).save(file, optimize=True)

    def close(self) -> None:
        self.panel.close()
        self.window.close()
        self.core.close()
