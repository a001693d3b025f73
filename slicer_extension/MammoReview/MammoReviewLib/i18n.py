"""Sentences for people, in their language where Slicer has a translation.

Rooms without Qt say `_("…")`. Outside Slicer that is the sentence itself; inside, the entry file
hands Slicer's translator in with `use`.
"""

from __future__ import annotations

import sys
from typing import Callable

_translate: Callable[[str, str], str] | None = None


def use(translate: Callable[[str, str], str] | None) -> None:
    """Translates from now on by `translate(context, text)`; None: not at all."""
    global _translate
    _translate = translate


def _(text: str) -> str:
    """The sentence in the user's language; the context is the caller's file, as Slicer has it."""
    if _translate is None:
        return text
    caller = str(sys._getframe(1).f_globals.get("__name__", ""))
    return _translate(caller.rsplit(".", 1)[-1], text)
