"""Matryoshka losses with shared codes, written as a plain nonnegative lasso on stacked data."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from cvxsae.data import arguments, tensors
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.data.arguments import Bias, BiasLike
from cvxsae.data.arithmetic import computes
from cvxsae.errors import InputError

FIXED_BIAS = "pass None (zero) or an array, for example the mean of the data"
"""What to do about a free bias."""


class Stacked(NamedTuple):
    """Data, atoms and weights for ``encode(X, dictionary, lam, weights=weights)``; the bias is subtracted already.

    ``dictionary`` is not of unit norm, so that ``codes.for_own_rows()`` are the codes of the original atoms, of norm 1.
    """

    X: Float64[np.ndarray, "N md"]
    dictionary: Float64[np.ndarray, "K md"]
    weights: Float64[np.ndarray, " K"]


@computes
@dataclass(frozen=True)
class Prefixes:
    """Matryoshka losses: ``Σ_m β_m ½‖x − b − z_{1:m} D_{1:m}‖² + λ Σ_k z_k``, every prefix with the same codes.

    It is a nonnegative lasso: data ``√β_m (x − b)`` side by side, atom k the same multiple of ``d_k`` in every prefix
    that has it and zero in the others. Such an atom has the norm ``c_k = √(Σ_{m ≥ k} β_m)``, and a weight ``1/c_k``
    makes its code cost what it did: values, bounds and gaps are those of the formula.

    Parameters
    ----------
    sizes
        How many atoms each prefix has, increasing; the last has all K.
    betas
        β > 0 of every prefix; None for 1.

    Raises
    ------
    InputError
        For sizes that do not increase, or factors that are not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxsae import encode
    >>> from cvxsae.penalties import Prefixes
    >>> stacked = Prefixes([1, 2], betas=[0.25, 1.0]).stack(np.ones((1, 2)), np.eye(2))
    >>> codes = encode(stacked.X, stacked.dictionary, 0.1, weights=stacked.weights, tol=1e-12)
    >>> codes.for_own_rows().toarray().round(6)
    array([[0.92, 0.9 ]])
    """

    sizes: Any
    betas: Any = None

    def __post_init__(self) -> None:
        sizes = arguments.each(self.sizes, "sizes", arguments.count)
        if any(later <= earlier for earlier, later in itertools.pairwise(sizes)):
            raise InputError(f"sizes is {list(sizes)}; each prefix must have more atoms than the one before.")
        given = (1.0,) * len(sizes) if self.betas is None else arguments.each(self.betas, "betas", arguments.positive)
        if len(given) != len(sizes):
            raise InputError(f"betas has {len(given)} numbers for {len(sizes)} prefixes; pass one each.")
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "betas", given)

    def stack(self, X: ActivationsLike, dictionary: object, bias: BiasLike = None) -> Stacked:
        """The data and the atoms side by side, √β of each prefix, and the weights; in memory as a whole.

        Parameters
        ----------
        X
            Datapoints, (N, d).
        dictionary
            Atoms as rows, (K, d), scaled to norm 1.
        bias
            None (zero) or an array (d,), subtracted from every copy.

        Raises
        ------
        InputError
            For a free bias, or a last prefix that is not all atoms.
        """
        data = Activations(X)
        rows, _ = tensors.unit_rows(dictionary, "dictionary", data.shape[1])
        if self.sizes[-1] != len(rows):
            raise InputError(
                f"sizes ends with {self.sizes[-1]} and the dictionary has {len(rows)} atoms; the last prefix has all."
            )
        center = Bias.fixed(bias, data.shape[1], FIXED_BIAS).vector_or_zeros(data.shape[1])
        offsets, atoms = data.to_numpy().astype(np.float64) - center.numpy(), rows.cpu().numpy()
        roots = np.sqrt(self.betas)
        inside = np.arange(len(atoms))[:, None] < np.asarray(self.sizes)  # (K, m)
        return Stacked(
            np.hstack([root * offsets for root in roots]),
            np.hstack([root * atoms * inside[:, [m]] for m, root in enumerate(roots)]),
            1 / np.sqrt(inside @ np.square(roots)),
        )
