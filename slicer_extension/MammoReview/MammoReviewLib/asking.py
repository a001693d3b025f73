"""The model's word on a box that a person drew or moved: a mask and scores."""

from __future__ import annotations

from typing import Callable

from .case import Case
from .case_words import label_word
from .connection import Connection
from .findings import Findings
from .i18n import _
from .jobs import Job, Jobs


class Asking:
    """Asks, and gives the case the answer when it comes.

    No step of the history: an answer belongs to the drag or the new box that asked.
    """

    def __init__(self, jobs: Jobs, connection: Connection, say: Callable[[str], None]) -> None:
        self._jobs, self._connection, self._say = jobs, connection, say

    def ask(
        self, case: Case, finding_id: str, token: str | None, failed: Callable[[Exception], None]
    ) -> None:
        """Asks about a finding's box; `token` is the open case's, as `Jobs.start` knows cases."""
        client = self._connection.client
        if client is None:
            return
        box, key = case.find(finding_id).bbox, _key(finding_id)

        def work(job: Job) -> Findings:
            document = client.infer(case.image.id, boxes=[list(box)], stop=job)
            return Findings.from_json(document)

        def done(answer: Findings) -> None:
            same = case.is_read_by(answer.model)
            before = {finding.id: finding.label for finding in case.document.findings}
            if case.apply_answer(finding_id, box, answer.findings[0], scored=same):
                self._say(_answered(case, finding_id, before[finding_id], same))

        self._jobs.cancel(key)
        name = _("Asking the model about finding {n}").format(n=_number(case, finding_id))
        self._jobs.start(work, done, failed, name=name, key=key, case=token)

    def is_under_way(self, case: Case) -> bool:
        """Whether an answer that belongs into the case's label has not come yet."""
        return any(self._jobs.is_running(_key(finding.id)) for finding in case.shown)


def _key(finding_id: str) -> str:
    return f"box {finding_id}"


def _answered(case: Case, finding_id: str, before: str, same_model: bool) -> str:
    number, finding = _number(case, finding_id), case.find(finding_id)
    if not same_model:
        return _("Another model is in service by now: its mask, no scores.")
    if finding.label != before:  # it changes under the reader's eyes, and becomes a label
        words = _("The model takes finding {n} for {label}. C changes its class.")
        return words.format(n=number, label=label_word(finding.label))
    return _("The model has answered about finding {n}.").format(n=number)


def _number(case: Case, finding_id: str) -> str:
    """As table and image number it; its id where the slider hides it."""
    shown = [finding.id for finding in case.shown]
    return str(1 + shown.index(finding_id)) if finding_id in shown else finding_id
