"""One server a workspace and a port; what a killed one held is free again."""

import socket
import subprocess
import sys

import pytest

from monailabel_app.serve import main
from monailabel_app.server.claim import Taken, check_port, claim_workspace

HOLD = """
import sys
from pathlib import Path
from monailabel_app.server.claim import claim_workspace
held = claim_workspace(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_workspace_is_one_servers_until_it_dies(tmp_path, capsys):
    workspace, studies = tmp_path / "workspace", tmp_path / "studies"
    studies.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(workspace)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Taken, match="another server uses this workspace"):
            claim_workspace(workspace)
        arguments = ["--studies", str(studies), "--workspace", str(workspace), "--port", "0"]
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith(f"ftmtl-serve: {workspace}: another server")
    finally:
        holder.kill()
        holder.communicate()
    claim_workspace(workspace).release()


def test_a_port_that_is_in_use_is_told_before_anything_slow(tmp_path, capsys):
    (tmp_path / "studies").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert main(["--studies", str(tmp_path / "studies"), "--port", str(port)]) == 2
    assert f"127.0.0.1:{port}: Address already in use" in capsys.readouterr().err
    check_port("127.0.0.1", port)
    with pytest.raises(SystemExit, match="2"):
        main(["--studies", str(tmp_path / "studies"), "--port", "99999"])


def test_labels_do_not_go_among_the_studies(tmp_path, capsys):
    for workspace in (tmp_path, tmp_path / "x" / ".."):
        with pytest.raises(SystemExit, match="2"):
            main(["--studies", str(tmp_path), "--workspace", str(workspace)])
        assert "taken for images" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
