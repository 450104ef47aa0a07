"""The result of :func:`cvxsae.population.population_gap`: two limits that hold jointly, and their difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.population.floor_result import ALONE

if TYPE_CHECKING:
    from cvxsae.population.floor_result import PopulationFloor
    from cvxsae.statistics.estimates import Estimate


@dataclass(frozen=True, kw_only=True, eq=False)
class PopulationGap:
    """How far a dictionary can be from the best on the distribution: an upper limit minus a lower one, jointly valid.

    With probability :attr:`confidence` at least, ``0 ≤ F_P(D, b) − F*_K(P) ≤ gap`` (T17 c): each side fails with
    at most half of what is left to 1, whatever the two have to do with each other.

    Attributes
    ----------
    upper
        Expected loss of the dictionary: its mean over the held-out rows, and the upper limit; units of (P).
    lower
        Floors of batches, and the lower limit for every dictionary of the width. Its confidence is that of one side.
    confidence
        Of both limits together.
    n_points
        Held-out rows.
    n_atoms
        Width K that the floor is for; None for every width.
    lam
        Penalty λ.
    codes
        ``"exact"`` or ``"encoder"``.
    l0
        Mean number of active atoms of the held-out rows.
    notes
        Sentences on what else has to be known.
    seconds
        Wall-clock time of the call.
    """

    upper: Estimate
    lower: PopulationFloor
    confidence: float
    n_points: int
    n_atoms: int | None
    lam: float
    codes: str
    l0: float
    notes: tuple[str, ...] = ()
    seconds: float = float("nan")

    @property
    def gap(self) -> float:
        """Upper limit less lower limit; NaN where one of them does not exist."""
        return self.upper.high - self.lower.lower_limit

    @property
    def relative(self) -> float:
        """The same as a share of the upper limit."""
        return self.gap / self.upper.high

    @property
    def is_certified(self) -> bool:
        """Whether the referee had nothing to say against the floors."""
        return self.lower.is_certified

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {
            "gap": self.gap,
            "relative": self.relative,
            "confidence": self.confidence,
            "upper": self.upper.to_dict(),
            "upper_limit": self.upper.high,
            "lower": self.lower.to_dict(),
            "n_points": self.n_points,
            "n_atoms": self.n_atoms,
            "lam": self.lam,
            "codes": self.codes,
            "l0": self.l0,
            "notes": list(self.notes),
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        width = "any number of" if self.n_atoms is None else f"{self.n_atoms:,}"
        rows, low, upper = f"{self.n_points:,} held-out rows", self.lower.lower_limit, self.upper
        whose = "exact codes" if self.codes == "exact" else "its encoder's codes"
        if np.isnan(self.gap):
            lacking = ALONE if np.isnan(low) else f"{upper.n_units} {upper.unit}: no confidence exists for its mean"
            parts = [
                f"On {rows} this dictionary costs {upper.value:.6g} with {whose}; how far it is from the best for the "
                f"distribution cannot be said, as there is {lacking}."
            ]
        else:
            parts = [
                f"For the distribution no dictionary of {width} atoms has an expected loss that is lower than this "
                f"one's by more than {self.gap:.6g} ({self.relative:.2g} of it), with confidence "
                f"{self.confidence:.4g}.",
                f"With {whose} this one costs {upper.value:.6g} on {rows}, and at most {upper.high:.6g} in expectation "
                f"({upper.method}).",
                f"No dictionary costs less than {low:.6g} in expectation ({self.lower.estimate.method}; "
                f"{len(self.lower.batches)} batches of {self.lower.size_in_words}, mean floor "
                f"{self.lower.for_rows:.6g}).",
                f"Each limit has confidence {upper.confidence:.4g}, both together {self.confidence:.4g}, whatever they "
                "have to do with each other.",
            ]
        said = [f"{sentence[0].upper()}{sentence[1:]}." for sentence in (*self.notes, *self.lower.notes)]
        return " ".join((*parts, *said, *self.lower.objections))
