"""The state of the search for a dictionary: one frozen class for each of its three stages, and their common parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64, Int64

from cvxsae.solvers.codes.result import Codes
from cvxsae.solvers.dictionary.held_out import Watched
from cvxsae.solvers.dictionary.sums import CodeSums

S = TypeVar("S", bound="SearchState")

AT_HAND = ("dictionary", "offset", "value", "step", "counts", "watched")
"""What the state of one stage takes over from that of another."""


@dataclass(frozen=True)
class DataSummary:
    """What the search needs to know of the data as a whole.

    Attributes
    ----------
    origin
        Data are measured from here, (d,): the fixed bias, or that of the wide limit.
    total, energy
        Σ(x_n − origin) and Σ‖x_n − origin‖².
    lower_bound
        Certified lower bound on F at every width (T9).
    n_points
        Datapoints, of all processes if there are several.
    """

    origin: Float64[torch.Tensor, " d"]
    total: Float64[torch.Tensor, " d"]
    energy: float
    lower_bound: float
    n_points: int

    @property
    def unit_length(self) -> float:
        """A power of two about as long as datapoints are."""
        return unit_length(self.energy / self.n_points)


def unit_length(mean_square: float) -> float:
    """A power of two about as long as datapoints are: divided by it, residuals fit float32, and no bit is lost."""
    return 2.0 ** round(math.log2(mean_square) / 2) if mean_square > 0 else 1.0


@dataclass(frozen=True)
class Evaluation:
    """A dictionary and an offset with exact codes: value and gradient there.

    Attributes
    ----------
    variables
        The dictionary (K, d) stacked on the offset (1, d), whether or not the bias is free.
    codes
        Exact codes of the datapoints of this process.
    gradient
        Tangent to the spheres, shaped like ``variables``; its last row is zero if the bias is fixed.
    sums
        Sums of the codes, over all processes.
    """

    variables: Float64[torch.Tensor, "K1 d"]
    codes: Codes
    gradient: Float64[torch.Tensor, "K1 d"]
    sums: CodeSums

    @property
    def value(self) -> float:
        """F at the codes, mean per datapoint."""
        return self.codes.value

    @property
    def dictionary(self) -> Float64[torch.Tensor, "K d"]:
        """Unit-norm atoms."""
        return self.variables[:-1]

    @property
    def offset(self) -> Float64[torch.Tensor, " d"]:
        """The bias, measured from the origin of the summary."""
        return self.variables[-1]


@dataclass(frozen=True)
class CurvaturePair:
    """A step and how the gradient changed along it: what limited-memory BFGS remembers."""

    step: Float64[torch.Tensor, "K1 d"]
    change: Float64[torch.Tensor, "K1 d"]

    @property
    def curvature(self) -> float:
        """Their inner product: positive where the Hessian was, on average."""
        return float((self.step * self.change).sum())


@dataclass(frozen=True)
class Moments:
    """Running means of the gradient and of its square, of every coordinate, and the number of steps they saw."""

    first: Float64[torch.Tensor, "K d"]
    second: Float64[torch.Tensor, "K d"]
    taken: int = 0

    @classmethod
    def zero(cls, dictionary: Float64[torch.Tensor, "K d"]) -> Moments:
        """Before the first step."""
        return cls(torch.zeros_like(dictionary), torch.zeros_like(dictionary))


@dataclass(frozen=True)
class RoundStart:
    """Where stochastic steps began, to return to if they did not lower F."""

    dictionary: Float64[torch.Tensor, "K d"]
    offset: Float64[torch.Tensor, " d"]
    value: float
    codes: sp.csr_array


@dataclass(frozen=True, kw_only=True)
class SearchState:
    """What every stage knows.

    Attributes
    ----------
    dictionary, offset
        Unit-norm atoms (K, d) and the bias measured from the origin of the data's summary.
    value
        F at the codes at hand, of the last full evaluation; it never rises.
    step
        Steps taken so far, of all stages.
    counts
        Epochs, steps, replaced atoms, escapes from saddles.
    watched
        What rows set aside say so far; None without any, and before they were evaluated.
    """

    dictionary: Float64[torch.Tensor, "K d"]
    offset: Float64[torch.Tensor, " d"]
    value: float
    step: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    watched: Watched | None = None

    def counting(self: S, **added: int) -> S:
        """The same state after adding to some counters."""
        return replace(
            self, counts={**self.counts, **{name: self.counts.get(name, 0) + n for name, n in added.items()}}
        )

    @property
    def at_hand(self) -> dict[str, Any]:
        """What the state of another stage takes over."""
        return {name: getattr(self, name) for name in AT_HAND}


@dataclass(frozen=True, kw_only=True)
class Stochastic(SearchState):
    """Among the stochastic gradient steps of a round.

    Attributes
    ----------
    round
        Number of the round.
    minibatches
        Rows of this process's data in each minibatch, ascending.
    codes
        Last known codes of each minibatch, None where there are none yet.
    moments
        Of Adam.
    start
        Where the round began; None if F there is not known.
    """

    round: int
    minibatches: tuple[Int64[np.ndarray, " _"], ...]
    codes: tuple[sp.csr_array | None, ...]
    moments: Moments
    start: RoundStart | None


@dataclass(frozen=True, kw_only=True)
class Exact(SearchState):
    """In the exact pass at the end of a round.

    Attributes
    ----------
    round
        Number of the round.
    part
        Minibatches done in this pass.
    minibatches
        Rows of this process's data in each minibatch, ascending.
    codes
        Codes of each minibatch that are in ``sums``.
    sums
        Of the codes of this process's datapoints.
    """

    round: int
    part: int
    minibatches: tuple[Int64[np.ndarray, " _"], ...]
    codes: tuple[sp.csr_array, ...]
    sums: CodeSums


@dataclass(frozen=True, kw_only=True)
class Polish(SearchState):
    """In full-batch descent.

    Attributes
    ----------
    evaluation
        Exact codes, value and gradient at the dictionary; None before the first step.
    warm
        Codes to start the first evaluation from.
    pairs
        What limited-memory BFGS remembers.
    idle
        Steps in a row that neither lowered F by more than rounding nor shortened the stationarity residual.
    least_residual
        Shortest stationarity residual so far.
    least_curvature
        Least eigenvalue of the Hessian, once it has been asked for (T5).
    last_moves, value_at_moves
        Step at which moves were last judged, and F after that.
    is_settled
        Stationary within the target, and no move pays.
    is_stuck
        Nothing at hand lowers F at this precision.
    """

    evaluation: Evaluation | None = None
    warm: sp.csr_array | None = None
    pairs: tuple[CurvaturePair, ...] = ()
    idle: int = 0
    least_residual: float = math.inf
    least_curvature: float | None = None
    last_moves: int = 0
    value_at_moves: float = math.inf
    is_settled: bool = False
    is_stuck: bool = False


State: TypeAlias = Stochastic | Exact | Polish
"""The state of the search, by stage."""
