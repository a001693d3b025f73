"""Connection, work list and training views: real widgets of PySide6, clicks and keys, HTTP."""

import json
import os
import threading
import time
from pathlib import Path

import pytest
from MammoReviewLib.jobs import Jobs
from MammoReviewLib.session import Session
from misbehaving import misbehaving, reply
from panel_parts import ServerLabelFiles
from panel_qt import QtTimer, application
from PIL import Image
from PySide6.QtCore import QSettings, Qt
from PySide6.QtGui import QColor, QPalette
from PySide6.QtTest import QTest

SHOTS = os.environ.get("PANEL_SHOTS")


class Scripted:
    """A server's answers, to be changed by the test; what was asked is in `asked`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.down = False
        self.training: dict = {}
        self.more, self.batch = "/scoring", {}  # what else it answers; how reading ahead stands
        self.model = {
            "version": "1",
            "metadata": {"malignant_means": "pathology", "operating_points": {"1": 0.45}},
            "versions": [version("1", in_service=True, origin="starter")],
            "scores": [],
        }
        self.objects = {
            f"1.2.{n}": row(n, side, view)
            for n, (side, view) in enumerate([("R", "CC"), ("R", "MLO"), ("L", "MLO"), ("L", "CC")])
        }

    def __call__(self, connection, head: bytes) -> None:
        line = head.split(b"\r\n")[0].decode().rsplit(" ", 1)[0]
        if not line.startswith(("GET /info", "OPTIONS")):
            self.asked.append(line)
        if self.down:
            return
        status, document = "200 OK", {}
        if line.startswith("OPTIONS"):
            known = any(name in line for name in ("/versions", "/scoring", self.more))
            status = "405 Not Allowed" if known else "404 No"
        elif "/batch/infer" in line:
            status, document = ("200 OK", self.batch) if self.batch else ("404 No", {})
        elif line.startswith("GET /info"):
            document = {
                "models": {"ft_mtl_net": self.model},
                "strategies": {"first": {"description": "in order"}, "random": {}},
                "train_stats": {"ft_mtl_net": self.training},
                "datastore": {"total": len(self.objects), "completed": 0},
            }
        elif line.startswith("GET /datastore/"):
            left_out = [{"file": "x.dcm", "reason": "truncated"}]
            document = {"objects": self.objects, "left_out": left_out}
        reply(status, json.dumps(document).encode())(connection, head)


def version(name: str, **more) -> dict:
    return {"version": name, "origin": "training", "time": "2026-11-24T12:00:00+00:00",
            "verdict": None, "in_service": False, **more}


def row(number: int, side: str, view: str) -> dict:
    info = {"laterality": side, "view": view, "state": "new", "width": 10, "height": 10,
            "patient_key": "00aa" * 4 if number else "11bb" * 4}
    if number == 2:
        info |= {"state": "labelled", "annotator": "bob", "version": 3, "malignancy": 0.83,
                 "time": "2026-11-24T09:30:00+00:00"}
    return {"image": {"info": info}}


class Panel:
    def __init__(self, folder: Path) -> None:
        self.app = application()
        from MammoReviewLib import score_plot
        from MammoReviewLib.connection_view import ConnectionView
        from MammoReviewLib.training_view import TrainingView
        from MammoReviewLib.worklist_view import WorklistView

        self.settings = QSettings(str(folder / "settings.ini"), QSettings.IniFormat)
        self.jobs = Jobs(QtTimer())
        self.session = Session(self.jobs, ServerLabelFiles(), folder)
        self.leave = True
        self.opened: list[str] = []
        self.session.open = lambda image_id, reason="": self.opened.append(image_id)
        self.answer, self.questions = 1, []
        self.connection = ConnectionView(self.session, self.settings, self.ask)
        self.worklist = WorklistView(self.session, lambda: self.leave, self.settings)
        self.training = TrainingView(self.session, score_plot.draw, self.ask)
        for view in (self.connection, self.worklist, self.training):
            view.widget.resize(520, view.widget.sizeHint().height())
            view.widget.show()

    def ask(self, text: str, answers: list[str]) -> int:
        self.questions.append(text)
        return self.answer

    def wait(self, until) -> None:
        end = time.monotonic() + 60
        while not until():
            assert time.monotonic() < end, self.connection.status.text()
            self.app.processEvents()
            time.sleep(0.002)

    def shot(self, view, name: str) -> None:
        if SHOTS:
            view.widget.adjustSize()
            view.widget.resize(520, view.widget.sizeHint().height())
            view.widget.grab().save(str(Path(SHOTS) / f"{name}.png"))


def click(button) -> None:
    assert button.isEnabled()
    QTest.mouseClick(button, Qt.LeftButton)


@pytest.fixture
def panel(tmp_path):
    made = Panel(tmp_path)
    yield made
    made.session.close()


@pytest.fixture
def server():
    script = Scripted()
    with misbehaving(script) as port:
        script.port = port
        yield script


def connect(panel: Panel, server: Scripted) -> None:
    panel.connection.address.setEditText(f"127.0.0.1:{server.port}")
    panel.connection.reader.setText("ann")
    click(panel.connection.connect_button)
    panel.wait(lambda: panel.session.worklist.rows)


def test_connecting_is_remembered_and_the_status_is_true(panel, server, tmp_path):
    assert "Not connected" in panel.connection.status.text()
    connect(panel, server)
    assert "Connected to 127.0.0.1" in panel.connection.status.text()
    assert " as ann" in panel.connection.status.text()
    for field in (panel.connection.reader, panel.connection.address, panel.connection.token):
        assert not field.isEnabled(), "labels go on carrying the name that was connected with"
    panel.shot(panel.connection, "connection")
    server.down = True
    panel.session.connection.check()
    panel.wait(lambda: "broke off" in panel.connection.status.text())
    server.down = False
    panel.wait(lambda: "Connected" in panel.connection.status.text())
    click(panel.connection.disconnect_button)
    assert "Not connected" in panel.connection.status.text()
    assert panel.connection.reader.isEnabled()
    again = Panel(tmp_path)
    assert again.connection.address.currentText() == f"http://127.0.0.1:{server.port}"
    assert again.connection.reader.text() == "ann" and again.connection.token.text() == ""
    stored = (tmp_path / "settings.ini").read_text()
    assert "token" not in stored.lower()
    again.session.close()


def test_what_is_no_address_is_said(panel):
    said = []
    panel.session.said.connect(said.append)
    panel.connection.address.setEditText("ftp://clinic")
    click(panel.connection.connect_button)
    assert "is no address" in said[-1] and panel.session.connection.status == "off"


def test_a_conflict_offers_two_ways_out(panel, server, tmp_path):
    connect(panel, server)
    outbox = panel.session.sending._outbox
    parcel = outbox.put("1.2.0", Path.touch, based_on=0)
    (waiting,) = panel.connection.outbox.findChildren(type(panel.connection.status))
    assert "1 label(s) wait" in waiting.text()
    outbox.refuse(parcel, "bob submitted a label for this image after you opened it.", current=2)
    panel.app.processEvents()
    panel.shot(panel.connection, "conflict")
    buttons = panel.connection.outbox.findChildren(type(panel.connection.connect_button))
    theirs, mine = (b for b in buttons if b.isVisibleTo(panel.connection.outbox))
    assert "theirs" in theirs.text() and "mine" in mine.text()
    click(theirs)
    assert panel.opened == ["1.2.0"] and not outbox.parcels


def test_a_refused_label_is_thrown_away_only_when_asked_again(panel, server):
    connect(panel, server)
    outbox = panel.session.sending._outbox
    outbox.refuse(outbox.put("1.2.2", Path.touch, based_on=0), "The server does not allow this.")
    kind = type(panel.connection.connect_button)
    (away,) = (b for b in panel.connection.outbox.findChildren(kind) if b.text() == "Throw away")
    click(away)
    assert outbox.refused and "L MLO of patient 00aa00aa: The server" in panel.questions[0]
    panel.answer = 0
    click(away)
    assert not outbox.parcels


def test_words_can_be_read_in_a_light_and_in_a_dark_theme(panel):
    from MammoReviewLib import case_words, connection_view
    from MammoReviewLib.look import as_text, contrast

    colours = {*case_words.COLOURS.values(), case_words.REJECTED_COLOUR}
    colours |= {*connection_view.COLOURS.values()}
    light = panel.app.palette()
    try:
        for ground in ("#ffffff", "#efefef", "#323232", "#000000"):
            panel.app.setPalette(QPalette(QColor(ground)))
            palette = panel.app.palette()
            for colour in colours:
                words = as_text(colour)
                for role in (palette.window(), palette.base(), palette.alternateBase()):
                    assert contrast(words, role.color().name()) >= 4.5, (colour, words, ground)
    finally:
        panel.app.setPalette(light)
    assert as_text("#000000") == "#000000", "what can be read stays what it is"


def test_labels_that_wait_under_another_name_are_told(panel, server):
    connect(panel, server)
    panel.session.sending._outbox.put("1.2.0", Path.touch, based_on=0)
    click(panel.connection.disconnect_button)
    server.down = True
    panel.connection.reader.setText("Ann")
    click(panel.connection.connect_button)
    kind = type(panel.connection.status)
    said = [label.text() for label in panel.connection.outbox.findChildren(kind)]
    panel.wait(lambda: panel.session.connection.status == "lost")
    assert panel.connection.token.isEnabled(), "it may be what was mistyped"
    panel.connection.reader.setText("bob")
    server.down = False
    panel.session.connection.check()
    panel.wait(lambda: " as Ann" in panel.connection.status.text())
    assert panel.connection.reader.text() == "Ann", "the name that labels carry"
    assert any(text.startswith("1 label(s) of ann for http://127.0.0.1") for text in said), said


def test_a_late_list_of_another_server_is_not_shown(panel, server, monkeypatch):
    connect(panel, server)
    gate, client = threading.Event(), panel.session.connection.client
    answer = client.datastore()
    monkeypatch.setattr(client, "datastore", lambda job=None: gate.wait(60) and answer)
    panel.session.refresh()
    panel.session.disconnect()
    gate.set()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        panel.app.processEvents()
    assert panel.session.worklist.rows == ()


@pytest.fixture
def an_hour_east(monkeypatch):
    monkeypatch.setenv("TZ", "UTC-1")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_the_list_is_shown_filtered_and_walked(panel, server, an_hour_east):
    connect(panel, server)
    table = panel.worklist.table
    assert table.rowCount() == 4
    cells = [table.item(2, column).text() for column in range(7)]
    assert cells == ["L MLO", "00aa00aa", "labelled", "83", "bob", "2026-11-24 10:30", "1.2.2"]
    panel.session.worklist.mark_read("1.2.0", 0.4)
    assert [table.item(0, column).text() for column in (2, 3)] == ["read by the model", "40"]
    assert "1 of 4 images are labelled" in panel.worklist.summary.text()
    assert "x.dcm: truncated" in panel.worklist.summary.toolTip()
    panel.shot(panel.worklist, "worklist")
    QTest.keyClicks(panel.worklist.text, "mlo")
    assert table.rowCount() == 2
    for current, before, after in (
        (None, "1.2.2", "1.2.1"), ("1.2.0", None, "1.2.1"), ("1.2.1", None, "1.2.2"),
        ("1.2.3", "1.2.2", None),
    ):
        panel.session.worklist.set_current(current)
        beside = [panel.session.worklist.beside(step) for step in (-1, 1)]
        assert [row and row.id for row in beside] == [before, after], "also from one that is hidden"
    panel.worklist.text.clear()
    panel.worklist.state.setCurrentText("labelled")
    assert table.rowCount() == 1
    panel.worklist.state.setCurrentIndex(0)
    panel.session.worklist.set_current("1.2.2")
    marked = [r for r in range(4) if table.item(r, 0).background().style() != Qt.NoBrush]
    first = table.visualItemRect(table.item(0, 0)).center()
    QTest.mouseClick(table.viewport(), Qt.LeftButton, pos=first)
    assert marked == [2] and table.selectedItems() == [], "a click marks no case that is not open"
    views = [b.text() for b in panel.worklist.views.findChildren(type(panel.worklist.next_button))]
    assert views[-3:] == ["R MLO", "L CC", "L MLO ✓"], "her other views, right before left"
    click(panel.worklist.forth_button)
    panel.leave = False
    click(panel.worklist.back_button)
    assert panel.opened == ["1.2.3"], "unsaved edits kept the reader here"
    panel.leave = True
    table.cellDoubleClicked.emit(0, 0)
    assert panel.opened == ["1.2.3", "1.2.0"]
    panel.worklist.strategy.setCurrentText("random")
    click(panel.worklist.next_button)
    panel.wait(lambda: "POST /activelearning/random" in server.asked)


def test_reading_ahead_is_watched_stopped_and_hidden_where_there_is_none(panel, server, tmp_path):
    connect(panel, server)
    view = panel.worklist
    assert not view.ahead.isVisible()
    server.more = "/batch"
    panel.session.connect(f"127.0.0.1:{server.port}")
    panel.wait(lambda: view.ahead.isVisible())
    assert view.ahead_button.text() == "Read ahead" and not view.ahead_bar.isVisible()
    server.batch = {"status": "RUNNING", "total": 40, "done": 10, "failed": 1, "seconds_left": 95}
    click(view.ahead_button)
    panel.wait(lambda: "POST /batch/infer/ft_mtl_net?images=unlabeled" in server.asked)
    panel.wait(lambda: view.ahead_bar.isVisible() and view.ahead_bar.value() == 10)
    assert view.ahead_words.text() == "10 of 40, 1 failed, 2 min left"
    server.batch |= {"done": 20}
    panel.wait(lambda: view.ahead_bar.value() == 20)
    panel.shot(view, "ahead")
    server.asked.clear()
    server.batch = {"status": "STOPPED", "total": 40, "done": 21}
    click(view.ahead_button)
    panel.wait(lambda: not view.ahead_bar.isVisible())
    assert "DELETE /batch/infer" in server.asked
    assert view.ahead_words.text() == "stopped after 21 of 40"
    panel.wait(lambda: "GET /datastore/?output=all" in server.asked), "states are read anew"


def test_a_training_is_started_watched_stopped_and_judged(panel, server):
    connect(panel, server)
    view, said = panel.training, []
    panel.session.said.connect(said.append)
    assert "pathology" in view.model.text() 
    click(view.start_button)
    panel.wait(lambda: "POST /train/ft_mtl_net" in server.asked)
    server.training = {
        "state": "running", "stage": "heads", "stage_number": 1, "stages": 1, "epoch": 2,
        "epochs": 4, "step": 5, "steps": 10, "losses": {"box": 0.25}, "seconds_left": 80,
    }
    panel.wait(lambda: view.bar.isVisible() and view.bar.value() == 375)
    assert "heads: epoch 2 of 4, step 5 of 10, about 80 s left" in view.progress.text()
    assert view.losses.text() == "box 0.250" and not view.start_button.isEnabled()
    assert panel.session.connection.status == "training"
    panel.shot(view, "training")
    click(view.stop_button)
    assert "is lost" in panel.questions[-1] and not panel.session.jobs.running, "No: it goes on"
    panel.answer = 0
    click(view.stop_button)
    panel.wait(lambda: "DELETE /train/" in server.asked)

    gate = {"word": "worse", "images": 20, "masses": 14, "champion": 0.61, "candidate": 0.42}
    server.training = {"state": "done", "version": "3", "published": False, "images": 12,
                       "masses": 9, "verdict": gate}
    worse = version("3", verdict="worse", details={"gate": {**gate, "against": "1"}})
    server.model["versions"] += [version("2", verdict="not judged"), worse]
    panel.session.connection.check()
    panel.wait(lambda: view.versions.rowCount() == 3)
    assert said == [view.result.text()], "told where the whole panel is looked at"
    assert "Before 0.610, after 0.420" in view.result.text()
    assert "worse than the model before" in view.result.text()
    assert "worse than version 1" in view.versions.item(2, 0).toolTip()
    view.versions.setCurrentCell(2, 0)
    assert not view.back_button.isEnabled() and not view.take_button.isVisible(), "it would refuse"

    unjudged = {"word": "not judged", "images": 2, "masses": 3, "candidate": None}
    server.training |= {"version": "2", "verdict": unjudged}
    server.model["scores"] = [
        {"version": "1", "images": 20, "tpr": {"0.3": 0.4, "1": 0.6, "3.67": 0.8}, "auc_mass": 0.7},
        {"version": "2", "images": 20, "tpr": {"0.3": 0.5, "1": 0.55, "3.67": 0.9}},
    ]
    panel.session.connection.check()
    panel.wait(lambda: view.take_button.isVisible())
    assert "It was not judged" in view.result.text()
    assert view.plot.isVisible() and not view.plot.pixmap().isNull()
    panel.shot(view, "trained")
    click(view.take_button)
    assert panel.questions[-1] == "Version 2 will read for all readers of this server."
    panel.wait(lambda: "POST /versions/ft_mtl_net/2" in server.asked)
    server.model["version"] = "2"
    for row_, in_service in zip(server.model["versions"], (False, True, False), strict=True):
        row_["in_service"] = in_service
    panel.wait(lambda: not view.take_button.isVisible())
    assert not view.back_button.isEnabled()
    view.versions.setCurrentCell(0, 0)
    panel.answer = 1
    click(view.back_button)
    assert not panel.session.jobs.running
    panel.answer = 0
    click(view.back_button)
    panel.wait(lambda: "POST /versions/ft_mtl_net/1" in server.asked)


def test_the_score_plot_shows_every_version(tmp_path):
    from MammoReviewLib import score_plot

    file = tmp_path / "plot.png"
    assert not score_plot.draw([], file) and not score_plot.draw([{"version": "1"}], file)
    scores = [{"version": str(n), "tpr": {"1": n / 10}, "auc_mass": None} for n in range(1, 9)]
    assert score_plot.draw(scores, file)
    picture = Image.open(file).convert("RGB")
    blue = [p for p in picture.getdata() if p[2] > 150 and p[0] < 90]
    assert picture.size == (480, 260) and len(blue) > 100
