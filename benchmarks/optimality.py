"""Do the optimality conditions hold at a converged dictionary, and fail elsewhere? On wordllama embeddings.

python -m benchmarks.optimality [--points 4000] [--atoms 256] [--lam 0.08] [--sgd-steps 3000]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd

import cvxsae
from cvxsae import Activations
from cvxsae.data import center_and_scale, embedded
from cvxsae.diagnostics import second_order
from cvxsae.sae import train_sae


def row(X, dictionary, bias, lam):
    """One line of the table, and the seconds of the check in units of a cold exact encoding."""
    start = time.process_time()
    codes = cvxsae.encode(X, dictionary, lam, bias=bias, tol=1e-4)
    encoded = time.process_time()
    report = cvxsae.check_optimality(X, dictionary, lam, bias=bias, trained_bias=True, codes=codes)
    checked = time.process_time()
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
        "check / cold encode": f"{(checked - encoded) / (encoded - start):.1f}",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=4000)
    parser.add_argument("--atoms", type=int, default=256)
    parser.add_argument("--lam", type=float, default=0.08)
    parser.add_argument("--sgd-steps", type=int, default=3000)
    options = parser.parse_args()
    every = embedded("wordllama")
    X = center_and_scale(every).apply(Activations(every)).to_numpy()[: options.points].copy()
    lam, K = options.lam, options.atoms
    rng = np.random.default_rng(0)
    cvxsae.check_optimality(X[:200], X[:50], lam)  # compiles
    fit = cvxsae.learn_dictionary(X, K, lam, bias="free", stationarity=1e-6, seed=0)
    sae = train_sae(X, K, lam, steps=options.sgd_steps, seed=0)
    rows = {
        "converged": row(X, fit.dictionary, fit.bias, lam),
        f"SGD, {options.sgd_steps} steps": row(X, sae.W_dec, sae.b_dec, lam),
        "datapoints": row(X, X[rng.choice(len(X), K, replace=False)], X.mean(axis=0), lam),
    }
    print(f"{options.points} x {X.shape[1]}, {K} atoms, λ {lam}")
    table = pd.DataFrame(rows)
    print("| |", " | ".join(table.columns), "|")
    print("|---" * (1 + len(table.columns)) + "|")
    for name, values in table.iterrows():
        print("|", name, "|", " | ".join(values), "|", flush=True)
    spoiled = np.array(fit.dictionary)
    hits = 0
    for atom in rng.choice(K, 20, replace=False):
        turn = rng.normal(size=spoiled.shape[1])
        turn -= (turn @ fit.dictionary[atom]) * fit.dictionary[atom]
        spoiled[atom] += 0.3 * turn / np.linalg.norm(turn)
        report = cvxsae.check_optimality(
            X, spoiled, lam, bias=fit.bias, trained_bias=True, splits=False, new_atoms=0, pairs=1
        )
        hits += report.worst_features(1).index[0] == atom
        spoiled[atom] = fit.dictionary[atom]
    print(f"planted bad atoms (turned by 17°) ranked first: {hits} of 20")


if __name__ == "__main__":
    main()
