"""Requests that nobody thought of: made by schemathesis from the server's own OpenAPI document."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from serving import serve
from test_datastore import write_dicom


@pytest.mark.parametrize("examples", [5, pytest.param(300, marks=pytest.mark.soak)])
@pytest.mark.timeout(0)
def test_no_request_makes_it_fail(tmp_path: Path, untrained: Path, examples: int) -> None:
    write_dicom(tmp_path / "studies" / "one.dcm", "1.2.840.1")
    with serve(
        tmp_path, tmp_path / "studies", workspace=tmp_path / "ws", weights=untrained
    ) as server:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
                *("--checks", "not_a_server_error", "--max-examples", str(examples)),
                *("--phases", "fuzzing", "--seed", "1", "--warnings", "off"),
                *("--continue-on-failure", "--no-shrink", "--workers", "1"),
                # A crowded machine is slow, which is no failure.
                *("--request-timeout", "600", "--suppress-health-check", "all"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        lines = [line for line in server.log.read_text().splitlines() if '"request"' in line]
        answers = [json.loads(line)["status"] for line in lines]
        assert len(answers) > 99 and max(answers) < 500
        assert server.get("/info/").json()["models"]["ft_mtl_net"]["version"] == "1"
    outside = {p.name for p in tmp_path.iterdir()} - {".hypothesis", ".schemathesis"}
    assert {n for n in outside if not n.startswith("server-")} == {"studies", "ws"}
