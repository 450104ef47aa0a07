"""The numbers a solver proposes, and nothing else: what values, bounds and certificates are computed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.sparse

Codes: TypeAlias = "np.ndarray | scipy.sparse.csr_array"


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A primal point and, where a solver has one, a dual point of one of the convex problems.

    Attributes
    ----------
    bias
        Decoder bias, (d,).
    dictionary
        Unit-norm atoms as rows, (K, d); None where a problem defines them through the bias and they would not
        fit in memory (the wide limit of a very large data set).
    codes
        Nonnegative codes, (N, K), dense or ``scipy.sparse.csr_array``; None together with ``dictionary``.
    dual
        Dual point Y, (N, d), in the units of a residual; None: to be built from the residual.
    similarity
        Q, (N, N), where the solver has one.
    multipliers
        The copositivity proof of T11, where one is needed: P ≥ 0, (N, N), or slices, (N, N, N)
        (:func:`~cvxsae.relaxations.convex.polar_proofs.triple_bound`).
    """

    bias: np.ndarray
    dictionary: np.ndarray | None = None
    codes: Codes | None = None
    dual: np.ndarray | None = None
    similarity: np.ndarray | None = None
    multipliers: np.ndarray | None = None
