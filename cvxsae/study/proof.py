"""What a cell that was computed earlier must show before its numbers go into a table again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from cvxsae.data.activations import Activations
from cvxsae.data.storage import Kept
from cvxsae.parallel.context import Run
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.solvers.codes.encode import encode_rows
from cvxsae.study.method import CODES_TOL, mean_of
from cvxsae.study.plan import Cell
from cvxsae.study.registry import METHODS

NORM_TOLERANCE = 1e-9
"""How far the norm of a kept atom may be from 1."""

SAME_BIAS = 1e-12
"""Relative difference of two fixed biases that are the same but for rounding."""


def proven(cell: Cell, run: Run, data: Callable[[], Activations], kept: Kept) -> dict[str, Any]:
    """The record of a cell whose arrays bear out what it attains.

    Every record carries the digest of the schema, its cell's identity (data, method, options, seed) and a checksum, so
    it is whole and of this very cell. Beyond that, where a method keeps the dictionary that attains one of its numbers
    (:attr:`~cvxsae.study.method.Method.attained`: the value of ``learned``, the best level of ``trained_sae``), data
    are coded anew, exactly, and the number has to come out: one coding a cell. Atoms must have norm 1 and a fixed bias
    must be the cell's. What else such a record says (gaps, bounds, stationarity, L0, seconds, an SAE's own loss), and
    all of a cell that keeps no arrays, is what the referee said when it was computed, and is believed: to compute it
    again would be to compute the cell again, which removing its file does.

    Raises
    ------
    ValueError
        If they do not; it says why.
    """
    record, numbers = kept.record, kept.record["numbers"]
    attained = METHODS[cell.method].attained if cell.method in METHODS else None
    if record["status"] != "done" or attained is None:
        return record
    dictionary, bias = (np.asarray(kept.arrays[name], np.float64) for name in ("dictionary", "bias"))
    X, lam = data(), float(numbers["lam"])
    if cell.lam is not None and lam != cell.lam:
        raise ValueError("its λ is not that of the cell")
    if dictionary.shape != (cell.n_atoms, X.shape[1]) or bias.shape != (X.shape[1],):
        raise ValueError("its arrays have other shapes")
    if not (np.abs(np.linalg.norm(dictionary, axis=1) - 1) <= NORM_TOLERANCE).all():
        raise ValueError("its atoms do not have norm 1")
    fixed = _fixed_bias(cell, X)
    if fixed is not None and not np.allclose(bias, fixed, rtol=SAME_BIAS, atol=SAME_BIAS * float(np.abs(fixed).max())):
        raise ValueError("its bias is not that of the cell")
    codes = encode_rows(SparseCodes(X, dictionary, lam, bias=bias), replace(run, progress=False), tol=CODES_TOL)
    claimed = float(numbers[attained])
    exact = max(CODES_TOL, float(cell.options.get("stationarity", CODES_TOL)))
    # Codes that time cut short attain more than exact ones, and the cell objects to itself; nothing attains less.
    if not codes.lower_bound <= claimed * (1 + CODES_TOL) or (
        not record["objections"] and not claimed <= codes.value * (1 + exact)
    ):
        raise ValueError("its dictionary does not attain what it says")
    return record


def _fixed_bias(cell: Cell, X: Activations) -> np.ndarray | None:
    if cell.bias == "free":
        return None
    return mean_of(X).numpy() if cell.bias == "mean" else np.zeros(X.shape[1])
