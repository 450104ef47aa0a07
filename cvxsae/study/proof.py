"""The checks that a stored cell must pass before its numbers go into a table again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cvxsae.data.activations import Activations
from cvxsae.data.storage import Kept
from cvxsae.parallel.context import Run
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.sae.audits.ledger import LossLedger
from cvxsae.solvers.codes.encode import encode_rows
from cvxsae.solvers.codes.evaluation import Evaluation, evaluation_of
from cvxsae.study.held_out import LOCAL, OWN, SAE_ARRAYS, described, gap_of, kept_evaluation, numbers_of
from cvxsae.study.method import CODES_TOL, mean_of
from cvxsae.study.plan import Cell
from cvxsae.study.registry import METHODS
from cvxsae.study.rows import Rows

NORM_TOLERANCE = 1e-9
"""How far the norm of a kept atom may be from 1."""

SAME = 1e-9
"""Difference of two means of the same numbers, absolute and relative."""

SAME_BIAS = 1e-12
"""Relative difference of two fixed biases that are the same except for rounding."""


def proven(cell: Cell, run: Run, data: Callable[[], Rows], kept: Kept) -> dict[str, Any]:
    """The record of a cell whose arrays bear out what it attains.

    Every record carries the digest of the schema, its cell's identity (data, method, options, seed) and a checksum, so
    it is whole and of this very cell. Beyond that, where a method keeps the dictionary that attains one of its numbers
    (:attr:`~cvxsae.study.method.Method.attained`: the value of ``learned``, the best level of ``trained_sae``), data
    are coded anew, exactly, and the number has to come out: one coding per cell. Atoms must have norm 1 and a fixed
    bias must be the cell's. Where rows are held out they are coded anew too, and all values and intervals have to come
    out. What else such a record says (gaps, bounds, stationarity, L0, seconds, an SAE's own loss), and
    all of a cell that keeps no arrays, is what the referee said when it was computed, and is trusted: to compute it
    again would be to compute the cell again, which removing its file does.

    Raises
    ------
    ValueError
        If they do not; it says why.
    """
    record, numbers = kept.record, kept.record["numbers"]
    method = METHODS.get(cell.method)
    attained = None if method is None else method.attained
    is_watched = cell.held_out is not None and method is not None and method.evaluates
    if record["status"] != "done" or (attained is None and not is_watched):
        return record
    dictionary, bias = (np.asarray(kept.arrays[name], np.float64) for name in ("dictionary", "bias"))
    rows, lam = data(), float(numbers["lam"])
    X = rows.X
    if cell.lam is not None and lam != cell.lam:
        raise ValueError("its λ is not that of the cell")
    if dictionary.shape != (cell.n_atoms, X.shape[1]) or bias.shape != (X.shape[1],):
        raise ValueError("its arrays have other shapes")
    _require_unit(dictionary)
    fixed = _fixed_bias(cell, X)
    if fixed is not None and not np.allclose(bias, fixed, rtol=SAME_BIAS, atol=SAME_BIAS * float(np.abs(fixed).max())):
        raise ValueError("its bias is not that of the cell")
    if is_watched:
        _require_held_out(cell, rows, kept, run)
    if attained is None:
        return record
    codes = encode_rows(SparseCodes(X, dictionary, lam, bias=bias), replace(run, progress=False), tol=CODES_TOL)
    claimed = float(numbers[attained])
    exact = max(CODES_TOL, float(cell.options.get("stationarity", CODES_TOL)))
    # Codes that time cut short attain more than exact ones, and the cell objects to itself; nothing attains less.
    if not codes.lower_bound <= claimed * (1 + CODES_TOL) or (
        not record["objections"] and not claimed <= codes.value * (1 + exact)
    ):
        raise ValueError("its dictionary does not attain what it says")
    return record


def _require_unit(dictionary: np.ndarray) -> None:
    if not (np.abs(np.linalg.norm(dictionary, axis=1) - 1) <= NORM_TOLERANCE).all():
        raise ValueError("its atoms do not have norm 1")


def _require_held_out(cell: Cell, rows: Rows, kept: Kept, run: Run) -> None:
    """The held-out rows, coded anew: every row kept must be what its dictionary attains there, and columns their means.

    Raises
    ------
    ValueError
        If something does not come out; it says what.
    """
    numbers, lam, is_sae = kept.record["numbers"], float(kept.record["numbers"]["lam"]), cell.method == "trained_sae"
    found, plain = [], ("dictionary", "bias")
    for name, arrays in ((OWN, SAE_ARRAYS if is_sae else plain), *(((LOCAL, plain),) if is_sae else ())):
        dictionary, bias = (np.asarray(kept.arrays[array], np.float64) for array in arrays)
        _require_unit(dictionary)
        claimed = kept_evaluation(kept, name)
        if claimed is None or rows.held_out is None or claimed.n_points != len(rows.held_out):
            raise ValueError("it does not hold what it says of the held-out rows")
        if not _are_alike(claimed.groups, rows.held_out_groups) or claimed.confidence != rows.confidence:
            raise ValueError("its intervals are of other documents or another confidence")
        at = SparseCodes(rows.held_out, dictionary, lam, bias=bias)
        again = evaluation_of(at, replace(run, progress=False), tol=CODES_TOL)
        is_borne_out = again.lower <= claimed.values * (1 + CODES_TOL)
        is_borne_out &= claimed.lower <= again.values * (1 + SAME)  # where codes are exact both are the same number
        if not kept.record["objections"]:
            is_borne_out &= claimed.values <= again.values * (1 + 2 * CODES_TOL)
            is_borne_out &= claimed.values * (1 - 2 * CODES_TOL) <= claimed.lower
        if not is_borne_out.all():
            raise ValueError("its dictionary does not attain what it says on the held-out rows")
        found.append(claimed)
    columns = numbers_of(found[0], float(numbers["exact" if is_sae else "value"]))
    columns |= gap_of(*found) if is_sae else {}
    for name, value in columns.items():
        if name not in numbers and name in described(found[0].mean):  # a cell of before these columns
            continue
        is_same = numbers[name] == value if isinstance(value, str) else _is_same(numbers[name], value)
        if not is_same:
            raise ValueError("its columns are not what its held-out rows say")
    if is_sae:
        _require_ledger(kept.record, found)


def _require_ledger(record: Mapping[str, Any], found: list[Evaluation]) -> None:
    """The ledger of the held-out rows has the levels that these rows have."""
    if not record.get("held_out_ledger"):
        raise ValueError("it has no ledger of the held-out rows")
    ledger = LossLedger.from_dict(record["held_out_ledger"])
    levels = {"exact": found[0].value, "local": found[1].value, "loss": float(record["numbers"]["held_out_loss"])}
    gap = found[0].minus(found[1]) if ledger.improved else None
    told = ledger.estimates["dictionary_gap"]
    if not all(_is_same(getattr(ledger, name), value) for name, value in levels.items()) or (
        gap is not None and not (_is_same(told.low, gap.low) and _is_same(told.high, gap.high))
    ):
        raise ValueError("its ledger is not what its held-out rows say")


def _is_same(claimed: Any, value: float) -> bool:
    number = np.nan if claimed is None else float(claimed)
    return bool(np.isclose(number, value, rtol=SAME, atol=SAME, equal_nan=True))


def _are_alike(claimed: np.ndarray | None, known: np.ndarray | None) -> bool:
    return claimed is known if claimed is None or known is None else np.array_equal(claimed, known)


def _fixed_bias(cell: Cell, X: Activations) -> np.ndarray | None:
    if cell.bias == "free":
        return None
    return mean_of(X).numpy() if cell.bias == "mean" else np.zeros(X.shape[1])
