"""What cannot be computed ends in a status whose numbers are true: failing factorizations, extreme λ, singular D."""

import numpy as np
import pytest
import torch

from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.encode import encode
from cvxsae.solvers.codes.engines import engine_name, pivoting
from tests.solvers.codes.test_encode import referee, unit

ENGINES = ["fused", "torch"]


def raising(system):
    raise torch.linalg.LinAlgError("injected")  # type: ignore[attr-defined]


def never_definite(system):
    return torch.full_like(system, torch.nan), torch.ones(len(system), dtype=torch.int32)


REAL = torch.linalg.cholesky_ex


def sometimes(system):
    factor, info = REAL(system)
    info = info.clone()
    info[::2] = 1
    return factor, info


def true(codes, X, D, lam):
    """The claims hold: values are those of the codes, and no bound lies above what float64 finds."""
    value, bound = referee(X, D, lam, codes.codes)
    assert np.isfinite(codes.values).all()
    assert (codes.gaps <= 1).all()
    np.testing.assert_allclose(codes.values, value, rtol=1e-9)
    claims = codes.values * (1 - codes.gaps)
    assert (claims <= bound + 1e-12 * value + 1e-13 * (X**2).sum(1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("cholesky", [raising, never_definite, sometimes])
def test_a_factorization_that_fails_ends_in_a_status(cholesky, monkeypatch):
    rng = np.random.default_rng(0)
    X, D = rng.standard_normal((30, 8)), unit(rng, 24, 8)
    monkeypatch.setattr(torch.linalg, "cholesky_ex", cholesky)
    codes = encode(X, D, 0.3, tol=1e-8, engine="torch")
    monkeypatch.undo()
    assert codes.status in (Status.CERTIFIED, Status.STALLED)
    true(codes, X, D, 0.3)


def test_masked_factor_is_the_identity_where_nothing_helps(monkeypatch):
    monkeypatch.setattr(torch.linalg, "cholesky_ex", raising)
    gram, free = torch.ones(2, 3, 3), torch.ones(2, 3, dtype=torch.bool)
    np.testing.assert_array_equal(pivoting.masked_factor(gram, free).numpy(), np.stack([np.eye(3)] * 2))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ratio", [1e-3, 1e-6, 1e-9, 1e-13])
@pytest.mark.parametrize("kind", ["wide", "rank below K", "duplicates"])
def test_penalties_down_to_rounding_end_with_bounds_that_hold(engine, ratio, kind):
    rng = np.random.default_rng(1)
    X, D = rng.standard_normal((8, 6)), unit(rng, 20, 6)
    if kind == "rank below K":
        D = D[:, :3] @ rng.standard_normal((3, 6))
        D /= np.linalg.norm(D, axis=1, keepdims=True)
    elif kind == "duplicates":
        D = np.vstack([D, D, D[:5] + 1e-9])
    codes = encode(X, D, ratio, tol=1e-6, engine=engine)
    other = encode(X, D, ratio, tol=1e-6, engine=ENGINES[1 - ENGINES.index(engine)])
    assert codes.status in (Status.CERTIFIED, Status.STALLED)
    assert (codes.codes.data > 0).all()
    assert np.isfinite(codes.values).all()
    claims = codes.values * (1 - codes.gaps)
    noise = 1e-14 * (X**2).sum(1) + 1e-12 * other.values  # of the other engine's values
    assert (claims <= other.values + noise).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scale", [1e30, 1e50, 1e120])
def test_what_float32_or_float64_cannot_hold_has_zero_codes_and_a_true_bound(engine, scale):
    """Data 1e30 to 1e120 times λ: squares, or the working precision, overflow somewhere on the way."""
    rng = np.random.default_rng(2)
    X, D = rng.standard_normal((5, 4)) * scale, unit(rng, 10, 4)
    codes = encode(X, D, 1.0, tol=1e-6, engine=engine)
    assert codes.status in (Status.CERTIFIED, Status.STALLED)
    assert np.isfinite(codes.values).all()
    assert ((codes.gaps >= 0) & (codes.gaps <= 1)).all()
    value, _ = referee(X, D, 1.0, codes.codes)
    np.testing.assert_allclose(codes.values, value, rtol=1e-6, atol=1e-12 * scale**2)


def test_auto_never_picks_triton():
    assert engine_name("auto", "cuda") == "torch"
    assert engine_name("auto", "cpu") == "fused"


@pytest.mark.parametrize("lam", [1e-2, 1e-6])
def test_more_atoms_than_dimensions_at_a_small_penalty(lam, rng):
    """Working sets larger than the dimension are singular: an active set of one atom at a time ends where pivoting
    does not."""
    X, atoms = rng.normal(size=(8, 4)), rng.normal(size=(80, 4))
    codes = encode(X, atoms, lam, tol=1e-6, engine="torch")
    assert codes.is_certified
    assert codes.rounds <= 40
    assert codes.value == pytest.approx(encode(X, atoms, lam, tol=1e-9).value, rel=2e-6)


def test_the_active_set_method_solves_singular_systems(rng):
    A = torch.from_numpy(rng.normal(size=(3, 20, 4)))
    gram, linear = A @ A.transpose(1, 2), (A @ torch.from_numpy(rng.normal(size=(3, 4, 1))))[:, :, 0] - 0.1
    valid = torch.ones(3, 20, dtype=torch.bool)
    z, support = pivoting.active_set(
        gram, linear, torch.zeros(3, 20, dtype=torch.float64), valid, torch.full((3, 1), 1e-9)
    )
    slack = linear - (gram @ z[:, :, None])[:, :, 0]
    assert float(slack.max()) < 1e-8
    assert float(slack[support].abs().max()) < 1e-8
    assert support.any(dim=1).all()
