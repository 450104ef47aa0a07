"""L1 norms of codes: with a weight for every atom, with a ridge, and of codes of both signs.

Codes under these are the lasso of :func:`cvxsae.encode`: :class:`PenalizedCodes` hands them to the same engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64

from cvxsae.data import arguments, tensors
from cvxsae.errors import InputError
from cvxsae.relaxations.convex.code_penalty import LARGEST_WEIGHT, SMALLEST_WEIGHT
from cvxsae.relaxations.convex.penalties.row_penalty import RowPenalty, linear_radial, require_length


@dataclass(frozen=True)
class L1(RowPenalty):
    """``Ω(z) = Σ_k w_k z_k``, ``z ≥ 0``: the sparse autoencoder's own, and with weights the adaptive lasso.

    Its polar is ``max_k (v_k)_+/w_k``. With equal weights T16 holds with ``g(t) = w t``: a sum of codes is all that is
    paid for. With others ``Ω(z) ≥ (min w) Σz``, but an atom that is not the cheapest pays more when it is alone.

    Parameters
    ----------
    weights
        w > 0 of every atom, (K,); None for 1.

    Raises
    ------
    InputError
        For weights that are not between 1e-12 and 1e12.
    """

    weights: Any = None

    name: ClassVar[str] = "L1"
    formula: ClassVar[str] = "Σ_k w_k z_k"
    signed: ClassVar[bool] = False
    """Whether codes may have both signs."""

    def __post_init__(self) -> None:
        if self.weights is not None:
            given = tensors.vector(self.weights, "weights")
            bad = (given < SMALLEST_WEIGHT) | (given > LARGEST_WEIGHT)
            if bool(bad.any()):
                atom = int(bad.nonzero()[0])
                raise InputError(
                    f"weights holds {float(given[atom]):g} at atom {atom}; pass numbers from {SMALLEST_WEIGHT:g} to "
                    f"{LARGEST_WEIGHT:g}."
                )
            object.__setattr__(self, "weights", tuple(float(one) for one in given))

    @cached_property
    def _each(self) -> torch.Tensor:
        return (
            torch.ones(1, dtype=torch.float64)
            if self.weights is None
            else torch.tensor(self.weights, dtype=torch.float64)
        )

    def require_atoms(self, n_atoms: int) -> None:
        """One weight per atom."""
        if self.weights is not None:
            require_length(len(self.weights), n_atoms, "weights")

    def prices(self, n_atoms: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Weights and ridge as :class:`~cvxsae.SparseCodes` takes them."""
        del n_atoms
        return (None if self.weights is None else np.array(self.weights)), None

    def value(self, Z: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """``Σ_k w_k z_k`` of every row."""
        return (self._each.to(Z) * Z).sum(dim=1)

    def prox(self, V: Float[torch.Tensor, "n K"], step: float) -> Float[torch.Tensor, "n K"]:
        """``(v_k − step·w_k)_+``."""
        return (V - arguments.nonnegative(step, "step") * self._each.to(V)).clamp_(min=0)

    def polar(self, V: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """``max_k (v_k)_+/w_k`` of every row."""
        return (V / self._each.to(V)).amax(dim=1).clamp(min=0)

    @property
    def mass_objection(self) -> str | None:
        """T16 needs equal weights."""
        if self.weights is None or min(self.weights) == max(self.weights):
            return None
        return "an atom with a larger weight pays more for the same sum of codes"

    def of_mass(self, s: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        """``w t``."""
        self.require_mass()
        return s if self.weights is None else self.weights[0] * s

    def radial(self, r: Float64[np.ndarray, "*n"], lam: float) -> Float64[np.ndarray, "*n"]:
        """``μr − μ²/2`` from ``μ = λw`` on, ``r²/2`` below."""
        return linear_radial(r, lam * float(self.of_mass(np.ones(1))[0]))


@dataclass(frozen=True)
class Signed(L1):
    """``Ω(z) = Σ_k w_k |z_k|`` with codes of both signs: nonnegative codes of a dictionary and its negative.

    :class:`PenalizedCodes` has the atoms ``[D; −D]`` then, twice as many, and ``problem.signed(codes)`` puts the two
    halves of the codes together. In formulas here codes are the nonnegative ones.
    """

    name: ClassVar[str] = "signed L1"
    formula: ClassVar[str] = "Σ_k w_k |z_k|"
    signed: ClassVar[bool] = True

    def require_atoms(self, n_atoms: int) -> None:
        """One weight per atom, for both of its signs."""
        if self.weights is not None:
            require_length(len(self.weights), n_atoms, "weights")

    def prices(self, n_atoms: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Those of the atoms and, once more, of their negatives."""
        del n_atoms
        return (None if self.weights is None else np.tile(self.weights, 2)), None

    @cached_property
    def _each(self) -> torch.Tensor:
        if self.weights is None:
            return torch.ones(1, dtype=torch.float64)
        return torch.tensor(self.weights, dtype=torch.float64).repeat(2)


@dataclass(frozen=True)
class ElasticNet(RowPenalty):
    """``Ω(z) = Σ_k (w_k z_k + ½ρ z_k²)``, ``z ≥ 0``; like everything here it is multiplied by λ, as in ``encode``.

    Its conjugate is ``Σ_k (v_k − w_k)_+²/(2ρ)``. T16 does not hold: a sum s of codes costs ``s + ½ρs²`` of one atom and
    ``s + ½ρs²/m`` of m alike, so the largest g that bounds every width is that of L1, which one atom exceeds.

    Parameters
    ----------
    ridge
        ρ > 0.
    weights
        w > 0 of every atom, (K,); None for 1.

    Raises
    ------
    InputError
        For a ridge that is not above zero, or weights that are not between 1e-12 and 1e12.
    """

    ridge: float
    weights: Any = None

    name: ClassVar[str] = "elastic net"
    formula: ClassVar[str] = "Σ_k (w_k z_k + ½ρ z_k²)"
    degree: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ridge", arguments.positive(self.ridge, "ridge"))
        object.__setattr__(self, "weights", self._linear.weights)

    @cached_property
    def _linear(self) -> L1:
        return L1(self.weights)

    def require_atoms(self, n_atoms: int) -> None:
        """One weight per atom."""
        self._linear.require_atoms(n_atoms)

    def prices(self, n_atoms: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Weights and ridge as :class:`~cvxsae.SparseCodes` takes them."""
        return self._linear.prices(n_atoms)[0], np.full(n_atoms, self.ridge)

    def value(self, Z: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """``Σ_k (w_k z_k + ½ρ z_k²)`` of every row."""
        return self._linear.value(Z) + self.ridge / 2 * Z.square().sum(dim=1)

    def prox(self, V: Float[torch.Tensor, "n K"], step: float) -> Float[torch.Tensor, "n K"]:
        """``(v_k − step·w_k)_+/(1 + step·ρ)``."""
        return self._linear.prox(V, step) / (1 + step * self.ridge)

    def polar(self, V: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """``max_k (v_k)_+/w_k`` of every row: the slope at zero is that of L1."""
        return self._linear.polar(V)

    def conjugate(self, V: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """``Σ_k (v_k − w_k)_+²/(2ρ)`` of every row."""
        return self._linear.prox(V, 1.0).square().sum(dim=1) / (2 * self.ridge)

    @property
    def mass_objection(self) -> str | None:
        """A ridge rewards spreading."""
        return "the same sum of codes costs less the more atoms share it, so no width ends it"
