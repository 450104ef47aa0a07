"""One pass over the data against the definitions in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cvxsae import InputError
from cvxsae.diagnostics import feature_statistics, pairs
from cvxsae.diagnostics import sums as statistics
from cvxsae.diagnostics.pairs import pair_blocks
from tests.helpers import problems
from tests.helpers.interrupts import interrupt_codes

LAM = 0.25


def random_problem(rng, *, n=101, d=7, K=12):
    X, D = problems.gaussian(rng, n, d), rng.normal(size=(K, d)) * rng.uniform(0.5, 3, (K, 1))
    D[4] = -X.mean(axis=0) * 50  # never fires: it points away from every datapoint
    X = X + 3 * X.mean(axis=0)
    return X, D, 0.1 * rng.normal(size=d)


def written(X, D, b, Z, lam):
    """Residuals and activation-weighted means as defined."""
    R = X - b - Z @ D
    mass = Z.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return R, mass, (Z.T @ R) / mass[:, None], (Z.T @ (X - b)) / mass[:, None]


@pytest.mark.parametrize("rows", [17, 4096])
def test_every_sum_is_its_definition(rows, device, rng, monkeypatch):
    monkeypatch.setattr(statistics, "_ROWS", rows)
    monkeypatch.setattr(statistics, "_PRODUCT_ENTRIES", 100)
    X, D, b = random_problem(rng)
    found = feature_statistics(X, D, LAM, bias=b, device=device)
    D = problems.unit(D)
    Z = found.codes.codes.toarray()
    R, mass, mean_residual, mean_data = written(X, D, b, Z, LAM)
    n = len(X)
    assert found.codes.done.all()
    assert np.allclose(found.residuals.cpu(), R, atol=1e-13)
    assert np.allclose(found.residual_norms, np.linalg.norm(R, axis=1))
    assert np.allclose(found.mass, mass / n)
    assert found.counts.tolist() == (Z > 0).sum(axis=0).tolist()
    assert np.allclose(found.density, (Z > 0).mean(axis=0))
    assert found.counts[4] == 0
    assert not found.live[4]
    assert np.allclose(found.mean_residual, mean_residual, atol=1e-12, equal_nan=True)
    assert np.allclose(found.mean_data, mean_data, atol=1e-12, equal_nan=True)
    assert np.isnan(found.mean_residual[4]).all()
    assert np.allclose(found.mean_bias_residual, R.mean(axis=0))
    assert np.allclose(found.largest_ratio, (R @ D.T).max(axis=0) / LAM)
    assert np.allclose(
        found.energies, [np.mean((a * c).sum(axis=1)) for a, c in ((X - b, X - b), (Z @ D, Z @ D), (Z @ D, X - b))]
    )
    assert np.allclose(found.second_moment, R.T @ R / n)
    for row in range(n):
        A = D[Z[row] > 0]
        expected = LAM**2 * np.linalg.solve(A @ A.T, np.ones(len(A))).sum() if len(A) else 0
        assert found.shrinkage[row] == pytest.approx(expected, rel=1e-8)
    points, codes = found.activations(2)
    assert points.tolist() == np.flatnonzero(Z[:, 2]).tolist()
    assert np.allclose(codes, Z[points, 2])
    for half, part in zip(found.halves, (slice(0, None, 2), slice(1, None, 2)), strict=True):
        x, r, e = (X - b)[part], R[part], np.linalg.norm(R[part], axis=1)
        assert half.count == len(x)
        for sum_, expected in (
            (half.x, x.sum(axis=0)), (half.r, r.sum(axis=0)), (half.e, e.sum()), (half.xx, x.T @ x),
            (half.xr, x.T @ r), (half.xe, x.T @ e), (half.rr, (r**2).sum()), (half.ee, (e**2).sum()),
        ):  # fmt: skip
            assert np.allclose(sum_, expected)


def test_large_data_keeps_its_residuals_in_single_precision(rng, monkeypatch):
    X, D, b = random_problem(rng)
    double = feature_statistics(X, D, LAM, bias=b)
    monkeypatch.setattr(statistics, "_DOUBLE_ENTRIES", 100)
    single = feature_statistics(X, D, LAM, bias=b)
    assert (double.residuals.dtype, single.residuals.dtype) == (torch.float64, torch.float32)
    assert np.array_equal(single.mean_residual, double.mean_residual, equal_nan=True)


def test_pairs_are_their_definition(rng, monkeypatch):
    X, D, b = random_problem(rng)
    monkeypatch.setattr(pairs, "_PAIR_ENTRIES", 5 * 12)
    found = feature_statistics(X, D, LAM, bias=b)
    blocks = list(pair_blocks(found))
    assert [block.first for block in blocks] == [0, 5, 10]
    D, Z = problems.unit(D), found.codes.codes.toarray()
    R, mass, _, mean_data = written(X, D, b, Z, LAM)
    with np.errstate(invalid="ignore"):
        weights = Z / mass
        own = np.einsum("kd,kd->k", mean_data, D)
        own[~(own > 0)] = np.nan
        expected = {
            "cosine": D @ D.T,
            "expected": weights.T @ (R @ D.T / LAM),
            "cofiring": weights.T @ (Z > 0),
            "carried": mean_data @ D.T / own,
        }
    for name, values in expected.items():
        got = np.vstack([getattr(block, name) for block in blocks])
        assert np.allclose(got, values, atol=1e-12, equal_nan=True), name


def test_what_it_refuses(rng):
    with pytest.raises(InputError, match="'free'"):
        feature_statistics(np.eye(3), np.eye(3), 0.1, bias="free")
    with pytest.raises(InputError, match="lam"):
        feature_statistics(np.eye(3), np.eye(3), 0.0)


def test_interrupted_codes_are_not_measured(monkeypatch):
    interrupt_codes(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        feature_statistics(np.eye(3), np.eye(3), 0.1)
