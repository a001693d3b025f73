"""The module's door, `MammoReview.py`, opened as Slicer opens it.

What neither slicer-core nor PySide6 has stands in with the signatures of Slicer 5.8 to 5.12:
`slicer.i18n`, `slicer.ScriptedLoadableModule`, the application and its slice widget.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import slicer
from panel_screen import APPLICATION, EXTENSION
from PySide6.QtCore import QFile, QObject
from PySide6.QtUiTools import QUiLoader
from PySide6.QtWidgets import QVBoxLayout, QWidget
from slicer_qt.core import SlicerCore


class Parent(QWidget):
    """What a module is put into; also takes the attributes of the module's listing."""


class ModuleWidget:
    def __init__(self, parent: Any = None) -> None:
        self.parent = parent
        self.layout = parent.layout()

    def setup(self) -> None:
        pass

    def resourcePath(self, name: str) -> str:  # noqa: N802
        return str(EXTENSION / "Resources" / name)


class Translator:
    """`slicer.i18n`: `tr` takes a text alone and finds its context by itself."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def translate(self, context: str, text: str) -> str:
        self.asked.add(context)
        return {"No case is open": "Kein Fall ist offen"}.get(text, text)

    def tr(self, text: str) -> str:
        return self.translate("MammoReview", text)


class Layouts:
    """A layout manager: a view is made when a layout first has it."""

    def __init__(self, widgets: dict[str, Any]) -> None:
        self.layout = slicer.vtkMRMLLayoutNode.SlicerLayoutOneUp3DView
        self._widgets, self._made = widgets, set[str]()

    def setLayout(self, layout: int) -> None:  # noqa: N802
        self.layout, node = layout, slicer.vtkMRMLLayoutNode
        self._made |= {
            node.SlicerLayoutOneUpRedSliceView: {"Red"},
            node.SlicerLayoutSideBySideView: {"Red", "Yellow"},
        }.get(layout, set())

    def sliceWidget(self, name: str) -> Any:  # noqa: N802
        return self._widgets[name] if name in self._made else None


@pytest.fixture
def translator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Translator]:
    translator, core = Translator(), SlicerCore()
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr, i18n.translate = translator.tr, translator.translate  # type: ignore[attr-defined]
    base = types.ModuleType("slicer.ScriptedLoadableModule")
    base.ScriptedLoadableModule = base.ScriptedLoadableModuleLogic = object  # type: ignore[attr-defined]
    base.ScriptedLoadableModuleWidget = ModuleWidget  # type: ignore[attr-defined]
    base.ScriptedLoadableModuleTest = object  # type: ignore[attr-defined]
    for module in (i18n, base):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    shown = SimpleNamespace(isHidden=lambda: False, setVisible=lambda on: None)

    def widget(view: Any) -> SimpleNamespace:
        return SimpleNamespace(
            sliceLogic=lambda: view.logic,
            sliceView=lambda: SimpleNamespace(interactor=lambda: view.interactor),
            sliceController=lambda: shown,
        )

    layouts = Layouts({"Red": widget(core.view), "Yellow": widget(core.beside)})
    for name, value in (
        ("mrmlScene", core.scene),
        ("app", SimpleNamespace(layoutManager=lambda: layouts)),
        ("modules", SimpleNamespace()),
    ):
        monkeypatch.setattr(slicer, name, value, raising=False)
    monkeypatch.setattr(slicer.util, "loadUI", lambda path: QUiLoader().load(QFile(path)))
    monkeypatch.setattr(slicer.util, "childWidgetVariables", named)
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: None)
    monkeypatch.delitem(sys.modules, "MammoReview", raising=False)
    yield translator
    importlib.import_module("MammoReviewLib.i18n").use(None)
    core.close()


def named(widget: QWidget) -> SimpleNamespace:
    children = (c for c in widget.findChildren(QObject) if c.objectName())
    return SimpleNamespace(**{child.objectName(): child for child in children})


def test_the_module_opens_in_the_users_language_and_closes(
    translator: Translator, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    entry = importlib.import_module("MammoReview")
    parent = Parent()
    QVBoxLayout(parent)
    widget = entry.MammoReviewWidget(parent)
    widget.setup()
    layouts = slicer.app.layoutManager()
    assert layouts.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutOneUp3DView, "as it was"
    widget.enter()
    APPLICATION.processEvents()
    assert widget.ui.verdictLabel.text() == "Kein Fall ist offen"
    # As Slicer's `getContext` names a file in a package, and so its collected sentences.
    assert {"MammoReviewLib.case_view", "MammoReviewLib.worklist_view"} <= translator.asked
    widget.onSceneStartClose(None, None)
    widget.exit()
    widget.cleanup()
