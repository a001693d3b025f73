"""Who may use a server on a network, with how much, and how slowly."""

import datetime
import json
import os
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from monailabel.client import MONAILabelClient
from serving import APP, Server, random_weights, serve
from test_datastore import write_dicom

from monailabel_app.server.access import UnusableToken, find_token
from monailabel_app.server.options import is_loopback, parse
from monailabel_app.server.routes import create_app, without_folders

TOKEN = "correct-horse-battery-staple"
IMAGE = "1.2.840.1"
UPLOAD = "/infer/ft_mtl_net"
FORM = "multipart/form-data; boundary=x"


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for a name that is not 127.0.0.1, as a hospital's is, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mammo.hospital.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return pem, private


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    write_dicom(folder / "studies" / "one.dcm", IMAGE)
    weights = random_weights(folder / "weights.safetensors")
    certificate, key = self_signed(folder)
    (folder / "token").write_text(TOKEN + "\n")
    options = ["--tls-cert", certificate, "--tls-key", key, "--token-file", folder / "token"]
    options += ["--max-upload-mb", "0.5", "--upload-seconds", "2"]
    with serve(
        folder, folder / "studies", workspace=folder / "ws", weights=weights, options=options
    ) as running:
        yield running


def ask(server: Server, method: str, path: str, **more: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return requests.request(
        method, server.url + path, headers=headers, verify=False, timeout=120, **more
    )


@pytest.mark.filterwarnings("ignore:Unverified HTTPS")
def test_the_token_opens_and_nothing_else_does(server: Server) -> None:
    for path in ("/info/", "/metrics", "/openapi.json", "/datastore/?output=all", "/nowhere"):
        for wrong in (None, "", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ü" * 28):
            reply = requests.get(
                server.url + path,
                headers={} if wrong is None else {"Authorization": f"Bearer {wrong}".encode()},
                verify=False,
                timeout=60,
            )
            assert reply.status_code == 401, (path, wrong)
            assert reply.headers["WWW-Authenticate"] == "Bearer"
    assert ask(server, "get", "/info/").status_code == 200
    basic = {"Authorization": f"Basic {TOKEN}"}
    assert requests.get(f"{server.url}/info/", headers=basic, verify=False).status_code == 401
    assert TOKEN not in server.log.read_text()
    with pytest.raises(requests.ConnectionError):
        requests.get(server.url.replace("https", "http") + "/info/", timeout=30)


def test_a_stock_client_signs_in(server: Server) -> None:
    client = MONAILabelClient(server.url, client_id="ann")
    assert client.auth_enabled()
    with pytest.raises(Exception, match="401"):
        client.info()
    with pytest.raises(Exception, match="401"):
        client.auth_token("ann", "wrong")
    client.update_auth(client.auth_token("ann", TOKEN))
    assert client.auth_valid_token()
    assert client.info()["name"] == "FT-MTL-Net"


def test_what_the_server_starts_gets_in_as_well(server: Server, folder: Path) -> None:
    environment = {
        **os.environ,
        "FTMTL_SERVER": server.url,
        "FTMTL_TOKEN": TOKEN,
        "FTMTL_TLS_CERT": str(folder / "cert.pem"),
        "PYTHONPATH": str(APP.parent),
    }
    script = (
        "from monailabel_app.lib.own_server import post;"
        "print(post('/activelearning/first', {}).json()['id'])"
    )
    child = [sys.executable, "-c", script]
    done = subprocess.run(child, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == IMAGE
    other = folder / "other"
    other.mkdir()
    environment["FTMTL_TLS_CERT"] = str(self_signed(other)[0])
    done = subprocess.run(child, env=environment, capture_output=True, text=True)
    assert "Fingerprints did not match" in done.stderr, "it spoke to a stranger"


@pytest.mark.filterwarnings("ignore:Unverified HTTPS")
def test_too_much_is_refused(server: Server) -> None:
    large = {"file": ("x.dcm", b"x" * 600_000)}
    assert ask(server, "post", UPLOAD, files=large).status_code == 413
    document = json.dumps({"x": "y" * 600_000})
    assert ask(server, "post", "/activelearning/first", data=document).status_code == 413

    def unannounced() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="x.dcm"\r\n\r\n'
        for _ in range(60):
            yield b"x" * 10_000

    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": FORM}
    reply = requests.post(
        server.url + UPLOAD, data=unannounced(), headers=headers, verify=False, timeout=60
    )
    assert reply.status_code == 413 and "500,000 bytes" in reply.json()["detail"]
    assert ask(server, "get", "/info/").status_code == 200


def test_an_upload_that_never_ends_is_ended(server: Server) -> None:
    host, port = server.url.removeprefix("https://").split(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(socket.create_connection((host, int(port)))) as slow:
        slow.sendall(
            f"POST {UPLOAD} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: {FORM}\r\nContent-Length: 1000\r\n\r\n--x".encode()
        )
        began = time.monotonic()
        slow.settimeout(60)
        answer = slow.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408"), answer
    assert time.monotonic() - began > 1


def test_a_token_is_made_once_and_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FTMTL_TOKEN", raising=False)
    assert find_token(None, tmp_path, needed=False) == (None, False)
    token, is_new = find_token(None, tmp_path / "ws", needed=True)
    assert token is not None and is_new and len(token) >= 32
    assert stat.S_IMODE((tmp_path / "ws" / "token").stat().st_mode) == 0o600
    assert find_token(None, tmp_path / "ws", needed=True) == (token, False)
    monkeypatch.setenv("FTMTL_TOKEN", "from-the-environment")
    assert find_token(None, tmp_path / "ws", needed=False) == ("from-the-environment", False)
    for bad in ("", "short", "with a space in the middle", "ümlaut-ümlaut-ümlaut", b"\xc5" * 32):
        (tmp_path / "bad").write_bytes(bad if isinstance(bad, bytes) else bad.encode())
        with pytest.raises(UnusableToken, match="openssl rand"):
            find_token(tmp_path / "bad", tmp_path, needed=True)


def test_a_network_is_told_from_this_machine() -> None:
    ours = ("127.0.0.1", "localhost", "::1", "127.8.8.8")
    others = ("0.0.0.0", "::", "10.0.0.5", "mammo.hospital.example", "")
    assert [is_loopback(host) for host in (*ours, *others)] == [True] * 4 + [False] * 5
    assert is_loopback(parse(["--studies", "."]).host)
    assert create_app(token=TOKEN, loopback=False).openapi_url is None


def test_a_training_that_speaks_meanwhile_is_told() -> None:
    """Its task is another thread's, which adds lines to it, and more, at any moment."""
    task: dict[str, Any] = {"details": deque(["/srv/x.py"] * 20, maxlen=20)}
    ends = threading.Event()

    def speak() -> None:
        number = 0
        while not ends.is_set():
            number = (number + 1) % 50
            task["details"].append("/srv/y.py")
            task[str(number)] = "/srv/z.py"
            task.pop(str(49 - number), None)

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        for _ in range(5000):
            assert "/srv" not in str(without_folders(task))
    finally:
        ends.set()
        speaker.join()


def test_replies_lose_their_folders() -> None:
    reply = {"a": ["File \"/srv/app/x.py\", line 3", "read /data/w-s/y.dcm: torn"], "n": 3}
    assert without_folders(reply) == {"a": ['File "x.py", line 3', "read y.dcm: torn"], "n": 3}
    for kept in ("1/2", "a/b", "http://host/x/y", "8/9 epochs, and/or"):
        assert without_folders(kept) == kept
