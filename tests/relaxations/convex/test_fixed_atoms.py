"""Given atoms: known answers, T1, T11, problems built backwards, and the equivalences between the problems."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from operator import mul
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from cvxsae import CandidateDictionary, InputError, SparseCodes, WideLimit
from cvxsae.relaxations import AtomPenalty, datapoint_atoms
from tests.helpers import problems
from tests.helpers.problems import minimize, solve

LAM = 0.3


def residual_of(solution, X):
    return X - solution.bias - solution.codes @ solution.dictionary


# ---------------------------------------------------------------- built backwards


def dense(codes):
    return codes.toarray() if isinstance(codes, scipy.sparse.csr_array) else codes


@pytest.mark.slow
@pytest.mark.parametrize("bias", ["given", "free"])
@pytest.mark.parametrize("seed", range(3))
def test_codes_built_backwards(bias, seed):
    known = problems.known_codes(np.random.default_rng(seed), lam=LAM)
    problem = SparseCodes(known.X, known.atoms, LAM, bias=known.bias if bias == "given" else bias)
    Y = torch.from_numpy(known.dual)
    assert max(problem.dual_violations(Y)) <= 1e-12
    assert problem.dual_value(Y) == pytest.approx(known.value, rel=1e-12)
    assert problem.primal_value(problem.candidate(known.codes, known.bias)) == pytest.approx(known.value, rel=1e-12)
    solution = solve(problem, tol=1e-9)
    assert solution.value == pytest.approx(known.value, rel=2e-9)
    np.testing.assert_allclose(residual_of(solution, known.X), known.dual, atol=1e-3)  # T1: the residual is unique


@pytest.mark.slow
@pytest.mark.parametrize("bias", ["given", "free"])
@pytest.mark.parametrize("tau", [0.0, 0.5, 5.0, 100.0])
def test_candidates_built_backwards(bias, tau, rng):
    known = problems.known_candidates(rng, lam=LAM, tau=tau)
    problem = CandidateDictionary(known.X, known.atoms, LAM, tau, bias=known.bias if bias == "given" else bias)
    Y = torch.from_numpy(known.dual)
    assert max(problem.dual_violations(Y)) <= 1e-12
    assert max(problem.dual_violations(1.01 * Y)) > 5e-3
    assert problem.dual_value(Y) == pytest.approx(known.value, rel=1e-12)
    solution = solve(problem, tol=1e-9)
    assert solution.value == pytest.approx(known.value, rel=2e-9)
    assert solution.lower_bound <= known.value * (1 + 1e-13)
    # Candidates that are not worth their surcharge stay silent.
    assert np.abs(solution.codes[:, known.codes.sum(axis=0) == 0]).max() < 1e-6


# ---------------------------------------------------------------- T1, T11


@pytest.mark.slow
@pytest.mark.parametrize("bias", [None, "fixed", "free"])
def test_t1_residual_structure(bias, rng):
    X, atoms = problems.gaussian(rng, 20, 5), problems.unit(rng.normal(size=(8, 5)))
    solution = solve(SparseCodes(X, atoms, LAM, bias=rng.normal(size=5) if bias == "fixed" else bias), tol=1e-12)
    R = residual_of(solution, X)
    correlation = R @ atoms.T
    assert correlation.max() <= LAM * (1 + 1e-5)
    np.testing.assert_allclose(correlation[dense(solution.codes) > 1e-4], LAM, rtol=1e-4)
    if bias == "free":
        np.testing.assert_allclose(R.sum(axis=0), 0, atol=1e-9)
    else:
        # φ(x) = ½‖x − b‖² − ½‖x̂‖²
        fitted = solution.codes @ atoms
        expected = (np.sum((X - solution.bias) ** 2) - np.sum(fitted**2)) / 2 / len(X)
        assert solution.value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("bias", [None, "free"])
def test_t1_agrees_with_nonnegative_least_squares(bias, rng):
    """λΣz folds into least squares with one more row as λ‖z‖₁ = λ1·z: a peer that knows nothing of ours."""
    X, atoms = problems.gaussian(rng, 8, 4), problems.unit(rng.normal(size=(6, 4)))

    def best(shift):
        total = 0.0
        for x in X - shift:
            # ½‖x − Aᵀz‖² + λ1·z = ½‖z‖²_G − z·(Ax − λ1) + ½‖x‖²
            fit = minimize(
                lambda z, x=x: (
                    0.5 * np.sum((x - z @ atoms) ** 2) + LAM * z.sum(),
                    -atoms @ (x - z @ atoms) + LAM,
                ),
                np.ones(6),
                jac=True,
                bounds=[(0, None)] * 6,
                method="L-BFGS-B",
                options={"ftol": 1e-16, "gtol": 1e-11, "maxiter": 5000},
            )
            total += fit.fun
        return total / len(X)

    solution = solve(SparseCodes(X, atoms, LAM, bias=bias), tol=1e-9)
    assert solution.value == pytest.approx(best(solution.bias), rel=1e-8)
    if bias == "free":
        for step in 0.01 * np.vstack([np.eye(4), -np.eye(4)]):
            assert best(solution.bias + step) > solution.value


@pytest.mark.parametrize("tau", [0.0, 0.5, 5.0])
def test_t11_weak_duality(tau, rng):
    """No feasible dual point exceeds any primal value; and feasibility is needed for that."""
    X, atoms = problems.clustered(rng, 15, 4), problems.unit(rng.normal(size=(6, 4)))
    problem = CandidateDictionary(X, atoms, LAM, tau, bias=None)
    optimum = solve(problem, tol=1e-9)
    for _ in range(20):
        Y = problem.feasible_dual(torch.from_numpy(rng.normal(size=X.shape) + X))
        assert problem.dual_value(Y) <= optimum.value
    assert problem.dual_value(torch.from_numpy(X)) > optimum.value  # infeasible: the control


# ---------------------------------------------------------------- equivalences


@pytest.mark.slow
@pytest.mark.parametrize("bias", [None, "free"])
def test_no_surcharge_is_sparse_codes(bias, rng):
    X, atoms = problems.gaussian(rng, 18, 4), rng.normal(size=(7, 4))
    codes = solve(SparseCodes(X, atoms, LAM, bias=bias), tol=1e-9)
    candidates = solve(CandidateDictionary(X, atoms, LAM, 0.0, bias=bias), tol=1e-9)
    assert candidates.value == pytest.approx(codes.value, rel=2e-9)
    surcharged = solve(CandidateDictionary(X, atoms, LAM, 0.5, bias=bias), tol=1e-9)
    assert surcharged.value > codes.value * 1.001


TAUS = (0, 1e-6, 0.1, 1, 10, 1e3, 1e6)


@pytest.mark.slow
def test_the_surcharge_only_raises_the_value(rng):
    X, atoms = problems.clustered(rng, 18, 4), rng.normal(size=(7, 4))
    values = [
        solve(CandidateDictionary(X, atoms, LAM, tau, bias=None)).value for tau in (0, 1e-6, 0.1, 1, 10, 1e3, 1e6)
    ]
    assert (np.diff(values) >= -1e-6 * values[0]).all()
    assert values[-1] == pytest.approx(0.5 * np.sum(X**2) / len(X))


@pytest.mark.slow
def test_normalized_datapoints_without_surcharge_are_the_wide_limit(rng):
    X = problems.gaussian(rng, 15, 4)
    bias = rng.normal(size=4)
    for b in (None, bias):
        atoms = datapoint_atoms(X, b)
        assert np.linalg.norm(atoms, axis=1) == pytest.approx(1)
        wide = solve(WideLimit(X, LAM, bias=b)).value
        assert solve(CandidateDictionary(X, atoms, LAM, 0.0, bias=b), tol=1e-7).value == pytest.approx(wide, rel=2e-7)
        assert solve(CandidateDictionary(X, atoms, LAM, 1.0, bias=b), tol=1e-4).value > wide * 1.001


def test_datapoint_atoms_skip_points_on_the_bias(rng):
    X = rng.normal(size=(5, 3))
    assert len(datapoint_atoms(X, X[2])) == 4
    with pytest.raises(InputError, match="no directions"):
        datapoint_atoms(X[[1, 1]], X[1])
    with pytest.raises(InputError, match="'free'"):
        datapoint_atoms(X, "free")


@pytest.mark.parametrize("norm", [1e-6, 1.0, 1e6])
def test_one_atom_has_a_closed_form(norm, rng):
    X, a = problems.gaussian(rng, 12, 3), problems.unit(rng.normal(size=(1, 3)))
    along = np.clip(X @ a[0] - LAM, 0, None)
    solution = solve(SparseCodes(X, norm * a, LAM), tol=1e-12)
    np.testing.assert_allclose(dense(solution.codes)[:, 0], along, atol=1e-6)
    assert solution.value == pytest.approx((0.5 * np.sum(X**2) - 0.5 * np.sum(along**2)) / 12, rel=1e-11)


def test_row_norms_fold_into_the_codes(rng):
    X, atoms = problems.gaussian(rng, 10, 4), problems.unit(rng.normal(size=(6, 4)))
    norms = 10.0 ** rng.uniform(-3, 3, 6)
    problem = SparseCodes(X, norms[:, None] * atoms, LAM)
    np.testing.assert_allclose(problem.row_norms, norms, rtol=1e-14)
    np.testing.assert_allclose(problem.atoms, atoms, rtol=1e-13)
    solution = solve(problem, tol=1e-9)
    assert solution.value == pytest.approx(solve(SparseCodes(X, atoms, LAM), tol=1e-9).value, rel=2e-9)
    theirs = solution.codes / problem.row_norms.numpy()  # codes for the caller's rows give the same reconstruction
    np.testing.assert_allclose(theirs @ (norms[:, None] * atoms), solution.codes @ atoms, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 2.0])
@pytest.mark.parametrize("bias", [None, "fixed", "free"])
@pytest.mark.parametrize(
    "case", ["one row", "one atom", "one dimension", "zero rows", "all zero", "equal rows", "equal atoms", "duplicates"]
)
def test_degenerate_data(case, tau, bias, rng):
    X, atoms = problems.gaussian(rng, 8, 3), rng.normal(size=(4, 3))
    if case == "one row":
        X = X[:1]
    elif case == "one atom":
        atoms = atoms[:1]
    elif case == "one dimension":
        X, atoms = X[:, :1], atoms[:, :1]
    elif case == "zero rows":
        X[::2] = 0
    elif case == "all zero":
        X[:] = 0
    elif case == "equal rows":
        X[:] = X[0]
    elif case == "equal atoms":
        atoms[:] = atoms[0]
    elif case == "duplicates":
        X = np.repeat(X, 2, axis=0)
    b = rng.normal(size=X.shape[1]) if bias == "fixed" else bias
    solution = solve(CandidateDictionary(X, atoms, LAM, tau, bias=b), tol=1e-7)
    where = X.mean(axis=0) if bias == "free" else np.zeros(X.shape[1]) if b is None else b
    assert solution.value <= 0.5 * np.sum((X - where) ** 2) / len(X) * (1 + 1e-12)
    assert (solution.codes >= 0).all()
    if bias == "free" and case in ("one row", "all zero", "equal rows"):
        assert solution.value == pytest.approx(0, abs=1e-25)
    if case == "duplicates" and tau == 0:
        once = solve(CandidateDictionary(X[::2], atoms, LAM, tau, bias=b), tol=1e-7)
        assert solution.value == pytest.approx(once.value, rel=1e-6)  # (P) is a mean


def test_a_bias_on_a_datapoint(rng):
    X = problems.gaussian(rng, 8, 3)
    for problem in (
        SparseCodes(X, X, LAM, bias=X[3]),
        CandidateDictionary(X, X, LAM, 2.0, bias=X[3]),
        WideLimit(X, LAM, bias=X[3]),
    ):
        assert solve(problem).is_certified


@pytest.mark.parametrize("tau", [0.0, 0.5, 5.0])
@pytest.mark.parametrize("bias", [None, "free"])
def test_lambda_max_is_sharp(tau, bias, rng):
    X, atoms = problems.clustered(rng, 12, 3), rng.normal(size=(5, 3))
    problem = CandidateDictionary(X, atoms, LAM, tau, bias=bias)
    top = problem.lambda_max()
    assert not solve(replace(problem, lam=top)).codes.any()
    assert not solve(replace(problem, lam=100 * top)).codes.any()
    assert solve(replace(problem, lam=0.98 * top)).codes.any()


def test_a_dictionary_of_another_problem_is_refused(rng):
    problem = SparseCodes(rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), LAM)
    point: Any = problem.zero_candidate()
    assert problem.objections(point) == []
    rotated = np.roll(point.dictionary, 1, axis=0)
    for other, message in ((rotated, "differs"), (rotated[:2], "shape"), (None, "no dictionary")):
        (sentence,) = problem.objections(type(point)(bias=point.bias, dictionary=other, codes=point.codes))
        assert message in sentence


def test_candidates_cannot_change_the_problem(rng):
    problem = SparseCodes(rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), LAM)
    with pytest.raises(ValueError, match="read-only"):
        solve(problem).dictionary[0] *= 1.01


@pytest.mark.parametrize("tau", [None, 0.5])
def test_a_repaired_dual_is_feasible_in_exact_arithmetic(tau, rng):
    """A long residual almost orthogonal to the atoms: float64 loses digits of ``d_k·y_n`` that the bound relies on."""
    atoms = problems.unit(rng.normal(size=(4, 32)))
    across = rng.normal(size=(60, 32))
    across -= across @ np.linalg.pinv(atoms) @ atoms
    Y = 1e9 * across + rng.normal(size=(60, 4)) @ atoms
    X = np.zeros((60, 32))
    problem: Any = SparseCodes(X, atoms, 1.0) if tau is None else CandidateDictionary(X, atoms, 1.0, tau, bias=None)
    repaired = problem.feasible_dual(torch.from_numpy(Y)).numpy()
    D = [[Fraction(float(entry)) for entry in row] for row in problem.atoms.numpy()]
    exact = [[sum(map(mul, row, map(Fraction, y.tolist()))) for row in D] for y in repaired]
    if tau is None:
        assert max(map(max, exact)) <= 1
        return
    rounded = torch.tensor([[float(entry) for entry in row] for row in exact], dtype=torch.float64)
    maximizers = AtomPenalty(tau).polar_maximizer(rounded)
    for v, z in zip(zip(*exact, strict=True), maximizers.T.tolist(), strict=True):
        weights = [Fraction(entry) for entry in z]
        mass, squares = sum(weights), sum(weight * weight for weight in weights)
        assert sum(map(mul, v, weights)) ** 2 <= mass * mass + Fraction(tau) * squares
