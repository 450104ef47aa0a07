"""Stochastic gradient steps on F(D, b), with codes of one minibatch at a time: how dictionary learning begins.

By the envelope theorem ``∂F/∂d_k = −(1/N) Σ_n z_nk r_n`` at exact codes (T3): a minibatch whose codes are known to a
loose duality gap gives an estimate of it, and far from the optimum hundreds of such estimates lead further than the
few exact gradients that cost as much. Steps are Adam's (Kingma and Ba, 2015) on the product of spheres: gradients are
made tangent, atoms go back to norm 1. The rate rises over the first steps and falls to zero over the second half, and
what noise is left the exact pass that follows takes out. Nothing here is certified, or trusted by what comes after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cvxsae.solvers.dictionary.sums import unit

if TYPE_CHECKING:
    import scipy.sparse as sp
    from jaxtyping import Float64

MINIBATCH = 512
"""Datapoints in a minibatch."""

TOL = 0.3
"""Relative gap of their codes: 0.1 costs twice the time and gains nothing, at 0.6 the gradients lead astray."""

_LENGTH = 0.4
"""How far an atom moves in a step at full rate, at most."""

_FIRST, _SECOND = 0.9, 0.99
_WARM_UP, _DECAY = 0.03, 0.5
_NOTHING = 1e-150
_FIRST_ROUND = 2
_MOST_STEPS = 1000
"""Of one pass: more than half a million datapoints need not all be seen."""


def rounds_of(epochs: int) -> tuple[int, ...]:
    """The stochastic passes before each exact pass, ``epochs`` passes in all: 2, 4, 8, ..., as far as they go."""
    rounds: list[int] = []
    while epochs > 0:
        rounds.append(min(_FIRST_ROUND * 2 ** len(rounds), epochs - 1))
        epochs -= rounds[-1] + 1
    return tuple(rounds)


@dataclass(frozen=True)
class Momentum:
    """Running means of the gradient and of its square, of every coordinate, and the number of steps they saw."""

    first: Float64[torch.Tensor, "K d"]
    second: Float64[torch.Tensor, "K d"]
    taken: int = 0

    @classmethod
    def none(cls, dictionary: Float64[torch.Tensor, "K d"]) -> Momentum:
        """Before the first step."""
        return cls(torch.zeros_like(dictionary), torch.zeros_like(dictionary))

    def step(
        self, dictionary: Float64[torch.Tensor, "K d"], uphill: Float64[torch.Tensor, "K d"], rate: float
    ) -> tuple[Float64[torch.Tensor, "K d"], Momentum]:
        """Move against an estimate of the gradient at a rate in [0, 1]; the result does not depend on its units."""
        along = torch.linalg.vecdot(dictionary, uphill)[:, None]
        tangent = torch.addcmul(uphill, dictionary, along, value=-1)
        taken = self.taken + 1
        first = torch.lerp(self.first, tangent, 1 - _FIRST)
        second = torch.lerp(self.second, tangent.square_(), 1 - _SECOND)
        length = rate * _LENGTH / dictionary.shape[1] ** 0.5
        length *= (1 - _SECOND**taken) ** 0.5 / (1 - _FIRST**taken)  # both means began at zero
        moved = torch.addcdiv(dictionary, first, second.sqrt().clamp_(min=_NOTHING), value=-length)
        return unit(moved), Momentum(first, second, taken)


def steps_of(passes: int, parts: int) -> int:
    """Steps of a round."""
    return passes * min(parts, _MOST_STEPS)


def rate_at(taken: int, steps: int) -> float:
    """Full, but for a linear warm-up and a linear decay over the second half."""
    return min(1.0, (taken + 1) / max(1.0, _WARM_UP * steps), (steps - taken) / max(1.0, _DECAY * steps))


def minibatch_at(taken: int, parts: int, seed: int) -> int:
    """Which minibatch a step takes: every pass goes over all of them in an order of its own."""
    order = np.random.default_rng((seed, taken // parts)).permutation(parts)
    return int(order[taken % parts])


def pull(
    codes: sp.csr_array, points: Float64[torch.Tensor, "n d"], dictionary: Float64[torch.Tensor, "K d"]
) -> Float64[torch.Tensor, "K d"]:
    """``Σ_n z_nk r_n`` of some datapoints, (K, d): minus their share of N times the gradient. Points less the bias."""
    if points.device.type == "cpu":
        residuals = points.numpy() - codes @ dictionary.numpy()
        return torch.from_numpy(np.ascontiguousarray(codes.T @ residuals))
    dense = torch.from_numpy(codes.toarray()).to(points.device)
    return dense.T @ (points - dense @ dictionary)
