"""What an engine is, and what it is told: the interface between the rounds and the arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from cvxsae.solvers.codes.engines.calibration import Rung
from cvxsae.solvers.codes.engines.prices import Prices


@dataclass(frozen=True)
class Tuning:
    """Numbers that decide how fast the answer comes, never whether it is right.

    Attributes
    ----------
    tol
        Relative duality gap at which a datapoint is finished.
    first, later, most
        Atoms added to a working set in the first round, at least later, and at most at once. Measured: twice or half
        as many changes the time by less than its noise.
    cheap
        Price of a product, as a share of a float32 one's, below which fewer atoms are added at a time.
    rows
        Datapoints whose correlations are held at a time.
    ladder
        Precisions to screen with, the coarsest first; None for those of ``precision``.
    precision
        One precision to screen with, and float32 where it is too coarse; ``None`` for those that are fast here.
    widest_margin
        Error margin (in units of λ) above which a product would leave too much to recompute, for the engines that do
        not count what it is; the fused one takes it as no limit where it is infinite.
    divisor
        A working set grows by its size divided by this, within ``later`` and ``most``: sizes then double in a few
        rounds, and few atoms are added that do not stay.
    frugal_steps
        What stands for ``first`` and ``later`` where products are cheap.
    floor_share
        Share of ``tol`` at which the projected gradient of a working set counts as zero.
    fine_tol
        Below this ``tol`` a float32 factor may need more corrections in float64 than usual.
    """

    tol: float
    first: int = 40
    later: int = 20
    most: int = 256
    rows: int = 1024
    cheap: float = 0.5
    ladder: tuple[Rung, ...] | None = None
    precision: str | None = None
    widest_margin: float = 0.2
    divisor: int = 2
    frugal_steps: tuple[int, int] = (24, 12)
    floor_share: float = 0.1
    fine_tol: float = 1e-7

    @property
    def is_fine(self) -> bool:
        """Whether ``tol`` is so small that float32 factors need more corrections."""
        return self.tol < self.fine_tol

    @property
    def refinements(self) -> int:
        """Corrections in float64 by a float32 factor, at most: each gains three digits or more, if any."""
        return 6 if self.is_fine else 3


@dataclass
class Outcome:
    """What one round found, per active datapoint; ``gaps`` is infinite where nothing could be certified."""

    done: Bool[np.ndarray, " a"]
    values: Float64[np.ndarray, " a"]
    gaps: Float64[np.ndarray, " a"]
    added: Int64[np.ndarray, " a"]
    rechecks: Int64[np.ndarray, " a"]

    @classmethod
    def empty(cls, n: int) -> Outcome:
        """Room for n datapoints."""
        return cls(np.zeros(n, np.bool_), np.zeros(n), np.full(n, np.inf), np.zeros(n, np.int64), np.zeros(n, np.int64))


@dataclass(frozen=True)
class Warm:
    """Codes to start from, in units of λ: compressed rows."""

    indptr: Int64[np.ndarray, " n_plus_1"]
    indices: Int64[np.ndarray, " nnz"]
    values: Float64[np.ndarray, " nnz"]

    def inside(self, prices: Prices | None) -> Warm:
        """The same in the codes that engines hold."""
        if prices is None:
            return self
        return Warm(self.indptr, self.indices, prices.inside(self.values, self.indices))

    def fill(self, chosen: np.ndarray, codes: np.ndarray, count: np.ndarray) -> None:
        """Write each row's positive codes, the largest if they do not all fit, into padded arrays."""
        capacity = chosen.shape[1]
        lengths = np.diff(self.indptr)
        if lengths.max(initial=0) <= capacity and (self.values > 0).all():
            width = lengths.max(initial=0)
            held = np.arange(width) < lengths[:, None]
            chosen[:, :width][held], codes[:, :width][held], count[:] = self.indices, self.values, lengths
            return
        for i in range(len(count)):
            part = slice(self.indptr[i], self.indptr[i + 1])
            indices, values = self.indices[part], self.values[part]
            keep = values > 0
            if keep.sum() > capacity:
                keep &= values >= np.partition(values, -capacity)[-capacity]
            indices, values = indices[keep][:capacity], values[keep][:capacity]
            chosen[i, : len(indices)], codes[i, : len(indices)], count[i] = indices, values, len(indices)


class InterruptedBlockError(RuntimeError):
    """The block was given up because its caller asked to stop."""


class Stoppable:
    """What asks, between pieces of work that take a fraction of a second, whether to go on.

    Attributes
    ----------
    stop
        Whether the caller wants no more.
    """

    stop: Callable[[], bool] = staticmethod(lambda: False)

    def go_on(self) -> None:
        """Raise :class:`InterruptedBlockError` if the caller wants no more."""
        if self.stop():
            raise InterruptedBlockError


@runtime_checkable
class Engine(Protocol):
    """The arithmetic of the rounds, on one device and one thread of control."""

    name: str
    stop: Callable[[], bool]

    def go_on(self) -> None:
        """Raise :class:`InterruptedBlockError` if the caller wants no more; asked within rounds too."""

    def warm_up(self) -> None:
        """Compile whatever has to be compiled."""

    def begin(self, data: Float64[torch.Tensor, "n d"], warm: Warm | None) -> Any:
        """State of a block of datapoints, ``data`` being ``(x − b)/λ``."""

    def as_they_are(self, data: Float64[torch.Tensor, "n d"], warm: Warm) -> Any:
        """State of given codes, for :meth:`certify` alone."""

    def advance(self, state: Any, active: Int64[np.ndarray, " a"], *, first: bool, double: bool) -> Outcome:
        """One round: one correlation pass; certify, or enlarge and solve the working sets.

        ``double`` asks for float64 arithmetic throughout, for the few datapoints that need it.
        """

    def certify(self, state: Any, active: Int64[np.ndarray, " a"]) -> Outcome:
        """Certify the codes as they are, changing nothing."""

    def export(self, state: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts (n,), atom indices (n, capacity) and codes (n, capacity), padded, in units of λ."""
