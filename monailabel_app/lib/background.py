"""Work on the model that nobody waits for: batches, scoring, and filling the table in idle time.

One thread, one image at a time, each in a turn that is taken only when no reader waits. What was
asked for (`Job`) goes before what was not. None of it is lost by being cut off: readings are on the
disk, and the next run finds them there.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from fastapi import HTTPException

from .stamps import now

logger = logging.getLogger(__name__)

QUIET_SECONDS = 2.0  # after a reader's request, before idle work begins
IDLE_SECONDS = 15.0  # between looks for new images, at least
LISTED = 100  # failures named in a report

# Yields after each image; sees to its own turn. What it returns is the job's result.
Steps = Generator[None, None, Any]
# Returns the seconds until it is worth beginning again.
IdleSteps = Generator[None, None, float]


class Busy(RuntimeError):
    """A job of that kind is under way; says since when."""


@dataclass
class Job:
    """Something asked for, and how far it is. Statuses are those of MONAI Label's tasks."""

    kind: str
    request: dict[str, Any]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "SUBMITTED"  # RUNNING | DONE | STOPPED | ERROR
    total: int = 0
    done: int = 0
    cached: int = 0  # of those done: known before
    failed: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)  # image, reason
    result: Any = None
    reason: str | None = None
    start_ts: str = field(default_factory=now)
    end_ts: str | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def runs(self) -> bool:
        """Whether it is under way."""
        return self.status in ("SUBMITTED", "RUNNING")

    def fail(self, image: str, reason: str) -> None:
        """Notes an image that could not be read; the others go on."""
        self.failed += 1
        if len(self.failures) < LISTED:
            self.failures.append({"image": image, "reason": reason})

    def to_json(self) -> dict[str, Any]:
        """What a client sees."""
        read = self.done - self.cached
        left = self.total - self.done
        pace = (time.monotonic() - self.began) / read if read else None
        report = {name: getattr(self, name) for name in self.__dataclass_fields__}
        del report["began"]
        report["seconds_left"] = round(left * pace) if pace and self.runs else None
        return report


class Background:
    """The thread, its jobs by kind, and what it does when there are none."""

    def __init__(
        self,
        idle: Callable[[], IdleSteps],
        *,
        quiet_for: Callable[[], float],
        rests: Callable[[], bool],
        at_end: Callable[[], None],
    ) -> None:
        """`idle` makes the idle work; it waits for quiet, and while `rests` says so."""
        self._idle, self._quiet_for, self._rests, self._at_end = idle, quiet_for, rests, at_end
        self._jobs: dict[str, tuple[Job, Steps]] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="background", daemon=True)

    def start(self) -> None:
        """Begins, until the process ends: then the image in hand is finished first."""
        self._thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Ends after the image in hand."""
        self._ends.set()
        self._wake.set()
        self._thread.join(timeout=30)
        self._at_end()

    def begin(self, job: Job, steps: Steps) -> Job:
        """Puts a job in the queue. Raises Busy while one of its kind is under way."""
        with self._lock:
            present = self._jobs.get(job.kind)
            if present is not None and present[0].runs:
                raise Busy(f"{job.kind} has been running since {present[0].start_ts}")
            self._jobs[job.kind] = job, steps
        self._wake.set()
        return job

    def job(self, kind: str) -> Job | None:
        """The latest job of a kind."""
        present = self._jobs.get(kind)
        return present[0] if present else None

    def cancel(self, kind: str) -> Job | None:
        """Stops a job after the image in hand; None where none is under way."""
        with self._lock:
            present = self._jobs.get(kind)
            if present is None or not present[0].runs:
                return None
            _end(present[0], "STOPPED")
        return present[0]

    def _run(self) -> None:
        idle: IdleSteps | None = None
        while not self._ends.is_set():
            self._wake.clear()
            present = next((p for p in list(self._jobs.values()) if p[0].runs), None)
            if present is not None:
                self._step(*present)
                continue
            if self._rests() or self._quiet_for() < QUIET_SECONDS:
                self._wake.wait(QUIET_SECONDS / 4)
                continue
            try:
                if idle is None:
                    idle = self._idle()
                next(idle)
            except StopIteration as end:
                idle = None
                self._wake.wait(max(IDLE_SECONDS, end.value))
            except Exception:
                logger.exception("Work in idle time failed; it is tried again later")
                idle = None
                self._wake.wait(4 * IDLE_SECONDS)

    def _step(self, job: Job, steps: Steps) -> None:
        try:
            with self._lock:
                if job.status == "SUBMITTED":
                    job.status = "RUNNING"
            next(steps)
        except StopIteration as end:
            job.result = end.value
            self._finish(job, "DONE")
        except Exception as error:
            logger.exception("%s failed", job.kind)
            job.reason = _reason(error)
            self._finish(job, "ERROR")

    def _finish(self, job: Job, status: str) -> None:
        with self._lock:
            if job.runs:
                _end(job, status)


def _reason(error: Exception) -> str:
    """What a client is told of it: a refusal's own words; of others no path, and no header."""
    if isinstance(error, HTTPException):
        return str(error.detail)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"it failed ({type(error).__name__}); the server's log says where"


def _end(job: Job, status: str) -> None:
    job.status, job.end_ts = status, now()
