"""A reader's session: which case is open, how cases open, and where finished ones go.

All methods are called on the main thread and return at once; answers come through the signals.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable

from .case import Case
from .client import Client
from .jobs import Jobs
from .ports import LabelFiles
from .signal import Signal


class Session:
    """Connection, work list, open case and outbox of one reader.

    `connection` (status, info), `worklist`, `outbox` are rooms of their own, with signals of
    their own. `case` is the open case or None.
    `case_changed()`: another case is open, or none. `said(sentence)`: something to tell, e.g. a
    failure or a label that was sent. `opening(image_id or None)`: a case is being fetched.
    """

    def __init__(
        self,
        jobs: Jobs,
        label_files: LabelFiles,
        folder: Path,
        *,
        client_id: str,
        make_client: Callable[..., Client] = Client,
    ) -> None:
        """`folder` keeps drafts and the outbox, in a folder for each server and client."""
        self.case_changed = Signal()
        self.opening = Signal()
        self.said = Signal()
        self.case: Case | None = None
        raise NotImplementedError

    def connect(self, address: str, token: str = "") -> None:
        """Connects, reads the work list, sends what the outbox holds, and stays connected."""

    def disconnect(self) -> None:
        """Ends the connection; drafts and outbox stay."""

    def open(self, image_id: str, *, reason: str = "") -> None:
        """Fetches image and findings (a labelled case: its label; a draft: the draft), opens it.

        The case that was open before is left with its draft kept: ask before if it is `dirty`.
        """

    def open_next(self, strategy: str) -> None:
        """Opens what the server's strategy says is next."""

    def ask_model(self, finding_id: str) -> None:
        """Asks the model for a mask and a score of the finding's box; applies them when they come.

        No step of the history: they belong to the drag or the new box that asked.
        """

    def discard_edits(self) -> None:
        """Forgets the draft of the open case and opens it afresh."""

    def submit(self) -> None:
        """Puts the open case into the outbox and sends it; ask about `case.undecided()` before."""

    def close_case(self) -> None:
        """Closes the open case; its draft stays if it is dirty."""

    def close(self) -> None:
        """The panel goes: drafts are on disk, jobs are cancelled, temporary images deleted."""
