"""Stochastic gradient steps on F(D, b), with codes of one minibatch at a time: how dictionary learning begins.

By the envelope theorem ``∂F/∂d_k = −(1/N) Σ_n z_nk r_n`` at exact codes (T3): a minibatch whose codes are rough
(:mod:`~cvxsae.solvers.dictionary.rough`) gives an estimate of it, and far from the optimum thousands of such estimates
lead further than the few exact gradients that cost as much. Steps are Adam's (Kingma and Ba, 2015) on the product of
spheres: gradients are made tangent, atoms go back to norm 1. The rate rises over the first steps and falls to zero over
the second half, and the exact pass that follows removes the noise that is left. Nothing here is certified, or trusted
by what comes after.

Minibatches are dealt once, at random from all datapoints, and every pass takes them in an order of its own. Data that
can only be read forward (functions, Parquet, compressed Arrow) are dealt at random within stretches of 64 MB instead,
and a pass takes the stretches as they come and the minibatches of each in an order of its own: one reading of the data
per pass, and minibatches as random as a shuffle buffer of that size makes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64

from cvxsae.solvers.codes.engines.compiled import why_not_compiled
from cvxsae.solvers.dictionary.evaluator import Evaluator
from cvxsae.solvers.dictionary.rough import RoughCodes, adam_in_threads
from cvxsae.solvers.dictionary.state import Moments, RoundStart, SearchState, Stochastic
from cvxsae.solvers.dictionary.sums import unit


@dataclass(frozen=True)
class StochasticSteps:
    """The stochastic stage.

    Attributes
    ----------
    minibatch
        Datapoints in a minibatch.
    rough
        Their codes, on a CPU.
    code_tol
        Relative gap of their codes elsewhere: 0.1 costs twice the time and gains nothing, at 0.6 the gradients lead
        astray.
    length
        How far an atom moves in a step at full rate, at most.
    first_decay, second_decay
        Of Adam's running means of the gradient and of its square; the second is shorter than usual, for few steps.
    warm_up, cool_down
        Shares of the steps over which the rate rises at first, and falls at the end.
    least_scale
        What Adam divides by, at least: far below any gradient, so that the unit of the data does not matter.
    first_round, growth
        Stochastic passes over the data in the first round, and of a later round those of the one before times this.
    most_steps
        Of one pass: more than half a million datapoints need not all be seen.
    """

    minibatch: int = 512
    rough: RoughCodes = field(default_factory=RoughCodes)
    code_tol: float = 0.3
    length: float = 0.4
    first_decay: float = 0.9
    second_decay: float = 0.99
    warm_up: float = 0.03
    cool_down: float = 0.5
    least_scale: float = 1e-150
    first_round: int = 4
    growth: int = 3
    most_steps: int = 1000

    def rounds_of(self, epochs: int) -> tuple[int, ...]:
        """The stochastic passes before each exact pass, ``epochs`` passes in all: 4, 12, 36, ..., as far as they go."""
        rounds: list[int] = []
        while epochs > 0:
            rounds.append(min(self.first_round * self.growth ** len(rounds), epochs - 1))
            epochs -= rounds[-1] + 1
        return tuple(rounds)

    def begin(self, evaluator: Evaluator, state: SearchState, number: int, codes: sp.csr_array | None) -> Stochastic:
        """The first state of a round; codes as far as they are known."""
        minibatches = evaluator.deal(-(-evaluator.summary.n_points // self.minibatch))
        held = (None,) * len(minibatches) if codes is None else tuple(codes[rows] for rows in minibatches)
        start = None if codes is None else RoundStart(state.dictionary, state.offset, state.value, codes)
        return Stochastic(
            **state.at_hand,
            round=number,
            minibatches=minibatches,
            codes=held,
            moments=Moments.zero(state.dictionary),
            start=start,
        )

    def step(self, evaluator: Evaluator, state: Stochastic, passes: int) -> Stochastic:
        """One stochastic step of a round with so many passes."""
        taken, parts, group = state.moments.taken, len(state.minibatches), evaluator.group
        windows = evaluator.windows(parts) if evaluator.problem.X.is_forward_only else None
        part = minibatch_at(taken, parts, evaluator.seed + state.round, windows)
        codes, pull = self._coded(evaluator, state, part)
        (pull,), count = group.sum(pull / evaluator.summary.unit_length**2), group.total(codes.shape[0])
        rate = self.rate_at(taken, self.steps_of(passes, parts))
        dictionary, moments = self.adam(state.dictionary, state.moments, -pull / max(1.0, count), rate)
        held = (*state.codes[:part], codes, *state.codes[part + 1 :])
        return replace(state, dictionary=group.same(dictionary), moments=moments, codes=held)

    def _coded(
        self, evaluator: Evaluator, state: Stochastic, part: int
    ) -> tuple[sp.csr_array, Float64[torch.Tensor, "K d"]]:
        """Codes of a minibatch and its pull on the atoms: rough where that can be, to a loose gap elsewhere."""
        rows, at, warm = state.minibatches[part], (state.dictionary, state.offset), state.codes[part]
        if evaluator.can_be_rough and len(rows):
            return evaluator.rough_minibatch(self.rough, rows, *at, warm)
        points, codes = evaluator.encode_minibatch(rows, *at, warm, self.code_tol)
        return codes, residual_sums(codes, points - state.offset, state.dictionary)

    def is_finished(self, state: Stochastic, passes: int) -> bool:
        """Whether the round has made all its stochastic steps."""
        return state.moments.taken >= self.steps_of(passes, len(state.minibatches))

    def adam(
        self,
        dictionary: Float64[torch.Tensor, "K d"],
        moments: Moments,
        gradient: Float64[torch.Tensor, "K d"],
        rate: float,
    ) -> tuple[Float64[torch.Tensor, "K d"], Moments]:
        """Move against an estimate of the gradient at a rate in [0, 1]; the result does not depend on its units."""
        taken = moments.taken + 1
        length = rate * self.length / dictionary.shape[1] ** 0.5
        length *= (1 - self.second_decay**taken) ** 0.5 / (1 - self.first_decay**taken)  # both means began at zero
        new_first, new_second = 1 - self.first_decay, 1 - self.second_decay
        if dictionary.device.type == "cpu" and why_not_compiled() is None:
            moved, first, second = dictionary.clone(), moments.first.clone(), moments.second.clone()
            rates = new_first, new_second, length, self.least_scale
            adam_in_threads(moved, gradient.contiguous(), first, second, rates)
            return moved, Moments(first, second, taken)
        along = torch.linalg.vecdot(dictionary, gradient)[:, None]
        tangent = torch.addcmul(gradient, dictionary, along, value=-1)
        first = torch.lerp(moments.first, tangent, new_first)
        second = torch.lerp(moments.second, tangent.square_(), new_second)
        moved = torch.addcdiv(dictionary, first, second.sqrt().clamp_(min=self.least_scale), value=-length)
        return unit(moved), Moments(first, second, taken)

    def steps_of(self, passes: int, parts: int) -> int:
        """Steps of a round with so many passes over so many minibatches."""
        return passes * min(parts, self.most_steps)

    def rate_at(self, taken: int, steps: int) -> float:
        """Full, except for a linear rise at first and a linear fall over the last part."""
        return min(
            1.0, (taken + 1) / max(1.0, self.warm_up * steps), (steps - taken) / max(1.0, self.cool_down * steps)
        )


def minibatch_at(taken: int, parts: int, seed: int, windows: list[range] | None = None) -> int:
    """Which minibatch a step takes: every pass goes over all of them in an order of its own.

    Given windows, it goes from one to the next, and over the minibatches of each in an order of its own.
    """
    turn, place = divmod(taken, parts)
    if windows is None:
        return int(np.random.default_rng((seed, turn)).permutation(parts)[place])
    number = place // len(windows[0])
    window = windows[number]
    return int(np.random.default_rng((seed, turn, number)).permutation(window)[place - window.start])


def residual_sums(
    codes: sp.csr_array, points: Float64[torch.Tensor, "n d"], dictionary: Float64[torch.Tensor, "K d"]
) -> Float64[torch.Tensor, "K d"]:
    """``Σ_n z_nk r_n`` of some datapoints, (K, d): minus their share of N times the gradient. Points less the bias."""
    if points.device.type == "cpu":
        residuals = points.numpy() - codes @ dictionary.numpy()
        return torch.from_numpy(np.ascontiguousarray(codes.T @ residuals))
    dense = torch.from_numpy(codes.toarray()).to(points.device)
    return dense.T @ (points - dense @ dictionary)
