"""What codes from elsewhere are worth: their values and certified gaps, changing nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cvxsae.solvers.codes.correlation import centered
from cvxsae.solvers.codes.engines.batched import BatchedEngine
from cvxsae.solvers.codes.engines.screening import PreparedDictionary
from cvxsae.solvers.codes.engines.state import Tuning, Warm
from cvxsae.solvers.codes.rounds import BlockCodes, certified

if TYPE_CHECKING:
    import scipy.sparse as sp

    from cvxsae.relaxations.convex.fixed_atoms import SparseCodes

BLOCK = 128
"""Datapoints certified at a time: their active atoms are copied out in float64."""


def worth_of(problem: SparseCodes, codes: sp.csr_array, tol: float) -> list[BlockCodes]:
    """Values and gaps of nonnegative codes (N, K) as they are, by the torch engine."""
    engine = BatchedEngine(PreparedDictionary(problem.atoms), Tuning(tol))
    rows = codes.sorted_indices()
    blocks, start = [], 0
    for block in problem.X.batches(rows=BLOCK):
        x = centered(block, problem) / problem.lam
        held = rows[start : start + len(x)]
        start += len(x)
        warm = Warm(held.indptr.astype(np.int64), held.indices.astype(np.int64), held.data / problem.lam)
        state = engine.as_they_are(x, warm)
        outcome = engine.certify(state, np.arange(len(x)))
        blocks.append(certified(engine.export(state), outcome, np.ones(len(x), np.int64), rounds=1, data=x))
    return blocks
