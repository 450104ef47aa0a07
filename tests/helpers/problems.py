"""Shared builders: the written formulas in plain numpy, and problems built backwards from a primal-dual pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize

import cvxsae

# Optional parts of a solution are there in most tests; mypy need not be told each time.
solve: Any = cvxsae.solve
certify: Any = cvxsae.certify
minimize: Any = scipy.optimize.minimize


def penalties(Z, tau):
    """θ_τ of every column."""
    return np.sqrt(Z.sum(axis=0) ** 2 + tau * (Z**2).sum(axis=0))


def primal(X, bias, D, Z, lam, tau=0.0):
    """``(1/N) [½‖X − 1bᵀ − ZD‖² + λ Σ_k ‖d_k‖ θ_τ(z_k)]`` as written."""
    residual = X - np.ones((len(X), 1)) * bias - Z @ D
    return (0.5 * np.sum(residual**2) + lam * np.linalg.norm(D, axis=1) @ penalties(Z, tau)) / len(X)


def dual(X, bias, Y):
    """``(1/N) [⟨X − 1bᵀ, Y⟩ − ½‖Y‖²]`` as written."""
    return (np.sum((X - bias) * Y) - 0.5 * np.sum(Y**2)) / len(X)


def relaxed(X, bias, Q, lam, tau):
    """Equation (7) per datapoint, with an explicit inverse."""
    centered, n = X - bias, len(X)
    fit = np.trace(centered.T @ np.linalg.inv(Q + lam * np.eye(n)) @ centered)
    return lam / 2 * (fit + np.ones(n) @ Q @ np.ones(n) + tau * np.trace(Q)) / n


def huber(norms, lam):
    """``h_λ`` as written."""
    return np.where(norms <= lam, norms**2 / 2, lam * norms - lam**2 / 2)


def unit(rows):
    """Rows scaled to norm one."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def gaussian(rng, n, d):
    """Random data off the origin."""
    return rng.normal(size=(n, d)) + 0.3


def clustered(rng, n, d, clusters=3):
    """Points around a few centers: atoms are worth sharing."""
    centers = 2 * unit(rng.normal(size=(clusters, d)))
    return centers[rng.integers(clusters, size=n)] * rng.uniform(0.5, 1.5, (n, 1)) + 0.1 * rng.normal(size=(n, d))


@dataclass(frozen=True)
class Known:
    """A problem whose optimum is known because it was built from a primal and a dual point that certify each other."""

    X: np.ndarray
    atoms: np.ndarray
    codes: np.ndarray
    bias: np.ndarray
    dual: np.ndarray
    value: float


def known_codes(rng, *, n=20, d=6, pairs=5, lam=0.3):
    """Codes for a fixed dictionary: ``d_k·r = λ`` on the support, below λ off it, residuals that sum to zero.

    The dictionary is symmetric (±d_k), so that with every residual its opposite is feasible too.
    """
    half = unit(rng.normal(size=(pairs, d)))
    atoms = np.vstack([half, -half])
    bias = rng.normal(size=d)
    residuals: list[np.ndarray] = []
    codes: list[np.ndarray] = []
    while len(residuals) < n:
        support = rng.choice(2 * pairs, size=rng.integers(0, 4), replace=False)
        if len(np.unique(support % pairs)) < len(support):
            continue
        active = atoms[support]
        shrinkage = lam * np.linalg.pinv(active) @ np.ones(len(support)) if len(support) else np.zeros(d)
        free = 0.3 * lam * rng.normal(size=d)
        residual = shrinkage + free - (np.linalg.pinv(active) @ active @ free if len(support) else 0)
        outside = np.delete(atoms, support, axis=0)
        if (outside @ residual).max(initial=-np.inf) > 0.98 * lam:
            continue
        for sign, shift in ((1, 0), (-1, pairs)):
            z = np.zeros(2 * pairs)
            z[(support + shift) % (2 * pairs)] = rng.uniform(0.2, 2, len(support))
            codes.append(z)
            residuals.append(sign * residual)
    Z, R = np.array(codes), np.array(residuals)
    value = (0.5 * np.sum(R**2) + lam * Z.sum()) / len(R)
    return Known(R + bias + Z @ atoms, atoms, Z, bias, R, value)


def known_wide(rng, *, pairs=10, d=5, lam=0.4):
    """Datapoints in opposite directions from the bias, half of them within λ of it."""
    bias = rng.normal(size=d)
    directions = unit(rng.normal(size=(pairs, d)))
    inner = rng.uniform(0, lam, (pairs, 1)) * (np.arange(pairs) % 2)[:, None]
    half = directions * np.where(inner > 0, inner, lam)
    Y = np.vstack([half, -half])
    lengths = rng.uniform(0.1, 3, 2 * pairs) * np.tile(inner[:, 0] == 0, 2)
    atoms = np.vstack([directions, -directions])
    value = (0.5 * np.sum(Y**2) + lam * lengths.sum()) / len(Y)
    return Known(bias + Y + lengths[:, None] * atoms, atoms, np.diag(lengths), bias, Y, value)


def known_candidates(rng, *, n=15, d=6, used=3, lam=0.3, tau=2.0):
    """Candidates with a surcharge: ``(R a_k)_n = λ (S_k + τ z_nk)/θ_k`` on the support, at most ``λ S_k/θ_k`` off it.

    Unused candidates are orthogonal to the used ones, where the residual is short.
    """
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0].T
    atoms = unit(rng.normal(size=(used, used)) + 2 * np.eye(used)) @ basis[:used]
    idle = unit(rng.normal(size=(4, d - used))) @ basis[used:]
    Z = rng.uniform(0.2, 2, (n, used)) * (rng.random((n, used)) < 0.5)
    Z[0] = 0
    Z[1] = 1
    theta, mass = penalties(Z, tau), Z.sum(axis=0)
    correlation = lam * (mass + tau * Z) / theta
    outside = Z == 0
    drawn = -rng.uniform(0.5, 1.5, Z.shape) * outside
    correlation = np.where(outside, drawn * (correlation * ~outside).sum(axis=0) / -drawn.sum(axis=0), correlation)
    rest = rng.normal(size=(n, d - used))
    rest -= rest.mean(axis=0)
    rest *= 0.5 * lam / np.linalg.norm(rest, axis=1).max()
    R = correlation @ np.linalg.pinv(atoms).T + rest @ basis[used:]
    bias = rng.normal(size=d)
    value = (0.5 * np.sum(R**2) + lam * theta.sum()) / n
    codes = np.hstack([Z, np.zeros((n, len(idle)))])
    every = np.vstack([atoms, idle])
    return Known(R + bias + codes @ every, every, codes, bias, R, value)
