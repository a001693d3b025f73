"""Learning: start, stop, how far it is, what came of it, the model's versions and scores."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Callable

import qt

from . import training_words
from .i18n import _
from .ports import Ask
from .session import Session

WHOLE = 1000  # of the progress bar
BRING_BACK, SCORE = "POST /versions/{model}/{version}", "POST /scoring/{model}"


class TrainingView:
    """`widget` is to be laid out. `draw(scores, file)` draws their history (`score_plot.draw`).

    What every reader of the server would notice is asked about before it is done.
    """

    def __init__(
        self, session: Session, draw: Callable[[list[dict[str, Any]], Path], bool], ask: Ask
    ) -> None:
        self._session, self._draw, self._ask = session, draw, ask
        self._versions: list[dict[str, Any]] = []
        self._scores: list[dict[str, Any]] | None = None
        self._always = self._ran = False
        self._candidate = self._chosen = ""
        self.widget = qt.QWidget()
        rows = qt.QVBoxLayout(self.widget)
        rows.setContentsMargins(0, 0, 0, 0)

        line = qt.QHBoxLayout()
        self.start_button = self._button(_("Train"), self._start, line)
        self.start_button.setToolTip(_("Lets the model learn from all labels of this server"))
        self.stop_button = self._button(_("Stop"), self._stop, line)
        self.stop_button.setToolTip(_("The model in service stays what it is"))
        self.score_button = self._button(_("Score now"), session.learning.score, line)
        self.score_button.setToolTip(_("Scores the model in service on the labels"))
        rows.addLayout(line)
        unjudged = _("take the result into service also where nothing can judge it")
        self.always = qt.QCheckBox(unjudged)
        self.always.toggled.connect(self._set_always)
        rows.addWidget(self.always)

        self.bar = qt.QProgressBar()
        self.bar.setRange(0, WHOLE)
        rows.addWidget(self.bar)
        self.progress, self.losses, self.result = (self._label(rows) for _number in range(3))
        self.take_button = self._button(_("Take it into service"), self._take, rows)

        self.model = self._label(rows)
        self.versions = qt.QTableWidget()
        titles = [_("Version"), _("Made by"), _("When"), _("Judged"), _("In service")]
        self.versions.setColumnCount(len(titles))
        self.versions.setHorizontalHeaderLabels(titles)
        self.versions.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        self.versions.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        self.versions.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        self.versions.horizontalHeader().setStretchLastSection(True)
        self.versions.verticalHeader().setVisible(False)
        self.versions.setMinimumHeight(110)
        self.versions.setWordWrap(False)
        self.versions.currentCellChanged.connect(lambda row, *_: self._choose(row))
        rows.addWidget(self.versions)
        self.back_button = self._button(_("Bring this version back"), self._bring_back, rows)
        self.plot = qt.QLabel()
        rows.addWidget(self.plot)

        session.connection.changed.connect(self._show)
        self._show()

    def _start(self) -> None:
        unjudged = _("All readers of this server get the result, also where nothing can judge it.")
        if not self._always or self._is_sure(unjudged, _("Train")):
            self._session.learning.start({"publish": "always"} if self._always else {})

    def _stop(self) -> None:
        lost = _("What the training has learned and is not in service yet is lost.")
        if self._is_sure(lost, _("Stop the training")):
            self._session.learning.stop()

    def _take(self) -> None:
        self._put_into_service(self._candidate)

    def _bring_back(self) -> None:
        self._put_into_service(self._chosen)

    def _put_into_service(self, version: str) -> None:
        words = _("Version {version} will read for all readers of this server.")
        if self._is_sure(words.format(version=version), _("Take it into service")):
            self._session.learning.take(version)

    def _is_sure(self, text: str, yes: str) -> bool:
        return self._ask(text, [yes, _("No")]) == 0

    def _set_always(self, on: bool) -> None:
        self._always = on

    def _choose(self, row: int) -> None:
        version = self._versions[row] if 0 <= row < len(self._versions) else {}
        name, info = str(version.get("version", "")), self._session.connection.info
        refused = info is not None and name in info.refused
        self._chosen = "" if version.get("in_service") or refused else name
        self.back_button.setEnabled(bool(self._chosen))

    def _show(self) -> None:
        connection = self._session.connection
        info = connection.info
        self.widget.setEnabled(info is not None)
        if info is None:
            return
        training = info.training
        running = training.state == "running"
        self.start_button.setEnabled(not running)
        self.stop_button.setEnabled(running)
        self.score_button.setVisible(connection.offers(SCORE))
        self.bar.setVisible(running)
        share = training.share
        if running and share is None:
            self.bar.setRange(0, 0)  # moves without saying how far
        else:
            self.bar.setRange(0, WHOLE)
            self.bar.setValue(round(WHOLE * (share or 0)))
        self._say(self.progress, training_words.progress(training))
        self._say(self.losses, training_words.losses(training) if running else "")
        result = training_words.result(training)
        self._say(self.result, result)
        if self._ran and not running:  # told also where this part of the panel is folded
            self._session.said.emit(result)
        self._ran = running
        in_service = info.model_version
        waits = training.state == "done" and not training.published
        waits = waits and training.version not in (None, in_service, *info.refused)
        self._candidate = str(training.version) if waits else ""
        self.take_button.setVisible(waits and connection.offers(BRING_BACK))
        self.back_button.setVisible(connection.offers(BRING_BACK))
        means = info.malignant_means
        text = _("Version {version} is in service.").format(version=in_service)
        if means:
            text += " " + _("“Malignant” meant in its training: {means}.").format(means=means)
        self._say(self.model, text)
        self._show_versions(info.versions)
        self._show_scores(info.scores)

    def _show_versions(self, versions: list[dict[str, Any]]) -> None:
        if versions == self._versions:
            return
        self._versions = versions
        self.versions.setRowCount(len(versions))
        for number, version in enumerate(versions):
            gate = (version.get("details") or {}).get("gate") or {}
            cells = (
                str(version.get("version", "")),
                str(version.get("origin") or ""),
                training_words.local_time(str(version.get("time") or "")),
                str(version.get("verdict") or ""),
                "●" if version.get("in_service") else "",
            )
            for column, text in enumerate(cells):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(training_words.figures(gate))
                self.versions.setItem(number, column, item)
        self.versions.resizeColumnsToContents()
        self.versions.setCurrentCell(-1, -1)
        self._choose(-1)

    def _show_scores(self, scores: list[dict[str, Any]]) -> None:
        if scores == self._scores:
            return
        self._scores = scores
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "scores.png"
            drawn = self._draw(scores, file)
            if drawn:
                self.plot.setPixmap(qt.QPixmap(str(file)))
        self.plot.setVisible(drawn)

    def _say(self, label: qt.QLabel, text: str) -> None:
        label.setText(text)
        label.setVisible(bool(text))

    def _label(self, layout: qt.QLayout) -> qt.QLabel:
        label = qt.QLabel()
        label.setWordWrap(True)
        layout.addWidget(label)
        return label

    def _button(self, text: str, action: Callable[[], None], layout: qt.QLayout) -> qt.QPushButton:
        button = qt.QPushButton(text)
        button.clicked.connect(lambda *_: action())
        layout.addWidget(button)
        return button
