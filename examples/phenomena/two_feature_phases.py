"""(i) Two features that fire alone and together: when is the truth optimal, when a mixture? Certified phase diagram.

    python examples/phenomena/two_feature_phases.py [--out folder] [--results folder]

Datapoints are v1 and v2 (probability c each) and v1 + v2 (probability b), with an angle θ between v1 and v2. Every cell
is the global optimum of two atoms under L1, with a relative gap of at most 1e-6 (T18): how many degrees the two atoms
are from v1 and v2, the nearer first. 0 and 0 is the truth. As λ → 0 the truth is stable, since both features also fire
alone (T6). At a finite λ both atoms lean towards each other, the more the larger b/c is. Beyond a boundary the
symmetric optimum gives way to a pair of mirror images, in which one atom is exactly a feature and the other is near the
mixture (v1 + v2)/‖v1 + v2‖. The boundary is bisected for each θ and λ, where it lies below the largest b/c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from reporting import COLORS, MARKERS, Claims, Results, parser, save

from cvxsae import certify, solve_globally

RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
ANGLES = (45.0, 60.0, 90.0, 120.0)
PENALTIES = (0.02, 0.1, 0.3)
BISECTIONS = 6
"""Halvings of log b/c: the boundary is known to 1 %."""

MIXED = 0.5
"""Degrees by which one atom may be off its feature in a mixed optimum; in the symmetric one both are off alike."""


class Cell(NamedTuple):
    """A global optimum, by how far its atoms are from the features."""

    gap: float
    nearer: float
    farther: float
    n_minimizers: int

    @property
    def is_mixed(self) -> bool:
        """Whether the mirror image is another optimum: the atoms are not off alike."""
        return self.farther - self.nearer > MIXED

    def __str__(self) -> str:
        return f"{self.nearer:.1f}, {self.farther:.1f}{' mixed' if self.is_mixed else ''}"


def solve_cell(ratio: float, degrees: float, lam: float) -> Cell:
    """One cell of the diagram."""
    angle = np.deg2rad(degrees)
    v1, v2 = np.array([1.0, 0.0]), np.array([np.cos(angle), np.sin(angle)])
    found = solve_globally([v1, v2, v1 + v2], 2, lam, weights=[1, 1, ratio])
    angles = np.sort(np.rad2deg(np.arctan2(found.dictionary[:, 1], found.dictionary[:, 0])))
    off = np.sort(np.abs(angles - [0, degrees]))
    return Cell(found.gap, float(off[0]), float(off[1]), len(found.minimizers))


def boundary(degrees: float, lam: float, low: float, high: float, steps: int) -> float:
    """The b/c at which the optimum becomes mixed, between one that is not and one that is."""
    for _ in range(steps):
        middle = float(np.sqrt(low * high))
        if solve_cell(middle, degrees, lam).is_mixed:
            high = middle
        else:
            low = middle
    return float(np.sqrt(low * high))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 if all claims hold."""
    options = parser(__doc__)
    options.add_argument("--small", action="store_true", help="one λ, one angle, three ratios, no bisection")
    given = options.parse_args(arguments)
    ratios, angles, penalties = (RATIOS, ANGLES, PENALTIES)
    if given.small:
        ratios, angles, penalties = RATIOS[1:5:3] + RATIOS[-1:], (90.0,), (0.3,)
    cells = {(lam, one, r): solve_cell(r, one, lam) for lam in penalties for one in angles for r in ratios}
    edges = {}
    for lam in penalties:
        for one in angles:
            mixed = [r for r in ratios if cells[lam, one, r].is_mixed]
            if mixed and not given.small:
                at = ratios.index(mixed[0])
                edges[lam, one] = boundary(one, lam, ratios[at - 1], mixed[0], BISECTIONS)
    results = Results()
    for lam in penalties:
        rows = []
        for one in angles:
            edge = f"{edges[lam, one]:.2f}" if (lam, one) in edges else "none below 16"
            rows.append([f"{one:g}°", *(str(cells[lam, one, r]) for r in ratios), edge])
        print(f"λ = {lam:g}: degrees from v1 and v2")
        results.table(f"degrees_{lam:g}", ["θ", *(f"b/c = {r:g}" for r in ratios), "boundary"], rows)
    for lam in penalties:
        known = [edges[at] for at in edges if at[0] == lam]
        if known:
            results.value(f"lowest_boundary_{lam:g}", min(known), ".1f")
            results.value(f"highest_boundary_{lam:g}", max(known), ".1f")
    claims = Claims()
    worst = max(cell.gap for cell in cells.values())
    claims.check(f"every cell is certified, largest relative gap {worst:.1e} ≤ 1e-06", worst <= 1e-6)
    lines = [[cells[lam, one, r] for r in ratios] for lam in penalties for one in angles]
    leaning = all(np.all(np.diff([c.farther for c in line if not c.is_mixed]) > 0) for line in lines)
    claims.check("both atoms lean the more, the more often the features fire together", leaning)
    once = all(line == sorted(line, key=lambda c: c.is_mixed) for line in lines)
    claims.check("there is one boundary: no symmetric optimum lies beyond a mixed one", once)
    exact = max((c.nearer for line in lines for c in line if c.is_mixed), default=0.0)
    claims.check(f"a mixed optimum has one atom exactly at its feature, off by {exact:.1e}° ≤ 1e-02", exact <= 1e-2)
    mirrored = all(c.n_minimizers == 2 for line in lines for c in line if c.is_mixed)
    claims.check("a mixed optimum has its mirror image, and there is no third", mirrored)
    angle = np.deg2rad(angles[0])
    data = [[1.0, 0.0], [np.cos(angle), np.sin(angle)], [1 + np.cos(angle), np.sin(angle)]]
    objections = certify(solve_globally(data, 2, penalties[0])).objections
    claims.check("the referee has no objections to a cell looked into again", not objections)
    save(draw(cells, edges, (ratios, angles, penalties)), given.out, "two_feature_phases")
    results.save(given.results, "two_feature_phases")
    return claims.exit_code


def draw(cells: dict, edges: dict, axes_of: tuple[Sequence[float], ...]) -> Figure:
    """Degrees off the truth against b/c, a panel a λ; boundaries as vertical lines."""
    ratios, angles, penalties = axes_of
    figure = Figure(figsize=(3.4 * len(penalties), 3.6), layout="constrained")
    panels = figure.subplots(1, len(penalties), sharey=True, squeeze=False)[0]
    for ax, lam in zip(panels, penalties, strict=True):
        for color, marker, one in zip(COLORS, MARKERS, angles, strict=False):
            far = [cells[lam, one, r].farther for r in ratios]
            near = [cells[lam, one, r].nearer for r in ratios]
            ax.plot(ratios, far, f"{marker}-", color=color, label=f"θ = {one:g}°")
            ax.plot(ratios, near, f"{marker}:", color=color, fillstyle="none")
            if (lam, one) in edges:
                ax.axvline(edges[lam, one], color=color, linewidth=0.8)
        ax.set(xscale="log", xlabel="b/c: together over alone", title=f"λ = {lam:g}")
    panels[0].set_ylabel("degrees off the truth\n(solid: farther atom, dotted: nearer)")
    panels[0].legend(frameon=False, fontsize="small")
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
