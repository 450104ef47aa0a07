"""λ paths: warm, certified, checked at once, and ended early by the clock or by Ctrl-C with what is true."""

import inspect

import numpy as np
import pytest

from cvxsae.errors import InputError
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes import paths
from cvxsae.solvers.codes.encode import encode
from cvxsae.solvers.codes.paths import code_path, lambda_for_l0
from tests.solvers.codes.test_encode import check
from tests.solvers.codes.test_encode_results import interrupt_after, problem


def test_path_is_warm_and_right():
    X, D = problem(6)
    path = code_path(X, D, 6, tol=1e-8)
    assert [codes.lam for codes in path] == sorted((codes.lam for codes in path), reverse=True)
    assert path[0].codes.nnz <= 1
    for codes in path:
        cold = encode(X, D, codes.lam, tol=1e-8)
        np.testing.assert_allclose(codes.values, cold.values, rtol=2e-8)
        check(X, D, codes.lam, codes, 1e-8)
    assert len(code_path(X, D, [0.3, 0.5])) == 2
    with pytest.raises(InputError, match="positive correlation"):
        code_path(-np.ones((2, 3)), np.eye(3), 4)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"lams": [0.1, -1.0]}, "above zero"),
        ({"lams": []}, "at least one"),
        ({"lams": 0}, "at least 1"),
        ({"lams": 0.5}, "lams is 0.5; pass a list"),
        ({"smallest_ratio": 0.0}, "smallest_ratio"),
        ({"bias": "free"}, "SparseCodes"),
        ({"tol": 2.0}, "relative gap"),
        ({"folder": "here"}, "not an option here"),
        ({"max_seconds": -1}, "max_seconds"),
    ],
)
def test_what_a_path_cannot_use_is_refused_by_the_call_itself(change, words):
    arguments = {"lams": 3} | change
    with pytest.raises(InputError, match=words):
        inspect.unwrap(code_path)(np.ones((3, 2)), np.eye(2), **arguments)  # without run-time types


def test_a_path_ends_at_its_deadline():
    X, D = problem(6)
    path = code_path(X, D, 6, max_seconds=1e-9)
    assert [codes.status for codes in path] == [Status.TIME_LIMIT]


def test_a_path_ends_at_an_interrupt_with_what_is_true(monkeypatch):
    X, D = problem(6)
    whole = code_path(X, D, 6, tol=1e-8)
    interrupt_after(monkeypatch, 3)
    path = code_path(X, D, 6, tol=1e-8)
    assert [codes.status for codes in path][-1] is Status.INTERRUPTED
    assert len(path) < 6
    for codes, other in zip(path, whole, strict=False):
        assert codes.lower_bound <= other.value * (1 + 1e-12)
        assert other.lower_bound <= codes.value * (1 + 1e-12)


def test_progress_of_a_path_is_shown(capsys):
    X, D = problem(6)
    code_path(X, D, 3, progress=True)
    assert "code path" in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_for_lambda_says_why_there_is_none():
    X, D = np.array([[3.0, 0.0], [0.0, 1.0]]), np.eye(2)  # L0 is 0, 1/2 or 1
    assert 1 < lambda_for_l0(X, D, 0.5) < 3
    with pytest.raises(InputError, match=r"jumps over it: λ = (0.99999\d|1) gives 0.5 and λ = \S+ gives 1; pass one"):
        lambda_for_l0(X, D, 0.75)
    with pytest.raises(InputError, match="max_seconds passed"):
        lambda_for_l0(X, D, 0.5, max_seconds=1e-9)


def test_a_search_for_lambda_counts_what_the_optimum_uses(monkeypatch):
    """A code that no optimum has must not count, however large the tolerance of the codes it was found in."""
    X, D = problem(6)
    monkeypatch.setattr(paths, "SEARCH_TOL", 0.3)
    lam = lambda_for_l0(X, D, 3.0, rtol=0.03)
    assert encode(X, D, lam, tol=1e-12).activity.l0 == pytest.approx(3.0, rel=0.03)
