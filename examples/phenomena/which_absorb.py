"""(h) Which successor absorbs? Certified global optima of a parent and its child under ten objectives.

    python examples/phenomena/which_absorb.py [--out folder] [--results folder]

Datapoints are v1 (the parent alone), v1 + v2 (parent and child) and, in some settings, v2 (the child alone), with an
angle θ between v1 and v2. Every cell is the global optimum of two atoms, found by branch and bound with a relative gap
of at most 1e-6 (T18), and says in words what became of the truth {v1, v2}:

true            both atoms within 2° of v1 and v2
absorbed        one atom is v1, the other (v1 + v2)/‖v1 + v2‖ (T16: optimal for signed L1, L0, Top-1, log and (Σz)²)
partly          one atom is v1, the other lies between these two; δ is its share of v1
hedged          the atom of the parent leans towards the child
swapped         one atom is near (v1 + v2)/‖v1 + v2‖, the other v1 less some of v2
overshoots      the atom of the child lies beyond v2

`error` is the mean squared error of the reconstruction over the mean square of the data, at that optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from reporting import COLORS, Claims, Results, parser, save

from cvxsae import certify, solve_globally
from cvxsae.penalties import (
    L0,
    L1,
    ElasticNet,
    Log,
    Matryoshka,
    Orthogonality,
    Signed,
    SquaredSum,
    TopOne,
    Tree,
    radial_bound,
)

LAM = 0.1
NEAR = 2.0
"""Degrees within which an atom counts as being somewhere."""

OBJECTIVES = (
    L1(),
    Signed(),
    L0(),
    TopOne(),
    Log(0.5),
    SquaredSum(),
    ElasticNet(1.0),
    Orthogonality(0.2),
    Matryoshka(0.25),
    Tree.of_parents([-1, 0]),
)
ABSORBING = 6
"""The first of these are those of T16."""


PARAMETERS = {
    "log": "log, ε = 0.5",
    "elastic net": "elastic net, ridge 1",
    "orthogonality": "OrtSAE, 0.2 cos²",
    "Matryoshka": "Matryoshka, β = 0.25",
    "tree": "tree, λ(‖(z₁, z₂)‖ + z₂)",
}
"""What the table calls an objective that has a parameter."""


class Setting(NamedTuple):
    """A parent and its child."""

    degrees: float
    together: float
    alone: float
    """Probability of the child without its parent."""

    @property
    def truth(self) -> np.ndarray:
        """v1 and v2."""
        angle = np.deg2rad(self.degrees)
        return np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])

    @property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Datapoints and their probabilities."""
        v1, v2 = self.truth
        X = np.array([v1, v1 + v2, v2])
        weights = np.array([1 - self.together - self.alone, self.together, self.alone])
        return X[weights > 0], weights[weights > 0]

    def __str__(self) -> str:
        return f"{self.degrees:g}°, p = {self.together:g}" + (f", child alone {self.alone:g}" if self.alone else "")


SETTINGS = (
    Setting(90, 0.5, 0),
    Setting(90, 0.2, 0),
    Setting(60, 0.5, 0),
    Setting(60, 0.2, 0),
    Setting(90, 0.2, 0.2),
    Setting(60, 0.2, 0.2),
)


def verdict(dictionary: np.ndarray, setting: Setting, signed: bool) -> str:
    """What became of v1 and v2."""
    angles = np.rad2deg(np.arctan2(dictionary[:, 1], dictionary[:, 0]))
    if signed:  # an atom and its negative are one
        angles = np.where(angles < setting.degrees / 2 - 90, angles + 180, angles)
        angles = np.where(angles > setting.degrees / 2 + 90, angles - 180, angles)
    parent, child = np.sort(angles)
    joined, true = setting.degrees / 2, setting.degrees
    where = f"({parent:.0f}°, {child:.0f}°)"
    if parent < -NEAR and abs(child - joined) < max(NEAR, -parent):
        return f"swapped {where}"
    if abs(parent) > NEAR:
        return f"hedged {where}"
    if abs(child - true) <= NEAR:
        return "true"
    if abs(child - joined) <= NEAR:
        return "absorbed"
    if child > true:
        return f"overshoots {where}"
    v1, v2 = setting.truth
    share = np.linalg.solve(np.column_stack([v1, v2]), [np.cos(np.deg2rad(child)), np.sin(np.deg2rad(child))])
    return f"partly, δ = {share[0] / share[1]:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 if all claims hold."""
    options = parser(__doc__)
    options.add_argument("--small", action="store_true", help="two settings and six objectives only")
    given = options.parse_args(arguments)
    settings = SETTINGS[:2] if given.small else SETTINGS
    objectives = (OBJECTIVES[0], OBJECTIVES[2], *OBJECTIVES[ABSORBING:]) if given.small else OBJECTIVES
    claims, results, cells, rows = Claims(), Results(), {}, []
    gaps, floors, unique = [], [], []
    for objective in objectives:
        row = [PARAMETERS.get(objective.name, objective.name)]
        for setting in settings:
            X, weights = setting.data
            found = solve_globally(X, 2, LAM, penalty=objective, weights=weights)
            gaps.append(found.gap)
            said = verdict(found.dictionary, setting, isinstance(objective, Signed))
            error = weights @ ((X - found.codes @ found.dictionary) ** 2).sum(axis=1) / (weights @ (X**2).sum(axis=1))
            cells[objective.name, setting] = found, said
            row.append(f"{said}; error {error:.4f}")
            if objective in OBJECTIVES[:ABSORBING] and not setting.alone:
                floors.append(abs(found.value - float(weights @ radial_bound(X, LAM, objective))))
                unique.append(said == "absorbed")
        rows.append(row)
    results.table("objectives", ["objective", *map(str, settings)], rows)
    claims.check(f"T18: every cell is certified, largest relative gap {max(gaps):.1e} ≤ 1e-06", max(gaps) <= 1e-6)
    claims.check(
        f"T16: its penalties reach the bound of every width, to {max(floors):.1e} ≤ 1e-09", max(floors) <= 1e-9
    )
    claims.check("T16: under all of them the child is absorbed wherever it never fires alone", all(unique))
    first, second = settings[:2]
    for name in ("elastic net", "orthogonality", "Matryoshka", "tree"):
        claims.check(f"{name} does not absorb at 90°", all(cells[name, s][1] != "absorbed" for s in (first, second)))
    for name in ("orthogonality", "Matryoshka", "tree"):
        swaps = cells[name, first][1].startswith("swapped") and not cells[name, second][1].startswith("swapped")
        claims.check(f"{name} swaps the roles at p = 0.5 and not at p = 0.2", swaps)
    spot = certify(cells["L1", first][0])
    claims.check("the referee has no objections to the first cell", not spot.objections)
    grid = {90: ((43, -26), (2, 72)), 60: (None, (2, 62))}  # what a grid of a degree finds, for p = 0.5 and 0.2
    for setting in settings:
        wanted = None if setting.alone else grid[int(setting.degrees)][setting.together < 0.5]
        if wanted is not None:
            atoms = cells["tree", setting][0].dictionary
            off = np.abs(np.rad2deg(np.arctan2(atoms[:, 1], atoms[:, 0])) - wanted).max()
            claims.check(f"tree, {setting}: within {off:.1f}° of {wanted} ≤ 1°", off <= 1)
    results.save(given.results, "which_absorb")
    save(draw(settings, objectives, cells), given.out, "which_absorb")
    return claims.exit_code


def draw(settings: Sequence[Setting], objectives: Sequence, cells: dict) -> Figure:
    """Angles of both atoms, a panel a setting, at most three in a line."""
    columns = min(3, len(settings))
    lines = -(-len(settings) // columns)
    figure = Figure(figsize=(2.9 * columns + 1.6, 3.6 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for unused in axes[len(settings) :]:
        unused.set_visible(False)
    for ax, setting in zip(axes, settings, strict=True):
        for height, objective in enumerate(objectives):
            atoms = cells[objective.name, setting][0].dictionary
            angles = np.rad2deg(np.arctan2(atoms[:, 1], atoms[:, 0]))
            if isinstance(objective, Signed):
                angles = np.where(np.abs(angles - setting.degrees / 2) > 90, angles - 180 * np.sign(angles), angles)
            ax.plot(angles, [height, height], "o", color=COLORS[0])
        for at, style in ((0, "-"), (setting.degrees, "-"), (setting.degrees / 2, ":")):
            ax.axvline(at, color=COLORS[1], linestyle=style, linewidth=1.5, zorder=0)
        ax.set(title=str(setting).replace(", child", "\nchild"), xlabel="angle of the atoms, degrees")
    axes[0].set_yticks(range(len(objectives)), [objective.name for objective in objectives])
    for first in axes[::columns]:
        first.set_ylabel("objective")
    axes[0].invert_yaxis()
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
