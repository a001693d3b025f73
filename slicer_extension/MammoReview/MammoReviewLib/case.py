"""One open mammogram: its findings as they stand now, and every way to correct them.

Each correction is one step that can be undone. Nothing here waits or talks to a server.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from .findings import BIRADS, Finding, Findings, Verdict, verdict_of, with_mask
from .geometry import clip_box, overlap
from .history import History
from .i18n import _
from .masks import Box, Mask, box_of, cut_to
from .signal import Signal

ONE_MASS = 0.2  # boxes that overlap more are one mass, to the model too


@dataclass(frozen=True)
class State:
    """What an undo brings back."""

    findings: tuple[Finding, ...]
    comment: str = ""
    cleared: bool = False  # a person said that there is no mass


class Case:
    """The open case.

    `changed`: findings, threshold, comment, history or dirtiness are not what they were.
    `selected_changed(id or None)`: another finding is selected. `unveiled()`: see `unveil`.
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
        follows: str | None = None,
        comment: str = "",
        veiled: bool = False,
    ) -> None:
        """`document` and `comment` are as the server has them; see `restore` for a draft."""
        self.changed = Signal()
        self.selected_changed = Signal()
        self.unveiled = Signal()
        self.image = document.image
        self.image_file = image_file  # the mammogram's file on this computer
        self.based_on = based_on  # the label's version that this began from; 0: none
        self.reason = reason  # why this case comes next
        self.labelled_by = labelled_by
        self.follows = follows  # the submission in the outbox that this began from
        self.threshold = threshold  # of the score (1 − background); see `set_threshold`
        self.was_submitted = False  # at least once since it was opened
        self.veiled = veiled  # a reader's own look comes first: proposals are not shown yet
        self.selected: str | None = None
        self.opened, self.opened_comment = document, comment  # before any edit
        self._history = History(State(document.findings, comment))
        self._clean = self._history.present
        self._class_chosen: set[str] = set()  # added findings whose class a person chose

    # What there is

    @property
    def document(self) -> Findings:
        """All findings as they stand, also those below the threshold, with `verdict`."""
        return replace(self.opened, findings=self._now.findings, verdict=self.verdict)

    @property
    def label(self) -> Findings:
        """What is submitted: what is shown. A proposal that nobody was shown is no label."""
        return replace(self.opened, findings=self.shown, verdict=self.verdict)

    @property
    def verdict(self) -> Verdict:
        """The server's until the first edit, then the worst of what is shown and stands."""
        if self._now.findings == self.opened.findings and not self.veiled:
            return self.opened.verdict
        return verdict_of(self.shown)

    @property
    def shown(self) -> tuple[Finding, ...]:
        """Those to be seen: proposals from `threshold` on, and all that a person touched."""
        least = float("inf") if self.veiled else self.threshold
        return tuple(
            finding
            for finding in self._now.findings
            if finding.status != "proposed" or finding.score >= least
        )

    @property
    def comment(self) -> str:
        """A comment on the image as a whole; it goes with the submission."""
        return self._now.comment

    @property
    def dirty(self) -> bool:
        """Edited since it was opened or submitted."""
        return self._now != self._clean

    def find(self, finding_id: str) -> Finding:
        """The finding of that id as it stands; KeyError without one."""
        for finding in self._now.findings:
            if finding.id == finding_id:
                return finding
        raise KeyError(finding_id)

    def undecided(self) -> tuple[Finding, ...]:
        """Shown proposals that nobody accepted or rejected yet."""
        return tuple(finding for finding in self.shown if finding.status == "proposed")

    def set_threshold(self, threshold: float) -> None:
        """Shows proposals from this score on; no step of the history."""
        self.threshold = threshold
        self._tell()

    def unveil(self) -> None:
        """The reader has had a look of their own: what the model proposes is shown.

        But not on a mass that the reader drew: it would stand in the label twice.
        """
        self.veiled = False
        own = [f.bbox for f in self._now.findings if f.status == "added"]
        twice = [
            f.id for f in self._now.findings
            if f.status == "proposed" and any(overlap(f.bbox, box) > ONE_MASS for box in own)
        ]
        self._history.amend(self._with((), without=twice))
        self._tell()
        self.unveiled.emit()

    def select(self, finding_id: str | None) -> None:
        """Selects a finding, or none."""
        if finding_id != self.selected:
            self.selected = finding_id
            self.selected_changed.emit(finding_id)

    # Corrections: each one step

    def accept(self, finding_id: str) -> None:
        """It is a mass, as shown."""
        self._step(_("accept {id}").format(id=finding_id), self._accepted([finding_id]))

    def reject(self, finding_id: str) -> None:
        """It is none. A finding that a person added goes away altogether."""
        self._step(_("reject {id}").format(id=finding_id), self._rejected([finding_id]))

    def accept_all(self) -> None:
        """Accepts what `undecided` lists."""
        self._step(_("accept all"), self._accepted(f.id for f in self.undecided()))

    def reject_all(self) -> None:
        """Rejects what `undecided` lists."""
        self._step(_("reject all"), self._rejected(f.id for f in self.undecided()))

    def no_mass(self) -> None:
        """No mass here: proposals are rejected, a person's own findings go."""
        state = replace(self._rejected(f.id for f in self.shown), cleared=True)
        self._step(_("no mass here"), state)

    def set_label(self, finding_id: str, label: str) -> None:
        """benign or malignant; the finding is then "edited" (an added one stays "added")."""
        self._class_chosen.add(finding_id)
        finding = self.find(finding_id)
        if finding.label != label:  # an assessment said the other one
            self._change(_("class of {id}"), replace(finding, label=label, birads=None))

    def set_birads(self, finding_id: str, birads: str | None) -> None:
        """An assessment, which says the class too; None takes it back and leaves the class."""
        self._class_chosen.add(finding_id)
        finding = self.find(finding_id)
        if finding.birads != birads:
            label = finding.label if birads is None else BIRADS[birads]
            self._change(_("BI-RADS of {id}"), replace(finding, birads=birads, label=label))

    def set_box(self, finding_id: str, box: Box) -> None:
        """The box was dragged: cut to the image; below one pixel of it, nothing happens.

        A mask that the model drew for the old box goes; one that a person drew is cut to it.
        """
        finding, clipped = self.find(finding_id), self._clipped(box)
        if clipped is None or clipped == finding.bbox:
            return
        if finding.mask_source == "annotated":
            cut = cut_to(finding.mask(), clipped)
            finding = with_mask(finding, cut, "annotated", self.image)
        else:
            finding = with_mask(finding, None, "none", self.image)
        self._change(_("box of {id}"), replace(finding, bbox=clipped))

    def add_box(self, box: Box, label: str = "malignant") -> str | None:
        """A person's new finding; returns its id and selects it. None outside the image."""
        clipped = self._clipped(box)
        if clipped is None:
            return None
        known, number = {finding.id for finding in self._now.findings}, 1
        while f"A{number}" in known:
            number += 1
        finding = Finding(f"A{number}", label, clipped, "annotator", "added")
        state = replace(self._now, findings=(*self._now.findings, finding), cleared=False)
        self._step(_("add {id}").format(id=finding.id), state)
        if self.veiled:  # what the model thinks of it later must not change the reader's word
            self._class_chosen.add(finding.id)
        self.select(finding.id)
        return finding.id

    def set_mask(self, finding_id: str, mask: Mask | None) -> None:
        """The mask as the editor left it; the box moves with it. Unchanged: no step.

        An empty mask leaves the box alone.
        """
        finding = self.find(finding_id)
        changed = with_mask(finding, mask, "annotated", self.image)
        if changed.segmentation == finding.segmentation:
            return
        box = None if mask is None else box_of(mask)
        self._change(_("mask of {id}"), replace(changed, bbox=box or finding.bbox))

    def set_comment(self, text: str, finding_id: str | None = None) -> None:
        """A comment on a finding, or on the image."""
        if finding_id is None:
            self._step(_("comment"), replace(self._now, comment=text))
        else:
            finding = replace(self.find(finding_id), comment=text)
            self._step(_("comment on {id}").format(id=finding_id), self._with([finding]))

    def is_read_by(self, model: dict[str, str] | None) -> bool:
        """Whether that model read this case, as far as either is told."""
        mine = self.document.model
        return mine is None or model is None or mine["version"] == model["version"]

    def apply_answer(
        self, finding_id: str, asked: Box, answer: Finding, *, scored: bool = True
    ) -> bool:
        """What the model said about the box `asked`: scores, and a mask unless a person drew one.

        Not `scored`: the mask alone; scores of two models do not go into one label. It belongs to
        the step that asked. False where it comes too late: the finding has gone or its box is
        another by now.
        """
        finding = next((f for f in self._now.findings if f.id == finding_id), None)
        if finding is None or finding.bbox != asked:
            return False
        if scored:
            finding = replace(finding, scores=answer.scores, malignancy=answer.malignancy)
        if finding.mask_source != "annotated":
            finding = with_mask(finding, answer.mask(), "model", self.image)
        chosen = finding_id in self._class_chosen or finding.birads is not None
        if scored and finding.status == "added" and not chosen:
            finding = replace(finding, label=answer.label)
        self._history.amend(self._with([finding]))
        self._tell()
        return True

    # The past

    @property
    def undo_name(self) -> str:
        """The step that undo takes back, for a tooltip; empty: there is none."""
        return self._history.undo_name

    @property
    def redo_name(self) -> str:
        """The step that redo does again; empty: there is none."""
        return self._history.redo_name

    def undo(self) -> None:
        """Takes the last step back."""
        self._history.undo()
        self._tell()

    def redo(self) -> None:
        """Does it again."""
        self._history.redo()
        self._tell()

    def restore(self, state: State) -> None:
        """Goes on from a draft: one step, so that undo shows the case as the server has it."""
        self._class_chosen.update(f.id for f in state.findings if f.status == "added")
        self._step(_("restored edits"), state)

    @property
    def state(self) -> State:
        """What a draft keeps."""
        return self._now

    def mark_submitted(self, state: State) -> None:
        """`state` was handed in; the case is dirty only if it has changed since."""
        self._clean, self.was_submitted = state, True
        self._tell()

    # Inside

    @property
    def _now(self) -> State:
        state: State = self._history.present
        return state

    def _clipped(self, box: Box) -> Box | None:
        return clip_box(box, self.image.width, self.image.height)

    def _with(self, changed: Iterable[Finding], without: Iterable[str] = ()) -> State:
        news, gone = {f.id: f for f in changed}, set(without)
        kept = (news.get(f.id, f) for f in self._now.findings if f.id not in gone)
        return replace(self._now, findings=tuple(kept))

    def _accepted(self, ids: Iterable[str]) -> State:
        findings = [self.find(finding_id) for finding_id in ids]
        open_ones = (f for f in findings if f.status in ("proposed", "rejected"))
        state = self._with(replace(f, status=self._status_kept(f)) for f in open_ones)
        return replace(state, cleared=False)

    def _rejected(self, ids: Iterable[str]) -> State:
        findings = [self.find(finding_id) for finding_id in ids]
        own = [f.id for f in findings if f.source == "annotator"]
        return self._with((replace(f, status="rejected") for f in findings), without=own)

    def _status_kept(self, finding: Finding) -> str:
        """ "accepted", or "edited" for one that was edited before it was rejected."""
        opened = {f.id: f for f in self.opened.findings}.get(finding.id, finding)
        edits = [(f.bbox, f.segmentation, f.label, f.birads) for f in (finding, opened)]
        return "accepted" if edits[0] == edits[1] else "edited"

    def _change(self, name: str, finding: Finding) -> None:
        status = "added" if finding.status == "added" else "edited"
        state = replace(self._with([replace(finding, status=status)]), cleared=False)
        self._step(name.format(id=finding.id), state)

    def _step(self, name: str, state: State) -> None:
        if state != self._now:
            self._history.step(state, name)
            self._tell()

    def _tell(self) -> None:
        if self.selected not in {finding.id for finding in self._now.findings}:
            self.select(None)
        self.changed.emit()
