"""Is a stationary dictionary a minimum? The second-order test (T5) on exact codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from jaxtyping import Float64

from cvxsae.data import arguments
from cvxsae.data.activations import ActivationsLike
from cvxsae.data.arguments import BiasLike
from cvxsae.data.deadline import OutOfTime, until
from cvxsae.diagnostics.sums import CODE_TOL, at_one_bias, exact_codes
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Run, Seeded, keywords
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.joint.curvature import Curvature, LeastCurvature
from cvxsae.solvers.codes.result import Codes


@dataclass(frozen=True, kw_only=True, eq=False)
class SecondOrder:
    """Whether F(D, b) curves upwards in every direction, with the margins at which this is meaningful (T5).

    Attributes
    ----------
    least
        Smallest curvature found and its direction: an escape direction if negative.
    value
        F(D, b), in units of (P).
    gradient_norm
        Norm of the Riemannian gradient, in units of (P): the second-order test is about dictionaries where it vanishes.
    least_code, least_slack
        Margins of strict complementarity over λ: smallest active code, smallest ``1 − d_j·r_n/λ`` of an inactive atom.
        A step along a direction keeps its curvature as long as codes and slacks stay positive.
    singular
        Datapoints whose active atoms are dependent: there F has a kink and no Hessian.
    """

    least: LeastCurvature
    value: float
    gradient_norm: float
    least_code: float
    least_slack: float
    singular: int

    @property
    def direction(self) -> Float64[np.ndarray, "K d"]:
        """How the atoms move along the least curvature; with :attr:`bias_direction` of norm 1."""
        return self.least.direction.cpu().numpy()

    @property
    def bias_direction(self) -> Float64[np.ndarray, " d"] | None:
        """How the bias moves along it; None for a fixed bias."""
        return None if self.least.bias_direction is None else self.least.bias_direction.cpu().numpy()

    @property
    def is_regular(self) -> bool:
        """Whether strict complementarity holds everywhere, so that the Hessian exists."""
        return self.singular == 0 and self.least_code > 0 and self.least_slack > 0

    @property
    def is_positive(self) -> bool:
        """Whether the least curvature found exceeds its residual: with a zero gradient, a strict local minimum.

        Lanczos finds the least eigenvalue unless its random start misses the direction; this is evidence, not a proof.
        A negative curvature is a proof of the contrary.
        """
        return self.is_regular and self.least.eigenvalue > self.least.residual

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {
            "least_eigenvalue": self.least.eigenvalue,
            **{name: getattr(self.least, name) for name in ("residual", "curvature", "converged")},
            **{name: getattr(self, name) for name in ("gradient_norm", "least_code", "least_slack", "singular")},
            "is_regular": self.is_regular,
            "is_positive": self.is_positive,
        }


LANCZOS_TOL = 1e-3
"""Residual at which Lanczos stops unless told otherwise; the scaled Hessian's natural size is 1."""

_PRODUCTS = 500
"""Hessian-vector products at most; converged dictionaries need tens to hundreds."""


class SecondOrderOptions(Compute, Seeded, total=False):
    """How :func:`second_order` runs."""

    max_steps: int | None
    """Most Hessian-vector products, each about ten times ``nnz · d`` multiplications; None for 500."""


@keywords(SecondOrderOptions)
def second_order(
    X: ActivationsLike,
    dictionary: Any,
    lam: float,
    *,
    bias: BiasLike = None,
    trained_bias: bool = False,
    codes: Any = None,
    tol: float = LANCZOS_TOL,
    **options: Unpack[SecondOrderOptions],
) -> SecondOrder:
    """Find the direction in which F(D, b) curves least, by Hessian-vector products and Lanczos (T5).

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.Activations` accepts; held in memory in float64.
    dictionary
        Atoms as rows, (K, d), any norm but zero.
    lam
        Penalty λ > 0 of (P).
    bias
        None (zero) or an array (d,).
    trained_bias
        Whether that bias is a variable too, optimized along with the dictionary.
    codes
        Codes to start from, as in :func:`~cvxsae.encode`; they are made exact.
    tol
        Residual at which Lanczos stops; the scaled Hessian's natural size is 1.
    options
        ``device`` (everything is in float64), ``max_seconds``, ``max_steps`` (Hessian-vector products, 500 unless
        given; each costs about ten times ``nnz · d`` multiplications), ``progress`` and ``seed`` (of the starting
        vector).

    Returns
    -------
    SecondOrder
        Memory: the data, the residuals, about ``8 Σ_n |A_n|²`` bytes of active Gram matrices, and 80 vectors as large
        as the dictionary. Where time runs out before the codes are exact on all datapoints, F and its curvature are
        not known: see Raises.

    Raises
    ------
    InputError
        For arguments that cannot be used, and a ``max_seconds`` too short for exact codes.
    KeyboardInterrupt
        On Ctrl-C: the curvature of anything but exact codes means nothing.
    """
    run = Run.start(options, SecondOrderOptions)
    tol = arguments.positive(tol, "tol")
    problem = at_one_bias(X, dictionary, lam, bias)
    exact = exact_codes(problem, codes, CODE_TOL, run)
    if run.is_late and not exact.done.all():
        missing = int((~exact.done).sum())
        raise InputError(f"max_seconds passed before {missing} datapoints had exact codes (T5 needs them); raise it.")
    try:
        with until(run.last_moment):
            return least_curvature(problem, exact, tol, run, bias_is_free=trained_bias)
    except OutOfTime as late:
        raise InputError("max_seconds passed before the curvature could be looked at even once; raise it.") from late


def least_curvature(problem: SparseCodes, codes: Codes, tol: float, run: Run, *, bias_is_free: bool) -> SecondOrder:
    """:func:`second_order` at exact codes. A limit around it gives it up until the search for the least has begun."""
    curvature = Curvature(
        problem.X.to_tensor(device=run.device),
        problem.atoms,
        problem.lam,
        codes.codes,
        bias=problem.fixed_bias(),
        bias_is_free=bias_is_free,
        device=run.device,
    )
    gradient, pull = curvature.gradient()
    squares = gradient.square().sum() + (pull.square().sum() if bias_is_free else 0)
    return SecondOrder(
        least=curvature.least(
            tol=tol,
            products=_PRODUCTS if run.max_steps is None else run.max_steps,
            seed=run.seed,
            deadline=run.deadline,
        ),
        value=curvature.value,
        gradient_norm=float(torch.sqrt(squares)),
        least_code=curvature.least_code,
        least_slack=curvature.least_slack,
        singular=curvature.singular,
    )
