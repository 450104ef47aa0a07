"""Sums of codes: against dense sums, and exact minimisation over atoms."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cvxsae.solvers.learning.statistics import Statistics, _sweep_block, unit

CPU = torch.device("cpu")


def problem(n: int = 200, d: int = 7, k: int = 70, *, seed: int = 0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    Z = sp.random(n, k, density=0.1, random_state=seed, data_rvs=lambda size: rng.uniform(0.1, 1, size=size)).tocsr()
    return X, sp.csr_array(Z), unit(rng.standard_normal((k, d))), 0.1 * rng.standard_normal(d)


def sums(X: np.ndarray, Z: sp.csr_array) -> Statistics:
    statistics = Statistics.empty(Z.shape[1], X.sum(axis=0), float((X**2).sum()), len(X))
    statistics.add(Z, X, device=CPU)
    return statistics


def value(X, Z, D, b, lam):
    return (0.5 * ((X - b - Z @ D) ** 2).sum() + lam * Z.sum()) / len(X)


def test_sums_and_value():
    X, Z, D, b = problem()
    found = sums(X, Z)
    np.testing.assert_allclose(found.products, (Z.T @ Z).toarray(), atol=1e-13)
    np.testing.assert_allclose(found.crosses, Z.T @ X, atol=1e-12)
    np.testing.assert_allclose(found.mass, np.asarray(Z.sum(axis=0)).ravel(), atol=1e-13)
    assert found.value(D, b, 0.2) == pytest.approx(value(X, Z, D, b, 0.2), rel=1e-13)
    np.testing.assert_allclose(found.targets(D, b), Z.T @ (X - b - Z @ D), atol=1e-12)


def test_threads_and_dense_products_agree_with_one_kernel(monkeypatch):
    X, Z, _, _ = problem(n=400)
    alone = sums(X, Z)
    together = Statistics.empty(70, X.sum(axis=0), float((X**2).sum()), len(X))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    big = sp.csr_array(sp.vstack([Z] * 40, format="csr"))
    together.add(big, np.tile(X, (40, 1)), device=CPU)
    np.testing.assert_allclose(together.products, 40 * alone.products, rtol=1e-12)
    dense = Statistics.empty(70, X.sum(axis=0), float((X**2).sum()), len(X))
    dense._multiply(Z, X, 1.0, CPU)
    np.testing.assert_allclose(dense.products, alone.products, atol=1e-12)
    np.testing.assert_allclose(dense.crosses, alone.crosses, atol=1e-12)


def test_taking_away_leaves_nothing_of_a_dead_atom():
    X, Z, D, b = problem()
    statistics = sums(X, Z)
    statistics.add(Z, X, sign=-1.0, device=CPU)
    assert not statistics.products.any()
    assert not statistics.crosses.any()
    assert not statistics.mass.any()
    assert np.isnan(statistics.stationarity(D, b, 0.1)).all()
    np.testing.assert_allclose(statistics.sweep(D, b, device=CPU), D, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sweep_is_exact_minimisation_atom_by_atom(dtype):
    X, Z, D, b = problem()
    statistics = sums(X, Z)
    swept = statistics.sweep(D, b, dtype=dtype, device=CPU)
    slow = D.copy()
    for k in range(len(D)):
        rest = X - b - Z @ slow + np.outer(Z[:, [k]].toarray().ravel(), slow[k])
        best = Z[:, [k]].toarray().ravel() @ rest
        if np.linalg.norm(best) > 0:
            slow[k] = best / np.linalg.norm(best)
    np.testing.assert_allclose(swept, slow, atol=1e-12 if dtype is np.float64 else 2e-4)
    assert value(X, Z, swept, b, 0.2) < value(X, Z, D, b, 0.2)


def test_sweep_on_other_devices_is_the_same_iteration():
    X, Z, D, b = problem(k=20)
    statistics = sums(X, Z)
    atoms = torch.from_numpy(D.copy())
    targets = torch.from_numpy(statistics.targets(D, b))
    _sweep_block(atoms, targets, torch.from_numpy(statistics.products))
    np.testing.assert_allclose(atoms.numpy(), statistics.sweep(D, b, device=CPU), atol=1e-12)


def test_stationarity_is_zero_exactly_where_theory_says():
    """λS_k d_k = Σ z_nk r_n at a stationary dictionary: built backwards, and broken."""
    X, Z, D, b = problem(k=5)
    lam = 0.1
    mass = np.asarray(Z.sum(axis=0)).ravel()
    # Residuals with E_k[r] = λ d_k for every k: the least-norm solution of Zᵀ R = λ diag(S) D.
    R = np.linalg.lstsq(Z.toarray().T, lam * mass[:, None] * D, rcond=None)[0]
    X = R + b + Z @ D
    statistics = sums(X, Z)
    assert statistics.stationarity(D, b, lam).max() < 1e-12
    turned = unit(D + 0.01 * np.random.default_rng(0).standard_normal(D.shape))
    assert statistics.stationarity(turned, b, lam).min() > 1e-4


def test_best_offset_zeroes_the_mean_residual():
    X, Z, D, _ = problem()
    statistics = sums(X, Z)
    b = statistics.best_offset(D)
    np.testing.assert_allclose((X - b - Z @ D).mean(axis=0), 0, atol=1e-14)
    assert statistics.bias_residual(D, b, 0.1) < 1e-12
    assert statistics.bias_residual(D, b + 0.1, 0.1) == pytest.approx(np.sqrt(7), rel=1e-9)
