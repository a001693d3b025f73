"""MONAI Label's training tasks: run one after the other, and told as they stand.

A training reports for itself (`progress`) while it runs. Only the server knows of its beginning,
which takes seconds, and of an end that it did not see come, as when memory runs out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from monailabel.utils.async_tasks.utils import processes

logger = logging.getLogger(__name__)

Task = dict[str, Any]


class TrainingTasks:
    """Takes the place of MONAI Label's executor of them.

    That forgets a task which could not be started or followed, and then every later training is
    refused, since that one seems to run.
    """

    def __init__(self, report: Callable[[], dict[str, Any]]) -> None:
        """`report` is what the latest training that came to it has said of itself."""
        self._report = report
        self._pool = ThreadPoolExecutor(1, "training")
        self._latest: Task | None = None
        self._before: Any = None  # which report there was when the latest was asked for

    def submit(self, run: Callable[..., None], task: Task, *more: Any) -> None:
        """As MONAI Label calls it: `run(task, …)` starts the task's process and stays with it."""
        self._latest, self._before = task, self._report().get("started")
        self._pool.submit(self._run, run, task, *more)

    def stats(self) -> dict[str, Any]:
        """How the latest training stands; `state` is running, done, failed or stopped."""
        report = self._report()
        if self._latest is None or report.get("state") == "running":
            return report
        status = self._latest["status"]
        has_spoken = report.get("started") != self._before
        if status in ("SUBMITTED", "RUNNING"):
            return report if has_spoken else {"state": "running"}
        if status == "STOPPED" and not has_spoken:
            return {"state": "stopped"}
        if status == "ERROR" and not has_spoken:
            reason = "it ended before it had begun; its task has the last lines that it wrote"
            return {"state": "failed", "reason": reason}
        if status == "ERROR" and report.get("state") == "stopped":
            reason = "its process was ended from outside, as the system does when memory runs out"
            return {**report, "state": "failed", "reason": reason}
        return report

    def _run(self, run: Callable[..., None], task: Task, *more: Any) -> None:
        try:
            run(task, *more)
        except Exception as error:
            logger.exception("A training could not be started or followed")
            if process := processes("train").pop(task["id"], None):
                process.kill()
            details = [f"its process could not be started or followed ({type(error).__name__})"]
            task["status"], task["details"] = "ERROR", details
            task["end_ts"] = f"{datetime.today():%Y-%m-%d %H:%M:%S}"
