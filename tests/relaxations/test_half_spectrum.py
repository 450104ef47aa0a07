"""Eigenvectors of one side of the spectrum."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from cvxsae.data.deadline import OutOfTime, until
from cvxsae.errors import Error
from cvxsae.relaxations import half_spectrum as module
from cvxsae.relaxations import linalg
from cvxsae.relaxations.half_spectrum import half_spectrum

ORDER, ABOVE = 60, 13
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4}


@pytest.fixture(autouse=True)
def lapack_for_small_matrices(monkeypatch):
    monkeypatch.setattr(module, "_LEAST_ORDER", 1)


@pytest.fixture
def all_eigenvectors_refused(monkeypatch):
    def refuse(matrix):
        raise AssertionError("all eigenvectors were computed")

    monkeypatch.setattr(linalg, "eigh", refuse)


def symmetric(rng, values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    basis, _ = np.linalg.qr(rng.normal(size=(len(values), len(values))))
    return torch.from_numpy((basis * values) @ basis.T).to(dtype)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_finds_the_side_that_was_asked_for(dtype, positive, rng, all_eigenvectors_refused):
    values = np.sort(np.concatenate([rng.uniform(0.1, 3, ABOVE), -rng.uniform(0.1, 3, ORDER - ABOVE - 1), [50.0]]))
    A = symmetric(rng, values, dtype)
    before = A.clone()
    found, vectors = half_spectrum(A, positive=positive)
    wanted = values[values > 0] if positive else values[values <= 0]
    tolerance = 50 * TOLERANCE[dtype]
    assert torch.equal(A, before)
    np.testing.assert_allclose(found, wanted, atol=tolerance)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(wanted)), atol=tolerance)
    np.testing.assert_allclose(A @ vectors, vectors * found, atol=tolerance)


@pytest.mark.parametrize("positive", [True, False])
def test_a_side_can_be_empty_and_eigenvalues_can_repeat(positive, rng, monkeypatch):
    sign = -1.0 if positive else 1.0
    A = symmetric(rng, np.repeat([1.0, 2.0], ORDER // 2) * sign, torch.float64)
    with monkeypatch.context() as guarded:
        routines = dict(module._routines("d") or {})
        guarded.setattr(module, "_routines", lambda prefix: {**routines, "stemr": _not_to_be_called})
        found, vectors = half_spectrum(A, positive=positive)
    assert tuple(found.shape) == (0,)
    assert tuple(vectors.shape) == (ORDER, 0)
    found, vectors = half_spectrum(A, positive=not positive)
    assert len(found) == ORDER
    np.testing.assert_allclose((vectors * found) @ vectors.T, A, atol=1e-12)


@pytest.mark.parametrize("positive", [True, False])
def test_a_side_may_have_eigenvalues_within_rounding_alone(positive, rng, all_eigenvectors_refused):
    side = 1 if positive else -1
    values = np.concatenate([[100.0], rng.uniform(1, 2, ORDER - 4), np.zeros(3)])
    A = symmetric(rng, -side * values, torch.float32)
    found, vectors = half_spectrum(A, positive=positive)
    assert len(found) <= 3
    assert np.abs(found.numpy()).max(initial=0.0) < 1e-3
    assert bool((found > 0).all() if positive else (found <= 0).all())
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(len(found)), atol=1e-4, rtol=0)


def test_small_eigenvalues_are_found_beside_a_large_entry(rng, all_eigenvectors_refused, monkeypatch):
    """An eigenvalue of −5 is beyond rounding, though small beside n times the largest entry."""
    routines, asked = dict(module._routines("s") or {}), []
    right = routines["stemr"]

    def noted(*arguments):
        asked.append((float(arguments[5][0]), float(arguments[6][0])))
        right(*arguments)

    routines["stemr"] = noted
    monkeypatch.setattr(module, "_routines", lambda prefix: routines)
    rest = symmetric(rng, np.concatenate([np.full(5, -5.0), np.ones(ORDER - 6)]), torch.float32)
    A = torch.block_diag(torch.tensor([[1e5]]), rest)
    found, _ = half_spectrum(A, positive=False)
    np.testing.assert_allclose(found, np.full(5, -5.0), atol=0.1)
    assert asked == [(-2.0, 0.0)]


def test_fewer_eigenvalues_than_were_counted_are_not_believed(rng, monkeypatch):
    A = symmetric(rng, np.linspace(-1, 2, ORDER), torch.float64)
    routines = dict(module._routines("d") or {})
    right = routines["stemr"]

    def lose(*arguments):
        right(*arguments)
        arguments[9][0] -= 1

    routines["stemr"] = lose
    monkeypatch.setattr(module, "_routines", lambda prefix: routines)
    found, vectors = half_spectrum(A, positive=True)
    np.testing.assert_allclose((vectors * found) @ vectors.T, _positive(A), atol=1e-12)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize(("dtype", "tiny"), [(torch.float32, 1e-39), (torch.float64, 1e-310)])
def test_no_side_is_lost_beside_a_subnormal_entry(dtype, tiny, positive, rng):
    values = np.concatenate([rng.uniform(0.1, 3, ABOVE), -rng.uniform(0.1, 3, ORDER - ABOVE)])
    A = torch.block_diag(torch.tensor([[tiny]], dtype=dtype), symmetric(rng, values, dtype))
    found, _ = half_spectrum(A, positive=positive)
    clear = found[found.abs() > 0.05]
    wanted = values[values > 0] if positive else values[values <= 0]
    np.testing.assert_allclose(clear, np.sort(wanted), atol=50 * TOLERANCE[dtype])


@pytest.mark.parametrize("size", [0.0, 1e-300, 1e-25, 1e25, 1e300])
def test_extreme_sizes(size, rng):
    values = np.linspace(-1, 1, ORDER) * size
    A = symmetric(rng, values, torch.float64)
    found, vectors = half_spectrum(A, positive=True)
    np.testing.assert_allclose((vectors * found) @ vectors.T + 0.0, _positive(A), atol=1e-12 * np.abs(values).max())


def test_not_a_number_is_an_error(rng):
    A = torch.from_numpy(rng.normal(size=(ORDER, ORDER)))
    A[0, 0] = torch.nan
    with pytest.raises(Error, match="eigenvectors"):
        half_spectrum(A, positive=True)


@pytest.mark.parametrize("broken", ["sytrd", "stemr"])
def test_a_routine_that_fails_is_replaced(broken, rng, monkeypatch):
    A = symmetric(rng, np.linspace(-1, 2, ORDER), torch.float64)
    routines = dict(module._routines("d") or {})

    def fail(*arguments):
        arguments[-1][0] = 3

    routines[broken] = fail
    monkeypatch.setattr(module, "_routines", lambda prefix: routines)
    found, vectors = half_spectrum(A, positive=True)
    np.testing.assert_allclose((vectors * found) @ vectors.T, _positive(A), atol=1e-12)


def test_vectors_that_are_not_orthogonal_are_not_believed(rng, monkeypatch):
    A = symmetric(rng, np.linspace(-1, 2, ORDER), torch.float64)
    routines = dict(module._routines("d") or {})
    right = routines["stemr"]

    def spoil(*arguments):
        right(*arguments)
        arguments[11][:] = arguments[11][0]

    routines["stemr"] = spoil
    monkeypatch.setattr(module, "_routines", lambda prefix: routines)
    found, vectors = half_spectrum(A, positive=True)
    np.testing.assert_allclose((vectors * found) @ vectors.T, _positive(A), atol=1e-12)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_a_side_is_shared_by_threads(threads, positive, rng, monkeypatch, all_eigenvectors_refused):
    monkeypatch.setattr(module, "_PART", 4)
    monkeypatch.setattr(module, "_NEIGHBORS", 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    values = np.sort(rng.uniform(-1, 1, ORDER))
    A, called = symmetric(rng, values, torch.float64), _counted(monkeypatch)
    found, vectors = half_spectrum(A, positive=positive)
    wanted = values[values > 0] if positive else values[values <= 0]
    assert len(called) == threads
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    np.testing.assert_allclose(A @ vectors, vectors * found, atol=1e-12)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(wanted)), atol=1e-11)


@pytest.mark.parametrize("positive", [True, False])
def test_threads_do_not_share_what_has_no_gap(positive, rng, monkeypatch, all_eigenvectors_refused):
    """A cut on an eigenvalue may leave it in both parts, or in neither: then one thread finds all."""
    monkeypatch.setattr(module, "_PART", 4)
    values = np.sort(rng.uniform(-1, 1, ORDER))
    A, called = symmetric(rng, values, torch.float64), _counted(monkeypatch)
    wanted = values[values > 0] if positive else values[values <= 0]
    monkeypatch.setattr(module, "_cuts", lambda *arguments: [wanted[5] / 8])  # the matrix is scaled
    monkeypatch.setattr(module, "_count", lambda *arguments: len(wanted))
    found, _ = half_spectrum(A, positive=positive)
    assert len(called) == 3
    np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("together", [1, 7, ORDER])
def test_reflectors_can_be_applied_by_any_number(together, rng, monkeypatch, all_eigenvectors_refused):
    """Also where a row needs none, as in a matrix of two blocks."""
    monkeypatch.setattr(module, "_TOGETHER", together)
    half = ORDER // 2
    A = torch.block_diag(*(symmetric(rng, np.linspace(-1, 2, half), torch.float64) for _ in range(2)))
    found, vectors = half_spectrum(A, positive=True)
    np.testing.assert_allclose((vectors * found) @ vectors.T, _positive(A), atol=1e-12)


def test_a_scipy_without_the_routines_is_enough(rng, monkeypatch):
    monkeypatch.setattr(module, "_routines", lambda prefix: None)
    A = symmetric(rng, np.linspace(-1, 2, ORDER), torch.float64)
    found, vectors = half_spectrum(A, positive=False)
    np.testing.assert_allclose(A - (vectors * found) @ vectors.T, _positive(A), atol=1e-12)


def test_the_deadline_is_heard_before_and_in_the_middle(rng, monkeypatch):
    A = symmetric(rng, np.linspace(-1, 2, ORDER), torch.float64)
    with pytest.raises(OutOfTime), until(time.perf_counter() - 1):
        half_spectrum(A, positive=True)
    held = threading.Event()
    monkeypatch.setattr(module, "_chosen", lambda *arguments: held.wait())
    try:
        with pytest.raises(OutOfTime), until(time.perf_counter() + 0.2):
            half_spectrum(A, positive=True)
    finally:
        held.set()


def test_this_scipy_has_them():
    assert module._routines("s") is not None
    assert module._routines("d") is not None
    assert module._routines("x") is None


def _counted(monkeypatch) -> list[int]:
    """One entry for each call of stemr."""
    routines, called = dict(module._routines("d") or {}), []
    right = routines["stemr"]

    def noted(*arguments):
        called.append(1)
        right(*arguments)

    monkeypatch.setattr(module, "_routines", lambda prefix: {**routines, "stemr": noted})
    return called


def _not_to_be_called(*arguments):
    raise AssertionError("stemr may crash where it finds no eigenvalue")


def _positive(A: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(A)
    return (vectors * values.clamp(min=0)) @ vectors.T
