"""The caller's number of torch threads is what it was after every call, however that ended."""

import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from cvxsae import LargeDictionary, solve
from cvxsae.parallel import threads as threads_module
from cvxsae.parallel.threads import threads_for_cost, torch_threads, worker_pool
from cvxsae.solvers.codes import plan
from cvxsae.solvers.codes.encode import encode
from cvxsae.solvers.codes.rounds import solve_block

COUNTS = [1, 2, 3]


@pytest.fixture(params=COUNTS)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def problem(n=300):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 8)), rng.standard_normal((20, 8))


@pytest.mark.parametrize("engine", ["fused", "torch"])
def test_after_a_call(threads, engine):
    X, D = problem()
    encode(X, D, 0.3, engine=engine)
    assert torch.get_num_threads() == threads


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
@pytest.mark.parametrize("engine", ["fused", "torch"])
def test_after_a_call_that_failed(threads, engine, error, monkeypatch):
    def failing(*args, **kwargs):
        solve_block(*args, **kwargs)
        raise error

    monkeypatch.setattr(plan, "solve_block", failing)
    with suppress(MemoryError, RuntimeError):
        X, D = problem()
        encode(X, D, 0.3, engine=engine)
    assert torch.get_num_threads() == threads


def test_workers_run_torch_on_one_thread_each(threads, monkeypatch):
    seen = []

    def watching(*args, **kwargs):
        seen.append(torch.get_num_threads())
        return solve_block(*args, **kwargs)

    monkeypatch.setattr(plan, "solve_block", watching)
    X, D = problem()
    encode(X, D, 0.3, engine="fused")
    assert set(seen) == {1}


def test_small_operations_on_one_thread(threads):
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads
    with pytest.raises(ZeroDivisionError), torch_threads(1):
        _ = 1 / 0
    assert torch.get_num_threads() == threads


def test_what_has_not_begun_is_cancelled(threads):
    with pytest.raises(KeyboardInterrupt), worker_pool(1, "test", 1) as pool:
        futures = [pool.submit(torch.get_num_threads) for _ in range(3)]
        raise KeyboardInterrupt
    assert all(future.done() for future in futures)
    assert torch.get_num_threads() == threads


def mkl_threads() -> list[str]:
    """What the MKL inside torch would use; empty where there is none."""
    return re.findall(r"mkl_get_max_threads\(\) : (\d+)", torch.__config__.parallel_info())


def test_a_small_problem_has_one_thread_in_every_library(threads):
    """Seen: limits on OpenMP do not reach MKL once torch.set_num_threads has been called, as the fixture does here."""
    for before in (threads, 1):
        torch.set_num_threads(before)
        with threads_for_cost(1.0):
            assert torch.get_num_threads() == 1
            assert set(mkl_threads()) <= {"1"}
            with threads_for_cost(1.0):
                pass
            assert set(mkl_threads()) <= {"1"}
        assert torch.get_num_threads() == before
        assert set(mkl_threads()) <= {str(before)}
        with threads_for_cost(1e12):
            assert torch.get_num_threads() == before
    with suppress(ValueError), threads_for_cost(1.0):
        raise ValueError
    assert torch.get_num_threads() == 1


@pytest.mark.slow
def test_a_small_problem_has_one_answer_whatever_ran_before():
    """Seen: lower bounds in three dimensions moved by 4e-7 after an encoding in the same process."""
    X, before = np.random.default_rng(1).normal(size=(14, 3)), torch.get_num_threads()

    def answer():
        found = solve(LargeDictionary(X, 0.2, 1.0), raise_on_failure=False, tol=1e-3)
        return found.value, found.lower_bound, np.asarray(found.codes).tobytes()

    first = answer()
    encode(problem()[0], problem()[1], 0.2)
    assert answer() == first
    torch.set_num_threads(4)
    try:
        assert answer() == first
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def interruptible():
    """A process in the background, or another test, may have another handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_waits_for_the_end_of_the_block(interruptible):
    reached = []
    with pytest.raises(KeyboardInterrupt), threads_module.interrupts_later():
        signal.raise_signal(signal.SIGINT)
        reached.append(True)
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_no_interrupt_is_lost_while_libraries_are_looked_for(interruptible, monkeypatch):
    """Their search runs through callbacks from C, where Python swallows what is raised."""

    class Search(threads_module.ThreadpoolController):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            super().__init__()

    monkeypatch.setattr(threads_module, "ThreadpoolController", Search)
    monkeypatch.setattr(threads_module, "_found", None)
    with pytest.raises(KeyboardInterrupt):
        threads_module.library_threads(1)


def test_libraries_are_limited_and_set_free_again():
    def counts():
        return [pool["num_threads"] for pool in threadpool_info()]

    before = counts()
    with threads_module.library_threads(1):
        assert set(counts()) == {1}
    with threads_module.library_threads(None):
        assert counts() == before
    assert counts() == before


# --------------------------------------------------------------------------------- native calls


def test_a_native_call_is_left_to_itself_on_ctrl_c():
    """A pairing of 30,000 datapoints held Ctrl-C up for a minute, Clarabel for as long as it ran."""
    begun, may_end = threading.Event(), threading.Event()

    def native():
        begun.set()
        may_end.wait()

    def press():
        begun.wait()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        threads_module.interruptible(native)
    assert begun.is_set()
    may_end.set()


def test_a_native_call_returns_raises_and_computes_as_it_would_here():
    assert threads_module.interruptible(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        threads_module.interruptible(lambda: 1 // 0)
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        threads_module.interruptible(lambda: np.ones(1) / 0)
    with ThreadPoolExecutor(1) as pool:
        assert (
            pool.submit(threads_module.interruptible, threading.get_ident).result()
            == pool.submit(threading.get_ident).result()
        )
