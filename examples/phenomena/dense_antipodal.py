"""(d) A dense signed feature becomes an antipodal pair; the bias can stand in for one of the two.

    python examples/phenomena/dense_antipodal.py [--points 2000] [--out folder] [--results folder]

1. Case C8, in sums over the three datapoints x_n = s_n u, s = −1, 0, 1, λ = 0.1. Two atoms: {u, −u} with b = 0 costs
   0.19 and reaches the floor of every width. One atom costs 0.27: a free bias moves to ∓(1 − 2λ)u, next to one end, and
   the atom ±u points at the other. One atom and no bias costs 0.595. ``antipodal_gain`` knows the difference, 0.08,
   without solving.
2. A standard Gaussian along u: the pair costs about half as much as one atom with the best offset, at λ = 0.1σ.
3. The same Gaussian beside eight sparse features, with a free bias: the optimum of ten atoms, from every seed, has one
   pair of opposite atoms, both dense, that never fire together. The antipodal gain is large for that pair and about
   zero for each sparse feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from reporting import COLORS, Claims, Results, cosine_map, parser, plain_ticks, save
from scipy.special import ndtri

from cvxsae import Status, WideLimit, check_optimality, learn_dictionary, solve
from cvxsae.data.synthetic import dense_signed_feature
from cvxsae.diagnostics import antipodal_gain

LAM = 0.1


def three_points(claims: Claims, results: Results) -> None:
    """C8."""
    data = dense_signed_feature(3, 5, seed=0)
    u = data.dictionary[0]
    pair = learn_dictionary(data.X, 2, LAM, bias=None, stationarity=1e-8)
    free = learn_dictionary(data.X, 2, LAM, bias="free", stationarity=1e-8)
    single = learn_dictionary(data.X, 1, LAM, bias="free", stationarity=1e-8)
    fixed = learn_dictionary(data.X, 1, LAM, bias=None, stationarity=1e-8)
    rows = []
    for name, fit in (("2, b = 0", pair), ("2, b free", free), ("1, b free", single), ("1, b = 0", fixed)):
        rows.append(
            (name, 3 * fit.value, 3 * fit.lower_bound, float(fit.bias @ u), str(np.round(fit.dictionary @ u, 6)))
        )
    claims.close("C8: the pair, b = 0", 3 * pair.value, 0.19, 1e-9)
    claims.check("C8: it is global, at any width and with any bias", pair.status is free.status is Status.CERTIFIED)
    claims.close("C8: d_1·d_2", float(pair.dictionary[0] @ pair.dictionary[1]), -1, 1e-9)
    claims.close("C8: the best single atom, b free", 3 * single.value, 0.27, 1e-9)
    sign = float(np.sign(single.dictionary[0] @ u))
    claims.close("C8: its bias along its atom, −1 + 2λ", sign * float(single.bias @ u), -1 + 2 * LAM, 1e-6)
    claims.close("C8: nothing of the bias is off the line", float(np.linalg.norm(single.bias)), 1 - 2 * LAM, 1e-6)
    claims.close("C8: antipodal gain", 3 * antipodal_gain(np.array([-1.0, 0.0, 1.0]), LAM), 0.27 - 0.19, 1e-9)
    print()
    results.table("three_points", ["atoms", "3F", "3 floor", "b·u", "atoms·u"], rows)


def gaussian(claims: Claims, results: Results, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Cost of the pair over that of one atom, for a standard Gaussian, over λ."""
    # Quantiles instead of draws: the ratio is that of the distribution.
    values = ndtri((np.arange(points) + 0.5) / points)
    lambdas = np.array([0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
    pairs = np.array([solve(WideLimit(values[:, None], lam)).value for lam in lambdas])
    gains = np.array([antipodal_gain(values, lam) for lam in lambdas])
    ratios = pairs / (pairs + gains)
    claims.check(
        f"a Gaussian at λ = 0.1σ: the pair costs {ratios[2]:.3f} of one atom, about half", 0.4 < ratios[2] < 0.6
    )
    results.value("ratio", ratios[2], ".3f")
    return lambdas, ratios


def beside_sparse(claims: Claims, results: Results, points: int, seeds: int) -> np.ndarray:
    """A Gaussian along u and eight sparse features, ten atoms, free bias; the cosines of the optimum with the truth."""
    data = dense_signed_feature(points, 20, seed=0, levels=None, n_sparse=8)
    fits = [learn_dictionary(data.X, 10, LAM, bias="free", seed=seed, stationarity=1e-6) for seed in range(seeds)]
    best = min(fits, key=lambda fit: fit.value)
    spread = max(fit.value for fit in fits) / best.value - 1
    report = check_optimality(
        data.X, best.dictionary, LAM, bias=best.bias, trained_bias=True, codes=best.encoding, new_atoms=0, splits=False
    )
    pair = report.antipodes.iloc[0]
    cosines = best.dictionary @ data.dictionary.T
    matches = cosines.max(axis=0)
    sparse = data.codes[:, 2:]
    sparse_gain = max(antipodal_gain(column, LAM) for column in sparse.T)
    claims.check(
        f"{seeds} seeds end at one value (to {spread:.0e}), stationary to {best.worst_stationarity:.0e}",
        spread < 1e-9 and best.worst_stationarity <= 1e-6,
    )
    claims.check(
        f"one dense antipodal pair, cosine {pair['cosine']:.6f} ≤ −0.999",
        len(report.antipodes) == 1 and pair["cosine"] <= -0.999,
    )
    densities = pair["density"], pair["other_density"]
    claims.check(
        f"which never fires together ({pair['cofiring']:g}), densities {densities[0]:.3f} and {densities[1]:.3f}",
        pair["cofiring"] == 0 and min(densities) > 0.4,
    )
    claims.check(
        f"all ten atoms are the true directions: least cosine {matches.min():.4f} ≥ 0.99", matches.min() >= 0.99
    )
    claims.check(
        f"antipodal gain: {pair['gain']:.4f} of the pair, at most {sparse_gain:.4f} of a sparse feature",
        pair["gain"] > 0.05 and sparse_gain < 0.01,
    )
    claims.check(
        f"with the pair there, the bias is not needed: |b| {np.linalg.norm(best.bias):.3f} < λ",
        np.linalg.norm(best.bias) < LAM,
    )
    results.value("cosine", pair["cosine"], ".6f")
    results.value("density", min(densities), ".2f")
    results.value("other_density", max(densities), ".2f")
    results.value("gain", pair["gain"], ".3f")
    results.value("sparse_gain", abs(sparse_gain), ".4f")
    return cosines[cosines.argmax(axis=0)]


def main(argv: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--points", type=int, default=2000)
    options.add_argument("--seeds", type=int, default=3)
    asked = options.parse_args(argv)
    claims, results = Claims(), Results()
    three_points(claims, results)
    lambdas, ratios = gaussian(claims, results, asked.points)
    cosines = beside_sparse(claims, results, asked.points, asked.seeds)

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.semilogx(lambdas, ratios, "o-", color=COLORS[0])
    left.set(xlabel="λ/σ", ylabel="cost of ±u over cost of one atom", title="a Gaussian along u", ylim=(0, 1))
    plain_ticks(left.xaxis, lambdas)
    cosine_map(right, cosines)
    right.set(xlabel="true direction (u, −u, eight sparse)", ylabel="atom", title="the optimum of ten atoms")
    save(figure, asked.out, "dense_antipodal")
    results.save(asked.results, "dense_antipodal")
    return claims.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
