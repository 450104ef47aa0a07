"""The cost of removing an atom when the other codes adapt: the price that :func:`cvxsae.shrink` uses.

With all other codes held, removing atom k costs ``(1/2N) Σ_n z_nk²`` at exact codes (:mod:`moves`). Other atoms take
over much of it: a duplicate costs nothing, a mixture of atoms that are there costs little. Here every datapoint of
the atom answers by coordinate descent on its own lasso without that atom. Any codes are feasible, so a price is never
less than the exact one: ``F(D without k) ≤ F(D) + price_k``.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float64

STEPS = 100
"""Coordinates that answer to a removal, at most, in every datapoint."""

BLOCK = 512
"""Datapoints whose correlations with all atoms are held at a time."""


def removal_prices(
    points: Float64[np.ndarray, "N d"], dictionary: Float64[np.ndarray, "K d"], codes: sp.csr_array, lam: float
) -> Float64[np.ndarray, " K"]:
    """An upper bound on what F rises by if an atom is removed, for every atom on its own, mean per datapoint.

    ``points`` are data less the bias. Prices are counted from the objective at ``codes``, where atoms without codes are
    free; they are negative where codes are not exact and the answer is better than they were.
    """
    from cvxsae.solvers.dictionary.removal_kernels import add_prices

    gram = dictionary @ dictionary.T
    prices = np.zeros(len(dictionary))
    indptr = codes.indptr.astype(np.int64)
    for first in range(0, len(points), BLOCK):
        last = min(first + BLOCK, len(points))
        residuals = points[first:last] - codes[first:last] @ dictionary
        add_prices(
            indptr[first : last + 1],
            codes.indices.astype(np.int64),
            codes.data,
            residuals @ dictionary.T,
            gram,
            lam,
            STEPS,
            prices,
        )
    return prices / len(points)


def cheapest_apart(
    prices: Float64[np.ndarray, " K"], dictionary: Float64[np.ndarray, "K d"], at_most: int, *, apart: float = 0.5
) -> list[int]:
    """The cheapest atoms to remove together: none within ``apart`` in cosine of a cheaper one that goes as well.

    Prices are for one removal at a time: of two duplicates each is free, both together are not.
    """
    chosen: list[int] = []
    for k in np.argsort(prices, kind="stable"):
        if len(chosen) == at_most:
            break
        if not chosen or float((dictionary[chosen] @ dictionary[k]).max()) < apart:
            chosen.append(int(k))
    return chosen
