"""(m) Does splitting stop on real data? Live atoms against the number of rows, with atoms free and with a price.

    python examples/phenomena/stop_splitting_real.py [--out folder] [--results folder]

Data: token embeddings (wordllama, the first 8 principal components) and handwritten digits (64 pixels), both centered
and of root mean square length 1; the first N rows of a shuffle, no bias.

Predictions, written before the measurement:

*Atoms free.* The optimum has an atom for every direction of a row longer than λ (T9): proportional to N.

*Atoms pay τ̄, a share of the rows* (``PopulationDictionary``). For a live atom let s_k = (E z_k)²/E z_k² be its share of
the rows. At an optimum the mean of d_k·r over its rows, weighted with its codes, is λ√(1 + τ̄/s_k), so that

    s_k ≥ τ̄/(R²/λ² − 1)    and    K ≤ L0 (R²/λ² − 1)/τ̄,        R = max ‖r_n‖ ≤ max ‖x_n‖,

with no N in it: as rows are added the number of atoms ends. It need not be constant before: more rows have more
outliers (R) and a finer optimum (L0). What is claimed is the bound, and growth slower than √N over the sizes at hand,
where one atom a row would grow as N.

The identity is checked by itself, as the search is local and nothing certifies these widths; how far a dictionary is
from satisfying the optimality condition is printed (the largest polar found over λ; 1 at an optimum). For 200 rows the
value is compared with the certified bound of the doubly nonnegative relaxation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from reporting import COLORS, MARKERS, Claims, Results, parser, plain_ticks, save

from cvxsae import solve
from cvxsae.data import digits, wordllama
from cvxsae.population import PopulationDictionary, solve_population

PRICES = (0.1, 0.03)
ROUGH = 0.1
"""How far the identity may be off: the search ends at a relative decrease of 1e-3 a round."""


def shuffled(rows: np.ndarray) -> np.ndarray:
    """Rows in a random order, of root mean square length 1."""
    mixed = rows[np.random.default_rng(0).permutation(len(rows))]
    return mixed / np.sqrt(np.square(mixed).sum(axis=1).mean())


def embeddings() -> np.ndarray:
    """The first 8 principal components of wordllama's token embeddings, (32000, 8)."""
    rows = wordllama().astype(np.float64)
    rows -= rows.mean(axis=0)
    _, axes = np.linalg.eigh(rows.T @ rows)
    return shuffled(rows @ axes[:, -8:])


def images() -> np.ndarray:
    """Centered digits, (1797, 64)."""
    rows = digits()
    return shuffled(rows - rows.mean(axis=0))


def directions_beyond(X: np.ndarray, lam: float) -> int:
    """Atoms of the optimum where they are free: directions of the rows longer than λ."""
    norms = np.linalg.norm(X, axis=1)
    unit = X[norms > lam] / norms[norms > lam, None]
    return len(np.unique(unit.round(9), axis=0))


def measured(X: np.ndarray, lam: float, price: float) -> dict[str, float]:
    """A dictionary at one price, and what is predicted of it."""
    fit = solve_population(X, PopulationDictionary(lam, price, bias=None), tol=1e-3)
    codes = fit.encode(X)
    residuals = X - codes @ fit.dictionary
    along = np.asarray((codes.multiply(residuals @ fit.dictionary.T)).sum(axis=0)).ravel() / len(X)
    shares, mass = fit.shares, fit.mass
    longest = float(np.linalg.norm(residuals, axis=1).max())
    room = (longest / lam) ** 2 - 1
    return {
        "atoms": fit.n_atoms,
        "l0": fit.l0,
        "value": fit.value,
        "polar": fit.new_atom_ratio,
        "share": float(shares.min()),
        "least share": price / room,
        "bound": fit.l0 * room / price,
        "identity": float(np.abs(along / mass / (lam * np.sqrt(1 + price / shares)) - 1).max()),
    }


def certified(X: np.ndarray, lam: float, price: float) -> tuple[float, float]:
    """Value and certified bound of the problem on a few rows."""
    found = solve(PopulationDictionary(lam, price, bias=None).on(X), tol=1e-3)
    return found.value, found.lower_bound


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 if all claims hold."""
    options = parser(__doc__)
    options.add_argument("--small", action="store_true", help="digits only, few rows, one price")
    asked = options.parse_args(argv)
    claims, results = Claims(), Results()
    sets = [("digits", images(), 0.2, (100, 200) if asked.small else (450, 900, 1797))]
    if not asked.small:
        sets.append(("embeddings", embeddings(), 0.1, (500, 2000, 8000)))
    prices, few = (PRICES[:1], 60) if asked.small else (PRICES, 200)
    rows, curves, slopes, gaps, every = [], {}, [], [], []
    for name, X, lam, sizes in sets:
        free = [directions_beyond(X[:N], lam) for N in sizes]
        curves[name, 0.0] = (sizes, free)
        for N, width in zip(sizes, free, strict=True):
            rows.append([name, "0", N, width, *[""] * 5])
        grown = np.polyfit(np.log(sizes), np.log(free), 1)[0]
        claims.check(f"{name}, atoms free: directions grow as N to the {grown:.3f} ≥ 0.95", grown >= 0.95)
        for price in prices:
            found = [measured(X[:N], lam, price) for N in sizes]
            print(f"{name}, τ̄ = {price:g}: done", flush=True)
            every += found
            curves[name, price] = (sizes, [one["atoms"] for one in found])
            for N, one in zip(sizes, found, strict=True):
                shown = (one[key] for key in ("atoms", "l0", "share", "least share", "bound", "polar"))
                rows.append(
                    [name, f"{price:g}", N, *(value if value > 1000 else float(f"{value:.4g}") for value in shown)]
                )
            slopes.append([name, f"{price:g}", np.polyfit(np.log(sizes), np.log(curves[name, price][1]), 1)[0]])
            value, bound = certified(X[:few], lam, price)
            gaps.append([name, f"{price:g}", few, value, bound, (value - bound) / value])
    results.table("widths", ["data", "τ̄", "N", "atoms", "L0", "least share", "(c) share", "(c) atoms", "polar/λ"], rows)
    print("growth: atoms as a power of N")
    results.table("growth", ["data", "τ̄", "exponent"], slopes)
    results.table("certified", ["data", "τ̄", "N", "value", "certified bound", "relative gap"], gaps)
    off = max(one["identity"] for one in every)
    claims.check(f"the weighted mean of d_k·r is λ√(1 + τ̄/s_k), to {off:.1%} ≤ {ROUGH:.0%}", off <= ROUGH)
    bounded = all(one["share"] >= one["least share"] and one["atoms"] <= one["bound"] for one in every)
    claims.check("no atom has a smaller share than (c) says, and there are no more of them", bounded)
    fastest = max(float(slope[2]) for slope in slopes)
    claims.check(f"at a fixed τ̄ atoms grow slower than √N: at most as N to the {fastest:.3f} < 0.5", fastest < 0.5)
    worst = max(float(gap[5]) for gap in gaps)
    claims.check(f"on {few} rows values are within {worst:.1%} ≤ 2 % of a certified bound", worst <= 0.02)

    named = {name: {price: curves[name, price] for price in (0.0, *prices)} for name, *_ in sets}
    save(draw(named), asked.out, "stop_splitting_real")
    results.save(asked.results, "stop_splitting_real")
    return claims.exit_code


def draw(curves: dict[str, dict[float, tuple[Sequence[int], Sequence[int]]]]) -> Figure:
    """Atoms over rows, a panel a data set and a line a price."""
    figure = Figure(figsize=(4.2 * len(curves), 3.4), layout="constrained")
    for axes, (name, lines) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for (price, (sizes, atoms)), color, marker in zip(lines.items(), COLORS, MARKERS, strict=False):
            axes.plot(sizes, atoms, f"{marker}-", color=color, label=f"τ̄ = {price:g}")
        axes.set(xscale="log", yscale="log", xlabel="rows N", ylabel="atoms of the optimum found", title=name)
        plain_ticks(axes.xaxis, next(iter(lines.values()))[0])
        axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
