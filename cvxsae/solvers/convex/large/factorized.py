"""A first solver for the large dictionary: descent on a factor of Q, and new atoms from the polar's direction."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch

from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary, fit_factor
from cvxsae.relaxations.convex.polar_search import LARGEST_DIM
from cvxsae.relaxations.solution import as_numpy
from cvxsae.solvers.convex.nonnegative_lbfgs import MEMORY, descend

_ALL_DATAPOINTS = 1024
"""Datapoints up to which every one starts as a column."""

_SPREAD_DATAPOINTS = 512
"""Columns to start with beyond that."""

_SCALES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Norms of those columns that are tried, for data of mean squared norm 1."""

_PERTURBATION = 0.5
"""Standard deviation of the logarithm by which entries are perturbed."""

_NEW_SIZE = 0.05
"""Mean of the entries of the columns appended, relative to the largest entry."""

_NEW_SHARE = 0.2
"""Share of those entries that are not zero."""

_PERTURBED_ITERATIONS = 400
"""Iterations of the descent from a perturbed factor: one long round."""

_DEAD = 1e-14
"""Squared norm of a column, relative to the largest, below which it is dropped."""

_EXCESS = 1e-9
"""By how much the polar must exceed λ for a new atom to be more than rounding."""

_NEW_ATOM = 1e-2
"""Norm of a new atom's column, relative to the largest: small enough to lower the value at first order."""


@dataclass(frozen=True)
class FactorState:
    """The factor B (N, K) of Q = B Bᵀ, and the data on the device."""

    factor: torch.Tensor
    data: torch.Tensor


@dataclass(frozen=True)
class Factorized:
    """Minimize (7) over ``Q = B Bᵀ``, ``B ≥ 0``, by projected quasi-Newton, adding atoms as the dual asks.

    One step is a round of descent on B with dictionary and bias eliminated (ridge regression), then the removal of
    dead columns, then one new atom ``z ∝ (Ru − a)_+`` along the direction u in which the residual violates
    ``θ°(R) ≤ λ`` most (T13). Starts from the atom-per-datapoint solution (T9, T12), or from a spread of datapoints
    when there are more than 1,024: then a column holds all the datapoints that would share an atom in the direction of
    the chosen one (T13). The problem in B is not convex, but its value is an upper bound of (L) at every
    step; the certificate is T11 with an improved P. Where the doubly nonnegative relaxation is loose (up to about a
    percent) the gap cannot close and the solve ends as STALLED.

    Parameters
    ----------
    round_iterations
        Quasi-Newton iterations a round.
    precision
        In which they are done. Values, bounds and what is returned are in float64.
    memory
        Pairs of matrices like the factor that they keep.
    """

    round_iterations: int = 60
    precision: torch.dtype = torch.float64
    memory: int = MEMORY

    name = "factorized"
    default_iterations = 100
    first_check = 1
    patience = 3
    bound_stands: ClassVar[Literal[True]] = True

    def init(self, problem: LargeDictionary, device: torch.device) -> FactorState:
        """One column per datapoint, the optimum already for τ ≤ τ* (T12), or one per chosen direction."""
        data = problem.X.to_tensor(device=device)
        offsets = data - problem.starting_bias().to(device)
        norms = torch.linalg.vector_norm(offsets, dim=1)
        n = len(data)
        if n > most_columns(n) and float(norms.max()) > 0:
            return _shared_start(problem, data, offsets, norms)
        diagonal = (norms / (1 + problem.atom_cost) ** 0.5 - problem.lam).clamp(min=0)
        return FactorState(torch.diag(diagonal.sqrt()), data)

    def step(self, problem: LargeDictionary, state: FactorState) -> FactorState:
        """One round of descent, and at most one new atom."""
        state = self.descended(problem, state)
        return replace(state, factor=_with_new_atom(problem, state.factor, state.data))

    def descended(self, problem: LargeDictionary, state: FactorState) -> FactorState:
        """A round of descent, and no more: dead columns removed."""
        if 0 in state.factor.shape:
            return state
        data, start = state.data.to(self.precision), state.factor.to(self.precision)
        root = _root_of_size(problem, state.data)

        def objective(B: torch.Tensor) -> tuple[float, torch.Tensor]:
            value, gradient = _value_and_gradient(problem, root * B, data)
            return value / root**4, gradient.div_(root**3)

        found = root * descend(objective, start / root, self.round_iterations, self.memory)
        factor = found.to(state.factor)
        mass = factor.square().sum(dim=0)
        return replace(state, factor=factor[:, mass > _DEAD * mass.max()])

    def bounds(self, problem: LargeDictionary, state: FactorState) -> tuple[float, float]:
        """At the unit-norm dictionary and codes the factor stands for."""
        return problem.bounds(self.finish(problem, state))

    def finish(self, problem: LargeDictionary, state: FactorState) -> Candidate:
        """Dictionary, codes and similarity of the factor; dual point and P from its residual."""
        point = problem.from_factor(as_numpy(state.factor))
        residual = fit_factor(problem, state.factor, state.data).residual.cpu()
        dual, proof = problem.dual_candidate(residual)
        return replace(point, dual=dual, proof=proof, similarity=problem.similarity(point))

    def info(self, state: FactorState) -> dict[str, Any]:
        """Number of columns of the factor."""
        return {"atoms": state.factor.shape[1]}


def perturbed(problem: LargeDictionary, state: FactorState, seed: int) -> FactorState:
    """Descent from a factor with its entries perturbed and a few sparse columns added.

    The minima are many and close together. Every entry is multiplied by a log-normal number, N sparse columns of small
    entries are appended, and one long round of :class:`Factorized` follows. Often better than the factor itself, and
    better than as many random starts.
    """
    generator, factor = torch.Generator().manual_seed(seed), state.factor.cpu()
    n = len(factor)
    scale = torch.exp(_PERTURBATION * torch.randn(factor.shape, generator=generator, dtype=factor.dtype))
    drawn = torch.rand((n, n), generator=generator, dtype=factor.dtype)
    largest = float(factor.max()) if factor.numel() else 1.0
    columns = _NEW_SIZE / _NEW_SHARE * largest * torch.where(drawn < _NEW_SHARE, drawn, 0)
    start = torch.cat([factor * scale, columns], dim=1).to(state.factor)
    return Factorized(_PERTURBED_ITERATIONS).step(problem, replace(state, factor=start))


def most_columns(n_points: int) -> int:
    """How many columns a factor starts with: one per datapoint, but for large data no more than descent can carry."""
    return n_points if n_points <= _ALL_DATAPOINTS else _SPREAD_DATAPOINTS


def _root_of_size(problem: LargeDictionary, data: torch.Tensor) -> float:
    """A power of two near the root of the data's size, in which B is measured: steps begin at one.

    It is one for data of mean squared norm 1, and rounds nothing.
    """
    square = float((data - problem.starting_bias().to(data)).square().sum(dim=1).mean())
    return 2.0 ** round(math.log2(square) / 4) if square > 0 else 1.0


def _value_and_gradient(
    problem: LargeDictionary, factor: torch.Tensor, data: torch.Tensor
) -> tuple[float, torch.Tensor]:
    """(7) at ``Q = B Bᵀ`` with D and b eliminated, sum units, and its gradient ``−R Dᵀ + λ(11ᵀB + τB)``."""
    fit = fit_factor(problem, factor, data)
    mass, tau = factor.sum(dim=0), problem.atom_cost
    charge = mass.square().sum() + tau * factor.square().sum()
    value = float(fit.residual.square().sum() + problem.lam * (fit.atoms.square().sum() + charge)) / 2
    gradient = problem.lam * (mass + tau * factor) - fit.residual @ fit.atoms.T
    return value, gradient


def _with_new_atom(problem: LargeDictionary, factor: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """Append a small column along the best new atom, if the residual's polar exceeds λ there."""
    residual = fit_factor(problem, factor, data).residual
    if problem.dim <= LARGEST_DIM:  # local searches can miss the best direction; this one cannot
        bounds = problem.penalty.matrix_polar(residual)
        polar, direction = bounds.lower, bounds.direction
    else:
        polar, direction = problem.penalty.best_direction(residual)
    if polar <= problem.lam * (1 + _EXCESS):
        return factor
    column = problem.penalty.polar_maximizer((residual @ direction)[:, None])
    size = _NEW_ATOM * float(factor.square().sum(dim=0).max().sqrt() if factor.numel() else residual.abs().max().sqrt())
    return torch.cat([factor, size * column / torch.linalg.vector_norm(column)], dim=1)


def _shared_start(
    problem: LargeDictionary, data: torch.Tensor, offsets: torch.Tensor, norms: torch.Tensor
) -> FactorState:
    """Columns ``z ∝ (Xu − a)_+`` along the directions u of spread-out datapoints, all of the best of a few norms."""
    chosen = _spread(offsets, norms, most_columns(len(data)))
    columns = problem.penalty.polar_maximizer(offsets @ (offsets[chosen] / norms[chosen, None]).T)
    lengths = torch.linalg.vector_norm(columns, dim=0)
    columns = columns[:, lengths > 0] / lengths[lengths > 0]
    size = float(norms.square().mean().sqrt()) ** 0.5
    tried = [(_value_and_gradient(problem, size * scale * columns, data)[0], scale) for scale in _SCALES]
    return FactorState(size * min(tried)[1] * columns, data)


def _spread(offsets: torch.Tensor, norms: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of datapoints in spread-out directions: the longest first, then each the farthest in angle."""
    unit = offsets / norms.clamp(min=torch.finfo(offsets.dtype).tiny)[:, None]
    chosen = [int(norms.argmax())]
    closest = unit @ unit[chosen[0]]
    for _ in range(count - 1):
        chosen.append(int(closest.argmin()))
        closest = torch.maximum(closest, unit @ unit[chosen[-1]])
    return torch.tensor(sorted(set(chosen)), device=offsets.device)
