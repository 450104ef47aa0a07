"""The large-dictionary problem of a distribution: the price of an atom depends on its share of tokens (T17 e)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cvxsae.data import arguments, tensors
from cvxsae.data.arguments import Bias, BiasLike
from cvxsae.errors import InputError
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary

if TYPE_CHECKING:
    from jaxtyping import Float64

    from cvxsae.data.activations import ActivationsLike


@dataclass(frozen=True, eq=False)
class PopulationDictionary:
    """The large dictionary of a distribution: the price of an atom depends on the share of tokens that use it.

    ``min E ½‖x − b − z(x) D‖² + λ Σ_k θ(z_k)`` over unit-norm atoms, any number of them, codes ``z(x) ≥ 0`` and bias,
    ``θ(z)² = (E z)² + τ̄ E z²``                                                                              (T17 e)

    An atom that a share p of the tokens use equally pays the L1 price times ``√(1 + τ̄/p)``: at τ̄ = 0 atoms are free
    and the optimum has one per token; at ``p = τ̄`` an atom costs 1.41 times its L1 mass. On N rows as the whole
    population it is :class:`~cvxsae.LargeDictionary` with ``atom_cost = N τ̄``.

    Parameters
    ----------
    lam
        Penalty λ > 0, in the units of the data.
    atom_price
        τ̄ > 0: the share of tokens below which an atom is not worth having, 0.01 for a hundredth of them.
    bias
        ``"free"`` (optimized, the default), None (zero) or an array (d,) (fixed).

    Raises
    ------
    InputError
        For λ, τ̄ or a bias that cannot be used.

    Examples
    --------
    >>> from cvxsae.population import PopulationDictionary
    >>> PopulationDictionary(lam=0.1, atom_price=0.01).atom_cost(500)
    5.0
    """

    lam: float
    atom_price: float
    bias: BiasLike = "free"

    def __post_init__(self) -> None:
        object.__setattr__(self, "lam", arguments.penalty(self.lam, "lam"))
        if arguments.nonnegative(self.atom_price, "atom_price") == 0:
            raise InputError("atom_price is 0, at which atoms are free and each token has its own; use WideLimit.")
        object.__setattr__(self, "atom_price", float(self.atom_price))
        if not isinstance(self.bias, str) and self.bias is not None:
            dim = tensors.vector(self.bias, "bias").numel()
            object.__setattr__(self, "bias", Bias.of(self.bias, dim).public)
        else:
            Bias.of(self.bias, 0)

    @property
    def bias_is_free(self) -> bool:
        """Whether the bias is optimized."""
        return isinstance(self.bias, str)

    def bias_for(self, dim: int) -> Bias:
        """The bias for data of this dimension.

        Raises
        ------
        InputError
            If it is of another dimension.
        """
        return Bias.of(self.bias, dim)

    def prices(self, mass: Float64[np.ndarray, " K"], squares: Float64[np.ndarray, " K"]) -> Float64[np.ndarray, " K"]:
        """θ of every atom from ``S_k = E z_k`` and ``E z_k²``, (K,)."""
        paid: Float64[np.ndarray, " K"] = np.sqrt(mass**2 + self.atom_price * squares)
        return paid

    def atom_cost(self, n_rows: int) -> float:
        """``n τ̄``: the surcharge at which the mean of (L) over samples of n rows bounds the value from below."""
        return n_rows * self.atom_price

    def on(self, X: ActivationsLike) -> LargeDictionary:
        """The large dictionary of some rows, with the surcharge of :meth:`atom_cost`: this problem if they are all."""
        from cvxsae.data.activations import Activations

        data = Activations(X)
        bias = self.bias_for(data.shape[1])
        return LargeDictionary(data, self.lam, self.atom_cost(len(data)), bias=bias.public)

    def __str__(self) -> str:
        return f"λ = {self.lam:g}, τ̄ = {self.atom_price:g}"
