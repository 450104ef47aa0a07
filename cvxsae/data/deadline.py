"""The deadline of the current work, which is checked between its blocks and steps.

Whoever can go on without the answer says until when it is worth waiting for (:func:`until`). Every pass over data and
every long factorization asks (:func:`go_on`), and is given up once that moment has passed: what was there before is
what is returned. Where nothing says so, nothing is given up. Threads that are started inside do not ask.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_moment: ContextVar[float] = ContextVar("moment", default=math.inf)


class OutOfTime(Exception):  # noqa: N818
    """Work was given up. It never leaves the package: who limited the work goes on without it."""


@contextmanager
def until(moment: float) -> Iterator[None]:
    """Give the work inside up at a moment of ``time.perf_counter``, or at that of the work around it if it is earlier.

    Raises
    ------
    OutOfTime
        Once it has passed, at the next block or step.
    """
    before = _moment.set(min(moment, _moment.get()))
    try:
        yield
    finally:
        _moment.reset(before)


@contextmanager
def whatever_the_time() -> Iterator[None]:
    """Do not give up what is inside: it is what will be returned, or written to a file."""
    before = _moment.set(math.inf)
    try:
        yield
    finally:
        _moment.reset(before)


def go_on() -> None:
    """Raise :class:`OutOfTime` if the work in hand is to be given up by now."""
    if is_over():
        raise OutOfTime


def is_over() -> bool:
    """Whether the work in hand is to be given up by now, for loops that can end early with what they have."""
    moment = _moment.get()
    return moment < math.inf and time.perf_counter() >= moment
