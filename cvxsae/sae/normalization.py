"""What some SAEs do to each activation vector before they encode it, and undo after they decode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from cvxsae.data import arguments, tensors
from cvxsae.data.activations import Activations
from cvxsae.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float

    from cvxsae.data.activations import ActivationsLike

Undo = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Normalization(ABC):
    """A map of datapoints that the SAE works behind: everything certified holds for the mapped data.

    A scale that is the same for all datapoints is no normalization: it is folded into the weights, exactly.
    """

    name: ClassVar[str]

    @abstractmethod
    def forward(self, X: torch.Tensor) -> tuple[torch.Tensor, Undo]:
        """The normalized block (n, d), and what undoes it on reconstructions of these very datapoints."""

    def apply(self, X: ActivationsLike) -> Activations:
        """The data the SAE's dictionary is about, (N, d), float64."""
        return Activations(self.forward(block)[0] for block in Activations(X).batches())

    def require_dim(self, dim: int) -> None:
        """Refuse an SAE of a dimension that it is not for; most are for every one."""
        del dim

    @property
    def sentence(self) -> str:
        """What a report says about it."""
        return f"activations are normalized ({self.name}); values, gaps and bounds hold for the normalized data"


@dataclass(frozen=True)
class LayerNorm(Normalization):
    """``(x − mean(x)) / (std(x) + eps)`` per datapoint; ``ddof`` 1 is torch's default, 0 the usual LayerNorm.

    A datapoint that does not vary becomes zero, whatever ``eps``.
    """

    eps: float = 1e-5
    ddof: int = 1
    name: ClassVar[str] = "layer_norm"

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", arguments.nonnegative(self.eps, "eps"))
        object.__setattr__(self, "ddof", arguments.count(self.ddof, "ddof", least=0, most=1))

    def require_dim(self, dim: int) -> None:  # noqa: D102
        if dim <= self.ddof:
            raise InputError(f"the SAE has dimension {dim}, in which a layer norm leaves nothing; it cannot be read.")

    def forward(self, X: torch.Tensor) -> tuple[torch.Tensor, Undo]:  # noqa: D102
        mean = X.mean(dim=1, keepdim=True)
        std = (X - mean).std(dim=1, keepdim=True, correction=self.ddof)
        size = std + self.eps
        return (X - mean) / torch.where(size > 0, size, 1.0), lambda Y: Y * std + mean


@dataclass(frozen=True, eq=False)
class TokenNorm(Normalization):
    """``x · √d / ‖x‖``: every datapoint gets the same norm; a datapoint of zero stays zero."""

    name: ClassVar[str] = "constant_norm_rescale"

    def forward(self, X: torch.Tensor) -> tuple[torch.Tensor, Undo]:  # noqa: D102
        norms = torch.linalg.vector_norm(X, dim=1, keepdim=True)
        scale = torch.where(norms > 0, X.shape[1] ** 0.5 / norms, 1.0)
        return X * scale, lambda Y: Y / scale


@dataclass(frozen=True, eq=False)
class Whitening(Normalization):
    """``(x − mean) matrix``, undone by ``y inverse + mean``; rows are datapoints."""

    mean: Float[np.ndarray, " d"]
    matrix: Float[np.ndarray, "d d"]
    inverse: Float[np.ndarray, "d d"]
    name: ClassVar[str] = "covariance_whitening"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tensors.vector(self.mean, "mean").numpy())
        size = len(self.mean)
        for part in ("matrix", "inverse"):
            found = tensors.matrix(getattr(self, part), part, rows="dimension").to(torch.float64).numpy()
            if found.shape != (size, size):
                raise InputError(f"{part} has shape {found.shape} but mean has {size} entries; it must be square.")
            object.__setattr__(self, part, found)

    def require_dim(self, dim: int) -> None:  # noqa: D102
        if len(self.mean) != dim:
            raise InputError(f"mean has {len(self.mean)} entries but the SAE has dimension {dim}; both must be d.")

    def forward(self, X: torch.Tensor) -> tuple[torch.Tensor, Undo]:  # noqa: D102
        mean, matrix, inverse = (torch.tensor(part, dtype=X.dtype) for part in (self.mean, self.matrix, self.inverse))
        return (X - mean) @ matrix, lambda Y: Y @ inverse + mean


def as_it_is(Y: torch.Tensor) -> torch.Tensor:
    """What undoes nothing."""
    return Y
