"""Which patients teach and which judge: settled at a patient's first label, for good.

A woman's images never stand on both sides, and a model is never judged on a woman that an earlier
version learned from. Every fifth patient judges.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, cast

from filelock import FileLock

from ftmtl.atomic import write_json

Side = Literal["train", "validation"]
ONE_IN = 5


class Sides:
    """Patient key -> side, in one file; safe between threads and processes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = FileLock(f"{file}.lock")

    def settle(self, patient_key: str) -> Side:
        """The patient's side; it is recorded now if she has none yet."""
        with self._lock:
            sides = self.all()
            if patient_key not in sides:
                judges = sum(side == "validation" for side in sides.values())
                due = (judges + 1) * ONE_IN <= len(sides) + 1
                sides[patient_key] = "validation" if due else "train"
                write_json(self._file, sides)
            return sides[patient_key]

    def all(self) -> dict[str, Side]:
        """Every patient's side."""
        if not self._file.exists():
            return {}
        return cast(dict[str, Side], json.loads(self._file.read_text(encoding="utf-8")))
