"""What the dictionaries of a study are worth on rows that nothing was learned from, and whether wider ones pay there.

By theory.md T17 b the mean over rows held out is unbiased for the distribution, with an ordinary confidence interval;
on the rows learned from it is biased downwards, by what memorizing them saves. Differences between two widths are
paired: the same rows, one dictionary and the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.evaluation import CONFIDENCE, Evaluation, evaluation_of
from cvxsae.study.method import CODES_TOL, CellInput, Outcome, inexact
from cvxsae.validation.claims import row_values

if TYPE_CHECKING:
    from cvxsae.statistics.estimates import Estimate
    from cvxsae.study.plan import Cell
    from cvxsae.study.store import Record, Store

COLUMNS: dict[str, tuple[str, str]] = {
    "n_held_out": ("Int64", "rows held out: nothing is learned from them, and they are not among those of value"),
    "held_out": ("Float64", "F on the rows held out, exact codes; trained_sae: of its own dictionary, as in exact"),
    "held_out_low": ("Float64", "lower end of the 95 % interval for F of the distribution"),
    "held_out_high": ("Float64", "upper end of it"),
    "memorization": (
        "Float64",
        "held_out less what the same dictionary costs on the rows learned from, with the luck of both draws",
    ),
    "held_out_fall": (
        "Float64",
        "by how much held_out is lower than at the next narrower width, paired row by row",
    ),
    "held_out_fall_low": ("Float64", "lower end of its 95 % interval; above zero, the wider pays on rows not seen"),
    "held_out_fall_high": ("Float64", "upper end of it; below zero, the wider is worse there"),
    "held_out_wide": ("Float64", "lower bound of every dictionary of any width on the rows held out (T9)"),
}
"""Columns of studies that hold rows out."""

VALUES, LOWER = "values", "lower"
"""Arrays of a cell: value of every row held out at the codes found, and its certified lower bound."""

OWN, LOCAL = "held_out", "held_out_local"
"""What the dictionary of a cell is called on rows held out; and of a trained SAE the best found from its own."""

SAE_ARRAYS = ("sae_dictionary", "sae_bias")
"""Arrays of a trained SAE's own dictionary and bias; those of what was found from it have the names without SAE."""


def evaluated(cell: CellInput, dictionary: np.ndarray, bias: np.ndarray | None) -> Evaluation | None:
    """A dictionary on the rows held out, with codes exact to 1e-6 of every row; None where nothing is held out."""
    if cell.held_out is None:
        return None
    problem = SparseCodes(cell.held_out, dictionary, cell.lam, bias=bias)
    return evaluation_of(problem, cell.run.inner(), tol=CODES_TOL)


def numbers_of(found: Evaluation, sample: float) -> dict[str, Any]:
    """The columns that an evaluation fills, of a dictionary that attains ``sample`` on the rows learned from."""
    mean = found.mean
    ends = {"held_out_low": mean.low, "held_out_high": mean.high}
    return {"n_held_out": found.n_points, "held_out": mean.value, **ends, "memorization": mean.value - sample}


def gap_of(own: Evaluation, local: Evaluation) -> dict[str, float]:
    """What another dictionary found from an SAE's own gains on the rows held out, paired."""
    gap = own.minus(local)
    ends = {"held_out_gap_low": gap.low, "held_out_gap_high": gap.high}
    return {"held_out_local": local.value, "held_out_gap": gap.value, **ends}


def arrays_of(found: Evaluation, name: str = OWN) -> dict[str, np.ndarray]:
    """What is kept of an evaluation."""
    return {f"{name}_{VALUES}": found.values, f"{name}_{LOWER}": found.lower}


def not_exact(found: Evaluation) -> tuple[str, ...]:
    """The objection to codes of rows held out that time cut short."""
    gaps = 1 - found.lower / np.maximum(found.values, np.finfo(np.float64).tiny)
    return inexact(float(gaps.max(initial=0.0, where=found.values > 0)), CODES_TOL * (1 + SLACK))


SLACK = 1e-3
"""Rounding allowed in a relative gap that was computed from two values."""


def added(outcome: Outcome, found: Evaluation | None, sample: float) -> Outcome:
    """An outcome with what its dictionary is worth on the rows held out, if there are any."""
    if found is None:
        return outcome
    return replace(
        outcome,
        numbers={**outcome.numbers, **numbers_of(found, sample)},
        arrays={**outcome.arrays, **arrays_of(found)},
        objections=(*outcome.objections, *not_exact(found)),
    )


def by_encoder(rows: Any, sae: Any, lam: float, bias: np.ndarray | None) -> float:
    """What an SAE's own codes cost on rows."""
    live = sae.atom_norms > 0
    problem = SparseCodes(rows, sae.dictionary[live], lam, bias=bias)
    codes = sp.csr_array(sae.encode(rows)[:, live])
    own = Candidate(bias=problem.fixed_bias().numpy(), dictionary=problem.atoms.numpy(), codes=codes)
    return float(row_values(problem, own).mean())


def kept_evaluation(arrays: Mapping[str, Any], name: str = OWN) -> Evaluation | None:
    """What the arrays of a cell say, row by row; None for a cell without rows held out."""
    kept = [arrays.get(f"{name}_{part}") for part in (VALUES, LOWER)]
    if any(array is None for array in kept):
        return None
    values, lower = (np.asarray(array, np.float64) for array in kept)
    nothing = np.zeros(len(values), dtype=np.int64)
    return Evaluation(
        values=values, lower=lower, active=nothing, groups=None, confidence=CONFIDENCE, status=Status.CERTIFIED
    )


def with_falls(cells: Sequence[Cell], records: Mapping[str, Record], store: Store) -> dict[str, Record]:
    """The records, each width's with what it gains over the next narrower one of the same method and seed."""
    chains: dict[Any, list[Cell]] = {}
    for cell in cells:
        if cell.method in ("learned", "trained_sae") and "held_out" in records.get(cell.id, {}).get("numbers", {}):
            chains.setdefault((*cell.problem, cell.method, cell.seed), []).append(cell)
    joined = dict(records)
    for chain in chains.values():
        ordered = sorted(chain, key=lambda cell: cell.n_atoms or 0)
        found = [store.evaluation(cell.id) for cell in ordered]
        for (narrow, wide), cell in zip(pairwise(found), ordered[1:], strict=True):
            if narrow is not None and wide is not None and narrow.n_points == wide.n_points:
                numbers = {**records[cell.id]["numbers"], **_fall(narrow.minus(wide))}
                joined[cell.id] = {**records[cell.id], "numbers": numbers}
    return joined


def _fall(fall: Estimate) -> dict[str, float]:
    return {"held_out_fall": fall.value, "held_out_fall_low": fall.low, "held_out_fall_high": fall.high}
