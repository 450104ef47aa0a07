"""Every convex problem as a cone program in cvxpy. Imported on use only: cvxpy takes a second to load."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import cvxpy as cp
import numpy as np
import torch

from cvxsae.errors import InputError
from cvxsae.relaxations import linalg
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.fixed_atoms import FixedAtoms, SparseCodes
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary, nonnegative_factor
from cvxsae.relaxations.convex.penalized_codes import PenalizedCodes
from cvxsae.relaxations.convex.penalties.groups import Group, Tree
from cvxsae.relaxations.convex.penalties.ordered import Slope
from cvxsae.relaxations.convex.penalties.sums import Exclusive, Simplex
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.problem import Problem
from cvxsae.relaxations.proofs import NonnegativeProof

_RANK = 1e-12
"""Singular values below this share of the largest are rounding: the data do not reach into those directions."""


@dataclass(frozen=True)
class ConicForm:
    """A problem written in cvxpy, in sum units of rescaled data, and how to read its answer.

    ``minimum`` times ``value_scale`` is the optimum in units of (P).
    """

    problem: cp.Problem
    value_scale: float
    read: Callable[[], Candidate]


@dataclass(frozen=True)
class _Data:
    """The data of a problem, about the bias of zero codes and divided by the largest norm, and a variable for its bias.

    Attributes
    ----------
    offsets
        ``(X − center)/scale``, (N, d): the conic solver sees numbers near 1.
    center, scale
        The bias of zero codes, (d,), and the largest norm about it.
    lam
        λ in that scale.
    """

    offsets: np.ndarray
    center: np.ndarray
    scale: float
    lam: float

    @classmethod
    def of(cls, problem: Problem) -> _Data:
        """Of a problem."""
        center = problem.starting_bias().numpy()
        X = problem.X.to_numpy() - center
        scale = float(np.linalg.norm(X, axis=1).max()) or 1.0
        return cls(X / scale, center, scale, problem.lam / scale)


def _shift(problem: Problem, dim: int) -> cp.Expression:
    """The bias, (1, dim): a variable if it is free."""
    return cp.Variable((1, dim)) if problem.bias_is_free else cp.Constant(np.zeros((1, dim)))


def conic_form(problem: Problem) -> ConicForm:
    """The problem in cvxpy, on data divided by its largest norm so that the conic solver sees numbers near 1.

    Raises
    ------
    InputError
        For the joint problem, which is not convex.
    """
    if isinstance(problem, WideLimit):
        return _wide(problem)
    if isinstance(problem, PenalizedCodes):
        return _penalized(problem)
    if isinstance(problem, FixedAtoms):
        return _fixed_atoms(problem)
    if isinstance(problem, LargeDictionary):
        return _large(problem)
    raise _no_form(problem)


def conic_size(problem: Problem) -> tuple[int, str]:
    """Number of scalar unknowns of :func:`conic_form`, and what they are in words.

    Raises
    ------
    InputError
        For the joint problem, which has no conic form.
    """
    n, d = problem.n_points, problem.dim
    if isinstance(problem, WideLimit):
        return 2 * n * (d + 1), f"{n} second-order cones in dimension {d}"
    if isinstance(problem, FixedAtoms):
        return n * (problem.n_atoms + d), f"{n} x {problem.n_atoms} codes and {n} x {d} residuals"
    if isinstance(problem, LargeDictionary):
        order = n + min(n, d)
        return order * (order + 1) // 2, f"a semidefinite block of order {order}"
    raise _no_form(problem)


def _no_form(problem: Problem) -> InputError:
    return InputError(
        f"problem is the {problem.name} problem, which is not convex and has no conic form; "
        "use learn_dictionary for it, or solve a relaxation (WideLimit, LargeDictionary)."
    )


def _wide(problem: WideLimit) -> ConicForm:
    """``h_λ(‖u‖) = min_v ½‖u − v‖² + λ‖v‖``: one second-order cone a datapoint."""
    data, shape = _Data.of(problem), (problem.n_points, problem.dim)
    V, R, shift = cp.Variable(shape), cp.Variable(shape), _shift(problem, problem.dim)
    form = cp.Problem(
        cp.Minimize(cp.sum_squares(R) / 2 + data.lam * cp.sum(cp.norm(V, 2, axis=1))),
        [data.offsets - np.ones((problem.n_points, 1)) @ shift - V == R],
    )

    def read() -> Candidate:
        return problem.complete(data.center + data.scale * np.asarray(shift.value).ravel())

    return ConicForm(form, data.scale**2 / problem.n_points, read)


def _fixed_atoms(problem: FixedAtoms) -> ConicForm:
    """A quadratic program at τ = 0, whatever weights and ridge; one second-order cone an atom otherwise."""
    data, shift = _Data.of(problem), _shift(problem, problem.dim)
    Z = cp.Variable((problem.n_points, problem.n_atoms), nonneg=True)
    R = cp.Variable((problem.n_points, problem.dim))
    if isinstance(problem, SparseCodes) and problem.has_prices:
        charge = cp.sum(Z @ problem.prices.weights.numpy())
        if problem.ridge is not None:  # ρ is per unit of code, and codes are rescaled like the data
            curvature = cp.multiply(np.sqrt(data.scale * problem.ridge.numpy())[None, :], Z)
            charge += cp.sum_squares(curvature) / 2
    elif problem.penalty.atom_cost == 0:
        charge = cp.sum(Z)
    else:
        root = math.sqrt(problem.penalty.atom_cost)
        charge = cp.sum(cp.norm(cp.vstack([cp.sum(Z, axis=0, keepdims=True), root * Z]), 2, axis=0))
    form = cp.Problem(
        cp.Minimize(cp.sum_squares(R) / 2 + data.lam * charge),
        [data.offsets - np.ones((problem.n_points, 1)) @ shift - Z @ problem.atoms.numpy() == R],
    )

    def read() -> Candidate:
        bias = data.center + data.scale * np.asarray(shift.value).ravel()
        return problem.candidate(data.scale * np.clip(Z.value, 0, None), bias)

    return ConicForm(form, data.scale**2 / problem.n_points, read)


def _penalized(problem: PenalizedCodes) -> ConicForm:
    """A cone program of every penalty as its docstring writes it."""
    if problem.lasso is not None:
        return _fixed_atoms(problem.lasso)
    data, shift, penalty = _Data.of(problem), _shift(problem, problem.dim), problem.penalty
    Z = cp.Variable((problem.n_points, problem.n_atoms), nonneg=True)
    R = cp.Variable((problem.n_points, problem.dim))
    rules = [data.offsets - np.ones((problem.n_points, 1)) @ shift - Z @ problem.atoms.numpy() == R]
    charge: cp.Expression = cp.Constant(0)
    if isinstance(penalty, Group | Tree):
        groups = penalty.groups if isinstance(penalty, Tree) else _members(penalty.groups)
        for weight, group in zip(penalty.weights, groups, strict=True):
            charge += weight * cp.sum(cp.norm(Z[:, list(group)], 2, axis=1))
    elif isinstance(penalty, Slope):
        drops = -np.diff([*penalty.weights, 0.0])  # Σ_i w_i z_(i) is a sum of sums of the i largest
        for n in range(problem.n_points):
            charge += cp.sum([drop * cp.sum_largest(Z[n], i) for i, drop in enumerate(drops, start=1) if drop > 0])
    elif isinstance(penalty, Exclusive):  # not a gauge: a price of its own in rescaled codes
        groups = _members(penalty.groups)
        charge = data.scale / 2 * sum(cp.sum_squares(cp.sum(Z[:, list(group)], axis=1)) for group in groups)
    elif isinstance(penalty, Simplex):
        sums, total = cp.sum(Z, axis=1), penalty.total / data.scale
        rules.append(sums == total if penalty.exactly else sums <= total)
    else:
        raise _no_form(problem)
    form = cp.Problem(cp.Minimize(cp.sum_squares(R) / 2 + data.lam * charge), rules)

    def read() -> Candidate:
        codes = data.scale * np.clip(Z.value, 0, None)
        if isinstance(penalty, Simplex):  # an interior point sums to s up to its tolerance
            codes = penalty.prox(torch.from_numpy(codes), 0.0).numpy()
        return problem.candidate(codes, data.center + data.scale * np.asarray(shift.value).ravel())

    return ConicForm(form, data.scale**2 / problem.n_points, read)


def _members(labels: tuple[int, ...]) -> list[list[int]]:
    """The atoms of every group."""
    return [[k for k, label in enumerate(labels) if label == group] for group in range(max(labels) + 1)]


def _large(problem: LargeDictionary) -> ConicForm:
    """(7) over the doubly nonnegative cone, ``Q ⪰ 0, Q ≥ 0``: a relaxation for N > 4, exact below.

    The data is rotated on its range first, so the semidefinite block has order N + rank: the trace in (7) sees only
    X Xᵀ and 1ᵀX, and a bias outside the row space only adds to it.
    """
    data, n = _Data.of(problem), problem.n_points
    _, singular, rotation = linalg.svd(data.offsets)
    rank = max(1, int((singular > _RANK * singular[0]).sum()))
    rotation = rotation[:rank]
    Q, shift = cp.Variable((n, n), PSD=True), _shift(problem, rank)
    nonnegative = Q >= 0
    fit = cp.matrix_frac(data.offsets @ rotation.T - np.ones((n, 1)) @ shift, Q + data.lam * np.eye(n))
    charge = cp.sum(Q) + problem.atom_cost * cp.trace(Q)
    form = cp.Problem(cp.Minimize(data.lam / 2 * (fit + charge)), [nonnegative])

    def read() -> Candidate:
        similarity = data.scale * np.clip((Q.value + Q.value.T) / 2, 0, None)
        bias = data.center + data.scale * (np.asarray(shift.value) @ rotation).ravel()
        residual = problem.X.to_numpy() - problem.reconstruction(similarity, bias)
        # Stationarity of (7) in Q: λ²(11ᵀ + τI) − RRᵀ = 2λ(S + P'), with P' the multiplier of Q ≥ 0.
        P = 2 * problem.lam * data.scale * np.clip(nonnegative.dual_value, 0, None)
        dual, proof = problem.dual_candidate(torch.from_numpy(residual), NonnegativeProof(P))
        point = problem.from_factor(nonnegative_factor(similarity))
        return replace(point, dual=dual, similarity=similarity, proof=proof)

    return ConicForm(form, data.scale**2 / n, read)
