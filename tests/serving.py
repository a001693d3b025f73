"""A real server process on loopback, with weights made for the test."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import requests
import torch

from ftmtl.config import RECOMMENDED
from ftmtl.network.model import build
from ftmtl.weights_file import save_weights

SECONDS_TO_START = 900  # seconds on a machine of one's own, minutes on a crowded one
# The plainest heads: of these a random draw leaves boxes near their anchors.
PAPERS_HEADS: Any = {"variant": "ft-mtl-net", "boxes_from": "mean"}
APP = Path(__file__).resolve().parent.parent / "monailabel_app"


def random_weights(file: Path) -> Path:
    """Untrained weights that behave: every layer's output is of the order of one."""
    torch.manual_seed(3)
    # Its boxes agree on nothing, so a consensus would leave no finding to work with.
    config = replace(RECOMMENDED.network, settled_by="suppression", **PAPERS_HEADS)
    network = build(config, frozen_backbone=RECOMMENDED.training.frozen_backbone)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:  # takes the statistics of one canvas of noise for its own
        norm.momentum = 1.0
        norm.train()
    height, width = RECOMMENDED.network.canvas
    with torch.no_grad():
        network.backbone(torch.rand(1, 1, height, width), torch.ones(1, height, width).bool())
        for last in (network.rpn.deltas, network.detection.deltas, network.classification.classes):
            last.weight.mul_(0.02)  # boxes near their anchors, classes near a third each
    save_weights(file, network, preset=replace(RECOMMENDED, network=config), metadata={})
    return file


@dataclass
class Server:
    """A running server."""

    process: psutil.Process
    url: str
    log: Path
    seconds_to_start: float

    def get(self, path: str, **query: Any) -> requests.Response:
        return requests.get(self.url + path, params=query, timeout=300)

    def post(self, path: str, **keywords: Any) -> requests.Response:
        return requests.post(self.url + path, timeout=300, **keywords)

    def put(self, path: str, **keywords: Any) -> requests.Response:
        return requests.put(self.url + path, timeout=300, **keywords)

    def delete(self, path: str, **keywords: Any) -> requests.Response:
        return requests.delete(self.url + path, timeout=300, **keywords)

    def peak_megabytes(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (row for row in status.splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    def children(self) -> list[psutil.Process]:
        return list(self.process.children(recursive=True))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def serve(
    folder: Path,
    studies: Path,
    *,
    workspace: Path,
    weights: Path,
    stock: bool = False,
    port: int | None = None,
    options: Sequence[str | Path] = (),
    by_command: bool = False,
) -> Iterator[Server]:
    """Starts `ftmtl-serve`, or MONAI Label's own server, and waits until it answers.

    `options` are more of the launcher's. It is forked from a process that has imported it, unless
    it is to be started as users do, `by_command`.
    """
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    if stock:
        command = ["-m", "monailabel.main", "start_server", "--app", APP, "--studies", studies]
        command += ["--conf", "workspace", workspace, "--conf", "weights", weights]
        command += ["--conf", "device", "cpu", "--host", "127.0.0.1", "--port", port]
    else:
        command = ["-m", "monailabel_app.serve", "--studies", studies, "--workspace", workspace]
        command += ["--weights", weights, "--device", "cpu", "--port", port, *options]
    arguments = [str(part) for part in command]
    log = folder / f"server-{port}.log"
    began = time.monotonic()
    if stock or by_command:
        process = _start(arguments, folder, log)
    else:
        process = _fork(arguments[2:], folder, log)
    secure = "--tls-cert" in options
    url = f"{'https' if secure else 'http'}://127.0.0.1:{port}"
    try:
        while True:
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"{url}/info/", timeout=60, verify=False)
                break
            assert process.is_running(), log.read_text()[-4000:]
            assert time.monotonic() - began < SECONDS_TO_START, log.read_text()[-4000:]
            time.sleep(0.1)
        yield Server(process, url, log, time.monotonic() - began)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
            try:
                process.wait(30)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait()


def _start(arguments: list[str], folder: Path, log: Path) -> psutil.Process:
    with open(log, "wb") as output:
        return psutil.Popen(
            [sys.executable, *arguments],
            stdout=output, stderr=subprocess.STDOUT, env=_environment(), cwd=folder,
        )  # fmt: skip


def _fork(arguments: list[str], folder: Path, log: Path) -> psutil.Process:
    order = {"arguments": arguments, "folder": str(folder), "log": str(log)}
    nursery = _nursery()
    assert nursery.stdin is not None and nursery.stdout is not None
    nursery.stdin.write(json.dumps({**order, "environment": _environment()}) + "\n")
    nursery.stdin.flush()
    return psutil.Process(int(nursery.stdout.readline()))


@functools.cache
def _nursery() -> subprocess.Popen[str]:
    """The process that servers are forked from; it ends with this one."""
    nursery = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("server_nursery.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(), text=True,
    )  # fmt: skip
    assert nursery.stdin is not None
    atexit.register(nursery.stdin.close)
    return nursery


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(APP.parent)}
