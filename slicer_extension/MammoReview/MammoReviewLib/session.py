"""A reader's session: which case is open, how cases open, and where finished ones go.

All methods are called on the main thread and return at once; answers come through the signals.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

from . import failures
from .asking import Asking
from .case import Case
from .client import Client
from .connection import Connection
from .drafts import Draft, Drafts
from .failures import Failure
from .findings import Findings, InvalidFindings
from .i18n import _
from .image_files import ImageFiles
from .jobs import Job, Jobs
from .learning import Learning
from .opening import Fetched, fetch
from .outbox import Outbox
from .own_folder import own_folder, waiting_elsewhere
from .ports import LabelFiles
from .reading_ahead import WATCHING, ReadingAhead
from .sending import Sending
from .signal import Signal
from .worklist import Worklist

OPENING, NEXT, LIST = "opening", "next", "list"
NOBODY = "reader"


class Session:
    """Connection, work list, open case and outbox of one reader.

    `connection`, `worklist`, `learning`, `ahead` (reading before anybody asks), `asking` (the model
    about one box) and `sending` (the outbox and its way to the server) are rooms of their own.
    `case` is the open case or None.
    `case_closes()`: the open case is about to go: what is still being typed or drawn belongs to it.
    `case_changed()`: another case is open, or none. `said(sentence)`: something to tell, e.g. a
    failure or a label that was sent. `opening(image_id or None)`: a case is being fetched.
    """

    def __init__(
        self,
        jobs: Jobs,
        label_files: LabelFiles,
        folder: Path,
        *,
        make_client: Callable[..., Client] = Client,
    ) -> None:
        """`folder` keeps drafts and outbox, in a folder for each server and client."""
        self.case_closes = Signal()
        self.case_changed = Signal()
        self.opening = Signal()
        self.said = Signal()
        self.case: Case | None = None
        self.jobs = jobs
        self.connection = Connection(jobs)
        self.worklist = Worklist()
        self.sending = Sending(jobs, self.connection, self.said.emit, self.worklist.name)
        self.asking = Asking(jobs, self.connection, self.said.emit)
        self.learning = Learning(jobs, self.connection, self.said.emit)
        self.ahead = ReadingAhead(jobs, self.connection, self.said.emit)
        self.look_first = False  # cases open without what the model found; see `unveil`
        self.drafts: Drafts | None = None
        self.elsewhere: tuple[str, ...] = ()  # labels of others, or for other servers, that wait
        self._label_files, self._folder, self._make_client = label_files, folder, make_client
        self.images = ImageFiles()
        self._token: str | None = None  # of the open case, to know late answers by
        self._opened_cases = 0
        self._counts: tuple[int, int] | None = None
        self.connection.established.connect(self._on_established)
        self.connection.changed.connect(self._on_connection)
        self.sending.arrived.connect(self._on_arrived)
        self.sending.changed.connect(self._note_unsent)
        self.ahead.ended.connect(self.refresh)

    # The server

    def connect(self, address: str, token: str = "", client_id: str = NOBODY) -> None:
        """Connects, reads the work list, sends what the outbox holds, and stays connected.

        The open case is closed; its draft stays. Says why where the address is none.
        """
        try:
            client = self._make_client(address, token=token, client_id=client_id or NOBODY)
        except Failure as failure:
            self.said.emit(str(failure))
            return
        self.disconnect()
        try:
            own = own_folder(self._folder, client.address, client.client_id)
        except OSError as error:
            self.said.emit(str(failures.of_disk(error)))
            return
        self.elsewhere = waiting_elsewhere(self._folder, own)
        self.drafts = Drafts(own / "drafts")
        self.drafts.changed.connect(self._note_unsent)
        self.sending.use(Outbox(own / "outbox"))
        self.worklist.reader = client.client_id
        self.connection.open(client)

    def disconnect(self) -> None:
        """Ends the connection and closes the case; drafts and outbox stay."""
        self.close_case()
        self.cancel()
        for background in (LIST, WATCHING):  # late answers would be another server's
            self.jobs.cancel(background)
        self.connection.close()
        self.worklist.load({})
        self._counts = None

    def refresh(self) -> None:
        """Reads the work list again."""
        client = self.connection.client
        if client is not None:
            self.jobs.cancel(LIST)  # what it brings may be older than why this is asked
            self.jobs.start(client.datastore, self.worklist.load, self._failed, key=LIST)

    def cancel(self) -> None:
        """Gives up what a person waits for: opening a case, asking the model."""
        self.jobs.cancel()
        self.opening.emit(None)

    # Cases

    def open(self, image_id: str, *, reason: str = "") -> None:
        """Fetches image and findings, and opens them: a draft, else what waits in the outbox, else
        the label that stands, else what the model finds.

        The case that was open stays open until the new one is there; its draft is on disk.
        """
        client, info = self.connection.client, self.connection.info
        row = self.worklist.find(image_id)
        if client is None or info is None or self.drafts is None:
            self.said.emit(_("Connect to a server first."))
            return
        if row is None:
            self.said.emit(_("There is no image {id} in the work list.").format(id=image_id))
            return
        self.jobs.cancel(OPENING)
        drafts = self.drafts
        stored = (drafts.find(image_id) or self.sending.latest(image_id)) is not None

        def work(job: Job) -> Fetched:
            return fetch(client, row, self.images.folder, info.floor, stored=stored, stop=job)

        def show(fetched: Fetched) -> None:
            # A label may have arrived while the image was fetched: what is here is looked at now.
            if self.case is not None and self.case.image.id == image_id:
                self.close_case()  # what is being typed or drawn there goes into its draft first
            draft, waiting = drafts.find(image_id), self.sending.latest(image_id)
            if draft is not None:
                self._open_draft(draft, fetched, info.threshold)
            elif waiting is not None:
                document = self._label_files.read(waiting.file, row.image)
                fetched = replace(fetched, comment=waiting.comment)
                self._show(document, fetched, info.threshold, reason, follows=waiting.id)
            elif stored:
                self.open(image_id, reason=reason)
            elif fetched.label is not None:
                document = self._label_files.read(fetched.label, row.image)
                self._show(document, fetched, info.threshold, reason)
            else:
                assert fetched.document is not None
                self._show(
                    fetched.document, fetched, info.threshold, reason, veiled=self.look_first
                )
                self.worklist.mark_read(image_id, fetched.document.verdict.malignancy)

        def done(fetched: Fetched) -> None:
            self.opening.emit(None)
            try:
                show(fetched)
            except InvalidFindings as error:
                self._failed(error)

        self.opening.emit(image_id)
        name = _("Opening {title}").format(title=row.title)
        self.jobs.start(work, done, self._opening_failed, name=name, key=OPENING)

    def open_next(self, strategy: str) -> None:
        """Opens what the server's strategy says is next, which is none that is in hand here."""
        client = self.connection.client
        if client is None:
            self.said.emit(_("Connect to a server first."))
            return
        after = self.case.image.id if self.case is not None else None
        in_hand = self.sending.images.union(() if after is None else [after])

        def work(job: Job) -> dict[str, Any] | None:
            return client.next_image(strategy, after=after, without=in_hand, stop=job)

        def done(found: dict[str, Any] | None) -> None:
            if found is None:
                nothing = _("Nothing is left: every image is labelled or with another reader.")
                self.said.emit(nothing)
            else:
                self.open(found["id"], reason=str(found.get("reason") or ""))

        self.jobs.start(work, done, self._failed, name=_("Asking what is next"), key=NEXT)

    def ask_model(self, finding_id: str) -> None:
        """Asks the model for a mask and a score of the finding's box; applied when they come.

        Not before the reader's own look is over.
        """
        if self.case is not None and not self.case.veiled:
            self.asking.ask(self.case, finding_id, self._token, self._failed)

    def unveil(self) -> None:
        """Shows what the model proposes, and asks it about what the reader drew without it."""
        case = self.case
        if case is not None and case.veiled:
            case.unveil()
            for finding in case.shown:
                if finding.status == "added" and finding.malignancy is None:
                    self.ask_model(finding.id)

    @property
    def is_handed_in(self) -> bool:
        """Whether the open case's label, as it is now, has arrived or lies in the outbox."""
        case = self.case
        if case is None or case.dirty or case.undecided():
            return False
        if case.follows is None:
            return case.was_submitted
        waiting = self.sending.latest(case.image.id)  # None after a person threw it away
        return waiting is not None and waiting.id == case.follows

    def submit(self) -> bool:
        """Puts the open case into the outbox and sends it; ask about `case.undecided()` before.

        False where this computer's disk refuses; then the case stays as it is.
        """
        case = self.case
        if case is None or self.drafts is None:
            return False
        state = case.state
        try:
            parcel = self.sending.put(case, lambda file: self._label_files.write(case.label, file))
        except OSError as error:
            self.said.emit(str(failures.of_disk(error)))
            return False
        case.follows = parcel.id
        case.mark_submitted(state)
        return True

    def close_case(self) -> None:
        """Closes the open case; its draft stays if it is dirty."""
        if self.case is not None:
            self.case_closes.emit()
            self.case.changed.disconnect(self._keep)
            self._set_case(None)

    def close(self) -> None:
        """The panel goes: drafts are on disk, jobs are cancelled, temporary images deleted."""
        self.connection.close()
        self.jobs.close()
        self.images.close()

    # Inside

    def _open_draft(self, draft: Draft, fetched: Fetched, threshold: float) -> None:
        self._show(
            draft.opened, replace(fetched, comment=draft.comment), threshold, draft.reason,
            based_on=draft.based_on, follows=draft.follows, veiled=draft.veiled,
        )
        assert self.case is not None
        self.case.restore(draft.state)
        self.said.emit(_("Your unfinished edits of this image are back."))

    def _show(
        self, document: Findings, fetched: Fetched, threshold: float, reason: str,
        *, based_on: int | None = None, follows: str | None = None, veiled: bool = False,
    ) -> None:
        self.close_case()
        case = Case(
            document,
            fetched.image_file,
            based_on=fetched.version if based_on is None else based_on,
            threshold=threshold,
            reason=reason,
            labelled_by=fetched.annotator,
            comment=fetched.comment,
            follows=follows,
            veiled=veiled,
        )
        case.changed.connect(self._keep)
        self._set_case(case)

    def _set_case(self, case: Case | None) -> None:
        self.case = case
        self.images.forget_old()
        self._opened_cases += 1
        self._token = None if case is None else f"{self._opened_cases} {case.image.id}"
        self.jobs.open_case(self._token)
        self.worklist.set_current(None if case is None else case.image.id)
        self.case_changed.emit()

    def _keep(self) -> None:
        if self.case is not None and self.drafts is not None:
            try:
                self.drafts.keep(self.case)
            except OSError as error:
                self.said.emit(str(failures.of_disk(error)))

    def _note_unsent(self) -> None:
        if self.drafts is not None:
            self.worklist.set_unsent(self.drafts.images(), self.sending.images)

    def _on_established(self) -> None:
        self.refresh()
        self.sending.send()

    def _on_connection(self) -> None:
        info = self.connection.info
        if info is not None and info.counts != self._counts:
            known, self._counts = self._counts, info.counts
            if known is not None:  # somebody labelled or added an image
                self.refresh()

    def _on_arrived(self, parcel_id: str, image_id: str, version: int) -> None:
        case = self.case
        if case is not None and case.image.id == image_id and case.follows == parcel_id:
            case.based_on, case.follows = version, None
        if self.drafts is not None:
            try:
                self.drafts.arrived(image_id, parcel_id, version)
            except OSError as error:
                self.said.emit(str(failures.of_disk(error)))
        self.refresh()

    def _opening_failed(self, error: Exception) -> None:
        self.opening.emit(None)
        self._failed(error)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, (Failure, InvalidFindings)):
            self.said.emit(str(error))
        else:
            raise error
        if isinstance(error, Failure) and error.kind in failures.WAY:
            self.connection.check()
