"""Work off the main thread: one thread a job, its answer brought back by a timer.

Everything that calls back does so on the thread that calls `pump`, which in Slicer is the main
thread, from a QTimer. Nothing here touches Qt.
"""

from __future__ import annotations

import queue
import threading
from typing import Any, Callable

from .ports import Timer
from .signal import Signal

PUMP_MILLISECONDS = 20


class Cancelled(Exception):
    """The work was cancelled; nobody waits for its answer."""


class Job:
    """One piece of work under way; also the `Cancellation` that the work looks at."""

    def __init__(self, name: str, key: str | None, case: str | None) -> None:
        self.name, self.key, self.case = name, key, case
        self._lock = threading.Lock()
        self._cancelled = False
        self._closers: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled

    def cancel(self) -> None:
        """Ends the work as soon as it notices, and drops its answer in any case."""
        with self._lock:
            self._cancelled = True
            closers, self._closers = self._closers, []
        for close in closers:
            close()

    def on_cancel(self, close: Callable[[], None]) -> None:
        """Calls `close` when it is cancelled; at once if it already is."""
        with self._lock:
            if not self._cancelled:
                self._closers.append(close)
                return
        close()

    def forget(self, close: Callable[[], None]) -> None:
        """Does not call `close` any more."""
        with self._lock:
            if close in self._closers:
                self._closers.remove(close)


class Jobs:
    """Starts jobs and brings their answers back.

    `changed` is emitted when a job begins or ends: `running` then says what is under way.
    """

    def __init__(self, timer: Timer) -> None:
        self.changed = Signal()
        self._timer = timer
        self._answers: queue.Queue = queue.Queue()
        self._running: list[Job] = []
        self._case: str | None = None
        timer.start(PUMP_MILLISECONDS, self.pump)

    @property
    def running(self) -> list[str]:
        """The names of what is under way, oldest first; background work has none."""
        return [job.name for job in self._running if job.name]

    def is_running(self, key: str) -> bool:
        """Whether a job of that key is under way."""
        return any(job.key == key for job in self._running)

    def start(
        self,
        work: Callable[[Job], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
        *,
        name: str = "",
        key: str | None = None,
        case: str | None = None,
    ) -> Job | None:
        """Runs `work(job)` on a thread of its own, then `done(answer)` or `failed(error)`.

        `name` is what a person reads while it runs (empty: work in the background). While a job
        of the same `key` is under way, nothing is started and None returned. With a `case`, the
        answer is dropped unless that case is still the open one (`open_case`) when it comes.
        """
        if key is not None and self.is_running(key):
            return None
        job = Job(name, key, case)
        self._running.append(job)

        def run() -> None:
            try:
                answer = work(job)
            except BaseException as error:
                self._answers.put((job, failed, error))
            else:
                self._answers.put((job, done, answer))

        threading.Thread(target=run, name=name or key or "job", daemon=True).start()
        self.changed.emit()
        return job

    def open_case(self, case: str | None) -> None:
        """Says which case is open now; work for every other case is cancelled."""
        self._case = case
        for job in list(self._running):
            if job.case is not None and job.case != case:
                job.cancel()

    def cancel(self, key: str | None = None) -> None:
        """Cancels the jobs of that key; all that have a name (a person waits for) without one."""
        for job in list(self._running):
            if job.key == key if key is not None else job.name:
                job.cancel()

    def pump(self) -> None:
        """Delivers the answers that have come. The timer calls it; tests may too."""
        while True:
            try:
                job, deliver, value = self._answers.get_nowait()
            except queue.Empty:
                return
            self._running.remove(job)
            self.changed.emit()
            wanted = job.case is None or job.case == self._case
            if wanted and not job.cancelled and not isinstance(value, Cancelled):
                deliver(value)

    def close(self) -> None:
        """Cancels everything and stops the timer; late answers go nowhere."""
        self._timer.stop()
        for job in self._running:
            job.cancel()


