"""Threads where they pay: small linear algebra runs up to fifty times slower on several threads than on one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cvxsae.relaxations import Problem

_WORTH_SHARING = 5e7


@contextmanager
def threads_for(problem: Problem) -> Iterator[None]:
    """One thread while a small problem is worked on, the process's own setting otherwise; restored on the way out.

    Small means fewer than 5e7 multiplications in one evaluation (``problem.evaluation_cost``): threads would spend
    their time waiting for each other.
    """
    if problem.evaluation_cost >= _WORTH_SHARING:
        yield
        return
    with threadpool_limits(limits=1):
        yield
