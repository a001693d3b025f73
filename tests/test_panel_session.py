"""A reader's session against the real server: open, correct, submit, and what goes wrong."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from MammoReviewLib.case import Case
from MammoReviewLib.jobs import Jobs
from MammoReviewLib.outbox import Outbox
from MammoReviewLib.own_folder import own_folder, waiting_elsewhere
from MammoReviewLib.session import Session
from misbehaving import Handler, misbehaving, reply
from panel_parts import HandTimer, ServerLabelFiles, wait
from serving import Server, serve


class Reader:
    """One panel without a screen."""

    def __init__(self, folder: Path) -> None:
        self.jobs = Jobs(HandTimer())
        self.session = Session(self.jobs, ServerLabelFiles(), folder)
        self.said: list[str] = []
        self.session.said.connect(self.said.append)

    def connect(self, url: str, name: str) -> None:
        self.session.connect(url, client_id=name)
        self.wait(lambda: self.session.worklist.rows)

    def wait(self, until) -> None:
        try:
            wait(self.jobs, until)
        except AssertionError as error:
            status = self.session.connection.sentence
            raise AssertionError(f"{error}: {status} {self.said}") from error

    def open(self, image_id: str) -> Case:
        before = self.session.case
        self.session.open(image_id)
        self.wait(lambda: self.session.case is not before and self.session.case)
        self.session.case.set_threshold(0.0)  # nobody trained these weights
        return self.session.case

    def submit(self) -> None:
        """Submits and waits until the label has arrived or was refused."""
        self.session.submit()
        self.wait(lambda: not self.session.sending.waiting)


@pytest.fixture
def readers(tmp_path: Path) -> Iterator[list[Reader]]:
    made = [Reader(tmp_path / name) for name in ("ann", "bob")]
    yield made
    for reader in made:
        reader.session.close()


class Clinic:
    def __init__(self, folder: Path, studies: Path, weights: Path) -> None:
        self.folder, self.studies, self.weights = folder, studies, weights

    def serve(self, port: int | None = None):
        return serve(
            self.folder,
            self.studies,
            workspace=self.folder / "workspace",
            weights=self.weights,
            port=port,
        )


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory, samples: Path, untrained: Path) -> Clinic:
    return Clinic(tmp_path_factory.mktemp("clinic"), samples, untrained)


@pytest.fixture(scope="module")
def server(clinic: Clinic) -> Iterator[Server]:
    with clinic.serve() as running:
        yield running


def test_open_correct_submit_and_open_again(server: Server, readers, tmp_path):
    ann, bob = readers
    ann.connect(server.url, "ann")
    session = ann.session
    assert session.connection.status == "connected" and session.connection.info.has_model
    assert len(session.worklist.rows) == 8
    assert session.connection.offers("POST /versions/{model}/{version}")
    assert not session.connection.offers("POST /no/such")

    session.open_next("first")
    ann.wait(lambda: session.case)
    case = session.case
    assert case.reason and case.image_file.stat().st_size > 1000 and case.based_on == 0
    assert case.threshold == session.connection.info.threshold
    assert len({row.view for row in session.worklist.views()}) == 2
    case.set_threshold(0.0)
    shown = case.shown
    assert shown, "nobody trained the test's weights, but they find something"
    case.accept(shown[0].id)
    for finding in shown[1:]:
        case.reject(finding.id)
    name = case.add_box((200, 300, 150, 120))
    session.ask_model(name)
    ann.wait(lambda: case.find(name).scores)
    assert case.find(name).bbox == (200, 300, 150, 120)
    case.set_comment("two masses")
    ann.submit()
    assert not case.dirty and case.based_on == 1 and "version 1" in ann.said[-1]
    ann.wait(lambda: session.worklist.find(case.image.id).state == "labelled")
    assert session.worklist.find(case.image.id).annotator == "ann"

    # Bob opens the same image and sees Ann's label, not the model's findings.
    bob.connect(server.url, "bob")
    theirs = bob.open(case.image.id)
    assert theirs.labelled_by == "ann" and theirs.based_on == 1
    assert theirs.document.findings == case.label.findings
    assert theirs.image == case.image and not theirs.dirty

    # Both go on from version 1. Bob is first; Ann is told, and nothing of Bob's is lost.
    theirs.set_label(name, "benign")
    bob.submit()
    case.set_comment("three masses")
    ann.submit()
    (parcel,) = session.sending.refused
    assert "bob submitted" in parcel.problem and parcel.current == 2
    kept = server.get("/datastore/label/info", label=case.image.id, tag="final").json()
    assert kept["current"] == 2 and [v["standing"] for v in kept["versions"]] == [
        "label", "label", "conflict",
    ]
    session.sending.try_again(parcel)
    ann.wait(lambda: case.based_on == 4)
    assert not session.sending.refused
    # The same image again, from the label that she sent.
    ann.session.close_case()
    again = ann.open(case.image.id)
    assert again.based_on == 4 and again.labelled_by == "ann"


def test_edits_come_back_after_a_crash(server: Server, readers, tmp_path):
    ann, _ = readers
    ann.connect(server.url, "ann")
    case = ann.open(ann.session.worklist.rows[3].id)
    first = case.shown[0].id
    case.accept(first)
    case.set_comment("look again", first)
    crashed = case.state
    # No farewell: another panel starts on the same folder.
    second = Reader(tmp_path / "ann")
    second.connect(server.url, "ann")
    assert second.session.drafts.images() == {case.image.id}
    back = second.open(case.image.id)
    assert back.state == crashed and back.dirty and "back" in second.said[-1]
    back.undo()
    assert back.document.findings == case.opened.findings
    back.redo()
    second.session.close_case()
    second.session.drafts.forget(case.image.id)
    again = second.open(case.image.id)
    assert not again.dirty and not second.session.drafts.images()
    second.session.close()


def test_what_one_reader_has_open_is_another_readers_for_both(server: Server, readers):
    ann, bob = readers
    ann.connect(server.url, "ann")
    free = [row.id for row in ann.session.worklist.rows if row.state in ("new", "read")]
    ann.open(free[0])
    bob.connect(server.url, "bob")
    row = bob.session.worklist.find(free[0])
    assert (row.state, row.held_by) == ("held", "ann")
    bob.session.open_next("first")
    bob.wait(lambda: bob.session.case)
    assert bob.session.case.image.id != free[0], "though it is the first"
    before = ann.session.worklist.rows
    ann.session.refresh()
    ann.wait(lambda: ann.session.worklist.rows is not before)
    assert ann.session.worklist.find(free[0]).state == "read", "it is with nobody else"
    assert ann.session.worklist.find(bob.session.case.image.id).held_by == "bob"


def test_another_case_is_opened_while_the_model_is_asked(server: Server, readers):
    ann, _ = readers
    ann.connect(server.url, "ann")
    one, two = (row.id for row in ann.session.worklist.rows[4:6])
    case = ann.open(one)
    before = case.state
    ann.session.ask_model(case.shown[0].id)
    ann.session.close_case()
    ann.session.open(two)
    ann.session.open(two)
    ann.wait(lambda: ann.session.case)
    ann.wait(lambda: not ann.jobs.running)
    assert ann.session.case.image.id == two and case.state == before
    ann.session.open("no such image")
    assert "no such image" in ann.said[-1] and ann.session.case.image.id == two
    ann.session.open(ann.session.worklist.beside(1).id)
    ann.wait(lambda: ann.session.case.image.id != two)


@pytest.mark.soak
def test_a_server_that_dies_and_comes_back_gets_the_label_once(clinic: Clinic, readers, tmp_path):
    ann, _ = readers
    session = ann.session
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with clinic.serve(port) as first:
        ann.connect(first.url, "ann")
        case = ann.open(session.worklist.rows[6].id)
        case.accept_all()
        first.kill()
        session.submit()
        ann.wait(lambda: session.connection.status == "lost")
        assert "Trying again" in session.connection.sentence
        assert any("kept here" in sentence for sentence in ann.said)
    (parcel,) = session.sending.waiting
    # The panel ends as well; what it kept is on disk, and goes when both are back.
    session.close()
    (folder,) = (tmp_path / "ann").glob("*/outbox")
    assert [p.submission_id for p in Outbox(folder).parcels] == [parcel.submission_id]
    with clinic.serve(port) as second:
        again = Reader(tmp_path / "ann")
        again.connect(second.url, "ann")
        again.wait(lambda: not again.session.sending.waiting)
        kept = second.get("/datastore/label/info", label=case.image.id, tag="final").json()
        assert [v["submission_id"] for v in kept["versions"]] == [parcel.submission_id]
        assert again.open(case.image.id).document.findings == case.label.findings
        again.session.close()
    assert not Outbox(folder).parcels and not list(folder.iterdir())


def proxy(server: Server, answers: Callable[[bytes], bool]) -> Handler:
    """Passes requests on; where `answers(head)` is False it cuts the line before the answer."""

    def through(connection: socket.socket, head: bytes) -> None:
        port = int(server.url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as upstream:
            length = 0
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            sent = head
            rest = length - len(head.partition(b"\r\n\r\n")[2])
            upstream.sendall(sent)
            while rest > 0:
                chunk = connection.recv(65536)
                upstream.sendall(chunk)
                rest -= len(chunk)
            answer = b"".join(iter(lambda: upstream.recv(65536), b""))
            if answers(head):
                connection.sendall(answer)

    return through


def test_an_answer_lost_on_the_way_back_does_not_double_the_label(server: Server, readers):
    """The label arrives, the acknowledgement does not: the second attempt is the same label."""
    ann, _ = readers
    lose = [True]

    def answers(head: bytes) -> bool:
        return not (head.startswith(b"PUT") and lose and lose.pop())

    with misbehaving(proxy(server, answers)) as port:
        ann.connect(f"http://127.0.0.1:{port}", "ann")
        case = ann.open(ann.session.worklist.rows[7].id)
        case.reject_all()
        ann.submit()
        assert not lose and any("broke off" in sentence for sentence in ann.said)
        kept = server.get("/datastore/label/info", label=case.image.id, tag="final").json()
        assert len(kept["versions"]) == 1 and case.based_on == 1


def test_a_label_that_the_readers_other_slicer_sends_meanwhile_is_no_failure(
    server: Server, readers, tmp_path
):
    ann, _ = readers

    def answers(head: bytes) -> bool:
        if not head.startswith(b"PUT"):
            return True
        (folder,) = (tmp_path / "ann").glob("*/outbox")
        others = Outbox(folder)
        others.arrived(others.next(), 1)
        return False

    with misbehaving(proxy(server, answers)) as port:
        ann.connect(f"http://127.0.0.1:{port}", "ann")
        ann.open(ann.session.worklist.rows[3].id).reject_all()
        ann.submit()
        ann.wait(lambda: not ann.jobs.running)
        assert not ann.session.sending.refused, ann.said
        (folder,) = (tmp_path / "ann").glob("*/outbox")
        assert not list(folder.iterdir())


def test_submissions_of_one_image_follow_each_other(tmp_path):
    outbox = Outbox(tmp_path)
    write = Path.touch
    first = outbox.put("1.2", write, based_on=0)
    second = outbox.put("1.2", write, based_on=0, follows=first.id)
    other = outbox.put("3.4", write, based_on=7)
    assert outbox.next() == first
    outbox.refuse(first, "no")
    assert outbox.next() == other
    outbox.send_again(first)
    outbox.arrived(outbox.next(), 5)
    assert Outbox(tmp_path).next().based_on == 5 and outbox.latest("1.2").number == second.number

    def break_off(file: Path) -> None:
        file.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError):
        outbox.put("5.6", break_off, based_on=0)
    assert len(list(tmp_path.iterdir())) == 4


def test_two_slicers_of_one_reader_leave_nothing_behind_in_their_outbox(tmp_path):
    own = own_folder(tmp_path, "http://clinic", "ann")
    ours = Outbox(own / "outbox")
    for number in range(3):
        ours.put(f"1.{number}", Path.touch, based_on=0)
    theirs = Outbox(own / "outbox")
    told = []
    theirs.changed.connect(lambda: told.append(len(theirs.parcels)))
    one, two, three = theirs.parcels
    assert "3 label(s) of ann" in waiting_elsewhere(tmp_path, tmp_path)[0]
    ours.arrived(one, 1)
    theirs.refuse(one, "the file is gone")
    assert theirs.parcels == (two, three) and not theirs.refused
    ours.arrived(two, 1)
    assert theirs.next() == three and theirs.latest("1.1") is None
    ours.discard(three)
    assert theirs.next() is None and told == [2, 1, 0]
    assert not list((own / "outbox").iterdir()) and not waiting_elsewhere(tmp_path, tmp_path)


def test_a_row_without_its_label_is_cleared_away(tmp_path):
    own = own_folder(tmp_path, "http://clinic", "ann")
    parcel = Outbox(own / "outbox").put("1.2", Path.touch, based_on=0)
    Outbox(own / "outbox").file(parcel).unlink()
    assert not waiting_elsewhere(tmp_path, tmp_path)
    assert Outbox(own / "outbox").parcels == () and not list((own / "outbox").iterdir())


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (reply("401 Unauthorized", b"{}"), "token"),
        (reply("200 OK", b"<html>", kind="text/html"), "no MammoReview server"),
        (reply("200 OK", json.dumps({"models": {"deepedit": {}}}).encode()), "no model for mamm"),
    ],
)
def test_the_status_says_what_is_wrong(readers, handler, said):
    ann, _ = readers
    assert ann.session.connection.status == "off"
    with misbehaving(handler) as port:
        ann.session.connect(f"127.0.0.1:{port}")
        assert ann.session.connection.status == "connecting"
        ann.wait(lambda: ann.session.connection.status == "lost")
    assert said in ann.session.connection.sentence
    ann.session.connect("ftp://x")
    assert "no address" in ann.said[-1]
