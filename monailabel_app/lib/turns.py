"""Whose turn it is at the model: readers in the order they came, other work when none waits."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """One at a time. A turn of other work is one image long, so no reader waits for more."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[object] = deque()  # of readers; the first may be being served
        self._taken = False  # by other work
        self._last_reader = time.monotonic()

    @contextmanager
    def reader(self) -> Iterator[None]:
        """A turn for somebody who waits for the answer."""
        ticket = object()
        with self._changed:
            self._line.append(ticket)
            self._changed.wait_for(lambda: not self._taken and self._line[0] is ticket)
        try:
            yield
        finally:
            with self._changed:
                self._line.popleft()
                self._last_reader = time.monotonic()
                self._changed.notify_all()

    @contextmanager
    def other(self) -> Iterator[None]:
        """A turn when no reader waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken and not self._line)
            self._taken = True
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()

    def quiet_for(self) -> float:
        """Seconds since a reader was last here; 0 while one waits or is being served."""
        with self._changed:
            return 0.0 if self._line else time.monotonic() - self._last_reader
