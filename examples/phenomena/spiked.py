"""Spiked dictionaries: a published table at no and at high coherence, and whose fault it is when nobody recovers.

    python examples/phenomena/spiked.py [--small] [--out folder] [--results folder]

Protocol, that of "Feature Starvation as Geometric Instability in Sparse Autoencoders" as published
(github.com/farischaudhry/adaptive-elastic-net-sae: ``adaptive_elastic_sae/data/synthetic.py``,
``configs/spiked/spiked_model_sweep_final.yaml``, ``notebooks/spiked_v2_final_summary.csv``). 1,024 atoms in 256
dimensions, normalize(√(1 − ρ) individual + √ρ shared) with random unit vectors, ρ = 0 or 0.9; every datapoint has
exactly 16 of them with strengths U(1, 3), without noise. A dictionary of 1,024 atoms is learned. Error: 1 − mean |cos|
over the assignment of learned to true atoms that is best (Hungarian). Published loss: squared error averaged over the
256 coordinates plus λ1 Σz, so λ = 128 λ1, and F is 128 times it. Theirs are SAEs with a decoder bias, trained on 12.8
million fresh datapoints, seed 0.

Ours: 6,000 fixed datapoints of our own seed 0 (their numbers cannot be drawn again), exact codes, ``learn_dictionary``
down the four penalties, each fit started from the one before, with limits of CPU time; free bias. Nothing was chosen
in view of an error. Then, at every penalty: F at the *true* dictionary with its best bias, with a lower bound over all
biases, and the local optimum that descent from the truth reaches. The verdict on an error is

- *objective* if F(found) is below the bound of F(truth): another dictionary is preferred to the true one;
- *search* if F(from truth) is below F(found) by more than 1e-4 of it: a better dictionary is known, and it is nearer.

What theory says of ρ = 0.9. A free bias can carry the mean of the spike. Write x = √ρ S s + √(1 − ρ) Σ z_k u_k, with
S = Σ z_k and s the shared direction. As λ → 0 the true atoms cost E S = 32 per unit of λ. Atoms along
√(1 − ρ) u_k + c s, with a bias of (√ρ − c) E S along s and a pair of atoms ±s for what S varies, cost
E S √(1 − ρ + c²) + (√ρ − c) E|S − E S|, least where c/√(1 − ρ + c²) = E|S − E S|/E S = q: about 12. Their cosine
with the true atoms is √(1 − ρ)√(1 − q²) + √ρ q, an error of 0.63, whatever is done about training. Centered data are
the same problem: a free bias makes F blind to shifts. With the bias fixed at zero the same atoms need 32 √ρ of s itself
and cost more than the truth: then the truth should stay. All of this is checked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import scipy.sparse as sp
from matplotlib.figure import Figure
from reporting import COLORS, Claims, Results, parser, plain_ticks, save
from scipy.optimize import linear_sum_assignment, minimize

from cvxsae import encode, learn_dictionary
from cvxsae.relaxations.joint.cone import cone_condition
from cvxsae.results import DictionaryFit

LAMBDAS = (1.28, 0.64, 0.128, 0.064)
ZERO_BIAS = (0.64, 0.128)
"""Penalties at which the bias is fixed at zero, too."""

PUBLISHED = {  # error of the vanilla SAE and 128 times its loss, at the four penalties
    0.0: ((0.749, 33.66), (0.0972, 20.41), (0.0053, 7.571), (0.201, 5.425)),
    0.9: ((0.640, 5.117), (0.740, 4.556), (0.744, 2.407), (0.787, 1.607)),
}
OTHERS = {  # best of the published grids, whatever the penalty: elastic net, adaptive, TopK
    0.0: (0.0090, 0.0045, 0.117),
    0.9: (0.616, 0.77, 0.870),
}
CODES_TOL = 1e-9
"""Relative duality gap of codes at the true dictionary."""


@dataclass(frozen=True)
class Scale:
    """Size of the problem, penalties, and CPU seconds: of the first fit of a path, of the others, from the truth."""

    dim: int
    width: int
    active: int
    points: int
    lambdas: tuple[float, ...]
    seconds: tuple[float, float, float] | None

    def limit(self, which: int) -> dict[str, float]:
        """The option that limits a fit; none in the small setting, which ends by itself."""
        return {} if self.seconds is None else {"max_seconds": self.seconds[which]}


FULL = Scale(256, 1024, 16, 6_000, LAMBDAS, (40.0, 20.0, 6.0))
SMALL = Scale(16, 24, 2, 1_000, (0.64, 0.128), None)


@dataclass(frozen=True, eq=False)
class Spiked:
    """Data and what made them; ``shared`` is the spike's direction."""

    X: np.ndarray
    atoms: np.ndarray
    codes: np.ndarray
    shared: np.ndarray


def spiked(scale: Scale, rho: float, seed: int = 0) -> Spiked:
    """Draw a dictionary with a shared direction, and datapoints of exactly ``active`` of its atoms."""
    rng = np.random.default_rng(seed)
    shared, *individual = unit(rng.standard_normal((1 + scale.width, scale.dim)))
    atoms = unit(np.sqrt(1 - rho) * np.array(individual) + np.sqrt(rho) * shared)
    chosen = np.argpartition(rng.random((scale.points, scale.width)), scale.active, axis=1)[:, : scale.active]
    codes = np.zeros((scale.points, scale.width))
    np.put_along_axis(codes, chosen, rng.uniform(1, 3, chosen.shape), axis=1)
    return Spiked(codes @ atoms, atoms, codes, shared)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to norm 1."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def error(found: np.ndarray, atoms: np.ndarray) -> float:
    """1 − mean |cos| of the best assignment."""
    cosines = np.abs(found @ atoms.T)
    return 1 - float(cosines[linear_sum_assignment(-cosines)].mean())


def predicted_error(codes: np.ndarray, rho: float) -> float:
    """What the objective's own optimum should come to with a free bias, as λ → 0 (see the top of this file)."""
    mass = codes.sum(axis=1)
    q = np.abs(mass - np.median(mass)).mean() / mass.mean()
    return float(1 - np.sqrt((1 - rho) * (1 - q**2)) - np.sqrt(rho) * q)


@dataclass(frozen=True, eq=False)
class AtTruth:
    """F at the true dictionary: with zero bias, and at its best bias between two bounds."""

    at_zero: float
    value: float
    lower_bound: float
    pull: float
    """‖mean_n r_n‖/λ with zero bias: how far that is from stationary (T3)."""
    stationarity: float
    """Median of ‖E_k[r]/λ − d_k‖ over the atoms at the best bias (T3)."""


def at_truth(data: Spiked, lam: float) -> AtTruth:
    """Best bias at the true dictionary: F is convex in it, and its gradient there is minus the mean residual.

    The lower bound holds for every bias: residuals less their mean, scaled into ``D y ≤ λ`` by one factor (T1).
    """
    warm: list[sp.csr_array] = []

    def at(bias: np.ndarray) -> tuple[float, np.ndarray]:
        codes = encode(data.X, data.atoms, lam, bias=bias, tol=CODES_TOL, warm_start=warm[-1] if warm else None)
        warm.append(codes.codes)
        return codes.value, data.X - bias - codes.codes @ data.atoms

    def objective(bias: np.ndarray) -> tuple[float, np.ndarray]:
        value, residual = at(bias)
        return value, -residual.mean(axis=0)

    zero, gradient = objective(np.zeros(data.X.shape[1]))
    best = minimize(objective, np.zeros(data.X.shape[1]), jac=True, method="L-BFGS-B", options={"gtol": 1e-6 * lam})
    value, residual = at(best.x)
    y = residual - residual.mean(axis=0)
    y *= min(1.0, lam / float((y @ data.atoms.T).max()))
    bound = float((y * data.X).sum(axis=1).mean() - (y**2).sum(axis=1).mean() / 2)
    pull = float(np.linalg.norm(gradient)) / lam
    return AtTruth(zero, value, bound, pull, median_stationarity(warm[-1], residual, data.atoms, lam))


def median_stationarity(codes: sp.csr_array, residual: np.ndarray, atoms: np.ndarray, lam: float) -> float:
    """Median of ‖E_k[r]/λ − d_k‖ over live atoms (T3)."""
    mass = np.asarray(codes.sum(axis=0)).ravel()
    live = mass > 0
    mean_residuals = (codes.T @ residual)[live] / mass[live, None]
    return float(np.median(np.linalg.norm(mean_residuals / lam - atoms[live], axis=1)))


@contextmanager
def cpu_clock() -> Iterator[None]:
    """Limits of time are limits of CPU time, so that other work on the machine does not cut a search short."""
    with mock.patch("time.perf_counter", time.process_time):
        yield


def path(data: Spiked, scale: Scale, bias: str | None) -> list[DictionaryFit]:
    """Fits down the penalties, each started from the one before; the first from datapoints."""
    fits: list[DictionaryFit] = []
    for lam in scale.lambdas:
        start: dict[str, Any] = {"init": (fits[-1].dictionary, fits[-1].bias)} if fits and bias else {}
        if fits and bias is None:
            start = {"init": fits[-1].dictionary}
        limit = scale.limit(1 if fits else 0)
        fits.append(learn_dictionary(data.X, scale.width, lam, bias=bias, seed=0, **start, **limit))
        print(f"  found at λ = {lam:g}: {fits[-1].status.name.lower()}, {fits[-1].seconds:.0f} s", flush=True)
    return fits


def from_truth(data: Spiked, scale: Scale, lam: float, start: np.ndarray | None) -> DictionaryFit:
    """The local optimum that descent from the true atoms reaches, with a free bias from this one, or with none."""
    init = data.atoms if start is None else (data.atoms, start)
    options: dict[str, Any] = {"init": init, "moves": False, "stationarity": 1e-3, **scale.limit(2)}
    return learn_dictionary(data.X, scale.width, lam, bias=None if start is None else "free", **options)


def verdict(found: float, truth_bound: float, near: float) -> str:
    """Whose the error is."""
    said = ["objective"] * (found < truth_bound) + ["search"] * (near < found * (1 - 1e-4))
    return ", ".join(said) or "neither"


def judge(results: Results, claims: Claims, scale: Scale, rho: float) -> tuple[list[float], list[float]]:
    """One coherence with a free bias: the two tables; errors found and errors from the truth."""
    data = spiked(scale, rho)
    fits = path(data, scale, "free")
    nears = [from_truth(data, scale, lam, np.zeros(scale.dim)) for lam in scale.lambdas]
    truths = [at_truth(data, lam) for lam in scale.lambdas]
    errors = [error(fit.dictionary, data.atoms) for fit in fits]
    moved = [error(near.dictionary, data.atoms) for near in nears]
    is_published = scale is FULL
    if is_published:
        columns = ["λ", "λ1", "error", "published vanilla", "ours is", "error from the truth", "elastic net, best"]
        columns += ["adaptive, best", "TopK, best", "F(found)", "128 × published loss"]
        rows = []
        for lam, ours, near, fit, (theirs, loss) in zip(
            scale.lambdas, errors, moved, fits, PUBLISHED[rho], strict=True
        ):
            word = "better" if ours < theirs else "worse"
            rows.append((lam, lam / 128, ours, theirs, word, near, *OTHERS[rho], fit.value, loss))
        results.table(
            f"published_{rho:g}",
            columns,
            rows,
        )
    columns = ["λ", "error", "F(found)", "F(truth), best bias", "its lower bound", "F(from truth)", "verdict"]
    columns += ["truth moves to", "T3 of the truth", "pull on zero bias", "bias along s", "stationarity", "status"]
    rows = []
    for lam, fit, near, truth, ours, there in zip(scale.lambdas, fits, nears, truths, errors, moved, strict=True):
        said = verdict(fit.value, truth.lower_bound, near.value)
        along = float(fit.bias @ data.shared)
        numbers = (ours, fit.value, truth.value, truth.lower_bound, near.value, said, there, truth.stationarity)
        rows.append((lam, *numbers, truth.pull, along, fit.worst_stationarity, fit.status.name.lower()))
    results.table(f"verdicts_{rho:g}", columns, rows)
    worst = max(max(fit.encoding.gap, near.encoding.gap) for fit, near in zip(fits, nears, strict=True))
    claims.check(f"ρ = {rho:g}: every fit's codes are exact, the largest relative gap is {worst:.0e}", worst <= 1e-6)
    closed = max((truth.value - truth.lower_bound) / truth.value for truth in truths)
    claims.check(f"ρ = {rho:g}: F(truth) over all biases is known to {closed:.0e}", 0 <= closed <= 1e-3)
    if rho == 0:
        claims.check("ρ = 0: at the smallest penalty descent from the truth stays (error ≤ 0.01)", moved[-1] <= 1e-2)
        claims.check("ρ = 0: the truth moves less the smaller λ is", all(more > less for more, less in pairwise(moved)))
    else:
        claims.check(
            f"ρ = {rho:g}: at every λ F(found) is below F(truth) at any bias: the objective prefers another dictionary",
            all(fit.value < truth.lower_bound for fit, truth in zip(fits, truths, strict=True)),
        )
        claims.check(
            f"ρ = {rho:g}: with zero bias the mean residual is λ, not 0 (at least 0.9 λ at every λ): the truth is not "
            "stationary where the bias is free",
            min(truth.pull for truth in truths) >= 0.9,
        )
        centered = [from_truth(data, scale, lam, data.X.mean(axis=0)) for lam in scale.lambdas]
        rows = [
            (lam, fit.value, error(fit.dictionary, data.atoms), float(fit.bias @ data.shared), fit.worst_stationarity)
            for lam, fit in zip(scale.lambdas, centered, strict=True)
        ]
        results.table(
            f"bias_at_mean_{rho:g}",
            ["λ", "F(from there)", "truth moves to", "bias along s", "stationarity"],
            rows,
        )
        costs = [spiked_cost(data, rho, lean) for lean in (np.sqrt(rho), None)]
        print(f"λ → 0, cost over λ: the truth {costs[0]:.2f}, spike in the bias {costs[1]:.2f}")
        wanted = predicted_error(data.codes, rho)
        print(f"predicted error of the objective's optimum as λ → 0: {wanted:.3f}; found {errors[-1]:.3f}\n")
        claims.check("the spike in the bias costs less than the truth, as λ → 0", costs[1] < costs[0])
        claims.check("nobody recovers: the found error at the smallest λ is above 0.3", errors[-1] > 0.3)
    return errors, moved


def spiked_cost(data: Spiked, rho: float, lean: float | None) -> float:
    """Cost over λ, as λ → 0, of atoms ∝ √(1 − ρ) u_k + lean s, a bias and a pair ±s; None for the best lean."""
    mass = data.codes.sum(axis=1)
    spread = float(np.abs(mass - np.median(mass)).mean())
    if lean is None:
        q = spread / mass.mean()
        lean = float(np.sqrt((1 - rho) / (1 - q**2)) * q)
    return float(mass.mean() * np.sqrt(1 - rho + lean**2) + (np.sqrt(rho) - lean) * spread)


def without_bias(results: Results, claims: Claims, scale: Scale, rho: float) -> None:
    """High coherence with the bias fixed at zero, where theory lets the truth stay."""
    data = spiked(scale, rho)
    fits = path(data, scale, None)
    rows, moved = [], []
    for lam, fit in zip(scale.lambdas, fits, strict=True):
        near = from_truth(data, scale, lam, None)
        truth = encode(data.X, data.atoms, lam, tol=CODES_TOL)
        slack = median_stationarity(truth.codes, data.X - truth.codes @ data.atoms, data.atoms, lam)
        moved.append(error(near.dictionary, data.atoms))
        said = verdict(fit.value, truth.value * (1 - truth.gap), near.value)
        numbers = (error(fit.dictionary, data.atoms), fit.value, truth.value, near.value, said, moved[-1], slack)
        rows.append((lam, *numbers, fit.lower_bound, fit.worst_stationarity, fit.status.name.lower()))
    columns = ["λ", "error", "F(found)", "F(truth)", "F(from truth)", "verdict", "truth moves to", "T3 of the truth"]
    columns += ["F_wide"]
    results.table(f"zero_bias_{rho:g}", [*columns, "stationarity", "status"], rows)
    claims.check(
        f"ρ = {rho:g}, zero bias: descent from the truth stays (error at most 0.02 at the smallest λ)",
        moved[-1] <= 0.02,
    )


def noiseless(results: Results, claims: Claims) -> None:
    """T6, which needs independent atoms: 24 atoms in 32 dimensions, 3 active, zero bias."""
    rows = []
    for rho in (0.0, 0.9):
        data = spiked(Scale(32, 24, 3, 1_000, (), None), rho)
        cone = cone_condition(data.codes, data.atoms, features=np.arange(6))
        rows.append((rho, float(cone.distance.max()), "holds" if cone.all_hold else "fails"))
    results.table("noiseless", ["ρ", "distance from the cone (T6)", "condition (3)"], rows)
    claims.check(
        "T6: with zero bias the truth is first-order optimal as λ → 0, at both ρ",
        all(row[2] == "holds" for row in rows),
    )


def draw(found: dict[float, list[float]], moved: dict[float, list[float]], scale: Scale) -> Figure:
    """Errors over λ, ours and the published ones."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    for axes, rho in zip(figure.subplots(1, 2, sharey=True), found, strict=True):
        axes.loglog(scale.lambdas, found[rho], "o-", color=COLORS[0], label="found")
        axes.loglog(scale.lambdas, moved[rho], "s--", color=COLORS[1], label="from the truth")
        if scale is FULL:
            theirs = [error for error, _ in PUBLISHED[rho]]
            axes.loglog(scale.lambdas, theirs, "x:", color=COLORS[2], label="published, vanilla SAE")
        axes.set(title=f"ρ = {rho:g}", xlabel="λ", ylabel="error: 1 − matched cosine")
        plain_ticks(axes.xaxis, scale.lambdas)
        axes.legend(fontsize="small")
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 0 if every claim holds."""
    options = parser(__doc__)
    options.add_argument("--small", action="store_true", help="24 atoms in 16 dimensions, two penalties")
    chosen = options.parse_args(arguments)
    scale = SMALL if chosen.small else FULL
    claims, results = Claims(), Results()
    found, moved = {}, {}
    with cpu_clock():
        noiseless(results, claims)
        for rho in (0.0, 0.9):
            found[rho], moved[rho] = judge(results, claims, scale, rho)
        without_bias(results, claims, replace(scale, lambdas=ZERO_BIAS), 0.9)
    save(draw(found, moved, scale), chosen.out, "spiked")
    results.save(chosen.results, "spiked")
    return claims.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
