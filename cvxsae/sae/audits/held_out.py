"""The ledger on held-out rows: what an SAE, and a dictionary learned on other rows, are worth there (T17 b)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from cvxsae.diagnostics.sums import exact_codes
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.solution import relative_gap
from cvxsae.sae.audits.account import Accounts, attained, better_codes, coded_rows, facts, floors
from cvxsae.solvers.codes.evaluation import Evaluation
from cvxsae.validation.claims import row_bounds, row_values

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

    from cvxsae.relaxations.floors.floor import Floor
    from cvxsae.relaxations.solution import Solution, Status
    from cvxsae.sae.audits.ledger import LossLedger
    from cvxsae.sae.audits.stages import Stages
    from cvxsae.sae.autoencoder import SparseAutoencoder
    from cvxsae.statistics.estimates import Estimate

STAGES = ("the encoder's codes", "exact codes", "codes of the better dictionary", "referee")
"""What :func:`held_out_accounts` does, in order."""

_CODES_SHARE = 0.5
"""Part of the time left for the exact codes of the SAE's dictionary; those of the better one have what is left."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """How the rows of a ledger were drawn.

    Attributes
    ----------
    numbers
        Their numbers in the data that they are from, (N,).
    groups
        Which document each row is of, (N,), integers from 0; None if rows are independent.
    confidence
        Of every interval.
    """

    numbers: Int64[np.ndarray, " N"]
    groups: Int64[np.ndarray, " N"] | None
    confidence: float

    def evaluation(
        self,
        values: Float64[np.ndarray, " N"],
        lower: Float64[np.ndarray, " N"],
        codes: sp.csr_array,
        status: Status,
    ) -> Evaluation:
        """Values of these rows, each between two numbers."""
        active = np.diff(codes.indptr).astype(np.int64)
        return Evaluation(
            values=values, lower=lower, active=active, groups=self.groups, confidence=self.confidence, status=status
        )


def held_out_accounts(
    model: SparseAutoencoder,
    sample: LossLedger,
    drawn: Drawn,
    under: tuple[Floor, Solution],
    tol: float,
    stages: Stages,
) -> Accounts:
    """The ledger of an SAE that does not normalize, on rows that the better dictionary was not learned on.

    Parameters
    ----------
    model
        The SAE.
    sample
        Its ledger on the rows that D' was learned on.
    drawn
        How the held-out rows were drawn.
    under
        The floor of the width, whose problem has the held-out rows, and their wide limit.
    tol
        Relative duality gap of every row's codes.
    stages
        Which time there is. An interrupt passes through.
    """
    floor, wide = under
    joint, run = floor.problem, stages.run
    coded = coded_rows(model, joint, tol, stages, _CODES_SHARE)
    problem, status = coded.problem, coded.exact.status
    values = row_values(problem, attained(problem, coded.by_encoder))
    chosen = better_codes(coded.exact, coded.by_encoder, values)
    by_encoder = drawn.evaluation(values, values, coded.by_encoder, status)
    exact = local = drawn.evaluation(*row_bounds(problem, attained(problem, chosen)), chosen, status)
    pairs = [(problem, chosen), (problem, chosen)]
    searching = stages.begin("codes of the better dictionary")
    if sample.improved:
        better = SparseCodes(joint.X, sample.dictionary, joint.lam, bias=sample.decoder_bias)
        found = exact_codes(better, chosen if coded.live.all() else None, tol, searching)
        local = drawn.evaluation(*row_bounds(better, attained(better, found.codes)), found.codes, found.status)
        pairs[1] = (better, found.codes)
    stages.begin("referee")
    ledger = replace(
        sample,
        loss=by_encoder.value,
        exact=exact.value,
        local=local.value,
        codes_gap=_gap(exact),
        local_codes_gap=_gap(local),
        rows="held out",
        n_seen=sample.n_points,
        seen_gap=sample.dictionary_gap,
        estimates=estimates_of(by_encoder, exact, local, sample.dictionary_gap),
        **facts(model, joint, coded, pairs, run),
        **floors(floor, wide),
    )
    return Accounts(
        ledger=ledger,
        problem=problem,
        live=coded.live,
        by_encoder=sp.csr_array(coded.by_encoder),
        exact=chosen,
        encoder_values=values,
        exact_values=np.minimum(values, exact.values),
        numbers=drawn.numbers,
        evaluations={"exact": exact, "local": local},
    )


def estimates_of(by_encoder: Evaluation, exact: Evaluation, local: Evaluation, seen_gap: float) -> dict[str, Estimate]:
    """Levels and lines of the distribution, by name, from what the held-out rows say of them.

    Differences are paired. Levels and the amortization gap of the distribution are not negative, since those of no row
    are; nor are the ends of their intervals. The memorization is that of the dictionary found: ``seen_gap`` is a
    number, and what remains to be estimated is the dictionary gap of the distribution.
    """
    lost, gap = by_encoder.minus(exact), exact.minus(local)
    levels = {"loss": by_encoder.mean, "exact": exact.mean, "local": local.mean}
    if local is exact:  # whatever its codes leave open
        gap = replace(gap, low=0.0 * gap.low, high=0.0 * gap.high)
    return {
        **{name: replace(one, low=float(np.maximum(one.low, 0.0))) for name, one in levels.items()},
        "amortization_gap": replace(lost, low=float(np.maximum(lost.low, 0.0))),
        "dictionary_gap": gap,
        "memorization": replace(gap, value=seen_gap - gap.value, low=seen_gap - gap.high, high=seen_gap - gap.low),
    }


def _gap(found: Evaluation) -> float:
    return relative_gap(found.value, float(found.lower.mean()))
