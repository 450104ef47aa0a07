"""(l) Will larger SAEs ever stop splitting? R noisy rays: where splitting stops, predicted and then measured.

    python examples/phenomena/stop_splitting.py [--out folder] [--results folder]

R = 12 unit vectors in R^16; m = 8 datapoints on each, of length 1, moved sideways by noise of σ a coordinate (λ = 0.1,
no bias). Predictions, written before the measurement:

*Atoms free (τ = 0), σ = 0.* F*_K falls until K = R and is F_wide from there (T9, attained iff every datapoint longer
than λ is parallel to an atom). Wider dictionaries have R directions, too. At the stop residuals are λ along the
atoms, so the split score (T8) is zero, and no new atom gains anything, as no residual is longer than λ (T7).

*Atoms free, σ > 0.* A datapoint of length s at an angle ψ from its atom has ‖r‖² = λ² + s² sin²ψ, which is more than
λ²: it would pay for an atom of its own (T7). So splitting stops only at one atom per datapoint, K = N. What is left to
gain at K = R is F − F_wide = mean ½[(s − λ)² − (s cos ψ − λ)²] ≈ ½ s(s − λ) mean ψ²: a fourth at half the noise.

*Atoms cost τ.* Write θ = θ_τ(z_k), S = Σ_n z_nk. On its datapoints an atom has d_k·r_n = λ(S + τ z_n)/θ, and a
dictionary is optimal iff no direction has a polar above λ (T11, T13).

(a) *Where clusters stop splitting.* Turning a copy of the atom sideways by a small angle raises the polar unless

    max over unit e ⊥ d_k of  Σ_n η_n² − (Σ_n η_n)²/(m + τ)  ≤  τλ²,     η_n = e·r_n, over the m datapoints of k.

    (To second order in the angle, with the best offset a of T13; Σ(v_n − a)_+ v_n = τλ² at an optimal atom.) So a
    cluster is one atom from τ = (largest eigenvalue of its sideways scatter)/λ² on. For a distribution: a share p of
    the tokens with largest sideways variance σ² stops splitting at τ̄ = p σ²/λ².
(b) *Where clusters begin to share.* With R clusters of m equal datapoints, M = λ²(11ᵀ + τI) − RRᵀ is copositive iff
    every cosine of two clusters is at most 1/(1 + τ/m): T12 with clusters in the place of datapoints. So one atom a
    cluster, and one atom a datapoint, is optimal exactly up to τ = m (1/cos − 1), at any noise that (a) lets pass, but
    for O(σ). For a distribution: τ̄ = p (1/cos − 1).
(c) *How many atoms there can be.* The mean of d_k·r over an atom's datapoints, weighted with their codes, is λθ/S =
    λ√(1 + τ/s_k), s_k = S²/Σz² its effective support. Hence s_k ≥ τ/(R²/λ² − 1) with R the longest residual, and
    K ≤ N L0 (R²/λ² − 1)/τ: at a fixed share τ̄ = τ/N no more atoms than L0 (R²/λ² − 1)/τ̄, whatever N.

At τ > 0 every value is certified, and its gap printed. At τ > 0 the number of live atoms is
what remains when atoms worth less than 1e-6 of the value are dropped and parallel ones merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from reporting import COLORS, MARKERS, Claims, Results, parser, plain_ticks, save

from cvxsae import LargeDictionary, check_optimality, encode, large_path, learn_dictionary, width_floor
from cvxsae.relaxations.candidate import Candidate

RAYS, DIM, EACH, LAM = 12, 16, 8, 0.1
NOISES = (0.01, 0.02)
"""At 0.005 what a split gains is below the gap of the solves: they leave clusters split that (a) says are one atom."""

SAME = 1e-5
"""1 − cosine below which two atoms are one direction."""

TIGHT = 1e-6
"""Relative gap of the solves at τ > 0."""

VISIBLE = 0.85
"""Of its price (a): closer to it a split cluster gains less than what the solves of all datapoints leave open."""

BELOW = (0.25, 0.5, 0.7, 0.9, 0.98)
"""Prices tried below a predicted threshold, as shares of it; those above are their reciprocals."""


class Rays(NamedTuple):
    """Datapoints around rays.

    Attributes
    ----------
    X
        (R m, d), cluster by cluster.
    directions
        (R, d).
    """

    X: np.ndarray
    directions: np.ndarray

    @classmethod
    def draw(cls, noise: float, seed: int = 0) -> Rays:
        """Rays and noise of one seed: noises of another σ are the same but for their length."""
        rng = np.random.default_rng(seed)
        directions = rng.standard_normal((RAYS, DIM))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        owners = np.repeat(directions, EACH, axis=0)
        sideways = rng.standard_normal(owners.shape)
        sideways -= np.sum(sideways * owners, axis=1, keepdims=True) * owners
        return cls(owners + noise * sideways, directions)

    @property
    def clusters(self) -> np.ndarray:
        """(R, m, d)."""
        return self.X.reshape(RAYS, EACH, DIM)

    def merging_prices(self) -> np.ndarray:
        """(a): for each cluster the τ from which it is one atom, (R,): the root of the condition, by iteration."""
        found = []
        for cluster in self.clusters:
            atom = cluster.mean(axis=0) / np.linalg.norm(cluster.mean(axis=0))
            eta = cluster - np.outer(cluster @ atom, atom)
            tau = 0.0
            for _ in range(50):
                total = eta.sum(axis=0)
                scatter = eta.T @ eta - np.outer(total, total) / (EACH + tau)
                tau = float(np.linalg.eigvalsh(scatter)[-1]) / LAM**2
            found.append(tau)
        return np.array(found)

    def sharing_price(self) -> float:
        """(b): the τ from which two clusters share an atom."""
        means = self.clusters.mean(axis=1)
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        cosines = means @ means.T
        return EACH * (1 / float((cosines - 2 * np.eye(RAYS)).max()) - 1)


def directions_of(atoms: np.ndarray) -> int:
    """How many directions a dictionary has: parallel atoms count once."""
    left, count = atoms, 0
    while len(left):
        left, count = left[left @ left[0] < 1 - SAME], count + 1
    return count


def measured(X: np.ndarray, K: int) -> dict[str, float]:
    """A dictionary of K atoms where atoms are free: value, floor, directions in use, and what T7 and T8 see.

    The better of two searches, from random atoms and from K/R datapoints of every cluster.
    """
    fits = [learn_dictionary(X, K, LAM, bias=None, stationarity=1e-6)]
    if K % RAYS == 0:
        start = X.reshape(RAYS, EACH, DIM)[:, : K // RAYS].reshape(K, DIM)
        start = start / np.linalg.norm(start, axis=1, keepdims=True)
        fits.append(learn_dictionary(X, K, LAM, bias=None, stationarity=1e-6, init=start))
    fit = min(fits, key=lambda one: one.value)
    live = np.asarray(fit.codes.sum(axis=0)).ravel() > 0
    report = check_optimality(X, fit.dictionary, LAM, codes=fit.encoding, code_tol=1e-9)
    residuals = X - fit.codes @ fit.dictionary
    return {
        "value": fit.value,
        "floor": width_floor(X, K, LAM, bias=None).value,
        "directions": directions_of(fit.dictionary[live]),
        "split": float(np.nanmax(report.features["split_score"].to_numpy(dtype=np.float64))),
        "gain": float(report.new_atom_gains.max(initial=0.0)),
        "longest": float(np.linalg.norm(residuals, axis=1).max()),
    }


def wide_limit(X: np.ndarray) -> float:
    """F_wide without a bias, every datapoint longer than λ."""
    return float(np.mean(LAM * np.linalg.norm(X, axis=1) - LAM**2 / 2))


def noiseless(claims: Claims, results: Results, widths: Sequence[int]) -> None:
    """Atoms free, σ = 0: splitting stops at R."""
    X = Rays.draw(0.0).X
    wide, rows, stopped, going = wide_limit(X), [], [], []
    for K in widths:
        found = measured(X, K)
        excess = found["value"] - wide
        rows.append([K, found["value"], found["floor"], excess, *(found[n] for n in ("directions", "split", "gain"))])
        (stopped if K >= RAYS else going).append([excess, found["split"], found["gain"], found["directions"]])
    print(f"σ = 0, τ = 0: F_wide = {wide:.9g}")
    columns = ["K", "F", "floor of F*_K", "F − F_wide", "live directions", "split score", "gain of a new atom"]
    results.table("noiseless", columns, rows)
    at, before = np.array(stopped), np.array(going)
    worst = np.abs(at[:, :3]).max()
    claims.check(
        f"σ = 0: from K = R on F is F_wide, and split score and gain are zero: {worst:.1e} ≤ 1e-08", worst <= 1e-8
    )
    claims.check(f"σ = 0: live directions stop at R = {RAYS}", (at[:, 3] == RAYS).all())
    claims.check("σ = 0: below R every score is positive, and F above F_wide", (before[:, :3] > 1e-5).all())


def noisy(claims: Claims, results: Results, noises: Sequence[float], widths: Sequence[int]) -> dict[float, list[float]]:
    """Atoms free, σ > 0: splitting goes on to one atom a datapoint, for gains that fall as σ²."""
    rows, excesses, longest = [], {}, []
    for noise in noises:
        rays = Rays.draw(noise)
        wide, excesses[noise] = wide_limit(rays.X), []
        means = rays.clusters.mean(axis=1)
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        length = np.linalg.norm(rays.clusters, axis=2)
        along = np.einsum("rmd,rd->rm", rays.clusters, means)
        predicted = float(np.mean((length - LAM) ** 2 - (along - LAM) ** 2)) / 2
        for K in widths:
            found = measured(rays.X, K) if len(rays.X) > K else datapoints_own(rays.X)
            excesses[noise].append(found["value"] - wide)
            if len(rays.X) > K:
                longest.append(found["longest"])
            said = predicted if K == RAYS else ""
            rows.append([noise, K, found["value"], found["value"] - wide, said, found["longest"] / LAM])
        claims.close(
            f"σ = {noise:g}: (F − F_wide)/(what the angles say) at K = R", excesses[noise][0] / predicted, 1, 0.02
        )
    print("τ = 0: what splitting still gains, and the longest residual (T7: it stops at λ)")
    results.table("noisy", ["σ", "K", "F", "F − F_wide", "predicted", "longest residual/λ"], rows)
    every = np.array([excesses[noise] for noise in noises])
    claims.check("σ > 0: F falls with every doubling of K, until K = N", (np.diff(every, axis=1) < 0).all())
    claims.check(
        f"σ > 0: F is F_wide at K = N: {np.abs(every[:, -1]).max():.1e} ≤ 1e-12", (every[:, -1] <= 1e-12).all()
    )
    claims.check(f"σ > 0: before, some residual is longer than λ: {min(longest) / LAM - 1:.1e} > 0", min(longest) > LAM)
    gains = -np.diff(every, axis=1)
    ratios = (gains[1:] / gains[:-1]) / (np.array(noises[1:]) / np.array(noises[:-1]))[:, None] ** 2
    if len(ratios):
        worst = np.abs(ratios - 1).max()
        claims.check(f"σ > 0: the gain of a doubling falls as σ², to {worst:.1%} ≤ 15 %", worst <= 0.15)
    return excesses


def datapoints_own(X: np.ndarray) -> dict[str, float]:
    """One atom a datapoint, where nothing has to be learned."""
    atoms = X / np.linalg.norm(X, axis=1, keepdims=True)
    fit = encode(X, atoms, LAM, tol=1e-13)
    residuals = X - fit.codes @ atoms
    return {"value": fit.value, "longest": float(np.linalg.norm(residuals, axis=1).max())}


def with_price(claims: Claims, results: Results, noises: Sequence[float], below: Sequence[float]) -> dict:
    """Atoms cost τ: one atom a cluster between two prices."""
    curves, rows, gaps = {}, [], []
    for noise in noises:
        rays = Rays.draw(noise)
        merging, sharing = rays.merging_prices(), rays.sharing_price()
        low, high = float(merging.max()), sharing
        factors = [*below, *(1 / f for f in reversed(below))]
        prices = sorted({low * f for f in factors if low} | {high * f for f in factors if high * f < 1.5 * high})
        path = large_path(LargeDictionary(rays.X, LAM, 1.0, bias=None), prices, tol=TIGHT)
        right, shared = [], []
        for point, candidate in zip(path.points, path.candidates, strict=True):
            tau = point.atom_cost
            own = atoms_of_clusters(rays, np.asarray(candidate.dictionary))
            one, expected = int((own == 1).sum()), int((merging <= tau).sum())
            right.append(expected <= one <= int((VISIBLE * merging <= tau).sum()) or tau > high)
            bound = len(rays.X) * point.l0 * (longest_of(rays.X, candidate) ** 2 / LAM**2 - 1) / tau
            shared.append((tau / high, point.l0, point.live_atoms, bound))
            rows.append([noise, tau, expected, one, point.live_atoms, point.l0, bound, point.value, f"{point.gap:.1e}"])
            gaps.append(point.gap)
        curves[noise] = (path.points, low, high)
        claims.check(f"σ = {noise:g}: at every τ the clusters of one atom are those of (a), where seen", all(right))
        inside = [s for s in shared if low / high * 1.03 < s[0] < 0.97]
        claims.check(
            f"σ = {noise:g}: one atom a cluster for all τ between {low:.3g} (a) and {high:.3g} (b)",
            inside and all(s[2] == RAYS for s in inside),
        )
        if noise == 0:
            at = [s[1] for s in shared if s[0] < 1], [s[1] for s in shared if s[0] > 1]
            claims.check("σ = 0: no datapoint uses two atoms below (b), some do above", max(at[0]) == 1 < min(at[1]))
        claims.check(f"σ = {noise:g}: never more atoms than (c)", all(s[2] <= s[3] * (1 + 1e-6) for s in shared))
    print("atoms cost τ: clusters that are one atom, atoms, L0, and the most atoms that (c) allows")
    columns = ["σ", "τ", "(a)", "clusters of one atom", "live atoms", "L0", "(c)", "value", "gap"]
    results.table("priced", columns, rows)
    claims.check(f"every value at τ > 0 is certified: largest gap {max(gaps):.1e} ≤ 1e-04", max(gaps) <= 1e-4)
    return curves


def alone(claims: Claims, results: Results, noise: float, clusters: int) -> None:
    """(a) to 2 %: each cluster by itself, solved a thousand times tighter, on both sides of its price."""
    rays = Rays.draw(noise)
    rows, right, gaps = [], [], []
    for cluster, price in list(zip(rays.clusters, rays.merging_prices(), strict=True))[:clusters]:
        path = large_path(LargeDictionary(cluster, LAM, 1.0, bias=None), (0.98 * price, 1.02 * price), tol=1e-9)
        below, above = (point.live_atoms for point in path.points)
        gaps += [point.gap for point in path.points]
        rows.append([price, below, above])
        right.append(below > 1 == above)
    print(f"clusters alone, σ = {noise:g}: atoms 2 % below and 2 % above the price of (a)")
    results.table("alone", ["τ of (a)", "atoms below", "atoms above"], rows)
    claims.check(
        f"a cluster alone is split below (a) and one atom above, to 2 %; largest gap {max(gaps):.1e}", all(right)
    )


def atoms_of_clusters(rays: Rays, atoms: np.ndarray) -> np.ndarray:
    """How many atoms each cluster has: an atom belongs to the ray it is closest to."""
    return np.bincount((atoms @ rays.directions.T).argmax(axis=1), minlength=RAYS)


def longest_of(X: np.ndarray, candidate: Candidate) -> float:
    """The longest residual of a dictionary and its codes."""
    codes = np.asarray(candidate.codes)
    return float(np.linalg.norm(X - codes @ np.asarray(candidate.dictionary), axis=1).max())


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 if all claims hold."""
    options = parser(__doc__)
    options.add_argument("--small", action="store_true", help="fewer widths, noises and prices")
    asked = options.parse_args(argv)
    claims, results = Claims(), Results()
    noises = NOISES[:1] if asked.small else NOISES
    noiseless(claims, results, (6, RAYS) if asked.small else (3, 6, 9, 11, RAYS, 13, 2 * RAYS, 4 * RAYS))
    points = RAYS * EACH
    excesses = noisy(claims, results, noises, (RAYS, points) if asked.small else (RAYS, 2 * RAYS, 4 * RAYS, points))
    alone(claims, results, NOISES[0], 1 if asked.small else RAYS)
    curves = with_price(claims, results, (0.0, *noises), BELOW[3:] if asked.small else BELOW)

    widths = (RAYS, points) if asked.small else (RAYS, 2 * RAYS, 4 * RAYS, points)
    lives = {noise: [(one.atom_cost, one.live_atoms) for one in found] for noise, (found, _, _) in curves.items()}
    ends = {noise: low for noise, (_, low, _) in curves.items()}
    figure = draw({noise: (widths[:-1], curve[:-1]) for noise, curve in excesses.items()}, lives, ends, curves[0.0][2])
    save(figure, asked.out, "stop_splitting")
    results.save(asked.results, "stop_splitting")
    return claims.exit_code


def draw(
    excesses: dict[float, tuple[Sequence[int], Sequence[float]]],
    lives: dict[float, Sequence[tuple[float, int]]],
    ends: dict[float, float],
    sharing: float,
) -> Figure:
    """What free atoms leave to be gained over K, and live atoms over their price."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = {noise: (color, marker) for noise, color, marker in zip(lives, COLORS, MARKERS, strict=False)}
    for noise, curve in excesses.items():
        color, marker = styles[noise]
        left.plot(*curve, f"{marker}-", color=color, label=f"σ = {noise:g}")
    left.set(
        xscale="log", yscale="log", xlabel="atoms K", ylabel="F − F_wide", title="atoms free: it never stops before N"
    )
    plain_ticks(left.xaxis, next(iter(excesses.values()))[0])
    left.legend(frameon=False)
    for size, (noise, curve) in zip((9, 6, 4), lives.items(), strict=False):
        color, marker = styles[noise]
        right.plot(*zip(*curve, strict=True), f"{marker}-", color=color, markersize=size, label=f"σ = {noise:g}")
        if ends[noise]:
            label = f"(a): one atom a cluster, σ = {noise:g}"
            right.axvline(ends[noise], color=color, linestyle=":", label=label)
    right.axvline(sharing, color="black", linestyle="--", label="(b): clusters share atoms")
    right.set(xscale="log", xlabel="price of an atom τ, datapoints", ylabel="live atoms", title="atoms cost τ")
    plain_ticks(right.xaxis, (0.1, 0.3, 1, 3, 10))
    right.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
