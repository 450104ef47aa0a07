"""Early stopping: the search is validated on rows set aside, and returns what is best there (T17 b).

F on the rows learned from falls as long as the search goes on; on others it falls while shared features are found and
rises when rows are memorized. It is evaluated with exact codes, which start from those of the evaluation before: at the
start, at the end of every stochastic round and exact pass, every few steps of descent, and where the search ends. An
evaluation *shows* a decrease if the paired interval of the difference, row by row (or document by document), from the
last one that showed one lies below zero. So many in a row that do not (``patience``), and the search ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from cvxsae.data.deadline import OutOfTime
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.encode import encode_rows
from cvxsae.solvers.codes.evaluation import CONFIDENCE, Evaluation, evaluation_from
from cvxsae.solvers.dictionary.evaluator import DeadlineReached, Evaluator
from cvxsae.solvers.dictionary.held_out import HeldOut, Watched
from cvxsae.solvers.dictionary.state import Exact, Polish, SearchState, State

if TYPE_CHECKING:
    import scipy.sparse as sp
    from jaxtyping import Float64

    from cvxsae.parallel.context import Run
    from cvxsae.solvers.codes.result import Codes
    from cvxsae.solvers.dictionary.result import DictionaryFit

TOL = 1e-6
"""Relative gap of the codes of every row set aside."""

EVERY = 5
"""Descent steps between two evaluations: each costs a fraction of a step, as rows set aside are the fewer."""


@dataclass(frozen=True, eq=False)
class Watch:
    """Evaluates the search on rows set aside.

    Attributes
    ----------
    rows
        The rows set aside.
    """

    rows: HeldOut

    def codes(
        self,
        evaluator: Evaluator,
        dictionary: Float64[torch.Tensor, "K d"],
        offset: Float64[torch.Tensor, " d"],
        warm: sp.csr_array | None,
    ) -> Codes:
        """Codes of the rows set aside.

        Raises
        ------
        DeadlineReached
            If some are not finished at the deadline.
        """
        at = SparseCodes.of_unit_rows(self.rows.X, dictionary.cpu(), evaluator.lam, evaluator.bias(offset))
        codes = encode_rows(at, evaluator.run, tol=TOL, warm=warm)
        if codes.status is Status.TIME_LIMIT:
            raise DeadlineReached
        return codes

    def evaluation(self, codes: Codes) -> Evaluation:
        """What codes of the rows set aside say of their dictionary."""
        return evaluation_from(codes, self.rows.groups, CONFIDENCE)

    def follow(self, evaluator: Evaluator, before: SearchState | None, after: State) -> State:
        """The state after a step, evaluated on the rows set aside where that is due and there is time."""
        if not self._is_due(before, after):
            return after
        try:
            return replace(after, watched=self.seen(evaluator, after))
        except OutOfTime:
            return after

    def _is_due(self, before: SearchState | None, after: State) -> bool:
        """At the start, at the end of a stage or of an exact pass, every few steps of descent, and at its end."""
        known = after.watched
        if before is None or known is None or type(before) is not type(after):
            return True
        if isinstance(after, Exact):
            return isinstance(before, Exact) and before.round != after.round
        if not isinstance(after, Polish):
            return False
        return after.is_settled or after.is_stuck or after.step - known.last >= EVERY

    def seen(self, evaluator: Evaluator, state: SearchState) -> Watched:
        """Evaluate this state, and compare it with what was seen before.

        Raises
        ------
        DeadlineReached
            If there is no time for that.
        """
        known = state.watched
        codes = self.codes(evaluator, state.dictionary, state.offset, None if known is None else known.warm)
        found, held = self.evaluation(codes), codes.codes
        rows = np.stack([found.values, found.lower])
        here = Watched(state.dictionary, state.offset, found, held, state.step, rows, held, state.step, found.value)
        if known is None:
            return here
        values, lower = known.reference
        has_fallen = found.minus(replace(found, values=values, lower=lower)).high < 0
        best = here if found.value < known.found.value else known
        return replace(
            best,
            reference=rows if has_fallen else known.reference,
            warm=held,
            last=state.step,
            value=found.value,
            idle=0 if has_fallen else known.idle + 1,
        )

    def is_over(self, state: SearchState) -> bool:
        """Whether F on the rows set aside has stopped falling."""
        return state.watched is not None and state.watched.idle >= self.rows.patience

    def chosen(self, evaluator: Evaluator, state: State, status: Status) -> tuple[State, Status]:
        """The state to return and how the search ended: the one seen that is best on the rows set aside.

        Where the last was not seen and there is time it is seen now. What an earlier point is has nothing to do with
        how the descent after it ended.
        """
        known = state.watched
        if status is not Status.INTERRUPTED and (known is None or known.last != state.step):
            state = self.follow(evaluator, None, state)
        known = state.watched
        if known is None or known.step == state.step:
            return state, status
        back = replace(state, dictionary=known.dictionary, offset=known.offset, step=known.step)
        ended = status in (Status.TIME_LIMIT, Status.MAX_ITER, Status.INTERRUPTED)
        return Polish(**back.at_hand), status if ended else Status.EARLY_STOPPED

    def final(self, evaluator: Evaluator, state: SearchState) -> Evaluation:
        """What is returned, evaluated once more, the same however the search came there; as before if time is over."""
        at = SparseCodes.of_unit_rows(self.rows.X, state.dictionary.cpu(), evaluator.lam, evaluator.bias(state.offset))
        codes, known = encode_rows(at, evaluator.run, tol=TOL), state.watched
        if codes.status is Status.TIME_LIMIT and known is not None and known.step == state.step:
            return known.found
        return self.evaluation(codes)


def evaluate_fit(rows: HeldOut, fit: DictionaryFit, run: Run) -> Evaluation:
    """A fit on rows set aside."""
    bias = torch.from_numpy(np.array(fit.bias))
    at = SparseCodes.of_unit_rows(rows.X, torch.from_numpy(np.array(fit.dictionary)), fit.lam, bias)
    return evaluation_from(encode_rows(at, run, tol=TOL), rows.groups, CONFIDENCE)
