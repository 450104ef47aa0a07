"""The largest correlation of a datapoint with an atom: the smallest λ at which every code is zero."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64

from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.solvers.codes.engines.screening import PreparedDictionary

FIXED_BIAS = "optimize it with solve(SparseCodes(X, dictionary, lam, bias='free')) and pass the bias found"
"""What to do about a free bias where codes are computed at a fixed one."""

CHUNK_BYTES = 64 * 2**20
"""Correlations held at a time."""


def largest_correlation(problem: SparseCodes) -> float:
    """max_nk d_k·(x_n − b)/w_k over this process's rows; negative if no correlation is positive.

    One float32 pass finds the atoms that can attain it, float64 settles which does. The bias must be fixed.
    """
    best = -math.inf
    if problem.weights is not None:
        step, scaled = max(1, CHUNK_BYTES // (8 * problem.n_atoms)), problem.atoms / problem.weights[:, None]
        for block in problem.X.batches(rows=step):
            best = max(best, float((centered(block, problem) @ scaled.T).max()))
        return best
    prepared = PreparedDictionary(problem.atoms)
    step = max(1, CHUNK_BYTES // (4 * prepared.n_atoms))
    for block in problem.X.batches(rows=step):
        best = _larger(best, centered(block, problem), prepared)
    return best


def centered(block: Float64[torch.Tensor, "n d"], problem: SparseCodes) -> Float64[torch.Tensor, "n d"]:
    """X − b, on the CPU."""
    return block.cpu() - problem.bias if isinstance(problem.bias, torch.Tensor) else block.cpu()


def _larger(best: float, x: Float64[torch.Tensor, "n d"], prepared: PreparedDictionary) -> float:
    rows, precision = prepared.exact, prepared.single_precision
    single = x.to(torch.float32)
    norm = torch.linalg.vector_norm(x, dim=1)
    margin, _ = precision.margins(norm, torch.linalg.vector_norm(x - single.to(torch.float64), dim=1))
    products = single @ prepared.single.T
    if not bool(torch.isfinite(products).all()):  # too large or too small for float32
        return max(best, float((x @ rows.T).max()))
    reach = products.amax(dim=1).to(torch.float64)
    best = max(best, float((reach - margin).max()))
    for n in torch.nonzero(reach + margin >= best).flatten().tolist():
        atoms = torch.nonzero(products[n].to(torch.float64) + margin[n] >= best).flatten()
        if len(atoms):
            best = max(best, float((rows[atoms] @ x[n]).max()))
    return best
