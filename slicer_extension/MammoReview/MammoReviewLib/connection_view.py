"""The top of the panel: which server, who reads, how things stand, and labels on their way."""

from __future__ import annotations

from functools import partial

import qt

from .i18n import _
from .look import as_text
from .outbox import Parcel
from .ports import Ask, Settings
from .session import Session

ADDRESSES, READER = "MammoReview/addresses", "MammoReview/reader"
MOST_ADDRESSES = 8
DEFAULT_ADDRESS = "http://127.0.0.1:8000"
COLOURS = {
    "off": "#8a8a8a",
    "connecting": "#d0a020",
    "connected": "#2e9e4f",
    "busy": "#2f7fd0",
    "training": "#7a5fd0",
    "lost": "#d03a3a",
}


def waiting_words(count: int) -> str:
    """That labels have not been sent yet."""
    return _("{count} label(s) wait here to be sent.").format(count=count)


class ConnectionView:
    """Address with history, token, reader's name, status, outbox. `widget` is to be laid out."""

    def __init__(self, session: Session, settings: Settings, ask: Ask) -> None:
        self._session, self._settings, self._ask = session, settings, ask
        self._address = self._token = ""
        self._outbox_shown: tuple[object, ...] = ()
        self._reader = str(settings.value(READER, "") or "")
        self.widget = qt.QWidget()
        form = qt.QFormLayout(self.widget)
        form.setContentsMargins(0, 0, 0, 0)

        self.address = qt.QComboBox()
        self.address.setEditable(True)
        self.address.setToolTip(_("Address of the server, such as https://server:8000"))
        self.address.editTextChanged.connect(self._set_address)
        form.addRow(_("Server"), self.address)

        self.token = qt.QLineEdit()
        self.token.setEchoMode(qt.QLineEdit.Password)
        self.token.setPlaceholderText(_("only if the server wants one"))
        self.token.setToolTip(_("The server's token. It is not stored on this computer."))
        self.token.textChanged.connect(self._set_token)
        form.addRow(_("Token"), self.token)

        self.reader = qt.QLineEdit()
        self.reader.setText(self._reader)
        self.reader.setPlaceholderText(_("your name or initials"))
        self.reader.setToolTip(_("Stands beside every label that you submit"))
        self.reader.textChanged.connect(self._set_reader)
        form.addRow(_("Reader"), self.reader)

        buttons = qt.QHBoxLayout()
        self.connect_button = qt.QPushButton(_("Connect"))
        self.connect_button.clicked.connect(lambda *_: self.connect())
        self.disconnect_button = qt.QPushButton(_("Disconnect"))
        self.disconnect_button.clicked.connect(lambda *_: self._session.disconnect())
        for button in (self.connect_button, self.disconnect_button):
            buttons.addWidget(button)
        form.addRow(buttons)

        self.status = qt.QLabel()
        self.status.setWordWrap(True)
        form.addRow(self.status)
        self.outbox = qt.QWidget()
        self._outbox_rows = qt.QVBoxLayout(self.outbox)
        self._outbox_rows.setContentsMargins(0, 0, 0, 0)
        form.addRow(self.outbox)

        self._list_addresses()
        session.connection.changed.connect(self._show_status)
        session.sending.changed.connect(self._show_outbox)
        session.worklist.changed.connect(self._show_outbox)  # it names the images
        self._show_status()
        self._show_outbox()

    def connect(self) -> None:
        """Connects to the address that stands there, and remembers it."""
        self._settings.setValue(READER, self._reader)
        self._session.connect(self._address, token=self._token, client_id=self._reader)
        client = self._session.connection.client
        if client is not None:
            known = [address for address in self._addresses() if address != client.address]
            self._settings.setValue(ADDRESSES, [client.address, *known][:MOST_ADDRESSES])
            self._list_addresses()

    def _addresses(self) -> list[str]:
        stored = self._settings.value(ADDRESSES, None) or []  # one alone comes back as a string
        return [stored] if isinstance(stored, str) else [str(address) for address in stored]

    def _list_addresses(self) -> None:
        addresses = self._addresses() or [DEFAULT_ADDRESS]
        self.address.clear()
        for address in addresses:
            self.address.addItem(address)
        self.address.setEditText(addresses[0])
        self._address = addresses[0]

    def _set_address(self, text: str) -> None:
        self._address = text

    def _set_token(self, text: str) -> None:
        self._token = text

    def _set_reader(self, text: str) -> None:
        self._reader = text.strip()

    def _show_status(self) -> None:
        connection = self._session.connection
        status = connection.status
        self.status.setText(f"● {connection.sentence}")
        self.status.setStyleSheet(f"color: {as_text(COLOURS[status])}; font-weight: bold")
        self.disconnect_button.setEnabled(status != "off")
        # Labels carry the name that was connected with: another reader connects anew. Until a
        # server has answered nothing is read under any, and a mistyped token can be mended.
        answered = connection.info is not None
        if answered and self._reader and self._reader != connection.client.client_id:
            self.reader.setText(connection.client.client_id)
        for field in (self.address, self.token, self.reader, self.connect_button):
            field.setEnabled(not answered)

    def _show_outbox(self) -> None:
        sending, elsewhere = self._session.sending, self._session.elsewhere
        refused = tuple((p, sending.told(p.image_id, p.problem)) for p in sending.refused)
        shown = (len(sending.waiting), refused, elsewhere)
        if shown == self._outbox_shown:  # a button that is being pressed stays
            return
        self._outbox_shown = shown
        while self._outbox_rows.count():
            gone = self._outbox_rows.takeAt(0).widget()
            gone.hide()
            gone.deleteLater()
        if sending.waiting:
            self._outbox_rows.addWidget(qt.QLabel(waiting_words(len(sending.waiting))))
        for parcel, problem in refused:
            self._outbox_rows.addWidget(self._refused_row(parcel, problem))
        for sentence in elsewhere:
            others = qt.QLabel(sentence)
            others.setWordWrap(True)
            self._outbox_rows.addWidget(others)
        self.outbox.setVisible(self._outbox_rows.count() > 0)

    def _refused_row(self, parcel: Parcel, problem: str) -> qt.QWidget:
        row = qt.QFrame()
        rows = qt.QVBoxLayout(row)
        words = qt.QLabel(problem)
        words.setWordWrap(True)
        rows.addWidget(words)
        buttons = qt.QHBoxLayout()
        sending = self._session.sending
        if parcel.current is not None:
            choices = [
                (_("Keep theirs and show it"), partial(self._keep_theirs, parcel)),
                (_("Submit mine on top"), partial(sending.try_again, parcel)),
            ]
        else:
            choices = [
                (_("Try again"), partial(sending.try_again, parcel)),
                (_("Throw away"), partial(self._throw_away, parcel, problem)),
            ]
        for text, action in choices:
            button = qt.QPushButton(text)
            button.clicked.connect(lambda *_, action=action: action())
            buttons.addWidget(button)
        rows.addLayout(buttons)
        return row

    def _throw_away(self, parcel: Parcel, problem: str) -> None:
        words = _("{problem}\n\nThis label is nowhere else. Throw it away?").format(problem=problem)
        if self._ask(words, [_("Throw away"), _("Keep it")]) == 0:
            self._session.sending.drop(parcel)

    def _keep_theirs(self, parcel: Parcel) -> None:
        self._session.sending.drop(parcel)
        self._session.open(parcel.image_id)
