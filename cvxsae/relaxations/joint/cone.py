"""When a dictionary is optimal without noise: the cone condition, feature by feature (T6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float64, Int64
from numpy.typing import ArrayLike

from cvxsae.data import arguments, tensors
from cvxsae.data.arithmetic import own_arithmetic
from cvxsae.errors import InputError
from cvxsae.relaxations import linalg

_RANK = 1e-8
"""Least singular value of independent unit atoms."""

_BATCH = 64
"""Violated datapoints that enter the active set at a time."""


@dataclass(frozen=True, eq=False)
class ConeCondition:
    """The verdict of (3) for every requested feature, with its certificate. Rates are in units of (P) per unit ε.

    Attributes
    ----------
    features
        The features j, (m,).
    holds
        Whether no mixing of d_j into other atoms lowers the cost at first order, (m,).
    distance
        Distance of ``t_k = S_k(1 − cos(d_j, d_k))`` from the cone, over the norm of t, (m,); the verdict is
        ``distance ≤ tol``.
    rate
        How fast ``(1/N) Σ_nk z_nk`` falls along ``mixing``, (m,): its greatest rate over directions of norm 1.
    mixing
        Farkas certificate, sparse (m, K): a unit row g, with ``d_k ← normalize(d_k + ε g_k d_j)`` for k ≠ j the move
        that lowers the cost; a zero row where the condition holds. See :func:`mix`.
    weights
        Certificate that the condition holds, sparse (m, N): nonnegative weights on datapoints where j is silent,
        whose weighted codes add up to t. Where it fails, the point of the cone nearest to t.
    tol
        The relative distance that counts as zero.
    """

    features: Int64[np.ndarray, " m"]
    holds: Bool[np.ndarray, " m"]
    distance: Float64[np.ndarray, " m"]
    rate: Float64[np.ndarray, " m"]
    mixing: sp.csr_array
    weights: sp.csr_array
    tol: float

    @property
    def all_hold(self) -> bool:
        """Whether the dictionary is first-order optimal as far as the features asked about go."""
        return bool(self.holds.all())


@own_arithmetic()
def cone_condition(
    codes: sp.csr_array | ArrayLike,
    dictionary: ArrayLike,
    *,
    features: ArrayLike | None = None,
    tol: float = 1e-8,
) -> ConeCondition:
    """Check first-order optimality of ``X = Z D`` for the cost ``(1/N) Σ_nk z_nk`` over unit-norm dictionaries (T6).

    For independent atoms, (D, Z) is first-order optimal iff for every feature j

        ``( S_k (1 − cos(d_j, d_k)) )_{k≠j}  ∈  cone { (z_nk)_{k≠j} : n with z_nj = 0 }``             (3)

    One nonnegative least-squares problem per feature, solved by adding the datapoints that violate its optimality
    conditions; its residual is the mixing direction, of steepest descent.

    Parameters
    ----------
    codes
        Exact nonnegative codes, (N, K): of data that they reconstruct without error.
    dictionary
        Independent atoms of any non-zero norm, (K, d); codes refer to atoms of norm 1.
    features
        Which j to check, (m,); all unless given.
    tol
        Relative distance from the cone that counts as zero.

    Raises
    ------
    InputError
        If the codes are negative or the atoms dependent: then codes are not unique and (3) says nothing.
    """
    atoms = _independent(dictionary)
    Z = _checked_codes(codes, len(atoms))
    tol = arguments.positive(tol, "tol")
    wanted = arguments.indices(features, "features", len(atoms))
    mass = np.asarray(Z.sum(axis=0)).ravel()
    n_points = Z.shape[0]
    distance, rate = np.zeros(len(wanted)), np.zeros(len(wanted))
    mixing, weights = sp.lil_array((len(wanted), len(atoms))), sp.lil_array((len(wanted), n_points))
    activity = Z.tocsc()
    for row, j in enumerate(wanted):
        target = mass * (1 - np.clip(atoms @ atoms[j], -1, 1))
        target[j] = 0.0
        silent = np.ones(n_points, dtype=bool)
        silent[activity.indices[activity.indptr[j] : activity.indptr[j + 1]]] = False
        points = np.flatnonzero(silent)
        used, amounts, left = _nearest(Z[points], target)
        length, norm = float(np.linalg.norm(left)), float(np.linalg.norm(target))
        distance[row] = length / norm if norm > 0 else 0.0
        weights[row, points[used]] = amounts
        if distance[row] > tol:
            rate[row] = length / n_points
            mixing[row, :] = left / length
    return ConeCondition(wanted, distance <= tol, distance, rate, sp.csr_array(mixing), sp.csr_array(weights), tol)


def mix(
    dictionary: Float64[np.ndarray, "K d"], feature: int, direction: Float64[np.ndarray, " K"], step: float
) -> Float64[np.ndarray, "K d"]:
    """``d_k ← normalize(d_k + ε g_k d_j)`` for every k ≠ j: the move that :class:`ConeCondition` predicts (T6)."""
    amounts = step * direction
    amounts[feature] = 0.0
    moved = dictionary + amounts[:, None] * dictionary[feature]
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def _independent(dictionary: ArrayLike) -> Float64[np.ndarray, "K d"]:
    rows = tensors.matrix(dictionary, "dictionary", rows="atom")
    atoms = tensors.unit_rows(dictionary, "dictionary", rows.shape[1])[0].cpu().numpy()
    smallest = float(linalg.singular_values(atoms)[-1]) if len(atoms) <= atoms.shape[1] else 0.0
    if smallest < _RANK:
        raise InputError(
            f"dictionary has {len(atoms)} dependent atoms in {atoms.shape[1]} dimensions; the cone condition is about "
            "independent ones, so drop duplicates or pass fewer atoms than dimensions."
        )
    return atoms


def _checked_codes(codes: sp.csr_array | ArrayLike, n_atoms: int) -> sp.csr_array:
    Z = tensors.sparse_matrix(codes, "codes")
    Z.eliminate_zeros()
    if Z.shape[1] != n_atoms:
        raise InputError(f"codes has shape {Z.shape} but there are {n_atoms} atoms; its second axis must match.")
    if Z.nnz and not Z.data.min() > 0:
        raise InputError("codes has negative entries; pass nonnegative codes.")
    return Z


def _nearest(
    rows: sp.csr_array, target: Float64[np.ndarray, " K"]
) -> tuple[Int64[np.ndarray, " u"], Float64[np.ndarray, " u"], Float64[np.ndarray, " K"]]:
    """Point of the cone spanned by some rows that is nearest to the target: the rows used, their weights, what is left.

    Rows come in as they violate ``left · row ≤ 0``, which no row does at the nearest point. What is left vanishes in
    a coordinate that has a datapoint of its own, so those come first.
    """
    support = np.diff(rows.indptr)
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    scaled = sp.csr_array(sp.diags_array(1 / np.where(lengths > 0, lengths, 1)) @ rows)
    solo = np.flatnonzero(support == 1)
    # One datapoint for each coordinate that has one of its own.
    chosen = solo[np.unique(scaled.indices[scaled.indptr[solo]], return_index=True)[1]].astype(np.int64)
    amounts = np.zeros(0)
    left = target.astype(np.float64, copy=True)
    floor = 1e-13 * float(np.linalg.norm(target))
    for _ in range(rows.shape[0] + 1):
        if len(chosen):
            basis = scaled[chosen].toarray().T
            amounts = linalg.nonnegative_least_squares(basis, target)
            left = target - basis @ amounts
            chosen, amounts = chosen[amounts > 0], amounts[amounts > 0]
        violation = scaled @ left
        violation[chosen] = 0.0
        worst = np.argsort(-violation)[:_BATCH]
        worst = worst[violation[worst] > max(floor, 1e-13 * float(np.linalg.norm(left)))]
        if not len(worst) or float(np.linalg.norm(left)) <= floor:
            break
        chosen = np.concatenate([chosen, worst])
    return chosen, amounts / lengths[chosen], left
