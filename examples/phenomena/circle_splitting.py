"""(e) Splitting of a circle feature: optimal dictionaries are regular M-gons, cost (M/π) tan(π/M) as λ → 0.

    python examples/phenomena/circle_splitting.py [--points 840] [--trained 4 8 24] [--out folder] [--results folder]

Datapoints evenly on a circle in a plane of R^10, no bias, M atoms. As λ → 0 a datapoint costs λ times the gauge of the
atoms' polygon, and a gap of angle g between neighbors contributes ``tan(g/2)/π`` to the mean. That is convex in g, so
equal gaps are the global optimum (Jensen): the regular M-gon, ``F/λ → (M/π) tan(π/M)``. Neither feature nor width is
singled out by the data: M → M + 1 moves every atom. Refinement never ends (T7), and each atom has the same split score
(T8).

Dictionaries are learned from random starts at λ = 0.05 and followed down to λ = 1e-4.

``--trained`` trains SAEs of these widths, ReLU and L1, on the same points at λ = 0.01 (feature manifolds in SAEs: arXiv
2509.02565), and says how much more they cost than the regular polygon, and whether that is the encoder's part or the
dictionary's. Predicted before training: the encoder's part is positive, since codes at the polygon have a kink at every
atom, and a ReLU of a linear function has none where it is active. (At K = 4 that was wrong: the kinks vanish at gaps of
90°, where codes are positive parts of coordinates.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from reporting import COLORS, Claims, Results, parser, save

from cvxsae import check_optimality, encode, learn_dictionary
from cvxsae.data.synthetic import circle_feature
from cvxsae.sae import train_sae

LAMBDAS = (0.05, 0.01, 1e-3, 1e-4)

EVEN = 0.05
"""How equal split scores have to be; for many atoms, three spacings of the points over the gap, as corners lock."""

TRAINED_AT = 0.01
"""λ of the SAEs."""

STEPS = 2000
"""Of Adam; each has all points."""


def trained(claims: Claims, results: Results, X: np.ndarray, plane: np.ndarray, widths: Sequence[int]) -> None:
    """What ReLU + L1 SAEs cost, beside the regular polygon at the same λ."""
    rows = []
    for M in widths:
        turn = 2 * np.pi * np.arange(M) / M
        polygon = np.column_stack([np.cos(turn), np.sin(turn)]) @ plane
        known = encode(X, polygon, TRAINED_AT, tol=1e-10).value
        sae = train_sae(X, M, TRAINED_AT, bias=None, steps=STEPS, seed=0)
        atoms = np.asarray(sae.dictionary, dtype=np.float64)
        atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
        codes = sae.encode(X).toarray()
        value = float(np.square(X - codes @ atoms).sum() / 2 + TRAINED_AT * codes.sum()) / len(X)
        exact = encode(X, atoms, TRAINED_AT, tol=1e-10).value
        rows.append([M, *(v / TRAINED_AT for v in (value, known, value - exact, exact - known))])
    print(f"ReLU + L1 SAEs at λ = {TRAINED_AT:g}, {STEPS} steps; all in units of λ")
    results.table("trained", ["K", "SAE", "regular K-gon", "encoder's part", "dictionary's part"], rows)
    least = min((min(row[3:]) for row in rows), default=0.0)
    claims.check(
        f"the encoder's and the dictionary's part are never negative: least {least:.1e} ≥ −1e-06", least >= -1e-6
    )


def main(argv: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument(
        "--points", type=int, default=840, help="a multiple of 840 = lcm(3, …, 8): otherwise corners lock to points"
    )
    options.add_argument("--widths", type=int, nargs="+", default=[3, 4, 5, 6, 7, 8], help="M, rising")
    options.add_argument("--trained", type=int, nargs="*", default=[], help="widths of SAEs to train")
    asked = options.parse_args(argv)
    claims, results = Claims(), Results()
    data = circle_feature(asked.points, 10, seed=0, even=True)
    plane = data.dictionary[:2]
    rows, polygons, worst_gap, worst_cost, off, uneven = [], {}, 0.0, 0.0, 0.0, -1.0
    for M in asked.widths:
        fit = learn_dictionary(data.X, M, LAMBDAS[0], bias=None, stationarity=1e-5)
        for lam in LAMBDAS[1:]:
            fit = learn_dictionary(data.X, M, lam, bias=None, stationarity=1e-5, init=fit, moves=False)
        flat = fit.dictionary @ plane.T
        angles = np.sort(np.arctan2(flat[:, 1], flat[:, 0]))
        gaps = np.diff(np.append(angles, angles[0] + 2 * np.pi))
        known = M / np.pi * np.tan(np.pi / M)
        irregular = np.abs(gaps - 2 * np.pi / M).max()
        scores = check_optimality(
            data.X, fit.dictionary, fit.lam, codes=fit.encoding, code_tol=1e-9, new_atoms=0
        ).features["split_score"]
        worst_cost = max(worst_cost, abs(fit.value / fit.lam - known))
        worst_gap = max(worst_gap, float(irregular))
        off = max(off, float(1 - np.linalg.norm(flat, axis=1).min()))
        uneven = max(uneven, float(scores.max() / scores.min() - 1) - max(EVEN, 3 * M / asked.points))
        rows.append(
            (
                M,
                fit.value / fit.lam,
                known,
                fit.value / fit.lam - known,
                irregular,
                fit.worst_stationarity,
                scores.min() / fit.lam,
            )
        )
        polygons[M] = flat
    cost = np.array([row[1] for row in rows])
    claims.check(
        f"F/λ at λ = {LAMBDAS[-1]:g} is (M/π) tan(π/M): largest error {worst_cost:.1e} ≤ 1e-03, M = {asked.widths}",
        worst_cost <= 1e-3,
    )
    spacing = 2 * np.pi / asked.points
    claims.check(
        f"every dictionary is a regular polygon: gaps to {worst_gap:.1e} ≤ {spacing:.1e} radians, the points' spacing",
        worst_gap <= spacing,
    )
    claims.check(f"in the plane of the circle: 1 − length there {off:.1e} ≤ 1e-09", off <= 1e-9)
    claims.check(
        "F falls with every atom added, and the circle itself (F/λ = 1) is never reached",
        (np.diff(cost) < 0).all() and cost[-1] > 1,
    )
    claims.check(
        f"every atom would split: all scores positive, equal to 5 % or three spacings of the points ({uneven:+.1%})",
        min(row[6] for row in rows) > 0 and uneven <= 0,
    )
    results.value("cost_error", worst_cost, ".1e")
    results.value("gap_error", worst_gap, ".0e")
    print()
    results.table(
        "polygons", ["M", "F/λ", "(M/π) tan(π/M)", "difference", "gaps − 2π/M", "stationarity", "split score/λ"], rows
    )
    if asked.trained:
        trained(claims, results, data.X, plane, asked.trained)

    figure = Figure(figsize=(10, 3), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.6))
    turn = np.linspace(0, 2 * np.pi, 200)
    for axis, M in zip(
        axes[:3], (asked.widths[0], asked.widths[len(asked.widths) // 2], asked.widths[-1]), strict=True
    ):
        order = np.argsort(np.arctan2(polygons[M][:, 1], polygons[M][:, 0]))
        corners = polygons[M][np.append(order, order[0])]
        axis.plot(np.cos(turn), np.sin(turn), color="lightgray")
        axis.plot(*corners.T, "o-", color=COLORS[0], markersize=4)
        axis.set(aspect="equal", title=f"M = {M}", xticks=[], yticks=[])
    widths = np.linspace(2.6, asked.widths[-1] + 1, 400)
    axes[3].plot(widths, widths / np.pi * np.tan(np.pi / widths), color=COLORS[1], label="(M/π) tan(π/M)")
    axes[3].plot([row[0] for row in rows], cost, "o", color=COLORS[0], label=f"learned, λ = {LAMBDAS[-1]:g}")
    axes[3].set(xlabel="number of atoms M", ylabel="F/λ, mean per datapoint")
    axes[3].legend()
    save(figure, asked.out, "circle_splitting")
    results.save(asked.results, "circle_splitting")
    return claims.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
