"""The atom penalty θ_τ: its value, its proximal operator and its polar.

For the activation vector ``z ≥ 0`` of one atom over N datapoints (theory.md §5)

    θ_τ(z)² = (Σ_n z_n)² + τ Σ_n z_n²,

the L1 mass of the activations and a surcharge for existing: an atom used equally by s datapoints
pays √(1 + τ/s) times its L1 mass. At τ = 0 it is the L1 norm of a sparse autoencoder. Everything is
in sum units and works on any dtype and device; activation vectors are columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from cvxsae.data import arguments
from cvxsae.data.arithmetic import computes
from cvxsae.data.deadline import go_on
from cvxsae.relaxations.convex import polar_search as sphere
from cvxsae.relaxations.linalg import FactorizationError, eigh
from cvxsae.relaxations.proofs import CopositivityProof, NonnegativeProof, pencil_bound

_ROOT_ITERATIONS = 200
"""Most steps of a safeguarded root search or ascent: bisection alone needs 60."""

_ROUNDING = 16
"""Spacings of float64 by which the sums of a root's equation are rounded: what is asked for beyond is never found."""

LARGEST_GRAM = 20_000
"""Datapoints beyond which no N × N matrix is formed, and the polar is bounded by ``max_n ‖y_n‖`` alone."""


@dataclass(frozen=True)
class PolarBounds:
    """An interval that contains the polar θ°(Y) of a matrix, with a proof of each end.

    Attributes
    ----------
    lower
        ``‖Yᵀz‖ / θ_τ(z)`` at a nonnegative ``z`` that was found.
    upper
        A number t for which ``t²(11ᵀ + τI) − YYᵀ`` is copositive (T11).
    direction
        The unit vector u (d,) that attains ``lower``: the best new atom.
    proof
        What proves it; None where the upper end needs nothing.
    """

    lower: float
    upper: float
    direction: torch.Tensor
    proof: CopositivityProof | None


@computes
@dataclass(frozen=True)
class AtomPenalty:
    """θ_τ for one surcharge τ = ``atom_cost`` ≥ 0.

    Raises
    ------
    InputError
        If ``atom_cost`` is negative or not finite.
    """

    atom_cost: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "atom_cost", arguments.nonnegative(self.atom_cost, "atom_cost"))

    def value(self, Z: Float[torch.Tensor, "N K"]) -> Float[torch.Tensor, " K"]:
        """θ_τ of every column: ``sqrt((Σ_n z_nk)² + τ Σ_n z_nk²)``, shape (K,)."""
        mass = Z.sum(dim=0)
        return torch.sqrt(mass.square() + self.atom_cost * Z.square().sum(dim=0))

    def prox(self, V: Float[torch.Tensor, "N K"], step: float) -> Float[torch.Tensor, "N K"]:
        """``argmin_{Z ≥ 0} ½‖Z − V‖² + step · Σ_k θ_τ(z_k)``, shape (N, K).

        With α the root of ``α = step · p1/P`` in [0, step], where ``p1 = Σ(v − α)_+``,
        ``p2 = Σ(v − α)_+²`` and ``P = √(p1² + τ p2)``, it is ``(v − α)_+ (1 − step·τ/P)_+`` (theory.md §5).
        """
        step = arguments.nonnegative(step, "step")
        tau = self.atom_cost
        if tau == 0 or step == 0:
            return (V - step).clamp_(min=0)
        size, ceiling = max(float(V.max()), step), torch.finfo(V.dtype).max ** 0.25
        if not 1 / ceiling < size < ceiling and math.isfinite(size) and size > 0:
            return self.prox(V / size, step / size).mul_(size)  # squares must neither overflow nor vanish
        alpha = self._prox_threshold(V, step)
        active = (V - alpha).clamp_(min=0)
        norm = self.value(active)
        shrink = torch.where(norm > step * tau, 1 - step * tau / norm.clamp(min=torch.finfo(V.dtype).tiny), 0)
        return active.mul_(shrink)

    def _prox_threshold(self, V: torch.Tensor, step: float) -> torch.Tensor:
        """Root of ``g(α) = α − step·p1/P``, whose slope is at least 1: safeguarded Newton, one column a problem."""
        tau, eps = self.atom_cost, torch.finfo(V.dtype).eps
        low = torch.zeros_like(V[0])
        high = torch.full_like(low, step)
        # θ° ≤ max v and θ° ≤ ‖v₊‖/√(1+τ): where either is at most the step the prox is zero.
        largest, squares = V.amax(dim=0), V.clamp(min=0).square().sum(dim=0)
        settled = (largest <= step) | (squares <= (1 + tau) * step**2)
        alpha = torch.where(settled, largest, high / math.sqrt(1 + tau))  # exact for a single active datapoint
        for _ in range(_ROOT_ITERATIONS):
            active = (V - alpha).clamp_(min=0)
            p1, p2 = active.sum(dim=0), active.square().sum(dim=0)
            squared = p1.square() + tau * p2
            norm = squared.sqrt().clamp(min=torch.finfo(V.dtype).tiny)
            gap = alpha - step * p1 / norm
            low, high = torch.where(gap <= 0, alpha, low), torch.where(gap > 0, alpha, high)
            settled |= (gap.abs() <= _ROUNDING * eps * step) | (high - low <= _ROUNDING * eps * step)
            if bool(settled.all()):
                break
            support = (active > 0).sum(dim=0)
            slope = 1 + step * tau * (support * p2 - p1.square()).clamp(min=0) / norm.pow(3)
            newton = alpha - gap / slope
            inside = (newton > low) & (newton < high) & torch.isfinite(newton)
            alpha = torch.where(settled, alpha, torch.where(inside, newton, (low + high) / 2))
        return alpha

    def polar(self, V: Float[torch.Tensor, "N K"]) -> Float[torch.Tensor, " K"]:
        """``max {v·z / θ_τ(z) : z ≥ 0}`` of every column, exact (T13, equation 9), shape (K,).

        Any ``a ≥ 0`` gives an upper bound ``a² + (1/τ)Σ(v − a)_+²`` of its square, so the rounding of ``a``
        cannot make a dual point look feasible; ``a = max_n v_n``, the polar at τ = 0, is one of them and the one
        that is left when τ is below rounding.
        """
        largest = V.amax(dim=0).clamp(min=0)
        if self.atom_cost == 0:
            return largest
        size = _safe_size(largest)  # squares must neither overflow nor vanish
        V = V / size
        a = polar_threshold(V, self.atom_cost)
        squared = a.square() + (V - a).clamp_(min=0).square().sum(dim=0) / self.atom_cost
        return torch.minimum(size * torch.sqrt(squared), largest)

    def polar_maximizer(self, V: Float[torch.Tensor, "N K"]) -> Float[torch.Tensor, "N K"]:
        """A ``z ≥ 0`` that attains :meth:`polar`, up to scale: ``(v − a)_+``; one datapoint if τ vanishes."""
        largest, index = V.max(dim=0, keepdim=True)
        single = torch.zeros_like(V).scatter_(0, index, 1) * (largest > 0)
        if self.atom_cost == 0:
            return single
        V = V / _safe_size(largest)
        shared = (V - polar_threshold(V, self.atom_cost)).clamp_(min=0)
        return torch.where(shared.amax(dim=0) > 0, shared, single)

    def matrix_polar(
        self,
        Y: Float[torch.Tensor, "N d"],
        *,
        proof: CopositivityProof | None = None,
        iterations: int = 0,
        starts: int = 8,
        target: float | None = None,
    ) -> PolarBounds:
        """Bound ``θ°(Y) = max {‖Yᵀz‖ / θ_τ(z) : z ≥ 0}``: exact at τ = 0, an interval otherwise (T11, T13).

        In up to three dimensions, and without a proof, it is that of branch and bound: a millionth wide.

        Parameters
        ----------
        Y
            A dual point, (N, d).
        proof
            Used in the upper bound beside the one-shot choice of P.
        iterations
            Rounds of improvement of P, each an N × N eigendecomposition.
        starts
            Directions from which the lower end is searched.
        target
            The level t at which P is built (default: the lower end).
        """
        lower, direction = self.best_direction(Y, starts=starts)
        if self.atom_cost == 0:
            norms = torch.linalg.vector_norm(Y, dim=1)
            exact = float(norms.max())
            best = Y[int(norms.argmax())]
            return PolarBounds(exact, exact, best / max(exact, torch.finfo(Y.dtype).tiny), None)
        ceiling = float(torch.linalg.vector_norm(Y, dim=1).max())  # θ_τ ≥ θ_0, so θ°_τ ≤ θ°_0
        if Y.shape[1] <= sphere.LARGEST_DIM and proof is None:
            exact_polar = sphere.sphere_polar(self.polar, Y.to(torch.float64), (lower, direction))
            return PolarBounds(exact_polar.lower, min(exact_polar.upper, ceiling), exact_polar.direction, None)
        if len(Y) > LARGEST_GRAM:
            return PolarBounds(lower, ceiling, direction, None)
        rows = Y.detach().to(device="cpu", dtype=torch.float64).numpy()
        level = lower if target is None else target
        upper, best_proof = _copositive_bound(rows, self.atom_cost, level, proof, iterations)
        return PolarBounds(min(lower, upper), upper, direction, best_proof)

    def best_direction(
        self, Y: Float[torch.Tensor, "N d"], *, starts: int = 8
    ) -> tuple[float, Float[torch.Tensor, " d"]]:
        """Local search of ``max_{‖u‖=1} θ°(Yu)``, a lower bound of the polar, and its direction: the best new atom.

        ``u ← normalize(Yᵀ(Yu − a)_+)`` increases it at O(Nd) a step (T13); it starts from datapoints of spread-out
        norms and from the principal axes of Y, both ways.
        """
        norms = torch.linalg.vector_norm(Y, dim=1)
        order = norms.argsort(descending=True)
        chosen = order[
            torch.linspace(0, len(order) - 1, min(starts, len(order)), dtype=torch.float64, device=order.device).long()
        ]
        axes = _principal_axes(Y)[:, -min(starts, Y.shape[1]) :]
        U = torch.cat([Y[chosen].T, axes, -axes], dim=1)
        U = U / torch.linalg.vector_norm(U, dim=0).clamp(min=torch.finfo(Y.dtype).tiny)
        best = self.polar(Y @ U)
        for _ in range(_ROOT_ITERATIONS):
            go_on()
            step = Y.T @ self.polar_maximizer(Y @ U)
            length = torch.linalg.vector_norm(step, dim=0)
            U = torch.where(length > 0, step / length.clamp(min=torch.finfo(Y.dtype).tiny), U)
            value = self.polar(Y @ U)
            if bool((value <= best * (1 + 1e-8)).all()):
                break
            best = torch.maximum(best, value)
        value = self.polar(Y @ U)
        winner = int(value.argmax())
        return float(value[winner]), U[:, winner]


def _principal_axes(Y: torch.Tensor) -> torch.Tensor:
    """Orthonormal directions (d, d), those along which Y is longest last; the coordinates' where there are none."""
    try:
        return eigh(Y.T @ Y)[1]
    except FactorizationError:
        return torch.eye(Y.shape[1], dtype=Y.dtype, device=Y.device)


def _safe_size(largest: torch.Tensor) -> torch.Tensor:
    """Divide by this before squaring: the largest entry, or 1 where none is positive."""
    return torch.where(largest > 0, largest, 1)


def polar_threshold(V: Float[torch.Tensor, "N K"], tau: float | torch.Tensor) -> Float[torch.Tensor, " K"]:
    """The root of ``τ a = Σ_n (v_n − a)_+`` for every column (τ > 0), by sorting: exact up to rounding.

    It is zero where no entry is positive. ``tau`` may hold one value a column.
    """
    descending = V.clamp(min=0).sort(dim=0, descending=True).values
    counts = torch.arange(1, len(V) + 1, dtype=V.dtype, device=V.device)[:, None]
    candidates = descending.cumsum(dim=0) / (counts + tau)
    # The threshold is the largest candidate: a_m rises as long as the next entry exceeds it.
    return candidates.amax(dim=0)


def _copositive_bound(
    Y: np.ndarray, tau: float, target: float, given: CopositivityProof | None, iterations: int
) -> tuple[float, CopositivityProof | None]:
    """Smallest t found for which ``t²(11ᵀ + τI) − YYᵀ`` is proved copositive, and its proof (None: it needs none).

    A given proof is tried first and is enough if it proves ``target``; otherwise P = 0, the one-shot P and the given
    proof (or that P), improved, are compared with it. θ°_τ ≤ θ°_0 = max ‖y_n‖ is kept as the last resort.
    """
    gram = Y @ Y.T
    ceiling = math.sqrt(float(gram.diagonal().max(initial=0.0)))  # θ_τ ≥ θ_0, so θ°_τ ≤ θ°_0
    entries = torch.from_numpy(gram)
    scored: list[tuple[float, CopositivityProof | None]] = []
    if given is not None:
        scored.append((given.polar_bound(entries, tau, Y.shape[1], target), given))
        if scored[0][0] <= target:
            return scored[0]
    scored.append((pencil_bound(entries, None, tau, Y.shape[1]), None))
    one_shot = NonnegativeProof.one_shot(gram, target)
    start = one_shot if given is None else given
    for proof in (one_shot, start.improved(gram, tau, target, iterations)) if iterations else (one_shot,):
        scored.append((proof.polar_bound(entries, tau, Y.shape[1]), proof))
    bound, best = min(scored, key=lambda pair: pair[0])
    return (bound, best) if bound <= ceiling else (ceiling, None)
