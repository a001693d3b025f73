"""Reading a JSON object field by field, with a reason for everything that is not as it must be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar


class InvalidFindings(ValueError):
    """A document that breaks the vocabulary; the message is one sentence and names the finding."""


_Choice = TypeVar("_Choice", bound=str)


class Fields:
    """One JSON object whose names are known; each method reads a field of one type."""

    def __init__(
        self, value: object, where: str, names: Sequence[str], *, optional: Sequence[str] = ()
    ) -> None:
        """A field of `optional` that is missing is null."""
        if not isinstance(value, dict):
            raise InvalidFindings(f"{where} must be a JSON object.")
        for name in names:
            if name not in value:
                raise InvalidFindings(f"{where}: {name} is missing.")
        for name in value:
            if name not in (*names, *optional):
                raise InvalidFindings(f"{where}: {name!r} is not a known name.")
        self._value, self._where = {name: None for name in optional} | value, where

    def __getitem__(self, name: str) -> object:
        return self._value[name]

    def text(self, name: str) -> str:
        """A string."""
        value = self[name]
        check_text(value, f"{self._where}: {name}")
        return str(value)

    def optional_text(self, name: str) -> str | None:
        """A string or None."""
        return None if self[name] is None else self.text(name)

    def choice(self, name: str, options: Sequence[_Choice]) -> _Choice:
        """One of the options."""
        value = self[name]
        check_choice(value, options, f"{self._where}: {name}")
        return next(option for option in options if option == value)

    def optional_choice(self, name: str, options: Sequence[_Choice]) -> _Choice | None:
        """One of the options or None."""
        return None if self[name] is None else self.choice(name, options)

    def number(self, name: str) -> float:
        """A finite number."""
        return _number(self[name], f"{self._where}: {name}")

    def optional_number(self, name: str) -> float | None:
        """A finite number or None."""
        return None if self[name] is None else self.number(name)

    def integer(self, name: str) -> int:
        """A whole number; JSON Schema counts 512.0 as one, and so do we."""
        return _integer(self[name], f"{self._where}: {name}")

    def items(self, name: str, length: int | None = None) -> list[object]:
        """A list, of `length` items if that is given."""
        value = self[name]
        if not isinstance(value, list) or (length is not None and len(value) != length):
            wanted = "a list" if length is None else f"a list of {length}"
            raise InvalidFindings(f"{self._where}: {name} must be {wanted}.")
        return value

    def numbers(self, name: str, length: int) -> list[float]:
        """A list of `length` finite numbers."""
        here = f"{self._where}: {name}"
        return [_number(value, here) for value in self.items(name, length)]

    def integers(self, name: str, length: int | None = None) -> list[int]:
        """A list of whole numbers."""
        here = f"{self._where}: {name}"
        return [_integer(value, here) for value in self.items(name, length)]


def _number(value: object, here: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise InvalidFindings(f"{here} must be a finite number.")


def _integer(value: object, here: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise InvalidFindings(f"{here} must be a whole number.")


def check_choice(value: object, options: Sequence[str], here: str) -> None:
    """Raise InvalidFindings unless `value` is one of `options`; `here` begins the message."""
    if value not in options:
        raise InvalidFindings(f"{here} must be one of {', '.join(options)}.")


def check_text(value: object, here: str) -> None:
    """Raise InvalidFindings unless `value` is text; JSON may name half a pair of surrogates."""
    try:
        if isinstance(value, str):
            value.encode()
            return
    except UnicodeEncodeError:
        pass
    raise InvalidFindings(f"{here} must be a string of whole characters.")


def check_range(value: float, least: float, most: float, here: str) -> None:
    """Raise InvalidFindings unless `value` is finite and between `least` and `most`."""
    if not (math.isfinite(value) and least <= value <= most):
        wanted = f"between {least} and {most}" if math.isfinite(most) else f"at least {least}"
        raise InvalidFindings(f"{here} must be {wanted}.")
