"""Do the optimality conditions hold at a converged dictionary, and fail elsewhere? On wordllama embeddings.

    python -m benchmarks.optimality [--points 4000] [--atoms 256] [--lam 0.08] [--sgd-steps 3000] [--quick]

Writes ``benchmarks/results/optimality.json``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

import cvxsae
from benchmarks.data import tokens
from benchmarks.harness import Clock, Table, parser, run, table
from cvxsae.diagnostics import second_order
from cvxsae.sae import train_sae


def row(X, dictionary, bias, lam):
    """One line of the table, and the CPU time of the check in units of a cold exact encoding."""
    clock = Clock()
    codes = cvxsae.encode(X, dictionary, lam, bias=bias, tol=1e-4)
    encoded = clock.stop().cpu
    clock.start()
    report = cvxsae.check_optimality(X, dictionary, lam, bias=bias, trained_bias=True, codes=codes)
    checked = clock.stop().cpu
    curved = second_order(X, dictionary, lam, bias=bias, trained_bias=True, codes=codes)
    least = curved.least
    return {
        "F(D, b)": f"{report.value:.6f}",
        "stationarity (T3)": f"{report.stationarity:.1e}",
        "bias (T3)": f"{report.bias_residual:.1e}",
        "identity, worst pair (T4)": f"{report.identity_deficit:.1e}",
        "least eigenvalue (T5)": f"{least.eigenvalue:.3g} ± {least.residual:.0e}",
        "best new atom (T7)": f"{report.new_atom_gains[0]:.2e}",
        "largest split score (T8)": f"{report.features['split_score'].max():.2e}",
        "shrinkage share (T2)": f"{report.residuals.shrinkage_share:.1%}",
        "linear R² of residual": f"{report.residuals.vector_r2:.3f}",
        "check / cold encode": f"{(checked - encoded) / encoded:.1f}",
    }


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Three dictionaries, and how many of twenty atoms that were turned by 17° are ranked first."""
    lam, K, X = given.lam, given.atoms, tokens()[: given.points].copy()
    rng = np.random.default_rng(0)
    cvxsae.check_optimality(X[:200], X[:50], lam)  # compiles
    fit = cvxsae.learn_dictionary(X, K, lam, bias="free", stationarity=1e-6, seed=0)
    sae = train_sae(X, K, lam, steps=given.sgd_steps, seed=0)
    rows = {
        "converged": row(X, fit.dictionary, fit.bias, lam),
        f"SGD, {given.sgd_steps} steps": row(X, sae.W_dec, sae.b_dec, lam),
        "datapoints": row(X, X[rng.choice(len(X), K, replace=False)], X.mean(axis=0), lam),
    }
    spoiled = np.array(fit.dictionary)
    hits, turned = 0, rng.choice(K, min(K, 20), replace=False)
    options: dict[str, Any] = {"bias": fit.bias, "trained_bias": True, "splits": False, "new_atoms": 0, "pairs": 1}
    for atom in turned:
        turn = rng.normal(size=spoiled.shape[1])
        turn -= (turn @ fit.dictionary[atom]) * fit.dictionary[atom]
        spoiled[atom] += 0.3 * turn / np.linalg.norm(turn)
        report = cvxsae.check_optimality(X, spoiled, lam, **options)
        hits += report.worst_features(1).index[0] == atom
        spoiled[atom] = fit.dictionary[atom]
    return {"rows": rows, "hits": int(hits), "turned": len(turned)}


def tables(cells: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Table]:
    """Conditions by dictionary."""
    (cell,) = cells.values()
    names = list(cell["rows"])
    rows = [[key, *(cell["rows"][name][key] for name in names)] for key in cell["rows"][names[0]]]
    note = f"Planted bad atoms (turned by 17°) ranked first: {cell['hits']} of {cell['turned']}."
    return {"conditions": table(["condition", *names], rows, note)}


def main(arguments: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--points", type=int, default=4000)
    options.add_argument("--atoms", type=int, default=256)
    options.add_argument("--lam", type=float, default=0.08)
    options.add_argument("--sgd-steps", type=int, default=3000)
    given = options.parse_args(arguments)
    if given.quick:
        given.points, given.atoms, given.sgd_steps = 200, 4, 20
    return run("optimality", {"conditions": partial(measure, given)}, tables, given)


if __name__ == "__main__":
    sys.exit(main())
