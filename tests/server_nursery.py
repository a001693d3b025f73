"""Starts servers quickly: forked from this process, which has imported all that they need.

Imports are most of a start, and the tests start some thirty servers. Each is a process of its own,
with its own environment, folder and log, running `ftmtl-serve` from its first line. An order is a
line of JSON on standard input; the answer on standard output is the server's process id.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from ftmtl.lean import load_monai

load_monai()
import monailabel_app.main  # noqa: E402
import monailabel_app.server.routes  # noqa: E402, F401
from monailabel_app.serve import main  # noqa: E402


def become_server(order: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    sys.exit(main(order["arguments"]))


def look_after() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who ends leaves no zombie
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            become_server(json.loads(line))
        print(pid, flush=True)


if __name__ == "__main__":
    look_after()
