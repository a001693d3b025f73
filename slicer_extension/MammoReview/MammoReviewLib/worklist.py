"""The images to read: their state, order, filter, and the examination of the open case."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from .findings import ImageInfo
from .i18n import _
from .signal import Signal

SIDES, VIEWS = ("R", "L"), ("CC", "MLO")
UNSENT = "unsent"  # of the filter: what this reader has here that the server has not


@dataclass(frozen=True)
class Row:
    """One mammogram of the list."""

    id: str
    state: str  # new | read (by the model) | held (by another reader) | labelled
    width: int = 0
    height: int = 0
    spacing_mm: tuple[float, float] | None = None
    laterality: str | None = None
    view: str | None = None
    patient_key: str | None = None
    examination: str | None = None
    annotator: str | None = None
    time: str | None = None
    version: int = 0  # of its label; 0 without one
    malignancy: float | None = None  # the model's cached verdict
    held_by: str | None = None
    suffix: str = ".dcm"  # of its file
    letter: str = ""  # of its examination, where its patient has several here: a, b, …

    @property
    def title(self) -> str:
        """Side and view, such as "L MLO"; the id where the file says neither."""
        return self.image.title or self.id

    @property
    def patient(self) -> str:
        """As `ImageInfo.patient`, and which of her examinations, where there are several."""
        return f"{self.image.patient} {self.letter}".strip()

    @property
    def image(self) -> ImageInfo:
        """The image as documents name it."""
        return ImageInfo(
            self.id, self.width, self.height, self.spacing_mm,
            self.laterality, self.view, self.patient_key,
        )


class Worklist:
    """The list; `changed()` when its rows, filter or current row change."""

    def __init__(self) -> None:
        self.changed = Signal()
        self.rows: tuple[Row, ...] = ()
        self.left_out: tuple[dict[str, str], ...] = ()  # files that are not read: {file, reason}
        self.current: str | None = None  # the open case's id
        self.reader = ""  # whose list it is: what they hold themselves is not held for them
        self.drafts: frozenset[str] = frozenset()  # images with edits that were not submitted
        self.labels: frozenset[str] = frozenset()  # images with a label that has not arrived
        self._state = self._text = ""

    def load(self, datastore: dict[str, Any]) -> None:
        """Takes the server's list."""
        objects = datastore.get("objects") or {}
        self.rows = _lettered([_row(i, entry, self.reader) for i, entry in objects.items()])
        self.left_out = tuple(datastore.get("left_out") or ())
        self.changed.emit()

    def set_current(self, image_id: str | None) -> None:
        """The open case is another."""
        self.current = image_id
        self.changed.emit()

    def set_unsent(self, drafts: frozenset[str], labels: frozenset[str]) -> None:
        """What lies on this computer is another."""
        if (drafts, labels) != (self.drafts, self.labels):
            self.drafts, self.labels = drafts, labels
            self.changed.emit()

    def mark_read(self, image_id: str, malignancy: float) -> None:
        """The model has read an image just now; the server's list will say so too."""
        self.rows = tuple(
            replace(row, state="read", malignancy=malignancy)
            if row.id == image_id and row.state == "new"
            else row
            for row in self.rows
        )
        self.changed.emit()

    def set_filter(self, *, state: str | None = None, text: str | None = None) -> None:
        """Shows only rows of that state, whose id, patient, side, view or reader has the text.

        The state may be `UNSENT` too. None leaves that part of the filter as it is.
        """
        self._state = self._state if state is None else state
        self._text = self._text if text is None else text.strip().lower()
        self.changed.emit()

    @property
    def shown(self) -> tuple[Row, ...]:
        """The rows that pass the filter, in the server's order."""
        if not self._state and not self._text:
            return self.rows
        return tuple(row for row in self.rows if self._passes(row))

    def find(self, image_id: str | None) -> Row | None:
        """The row of an image, shown or not."""
        return next((row for row in self.rows if row.id == image_id), None)

    def name(self, image_id: str) -> str:
        """An image in a sentence: its view and patient; its id where it is not in the list."""
        row = self.find(image_id)
        if row is None or row.title == image_id:
            return image_id
        if not row.patient:
            return f"{row.title} {image_id}"
        return _("{view} of patient {patient}").format(view=row.title, patient=row.patient)

    def beside(self, step: int) -> Row | None:
        """The next row (1) or the one before (−1) among those shown; None at the end.

        Seen from the open case, shown or not; without one, the first or the last.
        """
        shown = {row.id for row in self.shown}
        order = self.rows if step > 0 else self.rows[::-1]
        ids = [row.id for row in order]
        first = ids.index(self.current) + 1 if self.current in ids else 0
        return next((row for row in order[first:] if row.id in shown), None)

    def views(self) -> tuple[Row, ...]:
        """The open case's examination, it among them: R before L, CC before MLO.

        Other years' films of the patient are in the list alone.
        """
        here = self.find(self.current)
        if here is None:
            return ()
        if here.patient_key is None:
            return (here,)
        whose = here.patient_key, here.examination
        same = [row for row in self.rows if (row.patient_key, row.examination) == whose]
        return tuple(sorted(same, key=_order))

    def compared(self, with_breast: bool) -> Row | None:
        """The film to compare the open case with: its breast's other view, or, `with_breast`, the
        same view of the other breast.
        """
        here = self.find(self.current)
        if here is None or here.laterality not in SIDES or here.view not in VIEWS:
            return None
        wanted = here.laterality, VIEWS[1 - VIEWS.index(here.view)]
        if with_breast:
            wanted = SIDES[1 - SIDES.index(here.laterality)], here.view
        films = (row for row in self.views() if (row.laterality, row.view) == wanted)
        return next(films, None)

    def _passes(self, row: Row) -> bool:
        words = (row.id, row.patient_key, row.patient, row.title, row.annotator)
        text = " ".join(filter(None, words)).lower()
        states = ("", row.state, UNSENT if row.id in self.drafts | self.labels else "")
        return self._state in states and self._text in text


def _lettered(rows: list[Row]) -> tuple[Row, ...]:
    """The rows with letters, in the list's order: it says no dates, only what belongs together."""
    several: dict[str, list[str | None]] = {}
    for row in rows:
        if row.patient_key is not None:
            known = several.setdefault(row.patient_key, [])
            if row.examination not in known:
                known.append(row.examination)

    def letter(row: Row) -> str:
        examinations = several.get(row.patient_key or "", [])
        if len(examinations) < 2:
            return ""
        return chr(ord("a") + min(examinations.index(row.examination), 25))

    return tuple(replace(row, letter=letter(row)) for row in rows)


def _order(row: Row) -> tuple[int, int]:
    return _place(row.laterality, SIDES), _place(row.view, VIEWS)


def _place(value: str | None, order: tuple[str, ...]) -> int:
    return order.index(value) if value in order else len(order)


def _row(image_id: str, entry: dict[str, Any], reader: str) -> Row:
    info = (entry.get("image") or {}).get("info") or {}
    spacing = info.get("spacing_mm")
    state = info.get("state") or "new"
    if state == "held" and info.get("held_by") == reader:
        state = "new" if info.get("malignancy") is None else "read"
    return Row(
        id=image_id,
        state="new" if state == "unlabelled" else state,
        width=int(info.get("width") or 0),
        height=int(info.get("height") or 0),
        spacing_mm=(float(spacing[0]), float(spacing[1])) if spacing else None,
        version=int(info.get("version") or 0),
        suffix=PurePosixPath(str(info.get("name") or "")).suffix or ".dcm",
        **{
            name: info.get(name)
            for name in ("laterality", "view", "patient_key", "examination", "annotator", "time",
                         "malignancy", "held_by")
        },
    )
