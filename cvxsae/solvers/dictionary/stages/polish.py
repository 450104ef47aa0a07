"""Full-batch descent on F(D, b) with exact codes: a quasi-Newton method on the spheres, preconditioned by the codes.

With the codes Z held fixed, F is a quadratic in (D, b) with the Hessian ``H_Z = (1/N) [Z 1]ᵀ[Z 1]`` in every
coordinate (plus ``λS_k/N`` from the sphere's curvature), and it majorises F. ``H_Z⁻¹`` applied to the gradient is
therefore a step of alternating minimisation; limited-memory BFGS pairs correct it for the codes' response, which
is what makes alternating minimisation slow. Gradients are exact by the envelope theorem,
``∂F/∂d_k = −(1/N) Σ_n z_nk r_n`` (T3), no derivative of a code being needed, and every accepted step lowers F itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from cvxsae.solvers.dictionary.sums import unit

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float64

    from cvxsae.parallel.group import ProcessGroup
    from cvxsae.solvers.codes.result import Codes
    from cvxsae.solvers.dictionary.sums import Statistics

MEMORY = 20
"""Pairs of steps and gradient changes kept."""

_SUFFICIENT = 1e-4
_SHORTER = 0.3
_SHORTEST = 12
_RIDGE = 1e-10
_ROUNDING = 1e-13
_CURVED = 1e-12
_LEAST_SCALE, _MOST_SCALE = 0.2, 50.0


@dataclass(frozen=True)
class Place:
    """A dictionary and an offset with exact codes: value and gradient there.

    ``variables`` stacks the dictionary (K, d) on the offset (1, d), whether or not it is free; ``gradient`` is tangent
    to the spheres, its last row zero if the bias is fixed.
    """

    variables: Float64[torch.Tensor, "K1 d"]
    codes: Codes
    gradient: Float64[torch.Tensor, "K1 d"]
    statistics: Statistics

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
        """The bias, measured from the origin of the statistics."""
        return self.variables[-1]


@dataclass(frozen=True)
class Pair:
    """A step and how the gradient changed along it."""

    step: Float64[torch.Tensor, "K1 d"]
    change: Float64[torch.Tensor, "K1 d"]

    @property
    def curvature(self) -> float:
        """Their inner product: positive where the Hessian was, on average."""
        return float((self.step * self.change).sum())


def gradient_at(
    statistics: Statistics,
    dictionary: Float64[torch.Tensor, "K d"],
    offset: Float64[torch.Tensor, " d"],
    *,
    bias_is_free: bool,
) -> Float64[torch.Tensor, "K1 d"]:
    """Riemannian gradient of F, the bias in the last row (zero if fixed)."""
    rows = -statistics.targets(dictionary, offset) / statistics.n_points
    rows = rows - dictionary * (dictionary * rows).sum(dim=1, keepdim=True)
    mean = statistics.mean_residual(dictionary, offset)
    return torch.cat([rows, -mean[None] if bias_is_free else torch.zeros_like(mean)[None]])


def descend(
    place: Place,
    pairs: tuple[Pair, ...],
    evaluate: Callable[[Float64[torch.Tensor, "K d"], Float64[torch.Tensor, " d"]], Place],
    lam: float,
    *,
    bias_is_free: bool,
    group: ProcessGroup,
) -> tuple[Place, tuple[Pair, ...]] | None:
    """One quasi-Newton step; None where no step along any direction at hand lowers F by more than rounding.

    ``evaluate`` gives the exact codes, value and gradient at a dictionary and an offset, the same in all processes.
    """
    for memory in (pairs, ()) if pairs else ((),):
        direction = group.same(_direction(place, memory, lam, bias_is_free=bias_is_free))
        slope = group.same_number(float((direction * place.gradient).sum()))
        if not slope < 0:
            continue
        found = _search(place, direction, slope, evaluate, group)
        if found is not None:
            return found, _remember(place, found, memory, group)
    return None


def _direction(
    place: Place, pairs: tuple[Pair, ...], lam: float, *, bias_is_free: bool
) -> Float64[torch.Tensor, "K1 d"]:
    """Minus the two-loop recursion applied to the gradient, with the fixed-code Hessian's inverse at its centre."""
    factor = _factor(place.statistics, lam)

    def precondition(rows: Float64[torch.Tensor, "K1 d"]) -> Float64[torch.Tensor, "K1 d"]:
        solved = torch.cholesky_solve(rows, factor)
        if not bias_is_free:
            solved[-1] = 0
        return _tangent(place.variables, solved)

    rest = place.gradient.clone()
    weights = []
    for pair in reversed(pairs):
        weight = float((pair.step * rest).sum()) / pair.curvature
        rest -= weight * pair.change
        weights.append(weight)
    rest = precondition(rest)
    if pairs:
        last = pairs[-1]
        scale = last.curvature / float((last.change * precondition(last.change)).sum())
        rest *= min(max(scale, _LEAST_SCALE), _MOST_SCALE)
    for pair, weight in zip(pairs, reversed(weights), strict=True):
        rest += (weight - float((pair.change * rest).sum()) / pair.curvature) * pair.step
    return -_tangent(place.variables, rest)


def _factor(statistics: Statistics, lam: float) -> Float64[torch.Tensor, "K1 K1"]:
    """Cholesky factor of the fixed-code Hessian over atoms and bias."""
    size, n_points = len(statistics.mass), statistics.n_points
    hessian = statistics.products.new_zeros((size + 1, size + 1))
    hessian[:-1, :-1] = statistics.products / n_points
    hessian[:-1, -1] = hessian[-1, :-1] = statistics.mass / n_points
    hessian[-1, -1] = 1
    curved = hessian.diagonal()[:-1] + lam * statistics.mass / n_points
    hessian.diagonal()[:-1] += lam * statistics.mass / n_points + _RIDGE * curved.max().clamp(min=lam**2)
    return torch.linalg.cholesky(hessian)


def _tangent(
    variables: Float64[torch.Tensor, "K1 d"], rows: Float64[torch.Tensor, "K1 d"]
) -> Float64[torch.Tensor, "K1 d"]:
    """Drop what would change the norms of atoms."""
    tangent = rows.clone()
    atoms = variables[:-1]
    tangent[:-1] -= atoms * (atoms * rows[:-1]).sum(dim=1, keepdim=True)
    return tangent


def retract(
    variables: Float64[torch.Tensor, "K1 d"], step: Float64[torch.Tensor, "K1 d"]
) -> tuple[Float64[torch.Tensor, "K d"], Float64[torch.Tensor, " d"]]:
    """Move, and put the atoms back on their spheres."""
    moved = variables + step
    return unit(moved[:-1]), moved[-1]


def _search(
    place: Place,
    direction: Float64[torch.Tensor, "K1 d"],
    slope: float,
    evaluate: Callable[[Float64[torch.Tensor, "K d"], Float64[torch.Tensor, " d"]], Place],
    group: ProcessGroup,
) -> Place | None:
    """Backtrack until F falls enough; where F can no longer tell, until the gradient does."""
    rounding = (_ROUNDING + place.codes.gap) * place.value
    length = 1.0
    for _ in range(_SHORTEST):
        found = evaluate(*retract(place.variables, length * direction))
        if found.value <= place.value + _SUFFICIENT * length * slope:
            return found
        flat = found.value <= place.value + rounding
        if flat and abs(group.same_number(float((found.gradient * direction).sum()))) <= 0.9 * abs(slope):
            return found
        length *= _SHORTER
    return None


def _remember(before: Place, after: Place, pairs: tuple[Pair, ...], group: ProcessGroup) -> tuple[Pair, ...]:
    """Carry the pairs to the new tangent space, drop those that saw no positive curvature, add the new one.

    All processes keep the same ones: a search starts over where there are some, and does not where there are none.
    """
    step = _tangent(after.variables, after.variables - before.variables)
    change = after.gradient - _tangent(after.variables, before.gradient)
    carried = [
        replace(pair, step=_tangent(after.variables, pair.step), change=_tangent(after.variables, pair.change))
        for pair in pairs
    ]
    carried.append(Pair(step, change))
    curved = [
        pair.curvature > _CURVED * float(torch.linalg.vector_norm(pair.step) * torch.linalg.vector_norm(pair.change))
        for pair in carried
    ]
    agreed = group.same(torch.tensor(curved, dtype=torch.float64)).tolist()
    kept = [pair for pair, holds in zip(carried, agreed, strict=True) if holds]
    return tuple(kept[-MEMORY:])
