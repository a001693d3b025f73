"""Undo and redo over states that never change."""

from __future__ import annotations

from typing import Any


class History:
    """The present state, those before it and those that were taken back, each with its name."""

    def __init__(self, present: Any) -> None:
        self.present = present
        self._past: list[tuple[str, Any]] = []  # the step's name, the state before it
        self._future: list[tuple[str, Any]] = []  # the step's name, the state after it

    @property
    def undo_name(self) -> str:
        """The step that `undo` takes back; empty without one."""
        return self._past[-1][0] if self._past else ""

    @property
    def redo_name(self) -> str:
        """The step that `redo` does again; empty without one."""
        return self._future[-1][0] if self._future else ""

    def step(self, state: Any, name: str) -> None:
        """One more step; what was taken back before is gone."""
        self._past.append((name, self.present))
        self._future.clear()
        self.present = state

    def amend(self, state: Any) -> None:
        """Changes the present without a step of its own."""
        self.present = state

    def undo(self) -> None:
        """Takes the last step back; nothing without one."""
        if self._past:
            name, state = self._past.pop()
            self._future.append((name, self.present))
            self.present = state

    def redo(self) -> None:
        """Does the step again that was taken back last; nothing without one."""
        if self._future:
            name, state = self._future.pop()
            self._past.append((name, self.present))
            self.present = state
