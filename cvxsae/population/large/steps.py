"""Steps that lower the population value: prices, atoms and bias from sums, and atoms merged and removed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from cvxsae.data.deadline import go_on
from cvxsae.parallel.threads import threads_for_cost
from cvxsae.population.large.rows import Pass, PricedDictionary

if TYPE_CHECKING:
    from jaxtyping import Float64

    from cvxsae.population.large.problem import PopulationDictionary
    from cvxsae.population.large.rows import Facts

SWEEPS = 3
"""Rounds over all atoms and the bias between two passes over the rows: more change little before codes do."""

LEAST_WEIGHT = 1e-6
"""Weights are kept above it: codes of free atoms could not be certified, and S/θ is never that small where it pays."""

LEAST_MASS = 1e-9
"""Mass of an atom, relative to all, below which it is gone except for rounding."""


def improved(step: Pass, problem: PopulationDictionary, facts: Facts) -> PricedDictionary:
    """Better prices, atoms and bias, from the sums over the codes: where the next pass goes.

    Atoms and bias are minimized exactly over, one after another, the codes being fixed. Weights go to the fixed point
    ``w = S/θ`` by one step of Newton's method for each atom, as if atoms were orthogonal: mass falls by
    ``λ P/(1 + λρ)`` with its weight, P the share of rows that use it. Ridges go to ``τ̄/θ``.
    """
    priced, attained = step.priced, step.attained
    with threads_for_cost(priced.n_atoms**2 * priced.dictionary.shape[1]):
        atoms, bias = _atoms_and_bias(step, problem, facts)
    theta = problem.prices(attained.mass, attained.squares)
    slope = problem.lam * attained.active / (1 + problem.lam * priced.ridge)
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = priced.weights + (attained.mass - theta * priced.weights) / (theta + slope)
        ridge = problem.atom_price / theta
    live = alive(step)
    weights = np.where(live, np.clip(moved, LEAST_WEIGHT, 1.0), 1.0)
    ridge = np.where(live, ridge, priced.ridge)
    return replace(priced, dictionary=atoms, bias=bias, weights=weights, ridge=ridge)


def _atoms_and_bias(step: Pass, problem: PopulationDictionary, facts: Facts) -> tuple[np.ndarray, np.ndarray]:
    priced, sums = step.priced, step.sums
    origin = torch.from_numpy(facts.origin).to(sums.device)
    D = torch.from_numpy(priced.dictionary).to(sums.device)
    offset = torch.from_numpy(priced.bias).to(sums.device) - origin
    for _ in range(SWEEPS):
        go_on()
        if len(D):
            D = sums.sweep(D, offset)
        if problem.bias_is_free:
            offset = offset + sums.mean_residual(D, offset)
    bias = (origin + offset).cpu().numpy() if problem.bias_is_free else priced.bias
    return D.cpu().numpy(), bias


def alive(step: Pass) -> np.ndarray:
    """Which atoms some row uses."""
    mass = step.attained.mass
    live: np.ndarray = mass > LEAST_MASS * mass.sum()
    return live


def between(here: PricedDictionary, there: PricedDictionary, share: float) -> PricedDictionary:
    """The point at this share of the way; beyond 1 it goes further."""
    atoms = here.dictionary + share * (there.dictionary - here.dictionary)
    norms = np.linalg.norm(atoms, axis=1, keepdims=True)
    kept = norms > np.sqrt(np.finfo(float).eps)  # opposite atoms may meet in zero
    atoms = np.where(kept, atoms / np.where(kept, norms, 1.0), here.dictionary)
    weights = here.weights + share * (there.weights - here.weights)
    ridge = here.ridge * (there.ridge / here.ridge) ** share
    bias = here.bias + share * (there.bias - here.bias)
    return replace(here, dictionary=atoms, bias=bias, weights=np.clip(weights, LEAST_WEIGHT, 1.0), ridge=ridge)


# ---------------------------------------------------------------------- fewer atoms


@dataclass(frozen=True)
class _Frame:
    """Means over rows for fixed codes: ``T = E[z_k r]``, products, masses and what each atom costs."""

    T: Float64[np.ndarray, "K d"]
    A: Float64[np.ndarray, "K K"]
    mass: Float64[np.ndarray, " K"]
    theta: Float64[np.ndarray, " K"]


def _frame(step: Pass, problem: PopulationDictionary, facts: Facts) -> _Frame:
    sums, n = step.sums, len(facts.X)
    offset = torch.from_numpy(step.priced.bias - facts.origin).to(sums.device)
    T = sums.targets(torch.from_numpy(step.priced.dictionary).to(sums.device), offset).cpu().numpy() / n
    A, mass = sums.products.cpu().numpy() / n, step.attained.mass
    return _Frame(T, A, mass, problem.prices(mass, A.diagonal()))


def shrunk(step: Pass, problem: PopulationDictionary, facts: Facts, slack: float = 0.0) -> PricedDictionary:
    """Without the atoms that no row uses or that cost more than they explain, and with pairs merged where that pays.

    ``slack`` is what a merged pair may cost, in the units of the value.

    Both are decided for the codes as they are, exactly: taking atom k away changes the value by
    ``E[z_k r]·d_k + ½ E z_k² − λθ_k``, and two atoms become one with codes ``s (z_i + z_j)``, s and the atom best.
    """
    priced = step.priced
    if not priced.n_atoms:
        return priced
    known = _frame(step, problem, facts)
    along = np.einsum("kd,kd->k", known.T, priced.dictionary)
    keep = alive(step) & (along + known.A.diagonal() / 2 - problem.lam * known.theta >= 0)
    D, weights, ridge = (np.array(a) for a in (priced.dictionary, priced.weights, priced.ridge))
    for i, j in _similar(priced.dictionary, keep):
        if not (keep[i] and keep[j]):
            continue
        merged = _merged(priced.dictionary, known, (i, j), problem, slack)
        if merged is not None:
            D[i], weights[i], ridge[i] = merged
            keep[j] = False
    return replace(priced, dictionary=D, weights=weights, ridge=ridge).only(keep)


def _similar(D: Float64[np.ndarray, "K d"], keep: np.ndarray) -> list[tuple[int, int]]:
    """Each atom kept with the one nearest to it, nearest pairs first, no atom twice."""
    cosines = np.where(np.outer(keep, keep), D @ D.T, -1.0)
    np.fill_diagonal(cosines, -1.0)
    nearest, closeness = cosines.argmax(axis=1), cosines.max(axis=1)
    used, pairs = set[int](), list[tuple[int, int]]()
    for i in np.argsort(-closeness):
        j = int(nearest[i])
        if closeness[i] > 0 and int(i) not in used and j not in used:
            used |= {int(i), j}
            pairs.append((int(i), j))
    return pairs


def _merged(
    D: Float64[np.ndarray, "K d"], known: _Frame, pair: tuple[int, int], problem: PopulationDictionary, slack: float
) -> tuple[np.ndarray, float, float] | None:
    """Atom, weight and ridge of two atoms' sum, if it is worth more than the two, or less by at most ``slack``."""
    i, j = pair
    T, A, theta, lam = known.T, known.A, known.theta, problem.lam
    a, c = A[i, j], float(D[i] @ D[j])
    target = T[i] + T[j] + (A[i, i] + a) * D[i] + (A[j, j] + a) * D[j]  # E[(z_i + z_j)(r + z_i d_i + z_j d_j)]
    length, square, mass = float(np.linalg.norm(target)), A[i, i] + A[j, j] + 2 * a, known.mass[i] + known.mass[j]
    price = float(problem.prices(np.array([mass]), np.array([square]))[0])
    if not length > lam * price:
        return None
    gained = (length - lam * price) ** 2 / (2 * square)
    explained = float(T[i] @ D[i] + A[i, i] + a * c + T[j] @ D[j] + A[j, j] + a * c)
    before = explained - (A[i, i] + A[j, j] + 2 * a * c) / 2 - lam * (theta[i] + theta[j])
    if not gained > before - slack:
        return None
    scale = (length - lam * price) / square
    return target / length, mass / price, problem.atom_price / (scale * price)
