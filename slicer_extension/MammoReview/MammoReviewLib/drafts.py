"""Edits that were not submitted yet, on this computer's disk: they come back after a crash.

A draft holds the document that the edits began from as well: by the time it comes back, another
model may be in service, whose findings have the same ids.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import disk
from .case import Case, State
from .findings import Findings, InvalidFindings, verdict_of
from .signal import Signal


@dataclass(frozen=True)
class Draft:
    """An open case, as far as it must come back."""

    opened: Findings  # what the edits began from
    state: State
    based_on: int
    follows: str | None = None  # the submission that the case was opened from, if it waits still
    reason: str = ""
    comment: str = ""  # on the image, before the edits
    veiled: bool = False  # the model's findings were not shown yet


class Drafts:
    """The drafts of one reader at one server, in one folder: a file an image.

    `changed()`: other images have one than before.
    """

    def __init__(self, folder: Path) -> None:
        self.changed = Signal()
        self._folder = folder
        self._written: dict[str, tuple[State, bool]] = {}
        documents = (disk.read_json(file) for file in folder.glob("*.json"))
        self._images = {d["opened"]["image"]["id"] for d in documents if d and "opened" in d}

    def keep(self, case: Case) -> None:
        """Writes the case if it is dirty, forgets its draft if not. Raises OSError."""
        image_id = case.image.id
        if not case.dirty:
            self.forget(image_id)
        elif not self._is_written(case):
            now = replace(case.opened, findings=case.state.findings)
            document = {
                "opened": case.opened.to_json(),
                "now": replace(now, verdict=verdict_of(now.findings)).to_json(),
                "comment": case.state.comment,
                "cleared": case.state.cleared,
                "based_on": case.based_on,
                "follows": case.follows,
                "reason": case.reason,
                "opened_comment": case.opened_comment,
                "veiled": case.veiled,
            }
            disk.write_json(self._file(image_id), document, through=False)
            self._written[image_id] = case.state, case.veiled
            if image_id not in self._images:
                self._images.add(image_id)
                self.changed.emit()

    def arrived(self, image_id: str, parcel_id: str, version: int) -> None:
        """The server has the submission `parcel_id` as `version`: a draft that follows it is based
        on that from now on. Raises OSError.
        """
        document = disk.read_json(self._file(image_id))
        if document is not None and document.get("follows") == parcel_id:
            document.update(based_on=version, follows=None)
            disk.write_json(self._file(image_id), document, through=False)

    def find(self, image_id: str) -> Draft | None:
        """The draft of an image; None without one, or where it is damaged."""
        document = disk.read_json(self._file(image_id))
        try:
            return None if document is None else _draft(document)
        except (InvalidFindings, KeyError, TypeError):
            return None

    def forget(self, image_id: str) -> None:
        """The edits were submitted or discarded."""
        self._written.pop(image_id, None)
        disk.remove(self._file(image_id))
        if image_id in self._images:
            self._images.remove(image_id)
            self.changed.emit()

    def images(self) -> frozenset[str]:
        """The ids of all images that have a draft."""
        return frozenset(self._images)

    def _is_written(self, case: Case) -> bool:
        state, veiled = self._written.get(case.image.id, (None, False))
        return state is case.state and veiled == case.veiled

    def _file(self, image_id: str) -> Path:
        return self._folder / f"{disk.name_for(image_id)}.json"


def _draft(document: dict[str, Any]) -> Draft:
    now = Findings.from_json(document["now"])
    return Draft(
        opened=Findings.from_json(document["opened"]),
        state=State(now.findings, str(document["comment"]), bool(document["cleared"])),
        based_on=int(document["based_on"]),
        follows=document["follows"],
        reason=str(document["reason"]),
        comment=str(document.get("opened_comment", "")),  # panels before them wrote neither
        veiled=bool(document.get("veiled", False)),
    )
