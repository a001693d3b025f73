"""A real Slicer core and real Qt widgets for the panel's tests: what a full Slicer would bring.

`core` sets up a MRML scene, logics and one slice view that is rendered offscreen.
Importing it says aloud what is missing; nothing is skipped.
"""

import os
from importlib.util import find_spec

NEEDED = ("slicer_core", "vtkmodules", "PySide6")

missing = [name for name in NEEDED if find_spec(name) is None]
if missing:
    raise ModuleNotFoundError(
        f"The panel's tests need a Slicer core and Qt ({', '.join(missing)} not found). "
        "Install them: pip install --no-deps --constraint constraints.txt "
        "vtk slicer-core PySide6-Essentials shiboken6"
    )
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
