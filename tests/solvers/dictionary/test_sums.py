"""Sums of codes: against dense sums, and exact minimization over atoms."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cvxsae.solvers.dictionary.spheres import unit
from cvxsae.solvers.dictionary.sums import CodeSums, sweep_block

t = torch.from_numpy


def problem(n: int = 200, d: int = 7, k: int = 70, *, seed: int = 0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    Z = sp.random(n, k, density=0.1, random_state=seed, data_rvs=lambda size: rng.uniform(0.1, 1, size=size)).tocsr()
    return X, sp.csr_array(Z), unit(rng.standard_normal((k, d))), 0.1 * rng.standard_normal(d)


def empty(X: np.ndarray, k: int, device: torch.device | None = None) -> CodeSums:
    return CodeSums.empty(k, t(X.sum(axis=0)).to(device or "cpu"), float((X**2).sum()), len(X))


def sums(X: np.ndarray, Z: sp.csr_array) -> CodeSums:
    statistics = empty(X, Z.shape[1])
    statistics.add(Z, t(X))
    return statistics


def value(X, Z, D, b, lam):
    return (0.5 * ((X - b - Z @ D) ** 2).sum() + lam * Z.sum()) / len(X)


def test_sums_and_value():
    X, Z, D, b = problem()
    found = sums(X, Z)
    np.testing.assert_allclose(found.products, (Z.T @ Z).toarray(), atol=1e-13)
    np.testing.assert_allclose(found.crosses, Z.T @ X, atol=1e-12)
    np.testing.assert_allclose(found.mass, np.asarray(Z.sum(axis=0)).ravel(), atol=1e-13)
    np.testing.assert_array_equal(found.active, (Z > 0).sum(axis=0))
    assert found.value(t(D), t(b), 0.2) == pytest.approx(value(X, Z, D, b, 0.2), rel=1e-13)
    np.testing.assert_allclose(found.targets(t(D), t(b)), Z.T @ (X - b - Z @ D), atol=1e-12)


def test_threads_agree_with_one_kernel(monkeypatch):
    X, Z, _, _ = problem(n=400)
    alone = sums(X, Z)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    together = empty(X, 70)
    together.add(sp.csr_array(sp.vstack([Z] * 40, format="csr")), t(np.tile(X, (40, 1))))
    np.testing.assert_allclose(together.products, 40 * alone.products, rtol=1e-12)
    np.testing.assert_allclose(together.crosses, 40 * alone.crosses, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_dense_products_agree_with_the_kernel(sign, device):
    """What runs on a GPU, on whatever is here."""
    X, Z, _, _ = problem(n=400)
    dense, alone = empty(X, 70, device), empty(X, 70)
    dense._multiply(Z, t(X), sign)
    alone._scatter(Z, t(X), sign)
    for name in ("products", "crosses", "mass"):
        np.testing.assert_allclose(getattr(dense, name).cpu(), getattr(alone, name), atol=1e-12)


def test_taking_away_leaves_nothing_of_a_dead_atom():
    X, Z, D, b = problem()
    statistics = sums(X, Z)
    statistics.add(Z, t(X), sign=-1.0)
    assert not statistics.products.any()
    assert not statistics.crosses.any()
    assert not statistics.mass.any()
    assert statistics.stationarity(t(D), t(b), 0.1).isnan().all()
    np.testing.assert_allclose(statistics.sweep(t(D), t(b)), D, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sweep_is_exact_minimization_atom_by_atom(dtype):
    X, Z, D, b = problem()
    swept = sums(X, Z).sweep(t(D), t(b), dtype=dtype).numpy()
    slow = D.copy()
    for k in range(len(D)):
        z = Z[:, [k]].toarray().ravel()
        best = z @ (X - b - Z @ slow + np.outer(z, slow[k]))
        if np.linalg.norm(best) > 0:
            slow[k] = best / np.linalg.norm(best)
    np.testing.assert_allclose(swept, slow, atol=1e-12 if dtype is torch.float64 else 2e-4)
    assert value(X, Z, swept, b, 0.2) < value(X, Z, D, b, 0.2)


def test_sweep_on_other_devices_is_the_same_iteration(device):
    X, Z, D, b = problem(k=20)
    statistics = sums(X, Z)
    atoms = t(D.copy()).to(device)
    sweep_block(atoms, statistics.targets(t(D), t(b)).to(device), statistics.products.to(device))
    np.testing.assert_allclose(atoms.cpu(), statistics.sweep(t(D), t(b)), atol=1e-12)


def test_stationarity_is_zero_exactly_where_theory_says():
    """λS_k d_k = Σ z_nk r_n at a stationary dictionary: built backwards, and broken."""
    X, Z, D, b = problem(k=5)
    lam = 0.1
    mass = np.asarray(Z.sum(axis=0)).ravel()
    # Residuals with E_k[r] = λ d_k for every k: the least-norm solution of Zᵀ R = λ diag(S) D.
    R = np.linalg.lstsq(Z.toarray().T, lam * mass[:, None] * D, rcond=None)[0]
    X = R + b + Z @ D
    statistics = sums(X, Z)
    assert statistics.stationarity(t(D), t(b), lam).max() < 1e-12
    turned = unit(D + 0.01 * np.random.default_rng(0).standard_normal(D.shape))
    assert statistics.stationarity(t(turned), t(b), lam).min() > 1e-4


def test_mean_residual_leads_to_the_best_bias():
    X, Z, D, b = problem()
    statistics = sums(X, Z)
    best = t(b) + statistics.mean_residual(t(D), t(b))
    np.testing.assert_allclose((X - best.numpy() - Z @ D).mean(axis=0), 0, atol=1e-14)
    assert statistics.bias_residual(t(D), best, 0.1) < 1e-12
    assert statistics.bias_residual(t(D), best + 0.1, 0.1) == pytest.approx(np.sqrt(7), rel=1e-9)
