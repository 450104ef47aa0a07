"""A splitting method for the doubly nonnegative relaxation: one eigendecomposition per step, and its dual closes.

Problem (7) over ``Q ⪰ 0, Q ≥ 0`` is, with V the reconstruction and T for ``DᵀD``,

    min ½‖X − 1bᵀ − V‖² + (λ/2) [ ⟨B, Q⟩ + tr T ]   over   Q ≥ 0   and   [[Q, V], [Vᵀ, T]] ⪰ 0,      B = 11ᵀ + τI,

whose first part separates over the entries and whose second is one cone. The alternating direction method of
multipliers with over-relaxation (Douglas–Rachford) needs a clip and the positive part of a symmetric matrix of
order N + rank(X) a step. Its multipliers are a dual point of T11: ``Y = X − 1bᵀ − V``, and P from the clip.

Everything is in sum units of data scaled to mean squared norm 1, on any device, in float32 or float64. Nothing is
proved here: value and bound are evaluated elsewhere, in float64, from Q, Y and P alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float

from cvxsae.relaxations import linalg
from cvxsae.relaxations.half_spectrum import half_spectrum

_RELAXATION = 1.6
"""Over-relaxation of the splitting: 1 to 2 converges, 1.5 to 1.8 is the usual best (Eckstein & Bertsekas 1992)."""

_BALANCE_EVERY = 5
"""Steps between two adaptations of the step size σ."""

_BALANCE_UNTIL = 200
"""Step after which σ stays: only a fixed one is known to converge."""

_WEIGHTS = (0.02, 1.0)
"""Least and largest congruence β between the blocks: beyond, one block drowns in the other's rounding."""

_RIGIDITIES = (0.1, 10.0)
"""Least and largest first σ, for data of mean squared norm 1 and τ = 1; the largest grows with τ."""

_RANK = 1e-12
"""Singular values below this share of the largest are rounding: the data do not reach into those directions."""

_POSITIVE = 1e-9
"""Entries of Q above this share of the largest count as positive, so that their multiplier starts at zero."""

_MOST_BALANCE = 2.0
"""Ratio of the residuals from which σ is adapted, and the most by which it then changes."""

_LEAST_LOSS = 0.01
"""Share of the gap that either side is taken to lose at least: the objective is estimated, and may be beyond a side."""

_DRIFT = (1 / 8, 8.0)
"""Least and largest σ in units of the first one, as losses change it: they may ask for less and less, or for more."""


@dataclass(frozen=True)
class ConeData:
    """What a run does not change.

    Attributes
    ----------
    data
        ``(X − b)/unit`` in coordinates of its row space, (N, r); centered if the bias is free.
    rotation
        Those coordinates, (r, d): ``data @ rotation`` is the data.
    lam, tau
        Penalty, in the scale of ``data``, and surcharge.
    centered
        Whether the bias is free, so that only centered residuals cost.
    unit
        What the data was divided by; Q scales with it, Y too, and P with its square.
    """

    data: torch.Tensor
    rotation: torch.Tensor
    lam: float
    tau: float
    centered: bool
    unit: float

    def to(self, dtype: torch.dtype) -> ConeData:
        """The same in another precision."""
        return replace(self, data=self.data.to(dtype), rotation=self.rotation.to(dtype))


@dataclass(frozen=True)
class ConeState:
    """An iterate.

    Attributes
    ----------
    cone
        The semidefinite matrix ``[[Q, βV], [βVᵀ, β²T]]``, of order N + r.
    multiplier
        The scaled multiplier of the splitting, of the same order: minus the dual slack over σ.
    rigidity, weight
        The step σ, and β: a congruence that balances the blocks.
    argument, fit
        What the clip was applied to, (N, N), and the separable half's V, (N, r): the dual point is read from them.
    iteration, rank
        Steps done; rank of ``cone``.
    first_rigidity
        The first σ.
    """

    cone: torch.Tensor
    multiplier: torch.Tensor
    rigidity: float
    weight: float
    argument: torch.Tensor
    fit: torch.Tensor
    iteration: int
    rank: int
    first_rigidity: float

    def to(self, dtype: torch.dtype) -> ConeState:
        """The same in another precision."""
        return replace(
            self,
            cone=self.cone.to(dtype),
            multiplier=self.multiplier.to(dtype),
            argument=self.argument.to(dtype),
            fit=self.fit.to(dtype),
        )


def cone_data(offsets: Float[torch.Tensor, "N d"], lam: float, tau: float, *, centered: bool) -> ConeData:
    """Scale ``X − b`` (any b if it is free) and rotate it into its row space."""
    X = offsets - offsets.mean(dim=0) if centered else offsets
    unit = math.sqrt(float(X.square().sum(dim=1).mean())) or 1.0
    left, singular, right = linalg.svd(X / unit)
    rank = max(1, int((singular > _RANK * singular[0]).sum()))
    return ConeData(left[:, :rank] * singular[:rank], right[:rank], lam / unit, tau, centered, unit)


def start(
    data: ConeData,
    factor: Float[torch.Tensor, "N K"],
    fit: Float[torch.Tensor, "N d"],
    atoms: Float[torch.Tensor, "K d"],
) -> ConeState:
    """Begin at ``Q = BBᵀ``, its ridge dictionary D and fit BD, and at the dual that its residual suggests.

    P is the one-shot choice of T11 where Q vanishes. The blocks are balanced at this
    point: β from the sizes of Q and T, σ from those of the primal and the dual matrix.
    """
    X, unit = data.data, data.unit
    B = (factor / math.sqrt(unit)).to(X)
    V, D = (fit / unit).to(X) @ data.rotation.T, (atoms / math.sqrt(unit)).to(X) @ data.rotation.T
    Q, T = B @ B.T, D.T @ D
    sizes = float(torch.linalg.matrix_norm(Q)), float(torch.linalg.matrix_norm(T))
    weight = 0.5 * math.sqrt(sizes[0] / sizes[1]) if min(sizes) > 0 else _WEIGHTS[1]
    weight = min(max(weight, _WEIGHTS[0]), _WEIGHTS[1])
    cone = blocks(Q, weight * V, weight**2 * T)
    residual = centered(data, X - V)
    charge = torch.ones_like(Q).mul_(data.lam / 2)
    charge.diagonal().add_(data.lam * data.tau / 2)
    slack = charge - residual @ residual.T / (2 * data.lam)
    clip = torch.where(Q.gt(_POSITIVE * Q.amax()), 0, slack.clamp(min=0)).fill_diagonal_(0)
    corner = torch.eye(X.shape[1], dtype=X.dtype, device=X.device) * (data.lam / (2 * weight**2))
    dual = blocks(charge - clip, residual / (-2 * weight), corner)
    size = float(torch.linalg.matrix_norm(cone))
    rigidity = float(torch.linalg.matrix_norm(dual)) / size if size > 0 else 1.0
    rigidity = min(max(rigidity, _RIGIDITIES[0]), _RIGIDITIES[1] * max(data.tau, 1.0))
    return ConeState(cone, dual / -rigidity, rigidity, weight, clip / -rigidity, V, 0, factor.shape[1], rigidity)


def advance(data: ConeData, state: ConeState, *, balanced: bool = True) -> ConeState:
    """One step: the separable half, over-relaxation, the cone, the multiplier; if ``balanced``, now and then σ."""
    n, weight, rigidity = len(data.data), state.weight, state.rigidity
    point = state.cone - state.multiplier
    shift = data.lam / (2 * rigidity)
    argument = point[:n, :n] - shift
    argument.diagonal().sub_(shift * data.tau)
    fit, inner = fit_and_corner(data, point, weight, rigidity)
    del point
    separable = blocks(argument.clamp(min=0), fit, inner)
    total = torch.add(state.multiplier, separable, alpha=_RELAXATION).add_(state.cone, alpha=1 - _RELAXATION)
    cone, rank = positive_part(total, state.rank)
    multiplier = total.sub_(cone)
    iteration = state.iteration + 1
    after = ConeState(cone, multiplier, rigidity, weight, argument, fit / weight, iteration, rank, state.first_rigidity)
    if not balanced or iteration % _BALANCE_EVERY or iteration > _BALANCE_UNTIL:
        return after
    return stepped(after, balance(_relative(separable - cone, cone), _relative(cone - state.cone, multiplier)))


def stepped(state: ConeState, factor: float) -> ConeState:
    """With σ this times as large: its multipliers are scaled by σ."""
    if factor == 1:
        return state
    multiplier = state.multiplier / factor
    argument = torch.where(state.argument < 0, state.argument / factor, state.argument)  # P over σ, and Q
    return replace(state, multiplier=multiplier, rigidity=state.rigidity * factor, argument=argument)


def balanced_by_losses(data: ConeData, state: ConeState, value: float, bound: float) -> ConeState:
    """With σ as the losses of making this iterate feasible, on either side, ask for.

    The splitting's objective is accurate long before its iterates are feasible. So what a feasible Q next to them
    costs more (``value``) says how far the primal side is, and what their feasible dual point is worth less
    (``bound``) how far the dual side is; a larger σ helps the first and a smaller one the second. Both are per
    datapoint, in the data's own unit. Where the estimated objective is beyond one of them, that side loses nothing.
    What feasibility costs need not follow σ, so it stays within a range of the first one.
    """
    if state.iteration > _BALANCE_UNTIL or not bound < value:
        return state
    objective, least_loss = estimated_objective(data, state), _LEAST_LOSS * (value - bound)
    if not (math.isfinite(objective) and math.isfinite(least_loss)):
        return state
    wanted = state.rigidity * balance(max(value - objective, least_loss), max(objective - bound, least_loss))
    least, most = (share * state.first_rigidity for share in _DRIFT)
    return stepped(state, min(max(wanted, least), most) / state.rigidity)


def estimated_objective(data: ConeData, state: ConeState) -> float:
    """What the iterate is worth, per datapoint, unscaled: the mean of the cone's objective and of the dual one."""
    n, weight = len(data.data), state.weight
    Q, fit = state.cone[:n, :n], state.cone[:n, n:] / weight
    charged = float(Q.sum()) + data.tau * float(Q.trace()) + float(state.cone[n:, n:].trace()) / weight**2
    primal = float(centered(data, data.data - fit).square().sum()) / 2 + data.lam / 2 * charged
    Y = centered(data, data.data - state.fit)
    dual = float((data.data * Y).sum()) - float(Y.square().sum()) / 2
    return data.unit**2 * (primal + dual) / (2 * n)


def fit_and_corner(
    data: ConeData, point: Float[torch.Tensor, "m m"], weight: float, rigidity: float
) -> tuple[Float[torch.Tensor, "N r"], Float[torch.Tensor, "r r"]]:
    """The separable half outside Q: V, which fits the data, and T, whose trace is charged."""
    n = len(data.data)
    wanted = centered(data, weight * data.data - point[:n, n:])
    corner = point[n:, n:].clone()
    corner.diagonal().sub_(data.lam / (2 * rigidity * weight**2))
    return point[:n, n:] + wanted / (1 + 2 * rigidity * weight**2), corner


def positive_part(matrix: Float[torch.Tensor, "m m"], expected_rank: int) -> tuple[Float[torch.Tensor, "m m"], int]:
    """The projection on the semidefinite cone, and its rank.

    Formed from the side of the spectrum that ``expected_rank`` says to have fewer eigenvectors. A wrong guess only
    costs time.
    """
    symmetric = (matrix + matrix.T).div_(2)
    positive = 2 * expected_rank <= len(matrix)
    values, vectors = half_spectrum(symmetric, positive=positive)
    part = linalg.weighted_gram(vectors, values)
    return (part, len(values)) if positive else (symmetric.sub_(part), len(matrix) - len(values))


def dual_point(data: ConeData, state: ConeState) -> tuple[torch.Tensor, torch.Tensor]:
    """``Y (N, d)`` and ``P (N, N)`` in float64, unscaled: nearly feasible for T11, ``P ≥ 0`` and ``ΣY = 0`` exactly."""
    residual = centered(data, (data.data - state.fit).to(torch.float64))
    P = (-state.argument).clamp_(min=0).to(torch.float64)
    P = P.add_(P.T.clone()).mul_(data.lam * state.rigidity * data.unit**2)
    return data.unit * residual @ data.rotation.to(torch.float64), P


def feasible_similarity(data: ConeData, state: ConeState) -> torch.Tensor:
    """A doubly nonnegative Q (N, N) in float64, unscaled, next to the cone's own."""
    n = len(data.data)
    return lifted(state.cone[:n, :n], data.unit)


def lifted(matrix: Float[torch.Tensor, "N N"], unit: float) -> torch.Tensor:
    """``unit`` times a semidefinite matrix, in float64, made nonnegative.

    Negative entries are lifted to zero, and what was added to a row is added to its diagonal too: a diagonally
    dominant correction keeps the matrix semidefinite.
    """
    Q = matrix.to(torch.float64, copy=True)
    Q = Q.add_(Q.T.clone()).mul_(unit / 2)
    lift = (-Q).clamp_(min=0).fill_diagonal_(0).sum(dim=1)
    Q.clamp_(min=0).diagonal().add_(lift)
    return Q


def clipped_similarity(data: ConeData, state: ConeState) -> torch.Tensor:
    """Another one, (N, N) in float64, unscaled: nonnegative, with its least eigenvalue added to its diagonal."""
    Q = state.argument.clamp(min=0).to(torch.float64)
    Q = Q.add_(Q.T.clone()).mul_(data.unit / 2)
    Q.diagonal().sub_(min(linalg.least_eigenvalue(Q), 0.0))
    return Q


def centered(data: ConeData, matrix: torch.Tensor) -> torch.Tensor:
    """``matrix`` (N, r) less the mean of its rows if the bias is free."""
    return matrix - matrix.mean(dim=0) if data.centered else matrix


def _relative(change: torch.Tensor, point: torch.Tensor) -> float:
    size = float(torch.linalg.matrix_norm(point))
    return float(torch.linalg.matrix_norm(change)) / size if size > 0 else 0.0


def balance(primal: float, dual: float) -> float:
    """By what to multiply σ: at most twice up or down, and only where one residual is more than twice the other."""
    if min(primal, dual) <= 0 or 1 / _MOST_BALANCE <= primal / dual <= _MOST_BALANCE:
        return 1.0
    return min(max(math.sqrt(primal / dual), 1 / _MOST_BALANCE), _MOST_BALANCE)


def blocks(corner: torch.Tensor, side: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """``[[corner, side], [sideᵀ, inner]]``."""
    return torch.cat([torch.cat([corner, side], dim=1), torch.cat([side.T, inner], dim=1)])
