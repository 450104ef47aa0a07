"""Threads: small linear algebra runs up to fifty times slower on several threads than on one."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from threadpoolctl import ThreadpoolController

from cvxsae.data.deadline import go_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from cvxsae.relaxations.problem import Problem

Result = TypeVar("Result")

WORTH_SHARING = 5e7
"""Multiplications in a step from which threads gain more than their barriers cost; measured to a factor of two."""


@contextmanager
def threads_for(problem: Problem) -> Iterator[None]:
    """One thread while a small problem is worked on: see :func:`threads_for_cost`, with ``problem.evaluation_cost``."""
    with threads_for_cost(problem.evaluation_cost):
        yield


@contextmanager
def threads_for_cost(cost: float) -> Iterator[None]:
    """One thread if a step takes fewer than 5e7 multiplications, the process's own setting else; restored after.

    On less, threads would spend their time waiting for each other. Besides, sums are then added up in one order, so a
    small problem has the same answer bit for bit whatever ran before it in the process. Both need torch's own setting:
    the MKL inside torch takes its threads from OpenMP only until someone first calls ``torch.set_num_threads`` (as
    every coding on several threads does), and no library that limits threads sees it.
    """
    if cost >= WORTH_SHARING:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # even where it is 1 by OpenMP: MKL may have more
    try:
        with library_threads(1):
            yield
    finally:
        torch.set_num_threads(before)


def library_threads(limit: int | None, *, user_api: str | None = None) -> AbstractContextManager[Any]:
    """Limit the threads of the libraries of linear algebra (or of those of one API); None leaves them as they are."""
    return nullcontext() if limit is None else _libraries().limit(limits=limit, user_api=user_api)


_LISTENING = 0.1
"""Seconds between two looks whether a native call is done: an interrupt waits no longer."""


def interruptible(call: Callable[[], Result]) -> Result:
    """Return what a native call returns that hears nothing of Ctrl-C or the deadline: it runs in a thread of its own.

    After either that thread is left to itself, and what it returns is not wanted any more. Other threads than the
    main one are never interrupted; there the call runs where it is.

    Raises
    ------
    OutOfTime
        If the deadline of the work in hand passes meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    outcome = begun(call)
    while not outcome.done():
        wait([outcome], timeout=_LISTENING)
        if not outcome.done():
            go_on()
    return outcome.result()


def begun(call: Callable[[], Result]) -> Future[Result]:
    """What a native call will return: it runs in a thread that the end of the process does not wait for."""
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # raised again where it is waited for
            outcome.set_exception(error)

    threading.Thread(target=copy_context().run, args=(run,), daemon=True).start()
    return outcome


_found: tuple[int, ThreadpoolController] | None = None


def _libraries() -> ThreadpoolController:
    """The libraries that are loaded, looked for again once a module has been imported.

    The search takes milliseconds, and Python loses a Ctrl-C that comes in it: it runs through callbacks from C.
    """
    global _found
    if _found is None or _found[0] != len(sys.modules):
        with interrupts_later():
            _found = (len(sys.modules), ThreadpoolController())
    return _found[1]


@contextmanager
def interrupts_later() -> Iterator[None]:
    """Let a Ctrl-C wait until the end of the block, where it would be lost in the middle."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[Any] = []
    signal.signal(signal.SIGINT, lambda *received: came.append(received))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if came:
        handler(*came[-1])


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run torch on so many threads; the caller's number is back at the end, whatever ends it."""
    before = torch.get_num_threads()
    try:
        if count != before:
            torch.set_num_threads(count)
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextmanager
def worker_pool(workers: int, name: str, threads: int) -> Iterator[ThreadPoolExecutor]:
    """Workers that each run torch on so many threads.

    At the end what has not begun is cancelled, what has begun is waited for, and torch has the caller's number of
    threads again, whatever ended the work. Workers do not inherit what torch keeps per thread (autocast, inference
    mode, a default device), so none of it reaches their arithmetic.
    """
    before = torch.get_num_threads()
    start = None if threads == before else partial(torch.set_num_threads, threads)
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name, initializer=start)
    try:
        yield pool
    finally:
        try:
            pool.shutdown(wait=True, cancel_futures=True)
        finally:
            if start is not None:
                torch.set_num_threads(before)
