"""Sparse but Wrong: are mixed features TopK's own, or does L1 mix them too? Exact codes, no encoder.

    python examples/phenomena/sparse_but_wrong.py [--out folder]

Chanin & Garriga-Alonso (arXiv 2508.16560) train BatchTopK SAEs on five orthogonal features in R^20 and show that a k of
1.8, a tenth below the two features that fire on average, pulls the other latents towards a feature they correlate with,
even from the true weights. Here encoder and training are gone: codes are exact, and so is the question.

Protocol, theirs but for the encoder. Every feature fires with probability 0.4 (a Gaussian copula; features 1 to 4
correlate with feature 0 by c in −0.5 … 0.5 and not with each other), with strength max(N(1, 0.15), 0). 2,000
datapoints, 5 seeds, five atoms, a free decoder bias, start at the truth. Measure: the mean cosine of latents 1 to 3
with feature 0; latents keep the index they start with.

L1       ``learn_dictionary`` at each λ, stationary to 1e-6 (T3), also from a random start.
L0       mean error of codes with at most k active atoms on average over all datapoints: what BatchTopK asks for. Exact:
         all 32 supports are enumerated, and the best share-out of ``k N`` active codes is that of a threshold on what
         one more of them gains. Between codes, dictionary and bias are the least-squares answer. This alternation
         never raises the error; it stops when a round gains 1e-6 of the error at its start, or after 100 rounds.
         k is a share of the mean number of truly active features. TopK, k = 1 or 2 of every datapoint, is tried as
         well.

Prediction (written down before anything was measured): the mixing is TopK's own, since T6 keeps L1's truth stable as
λ → 0 for every feature that also fires alone. What was found: the reason holds and the conclusion does not. L1 mixes in
the same directions at every λ > 0, in proportion to λ. What is TopK's own is that k has to be known: at k of at least
the true L0 the truth is optimal, below it is not even a local optimum, while L1 finds the true L0 at every small λ.

The slope of L1's mixing at λ → 0 needs no dictionary learning. Let ``d_k = f_k + λ Σ_j e_kj f_j`` and
``b = λ Σ_j β_j f_j``. Where f_j is active the residual along it is λ; elsewhere it is ``−λ s``, ``s = β_j + Σ_k e_kj
z_k``, but at most λ, since otherwise the atom would fire there too. By T3 the residual along f_j must average to zero,
and to zero over the datapoints of every other k, weighted with z_k: for each j a regression with a loss of ``½s²``,
linear below s = −1, over the datapoints without j, against the sums of (1, z) over those with it. (Without the cap,
which was forgotten at first, the slope is 8 % too small at c = ±0.5 and right to 1 % elsewhere.)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from correlated_toy import DIM, FEATURES, Toy, draw
from matplotlib.figure import Figure
from reporting import COLORS, MARKERS, Claims, Results, parser, save

from cvxsae import learn_dictionary
from cvxsae.diagnostics import second_order
from cvxsae.relaxations import cone_condition

CORRELATIONS = (-0.5, -0.4, -0.2, 0.0, 0.2, 0.4, 0.5)
SHOWN = (-0.4, 0.4)
"""The correlations of the paper's two figures, for which whole paths are computed."""

PENALTIES = (0.001, 0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)
SHARES = (1.0, 0.99, 0.97, 0.95, 0.9, 0.8)
NARROW = 0.9
"""The paper's k: 1.8 of 2."""

SLOPE_LAM = 1e-4
"""Where L1's mixing over λ is compared with its slope at λ → 0."""

COMPARED = 0.1
"""The λ at which random starts are tried too."""

GENTLE = 0.2
"""Up to this λ, L1 is expected to find the true sparsity: strengths below it are rare."""

OWN = 0.03
"""A mean cosine that would count as no mixing."""

PLAIN_ROUNDS = 30
"""Rounds under k of every datapoint: with a free bias that alternation creeps on for thousands."""

NEWTON = 50
"""Steps at most of a piecewise quadratic regression, which ends when the pieces stay."""

GAIN = 1e-6
"""The alternation under L0 ends when a round gains less than this share of the error at its start."""

Array = np.ndarray


class Size(NamedTuple):
    """How much is computed."""

    seeds: int = 5
    points: int = 2000
    rounds: int = 100
    penalties: tuple[float, ...] = PENALTIES
    shares: tuple[float, ...] = SHARES


class Found(NamedTuple):
    """A dictionary and what it is worth."""

    dictionary: Array
    error: float
    """Mean of ‖r‖² over the mean of ‖x‖²."""
    l0: float
    value: float
    """F, or half the mean squared error under L0."""
    start: float
    """The same at the start, under L0."""
    stationarity: float

    def mixing(self, toy: Toy) -> float:
        """Mean cosine of latents 1 to 3 with feature 0."""
        return float((self.dictionary[1:4] @ toy.features[0]).mean())

    def numbers(self, toy: Toy) -> tuple[float, ...]:
        """Mixing, kept, error, sparsity over the true one."""
        return self.mixing(toy), self.kept(toy), self.error, self.l0 / toy.l0

    def kept(self, toy: Toy) -> float:
        """The least cosine of a latent with its own feature."""
        return float((self.dictionary * toy.features).sum(axis=1).min())


def share_out(X: Array, atoms: Array, budget: int, most: int | None) -> tuple[Array, float]:
    """Codes of the least error with at most ``budget`` active entries in all, or ``most`` each; and half its mean.

    With ``err[n, m]`` the least error of a datapoint with m atoms, the best allocation is the one that minimizes
    ``err + μ m`` for some price μ of an active code, wherever its number of codes is met; bisection finds the least μ
    that keeps within the budget, and it is met up to the codes that tie there.
    """
    count, width = len(X), len(atoms)
    powers, products, gram = (X**2).sum(axis=1), X @ atoms.T, atoms @ atoms.T
    errors = np.full((width + 1, count), np.inf)
    codes = np.zeros((width + 1, count, width))
    errors[0] = powers
    for size in range(1, width + 1):
        for support in combinations(range(width), size):
            on = list(support)
            z = np.linalg.solve(gram[np.ix_(on, on)], products[:, on].T).T
            left = powers - (z * products[:, on]).sum(axis=1)
            better = np.flatnonzero((z >= 0).all(axis=1) & (left < errors[size]))
            errors[size][better] = left[better]
            codes[size][better] = 0
            codes[size][np.ix_(better, on)] = z[better]
    rows = np.arange(count)
    if most is not None:
        chosen = errors[: most + 1].argmin(axis=0)
        return codes[chosen, rows], float(np.maximum(errors[chosen, rows], 0).mean() / 2)
    sizes = np.arange(width + 1)[:, None]
    low, high = 0.0, float(powers.max())
    while high - low > 1e-12 * float(powers.max()):
        middle = (low + high) / 2
        if (errors + middle * sizes).argmin(axis=0).sum() > budget:
            low = middle
        else:
            high = middle
    chosen = (errors + high * sizes).argmin(axis=0)
    return codes[chosen, rows], float(np.maximum(errors[chosen, rows], 0).mean() / 2)


def under_l0(toy: Toy, share: float, rounds: int, most: int | None = None) -> Found:
    """Descend from the truth under at most ``share`` of the true number of active codes, or ``most`` a datapoint."""
    X, atoms, bias = toy.points, toy.features, np.zeros(DIM)
    budget = round(share * toy.l0 * len(X))
    Z, value = share_out(X, atoms, budget, most)
    start = value
    for _ in range(rounds):
        solution = np.linalg.lstsq(np.column_stack([Z, np.ones(len(X))]), X, rcond=None)[0]
        moved, offset = solution[:-1] / np.linalg.norm(solution[:-1], axis=1, keepdims=True), solution[-1]
        codes, lower = share_out(X - offset, moved, budget, most)
        if value - lower <= GAIN * start:
            break
        atoms, bias, Z, value = moved, offset, codes, lower
    error = ((X - bias - Z @ atoms) ** 2).sum() / (X**2).sum()
    return Found(atoms, float(error), float((Z > 0).sum() / len(X)), value, start, np.nan)


def under_l1(toy: Toy, lam: float, init: object) -> tuple[Found, Array]:
    """Descend under L1 with exact codes; also the bias."""
    given = init is not None
    fit = learn_dictionary(toy.points, FEATURES, lam, init=init, moves=not given, stationarity=1e-6)
    left = toy.points - fit.bias - fit.codes @ fit.dictionary
    error = float((left**2).sum() / (toy.points**2).sum())
    sparsity = fit.codes.nnz / len(toy.points)
    return Found(fit.dictionary, error, sparsity, fit.value, np.nan, fit.worst_stationarity), fit.bias


def slope(toy: Toy) -> float:
    """L1's mean cosine of latents 1 to 3 with feature 0, over λ, as λ → 0: the docstring's regression, by Newton."""
    others = np.column_stack([np.ones(len(toy.points)), toy.strengths[:, 1:]])
    on = toy.strengths[:, 0] > 0
    without, wanted = others[~on], others[on].sum(axis=0)
    capped = np.zeros(len(without), dtype=bool)
    for _ in range(NEWTON):
        free = without[~capped]
        solution = np.linalg.lstsq(free.T @ free, wanted + without[capped].sum(axis=0), rcond=None)[0]
        was, capped = capped, without @ solution < -1
        if (was == capped).all():
            break
    return float(solution[1:4].mean())


def at_truth(claims: Claims, results: Results, correlations: Sequence[float], size: Size) -> dict[float, Array]:
    """At every correlation: L0 at nine tenths of the true sparsity from the truth, and L1's slope at λ → 0."""
    rows, mixed = [], {}
    cones, perfect, falls, off, wrong = [], [], [], [], []
    for c in correlations:
        found = []
        for seed in range(size.seeds):
            toy = draw(c, seed, size.points)
            cones.append(cone_condition(toy.strengths, toy.features).all_hold)
            perfect.append(under_l0(toy, 1.0, 1).start)
            narrow = under_l0(toy, NARROW, size.rounds)
            small, _ = under_l1(toy, SLOPE_LAM, (toy.features, np.zeros(DIM)))
            found.append((narrow.mixing(toy), narrow.kept(toy), small.mixing(toy) / SLOPE_LAM, slope(toy)))
            falls.append(1 - narrow.value / narrow.start)
            off.append(abs(found[-1][2] - found[-1][3]))
            wrong.append(small.stationarity)
        means, mixed[c] = np.mean(found, axis=0), np.array(found)[:, 0]
        seeds = f"{mixed[c].min():.3f} to {mixed[c].max():.3f}"
        rows.append((f"{c:g}", f"{means[0]:.3f}", seeds, *(f"{value:.3f}" for value in means[1:])))
    columns = [
        "c",
        "L0, k = 0.9: mixing",
        "seeds",
        "kept",
        f"L1: mixing/λ at {SLOPE_LAM:g}",
        "as computed at the truth",
    ]
    results.table("truth", columns, rows)
    claims.check(f"T6: the cone condition holds at the truth in all {len(cones)} draws", all(cones))
    claims.check(
        f"k at the true L0: the truth has no error, {max(perfect):.0e} ≤ 1e-12, so it is optimal", max(perfect) <= 1e-12
    )
    claims.check(
        f"k = 0.9 of it: the truth is no local optimum, exact codes alone lower its error, by {min(falls):.1%} or more",
        min(falls) > 0.01,
    )
    claims.check(f"λ = {SLOPE_LAM:g}: L1 from the truth is stationary, {max(wrong):.0e} ≤ 1e-06", max(wrong) <= 1e-6)
    claims.check(f"its mixing/λ is the slope computed at the truth, to {max(off):.1e} ≤ 3e-02", max(off) <= 3e-2)
    return mixed


class Path(NamedTuple):
    """Mixing, least cosine with the own feature, error, L0 over the true one: (seeds, settings, 4)."""

    l1: Array
    l0: Array
    worse: int
    """Seeds in which a random start ended lower than the truth, of those at :data:`COMPARED`."""


def along(c: float, size: Size) -> Path:
    """Everything along λ and along k at one correlation."""
    l1, l0, worse = [], [], 0
    for seed in range(size.seeds):
        toy = draw(c, seed, size.points)
        cells = []
        for lam in size.penalties:
            found, _ = under_l1(toy, lam, (toy.features, np.zeros(DIM)))
            cells.append(found.numbers(toy))
            if lam == COMPARED:
                worse += under_l1(toy, lam, None)[0].value < found.value * (1 - 1e-6)
        l1.append(cells)
        l0.append([under_l0(toy, share, size.rounds).numbers(toy) for share in size.shares])
    return Path(np.array(l1), np.array(l0), worse)


def at_same_error(path: Path, size: Size, share: float) -> tuple[Array, Array, Array]:
    """For every seed: L0's mixing at this k, and L1's mixing and λ at the same error, linear between neighbors."""
    cells = path.l0[:, size.shares.index(share)]
    pairs = list(zip(path.l1, cells[:, 2], strict=True))
    mixing = [np.interp(error, one[:, 2], one[:, 0]) for one, error in pairs]
    return (
        cells[:, 0],
        np.array(mixing),
        np.array([np.interp(error, one[:, 2], size.penalties) for one, error in pairs]),
    )


def compare(claims: Claims, results: Results, size: Size) -> dict[float, Path]:
    """L1 and L0 side by side at the paper's correlations, and what becomes of the prediction."""
    paths = {c: along(c, size) for c in SHOWN}
    for c, path in paths.items():
        columns = ["objective", "mixing", "kept", "error", "L0 over the true one"]
        names = [*(f"L1, λ = {lam:g}" for lam in size.penalties), *(f"L0, k = {share:g}" for share in size.shares)]
        means = np.concatenate([path.l1.mean(axis=0), path.l0.mean(axis=0)])
        print(f"c = {c:g}, means over {size.seeds} seeds")
        results.table(
            f"path{c:+g}", columns, [(n, *(f"{v:.4f}" for v in row)) for n, row in zip(names, means, strict=True)]
        )
    rows = []
    for c, path in paths.items():
        for share in size.shares[1:]:
            ours, theirs, lam = at_same_error(path, size, share)
            error = path.l0[:, size.shares.index(share), 2].mean()
            rows.append(
                (f"{c:g}", f"{share:g}", *(f"{value:.4f}" for value in (error, ours.mean(), theirs.mean(), lam.mean())))
            )
    results.table("same_error", ["c", "k over the true L0", "error", "L0's mixing", "L1's mixing", "at λ"], rows)
    gentle = np.array(size.penalties) <= GENTLE
    for c, path in paths.items():
        narrow, mixing, lam = at_same_error(path, size, NARROW)
        towards = np.sign(c) * path.l1[:, gentle, 0]
        claims.check(
            f"c = {c:g}: L1 mixes as the features correlate, and the more the larger λ, up to {GENTLE:g}",
            (towards > 0).all() and (np.diff(towards) > 0).all(),
        )
        right = np.abs(path.l1[:, gentle, 3] - 1).max()
        claims.check(
            f"c = {c:g}: up to λ = {GENTLE:g} its sparsity is the true one, to {right:.1%} ≤ 1 %, unasked",
            right <= 0.01,
        )
        claims.check(
            f"c = {c:g}: the prediction fails, mixing is not TopK's own: at the same error L1's is {mixing.mean():.3f} "
            f"(λ ≈ {lam.mean():.2f}), L0's {narrow.mean():.3f}",
            (np.sign(c) * mixing > OWN).all(),
        )
        if len(size.shares) > 2:
            claims.check(
                f"c = {c:g}: but there L0 mixes more, on average {narrow.mean() / mixing.mean():.1f} times as much",
                abs(narrow.mean()) > abs(mixing.mean()),
            )
            results.value(f"times_{c:g}", narrow.mean() / mixing.mean(), ".1f")
            narrow, mixing, lam = at_same_error(path, size, size.shares[1])
            claims.check(
                f"c = {c:g}: at k = {size.shares[1]:g} L0 mixes less than L1 at the same error, "
                f"{narrow.mean():.4f} against {mixing.mean():.4f} (λ ≈ {lam.mean():.3f})",
                abs(narrow.mean()) < abs(mixing.mean()),
            )
        print(f"       (at λ = {COMPARED:g} a random start ends lower in {path.worse} of {size.seeds} seeds)")
    return paths


def per_datapoint(claims: Claims, results: Results, size: Size) -> None:
    """Plain TopK: at most 1 or 2 active codes of every datapoint, by enumeration."""
    rows, falls = [], []
    for c in SHOWN:
        for most in (1, 2):
            found = []
            for seed in range(size.seeds):
                toy = draw(c, seed, size.points)
                end = under_l0(toy, 1.0, PLAIN_ROUNDS, most)
                falls.append(1 - end.value / end.start)
                found.append((*end.numbers(toy)[:3], end.start / (toy.points**2).sum(axis=1).mean() * 2))
            rows.append((f"{c:g}", str(most), *(f"{value:.3f}" for value in np.mean(found, axis=0))))
    columns = ["c", "k", "mixing", "kept", f"error after {PLAIN_ROUNDS} rounds", "error of the truth"]
    results.table("per_datapoint", columns, rows)
    claims.check(
        f"k = 1 and 2 of every datapoint: the truth is no local optimum, its error falls by {min(falls):.0%} or more "
        f"in {PLAIN_ROUNDS} rounds, which are not the end",
        min(falls) > 0.01,
    )


def local_minima(claims: Claims, size: Size) -> None:
    """The second-order test where L1 ends."""
    curved = []
    for c in SHOWN:
        toy = draw(c, 0, size.points)
        found, bias = under_l1(toy, COMPARED, (toy.features, np.zeros(DIM)))
        curved.append(second_order(toy.points, found.dictionary, COMPARED, bias=bias, trained_bias=True).is_positive)
    claims.check(f"λ = {COMPARED:g}: where L1 from the truth ends is a local minimum (T5), seed 0", all(curved))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 if all claims hold."""
    options = parser(__doc__)
    options.add_argument("--small", action="store_true", help="one seed, fewer datapoints, correlations and penalties")
    given = options.parse_args(arguments)
    size = Size(1, 600, 10, (0.001, 0.15, 0.2), (1.0, NARROW)) if given.small else Size()
    claims, results = Claims(), Results()
    mixed = at_truth(claims, results, SHOWN if given.small else CORRELATIONS, size)
    paths = compare(claims, results, size)
    if not given.small:
        per_datapoint(claims, results, size)
        local_minima(claims, size)
    save(draw_figure(mixed, paths, size), given.out, "sparse_but_wrong")
    results.save(given.results, "sparse_but_wrong")
    return claims.exit_code


def draw_figure(mixed: dict[float, Array], paths: dict[float, Path], size: Size) -> Figure:
    """Mixing against the correlation under L0, and against the error under both."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(list(mixed), [values.mean() for values in mixed.values()], "s-", color=COLORS[1])
    for c, values in mixed.items():
        left.plot(np.full(len(values), c), values, ".", color=COLORS[2], alpha=0.5)
    left.set(
        xlabel="correlation c", ylabel="mean cosine of latents 1–3 with feature 0", title="L0, k = 0.9 of the true L0"
    )
    for (c, path), style in zip(paths.items(), ("--", "-"), strict=True):
        for name, cells, marker, color in zip(("L1", "L0"), (path.l1, path.l0), MARKERS, COLORS, strict=False):
            means = cells.mean(axis=0)
            right.plot(
                means[:, 2], means[:, 0], marker + style, color=color, label=f"{name}, c = {c:g}".replace("-", "−")
            )
    right.set(xlabel="error over mean square of the data", ylabel="mean cosine of latents 1–3 with feature 0")
    right.set(title="mixing against error", xlim=(0, 0.3))
    right.legend(frameon=False, fontsize="small")
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
