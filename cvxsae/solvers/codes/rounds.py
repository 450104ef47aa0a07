"""The rounds of working sets that compute exact codes for a block of datapoints, the same for every engine.

A round, for every datapoint that is not finished: (1) correlations of the residual with all atoms, one matrix
product in low precision with a bound on its error; (2) the certificate, from exact correlations of the atoms that
the bound could not exclude; (3) the most violating atoms enter the working set; (4) the small problem on it is solved
exactly; (5) the residual is recomputed from the codes. The first step of the first round is the encoder
pass, the last round's is the proof: two passes is the floor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Bool, Float64, Int64

from cvxsae.solvers.codes.engines.state import Engine, Outcome, Warm

MAX_ROUNDS = 300
"""Guards against rounding: a round adds atoms or lowers the objective, and supports seldom take more than ten."""

PATIENCE = 4
"""Rounds without progress before a datapoint is moved to float64, or given up."""


LOWER = 1e-12
"""Relative decrease of the objective that is progress: less is rounding."""

NEARER = 0.9
"""Factor by which a smaller gap is progress."""


@dataclass
class BlockCodes:
    """Codes of a block and what certifies them; codes in units of λ, values of λ², gaps relative to the values."""

    indptr: Int64[np.ndarray, " n_plus_1"]
    indices: Int64[np.ndarray, " nnz"]
    codes: Float64[np.ndarray, " nnz"]
    values: Float64[np.ndarray, " n"]
    gaps: Float64[np.ndarray, " n"]
    passes: Int64[np.ndarray, " n"]
    rounds: int
    done: Bool[np.ndarray, " n"]

    @classmethod
    def of_zeros(cls, data: Float64[np.ndarray, "n d"]) -> BlockCodes:
        """Zero codes, with what is certain about them without any work: the value ½‖x‖² and the lower bound 0."""
        n = len(data)
        values = 0.5 * (data**2).sum(axis=1)
        nothing = np.zeros(0, np.int64)
        return cls(
            indptr=np.zeros(n + 1, np.int64),
            indices=nothing,
            codes=np.zeros(0),
            values=values,
            gaps=(values > 0).astype(np.float64),
            passes=np.zeros(n, np.int64),
            rounds=0,
            done=np.zeros(n, np.bool_),
        )


def solve_block(
    engine: Engine,
    data: Float64[torch.Tensor, "n d"],
    warm: Warm | None = None,
    *,
    stop: Callable[[], bool] | None = None,
) -> BlockCodes:
    """Solve ``min_{z ≥ 0} ½‖x − zD‖² + Σz`` for every row x of ``data``; the dictionary is the engine's.

    Gaps in the result are relative.

    Raises
    ------
    InterruptedBlockError
        As soon as ``stop()`` is true at the start of a round, or between the pieces of one.
    """
    if stop is not None:
        engine.stop = stop
    n = data.shape[0]
    state = engine.begin(data, warm)
    values, gaps = np.zeros(n), np.full(n, np.inf)
    passes = np.zeros(n, np.int64)
    done = np.zeros(n, np.bool_)
    rounds = 0
    active: Int64[np.ndarray, " a"] = np.arange(n)
    for double in (False, True):
        best_value, best_gap, idle = np.full(n, np.inf), np.full(n, np.inf), np.zeros(n, np.int64)
        given_up: list[Int64[np.ndarray, " g"]] = []
        for _ in range(MAX_ROUNDS):
            if not len(active):
                break
            engine.go_on()
            outcome = engine.advance(state, active, first=rounds == 0, double=double)
            rounds += 1
            passes[active] += 1
            values[active], gaps[active], done[active] = outcome.values, outcome.gaps, outcome.done
            # Progress is a lower objective or a smaller gap; the objective never rises except for rounding.
            better = (outcome.values < best_value[active] * (1 - LOWER)) | (outcome.gaps < NEARER * best_gap[active])
            idle[active] = np.where(better, 0, idle[active] + 1)
            best_value[active] = np.minimum(best_value[active], outcome.values)
            best_gap[active] = np.minimum(best_gap[active], outcome.gaps)
            stuck = ~outcome.done & (idle[active] >= PATIENCE)
            given_up.append(active[stuck])
            active = active[~outcome.done & ~stuck]
        active = np.concatenate([active, *given_up])
    if len(active):  # a round's last step changes codes after they were looked at: say what the final ones are worth
        outcome = engine.certify(state, active)
        values[active], gaps[active], done[active] = outcome.values, outcome.gaps, outcome.done
    return certified(
        engine.export(state), Outcome(done, values, gaps, passes, passes), passes, rounds=rounds, data=data
    )


def certified(
    exported: tuple[np.ndarray, np.ndarray, np.ndarray],
    found: Outcome,
    passes: Int64[np.ndarray, " n"],
    *,
    rounds: int,
    data: Float64[torch.Tensor, "n d"],
) -> BlockCodes:
    """Codes of a block with relative gaps. Where arithmetic overflowed: zero codes, and what is certain of these."""
    count, chosen, codes = exported
    held = np.arange(chosen.shape[1]) < count[:, None]
    lost = ~np.isfinite(found.values) | (held & ~np.isfinite(codes)).any(axis=1)
    values, gaps, done = found.values, found.gaps, found.done
    if lost.any():
        zeros = BlockCodes.of_zeros(data.numpy()[lost])
        values, gaps, done, count = values.copy(), gaps.copy(), done.copy(), np.where(lost, 0, count)
        values[lost], gaps[lost], done[lost] = zeros.values, zeros.gaps * zeros.values, zeros.done
        held &= ~lost[:, None]
    relative = np.where(np.isfinite(gaps), gaps, values) / np.where(values > 0, values, 1.0)
    indptr = np.concatenate([[0], np.cumsum(count, dtype=np.int64)])
    rows = sp.csr_array((codes[held], chosen[held].astype(np.int64), indptr), shape=(len(count), 2**62))
    rows.sort_indices()
    return BlockCodes(indptr, rows.indices, rows.data, values, np.minimum(relative, 1.0), passes, rounds, done)
