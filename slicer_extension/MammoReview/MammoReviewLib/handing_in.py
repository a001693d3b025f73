"""How a reader is done with a case: hands it in, goes on, leaves it; open ends are asked about."""

from __future__ import annotations

from typing import Callable

from .case import Case
from .i18n import _
from .ports import Ask
from .session import Session
from .signal import Signal


class HandingIn:
    """`next_wanted()`: the label is handed in, and the reader wants the next case."""

    def __init__(self, session: Session, take_up: Callable[[], None], ask: Ask) -> None:
        """`take_up()` makes steps of the case of what is being typed or drawn."""
        self.next_wanted = Signal()
        self._session, self._take_up, self._ask = session, take_up, ask

    def submit(self) -> bool:
        """Sends the label; asks once about findings that nobody decided. False: not sent."""
        self._take_up()
        session, case = self._session, self._session.case
        if case is None:
            return False
        if session.is_handed_in:
            session.said.emit(_("This label has been submitted, and nothing changed since."))
            return False
        if case.veiled:
            session.unveil()
            if case.undecided():
                words = _("The model proposes {n} more. Look at them, then submit.")
                session.said.emit(words.format(n=len(case.undecided())))
                return False
        if session.asking.is_under_way(case):
            words = _("The model is still answering about a box: submit when it has, or cancel.")
            session.said.emit(words)
            return False
        return self._decide_open_ones(case) and session.submit()

    def submit_and_go_on(self) -> None:
        """Sends the label, unless it has been sent, and asks for the next case."""
        self._take_up()
        if self._session.is_handed_in or self.submit():
            self.next_wanted.emit()

    def may_leave(self) -> bool:
        """Asks about unsaved edits; False: the reader stays with this case."""
        self._take_up()
        case = self._session.case
        if case is None or not case.dirty:
            return True
        answers = [_("Submit"), _("Keep as draft"), _("Discard"), _("Stay")]
        answer = self._ask(_("This case has edits that are not submitted."), answers)
        if self._has_gone(case):
            return False
        if answer == 0:
            return self.submit()
        if answer == len(answers) - 2 and self._session.drafts is not None:
            self._session.drafts.forget(case.image.id)
        return answer != len(answers) - 1

    def _decide_open_ones(self, case: Case) -> bool:
        open_ones = case.undecided()
        if not open_ones:
            return True
        text = _("{n} findings are neither accepted nor rejected.").format(n=len(open_ones))
        answers = [_("Accept all"), _("Reject all"), _("Go back")]
        answer = self._ask(text, answers)
        if self._has_gone(case):
            return False
        if answer == len(answers) - 1:
            case.select(open_ones[0].id)
            return False
        (case.accept_all if answer == 0 else case.reject_all)()
        return True

    def _has_gone(self, case: Case) -> bool:
        """Whether another case came while a question about this one stood; then it is said."""
        gone = self._session.case is not case
        if gone:
            words = _("Another case has opened meanwhile. Nothing was sent; edits are drafts.")
            self._session.said.emit(words)
        return gone
