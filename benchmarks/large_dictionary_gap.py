"""Whose gap is it, the search's or the relaxation's? The large dictionary on wordllama.

    python -m benchmarks.large_dictionary_gap [--quick] [--only TEXT …]

Two answers. *Searches*: ten independent searches for a dictionary, from one atom a datapoint, from clusters of
directions and from random factors, each descended on until a round gains less than 1e-5. If the search were to blame,
some of them would end well below the others. *Cuts*: on few datapoints a first-order copositive proof raises the bound
above the doubly nonnegative relaxation's; the share of the gap that it closes is the relaxation's for certain.
wordllama centered, of unit mean-square norm, λ = 0.1, free bias. Writes
``benchmarks/results/large_dictionary_gap.json``; ``python docs/tables.py`` shows it in large_dictionary.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from benchmarks import harness
from benchmarks.large_dictionary import LAM, dataset
from cvxsae import LargeDictionary, solve
from cvxsae.solvers.convex.large.factorized import Factorized, FactorState
from cvxsae.solvers.convex.large.rounding import attained

POINTS, ATOM_COST = 500, 100.0
TOL, ROUNDS, SETTLED = 1e-3, 60, 1e-5
LLOYD_STEPS = 20


def clusters(problem: LargeDictionary, data: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """A column for every cluster of directions (spherical k-means), with the projections of its datapoints beyond λ."""
    generator = torch.Generator().manual_seed(seed)
    offsets = data - problem.starting_bias()
    unit = offsets / torch.linalg.vector_norm(offsets, dim=1, keepdim=True)
    centers = unit[torch.randperm(len(unit), generator=generator)[:count]]
    for _ in range(LLOYD_STEPS):
        nearest = (unit @ centers.T).argmax(dim=1)
        centers = torch.zeros_like(centers).index_add_(0, nearest, unit)
        centers = centers / torch.linalg.vector_norm(centers, dim=1, keepdim=True).clamp(min=torch.finfo().tiny)
    nearest = (unit @ centers.T).argmax(dim=1)
    factor = torch.zeros(len(unit), count, dtype=data.dtype)
    codes = ((offsets * centers[nearest]).sum(dim=1) - problem.lam).clamp(min=0)
    factor[torch.arange(len(unit)), nearest] = codes
    return balanced(problem, factor)


def random_factor(problem: LargeDictionary, count: int, seed: int) -> torch.Tensor:
    """Sparse random columns: every datapoint in about four of them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(problem.n_points, count, generator=generator, dtype=torch.float64)
    kept = torch.rand(problem.n_points, count, generator=generator) < 4 / count
    return balanced(problem, torch.where(kept, drawn, 0))


def balanced(problem: LargeDictionary, factor: torch.Tensor) -> torch.Tensor:
    """The factor whose columns are codes z over √θ(z), as at an optimum; columns of zeros dropped."""
    factor = factor[:, factor.sum(dim=0) > 0]
    theta = (factor.sum(dim=0).square() + problem.atom_cost * factor.square().sum(dim=0)).sqrt()
    return factor / theta.sqrt()


def descended(problem: LargeDictionary, state: FactorState, factor: torch.Tensor) -> tuple[float, int]:
    """The value that a search ends with, and its live atoms."""
    state, value = FactorState(factor, state.data), float("inf")
    for _ in range(ROUNDS):
        state = Factorized().step(problem, state)
        before, value = value, attained(problem, state)
        if value > before * (1 - SETTLED):
            break
    return value, state.factor.shape[1]


def search(name: str, start: Callable[[LargeDictionary, FactorState], torch.Tensor], n: int, tau: float) -> Any:
    """The value that one search ends with."""
    problem = LargeDictionary(dataset("wordllama", n), LAM, tau)
    state = Factorized().init(problem, torch.device("cpu"))
    (value, live), seconds = harness.timed(lambda: descended(problem, state, start(problem, state)))
    return {"search": name, "value": value, "live": live, "cpu": seconds.cpu}


def solved(n: int, tau: float) -> Any:
    """What ``solve`` finds, with its bound and the relaxation's value."""
    problem = LargeDictionary(dataset("wordllama", n), LAM, tau)
    found, seconds = harness.timed(lambda: solve(problem, tol=TOL, raise_on_failure=False))
    row = {"search": "solve", "value": found.value, "live": found.to_dict()["live_atoms"], "cpu": seconds.cpu}
    return row | {"lower_bound": found.lower_bound, "relaxed_value": found.relaxed_value}


def cut(n: int, dim: int, tau: float) -> Any:
    """The gap before and after copositive proofs."""
    problem = LargeDictionary(dataset("wordllama", n, dim), LAM, tau)
    plain = solve(problem, tol=1e-4, raise_on_failure=False)
    proved, seconds = harness.timed(lambda: solve(problem, tol=1e-4, solver="copositive", raise_on_failure=False))
    value = min(plain.value, proved.value)
    before, after = (1 - solution.lower_bound / value for solution in (plain, proved))
    return {"n": n, "d": dim, "tau": tau, "before": before, "after": after, "cpu": seconds.cpu}


def cells_of(n: int, tau: float, cuts: list[tuple[int, int, float]]) -> dict[str, Callable[[], Any]]:
    """Every search and every instance, by name."""
    cells: dict[str, Callable[[], Any]] = {"search: solve": partial(solved, n, tau)}
    starts: dict[str, Callable[[LargeDictionary, FactorState], torch.Tensor]] = {
        "one atom a datapoint": lambda problem, state: state.factor
    }
    for seed, count in enumerate((n // 5, n // 3, n // 2, (4 * n) // 5)):
        starts[f"{count} clusters"] = partial(_clusters, count=count, seed=seed)
    for seed, count in enumerate((n // 5, n // 3, n // 2, (4 * n) // 5, n)):
        starts[f"{count} random columns"] = partial(_random, count=count, seed=seed)
    for name, start in starts.items():
        cells[f"search: {name}"] = partial(search, name, start, n, tau)
    for instance in cuts:
        cells[f"cuts: N = {instance[0]}"] = partial(cut, *instance)
    return cells


def _clusters(problem: LargeDictionary, state: FactorState, *, count: int, seed: int) -> torch.Tensor:
    return clusters(problem, state.data, count, seed)


def _random(problem: LargeDictionary, state: FactorState, *, count: int, seed: int) -> torch.Tensor:
    return random_factor(problem, count, seed)


def tables(cells: harness.Cells, machine: Mapping[str, Any]) -> dict[str, harness.Table]:
    """Searches, best first, between the bound and the worst; instances with cuts."""
    made = {}
    searched = [cell for name, cell in cells.items() if name.startswith("search")]
    if "search: solve" in cells:
        known = cells["search: solve"]
        best = min(cell["value"] for cell in searched)
        rows: list[tuple[Any, ...]] = [
            (f"({name})", f"{known[key]:.6f}", f"{100 * (known[key] / best - 1):+.2f} %", None, None)
            for name, key in (("certified bound", "lower_bound"), ("value of the relaxation", "relaxed_value"))
        ]
        rows += [
            (
                one["search"],
                f"{one['value']:.6f}",
                f"{100 * (one['value'] / best - 1):+.2f} %",
                one["live"],
                f"{one['cpu']:.0f}",
            )
            for one in sorted(searched, key=lambda one: one["value"])
        ]
        made["searches"] = harness.table(["start of the search", "value", "from the best", "live atoms", "CPU s"], rows)
    made["cuts"] = harness.table(
        ["N", "d", "τ", "gap of the relaxation", "gap with proofs", "closed", "CPU s"],
        [
            (
                one["n"],
                one["d"],
                f"{one['tau']:g}",
                f"{one['before']:.5f}",
                f"{one['after']:.5f}",
                f"{1 - one['after'] / one['before']:.0%}",
                f"{one['cpu']:.0f}",
            )
            for name, one in cells.items()
            if name.startswith("cuts")
        ],
    )
    return made


def main() -> int:
    """Measure the cells asked for."""
    given = harness.parser(__doc__).parse_args()
    if given.quick:
        cells = cells_of(30, 6.0, [(12, 4, 3.0)])
    else:
        cells = cells_of(POINTS, ATOM_COST, [(30, 8, 6.0), (40, 10, 8.0), (60, 16, 12.0)])
    return harness.run("large_dictionary_gap", cells, tables, given)


if __name__ == "__main__":
    sys.exit(main())
