"""Factorizations with a second way: what the first routine cannot do the second does, and no LinAlgError gets out."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch

from cvxsae.relaxations import linalg


@pytest.fixture
def first_fails(monkeypatch):
    """Every first choice fails: torch and numpy as a whole."""

    def fails(*_: object, **__: object):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")  # type: ignore[attr-defined]

    def numpy_fails(*_: object, **__: object):
        raise np.linalg.LinAlgError("did not converge")

    for name in ("eigh", "eigvalsh", "svd", "cholesky", "cholesky_ex", "solve", "solve_ex", "pinv"):
        monkeypatch.setattr(torch.linalg, name, fails)
    for name in ("eigh", "eigvalsh", "svd", "lstsq", "solve"):
        monkeypatch.setattr(np.linalg, name, numpy_fails)


@pytest.fixture
def all_fail(monkeypatch, first_fails):
    """And scipy's second choices too."""

    def fails(*_: object, **__: object):
        raise np.linalg.LinAlgError("eig algorithm did not converge")

    for name in ("eigh", "svd", "lstsq"):
        monkeypatch.setattr(scipy.linalg, name, fails)


@pytest.fixture
def matrices(rng):
    A = rng.normal(size=(4, 6, 6))
    return A @ A.transpose(0, 2, 1)


@pytest.mark.usefixtures("first_fails")
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_the_second_choice_gives_the_same_decompositions(convert, matrices):
    values, vectors = linalg.eigh(convert(matrices))
    assert type(values) is type(convert(matrices))
    values, vectors = np.asarray(values), np.asarray(vectors)
    np.testing.assert_allclose((vectors * values[:, None, :]) @ vectors.transpose(0, 2, 1), matrices, atol=1e-12)
    assert (np.diff(values) >= 0).all()
    np.testing.assert_allclose(np.asarray(linalg.eigvalsh(convert(matrices))), values, atol=1e-12)
    left, singular, right = (np.asarray(part) for part in linalg.svd(convert(matrices[0][:, :4])))
    np.testing.assert_allclose((left * singular) @ right, matrices[0][:, :4], atol=1e-12)
    np.testing.assert_allclose(linalg.singular_values(matrices[0][:, :4]), singular, atol=1e-12)


@pytest.mark.usefixtures("first_fails")
def test_the_second_choice_solves(matrices, rng):
    M, right = matrices[0], rng.normal(size=6)
    factor = linalg.positive_factor(torch.from_numpy(M), 1e-12)
    answer = factor.solve(torch.from_numpy(right[:, None]))[:, 0].numpy()
    np.testing.assert_allclose(M @ answer, right, atol=1e-10)
    np.testing.assert_allclose(M @ linalg.solve(M, right), right, atol=1e-10)
    tall, aim = rng.normal(size=(9, 3)), rng.normal(size=9)
    np.testing.assert_allclose(tall.T @ (tall @ linalg.least_squares(tall, aim) - aim), 0, atol=1e-10)
    assert linalg.solve_or_none(torch.from_numpy(M), torch.from_numpy(right)) is None
    inverse = linalg.pseudo_inverse(torch.from_numpy(matrices), 1e-12).numpy()
    np.testing.assert_allclose(inverse @ matrices, np.broadcast_to(np.eye(6), matrices.shape), atol=1e-7)


def test_a_matrix_that_rounding_made_indefinite_is_solved(rng):
    """``BBᵀ + λI`` with λ far below the rounding of BBᵀ."""
    B = rng.normal(size=(8, 3))
    for lam in (1e-13, 1e-16, 1e-20):
        M = torch.from_numpy(B @ B.T) - 1e-15 * torch.eye(8, dtype=torch.float64)
        factor = linalg.positive_factor(M, lam)
        right = torch.from_numpy(B @ rng.normal(size=(3, 2)))
        assert float((M @ factor.solve(right) - right).abs().max()) < 1e-2
        assert factor.cholesky is None


def test_singular_systems_have_a_least_squares_answer(rng):
    B = rng.normal(size=(6, 2))
    M, right = B @ B.T, B @ rng.normal(size=2)
    M[0] = M[1] = 0
    right[:2] = 0
    np.testing.assert_allclose(M @ linalg.solve(M, right), right, atol=1e-10)
    assert linalg.solve_or_none(torch.zeros(3, 3), torch.ones(3)) is None


def test_nonnegative_least_squares_has_a_second_way(monkeypatch, rng):
    M, right = rng.normal(size=(7, 4)), rng.normal(size=7)
    first = linalg.nonnegative_least_squares(M, right)

    def fails(*_: object, **__: object):
        raise RuntimeError("Maximum number of iterations reached.")

    monkeypatch.setattr(scipy.optimize, "nnls", fails)
    np.testing.assert_allclose(linalg.nonnegative_least_squares(M, right), first, atol=1e-6)


@pytest.mark.usefixtures("all_fail")
def test_what_fails_twice_says_so_in_one_sentence(matrices):
    M = torch.from_numpy(matrices[0])
    for call in (
        lambda: linalg.eigh(M),
        lambda: linalg.eigvalsh(M),
        lambda: linalg.svd(M),
        lambda: linalg.positive_factor(M, 1.0),
        lambda: linalg.singular_values(matrices[0]),
        lambda: linalg.least_squares(matrices[0], matrices[0]),
    ):
        with pytest.raises(linalg.FactorizationError) as raised:
            call()
        assert re.fullmatch(r"the [a-z -]+ of a 6 x 6 matrix could not be computed; [^.]+\.", str(raised.value))


@pytest.mark.usefixtures("all_fail")
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_bounds_of_eigenvalues_never_fail(convert, matrices):
    least, largest = linalg.extreme_eigenvalues(convert(matrices))
    norms = np.sqrt((matrices**2).sum(axis=(1, 2)))
    np.testing.assert_allclose(np.asarray(largest), norms)
    np.testing.assert_allclose(np.asarray(least), -norms)


def test_matrices_that_are_not_finite_are_refused_in_one_sentence():
    M = torch.full((3, 3), float("nan"), dtype=torch.float64)
    with pytest.raises(linalg.FactorizationError, match="3 x 3"):
        linalg.eigh(M)
