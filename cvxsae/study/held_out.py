"""The values of a study's dictionaries on held-out rows, and whether wider ones pay off there.

By theory.md T17 b the mean over held-out rows is unbiased for the distribution, with an ordinary confidence interval,
over rows or, where it is said which document each is of, over documents (T17 d); on the rows learned from it is biased
downwards, by what memorizing them saves. Differences between two widths are paired: the same rows, one dictionary and
the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.evaluation import CONFIDENCE, Evaluation, evaluation_of
from cvxsae.study.method import CODES_TOL, CellInput, Outcome, inexact

if TYPE_CHECKING:
    from cvxsae.data.storage import Kept
    from cvxsae.statistics.estimates import Estimate
    from cvxsae.study.plan import Cell
    from cvxsae.study.store import Record, Store

COLUMNS: dict[str, tuple[str, str]] = {
    "n_held_out": ("Int64", "number of held-out rows; nothing is learned from them, and value is not about them"),
    "held_out": ("Float64", "F on the held-out rows with exact codes; trained_sae: of its own dictionary, like exact"),
    "held_out_low": ("Float64", "lower end of the interval for F of the distribution; see the next four columns"),
    "held_out_high": ("Float64", "upper end of this interval"),
    "held_out_confidence": ("Float64", "confidence of every interval in the row"),
    "held_out_method": ("string", "method of the intervals"),
    "held_out_unit": ("string", "what is drawn independently: row or document"),
    "n_held_out_units": ("Int64", "number of held-out units"),
    "n_held_out_seen": (
        "Int64",
        "number of separate held-out rows that are equal to training rows, if any; they flatter held_out",
    ),
    "memorization": (
        "Float64",
        "held_out minus the value of the same dictionary on the training rows; includes the chance of both draws",
    ),
    "held_out_fall": (
        "Float64",
        "decrease of held_out from the next narrower width, paired row by row or document by document",
    ),
    "held_out_fall_low": (
        "Float64",
        "lower end of its interval, at the same confidence; above zero, the wider one pays off on unseen rows",
    ),
    "held_out_fall_high": ("Float64", "upper end of its interval; below zero, the wider one is worse on unseen rows"),
    "held_out_wide": ("Float64", "lower bound for every dictionary of any width on the held-out rows (T9)"),
}
"""Columns of studies that hold rows out."""

VALUES, LOWER, DOCUMENTS = "values", "lower", "held_out_documents"
"""Arrays of a cell: value of every row held out at the codes found, its certified lower bound, and its document."""

OWN, LOCAL = "held_out", "held_out_local"
"""What the dictionary of a cell is called on held-out rows; and of a trained SAE the best found from its own."""

SAE_ARRAYS = ("sae_dictionary", "sae_bias")
"""Arrays of a trained SAE's own dictionary and bias; those of what was found from it have the names without SAE."""


def evaluated(cell: CellInput, dictionary: np.ndarray, bias: np.ndarray | None) -> Evaluation | None:
    """A dictionary on the held-out rows, with codes exact to 1e-6 of every row; None where nothing is held out."""
    if cell.held_out is None:
        return None
    problem = SparseCodes(cell.held_out, dictionary, cell.lam, bias=bias)
    asked: dict[str, Any] = {"groups": cell.held_out_groups, "confidence": cell.confidence}
    return evaluation_of(problem, cell.run.inner(), tol=CODES_TOL, **asked)


def described(found: Estimate) -> dict[str, Any]:
    """The columns that say what the intervals of a row are."""
    return {
        "held_out_confidence": found.confidence,
        "held_out_method": found.method,
        "held_out_unit": found.unit,
        "n_held_out_units": found.n_units,
    }


def numbers_of(found: Evaluation, sample: float) -> dict[str, Any]:
    """The columns that an evaluation fills, of a dictionary that attains ``sample`` on the rows learned from."""
    mean = found.mean
    ends = {"held_out_low": mean.low, "held_out_high": mean.high}
    numbers = {"n_held_out": found.n_points, "held_out": mean.value, **ends, "memorization": mean.value - sample}
    return {**numbers, **described(mean)}


def gap_of(own: Evaluation, local: Evaluation) -> dict[str, float]:
    """What another dictionary found from an SAE's own gains on the held-out rows, paired."""
    gap = own.minus(local)
    ends = {"held_out_gap_low": gap.low, "held_out_gap_high": gap.high}
    return {"held_out_local": local.value, "held_out_gap": gap.value, **ends}


def arrays_of(found: Evaluation, name: str = OWN) -> dict[str, np.ndarray]:
    """What is kept of an evaluation."""
    documents = {} if found.groups is None else {DOCUMENTS: found.groups}
    return {f"{name}_{VALUES}": found.values, f"{name}_{LOWER}": found.lower, **documents}


def not_exact(found: Evaluation) -> tuple[str, ...]:
    """The objection to codes of held-out rows that time cut short."""
    gaps = 1 - found.lower / np.maximum(found.values, np.finfo(np.float64).tiny)
    return inexact(float(gaps.max(initial=0.0, where=found.values > 0)), CODES_TOL * (1 + SLACK))


SLACK = 1e-3
"""Rounding allowed in a relative gap that was computed from two values."""


def added(cell: CellInput, outcome: Outcome, found: Evaluation | None, sample: float) -> Outcome:
    """An outcome with what its dictionary is worth on the held-out rows, if there are any."""
    if found is None:
        return outcome
    seen = {"n_held_out_seen": cell.n_seen} if cell.n_seen else {}
    return replace(
        outcome,
        numbers={**outcome.numbers, **numbers_of(found, sample), **seen},
        arrays={**outcome.arrays, **arrays_of(found)},
        objections=(*outcome.objections, *not_exact(found)),
    )


def kept_evaluation(kept: Kept, name: str = OWN) -> Evaluation | None:
    """What a cell keeps of every row held out; None for a cell without any.

    Cells of before documents and confidence were asked for are of independent rows, at the usual confidence.
    """
    found = [kept.arrays.get(f"{name}_{part}") for part in (VALUES, LOWER)]
    if any(array is None for array in found):
        return None
    values, lower = (np.asarray(array, np.float64) for array in found)
    documents, confidence = kept.arrays.get(DOCUMENTS), kept.record["numbers"].get("held_out_confidence")
    return Evaluation(
        values=values,
        lower=lower,
        active=np.zeros(len(values), dtype=np.int64),
        groups=None if documents is None else np.asarray(documents, np.int64),
        confidence=CONFIDENCE if confidence is None else float(confidence),
        status=Status.CERTIFIED,
    )


def with_falls(cells: Sequence[Cell], records: Mapping[str, Record], store: Store) -> dict[str, Record]:
    """The records, each width's with what it gains over the next narrower one of the same method and seed."""
    chains: dict[Any, list[Cell]] = {}
    joined = dict(records)
    for cell in cells:
        numbers = records.get(cell.id, {}).get("numbers", {})
        if "held_out" not in numbers:
            continue
        if "held_out_unit" not in numbers and (older := store.evaluation(cell.id)) is not None:
            joined[cell.id] = {**records[cell.id], "numbers": {**numbers, **described(older.mean)}}
        if cell.method in ("learned", "trained_sae"):
            chains.setdefault((*cell.problem, *cell.intervals, cell.method, cell.seed), []).append(cell)
    for chain in chains.values():
        ordered = sorted(chain, key=lambda cell: cell.n_atoms or 0)
        found = [store.evaluation(cell.id) for cell in ordered]
        for (narrow, wide), cell in zip(pairwise(found), ordered[1:], strict=True):
            if narrow is not None and wide is not None and narrow.n_points == wide.n_points:
                numbers = {**joined[cell.id]["numbers"], **_fall(narrow.minus(wide))}
                joined[cell.id] = {**records[cell.id], "numbers": numbers}
    return joined


def _fall(fall: Estimate) -> dict[str, float]:
    return {"held_out_fall": fall.value, "held_out_fall_low": fall.low, "held_out_fall_high": fall.high}
