"""(c) The 20-feature tree: every one of nine children absorbs its parent at the converged optimum.

    python examples/phenomena/twenty_features.py [--points 4000] [--out folder] [--results folder]

Three parents (probability 0.15), each with three children that exclude each other (0.2 given the parent), and eight
features that fire independently (0.05): twenty orthonormal features in R^50, no bias, twenty atoms. The best of
several seeds and the descent from the true features end in the same dictionary: every parent's atom fires where the
parent is alone and nowhere else, every child's atom is (f_p + f_c)/√2 up to O(λ). The value of that dictionary is known
in closed form from the patterns that were drawn (C1), and its slope at λ → 0 is C4 at δ = 1, tree by tree.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from reporting import Claims, Results, cosine_map, parser, save
from trees import Tree

from cvxsae import encode, learn_dictionary
from cvxsae.data.hierarchies import TWENTY_FEATURES, hierarchy


def main(argv: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--points", type=int, default=4000)
    options.add_argument("--small", action="store_true", help="one λ, one seed")
    asked = options.parse_args(argv)
    claims, results = Claims(), Results()
    drawn = hierarchy(asked.points, 50, TWENTY_FEATURES, seed=0)
    tree = Tree(drawn.dictionary, drawn.codes, drawn.parents)
    X, truth = tree.points, tree.features
    rows, residuals, details, lambdas = [], [], [], (0.01,) if asked.small else (0.1, 0.01)
    for lam in lambdas:
        fits = [
            learn_dictionary(X, 20, lam, bias=None, seed=seed, stationarity=1e-6)
            for seed in range(1 if asked.small else 3)
        ]
        descent = learn_dictionary(X, 20, lam, bias=None, init=truth, moves=False, stationarity=1e-6)
        best = min([*fits, descent], key=lambda fit: fit.value)
        agree = sum(fit.value <= best.value * (1 + 1e-9) for fit in fits)
        true, absorbed = tree.values(lam)
        details = tree.absorption(best.dictionary, best.codes)
        share = max(abs(row[2] - 1) for row in details)
        residuals.append(best.worst_stationarity)
        results.value(f"delta_error_{lam:g}", share, ".1g")
        results.value(f"agree_{lam:g}", agree, "d")
        results.value(f"worst_seed_{lam:g}", max(fit.value for fit in fits), ".4f")
        lower = absorbed - best.value
        claims.close(f"λ = {lam:g}: F of the true dictionary", encode(X, truth, lam, tol=1e-12).value, true, 1e-11)
        claims.close(
            f"λ = {lam:g}: F of the absorbed one", encode(X, tree.absorbed, lam, tol=1e-12).value, absorbed, 1e-11
        )
        claims.check(
            f"λ = {lam:g}: descent from the truth ends at the best value, as do {agree} of {len(fits)} seeds",
            descent.value <= best.value * (1 + 1e-9) and agree > 0,
        )
        claims.check(f"λ = {lam:g}: stationary, {best.worst_stationarity:.0e} ≤ 1e-06", best.worst_stationarity <= 1e-6)
        claims.check(f"λ = {lam:g}: below the closed form by {lower:.1e}, at most λ²/20", 0 <= lower <= lam**2 / 20)
        gaps = [row[3] for row in details]
        claims.check(
            f"λ = {lam:g}: all {len(gaps)} absorption gaps are 1; |δ − 1| ≤ {share:.1e} ≤ λ/2",
            len(gaps) == 9 and min(gaps) == 1 and share <= lam / 2,
        )
        rows.append((lam, best.value, absorbed, true, best.value / lam))
    slope_true, slope = tree.small_lambda_slopes()
    claims.check(
        f"λ = {lam:g}: F/λ {best.value / lam:.5f} is C4's {slope:.5f} to λ", abs(best.value / lam - slope) <= lam
    )
    print(f"\nλ → 0: true dictionary F/λ = {slope_true:.6g}, absorbed {slope:.6g} (C4)\n")
    results.table("values", ["λ", "F", "absorbed, closed form", "truth, closed form", "F/λ"], rows)
    results.value("slope", slope, ".6f")
    results.value("stationarity", max(residuals), ".0e")
    print(f"λ = {lam:g}:")
    results.table("children", ["parent", "child", "δ", "absorption gap", "1 − cos"], details)

    figure = Figure(figsize=(9, 4), layout="constrained")
    order = (best.dictionary @ tree.absorbed.T).argmax(axis=0)
    left, right = figure.subplots(1, 2)
    cosine_map(left, best.dictionary[order] @ truth.T)
    for axes in (left, right):
        axes.set(xticks=range(0, len(truth), 5), yticks=range(0, len(truth), 5))
    left.set(xlabel="true feature", ylabel="atom", title=f"atoms of the optimum, λ = {lam:g}")
    firing = best.codes[:, order].toarray() > 0
    shares = (firing.T @ tree.active) / np.maximum(tree.active.sum(axis=0), 1)
    figure.colorbar(right.imshow(shares, cmap="Greys", vmin=0, vmax=1), ax=right, label="probability")
    right.set(xlabel="true feature that fires", ylabel="atom", title="P(atom fires | feature fires)")
    save(figure, asked.out, "twenty_features")
    results.save(asked.results, "twenty_features")
    return claims.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
