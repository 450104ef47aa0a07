"""The public function that finds the global optimum of a small joint problem."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Unpack

import numpy as np

from cvxsae.data import arguments, tensors
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.errors import InputError
from cvxsae.parallel.context import Run, Steps, keywords
from cvxsae.relaxations.convex.penalties.separable import L1, ElasticNet
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.global_search.boxes import PLANE, SPACE, Landscape
from cvxsae.solvers.global_search.branch_and_bound import BranchAndBound, Search, minimizers_of
from cvxsae.solvers.global_search.penalties import PENALTIES, WANTED, Penalty, cost_of
from cvxsae.solvers.global_search.result import GlobalOptimum

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from cvxsae.data.arguments import BiasLike

MOST_ATOMS = {PLANE: 3, SPACE: 2}
"""Widths that can be searched, by dimension."""


class GlobalOptions(Steps, total=False):
    """Options of :func:`solve_globally` that it shares with other verbs."""


@keywords(GlobalOptions)
def solve_globally(
    X: ActivationsLike,
    n_atoms: int,
    lam: float,
    *,
    penalty: Penalty | None = None,
    bias: BiasLike = None,
    weights: ArrayLike | None = None,
    tol: float = 1e-6,
    **options: Unpack[GlobalOptions],
) -> GlobalOptimum:
    """Find the global optimum of a small joint problem, with a lower bound that holds for every dictionary (T18).

    ``F(D, b) = Σ_n w_n min_{z ≥ 0} [ ½‖x_n − b − z D‖² + Ω_λ(z) ]`` over K unit-norm atoms, and b where it is free.
    Boxes of dictionaries (and biases) are halved until none can hold a better one. The bound of a box is the larger of
    two: over what each datapoint's codes may cost anywhere in it, in interval arithmetic; and, where F is
    differentiable, of its quadratic model with the least Hessian in the box, which is what ends the search around a
    minimizer.

    Parameters
    ----------
    X
        Datapoints (N, d): anything :class:`~cvxsae.Activations` accepts; d = 2 or 3, and few of them (time grows
        as N times the number of boxes).
    n_atoms
        Width K: at most 3 in the plane, 2 in three dimensions; with an elastic net or Matryoshka at most 2, and with
        Log or Tree 2 in the plane.
    lam
        Penalty λ > 0.
    penalty
        Ω, one of :mod:`cvxsae.penalties`; L1 by default.
    bias
        None (zero, the default), an array (d,) (fixed), or ``"free"`` (optimized; L1, signed L1 and elastic net).
    weights
        Of the datapoints, (N,), positive; they are scaled to add up to 1. By default all the same.
    tol
        Relative gap to reach; where F can be zero, differences below 1e-14 of half the mean square of X are none.
    max_seconds, max_steps, progress, callback
        When to stop earlier, with the gap reached then; what to show.

    Returns
    -------
    GlobalOptimum
        ``value`` is attained by ``dictionary``, ``lower_bound`` holds for all; ``boxes`` and ``bounds`` are the proof.

    Raises
    ------
    InputError
        For arguments that cannot be used, and for ``device``: the search runs on the CPU.

    Examples
    --------
    >>> from cvxsae import solve_globally
    >>> found = solve_globally([[1.0, 0.0], [1.0, 1.0]], 2, 0.1)  # a feature alone, and with its child (C1)
    >>> found.is_certified, round(found.value, 8)  # absorbed: the second atom is their sum
    (True, 0.11571068)
    """
    data = Activations(X)
    run = Run.start(options, GlobalOptions)
    if run.device.type != "cpu":
        raise InputError(f"device is {str(run.device)!r}, but this search runs on the CPU; leave device out.")
    if data.group is not None and not data.group.is_alone:
        raise InputError("X is shared by several processes, and this search runs in one; pass all rows.")
    omega = L1() if penalty is None else penalty
    arguments.instance(omega, "penalty", PENALTIES, WANTED)
    on, reach = _landscape(
        data, arguments.count(n_atoms, "n_atoms"), arguments.penalty(lam, "lam"), omega, bias, weights
    )
    tol = arguments.positive(tol, "tol")
    began = time.perf_counter()
    state = BranchAndBound().search(on, tol, run, reach)
    return _result(state, omega, lam, began)


def _landscape(
    data: Activations, n_atoms: int, lam: float, omega: Penalty, bias: BiasLike, weights: ArrayLike | None
) -> tuple[Landscape, float]:
    """The function to minimize, and how far from the mean a free bias can be."""
    n, d = data.shape
    if d not in MOST_ATOMS:
        raise InputError(f"X has dimension {d}; only two and three can be searched.")
    if n_atoms > MOST_ATOMS[d]:
        raise InputError(f"n_atoms is {n_atoms}; in dimension {d} pass at most {MOST_ATOMS[d]}.")
    w = np.full(n, 1 / n)
    if weights is not None:
        w = tensors.vector(weights, "weights").numpy()
        if len(w) != n:
            raise InputError(f"weights has shape {w.shape}; there are {n} datapoints, pass one number each.")
        if not (w > 0).all():
            row = int(np.argmin(w > 0))
            raise InputError(f"weights holds {w[row]:g} at datapoint {row}; pass numbers above zero.")
        w = w / w.sum()
    vector = arguments.bias_vector(bias, d)
    points = data.to_numpy()
    if isinstance(vector, str):
        if not isinstance(omega, L1 | ElasticNet):
            raise InputError(f"bias is 'free' with the penalty {omega.name!r}; pass None or an array.")
        # F ≥ mean λ‖x − b‖ − λ²/2 (T9), and zero codes at the mean attain half the variance.
        spread = float(w @ ((points - w @ points) ** 2).sum(axis=1)) / 2
        return Landscape(points, w, cost_of(omega, n_atoms, lam), None), spread / lam + lam / 2
    fixed = np.zeros(d) if vector is None else vector.numpy()
    return Landscape(points, w, cost_of(omega, n_atoms, lam), fixed), 0.0


def _result(state: Search, omega: Penalty, lam: float, began: float) -> GlobalOptimum:
    on = state.on
    minimizers, are_all = minimizers_of(state)
    (atoms, bias), value = state.best, state.value
    boxes, bounds = state.leaves()
    _, codes = on.cost.costs(on.X - bias, atoms)
    assert state.status is not None
    return GlobalOptimum(
        value=value,
        lower_bound=min(value, float(bounds.min())),
        dictionary=atoms,
        bias=bias,
        codes=codes,
        minimizers=minimizers,
        are_all=are_all and state.status is Status.CERTIFIED,
        status=state.status,
        tol=state.tol,
        boxes=boxes,
        bounds=bounds,
        landscape=on,
        penalty=omega.name,
        lam=lam,
        history=tuple(state.history),
        seconds=time.perf_counter() - began,
    )
