"""What every verb still does once its time is over, counted in blocks of work: no real clock is looked at.

Time passes by looking at it: every look at the clock is a tick. Blocks are what :func:`cvxsae.data.deadline.go_on` is
asked before: a block of data in a pass over them, a factorization, a step of a descent.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cvxsae
from cvxsae import (
    CandidateDictionary,
    InputError,
    LargeDictionary,
    SparseAutoencoder,
    SparseCodes,
    WideLimit,
    audit,
    certify,
    check_optimality,
    code_path,
    compare,
    dictionary_path,
    encode,
    grow,
    lambda_for_l0,
    large_path,
    learn_dictionary,
    match,
    shrink,
    solve,
    solve_globally,
    train_sae,
    width_floor,
)
from cvxsae.data import activations, deadline
from cvxsae.diagnostics import feature_statistics, second_order
from cvxsae.relaxations.solution import Solution
from cvxsae.sae import frontier, metrics
from cvxsae.validation import crosscheck

pytestmark = pytest.mark.slow

LAM, TICK, ROWS, DIM, PIECES = 0.3, 0.1, 96, 5, 12
"""Penalty; seconds that a look takes; datapoints, their dimension, and the blocks of a pass over them."""


class Clock:
    """A clock that moves when it is looked at, and a count of the blocks that are begun once a moment has passed."""

    def __init__(self) -> None:
        self.now, self.limit, self.blocks = 1000.0, np.inf, 0

    def look(self) -> float:
        """Seconds."""
        self.now += TICK
        return self.now

    def start(self, seconds: float) -> None:
        """Count from so many seconds on."""
        self.limit, self.blocks = self.now + seconds, 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock, and passes of several blocks over small data."""
    made, is_over = Clock(), deadline.is_over

    def counted() -> bool:
        made.blocks += made.now > made.limit
        return is_over()

    monkeypatch.setattr(time, "perf_counter", made.look)
    monkeypatch.setattr(deadline, "is_over", counted)
    monkeypatch.setattr(activations, "BATCH_BYTES", ROWS * DIM * 8 // PIECES)
    return made


def rows(n: int = ROWS, dim: int = DIM) -> np.ndarray:
    """Datapoints off the origin."""
    return np.random.default_rng(3).normal(size=(n, dim)) + 0.3


def atoms(count: int = 7) -> np.ndarray:
    """Directions."""
    D = np.random.default_rng(4).normal(size=(count, DIM))
    return D / np.linalg.norm(D, axis=1, keepdims=True)


def solving(problem: Any, **fixed: Any) -> Callable[..., Any]:
    """Of :func:`solve`."""
    return lambda **options: solve(problem, tol=1e-13, raise_on_failure=False, **fixed, **options)


def sae() -> SparseAutoencoder:
    """An encoder that is transposed, and the atoms above."""
    D = atoms()
    return SparseAutoencoder.from_arrays(
        {"W_enc": D.T.copy(), "b_enc": np.full(len(D), -LAM), "W_dec": D, "b_dec": np.zeros(DIM)}, lam=LAM
    )


def fit() -> Any:
    """A dictionary, learned for a few steps."""
    return learn_dictionary(rows(), 4, LAM, max_steps=2)


CALLS: dict[str, tuple[Callable[[], Callable[..., Any]], float]] = {
    "wide": (lambda: solving(WideLimit(rows(), 0.01)), 4),
    "codes": (lambda: solving(SparseCodes(rows(), atoms(), LAM)), 3),
    "codes, free bias": (lambda: solving(SparseCodes(rows(), atoms(), LAM, bias="free")), 7),
    "candidates": (lambda: solving(CandidateDictionary(rows(), atoms(20), LAM, 0.5), solver="block-descent"), 5),
    "large": (lambda: solving(LargeDictionary(rows(24), 0.2, 0.5)), 5),
    "large, plane": (lambda: solving(LargeDictionary(rows(24, 2), 0.2, 0.5)), 5),
    "large, copositive": (lambda: solving(LargeDictionary(rows(12), 0.2, 0.5), solver="copositive"), 5),
    "large, factorized": (lambda: solving(LargeDictionary(rows(24), 0.2, 0.5), solver="factorized"), 5),
    "large_path": (lambda: lambda **o: large_path(LargeDictionary(rows(24), 0.2, 0.5), [0.5, 1, 2], tol=1e-9, **o), 12),
    "crosscheck": (lambda: lambda **o: crosscheck(SparseCodes(rows(), atoms(), LAM), **o), 20),
    "encode": (lambda: lambda **o: encode(rows(), atoms(), LAM, tol=1e-12, **o), 3),
    "encode, torch": (lambda: lambda **o: encode(rows(), atoms(), LAM, tol=1e-12, engine="torch", **o), 3),
    "code_path": (lambda: lambda **o: code_path(rows(), atoms(), 5, tol=1e-10, **o), 4),
    "lambda_for_l0": (lambda: lambda **o: lambda_for_l0(rows(), atoms(), 1.37, rtol=1e-9, **o), 4),
    "learn_dictionary": (lambda: lambda **o: learn_dictionary(rows(), 4, LAM, stationarity=1e-13, **o), 8),
    "grow": (lambda: (lambda found: lambda **o: grow(found, 7, stationarity=1e-13, **o))(fit()), 8),
    "shrink": (lambda: (lambda found: lambda **o: shrink(found, 2, stationarity=1e-13, **o))(fit()), 12),
    "dictionary_path": (lambda: lambda **o: dictionary_path(rows(), 3, [0.6, 0.3], **o), 30),
    "solve_globally": (lambda: lambda **o: solve_globally(rows(5, 2), 2, LAM, tol=1e-9, **o), 1),
    "width_floor": (lambda: lambda **o: width_floor(rows(), [2, 3], 0.05, tol=1e-12, **o), 6),
    "check_optimality": (lambda: lambda **o: check_optimality(rows(), atoms(), LAM, second_order=True, **o), 10),
    "feature_statistics": (lambda: lambda **o: feature_statistics(rows(), atoms(), LAM, **o), 5),
    "second_order": (lambda: lambda **o: second_order(rows(), atoms(), LAM, tol=1e-14, **o), 4),
    "audit": (lambda: lambda **o: audit(rows(), sae(), **o), 29),
    "match": (lambda: lambda **o: match(atoms(), atoms(5), rows(), LAM, tol=1e-12, **o), 5),
    "metrics": (lambda: lambda **o: metrics(rows(), sae(), lam=LAM, **o), 8),
    "frontier": (lambda: lambda **o: frontier(rows(), sae(), **o), 4),
    "train_sae": (lambda: lambda **o: train_sae(rows(), 4, LAM, steps=300, batch_size=8, **o), 5),
    "compare": (lambda: lambda **o: compare(rows(), [2, 3], LAM, training={"steps": 50}, **o), 80),
}
"""Every verb with ``max_seconds``, and the most passes over the data that may begin after its deadline: those that
evaluate what is returned (of an audit and a comparison, all lines of a ledger)."""

MOMENTS = (0.0, 1.0, 3.0, 10.0)
"""Limits, in seconds of the clock."""


@pytest.mark.parametrize("name", CALLS)
def test_little_is_done_after_the_deadline(name: str, clock: Clock) -> None:
    prepare, passes = CALLS[name]
    call = prepare()
    for seconds in MOMENTS:
        clock.start(seconds)
        try:
            answer = call(max_seconds=max(seconds, 1e-9))
        except InputError as late:
            assert str(late).startswith("max_seconds passed before")
        else:
            clock.limit = np.inf
            for one in answer if isinstance(answer, tuple) else (answer,):
                if isinstance(one, Solution):
                    certificate = certify(one, tol=1.0)
                    assert certificate.value == pytest.approx(one.value, rel=1e-9)
                    assert one.lower_bound <= certificate.value * (1 + 1e-9)
        assert clock.blocks <= passes * PIECES, f"{clock.blocks / PIECES:.1f} passes after a limit of {seconds} s"


@pytest.mark.parametrize("name", ["wide", "large", "learn_dictionary"])
def test_a_limit_that_is_not_kept_is_seen(name: str, clock: Clock) -> None:
    """The negative control: the same call without the limit does more than is allowed after one."""
    prepare, passes = CALLS[name]
    call = prepare()
    clock.start(0.0)
    call()
    assert clock.blocks > passes * PIECES


def test_every_verb_with_a_limit_is_here() -> None:
    """A verb that is added is tested, or this fails."""
    public = {name: getattr(cvxsae, name) for name in dir(cvxsae)}
    limited = {
        name
        for name, verb in public.items()
        if inspect.isfunction(verb) and "max_seconds" in inspect.signature(verb).parameters
    }
    tested = {name.split(",")[0] for name in CALLS} | {"solve"}
    assert limited <= tested
