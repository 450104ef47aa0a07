"""Exact codes under every convex penalty on random and adversarial problems: gaps by the referee, values against cvxpy.

    python -m benchmarks.convex_penalties [--problems 500] [--seed 0] [--no-conic] [--quick]

Problem i is that of the seed and i: its penalty, sizes, λ, bias and what makes it hard (zero, repeated and tiny
datapoints, repeated, nearly repeated, opposite and badly scaled atoms, λ down to a ten-thousandth of the data's
length). A problem is *closed* where the referee finds a relative gap of at most 1e-6; where the optimum is zero up to
rounding, which no relative gap can say, it is closed if value and bound differ by at most 1e-12 of ½ mean ‖x − b‖² or
½ mean ‖x‖², and counted apart. The value of the conic solver agrees if it is within 1e-6 of the value, or of that
floor. Writes ``benchmarks/results/convex_penalties.json``; ``python docs/tables.py`` shows it in ``docs/codes.md``.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import Table, parser, run, table
from cvxsae import PenalizedCodes, SparseCodes, certify, solve
from cvxsae.penalties import L1, ElasticNet, Exclusive, Group, Prefixes, Signed, Simplex, Slope, Tree

TOL = 1e-6
"""Relative gap, and relative difference from the conic solver."""

ZERO = 1e-12
"""Of the larger of ½ mean ‖x − b‖² and ½ mean ‖x‖²: below this a value is zero up to rounding."""

KINDS = (
    "L1",
    "weighted L1",
    "elastic net",
    "signed L1",
    "group",
    "tree",
    "Matryoshka",
    "exclusive",
    "SLOPE",
    "simplex",
    "simplex, exactly",
)


class Case(NamedTuple):
    """A problem and what it is called."""

    kind: str
    problem: Any


class Outcome(NamedTuple):
    """What became of a problem."""

    kind: str
    status: str
    solver: str
    gap: float
    is_zero: bool
    difference: float
    objections: tuple[str, ...]
    seconds: float

    @property
    def is_closed(self) -> bool:
        """Whether the gap is small enough, relative or for a value of zero."""
        return self.gap <= TOL or self.is_zero


def tree_of(rng: np.random.Generator, n_atoms: int) -> Tree:
    """A random forest of atoms."""
    parents = [-1 if k == 0 or rng.random() < 0.3 else int(rng.integers(k)) for k in range(n_atoms)]
    return Tree.of_parents(parents, rng.uniform(0.3, 2, n_atoms))


def hard_data(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Datapoints and atoms, with something wrong with most of them."""
    n, d, K = int(rng.integers(1, 7)), int(rng.integers(2, 9)), int(rng.integers(2, 13))
    X, D = rng.normal(size=(n, d)), rng.normal(size=(K, d))
    if rng.random() < 0.3:
        X, D = np.abs(X), np.abs(D)
    if rng.random() < 0.4:
        X[0] = 0
    if n > 2 and rng.random() < 0.4:
        X[1], X[2] = X[0], X[2] * 1e-4
    if rng.random() < 0.3:
        X = rng.exponential(size=(n, K)) * (rng.random((n, K)) < 0.5) @ D  # exact combinations of atoms
    if rng.random() < 0.3:
        D[1] = D[0]
    if K > 3 and rng.random() < 0.3:
        D[3] = D[2] + 10.0 ** rng.uniform(-5, -1) * D[3]
    if rng.random() < 0.3:
        D[-1] = -D[0]
    if not X.any():
        X[-1] = 1.0
    return X * 10.0 ** rng.uniform(-2, 2), D * 10.0 ** rng.uniform(-2, 2, (K, 1))


def penalty_of(kind: str, rng: np.random.Generator, n_atoms: int, length: float) -> Any:
    """A penalty of a kind."""
    labels = rng.integers(0, 3, n_atoms)
    labels = np.unique(labels, return_inverse=True)[1]
    weights = 10.0 ** rng.uniform(-1, 1, n_atoms)
    made = {
        "L1": lambda: L1(),
        "weighted L1": lambda: L1(weights),
        "elastic net": lambda: ElasticNet(10.0 ** rng.uniform(-3, 1) / length, weights),
        "signed L1": lambda: Signed(weights),
        "group": lambda: Group(labels, rng.uniform(0.5, 2, labels.max() + 1)),
        "tree": lambda: tree_of(rng, n_atoms),
        "exclusive": lambda: Exclusive(labels),
        "SLOPE": lambda: Slope(np.sort(rng.uniform(0, 2, n_atoms))[::-1]),
        "simplex": lambda: Simplex(length * 10.0 ** rng.uniform(-2, 0.5)),
        "simplex, exactly": lambda: Simplex(length * 10.0 ** rng.uniform(-2, 0.5), exactly=True),
    }
    return made[kind]()


def case(seed: int, i: int) -> Case:
    """Problem i of a seed."""
    rng, kind = np.random.default_rng([seed, i]), KINDS[i % len(KINDS)]
    X, D = hard_data(rng)
    length = float(np.sqrt(np.mean(np.sum(X**2, axis=1))))
    lam = 10.0 ** rng.uniform(-4, 0)
    bias: Any = (None, rng.normal(size=X.shape[1]) * length / 3, "free")[int(rng.integers(3))]
    if kind == "Matryoshka":
        sizes = sorted({int(k) for k in rng.integers(1, len(D) + 1, 2)} | {len(D)})
        stacked = Prefixes(sizes, rng.uniform(0.1, 1, len(sizes))).stack(X, D, None if isinstance(bias, str) else bias)
        return Case(kind, SparseCodes(stacked.X, stacked.dictionary, lam * length, weights=stacked.weights))
    limits, squares = kind.startswith("simplex"), kind == "exclusive"  # no price, and a price without a length
    price = 1.0 if limits else lam if squares else lam * length
    return Case(kind, PenalizedCodes(X, D, price, penalty_of(kind, rng, len(D), length), bias=bias))


def outcome(one: Case, *, conic: bool = True) -> Outcome:
    """Solve a problem, let the referee look at it, and compare."""
    began = time.process_time()
    found = solve(one.problem, tol=TOL, raise_on_failure=False)
    seconds = time.process_time() - began
    certificate = certify(found)
    points = one.problem.X.to_numpy()
    squares = [np.sum((points - center) ** 2, axis=1).mean() for center in (0.0, one.problem.starting_bias().numpy())]
    floor = ZERO * float(max(squares)) / 2
    is_zero = not certificate.gap <= TOL and certificate.value - certificate.lower_bound <= floor
    relative = ("The relative gap", *(("The bias is off",) if is_zero else ()))  # both are shares of the value
    said = tuple(said for said in certificate.objections if not said.startswith(relative))
    difference = float("nan")
    if conic:
        reference = solve(one.problem, solver="reference", tol=TOL, raise_on_failure=False)
        other = reference.value
        difference = abs(other - certificate.value) / max(certificate.value, floor / TOL)
    return Outcome(one.kind, found.status.name, found.solver, certificate.gap, is_zero, difference, said, seconds)


def outcomes(seed: int, problems: int, *, conic: bool = True) -> Iterator[Outcome]:
    """Those of so many problems."""
    for i in range(problems):
        yield outcome(case(seed, i), conic=conic)


def measure(seed: int, problems: int, conic: bool) -> dict[str, Any]:
    """What became of so many problems, by kind and of all; those that are open are printed."""
    found = []
    for i, one in enumerate(outcomes(seed, problems, conic=conic)):
        found.append(one)
        if is_amiss(one):
            print(f"{i}: {one}", flush=True)
    print(Counter((one.kind, one.solver) for one in found))
    return {kind: counted([one for one in found if kind in (one.kind, "all")]) for kind in (*KINDS, "all")}


def is_amiss(one: Outcome) -> bool:
    """Whether it is open, objected to, or apart from the conic solver."""
    return not one.is_closed or bool(one.objections) or one.difference > TOL


def counted(some: list[Outcome]) -> dict[str, Any]:
    """The numbers of a row."""
    return {
        "problems": len(some),
        "closed": sum(one.gap <= TOL for one in some),
        "zero": sum(one.is_zero for one in some),
        "open": sum(not one.is_closed for one in some),
        "largest_gap": max((one.gap for one in some if not one.is_zero), default=0.0),
        "agree": sum(one.difference <= TOL for one in some),
        "median_ms": 1e3 * float(np.median([one.seconds for one in some])) if some else 0.0,
        "amiss": sum(map(is_amiss, some)),
    }


def tables(cells: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Table]:
    """A row for each kind of penalty, and one for all."""
    rows = []
    for kind, one in (row for cell in cells.values() for row in cell.items()):
        counts = [one[key] for key in ("problems", "closed", "zero", "open")]
        rows.append([kind, *counts, f"{one['largest_gap']:.1e}", one["agree"], f"{one['median_ms']:.0f}"])
    columns = ["problems", "gap ≤ 1e-6", "zero", "open", "largest gap", "agree with cvxpy", "ms, median CPU"]
    return {"gaps": table(["penalty", *columns], rows)}


def main(arguments: list[str] | None = None) -> int:
    """Run; 0 if all are closed, without objections, and agree."""
    options = parser(__doc__)
    options.add_argument("--problems", type=int, default=500)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--no-conic", action="store_true", help="leave the comparison with cvxpy out")
    given = options.parse_args(arguments)
    problems, amiss = 11 if given.quick else given.problems, 0

    def cell() -> dict[str, Any]:
        nonlocal amiss
        found = measure(given.seed, problems, not given.no_conic)
        amiss = found["all"]["amiss"]
        return found

    code = run("convex_penalties", {f"{problems} problems, seed {given.seed}": cell}, tables, given)
    return code or int(amiss > 0)


if __name__ == "__main__":
    sys.exit(main())
