"""Is a stationary dictionary a minimum? The second-order test (T5) on exact codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cvxsae.data import arguments, tensors
from cvxsae.data.activations import Activations
from cvxsae.data.arguments import InputError
from cvxsae.diagnostics.sums import CODE_TOL
from cvxsae.relaxations.joint.curvature import Curvature, LeastCurvature
from cvxsae.solvers.codes.encode import encode

if TYPE_CHECKING:
    from cvxsae.data.activations import ActivationsLike
    from cvxsae.data.arguments import BiasLike


@dataclass(frozen=True, kw_only=True, eq=False)
class SecondOrder:
    """Whether F(D, b) curves upwards in every direction, and how far the question makes sense (T5).

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
        """Ready for JSON."""
        return {
            "least_eigenvalue": self.least.eigenvalue,
            "residual": self.least.residual,
            "curvature": self.least.curvature,
            "converged": self.least.converged,
            "gradient_norm": self.gradient_norm,
            "least_code": self.least_code,
            "least_slack": self.least_slack,
            "singular": self.singular,
            "is_regular": self.is_regular,
            "is_positive": self.is_positive,
        }


def second_order(
    X: ActivationsLike,
    dictionary: Any,
    lam: float,
    *,
    bias: BiasLike = None,
    bias_is_free: bool = False,
    codes: Any = None,
    tol: float = 1e-3,
    products: int = 500,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> SecondOrder:
    """Find the direction in which F(D, b) curves least, by Hessian-vector products and Lanczos (T5).

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.data.Activations` accepts; held in memory in float64.
    dictionary
        Atoms as rows, (K, d), any norm but zero.
    lam
        Penalty λ > 0 of (P).
    bias
        None (zero) or an array (d,).
    bias_is_free
        Whether the bias is a variable too.
    codes
        Codes to start from, as in :func:`~cvxsae.encode`; they are made exact.
    tol
        Residual at which Lanczos stops; the scaled Hessian's natural size is 1.
    products
        Hessian-vector products at most, each about ten times ``nnz · d`` multiplications.
    seed
        Of the starting vector.
    device
        Where to compute; everything is in float64.

    Returns
    -------
    SecondOrder
        Memory: the data, the residuals, about ``8 Σ_n |A_n|²`` bytes of active Gram matrices, and 80 vectors as large
        as the dictionary.

    Raises
    ------
    InputError
        For arguments that cannot be used.
    """
    data = Activations(X)
    if isinstance(bias, str):
        raise InputError(f"bias is {bias!r}; pass None or an array, and bias_is_free=True if it is a variable.")
    rows = tensors.unit_rows(dictionary, "dictionary", data.shape[1])[0].cpu()
    where = arguments.compute_device(device)
    exact = encode(data, rows, lam, bias=bias, tol=CODE_TOL, warm_start=codes, device=where)
    fixed = arguments.bias_vector(bias, data.shape[1])
    curvature = Curvature(
        data.to_tensor(device=where),
        rows,
        exact.lam,
        exact.codes,
        bias=fixed if isinstance(fixed, torch.Tensor) else None,
        bias_is_free=bias_is_free,
        device=where,
    )
    gradient, pull = curvature.gradient()
    squares = gradient.square().sum() + (pull.square().sum() if bias_is_free else 0)
    return SecondOrder(
        least=curvature.least(
            tol=arguments.positive(tol, "tol"), products=arguments.count(products, "products"), seed=seed
        ),
        value=curvature.value,
        gradient_norm=float(torch.sqrt(squares)),
        least_code=curvature.least_code,
        least_slack=curvature.least_slack,
        singular=curvature.singular,
    )
