"""Every algorithm, every problem it claims, every kind of bias: options honored or refused, answers true.

Nothing else is touched: not the arrays passed in, not threads, random states, dtypes or error states.

The table of :mod:`cvxsae.solvers.convex.solve` says what solves what, so a new row is tested as soon as it is there.
Codes and learned dictionaries go through the same checks.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from cvxsae import (
    CandidateDictionary,
    InputError,
    LargeDictionary,
    PenalizedCodes,
    SparseCodes,
    Status,
    WideLimit,
    certify,
    encode,
    learn_dictionary,
    solve,
)
from cvxsae.penalties import L0, Exclusive, Group
from cvxsae.solvers.convex.solve import METHODS

pytestmark = pytest.mark.slow

LAM, TAU, TOL = 0.5, 2.0, 1e-2
CPU = torch.device("cpu")


def arrays(dim=3):
    """Rows off the origin, atoms, and a bias."""
    rng = np.random.default_rng(5)
    return rng.normal(size=(9, dim)) + 0.3, rng.normal(size=(6, dim)), rng.normal(size=dim) / 3


PROBLEMS = {
    "wide": lambda X, _, bias: WideLimit(X, LAM, bias=bias),
    "codes": lambda X, atoms, bias: SparseCodes(X, atoms, LAM, bias=bias),
    "penalized": lambda X, atoms, bias: PenalizedCodes(X, atoms, LAM, Group([0, 0, 1, 1, 2, 2]), bias=bias),
    "exclusive": lambda X, atoms, bias: PenalizedCodes(X, atoms, LAM, Exclusive([0, 0, 1, 1, 2, 2]), bias=bias),
    "L0": lambda X, atoms, bias: PenalizedCodes(X, atoms, LAM, L0(), bias=None if isinstance(bias, str) else bias),
    "candidates": lambda X, atoms, bias: CandidateDictionary(X, atoms, LAM, TAU, bias=bias),
    "large, free atoms": lambda X, _, bias: LargeDictionary(X, LAM, 0.0, bias=bias),
    "large": lambda X, _, bias: LargeDictionary(X, LAM, TAU, bias=bias),
    "large, five dimensions": lambda X, _, bias: LargeDictionary(X, LAM, TAU, bias=bias),
}
BIASES = ("zero", "fixed", "free")


def written(name, kind, change=lambda array: array):
    """A problem, and the arrays it was made of."""
    given = tuple(change(array) for array in arrays(5 if name.endswith("five dimensions") else 3))
    X, atoms, vector = given
    bias = {"zero": None, "fixed": vector, "free": "free"}[kind]
    return PROBLEMS[name](X, atoms, bias), given


def claims():
    """Every row of the table with every problem and bias that it does not refuse."""
    for method in METHODS:
        for name in PROBLEMS:
            for kind in BIASES:
                problem, _ = written(name, kind)
                if isinstance(problem, method.problem) and method.why_not(problem, CPU) is None:
                    yield pytest.param(method, name, kind, id=f"{method.name}-{name}-{kind}")


CLAIMS = list(claims())
claimed = pytest.mark.parametrize(("method", "name", "kind"), CLAIMS)


def ambient():
    """What a library must leave as it found it (Python's own generator is drawn from by the type checker of tests)."""
    return {
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "pools": sorted((pool["filepath"], pool["num_threads"]) for pool in threadpool_info()),
        "dtype": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
        "grad": torch.is_grad_enabled(),
        "torch random": torch.get_rng_state().tolist(),
        "numpy random": [str(part) for part in np.random.get_state()],  # noqa: NPY002
        "numpy errors": np.geterr(),
        "warnings": list(warnings.filters),
    }


@contextmanager
def nothing_touched(given=()):
    """Global state, and the arrays given, are afterwards what they were."""
    threadpools = len(threadpool_info())
    before, copies = ambient(), [np.copy(array) for array in given]
    yield
    after = ambient()
    if len(threadpool_info()) != threadpools:  # a library that was loaded meanwhile brings a pool of its own
        before.pop("pools"), after.pop("pools")
    assert after == before
    for array, copy in zip(given, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def check(problem, solution):
    """Value and bound are those of the arrays returned, and the referee agrees with the status."""
    assert solution.value == pytest.approx(problem.primal_value(solution), rel=1e-12)
    assert solution.lower_bound <= solution.value * (1 + 1e-12)
    assert solution.objections == ()
    assert solution.is_certified == (solution.gap <= solution.tol)
    assert certify(problem, solution, tol=max(solution.gap, 0) + 1e-9).is_certified
    for record in solution.history:
        assert record.lower_bound <= solution.value * (1 + 1e-9)
        assert record.value >= solution.lower_bound * (1 - 1e-9)


@claimed
def test_answers_are_true_and_nothing_is_touched(method, name, kind, capsys):
    problem, given = written(name, kind)
    seen = []  # type: ignore[var-annotated]
    with nothing_touched(given):
        solution = solve(
            problem, solver=method.name, tol=TOL, callback=seen.append, progress=True, raise_on_failure=False
        )
    check(problem, solution)
    assert solution.status.is_success or solution.status in (Status.STALLED, Status.MAX_ITER)
    assert tuple(seen) == solution.history
    assert seen
    out, err = capsys.readouterr()
    assert out == ""
    assert err


@claimed
def test_a_time_limit_is_met(method, name, kind):
    problem, given = written(name, kind)
    with nothing_touched(given):
        solution = solve(problem, solver=method.name, tol=1e-14, max_seconds=1e-9, raise_on_failure=False)
    check(problem, solution)
    assert solution.status in (Status.TIME_LIMIT, Status.CERTIFIED)


@claimed
def test_a_step_limit_is_met_or_refused(method, name, kind):
    problem, given = written(name, kind)
    with nothing_touched(given):
        if not method.has_steps:
            with pytest.raises(InputError, match="max_steps is 1 but"):
                solve(problem, solver=method.name, max_steps=1)
            return
        solution = solve(problem, solver=method.name, tol=0.0, max_steps=1, raise_on_failure=False)
    check(problem, solution)
    assert solution.info.get("iterations", 1) <= 1
    assert not solution.status.is_success or solution.gap <= 0 or solution.status is Status.RELAXED


@claimed
def test_an_interrupt_returns_what_was_reached(method, name, kind):
    problem, given = written(name, kind)

    def interrupt(record):
        raise KeyboardInterrupt

    with nothing_touched(given):
        solution = solve(problem, solver=method.name, tol=0.0, callback=interrupt, raise_on_failure=False)
    check(problem, solution)
    assert solution.status in (Status.INTERRUPTED, Status.CERTIFIED)


@claimed
def test_memory_layout_does_not_matter(method, name, kind):
    plain, _ = written(name, kind)
    strided, given = written(name, kind, lambda array: np.asfortranarray(np.repeat(array, 2, axis=0))[::2])
    assert not given[0].flags.c_contiguous
    assert not given[0].flags.f_contiguous
    first, second = (solve(p, solver=method.name, tol=TOL, raise_on_failure=False).value for p in (plain, strided))
    assert second == pytest.approx(first, rel=1e-6)  # sums in another order, then a search


# ------------------------------------------------------------------------------------ codes


ENGINES = ("torch", "fused")


@pytest.mark.parametrize("kind", ["zero", "fixed"])
@pytest.mark.parametrize("engine", ENGINES)
def test_codes(engine, kind, capsys):
    X, atoms, vector = given = arrays()
    bias = vector if kind == "fixed" else None
    with nothing_touched(given):
        codes = encode(X, atoms, LAM, bias=bias, tol=1e-9, engine=engine, progress=True)
    assert codes.is_certified
    check(codes.problem, codes)
    assert capsys.readouterr().err
    strided = encode(np.repeat(X, 2, axis=1)[:, ::2], np.asfortranarray(atoms), LAM, bias=bias, tol=1e-9, engine=engine)
    assert strided.value == pytest.approx(codes.value, rel=1e-12)
    with nothing_touched(given):
        late = encode(X, atoms, LAM, bias=bias, tol=1e-9, engine=engine, max_seconds=1e-9)
    assert late.status in (Status.TIME_LIMIT, Status.CERTIFIED)
    assert late.lower_bound <= codes.value <= late.value * (1 + 1e-9)
    with pytest.raises(InputError, match="max_steps"):
        encode(X, atoms, LAM, max_steps=1)  # type: ignore[call-arg]
    with pytest.raises(InputError, match="free"):
        encode(X, atoms, LAM, bias="free")


# ------------------------------------------------------------------------------------ dictionaries


@pytest.mark.parametrize("kind", BIASES)
def test_learned_dictionaries(kind, capsys):
    X, _, vector = arrays()
    bias = {"zero": None, "fixed": vector, "free": "free"}[kind]
    seen = []  # type: ignore[var-annotated]
    with nothing_touched((X, vector)):
        fit = learn_dictionary(X, 3, LAM, bias=bias, progress=True, callback=seen.append)
    assert capsys.readouterr().err
    assert tuple(seen) == fit.history
    assert fit.status.is_success
    assert fit.value == pytest.approx(fit.problem.primal_value(fit), rel=1e-9)
    assert fit.lower_bound <= fit.value * (1 + 1e-12)
    if kind == "free":
        assert fit.bias_residual is not None
    else:
        np.testing.assert_array_equal(fit.bias, vector if kind == "fixed" else np.zeros(3))
    strided = learn_dictionary(np.repeat(X, 2, axis=1)[:, ::2], 3, LAM, bias=bias)
    assert strided.value == pytest.approx(fit.value, rel=1e-6)

    with nothing_touched((X, vector)):
        short = learn_dictionary(X, 3, LAM, bias=bias, max_steps=1)
        late = learn_dictionary(X, 3, LAM, bias=bias, max_seconds=1e-6)

    def interrupt(record):
        if record.iteration >= 1:
            raise KeyboardInterrupt

    with nothing_touched((X, vector)):
        stopped = learn_dictionary(X, 3, LAM, bias=bias, callback=interrupt)
    for found, status in ((short, Status.MAX_ITER), (late, Status.TIME_LIMIT), (stopped, Status.INTERRUPTED)):
        assert found.status in (status, Status.STATIONARY, Status.CERTIFIED)
        assert found.value == pytest.approx(found.problem.primal_value(found), rel=1e-9)
        assert found.lower_bound <= found.value * (1 + 1e-12)


def test_unknown_options_are_refused():
    X, atoms, _ = arrays()
    for call in (
        lambda: solve(WideLimit(X, LAM), folder="x"),  # type: ignore[call-arg]
        lambda: encode(X, atoms, LAM, callback=print),  # type: ignore[call-arg]
        lambda: learn_dictionary(X, 2, LAM, color="red"),  # type: ignore[call-arg]
    ):
        with pytest.raises(InputError, match="is not an option here; the options are"):
            call()
