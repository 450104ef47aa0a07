"""The caller's number of torch threads is what it was after every call, however that ended."""

from contextlib import suppress

import numpy as np
import pytest
import torch

from cvxsae.parallel.threads import torch_threads, worker_pool
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
