"""Fused CPU kernels of dictionary learning: scatter codes into statistics, and the sequential part of a sweep."""

# numba infers the types of kernels from their arguments; annotations would only repeat "array" and "int".
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np

from cvxsae.solvers.codes.engines.compiled import REORDER, U, jit


@jit(fastmath=REORDER)
def scatter(indptr, indices, codes, points, d, sign, part, parts, products, crosses, mass):
    """Add ``sign · z_n z_nᵀ``, ``sign · z_n x_nᵀ`` and ``sign · z_n`` of every datapoint, for every ``parts``-th atom.

    ``products (K, K)``, ``crosses (K, d)`` and ``mass (K,)`` are float64; ``points`` is flat. Two threads that take
    different parts never write to the same row.
    """
    for n in range(len(indptr) - 1):
        start, stop = indptr[n], indptr[n + 1]
        base = U(n * d)
        for i in range(start, stop):
            k = indices[i]
            if k % parts != part:
                continue
            z = sign * codes[i]
            mass[k] += z
            row = products[k]
            for j in range(start, stop):
                row[indices[j]] += z * codes[j]
            cross = crosses[k]
            for j in range(U(d)):
                cross[j] += z * points[base + j]


@jit(fastmath=REORDER)
def sweep_block(atoms, targets, products, first):
    """Exact minimization over one atom after another of a block, the others of the block being kept up to date.

    ``targets (m, d)`` holds ``B_k − Σ_j A_kj d_j`` for the block's atoms and is updated in place, like
    ``atoms (m, d)``; ``products (m, K)`` is the block's rows of A, its own columns from ``first``. An atom whose best
    direction is undefined (all codes zero) stays. Returns the largest squared move of an atom.
    """
    m, d = atoms.shape
    move = np.empty(d, atoms.dtype)
    largest = 0.0
    for k in range(m):
        own = products[k, first + k]
        square = 0.0
        for j in range(U(d)):
            value = targets[k, j] + own * atoms[k, j]
            move[j] = value
            square += value * value
        if not square > 0:
            continue
        scale = 1.0 / np.sqrt(square)
        moved = 0.0
        for j in range(U(d)):
            step = move[j] * scale - atoms[k, j]
            move[j] = step
            moved += step * step
            atoms[k, j] += step
        largest = max(largest, moved)
        for i in range(m):
            weight = products[i, first + k]
            if weight != 0:
                for j in range(U(d)):
                    targets[i, j] -= weight * move[j]
    return largest
