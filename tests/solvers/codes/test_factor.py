"""Factors of supports: square and packed Gram matrices, supports of every size, atoms in the span of others."""

import numpy as np
import pytest

pytest.importorskip("numba")

from cvxsae.solvers.codes.engines.cpu_factor import Factor, factor, factor_packed, solve_factored
from cvxsae.solvers.codes.engines.cpu_vectors import LANES

M = 43


def system(seed):
    """Gram matrix of unit rows, with rows of whole chunks, and its lower triangle."""
    rows = np.random.default_rng(seed).standard_normal((M, 64))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[7] = rows[3]
    stride = (M + LANES - 1) // LANES * LANES
    square = np.zeros((M, stride))
    square[:, :M] = rows @ rows.T
    return square, square[:, :M][np.tril_indices(M)]


def room():
    side = M + 2 * LANES
    return Factor(
        np.zeros(side, np.int64), np.zeros(side, np.bool_), np.full(side**2, 9.0), np.zeros(side), np.full(side, 9.0)
    )


@pytest.mark.parametrize("size", [*range(1, 10), 15, 16, 17, 31, 33, M])
def test_a_support_is_solved_from_the_square_and_from_the_triangle(size):
    square, packed = system(size)
    rng = np.random.default_rng(size)
    z = np.zeros(M)
    z[rng.choice(M, size, replace=False)] = 1.0
    support = np.flatnonzero(z)
    kept = support[support != 7] if z[3] else support
    right = rng.standard_normal(M)
    expected = np.zeros(M)
    expected[kept] = np.linalg.solve(square[np.ix_(kept, kept)], right[kept])
    made = {"square": room(), "triangle": room()}
    sizes = {
        "square": factor(square.ravel(), square.shape[1], M, z, made["square"], 1e-11),
        "triangle": factor_packed(np.concatenate([np.zeros(5), packed]), 5, M, z, made["triangle"], 1e-11),
    }
    for name, (n, width, spare) in sizes.items():
        own = made[name]
        assert (n, width % LANES) == (size, 0)
        assert spare == (np.flatnonzero(support == 7)[0] if len(kept) < size else size)
        own.y[:n] = right[support]
        solve_factored(own.L, n, width, own.held, own.y, own.trial)
        np.testing.assert_allclose(own.y[:n], expected[support], rtol=1e-9, atol=1e-11)
    assert not np.allclose(expected[kept], right[kept]) or size == 1
