"""(a) A nested pair: a child feature that only fires with its parent absorbs it, at the global optimum.

    python examples/phenomena/nested_pair.py [--out folder] [--results folder]

1. Case C1. Datapoints are v1 (probability 1 − p) and v1 + v2 (p), v1 and v2 at an angle θ. The optimum of two atoms is
   not {v1, v2} but {v1, w}, w = (v1 + v2)/‖v1 + v2‖: it reaches the floor of every width (T9), so it is global, and its
   value is ``(1−p)(λ − λ²/2) + p(ρλ − λ²/2)``, ρ = ‖v1 + v2‖.
2. Case C4. Orthonormal f1, f2 and the atoms f1, (f2 + δf1)/√(1+δ²): as λ → 0 the cost is
   ``λ(p10 + p11[(1−δ) + √(1+δ²)])``, strictly decreasing in δ up to full absorption, δ = 1.
3. Partial absorption. Once the child also fires alone, with probability p01, the optimum at λ > 0 lies in between. Over
   p01 it goes through two regimes: first the parent stays silent under its child and δ falls a little below 1; then it
   fires there again, with a smaller code, and δ falls towards λ p11/p01. The optimum is compared with every dictionary
   on a grid, and the cosine of the two atoms with what the identity (2) of T4 says.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from reporting import COLORS, Claims, Results, parser, save

from cvxsae import Status, check_optimality, encode, learn_dictionary
from cvxsae.diagnostics import absorption_gap

F1, F2 = np.eye(2)
N = 1000
LAM = 0.1
P10, P11 = 0.4, 0.2
ALONE = (0, 5, 10, 20, 25, 26, 27, 30, 40, 60, 100, 200)
"""How many of the N datapoints are the child alone."""


def nested(claims: Claims, results: Results, settings: Sequence[tuple[float, float, float]]) -> None:
    """C1 at several angles, probabilities and λ."""
    rows, worst, exact, certified = [], 0.0, True, True
    for degrees, p, lam in settings:
        v2 = np.array([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))])
        joined = np.arange(N) < round(p * N)
        X = F1 + joined[:, None] * v2
        fit = learn_dictionary(X, 2, lam, bias=None, stationarity=1e-8)
        rho = float(np.linalg.norm(F1 + v2))
        known = (1 - p) * (lam - lam**2 / 2) + p * (rho * lam - lam**2 / 2)
        truth = encode(X, [F1, v2], lam, tol=1e-12).value
        cosines = fit.dictionary @ np.array([F1, (F1 + v2) / rho]).T
        parent = int(cosines[:, 0].argmax())
        gap = absorption_gap(fit.codes, parent, np.ones(N), joined)
        worst = max(worst, abs(fit.value - known))
        exact &= bool(cosines.max(axis=0).min() > 1 - 1e-9) and gap == 1
        certified &= fit.status is Status.CERTIFIED
        rows.append((degrees, p, lam, fit.value, known, truth, gap))
        if degrees == 90:
            separate = (1 - p) * (lam - lam**2 / 2) + p * (2 * lam - lam**2)
            claims.close(f"C1, θ = 90°, p = {p:g}, λ = {lam:g}: F", fit.value, known, 1e-10)
            claims.close("C1, θ = 90°: F of the true dictionary", truth, separate, 1e-10)
            results.value("absorbed", fit.value, ".8f")
            results.value("true", truth, ".4f")
            score = check_optimality(X, fit.dictionary, lam, new_atoms=0).absorbed["score"].iloc[0]
            claims.close("C1, θ = 90°: absorption score, which knows no labels", score, 1, 1e-6)
    claims.check(f"C1: F is the closed form everywhere, largest error {worst:.1e} ≤ 1e-10", worst <= 1e-10)
    claims.check("C1: every F reaches the floor of all widths, so it is global", certified)
    claims.check("C1: the atoms are v1 and w, and the absorption gap is 1, everywhere", exact)
    print()
    results.table("angles", ["θ", "p", "λ", "F", "closed form", "true dictionary", "absorption gap"], rows)


def delta_absorption(claims: Claims, results: Results, deltas: np.ndarray, lam: float = 1e-6) -> np.ndarray:
    """C4: F/λ along δ, by exact codes at a tiny λ, against the closed form."""
    X = np.repeat([F1, F1 + F2], [round(N * P10), round(N * P11)], axis=0)
    weight = len(X) / N  # the other datapoints are zero
    costs = np.array([weight * encode(X, [F1, F2 + delta * F1], lam, tol=1e-12).value / lam for delta in deltas])
    known = P10 + P11 * ((1 - deltas) + np.sqrt(1 + deltas**2))
    claims.check(
        f"C4: cost along δ, largest error {np.abs(costs - known).max():.1e} ≤ 1e-05",
        np.abs(costs - known).max() <= 1e-5,
    )
    claims.check("C4: the cost falls strictly from δ = 0 to 1", (np.diff(costs) < 0).all())
    print()
    results.table("descent", ["δ", "F/λ", "closed form"], zip(deltas[::5], costs[::5], known[::5], strict=True))
    results.value("descent_error", float(np.abs(costs - known).max()), ".0e")
    results.value("descent_from", costs[0], ".6g")
    results.value("descent_to", costs[-1], ".6g")
    return costs


def with_child_alone(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The datapoints, and where parent and child fire."""
    counts = [round(N * P10), count, round(N * P11)]
    kinds = np.repeat([[1, 0], [0, 1], [1, 1], [0, 0]], [*counts, N - sum(counts)], axis=0)
    return kinds.astype(np.float64), kinds[:, 0], kinds[:, 1]


def grid_of_dictionaries(count: int, steps: int) -> tuple[float, np.ndarray]:
    """The least F on a grid of two angles, and those angles in degrees; exact two-atom codes in closed form."""
    degrees = np.linspace(-45, 135, steps)
    atoms = np.column_stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))])
    cosines = atoms @ atoms.T
    sines = np.where(np.abs(cosines) < 1 - 1e-12, 1 - cosines**2, np.inf)
    total = np.zeros((steps, steps))
    for x, weight in ((F1, P10), (F2, count / N), (F1 + F2, P11)):
        over = atoms @ x - LAM
        alone = np.maximum(over, 0) ** 2
        first, second = (over[:, None] - cosines * over) / sines, (over - cosines * over[:, None]) / sines
        both = np.where((first > 0) & (second > 0), over[:, None] * first + over * second, 0)
        total += weight * (x @ x - np.maximum(both, np.maximum(alone[:, None], alone))) / 2
    best = np.unravel_index(total.argmin(), total.shape)
    return float(total.min()), np.sort(degrees[list(best)])


def partial_absorption(claims: Claims, results: Results, counts: Sequence[int], steps: int) -> np.ndarray:
    """The optimum over p01: value, least value on the grid, δ, its limit, P_child(parent), gap, both sides of (2)."""
    rows, deficits, apart = [], [], []
    for count in counts:
        X, parent, child = with_child_alone(count)
        fit = learn_dictionary(X, 2, LAM, bias=None, stationarity=1e-6)
        d1, d2 = np.argsort(fit.dictionary[:, 1])
        delta = fit.dictionary[d2, 0] / fit.dictionary[d2, 1]
        report = check_optimality(X, fit.dictionary, LAM, codes=fit.encoding, new_atoms=0, splits=False)
        pair = report.pairs[report.pairs["feature"] == d2].iloc[0]
        gap = absorption_gap(fit.codes, int(d1), parent, child)
        least, degrees = grid_of_dictionaries(count, steps)
        angles = np.sort(np.rad2deg(np.arctan2(fit.dictionary[:, 1], fit.dictionary[:, 0])))
        limit = LAM * P11 * N / count if count else np.inf
        rows.append(
            (count / N, fit.value, least, delta, limit, pair["cofiring"], gap, pair["cosine"], pair["expected"])
        )
        deficits.append(report.identity_deficit)
        apart.append(np.abs(angles - degrees).max())
    found = np.array(rows)
    share, gaps = found[:, 3], found[:, 6]
    excess = float((found[:, 1] - found[:, 2]).max())
    claims.check(
        f"no dictionary on the grid is cheaper at any p01: largest excess {excess:.1e} ≤ 1e-12", excess <= 1e-12
    )
    step = 180 / (steps - 1)
    claims.check(f"the grid's best is within two steps: {max(apart):.2f}° ≤ {2 * step:.2f}°", max(apart) <= 2 * step)
    claims.check(f"identity (2): largest deficit {max(deficits):.1e} ≤ 1e-04", max(deficits) <= 1e-4)
    claims.close("p01 = 0: the optimum is δ = 1", share[0], 1, 1e-6)
    claims.check("δ falls strictly as the child fires alone more often", (np.diff(share) < 0).all())
    silent = (gaps == 1) & (share < 1 - 1e-3)
    claims.check(
        "rare child alone: parent silent, δ < 1; frequent: parent fires too", silent.any() and (gaps == 0).any()
    )
    results.value("identity", max(deficits), ".0e")
    results.value("last_silent", found[gaps == 1, 0].max(), "g")
    results.value("first_firing", found[gaps == 0, 0].min(), "g")
    print()
    results.table(
        "partial",
        [
            "p01",
            "F",
            "least on grid",
            "δ",
            "λ p11/p01",
            "absorption gap",
            "P_child(parent)",
            "cos",
            "E_child[ρ_parent]",
        ],
        [
            [f"{p01:g}", f"{F:.6f}", f"{least:.6f}", *(f"{one:.3f}" for one in (delta, limit)), f"{gap:g}"]
            + [f"{one:.3f}" for one in (fires, cosine, expected)]
            for p01, F, least, delta, limit, fires, gap, cosine, expected in rows
        ],
    )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--small", action="store_true", help="fewer settings")
    asked = options.parse_args(argv)
    claims, results = Claims(), Results()
    settings = [(90.0, 0.5, 0.1), (60.0, 0.3, 0.05), (75.0, 0.1, 0.4), (30.0, 0.7, 0.2)]
    nested(claims, results, settings[:2] if asked.small else settings)
    deltas = np.linspace(0, 1, 11 if asked.small else 41)
    costs = delta_absorption(claims, results, deltas)
    found = partial_absorption(claims, results, ALONE[::3] if asked.small else ALONE, 181 if asked.small else 361)

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    known = P10 + P11 * ((1 - deltas) + np.sqrt(1 + deltas**2))
    left.plot(deltas, costs, "o", color=COLORS[0], markersize=4, label="exact codes, λ = 1e-6")
    left.plot(deltas, known, color=COLORS[1], label="C4, closed form")
    left.set(xlabel="δ, share of the parent in the child's atom", ylabel="F/λ", title="child never alone")
    left.legend()
    right.plot(found[:, 0], found[:, 3], "o-", color=COLORS[0], markersize=4, label="δ at the optimum")
    right.plot(found[:, 0], found[:, 6], "s--", color=COLORS[1], markersize=4, label="absorption gap")
    right.plot(found[1:, 0], found[1:, 4], ":", color=COLORS[2], label="λ p11/p01")
    right.set(xlabel="p01, probability of the child alone", ylabel="δ, absorption gap", title="child alone at times")
    right.set(ylim=(-0.05, 1.1), xticks=[0, 0.05, 0.1, 0.15, 0.2])
    right.legend()
    save(figure, asked.out, "nested_pair")
    results.save(asked.results, "nested_pair")
    return claims.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
