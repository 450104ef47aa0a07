"""What a dictionary is worth on rows that it need not have seen, and on the distribution they come from (T17 b)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.data import arguments
from cvxsae.errors import InputError
from cvxsae.solvers.codes.encode import encode_rows
from cvxsae.statistics.means import certified_interval

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

    from cvxsae.parallel.context import Run
    from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
    from cvxsae.relaxations.solution import Status
    from cvxsae.solvers.codes.result import Codes
    from cvxsae.statistics.estimates import Estimate
    from cvxsae.statistics.means import Side

CONFIDENCE = 0.95
"""Of intervals, unless asked otherwise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """The value of a dictionary with exact codes, row by row, certified; units of (P).

    For a dictionary that has not seen the rows, :attr:`mean` is an unbiased estimate of ``E φ(x; D)`` with an ordinary
    confidence interval; of one fitted on them it is biased downwards, by what memorizing them saves (T17 b).

    Attributes
    ----------
    values, lower
        φ(x_n; D) is between ``lower`` and ``values``, (N,): the codes' values, and their certified lower bounds (T1).
    active
        Active atoms of each row, (N,).
    groups
        Which document each row is of, (N,); None if rows are independent.
    confidence
        Of every interval.
    status
        How coding ended; rows that were not coded in time have the value of zero codes and the lower bound 0.
    """

    values: Float64[np.ndarray, " N"] = field(repr=False)
    lower: Float64[np.ndarray, " N"] = field(repr=False)
    active: Int64[np.ndarray, " N"] = field(repr=False)
    groups: Int64[np.ndarray, " N"] | None = field(repr=False)
    confidence: float
    status: Status

    @property
    def n_points(self) -> int:
        """Number of rows N."""
        return len(self.values)

    @property
    def value(self) -> float:
        """Mean over these rows, attained by the codes found."""
        return float(self.values.mean())

    @property
    def l0(self) -> float:
        """Mean number of active atoms."""
        return float(self.active.mean())

    @property
    def mean(self) -> Estimate:
        """E φ(x; D) of the distribution, with what is not known of the codes inside the interval."""
        return self.limit("both")

    def limit(self, side: Side, confidence: float | None = None) -> Estimate:
        """The same as a one-sided limit, at a confidence of its own."""
        level = self.confidence if confidence is None else confidence
        return certified_interval(self.lower, self.values, level, groups=self.groups, side=side)

    def minus(self, other: Evaluation) -> Estimate:
        """``E φ(x; D) − E φ(x; D')`` on the same rows, paired row by row.

        Raises
        ------
        InputError
            If the other is of another number of rows.
        """
        if other.n_points != self.n_points:
            raise InputError(
                f"other has {other.n_points:,} rows and this evaluation {self.n_points:,}; evaluate both on the same."
            )
        low, high = self.lower - other.values, self.values - other.lower
        found = certified_interval(low, high, self.confidence, groups=self.groups)
        return found.at(self.value - other.value)


def level(confidence: float, name: str = "confidence") -> float:
    """Check a confidence: between 0 and 1."""
    number = arguments.positive(confidence, name)
    if not number < 1:
        raise InputError(f"{name} is {number:g}; pass a number between 0 and 1, such as {CONFIDENCE}.")
    return number


def evaluation_of(
    problem: SparseCodes,
    run: Run,
    *,
    tol: float = 1e-4,
    groups: Int64[np.ndarray, " N"] | None = None,
    confidence: float = CONFIDENCE,
    warm: Any = None,
) -> Evaluation:
    """Evaluate the atoms of a problem at its fixed bias. Past the deadline, what is coded is returned."""
    return evaluation_from(encode_rows(problem, run, tol=tol, warm=warm), groups, confidence)


def evaluation_from(
    codes: Codes, groups: Int64[np.ndarray, " N"] | None = None, confidence: float = CONFIDENCE
) -> Evaluation:
    """What codes that are at hand say of their dictionary."""
    return Evaluation(
        values=codes.values,
        lower=codes.values * (1 - codes.gaps),
        active=np.diff(codes.codes.indptr).astype(np.int64),
        groups=groups,
        confidence=confidence,
        status=codes.status,
    )
