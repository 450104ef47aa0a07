"""The largest correlation of datapoints with atoms: the least penalty at which every code is zero."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from cvxsae.solvers.codes.engines.screening import PreparedDictionary

if TYPE_CHECKING:
    from jaxtyping import Float64

    from cvxsae.data.activations import Activations

FREE_BIAS = (
    "bias is 'free' but codes are computed for a fixed bias; "
    "use solve(SparseCodes(X, dictionary, lam, bias='free')) to optimise it, then pass its bias here."
)
"""What to say to a free bias where codes are asked for: it belongs to all datapoints together."""

CHUNK_BYTES = 64 * 2**20


def largest_correlation(
    data: Activations, rows: Float64[torch.Tensor, "K d"], bias: Float64[torch.Tensor, " d"] | None
) -> float:
    """max_nk d_k·(x_n − b): the smallest λ at which every code is zero; negative if no correlation is positive.

    One float32 pass finds the atoms that can attain it, float64 settles which does.
    """
    prepared = PreparedDictionary(rows)
    best = -math.inf
    step = max(1, CHUNK_BYTES // (4 * prepared.n_atoms))
    precision = prepared.single_precision
    for block in data.batches(rows=step):
        x = block.cpu() if bias is None else block.cpu() - bias
        single = x.to(torch.float32)
        norm = torch.linalg.vector_norm(x, dim=1)
        margin, _ = precision.margins(norm, torch.linalg.vector_norm(x - single.to(torch.float64), dim=1))
        products = single @ prepared.single.T
        if not bool(torch.isfinite(products).all()):  # too large or too small for float32
            best = max(best, float((x @ rows.T).max()))
            continue
        reach = products.amax(dim=1).to(torch.float64)
        best = max(best, float((reach - margin).max()))
        for n in torch.nonzero(reach + margin >= best).flatten().tolist():
            atoms = torch.nonzero(products[n].to(torch.float64) + margin[n] >= best).flatten()
            if len(atoms):
                best = max(best, float((rows[atoms] @ x[n]).max()))
    return best
