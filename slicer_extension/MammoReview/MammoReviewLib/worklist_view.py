"""The work list: what comes next and why, every image with its state, the examination's films."""

from __future__ import annotations

from typing import Callable

import qt

from .i18n import _
from .keys import Keys
from .look import row_height, table_height
from .ports import Settings
from .reading_ahead import Batch
from .session import Session
from .training_words import duration, local_time
from .worklist import UNSENT, Row

LOOK_FIRST = "MammoReview/look_first"
MALIGNANCY = 3  # the column of the model's word
ROWS = 5  # of the list, at the least


def states() -> dict[str, str]:
    """The states of an image, in words."""
    return {
        "new": _("new"),
        "read": _("read by the model"),
        "held": _("with another reader"),
        "labelled": _("labelled"),
    }


def _filters() -> dict[str, str]:
    return {**states(), UNSENT: _("not submitted or sent")}


class WorklistView:
    """Next, list, filter, back and forth, other views. `widget` is to be laid out, `keys` listen.

    `may_leave()` asks about unsaved edits before another case is opened; False keeps this one.
    """

    def __init__(
        self, session: Session, may_leave: Callable[[], bool], settings: Settings
    ) -> None:
        self._session, self._may_leave, self._settings = session, may_leave, settings
        self._shown: tuple[Row, ...] = ()
        self._looks: list[tuple[bool, tuple[str, ...]]] = []  # of each: whether it is open, words
        self._scrolled_to: str | None = None
        self._strategies: list[str] = []
        self._strategy = "first"
        self.widget = qt.QWidget()
        rows = qt.QVBoxLayout(self.widget)
        rows.setContentsMargins(0, 0, 0, 0)

        line = qt.QHBoxLayout()
        self.next_button = self._button(_("Next case"), self.open_next, line)
        self.strategy = qt.QComboBox()
        self.strategy.setToolTip(_("How the server chooses the next case"))
        self.strategy.currentTextChanged.connect(self._set_strategy)
        line.addWidget(self.strategy)
        self.back_button = self._button("◀", lambda: self._step(-1), line)
        self.forth_button = self._button("▶", lambda: self._step(1), line)
        rows.addLayout(line)
        buttons = [
            (self.next_button, "Ctrl+N", _("Opens what the chosen strategy says is next")),
            (self.back_button, "Ctrl+PgUp", _("The case before this one in the list")),
            (self.forth_button, "Ctrl+PgDown", _("The case after this one in the list")),
        ]
        for button, key, tip in buttons:
            button.setToolTip(f"{tip} ({key})")
        # A shortcut of a button's own is dead while the list is folded.
        self.keys = Keys(
            [(key, lambda b=button: b.click()) for button, key, _tip in buttons],
            [(key, tip) for _button, key, tip in buttons],
        )

        self.reason = qt.QLabel()
        self.reason.setWordWrap(True)
        rows.addWidget(self.reason)
        self.views = qt.QWidget()
        self._views = qt.QHBoxLayout(self.views)
        self._views.setContentsMargins(0, 0, 0, 0)
        rows.addWidget(self.views)

        line = qt.QHBoxLayout()
        self.state = qt.QComboBox()
        self.state.addItem(_("all images"))
        for text in _filters().values():
            self.state.addItem(text)
        self.state.currentTextChanged.connect(self._set_state)
        line.addWidget(self.state)
        self.text = qt.QLineEdit()
        self.text.setPlaceholderText(_("patient, view, reader, id"))
        self.text.textChanged.connect(lambda text: session.worklist.set_filter(text=text))
        line.addWidget(self.text)
        rows.addLayout(line)

        self.table = qt.QTableWidget()
        titles = [_("View"), _("Patient"), _("State"), _("Malignancy"), _("Reader"), _("When")]
        titles.append(_("Image"))
        self.table.setColumnCount(len(titles))
        self.table.setHorizontalHeaderLabels(titles)
        self.table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        tip = _("The model's word on the image, 0 to 100; a reader's is in the label")
        self.table.horizontalHeaderItem(MALIGNANCY).setToolTip(tip)
        # The marked row is the open case, always: a click alone must not mark another.
        self.table.setSelectionMode(qt.QAbstractItemView.NoSelection)
        self.table.setToolTip(_("Double-click a case to open it"))
        # As high as there is room, but Qt's own wish of 192 pixels would push buttons out of sight.
        self.table.setSizeAdjustPolicy(qt.QAbstractScrollArea.AdjustToContentsOnFirstShow)
        self.table.setMinimumHeight(table_height(ROWS))
        self.table.setWordWrap(False)
        self.table.horizontalHeader().setStretchLastSection(True)
        self.table.verticalHeader().setVisible(False)
        self.table.verticalHeader().setDefaultSectionSize(row_height())
        self.table.cellDoubleClicked.connect(lambda row, column: self.open(self._shown[row].id))
        rows.addWidget(self.table)
        self.summary = qt.QLabel()
        self.summary.setWordWrap(True)
        rows.addWidget(self.summary)

        self.ahead = qt.QWidget()
        line = qt.QHBoxLayout(self.ahead)
        line.setContentsMargins(0, 0, 0, 0)
        self.ahead_button = self._button("", self._read_ahead, line)
        tip = _("Lets the model read the unlabelled images: they open at once")
        self.ahead_button.setToolTip(tip)
        self.ahead_bar = qt.QProgressBar()
        line.addWidget(self.ahead_bar)
        self.ahead_words = qt.QLabel()
        self.ahead_words.setWordWrap(True)
        line.addWidget(self.ahead_words)
        rows.addWidget(self.ahead)

        self.look_first = qt.QCheckBox(_("My own look first"))
        tip = _("Cases open without what the model found; H shows it, and so does submitting")
        self.look_first.setToolTip(tip)
        self.look_first.toggled.connect(self._set_look_first)
        rows.addWidget(self.look_first)
        self.look_first.setChecked(settings.value(LOOK_FIRST, "") == "yes")

        session.worklist.changed.connect(self._show_list)
        session.connection.changed.connect(self._show_strategies)
        session.connection.changed.connect(self._show_ahead)
        session.ahead.changed.connect(self._show_ahead)
        session.case_changed.connect(self._show_case)
        self._show_list()
        self._show_ahead()
        self._show_strategies()
        self._show_case()

    def open(self, image_id: str) -> None:
        """Opens a case, unless the reader stays with this one."""
        if image_id != self._session.worklist.current and self._may_leave():
            self._session.open(image_id)

    def open_next(self) -> None:
        """Opens what the chosen strategy says is next, unless the reader stays with this one."""
        if self._may_leave():
            self._session.open_next(self._strategy)

    def _set_look_first(self, on: bool) -> None:
        self._session.look_first = on
        self._settings.setValue(LOOK_FIRST, "yes" if on else "")
        self.table.setColumnHidden(MALIGNANCY, on)  # it would tell what the case is not to tell

    def _read_ahead(self) -> None:
        ahead = self._session.ahead
        (ahead.stop if ahead.batch.runs else ahead.start)()

    def _step(self, step: int) -> None:
        row = self._session.worklist.beside(step)
        if row is not None:
            self.open(row.id)

    def _button(self, text: str, action: Callable[[], None], layout: qt.QLayout) -> qt.QPushButton:
        button = qt.QPushButton(text)
        button.clicked.connect(lambda *_: action())
        layout.addWidget(button)
        return button

    def _set_strategy(self, text: str) -> None:
        if text in self._strategies:
            self._strategy = text

    def _set_state(self, text: str) -> None:
        names = {words: name for name, words in _filters().items()}
        self._session.worklist.set_filter(state=names.get(text, ""))

    def _show_strategies(self) -> None:
        info = self._session.connection.info
        strategies = {} if info is None else info.strategies
        self.next_button.setEnabled(bool(strategies))
        if list(strategies) == self._strategies:
            return
        chosen = self._strategy
        self._strategies = list(strategies)
        self.strategy.clear()
        for place, (name, description) in enumerate(strategies.items()):
            self.strategy.addItem(name)
            self.strategy.setItemData(place, description, qt.Qt.ToolTipRole)
        if chosen in strategies:
            self.strategy.setCurrentIndex(self._strategies.index(chosen))
            self._strategy = chosen

    def _show_list(self) -> None:
        worklist = self._session.worklist
        self._shown = shown = worklist.shown
        looks = [(row.id == worklist.current, self._cells(row)) for row in shown]
        if looks != self._looks:
            before = [*self._looks[: len(looks)], *[None] * (len(looks) - len(self._looks))]
            self._looks = looks
            self.table.setRowCount(len(looks))
            for number, (old, look) in enumerate(zip(before, looks)):
                if look != old:
                    self._fill_row(number, *look)
            self.table.resizeColumnsToContents()
        ids = [row.id for row in shown]
        if worklist.current in ids and worklist.current != self._scrolled_to:
            self.table.scrollToItem(self.table.item(ids.index(worklist.current), 0))
        self._scrolled_to = worklist.current
        labelled = sum(row.state == "labelled" for row in worklist.rows)
        text = _("{labelled} of {total} images are labelled; {shown} are shown.").format(
            labelled=labelled, total=len(worklist.rows), shown=len(shown)
        )
        if worklist.left_out:
            left_out = _("{count} file(s) cannot be read; see the tooltip.")
            text = f"{text} {left_out.format(count=len(worklist.left_out))}"
        lines = (f"{entry.get('file')}: {entry.get('reason')}" for entry in worklist.left_out)
        self.summary.setToolTip("\n".join(list(lines)[:30]))
        self.summary.setText(text)
        self.back_button.setEnabled(worklist.beside(-1) is not None)
        self.forth_button.setEnabled(worklist.beside(1) is not None)
        self._show_views()

    def _fill_row(self, number: int, is_open: bool, cells: tuple[str, ...]) -> None:
        palette = qt.QApplication.palette()
        for column, text in enumerate(cells):
            item = qt.QTableWidgetItem(text)
            if is_open:
                item.setBackground(palette.highlight())
                item.setForeground(palette.highlightedText())
            self.table.setItem(number, column, item)

    def _cells(self, row: Row) -> tuple[str, ...]:
        worklist, state = self._session.worklist, states().get(row.state, row.state)
        if row.state == "held" and row.held_by:
            state = _("with {reader}").format(reader=row.held_by)
        if row.id in worklist.drafts:
            state = _("{state}, draft here").format(state=state)
        elif row.id in worklist.labels:
            state = _("{state}, label not sent").format(state=state)
        malignancy = "" if row.malignancy is None else f"{100 * row.malignancy:.0f}"
        when, reader = local_time(row.time or ""), row.annotator or ""
        return row.title, row.patient, state, malignancy, reader, when, row.id

    def _show_ahead(self) -> None:
        ahead, connection = self._session.ahead, self._session.connection
        batch = ahead.batch
        self.ahead.setVisible(connection.info is not None and ahead.offered)
        self.ahead_button.setText(_("Stop reading ahead") if batch.runs else _("Read ahead"))
        self.ahead_bar.setVisible(batch.runs)
        self.ahead_bar.setRange(0, batch.total)  # without a total it moves and says no more
        self.ahead_bar.setValue(batch.done)
        self.ahead_words.setText(_ahead_words(batch))

    def _show_case(self) -> None:
        case = self._session.case
        # Reasons have the model's figures in them.
        reason = "" if case is None or self._session.look_first else case.reason
        if case is not None and case.labelled_by:
            labelled = _("Labelled by {reader}, version {version}.")
            reason = labelled.format(reader=case.labelled_by, version=case.based_on)
        self.reason.setText(reason)
        self.reason.setVisible(bool(reason))
        self._show_views()

    def _show_views(self) -> None:
        while self._views.count():
            gone = self._views.takeAt(0).widget()
            gone.hide()
            gone.deleteLater()
        views = self._session.worklist.views()
        for row in views:
            button = qt.QPushButton(f"{row.title} ✓" if row.state == "labelled" else row.title)
            button.setCheckable(True)
            button.setChecked(row.id == self._session.worklist.current)
            if row.id == self._session.worklist.current:  # a dark theme hardly shows which is down
                button.setStyleSheet("font-weight: bold;")
            button.setToolTip(states().get(row.state, row.state))
            button.clicked.connect(lambda *_, image_id=row.id: self._open_view(image_id))
            self._views.addWidget(button)
        self.views.setVisible(len(views) > 1)

    def _open_view(self, image_id: str) -> None:
        self.open(image_id)
        self._show_views()  # the button of the open case stays the one that is down


def _ahead_words(batch: Batch) -> str:
    failed = _("{count} failed").format(count=batch.failed) if batch.failed else ""
    if batch.runs:
        said = _("{done} of {total}").format(done=batch.done, total=batch.total)
        left = "" if batch.seconds_left is None else duration(batch.seconds_left)
        return ", ".join(filter(None, (said, failed, left and _("{time} left").format(time=left))))
    if batch.status == "DONE":
        said = _("{total} images were read ahead").format(total=batch.total)
        return ", ".join(filter(None, (said, failed)))
    if batch.status == "STOPPED":
        stopped = _("stopped after {done} of {total}")
        return stopped.format(done=batch.done, total=batch.total)
    return batch.reason or ""
