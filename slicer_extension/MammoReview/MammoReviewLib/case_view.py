"""The open case in the panel: verdict, table of findings, threshold, what is said of them.

It shows what `Case` says and nothing else; what a person does with it is in `case_actions`.
"""

from __future__ import annotations

from typing import Any

import qt

from . import case_words
from .case import Case
from .findings import Finding
from .i18n import _
from .look import as_text, headline_size, row_height, table_height
from .scene import Scene
from .session import Session

SLIDER_STEPS = 1000
ROWS = 5  # of the table of findings; more are scrolled to
HEADLINE = "font-size: {size}; font-weight: bold; {colour}"
BAR = (
    "QProgressBar {{ border: 1px solid palette(mid); border-radius: 3px; }}"
    "QProgressBar::chunk {{ background-color: {colour}; border-radius: 2px; }}"
)


class CaseView:
    """Draws the session's case into the panel (`ui`) and the slice view (`scene`)."""

    def __init__(self, ui: Any, session: Session, scene: Scene) -> None:
        self._ui, self._session, self._scene = ui, session, scene
        self._case: Case | None = None
        self._rows: tuple[Finding, ...] = ()
        self._texts: dict[tuple[int, int], tuple[str, str]] = {}
        self._quiet = False
        header = ui.findingsTable.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setStretchLastSection(True)
        ui.findingsTable.verticalHeader().setVisible(False)
        ui.findingsTable.verticalHeader().setDefaultSectionSize(row_height())
        # Always that high: the buttons below stay where they are when findings come and go.
        ui.findingsTable.setFixedHeight(table_height(ROWS))
        ui.findingsTable.currentCellChanged.connect(lambda row, *_: self._select_row(row))
        ui.thresholdSlider.valueChanged.connect(self._slide)
        session.case_changed.connect(self._open)
        session.connection.changed.connect(self._show_figures)
        self._open()

    @property
    def rows(self) -> tuple[Finding, ...]:
        """The findings as they are numbered in table and image."""
        return self._rows

    def show(self) -> None:
        """Draws everything that changed."""
        case = self._case
        self._rows = () if case is None else case.shown
        if case is not None:
            self._scene.show(self._rows, case.selected)
        self._ui.thresholdRow.setEnabled(case is not None and not case.veiled)
        self._fill_table()
        self._show_verdict()
        self._show_figures()

    def _open(self) -> None:
        if self._case is not None:
            self._case.changed.disconnect(self.show)
            self._case.selected_changed.disconnect(self._show_selection)
        self._case = case = self._session.case
        if case is not None:
            self._quiet = True
            self._ui.thresholdSlider.setValue(round(case.threshold * SLIDER_STEPS))
            self._quiet = False
            case.changed.connect(self.show)
            case.selected_changed.connect(self._show_selection)
        self._ui.findingsTable.setEnabled(case is not None)
        self.show()

    def _show_selection(self, finding_id: str | None) -> None:
        assert self._case is not None
        self._scene.show(self._rows, finding_id)
        if finding_id is not None:
            self._scene.go_to(finding_id)
        self._mark_row()

    def _mark_row(self) -> None:
        selected = None if self._case is None else self._case.selected
        numbers = [n for n, finding in enumerate(self._rows) if finding.id == selected]
        self._quiet = True
        if numbers:
            self._ui.findingsTable.setCurrentCell(numbers[0], 1)
        else:
            self._ui.findingsTable.setCurrentCell(-1, -1)
            self._ui.findingsTable.clearSelection()
        self._quiet = False

    def _select_row(self, row: int) -> None:
        if not self._quiet and self._case is not None and 0 <= row < len(self._rows):
            self._case.select(self._rows[row].id)

    def _slide(self, value: int) -> None:
        if not self._quiet and self._case is not None:
            self._case.set_threshold(value / SLIDER_STEPS)

    def _fill_table(self) -> None:
        table, case = self._ui.findingsTable, self._case
        self._quiet = True
        count = len(self._rows)
        table.setRowCount(count)
        self._texts = {place: text for place, text in self._texts.items() if place[0] < count}
        for row, finding in enumerate(self._rows):
            assert case is not None
            colour = case_words.COLOURS[finding.label]
            if not finding.stands:
                colour = case_words.REJECTED_COLOUR
            for column, text in enumerate(case_words.cells(row + 1, finding, case.image)):
                self._set_cell(row, column, text, as_text(colour) if column in (0, 1) else "")
        self._quiet = False
        self._mark_row()

    def _set_cell(self, row: int, column: int, text: str, colour: str) -> None:
        if self._texts.get((row, column)) == (text, colour):
            return
        item = qt.QTableWidgetItem(text)
        if colour:
            item.setForeground(qt.QBrush(qt.QColor(colour)))
        if column in (2, 3):
            item.setTextAlignment(int(qt.Qt.AlignRight) | int(qt.Qt.AlignVCenter))
        self._ui.findingsTable.setItem(row, column, item)
        self._texts[row, column] = text, colour

    def _show_verdict(self) -> None:
        ui, case = self._ui, self._case
        looks_alone = case is not None and case.veiled and not self._rows
        if case is None or (looks_alone and not case.state.cleared):
            words = _("No case is open") if case is None else case_words.veiled_line(case.image)
            ui.verdictLabel.setText(words)
            ui.verdictLabel.setToolTip("" if case is None else _("H shows what the model found"))
            ui.verdictLabel.setStyleSheet(HEADLINE.format(size=headline_size(), colour=""))
            ui.verdictBar.setValue(0)
            return
        verdict = case.verdict
        colour = case_words.verdict_colour(verdict, self._rows)
        line = case_words.verdict_line(verdict, case.image, self._rows)
        ui.verdictLabel.setText(line)
        ui.verdictLabel.setToolTip(_("How: {how}").format(how=verdict.how))
        words = f"color: {as_text(colour)};"
        ui.verdictLabel.setStyleSheet(HEADLINE.format(size=headline_size(), colour=words))
        ui.verdictBar.setValue(round(100 * verdict.malignancy))
        ui.verdictBar.setStyleSheet(BAR.format(colour=colour))

    def _show_figures(self) -> None:
        ui, case, info = self._ui, self._case, self._session.connection.info
        ui.meaningLabel.setText("")
        ui.thresholdLabel.setText("")
        ui.fpiLabel.setText("")
        if case is None:
            return
        model = case.document.model
        # Figures are of the model in service; another may have read the case.
        same = info is not None and case.is_read_by({"version": info.model_version})
        means = info.malignant_means if info is not None and same else ""
        both = case.opened.verdict.of_both_views
        ui.meaningLabel.setText(case_words.about_line(case.image, means, model, both))
        ui.meaningLabel.setToolTip(_("Both views of the breast speak for a mass") if both else "")
        if info is not None:
            ui.thresholdLabel.setText(f"{case.threshold:.2f}")
            known = info.false_positives(case.threshold) if same else None
            ui.fpiLabel.setText(case_words.false_positives_line(known))
