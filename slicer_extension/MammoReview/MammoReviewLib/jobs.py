"""Work off the main thread: one thread a job, its answer brought back by a timer.

Everything that calls back does so on the thread that calls `pump`, which in Slicer is the main
thread, from a QTimer. Nothing here touches Qt.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Any, Callable

from .ports import Cancelled, Timer
from .signal import Signal

PUMP_MILLISECONDS = 20
BREATH_SECONDS = 0.005  # of a pump; Slicer's event loop holds Python's lock between two


class Job:
    """One piece of work under way; also the `Cancellation` that the work looks at."""

    def __init__(self, name: str, key: str | None, case: str | None, lasting: bool) -> None:
        self.name, self.key, self.case, self.lasting = name, key, case, lasting
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
        self._later: list[tuple[float, Callable[[], None]]] = []
        timer.start(PUMP_MILLISECONDS, self.pump)

    @property
    def running(self) -> list[str]:
        """The names of what is under way, oldest first; background work has none."""
        return [job.name for job in self._running if job.name and not job.cancelled]

    def is_running(self, key: str) -> bool:
        """Whether a job of that key is under way and wanted."""
        return any(job.key == key and not job.cancelled for job in self._running)

    def start(
        self,
        work: Callable[[Job], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
        *,
        name: str = "",
        key: str | None = None,
        case: str | None = None,
        lasting: bool = False,
    ) -> Job | None:
        """Runs `work(job)` on a thread of its own, then `done(answer)` or `failed(error)`.

        `name` is what a person reads while it runs (empty: work in the background). While a job
        of the same `key` is under way, nothing is started and None returned. With a `case`, the
        answer is dropped unless that case is still the open one (`open_case`) when it comes.
        A `lasting` job is cancelled by its key only, not with everything else.
        """
        if key is not None and self.is_running(key):
            return None
        job = Job(name, key, case, lasting)
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

    def later(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Calls `call` after so many seconds; what is returned calls it off."""
        entry = (time.monotonic() + seconds, call)
        self._later.append(entry)
        return lambda: self._later.remove(entry) if entry in self._later else None

    def open_case(self, case: str | None) -> None:
        """Says which case is open now; work for every other case is cancelled."""
        self._case = case
        for job in list(self._running):
            if job.case is not None and job.case != case:
                job.cancel()
        self.changed.emit()

    def cancel(self, key: str | None = None) -> None:
        """Cancels the jobs of that key; without one, all that a person waits for."""
        for job in list(self._running):
            if job.key == key if key is not None else job.name and not job.lasting:
                job.cancel()
        self.changed.emit()

    def pump(self) -> None:
        """Delivers the answers that have come, and makes the calls that are due."""
        now = time.monotonic()
        for entry in [entry for entry in self._later if entry[0] <= now]:
            if entry in self._later:  # an earlier one may have called it off
                self._later.remove(entry)
                entry[1]()
        breath = BREATH_SECONDS if self._running else 0.0  # in which the jobs' threads run
        while True:
            try:
                job, deliver, value = self._answers.get(timeout=breath)
            except queue.Empty:
                return
            breath = 0.0
            self._running.remove(job)
            self.changed.emit()
            wanted = job.case is None or job.case == self._case
            if wanted and not job.cancelled and not isinstance(value, Cancelled):
                deliver(value)

    def close(self) -> None:
        """Cancels everything and stops the timer; late answers go nowhere."""
        self._timer.stop()
        self._later.clear()
        for job in self._running:
            job.cancel()


