"""Keep patients apart: who is held out never changes, whatever else is added to the set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from .records import ImageRecord


def part_of(patient_id: str, parts: int) -> int:
    """The part, 0…parts − 1, of a patient; a hash, so it depends on nothing but her id."""
    digest = hashlib.sha256(patient_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % parts


def hold_out(
    records: Sequence[ImageRecord], *, parts: int = 5
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """The records to train on and those held out: all of the patients of part 0."""
    held = [r for r in records if part_of(r.patient_id, parts) == 0]
    return [r for r in records if part_of(r.patient_id, parts) != 0], held
