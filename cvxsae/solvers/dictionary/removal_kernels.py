"""The fused CPU kernel of removal prices: a datapoint's other codes adapt to the removal of one atom."""

# numba infers the types of kernels from their arguments; annotations would only repeat "array" and "int".
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np

from cvxsae.solvers.codes.engines.compiled import REORDER, jit

NEGLIGIBLE = 1e-3
"""A coordinate that would move by less than this share of λ stays: a price is an upper bound wherever answers end."""


@jit(fastmath=REORDER)
def add_prices(indptr, indices, codes, correlations, gram, lam, steps, prices):
    """Add to every atom's price what each of its datapoints pays without it, after ``steps`` coordinates answered.

    ``correlations (n, K)`` are ``d_k·r_n``. Greedy coordinate descent: the coordinate that moves furthest lowers the
    objective most, by half the square of its move if it is not stopped at zero.
    """
    size = correlations.shape[1]
    z = np.zeros(size)
    pull = np.empty(size)
    for n in range(len(indptr) - 1):
        start, stop = indptr[n], indptr[n + 1]
        for own in range(start, stop):
            gone, amount = indices[own], codes[own]
            if amount <= 0:
                continue
            for i in range(start, stop):
                z[indices[i]] = codes[i]
            price = amount * (correlations[n, gone] + amount / 2 - lam)
            row = gram[gone]
            for j in range(size):
                pull[j] = correlations[n, j] + amount * row[j] - lam
            z[gone] = 0.0
            for _ in range(steps):
                best, at = 0.0, -1
                for j in range(size):
                    move = max(pull[j], -z[j])
                    if j != gone and abs(move) > abs(best):
                        best, at = move, j
                if abs(best) < NEGLIGIBLE * lam:
                    break
                z[at] += best
                price -= best * (pull[at] - best / 2)
                row = gram[at]
                for j in range(size):
                    pull[j] -= best * row[j]
            prices[gone] += price
            z[:] = 0.0
