"""What the readers of published data sets share: tables, BI-RADS, outlines, masks, what is skipped.

A file that is missing, a table of other columns, an id that occurs twice or a set without a usable
image is one InvalidDataset. A single image that cannot be read, or whose annotation cannot be true
(outside its image, empty, without area, of an unknown label), is left out whole, named with the
reason: a mass that is not known must not be taught as background.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ftmtl.rle import box_of, encode_rle

from .coco import InvalidDataset
from .records import BENIGN, MALIGNANT, Annotation, ImageRecord, Role

Line = TypeVar("Line")
OVERHANG = 2.0  # pixels that an outline may lie outside; owners round
OTHER_SHAPE = 0.02  # by which a mask's aspect may differ from its film's


class Skipped:
    """What a reader left out, by reason."""

    def __init__(self) -> None:
        self.reasons: dict[str, list[str]] = {}
        self.refused: list[str] = []

    def add(self, reason: str, what: object) -> None:
        """Count `what` under `reason`."""
        self.reasons.setdefault(reason, []).append(str(what))

    def refuse(self, error: ValueError) -> None:
        """An image that cannot be read, or whose annotation cannot be true."""
        self.refused.append(str(error))

    def lines(self) -> list[str]:
        """Each reason with how many and the first; every refused image."""
        counted = [f"{len(all_)} × {reason} (first: {all_[0]})"
                   for reason, all_ in self.reasons.items()]
        return counted + [f"refused, the image is left out: {line}" for line in self.refused]


def find(folder: Path, *names: str) -> Path:
    """The first of the files `names`, in any case, in `folder` or below. Raises InvalidDataset."""
    if not folder.is_dir():
        raise InvalidDataset(f"{folder}: there is no such folder. Give the data set's")
    for name in names:
        for file in files_below(folder, Path(name).suffix):
            if file.name.lower() == name.lower():
                return file
    raise InvalidDataset(
        f"{folder}: holds no {' or '.join(names)}. Give the folder as its owner publishes it"
    )


def files_below(folder: Path, *suffixes: str) -> list[Path]:
    """The files with those suffixes, in any case; not hidden ones (macOS leaves `._1-1.dcm`)."""
    return sorted(file for file in folder.rglob("*")
                  if file.suffix.lower() in suffixes and not hidden(file, folder))


def hidden(path: Path, folder: Path) -> bool:
    """Whether it, or a folder between, begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def by_id(files: Iterable[tuple[str, Path]], what: str) -> dict[str, Path]:
    """Each file by its id. Raises InvalidDataset where two are of one."""
    found: dict[str, Path] = {}
    for identity, file in files:
        if identity in found:
            raise InvalidDataset(
                f"{found[identity]} and {file}: both are the {what} {identity}. Remove one of them"
            )
        found[identity] = file
    return found


def read_table(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV (`,` or `;`), XLS or XLSX table, by lower-case column, blanks for `_`.

    Rows without a value are passed over. Raises InvalidDataset where `columns` lack.
    """
    try:
        rows = _cells(Path(file))
        head = [_plain(cell) for cell in next(rows, [])]
        body = [dict(zip(head, row, strict=False)) for row in rows if any(row)]
    except FileNotFoundError as error:
        raise InvalidDataset(f"{file}: there is no such file") from error
    except Exception as error:  # three readers, each with errors of its own
        raise InvalidDataset(
            f"{file}: not a table ({type(error).__name__}: {error}). Save it as CSV in UTF-8, XLS "
            "or XLSX"
        ) from error
    if lacking := [c for c in columns if c not in head]:
        raise InvalidDataset(
            f"{file}: lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}; it has "
            f"{', '.join(head) or 'none'}. Give the table as its owner publishes it"
        )
    for number, row in enumerate(body, start=2):
        if short := [c for c in columns if c not in row]:
            raise InvalidDataset(f"{file}: row {number} ends before its {short[0]}")
    return body


def _cells(file: Path) -> Iterator[list[str]]:
    if file.suffix.lower() == ".xls":
        import xlrd

        sheet = xlrd.open_workbook(str(file)).sheet_by_index(0)
        for number in range(sheet.nrows):
            yield [_text(value) for value in sheet.row_values(number)]
    elif file.suffix.lower() == ".xlsx":
        import openpyxl

        for row in openpyxl.load_workbook(file, read_only=True).worksheets[0].values:
            yield [_text(value) for value in row]
    else:
        text = file.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = ";" if first.count(";") > first.count(",") else ","
        for cells in csv.reader(text.splitlines(keepends=True), delimiter=delimiter):
            yield [_text(value) for value in cells]


def _text(value: Any) -> str:
    """A cell as text; spreadsheets, and CSV that pandas wrote, hold whole numbers as 1.0."""
    text = "" if value is None else str(value).strip()
    return text.removesuffix(".0") if re.fullmatch(r"\d+\.0", text) else text


def _plain(column: str) -> str:
    return column.lower().replace("_", " ").strip()


def side(text: str, where: str) -> str:
    """L or R. Raises InvalidDataset."""
    if text.upper() not in ("L", "R", "LEFT", "RIGHT"):
        raise InvalidDataset(f"{where}: unknown laterality {text!r}; L or R")
    return text[0].upper()


def number(text: str, where: str) -> float:
    """A finite number. Raises InvalidDataset."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InvalidDataset(f"{where}: {text!r} is not a number")
    return value


def birads_class(text: str, where: str) -> dict[str, Any]:
    """Annotation fields of a BI-RADS: from 4 on, with 4a, 4b and 4c, malignant, as in the paper.

    0 and no assessment leave the class unknown. Raises InvalidDataset.
    """
    found = re.fullmatch(r"(?:BI-?RADS\s*)?([0-6][abc]?)?", text.strip(), re.IGNORECASE)
    if found is None or (len(found[1] or "") > 1 and found[1][0] != "4"):
        raise InvalidDataset(f"{where}: unknown BI-RADS {text!r}")
    known = found[1] not in (None, "0")
    return {
        "category": MALIGNANT if known and int(found[1][0]) >= 4 else BENIGN,
        "class_known": known,
        "assessment": f"BI-RADS {found[1].lower()}" if found[1] else None,
    }


def said_malignant(birads: Mapping[str, Any]) -> bool | None:
    """What the fields of `birads_class` say of a whole image or breast; None where nothing."""
    return birads["category"] == MALIGNANT if birads["class_known"] else None


def boxed(
    corners: Sequence[float], size: tuple[int, int], where: str, skipped: Skipped
) -> tuple[float, float, float, float]:
    """The box [x, y, width, height] of x1, y1, x2, y2 in an image of `size` (width, height).

    What overhangs is cut off, and counted from two pixels on. Raises InvalidDataset where less than
    half of the box is left.
    """
    x1, y1, x2, y2 = corners
    left, top = max(x1, 0.0), max(y1, 0.0)
    width, height = min(x2, float(size[0])) - left, min(y2, float(size[1])) - top
    if width <= 0 or height <= 0:
        raise InvalidDataset(f"{where}: its box {[x1, y1, x2, y2]} has no area in its image")
    if 2 * width * height < (x2 - x1) * (y2 - y1):
        raise InvalidDataset(
            f"{where}: its box {[x1, y1, x2, y2]} leaves its image of {size[0]}×{size[1]}"
        )
    if min(x1, y1) < -OVERHANG or x2 > size[0] + OVERHANG or y2 > size[1] + OVERHANG:
        skipped.add("part of a box, outside its image", where)
    return left, top, width, height


def masked(
    identity: str, mask: NDArray[np.bool_], where: str, *, role: Role = "mass", **fields: Any
) -> Annotation:
    """The annotation of a mask [height, width] of the film's size. Raises InvalidDataset."""
    if not mask.any():
        raise InvalidDataset(f"{where}: its mask is empty")
    return Annotation(id=identity, bbox=box_of(mask), mask_source="annotated", role=role,
                      segmentation=dict(encode_rle(mask)), **fields)


def on_film(mask: NDArray[np.bool_], size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """A mask of another size brought to the film's (height, width). Raises InvalidDataset."""
    if mask.shape == size:
        return mask
    if abs(mask.shape[0] * size[1] / (mask.shape[1] * size[0]) - 1) > OTHER_SHAPE:
        raise InvalidDataset(
            f"{where}: its mask of {mask.shape[1]}×{mask.shape[0]} pixels is not of the shape of "
            f"its film of {size[1]}×{size[0]}"
        )
    rows, columns = (
        ((np.arange(n) + 0.5) * m / n).astype(np.intp)
        for n, m in zip(size, mask.shape, strict=True)
    )
    return np.asarray(mask[np.ix_(rows, columns)])


def unique(ids: Sequence[str], file: Path, what: str) -> None:
    """Raise InvalidDataset where an id occurs twice."""
    seen: set[str] = set()
    for identity in ids:
        if identity in seen:
            raise InvalidDataset(f"{file}: {what} {identity} occurs twice")
        seen.add(identity)


def agreed(rows: Sequence[Mapping[str, str]], columns: Sequence[str], where: str) -> None:
    """Raise InvalidDataset where the rows of one image say different things of it."""
    for column in columns:
        if len(said := sorted({row[column] for row in rows})) > 1:
            raise InvalidDataset(f"{where}: its rows disagree on its {column}: {', '.join(said)}")


def once(lines: Sequence[Line], image: str, skipped: Skipped) -> list[Line]:
    """The lines of an image that has no ids of findings, each once."""
    kept: list[Line] = []
    for line in lines:
        if line in kept:
            skipped.add("line that says again what another says", image)
        else:
            kept.append(line)
    return kept


def usable(
    records: list[ImageRecord], skipped: Skipped, source: Path
) -> tuple[list[ImageRecord], Skipped]:
    """What a reader gives. Raises InvalidDataset where that is no image at all."""
    if not records:
        first = [*skipped.refused, *skipped.lines(), "Give the table as its owner publishes it"][0]
        raise InvalidDataset(
            f"{source}: no image is left, {len(skipped.refused)} were refused. {first}"
        )
    return records, skipped


def missing(names: Sequence[str], folder: Path, what: str) -> None:
    """Raise one InvalidDataset for all files that a table names and the folder lacks."""
    if names:
        raise InvalidDataset(
            f"{folder}: {len(names)} {what} of the table are missing, {names[0]} first. "
            "Complete the download"
        )
