"""(f) What is left over is structured: shrinkage, and how much of the error is linear in the data.

    python examples/phenomena/residual_structure.py [--points 3000] [--out folder] [--results folder]

32 features in 24 dimensions, each firing with probability 0.08, strengths in [1, 2], beside Gaussian noise of several
sizes; as many atoms as features, no bias, λ = 0.1, learned to a stationarity of 1e-4 with exact codes. No encoder is
involved: whatever structure the error has is that of the optimum.

- T2: ``‖r‖² = λ² 1ᵀG_A⁻¹1 + ‖(I − P_A)(x − b)‖²``. The first part, shrinkage, depends on nothing but which atoms are
  active. It is checked here against distances to the span of the active atoms (the codes' relative gap is 1e-12, and
  residuals are as exact as its root).
- At exact codes ``E‖x̂‖²/E[x·x̂] = 1/(1 + λ E[Σz]/E‖x̂‖²)`` (theory.md §6).
- Without noise nearly all of the error is shrinkage, and since active features show in x, most of the error vector is a
  linear function of x (held-out R²), and much of its norm. Noise hides both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from reporting import COLORS, MARKERS, Claims, Results, parser, save

from cvxsae import learn_dictionary
from cvxsae.data.synthetic import sparse_features
from cvxsae.diagnostics import FeatureStatistics, feature_statistics
from cvxsae.diagnostics.phenomena import residual_structure

LAM = 0.1


def pythagoras(X: np.ndarray, found: FeatureStatistics, count: int = 200) -> float:
    """Largest error of T2 over some datapoints, with distances to the span by least squares."""
    worst = 0.0
    codes, atoms = found.codes.codes, found.dictionary.numpy()
    for n in range(count):
        active = atoms[codes.indices[codes.indptr[n] : codes.indptr[n + 1]]]
        nearest = np.linalg.lstsq(active.T, X[n], rcond=None)[0] @ active if len(active) else 0
        across = float(((X[n] - nearest) ** 2).sum())
        worst = max(worst, abs(found.residual_norms[n] ** 2 - found.shrinkage[n] - across))
    return worst


def main(argv: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--points", type=int, default=3000)
    options.add_argument("--noises", type=float, nargs="+", default=[0.0, 0.02, 0.05, 0.1], help="0 first, rising")
    options.add_argument("--seeds", type=int, default=2, help="of which the best is looked at")
    asked = options.parse_args(argv)
    claims, results = Claims(), Results()
    rows, error, mismatch, stationarity = [], 0.0, 0.0, 0.0
    for noise in asked.noises:
        data = sparse_features(asked.points, 24, 32, seed=0, probability=0.08, noise=noise)
        fits = [
            learn_dictionary(data.X, 32, LAM, bias=None, seed=seed, stationarity=1e-4) for seed in range(asked.seeds)
        ]
        fit = min(fits, key=lambda found: found.value)
        found = feature_statistics(data.X, fit.dictionary, LAM, codes=fit.encoding)
        parts = residual_structure(found)
        error = max(error, pythagoras(data.X, found))
        mismatch = max(mismatch, abs(parts.shrinkage_ratio / parts.shrinkage_ratio_expected - 1))
        stationarity = max(stationarity, fit.worst_stationarity)
        rows.append(
            (
                noise,
                parts.fraction_unexplained,
                parts.shrinkage_share,
                parts.shrinkage_ratio,
                parts.vector_r2,
                parts.norm_r2,
                parts.effective_rank,
            )
        )
    numbers = np.array(rows)
    share, vector, norm = numbers[:, 2], numbers[:, 4], numbers[:, 5]
    claims.check(f"stationary: {stationarity:.0e} ≤ 1e-04", stationarity <= 1e-4)
    claims.check(f"T2: ‖r‖² is shrinkage plus distance to the span, to {error:.1e} ≤ 1e-06", error <= 1e-6)
    claims.check(f"shrinkage ratio is what exact codes obey, to {mismatch:.1e} ≤ 1e-08", mismatch <= 1e-8)
    claims.check(f"without noise {share[0]:.1%} of the error's energy is shrinkage, at least 85 %", share[0] >= 0.85)
    claims.check(
        f"and {vector[0]:.1%} of the vector, {norm[0]:.1%} of the norm is linear in x: at least 70 %, 40 %",
        vector[0] >= 0.7 and norm[0] >= 0.4,
    )
    claims.check(
        "shrinkage and both R² fall with every step of noise", (np.diff(numbers[:, [2, 4, 5]], axis=0) < 0).all()
    )
    print()
    headers = [
        "noise per coordinate",
        "unexplained",
        "shrinkage, share of ‖r‖² (T2)",
        "shrinkage ratio",
        "held-out R² of r from x",
        "held-out R² of ‖r‖ from x",
        "effective rank",
    ]
    results.table("shares", headers, [(f"{row[0]:g}", *(f"{one:.3f}" for one in row[1:])) for row in rows])
    results.value("shrinkage", 100 * share[0], ".0f")
    results.value("linear", 100 * vector[0], ".0f")

    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axis = figure.subplots()
    lines = ((2, "shrinkage, share of ‖r‖² (T2)"), (4, "R² of r from x"), (5, "R² of ‖r‖ from x"))
    for (column, label), color, marker in zip(lines, COLORS, MARKERS, strict=False):
        axis.plot(numbers[:, 0], numbers[:, column], f"{marker}-", color=color, label=label)
    axis.set(xlabel="noise per coordinate", ylabel="share, R²", ylim=(0, 1), title="the error at the optimum")
    axis.legend()
    save(figure, asked.out, "residual_structure")
    results.save(asked.results, "residual_structure")
    return claims.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
