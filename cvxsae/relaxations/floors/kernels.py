"""Bounds on how close K atoms can be to data, by positive definite kernels (T14, T15).

``docs/floors_proofs.md`` has the proofs. Every function here returns what holds in exact arithmetic: intervals are
bounded at the end that is safe, and rounding is added where it could hurt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeAlias

import torch
from jaxtyping import Float

from cvxsae.data import arguments
from cvxsae.errors import InputError
from cvxsae.parallel.threads import interruptible
from cvxsae.relaxations import linalg
from cvxsae.relaxations.linalg import EPS

CELLS = 400
"""Intervals of c = k⁻¹(√q) on which the inner minimum is bounded while weights are searched for."""


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """How finely a datapoint's costs are bounded. A bound holds at every resolution, and is lower at a coarse one.

    Attributes
    ----------
    cells
        Intervals of ``c = k⁻¹(√q)``.
    tilts
        Intervals of γ, for T15.
    kappas
        Multiples κ that are tried in each of them.
    octave
        Ratios λ/‖x‖ per power of two at which costs of T15 are tabulated.
    """

    cells: int = CELLS
    tilts: int = 64
    kappas: int = 3
    octave: int = 4


SEARCH = Resolution()
"""Of the search for weights, which are evaluated again at the end."""

FINAL = Resolution(cells=2000, tilts=512, kappas=3, octave=8)
"""Of what is claimed: half a percent above :data:`SEARCH`, and a tenth below the end of all refinement."""

KEPT_POINTS = 20_000
"""Datapoints whose costs are computed at a time: 64 MB in float64."""

_GOLDEN_STEPS = 24
"""Of the search for κ, to 2·0.618²⁴ = 2e-5; any κ gives a bound."""

MOST_POWERS = 1000
"""Largest power of a kernel: it is zero but for atoms that are datapoints, and each power is a pass over a matrix."""


def _power(value: Any, name: str) -> int:
    return arguments.count(value, f"one of the {name} in kernels", most=MOST_POWERS)


def _coefficient(value: Any, name: str) -> float:
    return arguments.positive(value, f"one of the {name} in kernels")


@dataclass(frozen=True)
class ZonalKernel:
    """``k(t) = Σ_p c_p t^p`` with c_p > 0, p ≥ 1 and Σ c_p = 1: positive definite on the sphere of every dimension.

    ``k(u·v) = ⟨ψ(u), ψ(v)⟩`` for features with ``‖ψ(u)‖ = 1``; k rises from 0 to 1 on [0, 1].

    Attributes
    ----------
    powers
        The powers p, rising.
    coefficients
        The c_p that go with them.

    Raises
    ------
    InputError
        If there is no power, a power is not a whole number of at least 1, or a coefficient is not above zero.
    """

    powers: tuple[int, ...]
    coefficients: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        powers = arguments.each(self.powers, "powers", _power)
        coefficients = arguments.each(self.coefficients, "coefficients", _coefficient)
        if len(powers) != len(coefficients):
            raise InputError(
                f"kernels holds {len(powers)} powers with {len(coefficients)} coefficients; "
                "pass a whole number p, or a mapping from powers to coefficients."
            )
        terms = sorted(zip(powers, coefficients, strict=True))
        if len({p for p, _ in terms}) < len(terms):
            raise InputError(f"kernels names a power twice ({powers}); add the coefficients of equal powers.")
        total = math.fsum(c for _, c in terms)
        object.__setattr__(self, "powers", tuple(p for p, _ in terms))
        object.__setattr__(self, "coefficients", tuple(c / total for _, c in terms))

    @property
    def one_parity(self) -> bool:
        """Whether ``|k(−t)| = k(t)``: all powers even, or all odd."""
        return len({p % 2 for p in self.powers}) == 1

    @property
    def is_square(self) -> bool:
        """Whether k(t) = t², for which the sharper T15 holds."""
        return self.powers == (2,)

    @property
    def theorem(self) -> str:
        """T15 for t², T14 for every other kernel."""
        return "T15" if self.is_square else "T14"

    def __call__(self, t: torch.Tensor) -> torch.Tensor:
        """``Σ_p c_p t^p``, entry by entry (Horner)."""
        dense = dict(zip(self.powers, self.coefficients, strict=True))
        result = torch.full_like(t, dense[self.powers[-1]])
        for power in range(self.powers[-1] - 1, -1, -1):
            result.mul_(t)
            if power in dense:
                result.add_(dense[power])
        return result

    def __str__(self) -> str:
        return " + ".join(
            f"t^{p}" if c == 1 else f"{c:.3g} t^{p}" for p, c in zip(self.powers, self.coefficients, strict=True)
        )


KernelLike: TypeAlias = int | Mapping[int, float] | ZonalKernel
"""A power p, a mixture {p: c_p} (scaled to sum to 1), or a kernel."""


def kernel(value: KernelLike) -> ZonalKernel:
    """Return the kernel that a power or a mapping from powers to coefficients stands for."""
    if isinstance(value, ZonalKernel):
        return value
    if isinstance(value, Mapping):
        return ZonalKernel(tuple(value), tuple(value.values()))
    return ZonalKernel((_power(value, "powers"),))


def exponential_kernel(rate: float, degree: int = 24) -> ZonalKernel:
    """``(e^{rt} − 1)/(e^r − 1)`` cut off after ``degree`` powers and scaled to k(1) = 1."""
    rate, degree = arguments.positive(rate, "rate"), arguments.count(degree, "degree", most=MOST_POWERS)
    return ZonalKernel(
        tuple(range(1, degree + 1)),
        tuple(math.exp(p * math.log(rate) - math.lgamma(p + 1)) for p in range(1, degree + 1)),
    )


# ---------------------------------------------------------------------- what a datapoint costs at a share q


def shares(chosen: ZonalKernel, resolution: Resolution = SEARCH) -> Float[torch.Tensor, " cells"]:
    """The lower ends of the cells of ``q = ‖Πψ(v)‖²``: ``k(c)²`` at ``c = 0, 1/cells, …``, rounded down.

    Cell i is ``k(c_i)² ≤ q ≤ k(c_{i+1})²``; the cells cover [0, 1].
    """
    ends = torch.arange(resolution.cells, dtype=torch.float64) / resolution.cells
    return chosen(ends).square() * (1 - 8 * (chosen.powers[-1] + 4) * EPS)


def least_costs(
    lengths: Float[torch.Tensor, " n"], lam: float, chosen: ZonalKernel, resolution: Resolution = SEARCH
) -> Float[torch.Tensor, "n cells"]:
    """For each datapoint and cell a lower bound of φ(x_n) over all dictionaries whose share ``q_n`` lies in the cell.

    T14: no atom has ``k(d_k·v_n)² > q_n``, so ``φ(x_n) ≥ h_{λ/c}(‖x_n‖)`` with c the upper end of the cell.
    T15, for k(t) = t²: the atoms lie on a quadratic cone (:func:`cone_slopes`), and ``y = t (v + κĝ)`` is feasible
    for ``t ≤ λ/m``, worth ``h_{λs/m}(‖x_n‖/s)`` with ``s = √(1 + κ²)``. ``lengths`` are ``‖x_n − b‖``, all above
    zero and rounded down by the caller.
    """
    device = lengths.device
    upper = torch.arange(1, resolution.cells + 1, dtype=torch.float64, device=device) / resolution.cells
    costs = _best_multiple(lengths[:, None], lam / upper)
    if chosen.is_square:
        ratios = lam / lengths
        grid = ratio_grid(float(ratios.min()), resolution.octave).to(device)
        table = torch.stack([_cone_costs(float(ratio), resolution) for ratio in grid]).to(device)
        above = torch.searchsorted(grid, ratios).clamp(1, len(grid) - 1)
        left, right = grid[above - 1], grid[above]
        # φ is concave in λ (a maximum over y with λ on the right-hand side), so its chords bound it from below.
        part = ((ratios - left) / (right - left)).clamp(0, 1)[:, None]
        chords = torch.lerp(table[above - 1], table[above], part).mul_(lengths.square()[:, None])
        torch.maximum(costs, chords, out=costs)
    return costs.mul_(1 - 64 * EPS)


def ratio_grid(least: float, octave: int = SEARCH.octave) -> Float[torch.Tensor, " ratios"]:
    """Ratios λ/‖x_n‖ at which the costs of T15 are tabulated: ``octave`` per power of two, from below ``least`` up."""
    steps = max(1, math.ceil(-octave * math.log2(min(least, 0.5))) + 1)
    return torch.tensor([2.0 ** (-i / octave) for i in range(steps, -1, -1)], dtype=torch.float64)


@lru_cache(maxsize=512)
def _cone_costs(ratio: float, resolution: Resolution) -> Float[torch.Tensor, " cells"]:
    """Lower bound of φ for ``‖x‖ = 1`` and λ = ``ratio`` in each cell: least over tilts, best over κ."""
    slopes, stretch = cone_slopes(resolution)
    best = _best_multiple(1 / stretch[..., 0], ratio * stretch[..., 0] / slopes[..., 0])
    for i in range(1, resolution.kappas):
        torch.maximum(best, _best_multiple(1 / stretch[..., i], ratio * stretch[..., i] / slopes[..., i]), out=best)
    return best.amin(dim=1)


def _best_multiple(length: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    """``h_limit(length)``: the best value of ``t·length − ½t²`` over ``0 ≤ t ≤ limit``."""
    t = torch.minimum(length, limit)
    return t * (length - t / 2)


@lru_cache(maxsize=4)
def cone_slopes(resolution: Resolution = SEARCH) -> tuple[torch.Tensor, torch.Tensor]:
    """``m``: an upper bound of ``max u·(v + κĝ)`` over atoms u, by cell of q, cell of tilt γ, and κ ≥ 0 (T15).

    ``E = (I − Π)ψ(v)`` is a symmetric matrix with ``uᵀEu = 0`` for every atom u and ``vᵀEv = ‖E‖_F² = 1 − q``.
    With ``γ = ‖P_⊥Ev‖``, ``ĝ = P_⊥Ev/γ`` and ``ρ² = q(1 − q) − 2γ²``, atoms ``u = cv + pĝ + …`` obey

        ``(1 − q) c² + 2γ c p ≤ ρ (1 − c²)``  and  ``c² + p² ≤ 1``  and  ``c⁴ ≤ q``.

    In a cell ``1 − q`` is at its least and ρ at its largest, and γ is at the end that leaves p more room
    (``docs/floors_proofs.md`` has the rest). Any κ is sound. The last one is where m is least, which is best for small
    λ; the others are fractions of it.

    Returns
    -------
    slopes, stretch
        m and ``√(1 + κ²)``, (cells, tilts, kappas).
    """
    cone = _Cone.of(resolution)
    left, right = (torch.full_like(cone.top, end) for end in (0.0, 2.0))
    for _ in range(_GOLDEN_STEPS):  # m is convex in κ: golden section
        one, two = torch.lerp(left, right, 0.382), torch.lerp(left, right, 0.618)
        is_left = cone.slope(one) < cone.slope(two)
        left, right = torch.where(is_left, left, one), torch.where(is_left, two, right)
    kappa = (left + right)[..., None] / 2 * torch.linspace(0, 1, resolution.kappas, dtype=torch.float64)
    slopes = torch.stack([cone.slope(kappa[..., i]) for i in range(resolution.kappas)], dim=-1)
    return slopes * (1 + 64 * EPS), (1 + kappa.square()).sqrt()


@dataclass(frozen=True)
class _Cone:
    """The corners of what (6d) leaves of the half plane ``c ≥ 0`` of v and ĝ, by cell of q and cell of γ.

    For c up to ``top`` an atom may lie in the plane, p = √(1 − c²). Beyond, p is below a convex function of c that is
    zero at ``level`` and ends at ``end``, so ``c + κp`` is largest at one of these.
    """

    top: torch.Tensor
    top_p: torch.Tensor
    level: torch.Tensor
    end: torch.Tensor
    end_p: torch.Tensor

    @classmethod
    def of(cls, resolution: Resolution) -> _Cone:
        """Every cell at its safe ends."""
        edges = torch.arange(resolution.cells + 1, dtype=torch.float64) / resolution.cells
        first, last, most = edges[:-1, None] ** 4, edges[1:, None] ** 4, edges[1:, None]
        ends = torch.maximum(first * (1 - first), last * (1 - last))
        spread = torch.where((first < 0.5) & (last > 0.5), 0.25, ends) + 8 * EPS  # ρ cancels
        tilts = torch.linspace(0.0, math.pi / 2, resolution.tilts + 1, dtype=torch.float64).sin()
        gamma = tilts * (spread / 2).sqrt() * (1 + 4 * EPS)
        low, high = gamma[:, :-1], gamma[:, 1:]
        rho, rest = (spread - 2 * low.square()).clamp(min=0).sqrt() + 4 * EPS, 1 - last
        reach = ((1 - most) * (1 + most)).sqrt() + 4 * EPS

        def corner(tilt: torch.Tensor) -> torch.Tensor:  # tan, or its inverse, of where p meets ±√(1 − c²)
            return tilt + (tilt.square() + rho * rest).sqrt()

        across = corner(low)
        top, top_p = rho / torch.hypot(rho, across), across / torch.hypot(rho, across)
        level = (rho / (rho + rest)).sqrt()
        across = corner(high)
        end, end_p = across / torch.hypot(across, rest), -rest / torch.hypot(across, rest)
        # The cone may be cut off by c⁴ ≤ q.
        room = rho * (1 - most.square()) - rest * most.square() + 8 * EPS
        cut_p = torch.where(room >= 0, torch.minimum(room / (2 * low * most), reach), room / (2 * high * most))
        is_cut = most < end
        end, end_p = torch.where(is_cut, most, end), torch.where(is_cut, cut_p, end_p)
        return cls(
            torch.minimum(top, most),
            torch.where(top < most, top_p, reach),
            torch.minimum(level, most),
            end,
            end_p + 4 * EPS,
        )

    def slope(self, kappa: torch.Tensor) -> torch.Tensor:
        """The largest ``c + κp``."""
        stretch = (1 + kappa.square()).sqrt()
        above = torch.where(self.top * stretch >= 1, stretch, self.top + kappa * self.top_p)
        beyond = torch.maximum(self.level, self.end + kappa * self.end_p)
        return torch.maximum(above, beyond)


@dataclass(frozen=True)
class InnerMinimum:
    """``Σ_n min_i (cost_ni + w_n q_i)``: per datapoint, (n,), the minimum and the share q at which it is."""

    values: torch.Tensor
    shares: torch.Tensor


def inner_minimum(
    costs: Float[torch.Tensor, "n cells"], lower_ends: Float[torch.Tensor, " cells"], weights: Float[torch.Tensor, " n"]
) -> InnerMinimum:
    """The least a datapoint can cost with its share charged at w_n: the concave part of (6c)."""
    values, cells = torch.addcmul(costs, weights[:, None], lower_ends).min(dim=1)
    return InnerMinimum(values, lower_ends[cells])


class DatapointCosts:
    """The costs of all datapoints by share (:func:`least_costs`), kept where they are few, and made again where not."""

    def __init__(
        self,
        lengths: Float[torch.Tensor, " n"],
        lam: float,
        chosen: ZonalKernel,
        resolution: Resolution = SEARCH,
    ) -> None:
        self.lengths, self.lam, self.kernel, self.resolution = lengths, lam, chosen, resolution
        self.lower_ends = shares(chosen, resolution).to(lengths.device)
        self._at_once = max(1, KEPT_POINTS * CELLS // resolution.cells)
        self._kept = [least_costs(lengths, lam, chosen, resolution)] if len(lengths) <= self._at_once else None

    def __len__(self) -> int:
        return len(self.lengths)

    def minima(self, weights: Float[torch.Tensor, " n"]) -> Float[torch.Tensor, " n"]:
        """The inner minimum of each datapoint at its weight."""
        return torch.cat(
            [inner_minimum(costs, self.lower_ends, weights[part]).values for part, costs in self._blocks()]
        )

    def sums(self, weights: Float[torch.Tensor, " n"], multiples: Sequence[float]) -> list[float]:
        """The sum of all inner minima at each multiple of the weights, in one pass over the costs."""
        totals = [0.0] * len(multiples)
        for part, costs in self._blocks():
            for index, multiple in enumerate(multiples):
                found = inner_minimum(costs, self.lower_ends, multiple * weights[part])
                totals[index] += float(found.values.sum())
        return totals

    def _blocks(self) -> Iterator[tuple[slice, Float[torch.Tensor, "block cells"]]]:
        if self._kept is not None:
            yield slice(None), self._kept[0]
            return
        for start in range(0, len(self), self._at_once):
            part = slice(start, start + self._at_once)
            yield part, least_costs(self.lengths[part], self.lam, self.kernel, self.resolution)


# ---------------------------------------------------------------------- what K atoms can share


def kernel_matrix(
    directions: Float[torch.Tensor, "n d"], weights: Float[torch.Tensor, " n"], chosen: ZonalKernel
) -> Float[torch.Tensor, "n n"]:
    """``[√w_n k(v_n·v_m) √w_m]_nm`` (6b)."""
    root = weights.sqrt()
    return chosen(directions @ directions.T).mul_(root[:, None]).mul_(root)


def share_limit(
    directions: Float[torch.Tensor, "n d"], weights: Float[torch.Tensor, " n"], chosen: ZonalKernel, n_atoms: int
) -> float:
    """``Λ_K``: an upper bound of ``Σ_n w_n q_n`` for every dictionary of K atoms (6b), in float64 with rounding slack.

    The sum of the K largest eigenvalues of :func:`kernel_matrix`. Added to it: √K times the Frobenius norm of what
    rounding can do to the matrix, and K times LAPACK's backward error, taken as ``8 n ε`` times the spectral norm.
    """
    n, d = directions.shape
    mass = float(weights.sum())
    if mass == 0:
        return 0.0
    if n_atoms >= n:
        return mass * (1 + 4 * n * EPS)
    eigenvalues = interruptible(partial(linalg.eigvalsh, kernel_matrix(directions, weights, chosen))).flip(0)
    top = eigenvalues[:n_atoms].clamp(min=0)
    entry = EPS * (chosen.powers[-1] * (2 * d + 20) + 16)
    slack = math.sqrt(n_atoms) * entry * mass + n_atoms * 8 * n * EPS * float(top[0])
    return min(float(top.sum()) * (1 + n * EPS) + slack, mass * (1 + 4 * n * EPS))
