"""What every test shares: shapes in signatures are checked, randomness is seeded, CUDA is optional."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import jaxtyping
import numpy as np
import pytest
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# Every annotated shape and type is checked while tests run; an int will do for a float, as for mypy. The checks take as
# long as the fast tests do, so `make quick` leaves them to `make test`.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
if not os.environ.get("CVXSAE_UNCHECKED"):
    install_import_hook("cvxsae", "tests.conftest.check")

# Under pytest-xdist each worker has its own share of the cores.
torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))

# What a shell starts in the background ignores Ctrl-C; tests that press it would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect tests without the garbage collector.

    Rewriting 300 files makes millions of objects that stay: looking for garbage among them, again and again, took
    half of the time of collecting. What is there afterwards is left alone by later searches too.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator in the same state in every test."""
    return np.random.default_rng(20260)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Shapes are not checked: for examples that run as their users run them, of functions with tests of their own."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device that tests run on."""
    return torch.device(request.param)
