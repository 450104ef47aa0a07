"""Measures of phenomena: absorption, residual structure, antipodes, duplicates, densities.

Each takes the :class:`~cvxsae.diagnostics.sums.FeatureStatistics` of exact codes, so that what it sees is a
property of the dictionary and not of an encoder. Splitting is in :mod:`~cvxsae.relaxations.joint.refinement` (T8).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.data import arguments, tensors
from cvxsae.data.arithmetic import own_arithmetic
from cvxsae.diagnostics.pairs import PairBlock, Score, scan_pairs
from cvxsae.diagnostics.sums import FeatureStatistics, Moments, require_statistics
from cvxsae.errors import InputError
from cvxsae.relaxations import linalg

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

DENSE = 0.1
"""A feature active on more than this share of the datapoints is called dense."""

DUPLICATE = 0.99
"""Two atoms with at least this cosine are called duplicates."""

ANTIPODAL = -0.9
"""Two atoms with at most this cosine are called antipodal."""

_PAIRS = 100
"""How many pairs a table keeps unless told otherwise."""

_RIDGES = (1e-8, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridges tried in the regressions, in mean variances of the data: from none to one that leaves nothing."""

_ORTHOGONAL = 1e-6
"""Atoms with a smaller cosine share no direction that one could have absorbed."""

_BISECTIONS = 100
"""Halvings of an interval: more than float64 can tell apart."""

_SPECTRUM = 20
"""Entries of the spectrum that JSON keeps."""

_CANCELED = 1e-12
"""Variance relative to the mean square below which it is what rounding leaves of a difference of sums."""


# ------------------------------------------------------------------------------------------ absorption


def absorption_score(statistics: FeatureStatistics, block: PairBlock) -> np.ndarray:
    """``(1 − P_k(j)) · min(carried, 1)`` where ``cos(d_j, d_k) > 0``: j's direction is there, but j is silent."""
    present = np.clip(np.where(np.isnan(block.carried), 0, block.carried), 0, 1)
    return np.where(block.cosine > _ORTHOGONAL, (1 - np.clip(block.cofiring, 0, 1)) * present, -np.inf)


@own_arithmetic()
def absorption(statistics: FeatureStatistics, *, count: int = _PAIRS) -> pd.DataFrame:
    """Rank ordered pairs by how much child k has absorbed parent j (T4, consequence a).

    A stationary dictionary cannot keep a parent that fires on all of its child's datapoints: the parent is silent
    there, and the child's atom carries its direction (Chanin et al. 2024 call this feature absorption). The score is
    ``(1 − P_k(j)) · E_k[d_j·(x − b)] / E_j[d_j·(x − b)]``, the ratio capped at 1: one when j never fires with k
    although k's datapoints hold as much of j's direction as j's own do. It needs no labels and so cannot tell a
    parent's absorption from two features that merely resemble each other: ``cosine``, ``cofiring`` and the densities
    are there to judge.

    Returns
    -------
    pandas.DataFrame
        Columns of :func:`~cvxsae.diagnostics.pairs.scan_pairs`, largest score first.
    """
    return scan_pairs(statistics, {"absorption": absorption_score}, count).tables["absorption"]


def absorption_gap(codes: Any, atom: int, parent: ArrayLike, child: ArrayLike) -> float:
    """``P(z > 0 | parent without child) − P(z > 0 | parent with child)`` of the atom that stands for the parent.

    For data with a known hierarchy: zero if the atom fires wherever the parent does, one if the child has absorbed it
    completely.

    Parameters
    ----------
    codes
        (N, K), sparse or dense.
    atom
        The atom that stands for the parent.
    parent, child
        Whether each feature is truly active on each datapoint, (N,).

    Raises
    ------
    InputError
        If one of the two kinds of datapoints does not occur.
    """
    Z = tensors.sparse_matrix(codes, "codes")
    above, below = (tensors.vector(truth, name).numpy() != 0 for truth, name in ((parent, "parent"), (child, "child")))
    if above.shape != (Z.shape[0],) or below.shape != above.shape:
        raise InputError(f"parent and child have shapes {above.shape} and {below.shape}; both must be ({Z.shape[0]},).")
    fires = Z[:, [arguments.index(atom, "atom", Z.shape[1])]].toarray()[:, 0] > 0
    alone, joined = above & ~below, above & below
    if not (alone.any() and joined.any()):
        raise InputError(
            "parent and child never occur apart or never together; the gap needs datapoints of both kinds."
        )
    return float(fires[alone].mean() - fires[joined].mean())


# ------------------------------------------------------------------------------------------- residuals


@dataclass(frozen=True)
class ResidualStructure:
    """The structure of the residual. Shares are fractions of ``Σ_n ‖r_n‖²`` unless stated otherwise.

    Attributes
    ----------
    energy
        ``mean_n ‖r_n‖²``, in the units of the data squared.
    fraction_unexplained
        ``mean ‖r‖² / mean ‖x − b‖²``.
    shrinkage_share
        Share explained by which atoms are active and by nothing else, ``mean_n λ² 1ᵀG_A⁻¹1`` (T2).
    shrinkage_ratio
        ``E‖x̂‖² / E[x̂·(x − b)]``; at exact codes ``1/(1 + λ E[Σz]/E‖x̂‖²) < 1`` (theory.md §6).
    shrinkage_ratio_expected
        That right-hand side: their difference measures an encoder's error, and is rounding at exact codes.
    vector_r2
        Held-out R² of predicting r from x by ridge regression (two-fold, even against odd datapoints; the best of six
        ridges). How much of an
        SAE's error is linear in the data was asked by Engels, Riggs & Tegmark 2024. NaN with fewer than two datapoints
        a parameter.
    norm_r2
        The same for ``‖r_n‖``.
    share_above_lambda
        Share of the datapoints with ``‖r_n‖ > λ``: those that more atoms would help (T7).
    longest_ratio
        ``max_n ‖r_n‖/λ``; at most 1 iff the dictionary is optimal among those of every width (T7).
    effective_rank
        ``(Σ e_i)² / Σ e_i²`` of the spectrum of ``mean r rᵀ``.
    spectrum
        Its eigenvalues over their sum, largest first, (d,).
    """

    energy: float
    fraction_unexplained: float
    shrinkage_share: float
    shrinkage_ratio: float
    shrinkage_ratio_expected: float
    vector_r2: float
    norm_r2: float
    share_above_lambda: float
    longest_ratio: float
    effective_rank: float
    spectrum: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON; the spectrum's first 20 entries."""
        return {**asdict(self), "spectrum": list(self.spectrum[:_SPECTRUM])}


@own_arithmetic()
def residual_structure(statistics: FeatureStatistics) -> ResidualStructure:
    """Measure shrinkage (T2), linear predictability, length against λ (T7) and spectrum of the residuals."""
    require_statistics(statistics)
    squares = statistics.residual_norms**2
    total, fitted, cross = statistics.energies
    mean_mass = float(statistics.mass.sum())
    eigenvalues = np.clip(linalg.eigvalsh(statistics.second_moment)[::-1], 0, None)
    weight = float(eigenvalues.sum())
    shares = eigenvalues / weight if weight > 0 else eigenvalues[:0]
    vector, norm = _predictability(statistics.halves)
    return ResidualStructure(
        energy=float(squares.mean()),
        fraction_unexplained=_ratio(float(squares.mean()), total),
        shrinkage_share=_ratio(float(statistics.shrinkage.sum()), float(squares.sum())),
        shrinkage_ratio=_ratio(fitted, cross),
        shrinkage_ratio_expected=_ratio(fitted, fitted + statistics.lam * mean_mass),
        vector_r2=vector,
        norm_r2=norm,
        share_above_lambda=float((statistics.residual_norms > statistics.lam).mean()),
        longest_ratio=float(statistics.residual_norms.max()) / statistics.lam,
        effective_rank=_ratio(1.0, float((shares**2).sum())),
        spectrum=tuple(shares.tolist()),
    )


def _ratio(top: float, bottom: float) -> float:
    return float(top / bottom) if bottom > 0 else float("nan")


def _predictability(halves: tuple[Moments, Moments]) -> tuple[float, float]:
    """Held-out R² of the residual and of its norm from x: fitted on one half, judged on the other, both ways."""
    d = len(halves[0].x)
    if min(half.count for half in halves) < 2 * (d + 1):
        return float("nan"), float("nan")
    errors, totals, noise = np.zeros((len(_RIDGES), 2)), np.zeros(2), np.zeros(2)
    for fit, judge in (halves, halves[::-1]):
        mean_x, mean_targets = fit.x / fit.count, np.append(fit.r, fit.e) / fit.count
        covariance = fit.xx / fit.count - np.outer(mean_x, mean_x)
        cross = np.column_stack([fit.xr, fit.xe]) / fit.count - np.outer(mean_x, mean_targets)
        spread, rounding = float(np.trace(covariance)), np.finfo(np.float64).eps * float(np.trace(fit.xx)) / fit.count
        scale = max(max(spread, rounding) / d, np.finfo(np.float64).tiny)
        eigenvalues, axes = linalg.eigh(covariance)
        turned = axes.T @ cross
        for place, ridge in enumerate(_RIDGES):
            weights = axes @ (turned / (np.clip(eigenvalues, 0, None) + ridge * scale)[:, None])
            errors[place] += _squared_errors(judge, weights, mean_targets - mean_x @ weights)
        totals += [judge.rr - float(judge.r @ judge.r) / judge.count, judge.ee - judge.e**2 / judge.count]
        noise += [_CANCELED * judge.rr, _CANCELED * judge.ee]
    totals = np.where(totals > noise, totals, 0.0)  # what varies by rounding alone does not vary
    vector, norm = (_ratio(total - error, total) for error, total in zip(errors.min(axis=0), totals, strict=True))
    return vector, norm


def _squared_errors(half: Moments, weights: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Σ_n ‖target − xW − c‖² over a half, from moments: of r (all columns but the last) and of ‖r‖ (the last)."""
    predicted = half.x @ weights
    squares = np.einsum("ij,ij->j", weights, half.xx @ weights) + 2 * offset * predicted + half.count * offset**2
    cross = np.einsum("ij,ij->j", weights, np.column_stack([half.xr, half.xe])) + offset * np.append(half.r, half.e)
    change = squares - 2 * cross
    return np.array([half.rr + change[:-1].sum(), half.ee + change[-1]])


# --------------------------------------------------------------------------- antipodes, duplicates, density


@own_arithmetic()
def antipodal_pairs(
    statistics: FeatureStatistics, *, cosine: float = ANTIPODAL, density: float = DENSE, count: int = _PAIRS
) -> pd.DataFrame:
    """Find dense antipodal features: pairs with ``cos ≤ cosine``, both active on a share ``density`` of the datapoints.

    Each comes with its *antipodal gain* (theory.md §6): with g_n the coordinate along ``u = d_k`` that the other
    features leave, the least cost of one atom with a free offset minus that of the pair ±u, in units of (P). It is
    large for dense two-sided distributions, about zero for sparse one-sided ones. Duplicates, whose product of cosines
    is as large, have the other sign and are not listed.

    Returns
    -------
    pandas.DataFrame
        Columns ``feature``, ``other`` (feature < other), ``cosine``, ``density``, ``other_density``, ``cofiring``
        (exact antipodes never co-fire), ``gain``; most antipodal first.
    """
    table = scan_pairs(statistics, {"antipodal": antipodal_score(cosine, density)}, count).tables["antipodal"]
    return antipodal_table(statistics, table)


def antipodal_score(cosine: float = ANTIPODAL, density: float = DENSE) -> Score:
    """Rank by how antipodal two dense features are; every pair once."""
    cosine, density = arguments.real(cosine, "cosine"), arguments.nonnegative(density, "density")

    def score(found: FeatureStatistics, block: PairBlock) -> np.ndarray:
        k = block.first + np.arange(len(block.cosine))
        dense = found.density >= density
        wanted = (k[:, None] < np.arange(found.n_atoms)) & dense[k][:, None] & dense & (block.cosine <= cosine)
        return np.where(wanted, -block.cosine, -np.inf)

    return score


def antipodal_table(statistics: FeatureStatistics, table: pd.DataFrame) -> pd.DataFrame:
    """Densities and antipodal gains of the pairs that a scan found."""
    import pandas as pd

    pairs = table[["feature", "other"]].to_numpy(dtype=np.int64)
    return pd.DataFrame(
        {
            "feature": table["feature"],
            "other": table["other"],
            "cosine": table["cosine"],
            "density": statistics.density[pairs[:, 0]],
            "other_density": statistics.density[pairs[:, 1]],
            "cofiring": table["cofiring"],
            "gain": [antipodal_gain(_coordinate(statistics, int(k), int(j)), statistics.lam) for k, j in pairs],
        }
    )


@own_arithmetic()
def antipodal_gain(values: ArrayLike, lam: float) -> float:
    """Compute what the pair ±u saves over the single atom u on coordinates g_n, each with its best offset c.

    In units of (P):

    ``min_c mean h¹_λ(g_n − c) − min_c mean h_λ(|g_n − c|)`` with h_λ the Huber function and h¹_λ the same on
    positives, ``½g²`` on negatives (theory.md §6). Never negative.
    """
    coordinates, lam = tensors.vector(values, "values").numpy(), arguments.penalty(lam, "lam")
    single, pair = (_least(coordinates, lam, least) for least in (-np.inf, -lam))
    return max(0.0, single - pair)


def _least(values: np.ndarray, lam: float, lowest: float) -> float:
    """Minimum over c of the mean of the convex function with derivative ``clip(g − c, lowest, λ)``, by bisection."""
    low, high = float(values.min()), float(values.max())
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if np.clip(values - middle, lowest, lam).mean() > 0:
            low = middle
        else:
            high = middle
    rest = values - (low + high) / 2
    inner = np.clip(rest, lowest, lam)
    return float((inner * (rest - inner / 2)).mean())


def _coordinate(statistics: FeatureStatistics, feature: int, other: int) -> np.ndarray:
    """``d_k·(x − b − Σ_{i≠j,k} z_i d_i)``: what the other features leave along k."""
    D = statistics.dictionary
    along: np.ndarray = (statistics.residuals @ D[feature].to(statistics.residuals)).cpu().double().numpy()
    for atom in (feature, other):
        points, codes = statistics.activations(atom)
        along[points] += codes * float(D[atom] @ D[feature])
    return along


@own_arithmetic()
def duplicates(statistics: FeatureStatistics, *, cosine: float = DUPLICATE, count: int = _PAIRS) -> pd.DataFrame:
    """Find pairs of live atoms with ``cos ≥ cosine``: never at a local minimum (T8), so a sign of unfinished training.

    Returns
    -------
    pandas.DataFrame
        Columns of :func:`~cvxsae.diagnostics.pairs.scan_pairs` with feature < other, closest first.
    """
    return scan_pairs(statistics, {"duplicates": duplicate_score(cosine)}, count).tables["duplicates"]


def duplicate_score(cosine: float = DUPLICATE) -> Score:
    """Rank by how close two atoms are; every pair once."""
    cosine = arguments.real(cosine, "cosine")

    def score(found: FeatureStatistics, block: PairBlock) -> np.ndarray:
        k = block.first + np.arange(len(block.cosine))
        close = (k[:, None] < np.arange(found.n_atoms)) & (block.cosine >= cosine)
        return np.where(close, block.cosine, -np.inf)

    return score


def feature_densities(statistics: FeatureStatistics, *, dense: float = DENSE) -> pd.DataFrame:
    """Tabulate how often and how strongly each feature fires, by feature index.

    Returns
    -------
    pandas.DataFrame
        Columns ``count`` and ``density`` (number and share of the datapoints), ``mean_activation`` (over those; 0 if
        dead), ``mass`` (S_k/N), ``certain`` and ``undecided`` (on how many datapoints every optimum uses it, and on how
        many that is open), ``dead``, ``dense`` (density above the argument).
    """
    import pandas as pd

    counts = require_statistics(statistics).counts
    frame = pd.DataFrame(
        {
            "count": counts,
            "density": statistics.density,
            "mean_activation": statistics.mass * statistics.n_points / np.maximum(counts, 1),
            "mass": statistics.mass,
            "certain": statistics.activity.active_per_atom,
            "undecided": statistics.activity.undecided_per_atom,
            "dead": statistics.activity.fires_per_atom == 0,
            "dense": statistics.density > arguments.positive(dense, "dense"),
        }
    )
    frame.index.name = "feature"
    return frame
