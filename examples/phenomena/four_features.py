"""(b) The four-feature hierarchy: absorption at the optimum, with the exact numbers of C1 and C4.

    python examples/phenomena/four_features.py [--out folder] [--results folder]

Four orthonormal features in R^50: f0 fires with probability 0.25, f1 on a fifth of that and only with f0, f2 and f3
with 0.05. The datapoints are the population itself: 8,000 rows, each pattern as often as its probability says. Four
atoms, no bias. Searches from datapoints (several seeds) and from the true features end in the same dictionary, which
has absorbed f0 into the atom of f1. The true dictionary is not even stationary: the identity (2) of T4 fails by
exactly 1 between f1 and f0.

The absorbed dictionary {f0, (f0+f1)/√2, f2, f3} has a closed value (C1). The optimum is lower by O(λ²): features
that fire independently lean towards each other a little (T4, consequence c). So as λ → 0, F/λ tends to C4 at
δ = 1, ``0.2 + 0.05√2 + 0.1``, and δ to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from matplotlib.figure import Figure
from reporting import Claims, Results, cosine_map, parser, save
from trees import Tree

from cvxsae import check_optimality, encode, learn_dictionary
from cvxsae.data.hierarchies import FOUR_FEATURES, hierarchy

POINTS = 8000


def population() -> Tree:
    """Every pattern of the hierarchy, as often among 8,000 datapoints as its probability says."""
    drawn = hierarchy(1, 50, FOUR_FEATURES, seed=0)
    parent, third, fourth = FOUR_FEATURES
    (child,) = parent.children
    patterns, counts = [], []
    for fires in product((0, 1), repeat=4):
        above, below, *rest = fires
        probability = parent.probability if above else 1 - parent.probability
        inherited = child.probability if above else 0.0
        probability *= inherited if below else 1 - inherited
        for feature, on in zip((third, fourth), rest, strict=True):
            probability *= feature.probability if on else 1 - feature.probability
        patterns.append(fires)
        counts.append(round(POINTS * probability))
    active = np.repeat(np.array(patterns, dtype=np.float64), counts, axis=0)
    return Tree(drawn.dictionary, active, drawn.parents)


def main(argv: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--small", action="store_true", help="one λ, one seed")
    asked = options.parse_args(argv)
    claims, results = Claims(), Results()
    tree = population()
    X, truth = tree.points, tree.features
    claims.check("8,000 datapoints are the population exactly", len(X) == POINTS)
    rows, drawn, residuals = [], {}, []
    for lam in (0.1,) if asked.small else (0.1, 0.01, 0.001):
        fits = [
            learn_dictionary(X, 4, lam, bias=None, seed=s, stationarity=1e-6) for s in range(1 if asked.small else 3)
        ]
        fits.append(learn_dictionary(X, 4, lam, bias=None, init=truth, moves=False, stationarity=1e-6))
        best = min(fits, key=lambda fit: fit.value)
        spread = max(fit.value for fit in fits) / best.value - 1
        true, absorbed = tree.values(lam)
        ((_, _, delta, gap, turned),) = tree.absorption(best.dictionary, best.codes)
        claims.close(f"λ = {lam:g}: F of the true dictionary", encode(X, truth, lam, tol=1e-12).value, true, 1e-12)
        claims.close(
            f"λ = {lam:g}: F of the absorbed one", encode(X, tree.absorbed, lam, tol=1e-12).value, absorbed, 1e-12
        )
        claims.check(
            f"λ = {lam:g}: {len(fits)} starts, the truth among them, end at one value (to {spread:.0e})", spread < 1e-9
        )
        claims.check(f"λ = {lam:g}: stationary, {best.worst_stationarity:.0e} ≤ 1e-06", best.worst_stationarity <= 1e-6)
        lower = absorbed - best.value
        residuals.append(best.worst_stationarity)
        claims.check(f"λ = {lam:g}: below the closed form by {lower:.1e}, at most λ²/100", 0 <= lower <= lam**2 / 100)
        claims.check(
            f"λ = {lam:g}: absorption gap {gap:g} = 1; |δ − 1| = {abs(delta - 1):.1e} ≤ λ/10",
            gap == 1 and abs(delta - 1) <= lam / 10,
        )
        rows.append((lam, best.value, absorbed, true, best.value / lam, delta, gap, turned))
        drawn[lam] = best.dictionary @ truth.T
    slope_true, slope = tree.small_lambda_slopes()
    claims.close("C4 at δ = 1, exactly", slope, 0.2 + 0.05 * np.sqrt(2) + 0.1, 1e-12)
    if not asked.small:
        claims.close("F/λ at the least λ, against C4", rows[-1][4], slope, 1e-3)
    lam = rows[0][0]
    report = check_optimality(X, truth, lam, new_atoms=0)
    worst = report.pairs.iloc[0]
    claims.check(
        f"at the truth (2) fails most for child {worst['feature']:.0f} and parent {worst['other']:.0f}",
        (worst["feature"], worst["other"]) == (1, 0),
    )
    claims.close("there cos − E_1[ρ_0]", worst["deficit"], -1, 1e-9)
    claims.close(
        "turning f1 towards f0 lowers F at the rate λ S_1/N", worst["mixing_rate"], lam * 0.05 * (1 - lam), 1e-9
    )
    print(f"\nλ → 0: true dictionary F/λ = {slope_true:.6g}, absorbed {slope:.6g} (C4)\n")
    headers = ["λ", "F", "absorbed, closed form", "truth, closed form", "F/λ", "δ", "absorption gap", "1 − cos"]
    results.table("values", headers, rows)
    results.value("slope", slope, ".6f")
    results.value("least_slope", rows[-1][4], ".6f")
    results.value("stationarity_low", min(residuals), ".0e")
    results.value("stationarity_high", max(residuals), ".0e")
    for row in rows:
        results.value(f"delta_{row[0]:g}", row[5], ".3f" if row[0] == 0.1 else ".4f" if row[0] == 0.01 else ".5f")

    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    order = (drawn[lam] @ (tree.absorbed @ truth.T).T).argmax(axis=0)
    for axis, (title, matrix) in zip(
        figure.subplots(1, 2), (("the truth", np.eye(4)), (f"the optimum, λ = {lam:g}", drawn[lam][order])), strict=True
    ):
        cosine_map(axis, matrix)
        axis.set(title=title, xlabel="feature", ylabel="atom", xticks=range(4), yticks=range(4))
        for row, column in np.ndindex(4, 4):
            value = matrix[row, column]
            color = "w" if value > 0.6 else "k"
            axis.text(column, row, f"{value:.3f}".replace("-0.000", "0.000"), ha="center", va="center", color=color)
    save(figure, asked.out, "four_features")
    results.save(asked.results, "four_features")
    return claims.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
