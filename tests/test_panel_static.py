"""The extension as a whole, read but not run: packaging, Python 3.9, names that must exist."""

import ast
import json
import re
import shutil
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

import jsonschema
import pytest

EXTENSION = Path(__file__).parent.parent / "slicer_extension"
MODULE = EXTENSION / "MammoReview"
LIBRARY = MODULE / "MammoReviewLib"
SCRIPTS = sorted(EXTENSION.rglob("*.py"))
TREES = {path: ast.parse(path.read_text("utf-8"), str(path)) for path in SCRIPTS}
KNOW_QT = {"widget", "case_view", "connection_view", "worklist_view", "training_view",
           "case_actions", "birads_field", "keys", "look", "segment_editor"}
KNOW_SLICER = {"slice_frame"}
# Names that neither the slicer-core wheel nor PySide6 has; a full Slicer does.
ONLY_A_FULL_SLICER = {
    "slicer.app", "slicer.i18n", "slicer.mrmlScene", "slicer.modules", "slicer.util",
    "slicer.ScriptedLoadableModule", "slicer.qMRMLSegmentEditorWidget",
}
ONLY_SLICERS_WIDGETS = {
    "ctkCollapsibleButton", "ctkDoubleSlider", "ctkSliderWidget", "qMRMLWidget",
    "qMRMLSegmentEditorWidget",
}
# What Python 3.9 has not: (function, keyword argument).
TOO_NEW = {("zip", "strict"), ("dataclass", "kw_only"), ("dataclass", "slots")}


def named(path: Path) -> str:
    return path.relative_to(EXTENSION).as_posix()


@pytest.mark.parametrize("path", SCRIPTS, ids=named)
def test_a_room_is_small_and_runs_on_the_pythons_that_slicer_brings(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 350
    for minor in (9, 12):
        ast.parse(text, feature_version=(3, minor))
    tree = TREES[path]
    code = [n for n in tree.body if not isinstance(n, ast.Expr)]
    first = code[0] if code else None
    if code:
        assert isinstance(first, ast.ImportFrom) and first.module == "__future__"
    annotated = _annotations(tree)
    for node in ast.walk(tree):
        assert not isinstance(node, (ast.Match, ast.TryStar))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            for keyword in node.keywords:
                assert (node.func.id, keyword.arg) not in TOO_NEW, node.lineno
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            # `X | None` is no value in Python 3.9; in an annotation it is never evaluated.
            sides = (node.left, node.right)
            is_type = any(isinstance(s, ast.Constant) and s.value is None for s in sides)
            assert not is_type or node in annotated, node.lineno


def _annotations(tree: ast.AST) -> set[ast.AST]:
    found: set[ast.AST] = set()
    for parent in ast.walk(tree):
        for name in ("annotation", "returns"):
            annotation = getattr(parent, name, None)
            if isinstance(annotation, ast.AST):
                found.update(ast.walk(annotation))
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=named)
def test_a_room_imports_only_what_slicer_brings(path):
    allowed = {*sys.stdlib_module_names, "numpy", "vtk", "pydicom", "MammoReviewLib"}
    room = path.stem
    if path.parent != LIBRARY or room in KNOW_QT | KNOW_SLICER or room.startswith("scene"):
        allowed |= {"slicer", "qt", "ctk"}
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module.split(".")[0] in allowed, node.module
        if isinstance(node, ast.Import):
            for name in node.names:
                assert name.name.split(".")[0] in allowed, name.name
    if path.parent == LIBRARY and room not in KNOW_QT:
        assert "import qt" not in path.read_text("utf-8")


def test_every_name_of_slicer_qt_and_vtk_exists():
    import slicer
    import vtk
    from PySide6 import QtCore, QtGui, QtWidgets

    homes = {"slicer": (slicer,), "vtk": (vtk,), "qt": (QtCore, QtGui, QtWidgets)}
    used = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in homes
            ):
                used.add((node.value.id, node.attr))
    assert {home for home, _ in used} == set(homes)
    unknown = {
        f"{home}.{name}"
        for home, name in used
        if not any(hasattr(module, name) for module in homes[home])
    }
    assert unknown <= ONLY_A_FULL_SLICER, unknown - ONLY_A_FULL_SLICER


def test_every_class_and_name_of_the_ui_exists():
    from PySide6 import QtWidgets

    root = ET.parse(MODULE / "Resources" / "UI" / "MammoReview.ui").getroot()
    classes = {w.get("class") for w in root.iter("widget")}
    unknown = {name for name in classes if not hasattr(QtWidgets, name)}
    assert unknown <= ONLY_SLICERS_WIDGETS, unknown
    names = [w.get("name") for w in root.iter("widget")]
    assert len(names) == len(set(names))
    used = set()
    for tree in TREES.values():
        for node in ast.walk(tree):  # ui.name, self._ui.name
            if isinstance(node, ast.Attribute):
                owner = getattr(node.value, "attr", None) or getattr(node.value, "id", None)
                if owner in ("ui", "_ui"):
                    used.add(node.attr)
    sections = {f"{name}{part}" for name in ("connection", "worklist", "training")
                for part in ("Button", "Area")}  # by their common names, in `widget`
    assert len(used) > 25 and used | sections <= set(names), used - set(names)
    buttons = {n for n in names if n.endswith(("Button", "Slider", "Comment", "Table", "Bar"))}
    assert buttons <= used | sections, buttons - used - sections


def unknown_parameters(ui: ET.Element, trees: Iterable[ast.AST]) -> set[str]:
    """What a `.ui` binds to a parameter node that no class wrapped as one declares."""
    bound = {
        prop.findtext("string")
        for prop in ui.iter("property")
        if prop.get("name") == "SlicerParameterName"
    }
    declared = {
        line.target.id
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(getattr(d, "id", None) == "parameterNodeWrapper" for d in node.decorator_list)
        for line in node.body
        if isinstance(line, ast.AnnAssign)
    }
    return bound - declared


def test_every_parameter_of_the_ui_is_declared():
    bound = (
        '<ui><widget><property name="SlicerParameterName"><string>threshold</string></property>'
        "</widget></ui>"
    )
    declares = "@parameterNodeWrapper\nclass Parameters:\n    threshold: float\n"
    assert unknown_parameters(ET.fromstring(bound), []) == {"threshold"}
    assert unknown_parameters(ET.fromstring(bound), [ast.parse(declares)]) == set()
    files = list(MODULE.glob("Resources/UI/*.ui"))
    assert files
    for file in files:
        assert unknown_parameters(ET.parse(file).getroot(), TREES.values()) == set()


def test_the_catalogue_entry_is_what_the_extension_index_takes():
    # The rules of slicer-extension-catalog-entry-schema v1.0.2, which the entry names.
    string = {"type": "string"}
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["$schema", "category", "scm_url"],
        "properties": {
            **dict.fromkeys(
                ["$schema", "category", "scm_url", "scm_revision", "dicom_support_rule",
                 "build_subdirectory"],
                string,
            ),
            "scm_type": {"enum": ["git", "local"]},
            "build_dependencies": {"type": "array", "items": string},
            "enabled": {"type": "boolean"},
            "tier": {"type": "integer", "minimum": 1, "maximum": 5},
        },
    }
    entry = json.loads((EXTENSION / "MammoReview.json").read_text("utf-8"))
    jsonschema.validate(entry, schema)
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert entry["dicom_support_rule"] == "Modality == 'MG'"


def test_cmake_says_what_the_extension_manager_shows_and_finds_every_file(tmp_path):
    text = (EXTENSION / "CMakeLists.txt").read_text("utf-8")
    for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        assert re.search(rf'^set\(EXTENSION_{name} "[^"]+"\)$', text, re.M), name
    assert "EXTENSION_CATEGORY" not in text, "the category is the catalogue's"
    assert "add_subdirectory(MammoReview)" in text
    module = (MODULE / "CMakeLists.txt").read_text("utf-8")
    lines = r"^  ((?:\$\{MODULE_NAME\}|MammoReviewLib/|Resources/)\S*)$"
    patterns = re.findall(lines, module, re.M)
    found = {
        file for p in patterns for file in MODULE.glob(p.replace("${MODULE_NAME}", "MammoReview"))
    }
    inside = {f for f in MODULE.rglob("*") if f.is_file() and "__pycache__" not in f.parts}
    packed = {f for f in inside if "Testing" not in f.parts and f.name != "CMakeLists.txt"}
    assert found == packed
    tests = (MODULE / "Testing" / "Python" / "CMakeLists.txt").read_text("utf-8")
    for file in (MODULE / "Testing" / "Python").glob("*.py"):
        assert f"SCRIPT {file.name}" in tests
    icon = (MODULE / "Resources" / "Icons" / "MammoReview.png").read_bytes()
    assert struct.unpack(">II", icon[16:24]) == (128, 128)
    if shutil.which("cmake") is not None:
        said = configured(EXTENSION, tmp_path)
        assert all(file.relative_to(MODULE).as_posix() in said for file in packed)
        assert "EXTENSION_HOMEPAGE=https://github.com/OWNER/ftmtl/blob/main/docs/panel.md" in said
        assert "does not say yet who publishes" in said


def test_who_publishes_it_is_said_once(tmp_path):
    entry = (EXTENSION / "MammoReview.json").read_text("utf-8")
    assert entry.count("OWNER") == 1
    others = (f for f in EXTENSION.rglob("*") if f.suffix in (".txt", ".py", ".ui"))
    assert not any("github.com/OWNER" in f.read_text("utf-8") for f in others)
    if shutil.which("cmake") is not None:
        copy = tmp_path / "extension"
        shutil.copytree(EXTENSION, copy)
        (copy / "MammoReview.json").write_text(entry.replace("OWNER", "some.clinic"))
        said = configured(copy, tmp_path)
        assert "EXTENSION_HOMEPAGE=https://github.com/some.clinic/ftmtl/blob/main" in said
        icon = "https://raw.githubusercontent.com/some.clinic/ftmtl/main/slicer_extension/Mammo"
        assert f"EXTENSION_ICONURL={icon}" in said
        assert "does not say yet" not in said


def configured(extension: Path, folder: Path) -> str:
    """What CMake itself makes of the extension, with Slicer's parts made to print what they get."""
    slicer = folder / "slicer"
    slicer.mkdir()
    (slicer / "SlicerConfig.cmake").write_text(
        'function(slicerMacroBuildScriptedModule)\nmessage(STATUS "${ARGV}")\nendfunction()\n'
        f'set(Slicer_USE_FILE "{slicer}/empty.cmake")\n'
        f'set(Slicer_EXTENSION_GENERATE_CONFIG "{slicer}/show.cmake")\n'
        f'set(Slicer_EXTENSION_CPACK "{slicer}/empty.cmake")\n'
    )
    (slicer / "empty.cmake").write_text("")
    names = "HOMEPAGE CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS"
    (slicer / "show.cmake").write_text(
        f"foreach(name {names})\n"
        'message(STATUS "EXTENSION_${name}=${EXTENSION_${name}}")\nendforeach()\n'
    )
    command = ["cmake", f"-DSlicer_DIR={slicer}", "-S", str(extension), "-B", str(folder / "build")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr
