"""Architectures as data: what an encoder does with ``(x − b_dec) W_enc + b_enc`` to get its codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from cvxsae.data import arguments, tensors
from cvxsae.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class ActivationFunction(ABC):
    """From pre-activations (n, K) to codes (n, K), none of them negative.

    A kind has a name, as configs spell it, and the arrays it needs beside the encoder's, by the names they have in
    files. A code is the activation of an atom as stored, of any norm.
    """

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, pre: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        """Return the codes; ``norms`` (K,) are those of the atoms as stored."""

    def arrays(self) -> dict[str, np.ndarray]:
        """What is saved beside encoder and decoder."""
        return {}

    def settings(self) -> dict[str, float | int | bool]:
        """Numbers that configs hold."""
        return {}

    def require_width(self, n_atoms: int) -> None:
        """Refuse arrays that are not one number per atom."""
        for name, array in self.arrays().items():
            if array.shape != (n_atoms,):
                raise InputError(
                    f"{name} has shape {array.shape} but there are {n_atoms} atoms; pass one number an atom."
                )

    @property
    def is_trained_with_l1(self) -> bool:
        """Whether its usual training penalizes the sum of codes, so that a λ of (P) goes with it."""
        return True


@dataclass(frozen=True, eq=False)
class ReLU(ActivationFunction):
    """``max(pre, 0)``."""

    name: ClassVar[str] = "relu"

    def __call__(self, pre: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return torch.relu(pre)


@dataclass(frozen=True, eq=False)
class TanhReLU(ActivationFunction):
    """``tanh(max(pre, 0))``."""

    name: ClassVar[str] = "tanh-relu"

    def __call__(self, pre: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return torch.tanh(torch.relu(pre))


@dataclass(frozen=True, eq=False)
class TopK(ActivationFunction):
    """The k largest pre-activations of a datapoint, where positive; the others are zero.

    With ``by_norm``, the largest products of pre-activation and norm of the atom.
    """

    k: int
    by_norm: bool = False
    name: ClassVar[str] = "topk"

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", arguments.count(self.k, "k"))
        object.__setattr__(self, "by_norm", arguments.flag(self.by_norm, "by_norm"))

    def __call__(self, pre: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:  # noqa: D102
        ranked = pre * norms if self.by_norm else pre
        kept = ranked.topk(min(self.k, pre.shape[1]), dim=1).indices
        return torch.zeros_like(pre).scatter_(1, kept, pre.gather(1, kept).clamp_(min=0))

    def settings(self) -> dict[str, float | int | bool]:  # noqa: D102
        return {"k": self.k, "by_norm": self.by_norm}

    @property
    def is_trained_with_l1(self) -> bool:  # noqa: D102
        return False


@dataclass(frozen=True, eq=False)
class JumpReLU(ActivationFunction):
    """``pre`` where it is above its atom's threshold (and zero), else zero. BatchTopK has one threshold for all."""

    threshold: Float[np.ndarray, " K"]
    name: ClassVar[str] = "jumprelu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", tensors.vector(self.threshold, "threshold").numpy())

    def __call__(self, pre: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return torch.where(pre > torch.tensor(self.threshold, dtype=pre.dtype), pre, 0.0).clamp_(min=0)

    def arrays(self) -> dict[str, np.ndarray]:  # noqa: D102
        return {"threshold": self.threshold}

    @property
    def is_trained_with_l1(self) -> bool:  # noqa: D102
        return False


@dataclass(frozen=True, eq=False)
class Gated(ActivationFunction):
    """``1[p + b_gate > 0] · max(e^r_mag · p + b_mag, 0)`` with pre-activations p; the SAE's ``b_enc`` is zero."""

    b_gate: Float[np.ndarray, " K"]
    r_mag: Float[np.ndarray, " K"]
    b_mag: Float[np.ndarray, " K"]
    name: ClassVar[str] = "gated"

    def __post_init__(self) -> None:
        for part in ("b_gate", "r_mag", "b_mag"):
            object.__setattr__(self, part, tensors.vector(getattr(self, part), part).numpy())

    def __call__(self, pre: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:  # noqa: D102
        b_gate, r_mag, b_mag = (torch.tensor(part, dtype=pre.dtype) for part in (self.b_gate, self.r_mag, self.b_mag))
        return torch.where(pre + b_gate > 0, torch.relu(torch.exp(r_mag) * pre + b_mag), 0.0)

    def arrays(self) -> dict[str, np.ndarray]:  # noqa: D102
        return {"b_gate": self.b_gate, "r_mag": self.r_mag, "b_mag": self.b_mag}


ACTIVATION_FUNCTIONS: Mapping[str, type[ActivationFunction]] = {
    kind.name: kind for kind in (ReLU, TanhReLU, TopK, JumpReLU, Gated)
}
"""The architectures that can be read, by name."""
