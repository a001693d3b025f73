"""Keys of the open panel; they act also where the button that they stand for is folded away."""

from __future__ import annotations

from typing import Any, Callable

import qt


class Keys:
    """Keys and what they do. Between `listen` and `deafen` they act wherever the window is.

    `said`: the same for people, keys that belong together in one line.
    """

    def __init__(
        self,
        keys: list[tuple[str, Callable[[], Any]]],
        said: list[tuple[str, str]],
        *,
        repeating: tuple[str, ...] = (),
    ) -> None:
        """Those that are `repeating` act again and again while they are held."""
        self.said = said
        self._keys, self._repeating = keys, repeating
        self._shortcuts: list[tuple[str, Any]] = []

    def listen(self, window: Any) -> None:
        """Keys of `window` act."""
        self.deafen()
        for key, action in self._keys:
            shortcut = qt.QShortcut(qt.QKeySequence(key), window)
            shortcut.setAutoRepeat(key in self._repeating)
            shortcut.activated.connect(action)
            self._shortcuts.append((key, shortcut))

    def deafen(self) -> None:
        """Keys belong to others again."""
        for _key, shortcut in self._shortcuts:
            shortcut.setEnabled(False)
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts.clear()

    def leave_only(self, key: str | None) -> None:
        """This one alone acts; None: all do."""
        for name, shortcut in self._shortcuts:
            shortcut.setEnabled(key in (None, name))
