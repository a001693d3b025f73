"""The panel's HTTP against servers that misbehave: one readable sentence each, never a hang."""

import asyncio
import json
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from MammoReviewLib import multipart
from MammoReviewLib.client import STOCK, Client
from MammoReviewLib.failures import Failure
from MammoReviewLib.findings import ImageInfo, InvalidFindings
from MammoReviewLib.jobs import Job
from MammoReviewLib.opening import fetch
from MammoReviewLib.ports import Cancelled
from MammoReviewLib.worklist import Row
from misbehaving import misbehaving, reply
from starlette.datastructures import UploadFile
from starlette.requests import Request


def failure(port: int, ask=lambda client: client.info(), **options) -> Failure:
    with pytest.raises(Failure) as caught:
        ask(Client(f"127.0.0.1:{port}", **options))
    sentence = str(caught.value)
    assert sentence.endswith((".", "?")) and "{" not in sentence and len(sentence) < 600
    return caught.value


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("localhost", "http://localhost:8000"),
        (" 10.0.0.5:8123 ", "http://10.0.0.5:8123"),
        ("http://Clinic", "http://clinic:80"),
        ("https://clinic.example/mammo/", "https://clinic.example:443/mammo"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_one_spelling_for_one_server(typed, address):
    assert Client(typed).address == address


@pytest.mark.parametrize(
    "typed", ["", "http://", "ftp://clinic", "clinic:port", "a b", "http://ann:secret@clinic"]
)
def test_what_is_no_address(typed):
    with pytest.raises(Failure) as caught:
        Client(typed)
    assert caught.value.kind == "address" and "secret" not in str(caught.value)


def test_a_token_in_the_open_is_noticed():
    assert Client("http://clinic", token="x").exposes_token
    assert not Client("https://clinic", token="x").exposes_token
    assert not Client("http://127.0.0.1:1", token="x").exposes_token
    assert not Client("http://clinic").exposes_token


DETAIL = json.dumps({"detail": "because of the moon"}).encode()


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        ("400 Bad Request", "unusable", "because of the moon."),
        ("401 Unauthorized", "unauthorised", "wants a token"),
        ("403 Forbidden", "forbidden", "moon"),
        ("404 Not Found", "missing", "moon"),
        ("409 Conflict", "conflict", "moon"),
        ("413 Too Large", "too-large", "moon"),
        ("422 Unprocessable", "unusable", "moon"),
        ("429 Too Many", "busy", "moon"),
        ("500 Error", "failed", "500"),
        ("503 Unavailable", "busy", "moon"),
        ("507 Full", "full", "disk is full"),
        ("302 Found", "not-ours", "302"),
    ],
)
def test_each_status_is_a_sentence(status, kind, said):
    with misbehaving(reply(status, DETAIL)) as port:
        wrong = failure(port)
    assert (wrong.kind, wrong.status) == (kind, int(status[:3])) and said in str(wrong)


def test_a_wrong_token_is_told_from_none():
    heads = []

    def handler(connection: socket.socket, head: bytes) -> None:
        heads.append(head)
        reply("401 Unauthorized", b"{}")(connection, head)

    with misbehaving(handler) as port:
        assert "does not accept" in str(failure(port, token=" s3cret "))
    (head,) = heads
    assert b"\r\nAuthorization: Bearer s3cret\r\n" in head
    assert head.startswith(b"GET /info/ ") and b"content-length" not in head.lower()


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (reply("200 OK", b"<html>Login</html>", kind="text/html"), "not-ours"),
        (reply("502 Bad Gateway", b"<html>nginx</html>", kind="text/html"), "failed"),
        (reply("200 OK", b'{"models": {}}', cut=3), "cut"),
        (reply("200 OK", b'{"models": '), "cut"),
        (reply("200 OK", b"[1]"), "not-ours"),
        (lambda connection, head: connection.sendall(b"220 smtp.example ready\r\n"), "not-ours"),
        (lambda connection, head: None, "cut"),
    ],
)
def test_what_is_no_answer(handler, kind):
    with misbehaving(handler) as port:
        assert failure(port).kind == kind


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    wrong = failure(port)
    assert wrong.kind == "refused" and wrong.passes and str(port) in str(wrong)
    with pytest.raises(Failure) as caught:
        Client("http://no-such-computer.invalid").info()
    assert caught.value.kind == "unreachable" and "no-such-computer.invalid" in str(caught.value)


def test_a_server_that_never_answers():
    silent = threading.Event()
    with misbehaving(lambda connection, head: silent.wait(20) and None) as port:
        client = Client(f"127.0.0.1:{port}")
        with pytest.raises(Failure) as caught:
            client._transport.json("GET", "/info/", read_seconds=0.2)
        assert caught.value.kind == "timeout"
        job = Job("", None, None, False)
        threading.Timer(0.2, job.cancel).start()
        with pytest.raises(Cancelled):
            client.infer("1.2.3", stop=job)
        with pytest.raises(Cancelled):
            client.info(job)
        silent.set()


def test_a_connection_cut_while_uploading(tmp_path):
    file = tmp_path / "label.seg.nrrd"
    file.write_bytes(bytes(8_000_000))

    def submit(client: Client) -> None:
        client.submit_label("1.2", file, submission_id="one", based_on=0)

    with misbehaving(lambda connection, head: connection.recv(100_000) and None) as port:
        assert failure(port, submit).kind == "cut"

    def refuse(connection: socket.socket, head: bytes) -> None:
        reply("413 Too Large", DETAIL)(connection, head)
        while connection.recv(1 << 20):  # a proxy reads on, so that its answer is not lost
            pass

    with misbehaving(refuse) as port:
        assert failure(port, submit).kind == "too-large"
    gone = tmp_path / "gone.seg.nrrd"
    with pytest.raises(Failure) as caught:
        Client("127.0.0.1:1").submit_label("1.2", gone, submission_id="one", based_on=0)
    assert caught.value.kind == "disk"


def test_a_download_is_whole_or_not_there(tmp_path):
    file, body = tmp_path / "image.dcm", os.urandom(600_000)
    steps: list[tuple[int, int]] = []

    def get(client: Client) -> None:
        client.download_image("1.2", file, progress=lambda *step: steps.append(step))

    with misbehaving(reply("200 OK", body, kind="application/dicom", cut=1)) as port:
        assert failure(port, get).kind == "cut"
    assert not list(tmp_path.iterdir())
    with misbehaving(reply("200 OK", body, kind="application/dicom")) as port:
        get(Client(f"127.0.0.1:{port}"))
        assert file.read_bytes() == body and steps[-1] == (600_000, 600_000)
        with pytest.raises(Failure) as caught:
            Client(f"127.0.0.1:{port}").download_image("1.2", tmp_path / "none" / "x.dcm")
        assert caught.value.kind == "disk"


def test_findings_of_another_image_are_not_shown(tmp_path):
    image = {**vars(ImageInfo("1.2.9", 4, 3))}
    nothing = {"malignancy": 0, "label": "no finding", "how": "none"}
    document = {
        "schema_version": 1, "image": image, "model": None, "findings": [], "verdict": nothing
    }

    def answer(connection: socket.socket, head: bytes) -> None:
        if b"/label/info" in head:
            return reply("404 Not Found", b"{}")(connection, head)
        body = json.dumps(document).encode() if b"/infer/" in head else b"a film"
        return reply("200 OK", body)(connection, head)

    with misbehaving(answer) as port:
        client, job = Client(f"127.0.0.1:{port}"), Job("", None, None, False)
        fetched = fetch(client, Row("1.2.9", "new"), tmp_path, 0.1, stored=False, stop=job)
        assert fetched.document.image.id == "1.2.9"
        with pytest.raises(InvalidFindings, match="another image"):
            fetch(client, Row("1.2.3", "new"), tmp_path, 0.1, stored=False, stop=job)


def test_a_reply_in_parts_is_taken_apart(tmp_path):
    binary = b"NRRD0004\r\n\r\n--not-the-mark\r\n" + bytes(range(256))
    body = (
        b'--mark\r\nContent-Disposition: form-data; name="params"\r\n'
        b'Content-Type: application/json\r\n\r\n{"findings": []}'
        b'\r\n--mark\r\nContent-Disposition: form-data; name="image"; filename="a.seg.nrrd"\r\n\r\n'
        + binary + b"\r\n--mark--\r\n"
    )
    kind = "multipart/form-data; boundary=mark"
    file = tmp_path / "label.seg.nrrd"
    with misbehaving(reply("200 OK", body, kind=kind)) as port:
        document = Client(f"127.0.0.1:{port}").infer("1.2", label_file=file)
    assert document == {"findings": []} and file.read_bytes() == binary
    short = body[:-10]
    with misbehaving(reply("200 OK", short, kind=kind)) as port:
        assert failure(port, lambda c: c.infer("1.2", label_file=file)).kind == "not-ours"


def test_a_form_is_what_other_programs_read(tmp_path):
    file = tmp_path / "label.seg.nrrd"
    file.write_bytes(os.urandom(100_000))
    form = multipart.Form({"params": '{"comment": "größer"}'}, file=file, name="label")
    body = b"".join(form)
    assert len(body) == int(form.headers["Content-Length"])

    async def receive():
        return {"type": "http.request", "body": body}

    headers = [(k.lower().encode(), v.encode()) for k, v in form.headers.items()]
    request = Request({"type": "http", "method": "PUT", "headers": headers}, receive)

    async def read() -> None:
        fields = await request.form()
        assert fields["params"] == '{"comment": "größer"}'
        sent = fields["label"]
        assert isinstance(sent, UploadFile) and sent.filename == "label.seg.nrrd"
        assert await sent.read() == file.read_bytes()

    asyncio.run(read())


def test_requests_are_discovered_without_doing_anything():
    heads = []

    def handler(connection: socket.socket, head: bytes) -> None:
        heads.append(head)
        there = b" /scoring/" in head
        reply("405 Not Allowed" if there else "404 Not Found", b"{}")(connection, head)

    with misbehaving(handler) as port:
        found = Client(f"127.0.0.1:{port}").requests()
    assert found - STOCK == {"POST /scoring/{model}"}
    assert all(head.startswith(b"OPTIONS ") for head in heads)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout key.pem -out cert.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *subject], cwd=folder, check=True, capture_output=True)
    yield folder


def test_tls_is_verified(certificate, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with misbehaving(reply("200 OK", b"{}"), tls=context) as port:
        with pytest.raises(Failure) as caught:
            Client(f"https://127.0.0.1:{port}").info()
        assert caught.value.kind == "tls" and "not trusted" in str(caught.value)
        monkeypatch.setenv("MAMMOREVIEW_CA_FILE", str(certificate / "cert.pem"))
        assert Client(f"https://127.0.0.1:{port}").info() == {}
    with misbehaving(reply("200 OK", b"{}")) as port:
        with pytest.raises(Failure) as caught:
            Client(f"https://127.0.0.1:{port}").info()
        assert caught.value.kind == "tls" and "http://" in str(caught.value)



def test_what_cannot_be_sent_is_no_address_and_no_token(monkeypatch):
    for address in ("http://server..local", f"http://{'a' * 64}.org", "http://server/mammö"):
        with pytest.raises(Failure, match="is no address"):
            Client(address)
    for token in ("abc–def", "abc\ndef"):
        with pytest.raises(Failure, match="token"):
            Client("http://server", token=token)
    monkeypatch.setenv("MAMMOREVIEW_CA_FILE", "/nowhere.pem")
    with pytest.raises(Failure, match=r"/nowhere\.pem"):
        Client("https://server")
