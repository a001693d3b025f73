"""The images to read: their state, order, filter, and the patient's other views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .signal import Signal


@dataclass(frozen=True)
class Row:
    """One mammogram of the list."""

    id: str
    state: str  # new | read (by the model) | held (by another reader) | labelled
    laterality: str | None = None
    view: str | None = None
    patient_key: str | None = None
    annotator: str | None = None
    time: str | None = None
    version: int = 0
    malignancy: float | None = None


class Worklist:
    """The list; `changed()` when its rows, filter or current row change."""

    def __init__(self) -> None:
        self.changed = Signal()
        self.rows: tuple[Row, ...] = ()
        self.current: str | None = None  # the open case's id

    def load(self, datastore: dict[str, Any]) -> None:
        """Takes the server's list."""

    def set_filter(self, *, state: str = "", text: str = "") -> None:
        """Shows only rows of that state, whose id, patient, side, view or reader has the text."""

    @property
    def shown(self) -> tuple[Row, ...]:
        """The rows that pass the filter, in the server's order."""
        raise NotImplementedError

    def beside(self, step: int) -> Row | None:
        """The row `step` further (1) or back (−1) among those shown; None at the end."""
        raise NotImplementedError

    def views(self) -> tuple[Row, ...]:
        """All views of the open case's patient, R before L, CC before MLO; it is among them."""
        raise NotImplementedError
