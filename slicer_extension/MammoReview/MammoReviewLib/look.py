"""How words look: colours that can be read on any ground, sizes that go with the reader's font."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import qt

LEAST_CONTRAST = 4.5  # of words with their ground: WCAG 2.1, level AA
STEPS = 20
HEADLINE = 1.4  # times the font


def as_text(colour: str) -> str:
    """A colour as words may have it on the grounds of the present theme, light or dark."""
    palette = qt.QApplication.palette()
    grounds = (palette.window(), palette.base(), palette.alternateBase())
    return legible(colour, tuple(brush.color().name() for brush in grounds))


@cache
def legible(colour: str, grounds: tuple[str, ...]) -> str:
    """The colour, as little darker or lighter as makes it readable on all of these."""
    end = max(((0, 0, 0), (255, 255, 255)), key=lambda end: _least(end, grounds))
    for step in range(STEPS + 1):
        mixed = [round(a + (b - a) * step / STEPS) for a, b in zip(_rgb(colour), end)]
        if _least(mixed, grounds) >= LEAST_CONTRAST:
            break
    return "#" + "".join(f"{part:02x}" for part in mixed)


def headline_size() -> str:
    """The size of the one line that is larger, for a style sheet."""
    font = qt.QApplication.font()
    if font.pointSizeF() > 0:
        return f"{HEADLINE * font.pointSizeF():.1f}pt"
    return f"{HEADLINE * font.pixelSize():.0f}px"


def row_height() -> int:
    """The height of a table's row, in pixels."""
    return int(1.6 * qt.QFontMetrics(qt.QApplication.font()).height())


def table_height(rows: int) -> int:
    """The height of a table with a header and room for so many rows, in pixels."""
    return (rows + 1) * row_height() + 4


def height_of_lines(count: int) -> int:
    """The height of so many lines of words and a little air, in pixels."""
    return count * int(qt.QFontMetrics(qt.QApplication.font()).lineSpacing()) + 8


def contrast(one: str, other: str) -> float:
    """Of two colours, 1 to 21, as WCAG 2.1 defines it."""
    return _contrast(_rgb(one), _rgb(other))


def _least(colour: Sequence[int], grounds: tuple[str, ...]) -> float:
    return min(_contrast(colour, _rgb(ground)) for ground in grounds)


def _contrast(one: Sequence[int], other: Sequence[int]) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: Sequence[int]) -> float:
    parts = [part / 255 for part in colour]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear))


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
