"""Events of our own: PythonQt's signals of Python classes are not safe in Slicer."""

from __future__ import annotations

from typing import Any, Callable


class Signal:
    """Calls everyone who connected, in that order, on the thread that emits."""

    def __init__(self) -> None:
        self._slots: list[Callable[..., Any]] = []

    def connect(self, slot: Callable[..., Any]) -> None:
        """Calls `slot` at every `emit`; connecting it twice changes nothing."""
        if slot not in self._slots:
            self._slots.append(slot)

    def disconnect(self, slot: Callable[..., Any]) -> None:
        """Calls `slot` no more."""
        if slot in self._slots:
            self._slots.remove(slot)

    def emit(self, *values: Any) -> None:
        """Calls every slot with `values`; one that disconnects meanwhile is still called."""
        for slot in list(self._slots):
            slot(*values)
