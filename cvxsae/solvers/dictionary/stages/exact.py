"""Exact passes: block coordinate descent on (P), codes of one minibatch after another, then every atom and the bias.

All datapoints are coded and dealt into minibatches. A step codes one of them again under the current dictionary
(warm-started), replaces what it contributed to the sums of the codes, and minimizes over every atom in turn and over
the bias. Sums are exact, nothing is forgotten or faded out, so the objective at the codes at hand never rises.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64, Int64

from cvxsae.solvers.dictionary.evaluator import Evaluator
from cvxsae.solvers.dictionary.moves import Moves
from cvxsae.solvers.dictionary.state import Evaluation, Exact, SearchState
from cvxsae.solvers.dictionary.sums import CodeSums


@dataclass(frozen=True)
class ExactPasses:
    """The exact stage.

    Attributes
    ----------
    code_tol
        Relative gap of the codes.
    least_minibatch
        Datapoints in a minibatch, at least; as many as atoms if those are more, so that a sweep over all atoms costs
        no more than the codes.
    """

    code_tol: float = 2e-2
    least_minibatch: int = 1024

    def minibatch(self, n_atoms: int) -> int:
        """Datapoints in a minibatch."""
        return max(self.least_minibatch, n_atoms)

    def begin(self, evaluator: Evaluator, state: SearchState, number: int, found: Evaluation) -> Exact:
        """The first state of a pass: all datapoints coded, and one sweep over the atoms."""
        group, codes = evaluator.group, found.codes.codes
        size = self.minibatch(evaluator.problem.n_atoms)
        minibatches = evaluator.deal(-(-evaluator.summary.n_points // size))
        own = found.sums if group.is_alone else evaluator.own_sums(codes)
        after = Exact(
            **state.at_hand,
            round=number,
            part=0,
            minibatches=minibatches,
            codes=tuple(codes[rows] for rows in minibatches),
            sums=own,
        )
        swept = group.same(found.sums.sweep(found.dictionary, state.offset, dtype=torch.float32))
        return replace(after, value=min(found.value, state.value), dictionary=swept)

    def step(self, evaluator: Evaluator, state: Exact) -> Exact:
        """One minibatch."""
        part, sums = state.part, state.sums
        points, codes = evaluator.encode_minibatch(
            state.minibatches[part], state.dictionary, state.offset, state.codes[part], self.code_tol
        )
        sums.add(state.codes[part], points, sign=-1.0)
        sums.add(codes, points)
        whole = sums.over(evaluator.group)
        dictionary, offset = self.swept(evaluator, whole, state.dictionary, state.offset)
        held = (*state.codes[:part], codes, *state.codes[part + 1 :])
        return replace(state, dictionary=dictionary, offset=offset, codes=held, part=part + 1)

    def swept(
        self,
        evaluator: Evaluator,
        whole: CodeSums,
        dictionary: Float64[torch.Tensor, "K d"],
        offset: Float64[torch.Tensor, " d"],
    ) -> tuple[Float64[torch.Tensor, "K d"], Float64[torch.Tensor, " d"]]:
        """Atoms after one sweep at the codes of all datapoints, and the bias that is best then, if it is free."""
        dictionary = evaluator.group.same(whole.sweep(dictionary, offset, dtype=torch.float32))
        if evaluator.bias_is_free:
            offset = evaluator.group.same(offset + whole.mean_residual(dictionary, offset))
        return dictionary, offset

    def is_finished(self, state: Exact) -> bool:
        """Whether the pass has seen all minibatches."""
        return state.part >= len(state.minibatches)

    def end(self, evaluator: Evaluator, state: Exact, moves: Moves) -> tuple[Exact, sp.csr_array, bool]:
        """The value after a pass and new atoms for dead ones; the codes in the order of the data; whether atoms moved.

        Live atoms are judged once codes are exact: here it would cost an epoch.
        """
        codes, whole = in_order(state.codes, state.minibatches), state.sums.over(evaluator.group)
        value = min(state.value, whole.value(state.dictionary, state.offset, evaluator.lam))
        state = replace(state, value=evaluator.group.same_number(value), round=state.round + 1).counting(epochs=1)
        if (whole.mass > 0).all():
            return state, codes, False
        found = moves.propose(evaluator, state.dictionary, state.offset, codes, state.step)
        if found is None:
            return state, codes, False
        state = replace(state, dictionary=torch.from_numpy(found.dictionary).to(evaluator.device))
        return state.counting(renewed=len(found.replaced)), found.codes, True


def in_order(codes: tuple[sp.csr_array, ...], minibatches: tuple[Int64[np.ndarray, " _"], ...]) -> sp.csr_array:
    """Codes of all datapoints in the order of the data."""
    rows = np.concatenate(minibatches)
    place = np.empty(len(rows), dtype=np.int64)
    place[rows] = np.arange(len(rows))
    return sp.csr_array(sp.vstack(list(codes), format="csr")[place])
