"""The result of :func:`cvxsae.solve_globally`: the enclosed optimum of a small problem."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cvxsae.relaxations.solution import GAP_SLACK, Record, Status

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float64

    from cvxsae.solvers.global_search.boxes import Boxes, Landscape


@dataclass(frozen=True, eq=False)
class Minimizer:
    """A dictionary and bias whose F is the least there is, within the tolerance.

    Attributes
    ----------
    dictionary, bias
        (K, d) and (d,). Atoms that can be exchanged are in order of their angle.
    value
        F.
    is_isolated
        Whether F is proved to be strictly convex around it, on all of the region left that contains it: then no other
        minimizer is there.
    """

    dictionary: Float64[np.ndarray, "K d"]
    bias: Float64[np.ndarray, " d"]
    value: float
    is_isolated: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class GlobalOptimum:
    """The optimum of a joint problem over all dictionaries, between two numbers; units of (P), weighted by datapoint.

    Attributes
    ----------
    value
        F of :attr:`dictionary` and :attr:`bias`, attained with exact codes.
    lower_bound
        No dictionary of this width (and no bias, where it is free) has a smaller F: the least bound of the boxes that
        cover all of them (T18).
    dictionary, bias, codes
        The best found, (K, d), (d,) and its codes (N, K).
    minimizers
        Where F is least, up to the order of exchangeable atoms and signs.
    are_all
        Whether it is proved that there are no other minimizers: the boxes that are left, where F may be as small, form
        one region around each, and F is strictly convex on every one.
    status
        ``CERTIFIED`` if the gap is within ``tol``; otherwise why the search ended.
    tol
        The relative gap asked for.
    boxes, bounds
        Boxes that cover all dictionaries, and the lower bound of each: the proof, which anybody can check box by box.
    landscape
        The function minimized.
    penalty, lam
        Name of the penalty, and λ.
    history
        Value and bound over time.
    seconds
        Wall-clock time.
    """

    value: float
    lower_bound: float
    dictionary: Float64[np.ndarray, "K d"]
    bias: Float64[np.ndarray, " d"]
    codes: Float64[np.ndarray, "N K"] = field(repr=False)
    minimizers: tuple[Minimizer, ...] = field(repr=False)
    are_all: bool
    status: Status
    tol: float
    boxes: Boxes = field(repr=False)
    bounds: Float64[np.ndarray, " B"] = field(repr=False)
    landscape: Landscape = field(repr=False)
    penalty: str
    lam: float
    history: tuple[Record, ...] = field(default=(), repr=False)
    seconds: float = 0.0

    @property
    def gap(self) -> float:
        """Relative gap, (value − lower_bound)/value; 0 where they differ by less than 1e-14 of half the mean square."""
        return self.landscape.gap(self.value, self.lower_bound)

    @property
    def is_certified(self) -> bool:
        """Whether the gap is within ``tol``."""
        return self.status is Status.CERTIFIED

    @property
    def objections(self) -> tuple[str, ...]:
        """What contradicts the proof, a sentence each: checked at the center and the corners of a box that is left."""
        found = []
        if self.gap < -GAP_SLACK:
            found.append(f"The lower bound {self.lower_bound!r} lies above the value {self.value!r}.")
        if self.lower_bound > float(self.bounds.min()):
            found.append(f"A box has the bound {float(self.bounds.min())!r}, below the one claimed.")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        return {
            "penalty": self.penalty,
            "value": self.value,
            "lower_bound": self.lower_bound,
            "gap": self.gap,
            "tol": self.tol,
            "status": self.status.name,
            "certified": self.is_certified,
            "message": self.status.message,
            "dictionary": self.dictionary.tolist(),
            "bias": self.bias.tolist(),
            "n_minimizers": len(self.minimizers),
            "minimizers_are_all": self.are_all,
            "n_boxes": len(self.bounds),
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        known = "all there are" if self.are_all else "there may be others"
        lines = [
            f"global optimum, {self.penalty}: {self.status.name.lower()}: {self.status.message}",
            f"  value        {self.value:.12g}   (mean per datapoint)",
            f"  lower bound  {self.lower_bound:.12g}   (of every dictionary; {len(self.bounds):,} boxes)",
            f"  gap          {self.gap:.3g}   (tol {self.tol:g})",
            f"  minimizers   {len(self.minimizers)}, {known}",
        ]
        return "\n".join([*lines, *(f"  objection    {sentence}" for sentence in self.objections)])
