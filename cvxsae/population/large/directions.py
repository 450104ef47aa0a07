"""Directions in which the residual's polar exceeds λ (T13), and how much of each it is best to add at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cvxsae.data.deadline import go_on
from cvxsae.parallel.threads import threads_for_cost
from cvxsae.population.large.rows import PricedDictionary, coded_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float32, Float64

    from cvxsae.parallel.context import Run
    from cvxsae.population.large.problem import PopulationDictionary
    from cvxsae.population.large.rows import Facts

FEW_ROWS = 4096
"""Rows on which searches begin; they end on all rows."""

GLANCES = 2, 1
"""Steps on few rows and on all where the polar is far above λ: more lead to fewer directions, and passes move atoms."""

SCREENED = 3
"""Residuals glanced at for each search that goes on from the best of them, where the polar is near λ."""

ASCENTS = 6, 4
"""Most steps of such a search on few rows and on all."""

ROOT_STEPS = 5
"""Newton steps for a threshold, from the last one: any threshold gives a lower bound of the polar."""

FEWEST_STARTS = 128
"""Directions from which atoms are searched where nothing else is asked for."""

WATCHED = 64
"""Directions whose polar is evaluated on all rows where not all were searched."""

BLOCK_ENTRIES = 2**22
"""Products of rows and directions held at a time: 16 MB in single precision."""

APART = 0.9
"""Cosine above which two directions found are one: what is between them is seen in the next round."""

SETTLED = 1e-4
"""Relative increase of the polar in a step below which a search has ended."""

SWEEPS = 100
"""Rounds of exact minimization over one atom's size after another."""

ENOUGH = 0.95
"""Share of what a glance found to gain that is taken: the last 5 % are a third of the atoms."""

LEAST_SIZE = 1e-3
"""Share of the size that is best alone below which an atom is not added: others found explain its rows."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes
    ----------
    atoms
        Atoms that lower the value together, at the prices of the codes by which they do, none of them zero.
    ratio
        The largest polar over λ found: a lower bound of ``θ°(R)/λ`` on the rows searched.
    gain
        By how much the value falls, on the rows searched, if codes of the atoms there are stay as they are.
    directions
        Those of the largest polars found, (m, d), the largest first.
    """

    atoms: PricedDictionary
    ratio: float
    gain: float
    directions: Float64[np.ndarray, "m d"]


def new_atoms(
    residuals: Float64[np.ndarray, "n d"],
    problem: PopulationDictionary,
    seed: int,
    starts: int = FEWEST_STARTS,
    *,
    excess: float = 1e-3,
    is_thorough: bool = True,
) -> Found:
    """Search the directions u in which ``θ°(R u)`` exceeds λ by a share ``excess``, and add atoms along them at once.

    ``u ← normalize(E[r (r·u − a)_+])`` increases ``θ°(R u)`` (T13); it starts from residuals drawn by their lengths,
    and from the best of them goes on. An atom with codes ``s (r·u − a)_+`` lowers the value by
    ``s E[z r·u] − ½ s² E z² − λ s θ(z)``, which is positive for small s wherever the polar exceeds λ. Several atoms
    found together explain the same rows, so their sizes s are minimized over jointly: a nonnegative quadratic.
    A search that is not thorough ends after three steps: where the polar is far above λ many directions pay.
    """
    n, dim = residuals.shape
    lengths = np.linalg.norm(residuals, axis=1)
    nothing = PricedDictionary(np.zeros((0, dim)), np.zeros(dim), np.zeros(0), np.zeros(0))
    if not lengths.sum() > 0:
        return Found(nothing, 0.0, 0.0, np.zeros((0, dim)))
    with threads_for_cost(n * dim * starts):
        R = torch.from_numpy(residuals.astype(np.float32))
        U, polar = _searched(R, lengths, problem, np.random.default_rng(seed), starts, is_thorough)
        ratio = float(polar.max()) / problem.lam
        order = polar.argsort(descending=True)
        first = U[:, order[:WATCHED]].T.double().numpy()
        chosen = U[:, order[polar[order] > problem.lam * (1 + excess)]]
        chosen = chosen[:, torch.from_numpy(apart(chosen.T.numpy()))]
        if not chosen.shape[1]:
            return Found(nothing, ratio, 0.0, first)
        atoms, gain = _together(R, chosen, problem, 1.0 if is_thorough else ENOUGH)
    return Found(atoms, ratio, gain, first)


def _searched(
    R: Float32[torch.Tensor, "n d"],
    lengths: Float64[np.ndarray, " n"],
    problem: PopulationDictionary,
    rng: np.random.Generator,
    starts: int,
    is_thorough: bool,
) -> tuple[Float32[torch.Tensor, "d m"], Float32[torch.Tensor, " m"]]:
    """Directions and their polars."""
    n, some = len(R), int((lengths > 0).sum())
    wanted = SCREENED * starts if is_thorough else starts
    drawn = rng.choice(n, min(wanted, some), replace=False, p=lengths / lengths.sum())
    U = R[drawn].T / torch.from_numpy(lengths[drawn].astype(np.float32))
    few = R if n <= FEW_ROWS else R[torch.from_numpy(np.sort(rng.choice(n, FEW_ROWS, replace=False)))]
    U, polar = _ascended(few, U.contiguous(), problem.atom_price, GLANCES[0])
    if not is_thorough:
        return (U, polar) if few is R else _ascended(R, U, problem.atom_price, GLANCES[1])
    U = U[:, polar.argsort(descending=True)]
    U = U[:, torch.from_numpy(apart(U.T.numpy(), starts))]
    U, polar = _ascended(few, U, problem.atom_price, ASCENTS[0])
    return (U, polar) if few is R else _ascended(R, U, problem.atom_price, ASCENTS[1])


def _ascended(
    R: Float32[torch.Tensor, "n d"], U: Float32[torch.Tensor, "d m"], price: float, most: int
) -> tuple[Float32[torch.Tensor, "d m"], Float32[torch.Tensor, " m"]]:
    """Each direction after at most so many steps, and its polar."""
    step = max(1, BLOCK_ENTRIES // len(R))
    columns = range(0, U.shape[1], step)
    parts = [_ascended_block(R, U[:, first : first + step], price, most) for first in columns]
    return torch.cat([u for u, _ in parts], dim=1), torch.cat([p for _, p in parts])


def _ascended_block(R: torch.Tensor, U: torch.Tensor, price: float, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    tiny = torch.finfo(R.dtype).tiny
    threshold, best = torch.zeros(U.shape[1], dtype=R.dtype), torch.zeros(U.shape[1], dtype=R.dtype)
    for left in range(most, -1, -1):
        go_on()
        V = R @ U
        threshold = _threshold(V, price, threshold)
        codes = (V - threshold).clamp_(min=0)
        polar = (V * codes).mean(dim=0) / _theta(codes, price).clamp(min=tiny)
        if not left or bool((polar <= best * (1 + SETTLED)).all()):
            break
        best = torch.maximum(best, polar)
        towards = R.T @ codes
        norms = torch.linalg.vector_norm(towards, dim=0)
        U = torch.where(norms > 0, towards / norms.clamp(min=tiny), U)
    return U, polar


def _threshold(V: Float32[torch.Tensor, "n m"], price: float, near: torch.Tensor) -> Float32[torch.Tensor, " m"]:
    """The root of ``τ̄ a = E(v − a)_+`` of every column, by Newton's method: convex, so monotone after one step."""
    a = near
    for _ in range(ROOT_STEPS):
        above = a < V
        moved = torch.where(above, V, 0).sum(dim=0) / (above.sum(dim=0, dtype=V.dtype) + price * len(V))
        if bool(((moved - a).abs() <= SETTLED * moved).all()):
            return moved
        a = moved
    return a


def _theta(codes: torch.Tensor, price: float) -> torch.Tensor:
    """θ of every column."""
    return (codes.mean(dim=0).square() + price * codes.square().mean(dim=0)).sqrt()


def apart(directions: Float64[np.ndarray, "m d"] | Float32[np.ndarray, "m d"], most: int | None = None) -> np.ndarray:
    """Which are the first of each set of directions that are close to each other, and no more than ``most``."""
    kept = list[int]()
    close = directions @ directions.T >= APART
    covered = np.zeros(len(directions), dtype=bool)
    for k in range(len(directions)):
        if not covered[k]:
            kept.append(k)
            covered |= close[k]
            if len(kept) == most:
                break
    return np.array(kept, dtype=np.int64)


def _together(
    R: Float32[torch.Tensor, "n d"], U: Float32[torch.Tensor, "d m"], problem: PopulationDictionary, enough: float
) -> tuple[PricedDictionary, float]:
    """The atoms at the sizes that are best together, and what they gain: the most valuable, for this share of it."""
    n, dim = R.shape
    m = U.shape[1]
    mass, squares, linear = (torch.zeros(m, dtype=torch.float64) for _ in range(3))
    products = torch.zeros((m, m), dtype=torch.float64)
    threshold = torch.cat([_threshold(V, problem.atom_price, V.new_zeros(V.shape[1])) for V in _products(R, U)])
    step = max(1, BLOCK_ENTRIES // m)
    for first in range(0, n, step):
        go_on()
        V = R[first : first + step] @ U
        codes = (V - threshold).clamp_(min=0)
        products += codes.T @ codes
        linear += (V * codes).sum(dim=0)
        mass += codes.sum(dim=0)
    products, linear, mass, squares = products / n, linear / n, mass / n, products.diagonal() / n
    theta = problem.prices(mass.numpy(), squares.numpy())
    worth = linear.numpy() - problem.lam * theta
    curvature = (products * (U.T @ U)).numpy()
    size = _sizes(curvature, worth)
    keep = size > LEAST_SIZE * np.maximum(worth, 0) / squares.numpy()
    gain = float(size @ worth - size @ curvature @ size / 2)
    valuable = np.argsort(-size * worth)
    before = np.cumsum((size * worth)[valuable]) - (size * worth)[valuable]
    keep[valuable[before >= enough * (size @ worth)]] = False
    unit = U.T.double()
    unit = unit / torch.linalg.vector_norm(unit, dim=1, keepdim=True)
    with np.errstate(divide="ignore"):
        priced = PricedDictionary(
            unit.numpy(), np.zeros(dim), np.clip(mass.numpy() / theta, 0, 1), problem.atom_price / (size * theta)
        )
    return priced.only(keep), gain


def ratio_on_all_rows(
    facts: Facts,
    here: PricedDictionary,
    problem: PopulationDictionary,
    run: Run,
    U: Float64[np.ndarray, "m d"],
    probed: Float64[np.ndarray, "n d"],
) -> float:
    """``max_u ‖E[r z_u]‖/(λ θ(z_u))`` over all rows, ``z_u = (r·u − a)_+`` with a from the rows probed: one pass.

    Whatever the directions and thresholds are, it is a lower bound of ``θ°(R)/λ`` on all rows.
    """
    directions = torch.from_numpy(U.T.copy())
    products = torch.from_numpy(probed) @ directions
    thresholds = _threshold(products, problem.atom_price, products.new_zeros(len(U)))
    towards = torch.zeros_like(directions, dtype=torch.float64)
    mass, squares = towards.new_zeros(len(U)), towards.new_zeros(len(U))
    for _, _, residual in coded_blocks(facts.X, here, problem.lam, run):
        R = torch.from_numpy(residual)
        codes = (R @ directions - thresholds).clamp_(min=0)
        towards += R.T @ codes
        mass += codes.sum(dim=0)
        squares += codes.square().sum(dim=0)
    n = len(facts.X)
    lengths, theta = (
        torch.linalg.vector_norm(towards / n, dim=0).numpy(),
        problem.prices((mass / n).numpy(), (squares / n).numpy()),
    )
    return float(np.divide(lengths, theta, out=np.zeros_like(theta), where=theta > 0).max(initial=0.0)) / problem.lam


def _products(R: torch.Tensor, U: torch.Tensor) -> Iterator[torch.Tensor]:
    """``R U``, some columns at a time."""
    step = max(1, BLOCK_ENTRIES // len(R))
    for first in range(0, U.shape[1], step):
        yield R @ U[:, first : first + step]


def _sizes(curvature: Float64[np.ndarray, "m m"], worth: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
    """``argmin ½ sᵀ H s − s·w`` over s ≥ 0, by exact minimization over one after another."""
    size, slope = np.zeros_like(worth), worth.copy()
    diagonal = curvature.diagonal()
    for _ in range(SWEEPS):
        furthest = 0.0
        for k in range(len(size)):
            moved = max(0.0, size[k] + slope[k] / diagonal[k]) - size[k]
            if moved:
                size[k] += moved
                slope -= moved * curvature[k]
                furthest = max(furthest, abs(moved) * diagonal[k])
        if furthest <= SETTLED * float(worth.max()):
            break
    return size
