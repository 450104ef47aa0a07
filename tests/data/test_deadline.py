"""Work that is given up: who says so, who asks, and that nothing is given up where nobody said so."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from cvxsae import Activations
from cvxsae.data.deadline import OutOfTime, go_on, is_over, until, whatever_the_time


def test_only_what_is_inside_is_given_up() -> None:
    past, future = time.perf_counter() - 1, time.perf_counter() + 1000
    go_on()
    with pytest.raises(OutOfTime), until(past):
        assert is_over()
        with whatever_the_time():
            go_on()
        with until(future):  # the earlier of two moments counts
            assert is_over()
        go_on()
    assert not is_over()
    with until(future):
        go_on()


def test_passes_over_data_ask_before_every_block() -> None:
    data = Activations(np.ones((6, 2)))
    with until(time.perf_counter() + 1000):
        blocks = data.batches(rows=2)
        next(blocks)
        with until(time.perf_counter() - 1), pytest.raises(OutOfTime):
            next(blocks)


def test_threads_do_not_ask() -> None:
    seen: list[bool] = []
    with until(time.perf_counter() - 1):
        thread = threading.Thread(target=lambda: seen.append(is_over()))
        thread.start()
        thread.join()
        assert is_over()
    assert seen == [False]
