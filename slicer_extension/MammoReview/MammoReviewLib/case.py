"""One open mammogram: its findings as they stand now, and every way to correct them.

Each correction is one step that can be undone. Nothing here waits or talks to a server.
"""

from __future__ import annotations

from pathlib import Path

from .findings import Finding, Findings
from .masks import Box, Mask
from .signal import Signal


class Case:
    """The open case.

    `changed`: findings, threshold, comment, history or dirtiness are not what they were.
    `selected_changed(id or None)`: another finding is selected.
    """

    def __init__(
        self,
        document: Findings,
        image_file: Path,
        *,
        based_on: int = 0,
        threshold: float = 0.0,
        reason: str = "",
        labelled_by: str | None = None,
    ) -> None:
        self.changed = Signal()
        self.selected_changed = Signal()
        self.image = document.image
        self.image_file = image_file  # the mammogram's file on this computer
        self.based_on = based_on  # the label's version that this began from; 0: none
        self.reason = reason  # why this case comes next
        self.labelled_by = labelled_by
        raise NotImplementedError

    # What there is
    @property
    def document(self) -> Findings:
        """All findings as they stand; the verdict is the server's until the first edit."""
        raise NotImplementedError

    @property
    def shown(self) -> tuple[Finding, ...]:
        """Those to be seen: proposals from `threshold` on, and all that a person touched."""
        raise NotImplementedError

    threshold: float  # of the score (1 − background); set_threshold changes it
    selected: str | None
    dirty: bool  # edited since it was opened or submitted
    comment: str  # about the image as a whole; goes with the submission

    def set_threshold(self, threshold: float) -> None:
        """Shows proposals from this score on; no step of the history."""

    def select(self, finding_id: str | None) -> None:
        """Selects a finding, or none."""

    # Corrections: each one step
    def accept(self, finding_id: str) -> None:
        """It is a mass, as shown."""

    def reject(self, finding_id: str) -> None:
        """It is none. A finding that a person added goes away altogether."""

    def set_label(self, finding_id: str, label: str) -> None:
        """benign or malignant; the finding is then "edited" (an added one stays "added")."""

    def set_box(self, finding_id: str, box: Box) -> None:
        """The box was dragged: cut to the image; a mask that the model drew no longer fits."""

    def add_box(self, box: Box, label: str = "malignant") -> str:
        """A person's new finding; returns its id and selects it."""
        raise NotImplementedError

    def set_mask(self, finding_id: str, mask: Mask | None) -> None:
        """The mask as the editor left it; the box moves with it. Unchanged: no step."""

    def set_comment(self, text: str, finding_id: str | None = None) -> None:
        """A comment on a finding, or on the image."""

    def no_mass(self) -> None:
        """No mass here: proposals are rejected, a person's own findings go."""

    def accept_all(self) -> None:
        """Accepts what `undecided` lists."""

    def reject_all(self) -> None:
        """Rejects what `undecided` lists."""

    def undecided(self) -> tuple[Finding, ...]:
        """Shown proposals that nobody accepted or rejected yet."""
        raise NotImplementedError

    # The past
    can_undo: bool
    can_redo: bool
    undo_name: str  # of the step that undo takes back, for a tooltip
    redo_name: str

    def undo(self) -> None:
        """Takes the last step back."""

    def redo(self) -> None:
        """Does it again."""
