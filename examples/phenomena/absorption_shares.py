"""Whose is absorption: the objective's, the search's or the encoder's? Shares on C1, four and twenty features.

    python examples/phenomena/absorption_shares.py [--out folder]

A trained SAE absorbs. That may be its encoder (one layer, shared by all datapoints, where the true codes would need
more), its dictionary (training stopped somewhere bad), or the objective (the best dictionary with the best codes
absorbs too). "The Price of Amortized Inference in Sparse Autoencoders" (ICLR 2026, OpenReview 33wY6AI13k) argues for
the first: absorption, among other things, as a result of the conflict between one shared encoder and what is best for
each datapoint. "Stop Probing, Start Coding" (arXiv 2603.28744) finds, of compositional generalization, that the
dictionary and not the encoder is what fails. Both are about larger and less orderly data than these; here the answer is
exact.

Absorption is measured on datapoints where a parent truly fires, for every child, on the atom with the largest cosine to
the parent (data: ``trees.py``):

gap       ``P(atom fires | parent alone) − P(atom fires | parent with this child)`` (``cvxsae.diagnostics``)
missing   ``1 − E[z | parent with this child] / E[z | parent alone]``: how much of its activation is gone

Both are 0 for the truth and 1 where the child has taken over. Four stages, the mean over all children:

encoder     the SAE as trained (``train_sae``: 5,000 steps of Adam on minibatches, two seeds), its own codes
exact       the same dictionary with exact codes: the encoder is removed (T1)
optimum     the best dictionary found with exact codes (``learn_dictionary``, two seeds and the truth); for C1 the
            global optimum, certified by the floor of every width (T9)
truth       the true dictionary with exact codes

encoder − exact is the encoder's share, exact − optimum the search's, optimum − truth the objective's. They add up, and
any of them may be negative. The last problem is beyond what can be exact for an encoder: twenty features in 16
dimensions, not orthogonal. A short training (300 steps) shows what is seen when training is not finished.

An encoder is also looked at alone: for orthonormal features ``ReLU(x·f_k − λ)`` *is* the exact code at the truth, so
one layer can do everything there, and absorbs nothing.

Prediction (written down before anything was measured): on all orthonormal problems the objective's share is at least
0.99, and the encoder's at most 0.01.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from four_features import population
from matplotlib.figure import Figure
from reporting import COLORS, Claims, Results, parser, save
from trees import Tree

from cvxsae import Status, encode, learn_dictionary, train_sae
from cvxsae.data.hierarchies import TWENTY_FEATURES, hierarchy
from cvxsae.diagnostics import absorption_gap

LAM = 0.1
STAGES = ("encoder", "exact", "optimum", "truth")
NARROW_DIM = 16
SINGLE = 1e-6
"""Orthonormal features are so in single precision."""

UNFINISHED = 300
"""Steps of a training that is broken off."""


class Stage(NamedTuple):
    """One stage of one problem: absorption and cost."""

    gap: float
    missing: float
    value: float
    """F of the codes it has."""


class Problem(NamedTuple):
    """Data with a known hierarchy."""

    name: str
    tree: Tree
    orthonormal: bool = True

    def stage(self, dictionary: np.ndarray, codes: object) -> Stage:
        """Absorption and F of some codes."""
        tree, Z = self.tree, codes.toarray()
        gaps, missing = [], []
        for child in tree.children:
            parent = int(tree.parents[child])
            atom = int((dictionary @ tree.features[parent]).argmax())
            fires = tree.active[:, parent] > 0
            alone = fires & ~tree.active[:, tree.parents == parent].any(axis=1)
            joined = fires & (tree.active[:, child] > 0)
            gaps.append(absorption_gap(codes, atom, alone | joined, joined))
            missing.append(1 - Z[joined, atom].mean() / Z[alone, atom].mean())
        left = tree.points - codes @ dictionary
        value = float((left**2).sum(axis=1).mean() / 2 + LAM * Z.sum(axis=1).mean())
        return Stage(float(np.mean(gaps)), float(np.mean(missing)), value)


def problems(small: bool) -> tuple[Problem, ...]:
    """C1 (θ = 90°, p = 0.2), four features, twenty features, and twenty in fewer dimensions."""
    pair = Tree(np.eye(2), np.repeat([[1.0, 0.0], [1.0, 1.0]], [800, 200], axis=0), np.array([-1, 0]))
    if small:
        return (Problem("C1", pair),)
    wide, narrow = (hierarchy(2000, dim, TWENTY_FEATURES, seed=0, orthogonal=dim > 20) for dim in (50, NARROW_DIM))
    return (
        Problem("C1", pair),
        Problem("four features", population()),
        Problem("twenty features", Tree(wide.dictionary, wide.codes, wide.parents)),
        Problem(
            f"twenty features in {NARROW_DIM} dimensions", Tree(narrow.dictionary, narrow.codes, narrow.parents), False
        ),
    )


class Solved(NamedTuple):
    """All stages of a problem, with what certifies them."""

    problem: Problem
    trained: tuple[tuple[Stage, Stage], ...]
    """Encoder and exact, a pair a seed."""
    optimum: Stage
    truth: Stage
    gap_of_codes: float
    stationarity: float
    is_global: bool
    floor: float
    """F of every dictionary of every width is at least this (T9)."""

    def stages(self, measure: str) -> np.ndarray:
        """Mean over seeds of a measure at the four stages."""
        encoder, exact = (np.mean([getattr(pair[i], measure) for pair in self.trained]) for i in (0, 1))
        return np.array([encoder, exact, getattr(self.optimum, measure), getattr(self.truth, measure)])


def solve(problem: Problem, seeds: int, steps: int) -> Solved:
    """Train, remove the encoder, search."""
    tree = problem.tree
    X, K = tree.points, len(tree.features)
    trained, gaps = [], []
    for seed in range(seeds):
        sae = train_sae(X, K, LAM, bias=None, seed=seed, steps=steps)
        exact = encode(X, sae.dictionary, LAM, tol=1e-10)
        gaps.append(exact.gap)
        trained.append((problem.stage(sae.dictionary, sae.encode(X)), problem.stage(sae.dictionary, exact.codes)))
    fits = [learn_dictionary(X, K, LAM, bias=None, seed=seed, stationarity=1e-6) for seed in range(seeds)]
    fits.append(learn_dictionary(X, K, LAM, bias=None, init=tree.features, moves=False, stationarity=1e-6))
    best = min(fits, key=lambda fit: fit.value)
    true = encode(X, tree.features, LAM, tol=1e-10)
    gaps.append(true.gap)
    return Solved(
        problem,
        tuple(trained),
        problem.stage(best.dictionary, best.codes),
        problem.stage(tree.features, true.codes),
        max(gaps),
        best.worst_stationarity,
        best.status is Status.CERTIFIED,
        best.lower_bound,
    )


def one_layer(claims: Claims, problem: Problem) -> None:
    """At an orthonormal truth the encoder ``ReLU(x·f_k − λ)`` has the exact codes."""
    tree = problem.tree
    exact = encode(tree.points, tree.features, LAM, tol=1e-12).codes.toarray()
    apart = np.abs(np.maximum(tree.points @ tree.features.T - LAM, 0) - exact).max()
    claims.check(
        f"{problem.name}: at the truth one layer has the exact codes, to {apart:.1e} ≤ {SINGLE:.0e}", apart <= SINGLE
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 if all claims hold."""
    options = parser(__doc__)
    options.add_argument("--small", action="store_true", help="C1 alone, one seed, fewer steps")
    given = options.parse_args(arguments)
    claims, results = Claims(), Results()
    seeds, steps = (1, 1000) if given.small else (2, 5000)
    solved = [solve(problem, seeds, steps) for problem in problems(given.small)]
    rows, shares = [], {}
    for one in solved:
        for measure in ("gap", "missing"):
            stages = one.stages(measure)
            shares[one.problem.name, measure] = -np.diff(stages)
            rows.append(
                (one.problem.name, measure, *(f"{v:.3f}" for v in np.round([*stages, *-np.diff(stages)], 3) + 0.0))
            )
    columns = ["problem", "absorption", *STAGES, "encoder's share", "search's share", "objective's share"]
    results.table("shares", columns, rows)
    costs = []
    for one in solved:
        certificate = "global (T9)" if one.is_global else f"stationary to {one.stationarity:.0e}"
        costs.append((one.problem.name, *(f"{v:.8f}" for v in one.stages("value")), f"{one.floor:.6f}", certificate))
    results.table("costs", ["F", *STAGES, "floor of every width", "optimum is"], costs)
    for one in solved:
        name, problem = one.problem.name, one.problem
        ours, codes = one.stages("value"), one.gap_of_codes
        claims.check(f"{name}: exact codes are exact, relative gap {codes:.0e} ≤ 1e-08", codes <= 1e-8)
        claims.check(
            f"{name}: the truth costs more than the optimum and does not absorb",
            ours[3] > ours[2] and one.truth.gap < 0.01,
        )
        claims.check(
            f"{name}: no seed of training is below the optimum found",
            min(pair[1].value for pair in one.trained) >= ours[2] * (1 - 1e-9),
        )
        if problem.orthonormal:
            least = min(shares[name, measure][2] for measure in ("gap", "missing"))
            most = max(abs(shares[name, measure][0]) for measure in ("gap", "missing"))
            claims.check(
                f"{name}: the prediction holds, objective's share {least:.3f} ≥ 0.99, encoder's {most:.3f} ≤ 0.01",
                least >= 0.99 and most <= 0.01,
            )
            one_layer(claims, problem)
    claims.check("C1: the optimum is global", solved[0].is_global)
    if not given.small:
        hard = solved[-1]
        print(
            f"       {hard.problem.name} (no prediction): encoder's share {shares[hard.problem.name, 'missing'][0]:.3f}"
        )
        early = solve(solved[2].problem, 1, UNFINISHED)
        stages = early.stages("missing")
        print(f"       twenty features, {UNFINISHED} steps: missing {stages.round(3).tolist()} at {', '.join(STAGES)}")
        results.table(
            "unfinished",
            ["steps", "absorption", *STAGES],
            [
                (str(UNFINISHED), m, *(f"{v:.3f}" for v in np.round(early.stages(m), 3) + 0.0))
                for m in ("gap", "missing")
            ],
        )
    save(draw({one.problem.name: one.stages("missing") for one in solved}), given.out, "absorption_shares")
    results.save(given.results, "absorption_shares")
    return claims.exit_code


def draw(missing: dict[str, Sequence[float]]) -> Figure:
    """The missing share of the parent's activation at the four stages, for every problem."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    ax = figure.subplots()
    width = 0.8 / len(missing)
    for i, ((name, shares), color, hatch) in enumerate(
        zip(missing.items(), COLORS, ("", "//", "..", "xx"), strict=False)
    ):
        ax.bar(
            np.arange(len(STAGES)) + i * width, shares, width, label=name, color=color, hatch=hatch, edgecolor="white"
        )
    ax.set_xticks(
        np.arange(len(STAGES)) + 0.4 - width / 2,
        ["SAE, its encoder", "its dictionary,\nexact codes", "best dictionary\nfound", "true dictionary"],
    )
    ax.set(ylabel="share of the parent's\nactivation missing", ylim=(-0.05, 1.1))
    figure.legend(frameon=False, fontsize="small", loc="outside right upper")
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
