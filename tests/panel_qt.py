"""PySide6's real widgets under the name `qt`, for views that keep to what both dialects share."""

from __future__ import annotations

import ctypes
import os
import sys
import types

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

from PySide6 import QtCore, QtGui, QtWidgets


def application() -> QtWidgets.QApplication:
    """The one application, with `qt` to be imported."""
    _keep_none()
    if "qt" not in sys.modules:
        qt = types.ModuleType("qt")
        for module in (QtCore, QtGui, QtWidgets):
            names = (name for name in dir(module) if name.startswith("Q"))
            vars(qt).update({name: getattr(module, name) for name in names})
        sys.modules["qt"] = qt
    return QtWidgets.QApplication.instance() or QtWidgets.QApplication([])


def _keep_none() -> None:
    """Lets None outlive PySide6 6.12, which loses a reference to it with every call of `setText`.

    From Python 3.12 on None is immortal; before, the process ends when the last one is lost.
    """
    if sys.version_info < (3, 12):
        ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40


class QtTimer:
    """The session's timer as Slicer has it: a real QTimer."""

    def __init__(self) -> None:
        self._timer = QtCore.QTimer()

    def start(self, milliseconds: int, callback) -> None:
        self._timer.timeout.connect(callback)
        self._timer.start(milliseconds)

    def stop(self) -> None:
        self._timer.stop()
