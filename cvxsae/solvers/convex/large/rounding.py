"""From a doubly nonnegative Q to a dictionary and codes: a factor read off Q, and how long to descend from it."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float

from cvxsae.errors import InputError
from cvxsae.parallel.machine import memory_gib
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary, fit_factor
from cvxsae.solvers.convex.large.factorized import Factorized, FactorState, most_columns

SMALL = 300
"""Datapoints up to which descents are long and repeated: beyond, a round takes seconds."""

_DESCENTS = 4
"""Rounds of descent before the splitting; it needs a start, not an answer."""

_ROUNDS = 20
"""Rounds of descent from the factor read off Q."""

_LONG, _SHORT = 200, 25
"""Quasi-Newton iterations of such a round, up to ``SMALL`` datapoints and of many."""

_PAIRS = 4
"""Pairs of matrices like the factor that a descent on many datapoints keeps: more take memory and gain nothing."""

_WORK = 2.2
"""Work that those of many datapoints may do for each step of the splitting, in N³: a third of that of the step."""

_COLUMNS = 2
"""Columns read off the Q of many datapoints, in units of its rank."""

_COARSE = 1e-4
"""Least ``tol`` for which more than ``SMALL`` datapoints are descended on in float32, in half the time."""

_ORDINARY = 1e8
"""Size of data, λ and τ up to which, and of λ above whose inverse, that is done: cubes of both are summed."""

_BEGUN = 1e-3
"""Relative decrease below which the first descent ends."""

_LEAST = 1e-7
"""Least relative decrease for which the last one goes on, whatever ``tol``."""

_SHARE = 0.1
"""The same in units of ``tol``: a round that gains less does not decide the gap."""

_PIVOT = 1e-8
"""Pivot of the Cholesky factorization, relative to the largest, below which what is left of Q is noise."""

_SQUARES = 14
"""Matrices of the order of the cone, in float64, that a solve holds at its peak while the splitting is in float32."""


def are_many(problem: LargeDictionary) -> bool:
    """Whether there are more datapoints than columns to start with."""
    return most_columns(problem.n_points) < problem.n_points


def rounded(problem: LargeDictionary, similarity: Float[torch.Tensor, "N N"], rank: int) -> torch.Tensor:
    """A factor (N, K) of about Q, as many columns as datapoints; of many datapoints twice the rank of Q."""
    n = problem.n_points
    return cholesky_columns(similarity, min(n, max(most_columns(n), _COLUMNS * rank)) if are_many(problem) else n)


def cholesky_columns(similarity: Float[torch.Tensor, "N N"], most: int) -> Float[torch.Tensor, "N K"]:
    """``B ≥ 0`` (N, K) with ``BBᵀ`` near Q: pivoted Cholesky with its columns clipped, exact for disjoint supports."""
    rest = similarity.diagonal().clone()
    floor = _PIVOT * float(rest.max())
    factor = torch.zeros((len(rest), most), dtype=rest.dtype, device=rest.device)
    for k in range(most):
        pivot = int(rest.argmax())
        if not float(rest[pivot]) > floor:
            return factor[:, :k].clone()
        column = similarity[:, pivot] - factor[:, :k] @ factor[pivot, :k]
        factor[:, k] = column.clamp_(min=0) / rest[pivot].sqrt()
        rest.sub_(factor[:, k].square())
    return factor


def descended(problem: LargeDictionary, state: FactorState, tol: float, *, is_last: bool) -> FactorState:
    """After one round: of the descent before the splitting, or of that from its Q."""
    few, many = problem.n_points <= SMALL, are_many(problem)
    descent = Factorized()
    if is_last and (few or many):
        descent = Factorized(_LONG if few else _SHORT)
    if not few and tol >= _COARSE and _is_ordinary(problem, state.data):
        descent = replace(descent, precision=torch.float32)
    if many:
        descent = replace(descent, memory=_PAIRS)
    # Among a thousand atoms the search for one more gains less than the iterations that its time is worth.
    return descent.descended(problem, state) if many else descent.step(problem, state)


def _is_ordinary(problem: LargeDictionary, data: torch.Tensor) -> bool:
    """Whether float32 has room for the descent: less than 1e-38 is zero there, and more than 3e38 infinite."""
    largest = max(float(data.abs().max()), problem.lam, problem.atom_cost)
    return largest <= _ORDINARY and problem.lam >= 1 / _ORDINARY


def is_settled(problem: LargeDictionary, value: float, before: float, tol: float, *, is_last: bool) -> bool:
    """Whether a round gained too little for another one."""
    share = _SHARE if problem.n_points <= SMALL or are_many(problem) else 1.0
    return value >= before * (1 - (max(_LEAST, share * tol) if is_last else _BEGUN))


def most_rounds(problem: LargeDictionary, columns: int, steps: int | None) -> int:
    """Of the first descent (no ``steps``), or of that from the Q of a splitting of so many steps.

    On many datapoints the latter may take a third of what the splitting took; from no columns there is no descent.
    """
    n, few = problem.n_points, problem.n_points <= SMALL
    if steps is None or not are_many(problem):
        rounds = _DESCENTS if steps is None else _ROUNDS
        return rounds if few else rounds // 4
    return 0 if columns == 0 else int(_WORK * n**3 * steps / (_SHORT * columns**2 * (2 * n + columns / 3)))


def attained(problem: LargeDictionary, factors: FactorState) -> float:
    """(7) at ``Q = BBᵀ`` per datapoint, with the best dictionary and bias: what they attain in (L) is no more."""
    fit = fit_factor(problem, factors.factor, factors.data)
    mass = factors.factor.sum(dim=0)
    charge = mass.square().sum() + problem.atom_cost * factors.factor.square().sum()
    total = fit.residual.square().sum() + problem.lam * (fit.atoms.square().sum() + charge)
    return float(total) / (2 * problem.n_points)


FEWER_ROWS = "pass fewer rows, or solver='factorized' for a dictionary with a weaker bound"
"""What to do about too little memory where the solver can be chosen."""


def require_memory(problem: LargeDictionary, device: torch.device, *, remedy: str = FEWER_ROWS) -> None:
    """Refuse, before anything is computed, datapoints whose matrices the machine or the GPU cannot hold.

    ``remedy`` says what the caller's caller can do about it.

    Raises
    ------
    InputError
        With the memory that they would take.
    """
    has = torch.cuda.mem_get_info(device)[1] / 2**30 if device.type == "cuda" else memory_gib()
    order = problem.n_points + min(problem.n_points, problem.dim)
    needs = _SQUARES * 8 * order**2 / 2**30
    if has is not None and needs > has:
        where = "the GPU" if device.type == "cuda" else "this machine"
        raise InputError(
            f"X has {problem.n_points:,} rows, for which solver 'splitting' holds {_SQUARES} matrices of {order:,} x "
            f"{order:,} numbers, {needs:,.0f} GiB, and {where} has {has:,.0f}; {remedy}."
        )
