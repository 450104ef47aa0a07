"""λ that means something: the largest one, a warm-started path, and the one that gives a wanted number of atoms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from cvxsae.data import arguments, tensors
from cvxsae.data.activations import Activations
from cvxsae.data.arguments import InputError
from cvxsae.solvers.codes.correlation import FREE_BIAS, largest_correlation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jaxtyping import Float64
    from numpy.typing import ArrayLike

    from cvxsae.data.activations import ActivationsLike
    from cvxsae.solvers.codes.result import Codes


def lambda_max(X: ActivationsLike, dictionary: ArrayLike | torch.Tensor, *, bias: ArrayLike | None = None) -> float:
    """Return the smallest λ at which every code is zero, max_nk d_k·(x_n − b) over atoms scaled to norm 1.

    Zero if no atom has a positive correlation with any datapoint: then codes are zero for every λ > 0.

    Parameters
    ----------
    X
        Data (N, d), anything :class:`cvxsae.data.Activations` takes.
    dictionary
        Atoms (K, d), rows of any non-zero norm.
    bias
        ``None`` (zero) or an array (d,).
    """
    data = Activations(X)
    rows, _ = tensors.unit_rows(dictionary, "dictionary", data.shape[1])
    return max(0.0, largest_correlation(data, rows, _fixed_bias(bias, data.shape[1])))


def code_path(
    X: ActivationsLike,
    dictionary: ArrayLike | torch.Tensor,
    lams: Sequence[float] | int = 10,
    *,
    bias: ArrayLike | None = None,
    tol: float = 1e-4,
    smallest_ratio: float = 0.05,
    device: str | torch.device | None = None,
) -> Iterator[Codes]:
    """Codes along a path of penalties, largest λ first, each started from the one before.

    Parameters
    ----------
    lams
        Penalties, or how many to take, equally spaced in log λ from λ_max down to ``smallest_ratio`` · λ_max.

    Yields
    ------
    Codes
        For each λ from the largest to the smallest, each certified to ``tol``.
    """
    from cvxsae.solvers.codes.encode import encode_rows

    data = Activations(X)
    rows, norms = tensors.unit_rows(dictionary, "dictionary", data.shape[1])
    fixed = _fixed_bias(bias, data.shape[1])
    if isinstance(lams, int | np.integer):
        top = largest_correlation(data, rows, fixed)
        if top <= 0:
            raise InputError("lams is a number of penalties but no atom has a positive correlation with X; pass them.")
        penalties = [float(v) for v in top * np.geomspace(1.0, smallest_ratio, arguments.count(lams, "lams"))]
    else:
        penalties = sorted((arguments.positive(lam, "lams") for lam in lams), reverse=True)
    previous: Codes | None = None
    for lam in penalties:
        previous = encode_rows(
            data,
            rows,
            lam,
            bias=fixed,
            tol=tol,
            warm=None if previous is None else previous.codes,
            norms=norms,
            device=device,
        )
        yield previous


def lambda_for_l0(
    X: ActivationsLike,
    dictionary: ArrayLike | torch.Tensor,
    target: float,
    *,
    bias: ArrayLike | None = None,
    rtol: float = 0.02,
    max_points: int | None = 4096,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> float:
    """Return a λ whose exact codes have about ``target`` active atoms per datapoint.

    Bisection in log λ from λ_max down, every step warm-started and certified to 1e-6, on at most ``max_points``
    datapoints drawn at random.

    Raises
    ------
    InputError
        If no λ down to 1e-6 · λ_max reaches the target (K, d or the data allow no more).
    """
    from cvxsae.solvers.codes.encode import encode_rows

    data = Activations(X)
    target = arguments.positive(target, "target")
    if max_points is not None and len(data) > max_points:
        chosen = np.random.default_rng(seed).choice(len(data), size=max_points, replace=False)
        data = data[np.sort(chosen)]
    rows, norms = tensors.unit_rows(dictionary, "dictionary", data.shape[1])
    fixed = _fixed_bias(bias, data.shape[1])
    top = largest_correlation(data, rows, fixed)
    if top <= 0:
        raise InputError(
            "X has no positive correlation with any atom, so all codes are zero; check bias and dictionary."
        )
    high, low, lam = top, 1e-6 * top, 0.3 * top
    codes: Codes | None = None
    bracketed = False
    for _ in range(60):
        codes = encode_rows(
            data,
            rows,
            lam,
            bias=fixed,
            tol=1e-6,
            warm=None if codes is None else codes.codes,
            norms=norms,
            device=device,
        )
        if abs(codes.l0 - target) <= rtol * target:
            return lam
        if codes.l0 < target:
            high = lam
        else:
            low, bracketed = lam, True
        if high / low < 1 + 1e-9:
            break
        lam = math.sqrt(high * low) if bracketed else max(low, lam / 2)
    if bracketed:
        return lam  # L0 jumps over the target here
    raise InputError(
        f"target is {target:g} active atoms but λ = 1e-6 · λ_max gives {0.0 if codes is None else codes.l0:.1f}; "
        "lower target or widen the dictionary."
    )


def _fixed_bias(bias: ArrayLike | None, dim: int) -> Float64[torch.Tensor, " d"] | None:
    vector = arguments.bias_vector(bias, dim)
    if isinstance(vector, str):
        raise InputError(FREE_BIAS)
    return vector
