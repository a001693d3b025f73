"""Another film beside the open case, to compare: which one, and what is known of it.

It is looked at, not read: nobody holds it, and nothing of it goes into a label. What it shows is
what this reader said of it, else the label that stands, else what the model found; before the
reader's own look is over, the film alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

from . import failures
from .case import Case
from .drafts import Drafts
from .failures import Failure
from .findings import Finding, InvalidFindings
from .jobs import Job
from .opening import Fetched, fetch
from .ports import LabelFiles
from .session import Session
from .signal import Signal
from .worklist import Row

ALONE, OTHER_VIEW, OTHER_BREAST = "alone", "view", "breast"
CHOICES = (ALONE, OTHER_VIEW, OTHER_BREAST)
COMPARING = "comparing"
NOTHING = (None, None)  # no case, no film
AGAIN_SECONDS = 10.0  # after a failure that passes


class Comparison:
    """`changed()`: `row`, `film` or `findings` are not what they were. `chosen(choice)`."""

    def __init__(self, session: Session, label_files: LabelFiles) -> None:
        self.changed, self.chosen = Signal(), Signal()
        self.choice = ALONE
        self.row: Row | None = None  # of the film that stands beside the case, or is on its way
        self.film: Path | None = None  # its file on this computer
        self._findings: tuple[Finding, ...] = ()
        self._session, self._label_files = session, label_files
        self._case: Case | None = None
        self._asked: tuple[Any, ...] = NOTHING
        self._told = ""  # why the film has not come
        self._call_off: Callable[[], Any] = lambda: None
        session.case_changed.connect(self._open)
        session.connection.established.connect(self._try_again)
        session.worklist.changed.connect(self._film_arrived)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is drawn: what a person stands by, and proposals that the case's slider shows."""
        least = 1.0 if self._case is None else self._case.threshold
        return tuple(
            f for f in self._findings if f.stands and (f.status != "proposed" or f.score >= least)
        )

    @property
    def comes_first(self) -> bool:
        """Whether it is hung before the case: R before L, CC before MLO."""
        worklist = self._session.worklist
        ids = [row.id for row in worklist.views()]
        return self.row is not None and ids.index(self.row.id) < ids.index(worklist.current)

    def choose(self, choice: str) -> None:
        """One of CHOICES; it holds for the cases to come."""
        self.choice = choice
        self.chosen.emit(choice)
        self._follow()
        self.changed.emit()

    def choose_next(self) -> None:
        """The next choice for which there is a film; after the last one, the case alone."""
        there_are = [c for c in CHOICES if self._row_of(c) is not None]
        after = CHOICES[CHOICES.index(self.choice) + 1 :] if self.row is not None else CHOICES
        if there_are:  # else it holds for a case that has one
            self.choose(next((c for c in after if c in there_are), ALONE))

    # Inside

    def _row_of(self, choice: str) -> Row | None:
        if choice == ALONE or self._case is None:
            return None
        return self._session.worklist.compared(with_breast=choice == OTHER_BREAST)

    def _open(self) -> None:
        if self._case is not None:
            self._case.changed.disconnect(self.changed.emit)
            self._case.unveiled.disconnect(self._follow)
        self._case = self._session.case
        if self._case is not None:
            self._case.changed.connect(self.changed.emit)  # the slider may show more of its film
            self._case.unveiled.connect(self._follow)
        self._follow()

    def _film_arrived(self) -> None:
        if self._session.case is self._case:  # else `_open` is about to be called
            self._follow()

    def _follow(self) -> None:
        """Fetches what should stand beside the case, unless it does already."""
        row, case = self._row_of(self.choice), self._case
        veiled = case is not None and case.veiled
        asked: tuple[Any, ...] = NOTHING if case is None else (case, None)
        if row is not None:  # and what decides what is known of it
            waiting = self._session.sending.latest(row.id)
            asked = case, row.id, veiled, row.state, row.version, waiting and waiting.id
        if asked == self._asked:
            return
        same_film = asked[:2] == self._asked[:2]
        self._asked = asked
        self._session.jobs.cancel(COMPARING)
        if not same_film:
            self.row, self.film, self._findings = row, None, ()
            self.changed.emit()
        if row is not None:
            self._fetch(row, veiled)

    def _fetch(self, row: Row, veiled: bool) -> None:
        session, asked = self._session, self._asked
        client, info = session.connection.client, session.connection.info
        if client is None or info is None or session.drafts is None:
            return
        drafts, own = session.drafts, session.sending.latest(row.id) is not None
        unread = session.look_first and row.state != "labelled"  # its own first look is to come
        stored = veiled or own or unread or drafts.find(row.id) is not None

        def work(job: Job) -> Fetched:
            folder = session.images.folder
            return fetch(client, row, folder, info.floor, stored=stored, hold=False, stop=job)

        def done(fetched: Fetched) -> None:
            if asked != self._asked:
                return
            self.film, self._told = fetched.image_file, ""
            try:
                self._findings = () if veiled else self._said_of(row, fetched, drafts)
            except InvalidFindings as error:
                self._failed(error)
            self.changed.emit()

        def failed(error: Exception) -> None:
            self._failed(error)
            if asked == self._asked and getattr(error, "kind", None) in failures.PASSING:
                self._call_off = session.jobs.later(AGAIN_SECONDS, self._try_again)

        self._call_off()
        session.jobs.start(work, done, failed, key=COMPARING)

    def _said_of(self, row: Row, fetched: Fetched, drafts: Drafts) -> tuple[Finding, ...]:
        draft, waiting = drafts.find(row.id), self._session.sending.latest(row.id)
        if draft is not None:
            findings = draft.state.findings
            return tuple(f for f in findings if not draft.veiled or f.status != "proposed")
        label = fetched.label if waiting is None else waiting.file
        if label is not None:
            return self._label_files.read(label, row.image).findings
        return () if fetched.document is None else fetched.document.findings

    def _try_again(self) -> None:
        if self.row is not None and self.film is None:
            self._asked = NOTHING
            self._follow()

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, (Failure, InvalidFindings)):
            raise error
        if str(error) != self._told:  # once, though it is tried again
            self._told = str(error)
            self._session.said.emit(self._told)
        if isinstance(error, Failure) and error.kind in failures.WAY:
            self._session.connection.check()
