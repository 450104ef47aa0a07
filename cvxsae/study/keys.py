"""The values that the keys of a study may have; every wrong value is refused in one sentence.

A key is named with its table, as in the TOML file: ``[grid] n_atoms``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from cvxsae.data.tensors import LARGEST
from cvxsae.errors import InputError, in_short

LARGEST_WHOLE = 2**63 - 1
"""Largest whole number that a column of a table holds."""


@dataclass(frozen=True)
class Key:
    """What one value of a key may be, in code and in words, whether the key holds several, and the type they become.

    One type for each key: ``1`` and ``1.0``, or a numpy number, must not make two cells of one.
    """

    fits: Callable[[Any], bool]
    allowed: str
    many: bool = False
    names: tuple[str, ...] = ()
    kind: Callable[[Any], Any] = lambda value: value

    def read(self, value: Any, name: str) -> Any:
        """The value, or the tuple of values without repeats; a single value may stand for a list of one."""
        if not self.many:
            if not self.fits(value):
                refuse(name, value, self.allowed + nearest(value, self.names))
            return self.kind(value)
        values = list(value) if isinstance(value, list | tuple | range) else [value]
        if not values:
            refuse(name, value, f"a list with at least one entry: {self.allowed}")
        for one in values:
            if not self.fits(one):
                refuse(name, one, self.allowed + nearest(one, self.names))
        return tuple(dict.fromkeys(self.kind(one) for one in values))


def refuse(name: str, value: Any, allowed: str) -> NoReturn:
    """Say what was found at a key and what it must be."""
    raise InputError(f"{name} is {in_short(value)}; it must be {allowed}.")


def nearest(word: Any, words: Collection[str]) -> str:
    """`` (did you mean ...?)``, or nothing if no word is close."""
    close = difflib.get_close_matches(str(word), words, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _count(least: int) -> Callable[[Any], bool]:
    return lambda v: _is_number(v) and least <= v <= LARGEST_WHOLE and int(v) == v


def _positive(value: Any) -> bool:
    return _is_number(value) and 1 / LARGEST <= _float(value) <= LARGEST


def is_nonnegative(value: Any) -> bool:
    """Whether a value is a number of zero or more whose square float64 can hold."""
    return _is_number(value) and 0 <= _float(value) <= LARGEST


def _float(value: Any) -> float:
    """As a float, infinite where a whole number is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def one_of(names: Sequence[str], *, many: bool = False) -> Key:
    """A key that holds names out of a list."""
    return Key(
        lambda value: isinstance(value, str) and value in names, f"one of {', '.join(names)}", many, tuple(names)
    )


COUNT = Key(_count(1), "a whole number of at least 1", kind=int)
SEED = Key(_count(0), "a whole number of at least 0", kind=int)
SHARE = Key(lambda value: _positive(value) and value < 1, "a share of the rows, between 0 and 1", kind=float)
LEVEL = Key(lambda value: _positive(value) and value < 1, "a number between 0 and 1, such as 0.95", kind=float)
POSITIVE = Key(_positive, "a number above zero", kind=float)
YES_OR_NO = Key(lambda value: isinstance(value, bool), "true or false")
TEXT = Key(lambda value: isinstance(value, str) and bool(value), "a text in quotes")
COUNTS = Key(_count(1), "whole numbers of at least 1", many=True, kind=int)
SEEDS = Key(_count(0), "whole numbers of at least 0", many=True, kind=int)
POSITIVES = Key(_positive, "numbers above zero", many=True, kind=float)
NONNEGATIVES = Key(is_nonnegative, "numbers of zero or more", many=True, kind=float)


def known(table: str, given: Any, keys: Collection[str]) -> Mapping[str, Any]:
    """The table, if it is one and every key in it is known."""
    if not isinstance(given, Mapping):
        refuse(f"[{table}]", given, f"a table of {', '.join(sorted(keys))}")
    for key in given:
        if key not in keys:
            close = nearest(key, keys)
            raise InputError(
                f"[{table}] has the unknown key {in_short(key)}{close}; its keys are {', '.join(sorted(keys))}."
            )
    return given
