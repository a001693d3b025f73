"""Which patients teach and which judge: settled at a patient's first label, for good.

A woman's images never stand on both sides, and a model is never judged on a woman that an earlier
version learned from. Every fifth patient judges. Each label's record says its patient's side too,
so that this file can be made again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, get_args

from filelock import FileLock

from ftmtl.atomic import write_json

from .files import set_aside

logger = logging.getLogger(__name__)

Side = Literal["train", "validation"]
ONE_IN = 5

# Patient and side (None where the record does not say) of every label, oldest first.
Recall = Callable[[], Iterable[tuple[str, str | None]]]


class Sides:
    """Patient key -> side, in one file; safe between threads and processes."""

    def __init__(self, file: Path, recall: Recall) -> None:
        self._file, self._recall = file, recall
        self._lock = FileLock(f"{file}.lock")
        self.all()

    def settle(self, patient_key: str) -> Side:
        """The patient's side; it is recorded now if she has none yet."""
        with self._lock:
            sides = self.all()
            if patient_key not in sides:
                sides[patient_key] = _next_side(sides)
                write_json(self._file, sides)
            return sides[patient_key]

    def all(self) -> dict[str, Side]:
        """Every patient's side."""
        try:
            return _read(self._file)
        except (FileNotFoundError, ValueError):
            with self._lock:
                return self._mended()

    def _mended(self) -> dict[str, Side]:
        """The sides as the labels tell them; written down where there are any."""
        try:
            return _read(self._file)  # another process may have been here first
        except FileNotFoundError:
            pass
        except ValueError as error:
            set_aside(self._file, error)
        sides: dict[str, Side] = {}
        for patient_key, said in self._recall():
            if patient_key not in sides:
                known = next((side for side in get_args(Side) if side == said), None)
                sides[patient_key] = known or _next_side(sides)
        if sides:
            logger.warning("The sides of %d patients were made again from labels", len(sides))
            write_json(self._file, sides)
        return sides


def _next_side(sides: dict[str, Side]) -> Side:
    judges = sum(side == "validation" for side in sides.values())
    return "validation" if (judges + 1) * ONE_IN <= len(sides) + 1 else "train"


def _read(file: Path) -> dict[str, Side]:
    sides = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(sides, dict) or any(s not in get_args(Side) for s in sides.values()):
        raise ValueError("it does not say which patients teach and which judge")
    return sides
