"""What does a cure of absorption take, and what does it cost? Exact phases of a parent and its child.

    python examples/phenomena/cures.py [--out folder]

Datapoints are v1 (the parent alone, probability 1 − p) and v1 + v2 (with its child, p), at an angle θ of 90° or 60°;
two atoms, λ = 0.1. Without a cure the optimum is {v1, w}, w = (v1 + v2)/‖v1 + v2‖ (C1). Three cures, each with a
strength: Matryoshka (β, a second loss on the first atom alone), an orthogonality term (γ cos²), a ridge on the codes
(elastic net). At every strength the global optimum is certified (T18, relative gap 1e-6), and its phase is read off the
codes, which is exact:

absorbed    each datapoint has an atom of its own
separate    one atom fires on both datapoints, the other only with the child: what the truth does
swapped     one atom fires on both, the other only on the parent alone: the sum is an atom, and so is what it has to be
            corrected by
other       both atoms fire everywhere, or coincide

``true`` is separate with both atoms within 2° of v1 and v2. A separate optimum may still be hedged (the parent leans)
or overshoot (the child lies beyond v2). Strengths are scanned in octaves from 0.003 to 3, and wherever neighbors differ
in phase (or lie on both sides of ``true``) the boundary is bisected to 1 %; a phase that begins and ends between two
neighbors is not seen.

Closed forms. c = cos(θ/2), so ‖v1 + v2‖ = 2c. At {v1, w} the residual of a datapoint is λ times its own atom, plus what
a ridge takes; the other atom starts to fire there when its correlation with the (reweighted) residual passes λ:

Matryoshka      p < 1/(1 + 4c²), the parent is the first atom and starts to fire with the child at ``β = λ(1−c)/(2c²)``;
                beyond, the first atom is w, and starts to fire on the parent alone at ``β = λ(1−c)/c``
elastic net     the parent's atom starts to fire with the child at a ridge of ``λ(1−c)/(2c²−λ)``
orthogonality   no formula for the end of the absorbed phase, since angles move first; given beside it is the γ at
                which the true dictionary costs what {v1, w} costs: at 90° ``γ = 2pΔ``, ``Δ = (2 − √2)λ − λ²/2``. At
                90° the child is within ε of v2 once ``γ = p c′(90° − ε)/sin 2ε``, c′ its pull towards the parent,
                ``c′(φ) = λ/(2 cos²(φ/2)) − λ² sin φ/(1 + cos φ)²``, with the parent at v1. With atoms that have to be
                orthogonal (γ → ∞) the truth gives way to the swapped pair ``{w, (v1 − v2)/√2}`` at ``p = a/(a + Δ)``,
                ``a = (√2 − 1)λ − λ²/2``: √2 − 1 as λ → 0

Predictions (written down before anything was bisected): the formulas for where a phase ends or the truth begins are
what bisection finds, to 2 %; the elastic net has no separate phase at 90° that is true, at any strength; at 60° the
orthogonality term passes through ``true`` only on a band of strengths, and overshoots beyond it. One failed: where the
truth begins at 90° is later than predicted, by up to 7 %, since the parent leans away from the child. To first order it
does so by ``pλ/((1−p)(1−λ) − 2pλ)`` times the angle that the two atoms are short of 90°, and γ is larger by as much.

Costs at the far side of a boundary, in units of the absorbed optimum: the error of the reconstruction (with the cure's
own codes) and F under L1 of its dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure
from reporting import COLORS, MARKERS, Claims, Results, parser, plain_ticks, save

from cvxsae import certify, solve_globally
from cvxsae.penalties import L1, ElasticNet, Matryoshka, Orthogonality
from cvxsae.solvers.global_search.penalties import cost_of

LAM = 0.1
NEAR = 2.0
"""Degrees within which an atom is where it should be."""

FIRES = 1e-5
"""A code above this is one: optima are known to 1e-6 in F, and codes to the root of that times λ at worst."""

ANGLES = (90.0, 60.0)
TOGETHER = (0.1, 0.2, 0.35, 0.45)
STRENGTHS = tuple(float(s) for s in 0.003 * 2 ** np.linspace(0, 10, 11))
RATIO = 1.02
"""Strengths this close are not bisected further: a boundary between them is known to 1 %."""

AGREES = 0.02
"""Relative difference of a bisected boundary and its closed form."""

STRICT = 20.0
"""A γ at which atoms are as good as orthogonal; the boundary in p is off by less than 1/γ times λ²."""

CURES: dict[str, Callable[[float], object]] = {
    "Matryoshka, β": Matryoshka,
    "orthogonality, γ": Orthogonality,
    "elastic net, ridge": lambda ridge: ElasticNet(ridge / LAM),  # the class multiplies its ridge by λ
}


@dataclass(frozen=True)
class Pair:
    """A parent and its child."""

    degrees: float
    together: float

    @property
    def truth(self) -> np.ndarray:
        """v1 and v2."""
        angle = np.deg2rad(self.degrees)
        return np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])

    @property
    def points(self) -> np.ndarray:
        """v1, and v1 + v2."""
        return np.array([self.truth[0], self.truth.sum(axis=0)])

    @property
    def weights(self) -> np.ndarray:
        """Their probabilities."""
        return np.array([1 - self.together, self.together])

    @property
    def absorbed(self) -> np.ndarray:
        """v1 and w."""
        return self.points / np.linalg.norm(self.points, axis=1, keepdims=True)

    def cost(self, penalty: object, dictionary: np.ndarray) -> float:
        """F of a dictionary under a penalty, with exact codes."""
        cost = cost_of(penalty, 2, LAM)
        value = float(self.weights @ cost.costs(self.points, dictionary)[0])
        return value + cost.coherence * float(dictionary[0] @ dictionary[1]) ** 2

    def __str__(self) -> str:
        return f"{self.degrees:g}°, p = {self.together:g}"


@dataclass(frozen=True)
class Cell:
    """A certified global optimum at one strength."""

    pair: Pair
    strength: float
    dictionary: np.ndarray
    codes: np.ndarray
    gap: float

    @cached_property
    def phase(self) -> str:
        """Read off the codes: datapoints are rows, the parent alone is the first."""
        fires = self.codes > FIRES
        count = fires.sum(axis=1)
        if count.tolist() == [1, 1] and (fires[0] != fires[1]).any():
            return "absorbed"
        if count.tolist() == [1, 2]:
            return "separate"
        if count.tolist() == [2, 1]:
            return "swapped"
        return "other"

    @cached_property
    def angles(self) -> tuple[float, float]:
        """Of the atom that fires on both datapoints (or on the parent alone, if none does), and of the other."""
        angles = np.rad2deg(np.arctan2(self.dictionary[:, 1], self.dictionary[:, 0]))
        first = int(np.argmax((self.codes > FIRES).sum(axis=0) + 0.5 * (self.codes[0] > FIRES)))
        return float(angles[first]), float(angles[1 - first])

    @cached_property
    def zone(self) -> str:
        """The phase, and for a separate one on which side of the truth the child is, or that it is true."""
        if self.phase != "separate":
            return self.phase
        parent, child = self.angles
        if max(abs(parent), abs(child - self.pair.degrees)) <= NEAR:
            return "true"
        return "separate" if child < self.pair.degrees else "separate, beyond"

    @property
    def error(self) -> float:
        """Mean squared error of the reconstruction."""
        return float(self.pair.weights @ ((self.pair.points - self.codes @ self.dictionary) ** 2).sum(axis=1))


def solve(pair: Pair, make: Callable[[float], object], strength: float) -> Cell:
    """The global optimum."""
    found = solve_globally(pair.points, 2, LAM, penalty=make(strength), weights=pair.weights)
    return Cell(pair, strength, found.dictionary, found.codes, found.gap)


def zones(pair: Pair, make: Callable[[float], object], strengths: Sequence[float]) -> list[Cell]:
    """Cells along the strengths, with every change of zone between neighbors bisected to 1 %."""

    def between(low: Cell, high: Cell) -> list[Cell]:
        if low.zone == high.zone or high.strength <= low.strength * RATIO:
            return []
        middle = solve(pair, make, float(np.sqrt(low.strength * high.strength)))
        return [*between(low, middle), middle, *between(middle, high)]

    grid = [solve(pair, make, strength) for strength in strengths]
    cells = [grid[0]]
    for low, high in pairwise(grid):
        cells += [*between(low, high), high]
    return cells


def first_out_of(phase: str, cells: Sequence[Cell]) -> tuple[float, Cell] | None:
    """Where a phase that the cells begin with ends: the boundary, and the cell beyond."""
    for low, high in pairwise(cells):
        if low.phase == phase != high.phase:
            return float(np.sqrt(low.strength * high.strength)), high
    return None


def end_of_absorbed(name: str, pair: Pair) -> float:
    """The closed forms, where there is one: the strength at which the absorbed phase ends."""
    c, p = np.cos(np.deg2rad(pair.degrees / 2)), pair.together
    if name.startswith("Matryoshka"):
        return float(LAM * (1 - c) / (2 * c**2) if p < 1 / (1 + 4 * c**2) else LAM * (1 - c) / c)
    if name.startswith("elastic"):
        return float(LAM * (1 - c) / (2 * c**2 - LAM))
    return np.nan


def truth_pays(pair: Pair) -> float:
    """The γ at which the true dictionary costs what {v1, w} costs: their difference without it, over that of cos²."""
    price = pair.cost(L1(), pair.truth) - pair.cost(L1(), pair.absorbed)
    cosines = [float(atoms[0] @ atoms[1]) for atoms in (pair.absorbed, pair.truth)]
    return price / (cosines[0] ** 2 - cosines[1] ** 2)


def child_within(pair: Pair, degrees: float, *, leaning: bool) -> float:
    """The γ at which the child is that near 90°: with the parent held at v1, or leaning away to first order."""
    phi, p = np.deg2rad(90 - degrees), pair.together
    pull = LAM / (2 * np.cos(phi / 2) ** 2) - LAM**2 * np.sin(phi) / (1 + np.cos(phi)) ** 2
    lean = p * LAM / ((1 - p) * (1 - LAM) - 2 * p * LAM) if leaning else 0.0
    return float(p * pull / np.sin(2 * phi) * (1 + lean))


def forced_swap() -> float:
    """The p at which orthogonal atoms swap, at 90°."""
    alone, joined = (np.sqrt(2) - 1) * LAM - LAM**2 / 2, (2 - np.sqrt(2)) * LAM - LAM**2 / 2
    return float(alone / (alone + joined))


def swap_under(gamma: float, steps: int) -> tuple[float, float]:
    """The same by certified optima at a large γ, bisected; and the largest gap."""
    low, high, gaps = 0.3, 0.5, []
    for _ in range(steps):
        middle = (low + high) / 2
        cell = solve(Pair(90.0, middle), Orthogonality, gamma)
        gaps.append(cell.gap)
        low, high = (middle, high) if cell.phase == "separate" else (low, middle)
    return (low + high) / 2, max(gaps)


def shown_path(cells: Sequence[Cell]) -> str:
    """Zones in order, with the boundaries between them."""
    parts = [cells[0].zone]
    for low, high in pairwise(cells):
        if low.zone != high.zone:
            parts.append(f"[{np.sqrt(low.strength * high.strength):.4f}] {high.zone}")
    return " ".join(parts)


def quote(results: Results, costs: Sequence[Sequence[str]]) -> None:
    """What the truth costs, and an elastic net when absorption ends: least and most, in percent above absorption."""
    for name, cure, degrees, label, column in (
        ("price_90", "", "90°", "true, first", 7),
        ("price_60", "", "60°", "true, first", 7),
        ("error_90", "orthogonality", "90°", "true, first", 6),
        ("error_matryoshka", "Matryoshka", "60°", "true, first", 6),
        ("error_net", "elastic net", "90°", "end of absorbed", 6),
    ):
        rows = [row for row in costs if row[0].startswith(cure) and row[1].startswith(degrees) and row[2] == label]
        above = [100 * (float(row[column]) - 1) for row in rows]
        results.value(f"{name}_least", min(above), ".0f")
        results.value(f"{name}_most", max(above), ".0f")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 if all claims hold."""
    options = parser(__doc__)
    options.add_argument(
        "--small", action="store_true", help="90°, p = 0.2, a narrow range of Matryoshka strengths only"
    )
    given = options.parse_args(arguments)
    claims, results = Claims(), Results()
    angles, together, strengths = (
        (ANGLES[:1], (0.2,), (0.0287, 0.0301)) if given.small else (ANGLES, TOGETHER, STRENGTHS)
    )
    cures = dict(list(CURES.items())[:1]) if given.small else CURES
    found = {
        (name, degrees, p): zones(Pair(degrees, p), make, strengths)
        for name, make in cures.items()
        for degrees in angles
        for p in together
    }
    phases, ends, costs = [], [], []
    expected_ends = [(name, Pair(degrees, p), end_of_absorbed(name, Pair(degrees, p))) for name, degrees, p in found]
    for (name, degrees, p), cells in found.items():
        pair = Pair(degrees, p)
        phases.append((name, str(pair), shown_path(cells)))
        base_error = float(pair.weights @ ((LAM * np.ones(2)) ** 2))
        base = pair.cost(L1(), pair.absorbed)
        end = first_out_of("absorbed", cells)
        if end is not None:
            expected = end_of_absorbed(name, pair)
            ends.append((name, pair, end[0], expected))
        marks = [("end of absorbed", end[1])] if end is not None else []
        marks += [("true, first", cell) for cell in cells if cell.zone == "true"][:1]
        marks.append(("strongest", cells[-1]))
        for label, cell in marks:
            where = f"({cell.angles[0]:.1f}°, {cell.angles[1]:.1f}°)"
            price = pair.cost(L1(), cell.dictionary) / base
            costs.append(
                (
                    name,
                    str(pair),
                    label,
                    f"{cell.strength:.4f}",
                    cell.zone,
                    where,
                    f"{cell.error / base_error:.3f}",
                    f"{price:.4f}",
                )
            )
    results.table("phases", ["cure", "θ, p", "phases, with the strengths where they change"], phases)
    shown = [
        (
            n,
            str(pair),
            f"{at:.5f}",
            "none" if np.isnan(known) else f"{known:.5f}",
            f"{truth_pays(pair):.5f}" if n.startswith("ortho") else "",
        )
        for n, pair, at, known in ends
    ]
    results.table("ends", ["cure", "θ, p", "absorbed ends at", "closed form", "truth cheaper than {v1, w} at γ"], shown)
    results.table(
        "costs", ["cure", "θ, p", "where", "strength", "phase", "atoms", "error, relative", "F(L1), relative"], costs
    )
    if not given.small:
        quote(results, costs)
    errors = [abs(at / known - 1) for _, _, at, known in ends if not np.isnan(known)]
    results.value("formula_error", 100 * max(errors), ".1f")
    results.value("swap", forced_swap(), ".4f")
    worst = max(cell.gap for cells in found.values() for cell in cells)
    claims.check(
        f"all {sum(map(len, found.values()))} optima are certified, largest relative gap {worst:.1e} ≤ 1e-06",
        worst <= 1e-6,
    )
    for name in cures:
        known = {pair: at for n, pair, at in expected_ends if n == name and strengths[0] < at < strengths[-1]}
        if known:
            compare_ends(claims, name, known, {pair: at for n, pair, at, _ in ends if n == name})
    if not given.small:
        more(claims, found)
    save(draw(found, cures, angles), given.out, "cures")
    results.save(given.results, "cures")
    return claims.exit_code


def compare_ends(claims: Claims, name: str, known: dict[Pair, float], measured: dict[Pair, float]) -> None:
    """Claim that absorption ends where the closed form says; a boundary that was not found is infinitely far off."""
    off = {pair: measured.get(pair, np.inf) / at - 1 for pair, at in known.items()}
    worst = max(off, key=lambda pair: abs(off[pair]))
    claims.check(
        f"{name}: absorption ends where the closed form says in {len(off)} settings, "
        f"off by {off[worst]:+.1%} at most ({worst})",
        abs(off[worst]) <= AGREES,
    )


def more(claims: Claims, found: dict[tuple[str, float, float], list[Cell]]) -> None:
    """The other predictions."""
    off = {True: 0.0, False: 0.0}
    for p in TOGETHER:
        cells = found["orthogonality, γ", 90.0, p]
        for low, high in pairwise(cells):
            if low.zone != high.zone == "true":
                at = float(np.sqrt(low.strength * high.strength))
                for leaning in off:
                    off[leaning] = max(off[leaning], abs(at / child_within(Pair(90.0, p), NEAR, leaning=leaning) - 1))
    claims.check(
        f"orthogonality, 90°: the prediction for where the truth begins fails, it is off by up to {off[False]:.1%}; "
        f"with the parent leaning the formula is off by {off[True]:.1%} ≤ {AGREES:.0%}",
        off[False] > AGREES >= off[True] > 0,
    )
    flat = [cell for p in TOGETHER for cell in found["elastic net, ridge", 90.0, p]]
    claims.check("elastic net, 90°: true at no strength and no p", all(cell.zone != "true" for cell in flat))
    for p in TOGETHER[:3]:
        passed = list(dict.fromkeys(cell.zone for cell in found["orthogonality, γ", 60.0, p]))
        claims.check(
            f"orthogonality, 60°, p = {p:g}: true only on a band, beyond the truth after it",
            passed == ["absorbed", "separate", "true", "separate, beyond"],
        )
    name, degrees, p = next(iter(found))
    first = found[name, degrees, p][0].strength
    pair = Pair(degrees, p)
    again = solve_globally(pair.points, 2, LAM, penalty=CURES[name](first), weights=pair.weights)
    claims.check("the referee has no objections to the first cell", not certify(again).objections)
    at, gap = swap_under(STRICT, 10)
    claims.check(f"that boundary's optima are certified, {gap:.1e} ≤ 1e-06", gap <= 1e-6)
    claims.close(f"orthogonal atoms (γ = {STRICT:g}) swap at p", at, forced_swap(), 1e-3)


def draw(found: dict[tuple[str, float, float], list[Cell]], cures: dict, angles: Sequence[float]) -> Figure:
    """The angle of both atoms against the strength, the least and the largest p."""
    figure = Figure(figsize=(3.2 * len(cures) + 0.6, 3 * len(angles) + 0.3), layout="constrained")
    panels = figure.subplots(len(angles), len(cures), sharey=True, squeeze=False)
    for row, degrees in zip(panels, angles, strict=True):
        for ax, name in zip(row, cures, strict=True):
            chosen = [(p, cells) for (n, d, p), cells in found.items() if (n, d) == (name, degrees)]
            for at, (color, marker, (p, cells)) in enumerate(zip(COLORS, MARKERS, chosen, strict=False)):
                for which, style in ((0, "-"), (1, "--")):
                    ax.plot(
                        [cell.strength for cell in cells],
                        [cell.angles[which] for cell in cells],
                        style,
                        color=color,
                        marker=marker,
                        markersize=4,
                        markevery=(2 * at, 8),
                        label=f"p = {p:g}" if which == 0 else None,
                    )
            for at in (0, degrees):
                ax.axhline(at, color="gray", linewidth=0.6)
            ax.set(
                xscale="log", title=f"{name.split(',')[0]}, {degrees:g}°", xlabel=name.split(", ")[1], ylim=(-75, 120)
            )
            plain_ticks(ax.xaxis, (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3))
    panels[0, 0].legend(frameon=False, fontsize="small")
    panels[0, 0].set_ylabel("angle, degrees (dashed: the atom\nthat does not fire on both)")
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
