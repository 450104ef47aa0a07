"""Why a search for a population's dictionary can end with a polar above λ: one experiment for each suspicion.

Run from the repository root: ``python -m benchmarks.population_growth``; writes ``benchmarks/results``.
Wordllama's rows at τ̄ = 0.2 %, as in ``benchmarks.population_dictionary``; nothing depends on the clock.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.population_dictionary import LAM, wordllama_rows
from cvxsae.data.activations import Activations
from cvxsae.parallel.context import Run
from cvxsae.population import PopulationDictionary, solve_population
from cvxsae.population.large.directions import new_atoms
from cvxsae.population.large.rows import Facts, PricedDictionary, attained_on, pass_over
from cvxsae.population.large.steps import alive, between, improved
from cvxsae.relaxations.convex.penalty import AtomPenalty

RESULTS = Path(__file__).parent / "results"
PRICE, FEW, SAMPLE, STARTS, PASSES, SAMPLE_PASSES = 0.002, 4096, 2000, 256, 4, 40


def polars(X: np.ndarray, problem: PopulationDictionary) -> dict[str, float]:
    """Polar over λ of zero codes, on few rows and on all."""
    few = X[np.linspace(0, len(X) - 1, FEW).astype(int)]
    return {"few": new_atoms(few, problem, 0, STARTS).ratio, "all": new_atoms(X, problem, 0, STARTS).ratio}


def sizes(X: np.ndarray, problem: PopulationDictionary) -> dict[str, Any]:
    """What passes attain from the first atoms, at the sizes best for each alone and best together; and deaths."""
    facts, run = Facts.of(Activations(X), problem, len(X)), Run()
    nothing = PricedDictionary(np.zeros((0, X.shape[1])), X.mean(axis=0), np.zeros(0), np.zeros(0))
    found = new_atoms(X - X.mean(axis=0), problem, 0, STARTS, is_thorough=False).atoms
    V = torch.from_numpy((X - X.mean(axis=0)) @ found.dictionary.T)
    codes = AtomPenalty(problem.atom_cost(len(X))).polar_maximizer(V).numpy()
    theta, squares = problem.prices(codes.mean(axis=0), (codes**2).mean(axis=0)), (codes**2).mean(axis=0)
    size = ((V.numpy() * codes).mean(axis=0) - LAM * theta) / squares
    told: dict[str, Any] = {"n_atoms": found.n_atoms}
    for name, ridge in (("alone", PRICE / (size * theta)), ("together", found.ridge)):
        point, told[name] = nothing.with_atoms(replace(found, ridge=ridge)), []
        for _ in range(PASSES):
            here = pass_over(facts, point, problem, run)
            dead = int((~alive(here)).sum())
            told[name].append({"value": here.value, "l0": float(here.attained.active.sum()), "dead": dead})
            point = between(here.priced, improved(here, problem, facts), 1.0)
    return told


def by_heart(X: np.ndarray, problem: PopulationDictionary) -> dict[str, Any]:
    """A dictionary grown on a sample to its end: what it attains there and on all rows."""
    rows = np.sort(np.random.default_rng(0).choice(len(X), SAMPLE, replace=False))
    fit = solve_population(X[rows], problem, max_steps=SAMPLE_PASSES)
    elsewhere = attained_on(Activations(X), fit.priced, LAM, Run()).value(problem)
    return {"n_atoms": fit.n_atoms, "sample": fit.value, "all": elsewhere, "l0": fit.l0}


def main() -> None:
    """Run the three and write both files."""
    X, problem = wordllama_rows(), PopulationDictionary(LAM, PRICE)
    told = {"polars": polars(X, problem), "sizes": sizes(X, problem), "by_heart": by_heart(X, problem)}
    (RESULTS / "population_growth.json").write_text(json.dumps(told, indent=1) + "\n")
    p, s, h = told["polars"], told["sizes"], told["by_heart"]
    lines = [
        "# What keeps a polar above λ",
        "",
        "Made by `python -m benchmarks.population_growth`.",
        f"{len(X):,} rows of wordllama's, λ = {LAM}, τ̄ = {100 * PRICE:g} %.",
        "",
        f"Polar over λ of zero codes, searched on {FEW:,} rows: {p['few']:.2f}; on all: {p['all']:.2f}.",
        "",
        f"A dictionary grown on {SAMPLE:,} rows in {SAMPLE_PASSES} passes has {h['n_atoms']:,} atoms; "
        f"it attains {h['sample']:.4f} there and {h['all']:.4f} on all rows.",
        "",
        f"The first {s['n_atoms']} atoms, after each pass, at the sizes best for each alone and best together:",
        "",
        "| pass | value, alone | together | L0, alone | together | atoms no row uses, alone | together |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for k, (a, t) in enumerate(zip(s["alone"], s["together"], strict=True)):
        both = f"{a['value']:.5f} | {t['value']:.5f} | {a['l0']:.1f} | {t['l0']:.1f} | {a['dead']} | {t['dead']}"
        lines.append(f"| {k + 1} | {both} |")
    (RESULTS / "population_growth.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
