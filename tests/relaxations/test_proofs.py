"""Proofs of copositivity by slices: tensors as written, bounds that hold whatever the slices, and no forged one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvxsae.relaxations.convex.penalty import AtomPenalty
from cvxsae.relaxations.proofs import NonnegativeProof, pencil_bound, spread, symmetrized, triple_bound, unspread


def symmetric(rng, n):
    A = rng.normal(size=(n, n))
    return torch.from_numpy(A + A.T)


def slices_of(rng, n, semidefinite=True):
    A = rng.normal(size=(n, n, n))
    return torch.from_numpy(A @ A.transpose(0, 2, 1) if semidefinite else A + A.transpose(0, 2, 1))


def price(n, tau):
    return torch.ones((n, n), dtype=torch.float64) + tau * torch.eye(n, dtype=torch.float64)


def test_tensors_hold_the_coefficients_of_the_cubic_forms(rng):
    M, S, z = symmetric(rng, 5), slices_of(rng, 5), rng.random(5)
    for T, form in (
        (spread(M), z.sum() * z @ M.numpy() @ z),
        (symmetrized(S), sum(z[i] * z @ S[i].numpy() @ z for i in range(5))),
    ):
        assert np.einsum("ijk,i,j,k->", T.numpy(), z, z, z) == pytest.approx(form)
        for order in itertools.permutations(range(3)):
            np.testing.assert_allclose(T.permute(*order), T, atol=1e-13)


@pytest.mark.parametrize("ridge", [0.0, 0.6])
def test_unspread_undoes_spread_and_its_marginal(ridge, rng):
    U = symmetric(rng, 7)
    np.testing.assert_allclose(unspread(spread(U).sum(dim=0) + ridge * U, ridge), U, atol=1e-12)
    T = symmetrized(slices_of(rng, 7))
    assert float((spread(U) * T).sum()) == pytest.approx(float((U * T.sum(dim=0)).sum()))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 3), st.floats(1e-3, 30), st.booleans())
def test_any_slices_bound_the_polar_from_above(seed, n, d, tau, semidefinite):
    rng = np.random.default_rng(seed)
    Y = torch.from_numpy(rng.normal(size=(n, d)))
    S = slices_of(rng, n, semidefinite) * rng.choice([1e-3, 1.0])
    exact = AtomPenalty(tau).matrix_polar(Y)  # branch and bound: d ≤ 3
    assert triple_bound(Y @ Y.T, S, tau, d) >= exact.lower * (1 - 1e-12)


def test_one_slice_for_all_is_the_proof_of_order_zero(rng):
    n, tau = 8, 0.7
    Y = torch.from_numpy(rng.normal(size=(n, 3)))
    P = torch.from_numpy(rng.random((n, n)))
    P = P + P.T
    t = pencil_bound(Y @ Y.T, P, tau, 3)
    S = t**2 * price(n, tau) - Y @ Y.T - P
    assert triple_bound(Y @ Y.T, S.expand(n, n, n), tau, 3) <= t * (1 + 1e-12)


def horn():
    i = np.arange(5)
    return np.where(np.isin((i[:, None] - i) % 5, (1, 4)), -1.0, 1.0)


def test_the_horn_matrix_has_a_proof_and_no_proof_of_order_zero():
    """``(Σ z_i) zᵀHz = Σ_i z_i (z_i − z_{i+1} + z_{i+2} + z_{i+3} − z_{i+4})² + 4 Σ_i z_i z_{i+1} z_{i+3}``."""
    H = horn()
    S = np.stack([np.outer(H[i], H[i]) for i in range(5)])
    left, right = spread(torch.from_numpy(H)), symmetrized(torch.from_numpy(S))
    assert float((left - right).min()) >= -1e-15
    # Not S + P: a doubly nonnegative matrix that it separates (circulant, rank 2, positive semidefinite).
    angle = 4 * np.pi / 5 * np.subtract.outer(np.arange(5), np.arange(5))
    Q = np.clip(np.cos(angle / 2) + (1 + np.sqrt(5)) / 4, 0, None)
    assert np.linalg.eigvalsh(Q)[0] >= -1e-12
    assert np.sum(H * Q) < -0.1


def test_forged_slices_prove_less_not_more(rng):
    """Slices that would prove too much are not semidefinite, and what they lack is charged."""
    tau, Y = 3.0, torch.from_numpy(rng.normal(size=(9, 3)))
    exact = AtomPenalty(tau).matrix_polar(Y)
    forged = 0.9 * exact.lower**2 * price(9, tau) - Y @ Y.T
    claimed = (symmetrized(forged.expand(9, 9, 9)) + spread(Y @ Y.T)) / spread(price(9, tau))
    assert float(claimed.max()) < exact.lower**2  # the inequality of the tensors alone would let it pass
    assert triple_bound(Y @ Y.T, forged.expand(9, 9, 9), tau, 3) > exact.lower


@pytest.mark.parametrize("tau", [0.5, 4.0])
def test_a_forged_matrix_proves_less_not_more(tau, rng):
    """Negative entries of P would prove anything: with P = −YYᵀ, that the polar is zero."""
    Y = torch.from_numpy(rng.normal(size=(7, 3)))
    gram = Y @ Y.T
    attained = float(torch.linalg.vector_norm(Y, dim=1).max()) / np.sqrt(1 + tau)  # by one datapoint alone
    for P in (-gram, -1e3 * torch.ones_like(gram), torch.from_numpy(rng.normal(size=(7, 7))) - 9):
        assert NonnegativeProof(P.numpy()).polar_bound(gram, tau, 3) >= attained
    assert pencil_bound(gram, -gram, tau, 3) < attained  # the control: what no clipping would have proved
