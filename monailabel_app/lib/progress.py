"""The report of a training: one small file, written by its process and read by the server."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from ftmtl.atomic import write_json
from ftmtl.training.loop import Progress

from .stamps import now

logger = logging.getLogger(__name__)
LEAST_SECONDS = 0.5  # between two reports of progress


class Report:
    """Writes the report: at once what is said, progress at most twice a second."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._written = 0.0
        me = psutil.Process()
        self._stats: dict[str, Any] = {
            "state": "running",
            "started": now(),
            "process": [me.pid, _began(me)],
        }
        write_json(file, self._stats)

    def say(self, **news: Any) -> dict[str, Any]:
        """Adds to the report; returns the whole of it."""
        self._stats.update(news, time=now())
        write_json(self._file, self._stats)
        self._written = time.monotonic()
        return _public(self._stats)

    def progress(self, progress: Progress) -> None:
        """Adds where the loop stands."""
        self._stats.update(asdict(progress))
        if time.monotonic() - self._written > LEAST_SECONDS:
            self.say()
            losses = " ".join(f"{k} {v:.3f}" for k, v in progress.losses.items())
            logger.info(
                "%s: epoch %d/%d step %d/%d %s",
                *(progress.stage, progress.epoch, progress.epochs),
                *(progress.step, progress.steps, losses),
            )


def read_report(file: Path) -> dict[str, Any]:
    """The report; one whose process has gone while it was running says `stopped`."""
    try:
        stats: dict[str, Any] = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
    if stats.get("state") == "running" and not _is_alive(stats.get("process")):
        stats["state"] = "stopped"
    return _public(stats)


def _public(stats: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in stats.items() if k != "process"}


def _began(process: psutil.Process) -> float:
    """Seconds from the machine's start to the process's: the same whatever is done to the clock."""
    return float(process.create_time() - psutil.boot_time())


def _is_alive(process: Any) -> bool:
    try:
        pid, born = process
        return bool(abs(_began(psutil.Process(pid)) - born) < 2)
    except (psutil.Error, TypeError, ValueError):
        return False
