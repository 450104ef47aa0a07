"""The joint problem: its objective as written, its floor, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from cvxsae import InputError, JointProblem, WideLimit, certify, solve
from cvxsae.relaxations.convex.conic import conic_form, conic_size
from cvxsae.results import Candidate


def candidate(n: int = 12, d: int = 5, k: int = 3, *, seed: int = 0) -> tuple[np.ndarray, Candidate]:
    rng = np.random.default_rng(seed)
    D = rng.standard_normal((k, d))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    Z = np.clip(rng.standard_normal((n, k)), 0, None)
    return rng.standard_normal((n, d)), Candidate(bias=rng.standard_normal(d), dictionary=D, codes=sp.csr_array(Z))


def test_objective_as_written():
    X, c = candidate()
    lam = 0.3
    D, b = c.dictionary, c.bias
    assert isinstance(c.codes, sp.csr_array)
    Z = c.codes.toarray()
    written = (0.5 * ((X - b - Z @ D) ** 2).sum() + lam * Z.sum()) / len(X)
    assert JointProblem(X, 3, lam).primal_value(c) == pytest.approx(written, rel=1e-14)


@pytest.mark.parametrize("bias", [None, "free"])
def test_bound_is_below_the_wide_limit_whatever_the_residual(bias):
    X, _ = candidate()
    problem = JointProblem(X, 3, 0.3, bias=bias)
    wide = solve(WideLimit(X, 0.3, bias=bias))
    zeros = Candidate(bias=problem.starting_bias().numpy(), dictionary=np.eye(3, 5), codes=np.zeros((12, 3)))
    assert problem.lower_bound(zeros) <= wide.value * (1 + 1e-12)


def test_referee_counts_atoms_and_calls_the_bound_a_relaxation():
    X, c = candidate()
    found = certify(JointProblem(X, 4, 0.3), c)
    assert any("width is 4" in sentence for sentence in found.objections)
    assert certify(JointProblem(X, 3, 0.3), c).bound == "relaxation"
    bare = Candidate(bias=c.bias)
    assert any("no dictionary" in sentence for sentence in certify(JointProblem(X, 3, 0.3), bare).objections)


def test_zero_codes_are_optimal_at_lambda_max():
    X, _ = candidate()
    problem = JointProblem(X, 3, 1.0)
    zeros = replace(problem, lam=problem.lambda_max() * (1 + 1e-9))
    assert certify(zeros, zeros.zero_candidate()).gap < 1e-12


def test_refuses():
    X, _ = candidate()
    with pytest.raises(InputError, match="n_atoms is 0"):
        JointProblem(X, 0, 0.3)
    with pytest.raises(InputError, match="not convex"):
        conic_form(JointProblem(X, 3, 0.3))
    with pytest.raises(InputError, match="not convex"):
        conic_size(JointProblem(X, 3, 0.3))
    with pytest.raises(InputError, match="not convex"):
        solve(JointProblem(X, 3, 0.3))
