"""Centering and scaling as explicit, reversible transforms that report their effect on λ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float

from cvxsae.data import arguments, tensors
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.data.arguments import BiasLike
from cvxsae.data.arithmetic import computes, own_arithmetic
from cvxsae.errors import InputError


@computes
@dataclass(frozen=True, eq=False)
class Affine:
    """The map ``x ↦ scale · (x − shift)`` on datapoints, and its effect on a problem and its answer.

    A model ``x ≈ b + z D`` of the data becomes ``s (b − t) + (s z) D`` with ``s = scale`` and
    ``t = shift``. The squared error is then s² times as large, and so is the penalty if λ becomes
    s λ: the same dictionary is optimal before and after, and F becomes s² F (theory.md, (P)).
    λ/λ_max, cosines and the atom cost τ stay as they are. For the way back use :attr:`inverse`.

    Parameters
    ----------
    shift
        Vector subtracted from every datapoint, shape (d,), in units of the data.
    scale
        Above zero.

    Raises
    ------
    InputError
        If the shift is not a finite vector or the scale is not above zero.
    """

    shift: Float[np.ndarray, " d"]
    scale: float = 1.0

    def __post_init__(self) -> None:
        own = tensors.vector(self.shift, "shift").numpy()
        own.flags.writeable = False
        object.__setattr__(self, "shift", own)
        object.__setattr__(self, "scale", arguments.positive(self.scale, "scale"))

    @property
    def inverse(self) -> Affine:
        """The transform that undoes this one, for data, λ, values, biases and codes alike."""
        return Affine(shift=-self.scale * self.shift, scale=1 / self.scale)

    def then(self, after: Affine) -> Affine:
        """Return the one transform that does this and then ``after``."""
        self._require_dim(len(arguments.instance(after, "after", Affine, "an Affine").shift), "after")
        return Affine(shift=self.shift + after.shift / self.scale, scale=self.scale * after.scale)

    def apply(self, X: ActivationsLike, *, dtype: torch.dtype | None = None) -> Activations:
        """Return the transformed datapoints; ``X`` stays as it is.

        The result is computed block by block in float64 and held in memory up to 1 GiB, beyond that
        in an unnamed temporary file, so that a memory map is never in memory whole.

        Parameters
        ----------
        X
            Anything :class:`Activations` accepts, shape (N, d).
        dtype
            Of the result; by default that of X, but at least float32. Rounding to it is the only
            error, so ask for float64 where λ and F are to be compared beyond seven digits.

        Raises
        ------
        InputError
            If X is not valid data or has another dimension than the shift.
        """
        data = Activations(X)
        self._require_dim(data.shape[1], "X")
        device = data.device
        target = torch.promote_types(data.dtype, torch.float32) if dtype is None else tensors.float_type(dtype)
        shift = torch.tensor(self.shift, device=device)
        blocks = ((batch - shift).mul_(self.scale).to(target) for batch in data.batches())
        return Activations(blocks if device.type == "cpu" else torch.cat(list(blocks)))

    def invert(self, X: ActivationsLike, *, dtype: torch.dtype | None = None) -> Activations:
        """Return the datapoints that :meth:`apply` maps to ``X``, up to rounding to ``dtype``."""
        return self.inverse.apply(X, dtype=dtype)

    def lam(self, lam: float) -> float:
        """Return the penalty of the same problem on the transformed data: s λ."""
        return self.scale * arguments.positive(lam, "lam")

    def value(self, value: float) -> float:
        """Return the value of (P), or a bound on it, for the transformed data: s² F."""
        return self.scale**2 * arguments.real(value, "value")

    def bias(self, bias: BiasLike) -> Float[np.ndarray, " d"] | Literal["free"] | None:
        """Return the bias of the same model on the transformed data: s (b − t).

        ``"free"`` stays free, since the optimum moves along. ``None`` is the zero bias, and becomes
        the fixed bias −s t unless the shift is zero.
        """
        vector = arguments.bias_vector(bias, len(self.shift))
        if isinstance(vector, str):
            return "free"
        if vector is None:
            return None if not self.shift.any() else -self.scale * self.shift
        return np.asarray(self.scale * (vector.numpy() - self.shift))

    def dictionary(self, dictionary: Any) -> Any:
        """Return the dictionary of the same model on the transformed data: the same, since directions do not change."""
        return dictionary

    def codes(self, codes: Any) -> Any:
        """Return the codes of the same model on the transformed data, dense or sparse: s Z."""
        if sp.issparse(codes):
            return tensors.sparse_matrix(codes, "codes") * self.scale
        dense = tensors.matrix(codes, "codes")
        tensors.require_finite(dense, "codes")
        scaled = dense * self.scale
        return scaled if isinstance(codes, torch.Tensor) else scaled.numpy()

    def describe(self) -> str:
        """Describe in one sentence the effect on the data, λ, F and the bias."""
        s = f"{self.scale:.6g}"
        moves, scales = bool(self.shift.any()), self.scale != 1
        if not (moves or scales):
            return "The identity: data, λ, F and the bias stay as they are."
        center = [f"subtracts a vector of norm {np.linalg.norm(self.shift):.6g}"] if moves else []
        factor = [f"multiplies by {s}"] if scales else []
        units = f"λ becomes {s} λ and F becomes {self.scale**2:.6g} F" if scales else "λ and F stay as they are"
        bias = (f"{s} (b − shift)" if scales else "b − shift") if moves else f"{s} b"
        return (
            f"The transform {' and '.join(center + factor)}: {units}, "
            f"a fixed bias b becomes {bias}, a free bias stays free."
        )

    def _require_dim(self, dim: int, name: str) -> None:
        if dim != len(self.shift):
            raise InputError(f"{name} has dimension {dim} but the transform has {len(self.shift)}; they must agree.")


@own_arithmetic()
def center(X: ActivationsLike) -> Affine:
    """Return the transform that subtracts the mean datapoint: one pass over the data, summed in float64."""
    data = Activations(X)
    return Affine(shift=_mean(data))


@own_arithmetic()
def scale_to_unit_mean_square(X: ActivationsLike) -> Affine:
    """Return the transform that divides by the root of mean ‖x_n‖²: one pass over the data.

    Raises
    ------
    InputError
        If every datapoint is zero.
    """
    data = Activations(X)
    return Affine(shift=np.zeros(data.shape[1]), scale=_unit_scale(data, np.zeros(data.shape[1])))


@own_arithmetic()
def center_and_scale(X: ActivationsLike) -> Affine:
    """Return :func:`center`, then :func:`scale_to_unit_mean_square`, in two passes and without a copy of the data.

    Raises
    ------
    InputError
        If all datapoints are the same.
    """
    data = Activations(X)
    mean = _mean(data)
    return Affine(shift=mean, scale=_unit_scale(data, mean))


def _mean(data: Activations) -> Float[np.ndarray, " d"]:
    total = sum(batch.sum(dim=0) for batch in data.batches())
    assert isinstance(total, torch.Tensor)
    return np.asarray((total / len(data)).cpu().numpy())


def _unit_scale(data: Activations, shift: np.ndarray) -> float:
    center = torch.tensor(shift, device=data.device)
    total = sum(float((batch - center).square().sum()) for batch in data.batches())
    if not total > 0:
        raise InputError("X is zero everywhere after the shift, so no scale makes its mean square 1; pass other data.")
    return float(np.sqrt(len(data) / total))
