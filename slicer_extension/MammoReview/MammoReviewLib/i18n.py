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
    """The sentence in the user's language.

    The context is the caller's package and file ("MammoReviewLib.widget"), as Slicer's tools that
    collect sentences name it.
    """
    if _translate is None:
        return text
    return _translate(str(sys._getframe(1).f_globals.get("__name__", "")), text)
