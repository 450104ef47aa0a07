"""What codes from elsewhere are worth: their values and certified gaps, changing nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp

from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.solvers.codes.correlation import centered
from cvxsae.solvers.codes.engines.batched import BatchedEngine
from cvxsae.solvers.codes.engines.screening import PreparedDictionary
from cvxsae.solvers.codes.engines.state import Tuning, Warm
from cvxsae.solvers.codes.rounds import BlockCodes, certified

BLOCK = 128
"""Datapoints certified at a time: their active atoms are copied out in float64."""


def worth_of(problem: SparseCodes, codes: sp.csr_array, tol: float) -> list[BlockCodes]:
    """Values and gaps of nonnegative codes (N, K) as they are, by the torch engine, for blocks of consecutive rows."""
    engine = BatchedEngine(PreparedDictionary(problem.atoms), Tuning(tol))
    return [block for _, block in worth_of_rows(engine, problem, sp.csr_array(codes / problem.lam), 0)]


def worth_of_rows(
    engine: BatchedEngine, problem: SparseCodes, codes: sp.csr_array, first: int
) -> Iterator[tuple[int, BlockCodes]]:
    """The same for the rows from ``first`` on, with codes in units of λ: blocks, each with its first row."""
    rows = codes.sorted_indices()
    for block in problem.X[first : first + rows.shape[0]].batches(rows=BLOCK):
        x = centered(block, problem) / problem.lam
        held = rows[: len(x)]
        rows = rows[len(x) :]
        warm = Warm(held.indptr.astype(np.int64), held.indices.astype(np.int64), held.data)
        state = engine.as_they_are(x, warm)
        outcome = engine.certify(state, np.arange(len(x)))
        yield first, certified(engine.export(state), outcome, np.ones(len(x), np.int64), rounds=1, data=x)
        first += len(x)
