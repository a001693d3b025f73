"""mini-MIAS: 322 films of 1024×1024 pixels, circles around findings (Suckling et al., 1994).

Source: the folder with `Info.txt` and `mdb001.pgm` … `mdb322.pgm`. A line of the table is
`mdb005 F CIRC B 477 133 30`: film, tissue, abnormality, severity, x, y, radius. All films are MLO;
an even number is a left breast, the odd one before it the same woman's right one. By its notes:

- 2: x and y count from the bottom left corner. Circles around calcifications are of clusters.
- 3: where no place is given, the abnormality is all over the film. No mass is, but one line says so
  of a mass: of that film it is not known where the mass lies, and it is left out.

A circle is no outline: it gives the box, and the mask stays unknown.
"""

from __future__ import annotations

import re
from pathlib import Path

from ftmtl.mammogram import UnreadableMammogram, read_header

from .coco import InvalidDataset
from .published import Skipped, by_id, files_below, find, missing, number, once, usable
from .records import BENIGN, MALIGNANT, Annotation, ImageRecord

SIDE = 1024
MASSES = {"CIRC", "SPIC", "MISC"}
OTHERS = {"CALC", "ARCH", "ASYM"}
SEVERITY = {"B": BENIGN, "M": MALIGNANT}
NOWHERE = "NOTE 3"
_LINE = re.compile(r"(mdb\d{3})\s+(.*)")


def read_mini_mias(folder: Path) -> tuple[list[ImageRecord], Skipped]:
    """The records of mini-MIAS, and what was left out. Raises InvalidDataset."""
    folder = Path(folder)
    table = find(folder, "Info.txt")
    films: dict[str, list[list[str]]] = {}
    # An editor may have put a BOM before the first film; what is not UTF-8 is prose.
    for line in table.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        if found := _LINE.match(line.strip()):
            films.setdefault(found[1], []).append(found[2].replace("*", " ").split())
    if not films:
        raise InvalidDataset(f"{table}: no line of it begins with a film such as mdb001")
    files = by_id(((file.stem.lower(), file) for file in files_below(folder, ".pgm")), "film")
    missing([name for name in films if name not in files], folder, "films")
    skipped, records = Skipped(), []
    for name in sorted(files.keys() - films.keys()):
        skipped.add("film that is not in the table", files[name].name)
    for name, lines in films.items():
        try:
            header = read_header(files[name])
            if (header.width, header.height) != (SIDE, SIDE):
                raise InvalidDataset(
                    f"{files[name]}: it is of {header.width}×{header.height} pixels, and the "
                    f"places in {table.name} are of {SIDE}×{SIDE}. Give the film as published"
                )
            told = once(lines, name, skipped)
            found_masses = [
                mass for n, line in enumerate(told, start=1)
                if (mass := _mass(f"{name}_{n}", line, f"{table}: {name}", skipped)) is not None
            ]
        except (InvalidDataset, UnreadableMammogram) as error:
            skipped.refuse(error)
            continue
        film = int(name[3:])
        records.append(ImageRecord(
            image_id=name, path=files[name], width=SIDE, height=SIDE,
            patient_id=f"mias{(film + 1) // 2:03d}", laterality="R" if film % 2 else "L",
            view="MLO", malignant=any(cells[2:3] == ["M"] for cells in told),
            annotations=tuple(found_masses),
        ))
    return usable(records, skipped, table)


def _mass(identity: str, cells: list[str], where: str, skipped: Skipped) -> Annotation | None:
    """The mass of a line; None where it tells of none."""
    kind = cells[1] if len(cells) > 1 else ""
    if kind == "NORM":
        return None
    if kind not in MASSES | OTHERS:
        raise InvalidDataset(f"{where}: unknown abnormality {kind!r}")
    severity = cells[2] if len(cells) > 2 else ""
    if severity not in SEVERITY:
        raise InvalidDataset(f"{where}: unknown severity {severity!r}; B or M")
    if kind in OTHERS:
        at = "without a place (note 3)" if " ".join(cells[3:]) == NOWHERE else "no mass"
        skipped.add(f"{kind}, {at}", identity)
        return None
    if " ".join(cells[3:]) == NOWHERE:
        raise InvalidDataset(f"{where}: a mass without a place (note 3)")
    if len(cells) != 6:
        raise InvalidDataset(f"{where}: {' '.join(cells)!r} has no x, y and radius")
    x, up, radius = (number(cell, where) for cell in cells[3:])
    y = SIDE - up
    if radius < 1:  # of a pixel: no circle, and nothing of it may be left at the edge
        raise InvalidDataset(f"{where}: its circle has the radius {radius:g}")
    if not (0 <= x <= SIDE and 0 <= y <= SIDE):
        raise InvalidDataset(f"{where}: its centre ({x:g}, {up:g}) lies outside its image")
    # The circle is approximate; what of it lies beyond the film is cut off.
    left, top = max(x - radius, 0), max(y - radius, 0)
    right, bottom = min(x + radius, SIDE), min(y + radius, SIDE)
    return Annotation(id=identity, bbox=(left, top, right - left, bottom - top),
                      category=SEVERITY[severity], assessment=f"{kind}, {severity}")
