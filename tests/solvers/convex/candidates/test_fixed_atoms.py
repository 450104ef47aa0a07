"""Proximal gradient for given atoms: certified answers, momentum, monotone bounds, devices, awkward input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cvxsae import CandidateDictionary, SparseCodes
from cvxsae.solvers.convex.candidates.proximal_gradient import ProximalGradient
from tests.helpers import problems
from tests.helpers.problems import certify, solve

LAM = 0.3


def build(rng, tau=0.0, bias=None, n=30, d=6, k=12, dtype=np.float64):
    return CandidateDictionary(problems.gaussian(rng, n, d).astype(dtype), rng.normal(size=(k, d)), LAM, tau, bias=bias)


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 0.5, 5.0])
@pytest.mark.parametrize("bias", [None, "fixed", "free"])
def test_certified_to_nine_digits(tau, bias, rng, device):
    problem = build(rng, tau, rng.normal(size=6) if bias == "fixed" else bias)
    solution = solve(problem, tol=1e-9, device=device)
    assert solution.gap >= -1e-12
    assert solution.gap <= 1e-9
    assert certify(problem, solution).is_certified
    assert (solution.codes >= 0).all()
    for delta in (1e-2, -1e-2):  # no single code can be moved to advantage
        codes = np.clip(solution.codes + delta * (rng.random(solution.codes.shape) < 0.05), 0, None)
        assert problem.primal_value(problem.candidate(codes, solution.bias)) >= solution.lower_bound


@pytest.mark.slow
def test_more_atoms_than_dimensions_and_fewer(rng):
    for k in (1, 3, 6, 40):
        assert solve(build(rng, k=k), tol=1e-9).is_certified


@pytest.mark.slow
def test_momentum_never_runs_ahead():
    """FISTA converges while ``t₊² − t₊ ≤ t²``; a restart puts t back to 1."""
    rng = np.random.default_rng(2)
    problem = build(rng, tau=0.5)
    algorithm = ProximalGradient()
    state = algorithm.init(problem, torch.device("cpu"))
    assert state.momentum == 1
    restarts = 0
    for _ in range(300):
        following = algorithm.step(problem, state)
        t, after = state.momentum, following.momentum
        assert after**2 - after <= t**2 * (1 + 1e-12)
        assert after >= 1
        restarts += after < t
        state = following
    assert restarts > 0
    assert after <= (1 + math.sqrt(5)) / 2 * 300


def test_the_step_is_one_over_the_largest_curvature(rng):
    for k in (3, 12):
        problem = build(rng, k=k)
        state = ProximalGradient().init(problem, torch.device("cpu"))
        assert 1 / state.step == pytest.approx(np.linalg.norm(problem.atoms.numpy(), 2) ** 2, rel=1e-9)
        assert 1 / state.step >= np.linalg.norm(problem.atoms.numpy(), 2) ** 2 * (1 - 1e-14)


@pytest.mark.slow
def test_bounds_in_the_loop_are_those_of_the_answer(rng):
    """What the driver watches is what ``finish`` returns, for every bias and surcharge."""
    for tau in (0.0, 2.0):
        for bias in (None, np.ones(6), "free"):
            problem, algorithm = build(rng, tau, bias), ProximalGradient()
            state = algorithm.init(problem, torch.device("cpu"))
            for _ in range(7):
                state = algorithm.step(problem, state)
            watched = algorithm.bounds(problem, state)
            assert watched == pytest.approx(problem.bounds(algorithm.finish(problem, state)), rel=1e-12)


def test_steps_do_not_write_to_states_or_data(rng):
    problem, algorithm = build(rng, 2.0, "free"), ProximalGradient()
    state = algorithm.step(problem, algorithm.init(problem, torch.device("cpu")))
    before = {name: value.clone() for name, value in vars(state).items() if isinstance(value, torch.Tensor)}
    algorithm.step(problem, state)
    algorithm.bounds(problem, state)
    algorithm.finish(problem, state)
    for name, value in before.items():
        assert torch.equal(vars(state)[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 2.0])
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e12])
def test_units_do_not_matter(scale, tau, rng):
    X, atoms = problems.gaussian(rng, 20, 4), rng.normal(size=(6, 4))
    one = solve(CandidateDictionary(X, atoms, LAM, tau, bias="free"), tol=1e-9)
    other = solve(CandidateDictionary(scale * X, atoms, scale * LAM, tau, bias="free"), tol=1e-9)
    assert other.value / scale**2 == pytest.approx(one.value, rel=2e-9)


@pytest.mark.parametrize("tau", [1e-30, 1e-12, 1e6, 1e12])
@pytest.mark.parametrize("bias", [None, "free"])
def test_extreme_surcharges(tau, bias, rng):
    X, atoms = problems.gaussian(rng, 12, 3), rng.normal(size=(5, 3))
    solution = solve(CandidateDictionary(X, atoms, LAM, tau, bias=bias), tol=1e-6)
    if tau < 1:
        assert solution.value == pytest.approx(solve(SparseCodes(X, atoms, LAM, bias=bias)).value, rel=2e-6)
    else:
        assert not solution.codes.any()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("tau", [0.0, 2.0])
def test_half_and_single_precision_data(dtype, tau, rng):
    X, atoms = problems.gaussian(rng, 20, 4).astype(dtype), rng.normal(size=(6, 4)).astype(dtype)
    problem = CandidateDictionary(X, atoms, LAM, tau, bias="free")
    exact = CandidateDictionary(X.astype(float), atoms.astype(float), LAM, tau, bias="free")
    solution = solve(problem, tol=1e-9)
    assert certify(exact, solution).is_certified
    assert solution.codes.dtype == np.float64


@pytest.mark.slow
def test_read_only_strided_data_is_left_alone(rng):
    X = rng.normal(size=(40, 8))[::2, ::2]
    before = X.copy()
    X.setflags(write=False)
    atoms = np.asfortranarray(rng.normal(size=(6, 4)))
    atoms.setflags(write=False)
    for problem in (SparseCodes(X, atoms, LAM, bias="free"), CandidateDictionary(X, atoms, LAM, 2.0, bias=X[0])):
        assert certify(problem, solve(problem)).is_certified
    np.testing.assert_array_equal(X, before)


def test_a_tiny_penalty_ends_with_an_honest_gap(rng):
    """Opposite atoms let go of each other at speed λ: first-order steps need 1/λ of them, and say so."""
    X, atoms = rng.normal(size=(6, 1)), np.array([[1.0], [-1.0], [1.0]])
    solution = solve(SparseCodes(X, atoms, 1e-9), solver="proximal-gradient", raise_on_failure=False)
    exact = 1e-9 * np.abs(X).mean() - 1e-18 / 2
    assert solution.lower_bound <= exact <= solution.value * (1 + 1e-9)
    assert solve(SparseCodes(X, atoms, 1e-9)).value == pytest.approx(exact, rel=1e-6), "working sets do not mind"
    assert solution.value <= 10 * exact  # the best point is kept, not the one of the smallest gap
