"""Threads where they pay: small linear algebra runs up to fifty times slower on several threads than on one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cvxsae.relaxations.problem import Problem

_WORTH_SHARING = 5e7


@contextmanager
def threads_for(problem: Problem) -> Iterator[None]:
    """One thread while a small problem is worked on: see :func:`threads_for_cost`, with ``problem.evaluation_cost``."""
    with threads_for_cost(problem.evaluation_cost):
        yield


@contextmanager
def threads_for_cost(cost: float) -> Iterator[None]:
    """One thread if a step takes fewer than 5e7 multiplications, the process's own setting else; restored after.

    On less, threads would spend their time waiting for each other.
    """
    with threadpool_limits(limits=1 if cost < _WORTH_SHARING else None):
        yield
