"""Solutions in files: written with their proofs, judged again when read, and refused when damaged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cvxsae import InputError, LargeDictionary, Solution, WideLimit
from cvxsae.data.files import read_arrays, write_arrays
from cvxsae.results import NonnegativeProof, SliceProof
from tests.helpers import problems
from tests.helpers.problems import certify, solve

LAM, TAU, N = 0.3, 10.0, 8


@pytest.fixture(scope="module")
def solution():
    problem = LargeDictionary(problems.gaussian(np.random.default_rng(3), N, 4), LAM, TAU, bias=None)
    return solve(problem, tol=1e-3, raise_on_failure=False)


def with_slices(solution):
    """The same bound, proved by slices that are all ``t²(11ᵀ + τI) − YYᵀ − P``."""
    gram = solution.dual @ solution.dual.T
    semidefinite = LAM**2 * (1 + TAU * np.eye(N)) - gram - solution.proof.P
    return dataclasses.replace(solution, proof=SliceProof(np.broadcast_to(semidefinite, (N, N, N)).copy()))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("kind", [NonnegativeProof, SliceProof])
def test_a_proof_is_kept_and_judged_again(kind, suffix, solution, tmp_path):
    given = solution if kind is NonnegativeProof else with_slices(solution)
    read = Solution.load(given.save(tmp_path / f"solution{suffix}"), solution.problem)
    assert type(read.proof) is kind
    for name, array in given.arrays().items():
        np.testing.assert_array_equal(read.arrays()[name], array)
    assert read.value == solution.value
    assert read.lower_bound == pytest.approx(solution.lower_bound, rel=1e-12)
    assert certify(read, tol=1.0).dual_violation <= 1e-9
    unproved = dataclasses.replace(given, proof=None)
    assert certify(unproved, tol=1.0).lower_bound < read.lower_bound  # so the proof was of use


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proof.P": np.zeros((3, 3))}, r"proof\.P has shape \(3, 3\); it must be \(8, 8\)"),
        ({"proof.P": np.full((N, N), np.nan)}, r"proof\.P holds NaN"),
        ({"proof.slices": np.zeros((N, N, N))}, "a proof that cannot be read .no proof is made of P and slices"),
        ({"proof.cubes": np.zeros(N)}, "no proof is made of P and cubes"),
        ({"dual": np.zeros((2, 4))}, r"dual has shape \(2, 4\)"),
        ({"codes": np.zeros((N, 0))}, r"codes has shape \(8, 0\)"),
    ],
)
def test_a_damaged_file_is_refused_in_a_sentence(change, message, solution, tmp_path):
    path = solution.save(tmp_path / "solution.npz")
    write_arrays(path, dict(read_arrays(path)) | change)
    with pytest.raises(InputError, match=message) as refused:
        Solution.load(path, solution.problem)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_without_a_bias_is_no_solution(tmp_path):
    path = write_arrays(tmp_path / "other.npz", {"X": np.zeros((2, 2))})
    with pytest.raises(InputError, match="holds no bias; pass a file that"):
        Solution.load(path, WideLimit(np.ones((2, 2)), LAM))
