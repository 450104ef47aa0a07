"""Small penalties: an interior-point method for the answer, semismooth Newton on the dual for its last digits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from cvxsae.relaxations.convex.fixed_atoms import FixedAtoms
from cvxsae.relaxations.linalg import failing_as
from cvxsae.relaxations.solution import Solution, Status, as_numpy
from cvxsae.solvers.convex.candidates.proximal_gradient import ProximalGradient
from cvxsae.solvers.convex.driver import iterate
from cvxsae.solvers.convex.reference import solve_reference

if TYPE_CHECKING:
    from cvxsae.parallel.context import Run
    from cvxsae.relaxations.candidate import Candidate

NAME = "interior-point"
"""What ``solver`` calls it."""

WORTH_COMPILING = 1e6
"""Multiplications in a pass from which the compiled block descent pays for the seconds its first call may compile."""

_SMALL_PENALTY = {"small": 0.03, "large": 1e-3}
"""Share of λ_max below which it is the first choice: first-order methods take thousands of steps there, and at a
millionth have no end. Up to a million multiplications a pass, where proximal gradient would be next, it is quick;
beyond, block descent is quicker as long as that ends."""

_FIRST_SIGMA, _GROWTH, _LARGEST_SIGMA = 1e3, 4.0, 1e8
"""The proximal parameter σ: at first, by what it grows a step, and where rounding of σ Y Aᵀ begins to show."""

_NEWTON_STEPS = 20
"""Most Newton steps in one proximal step; one or two are common."""

_INEXACT = 0.1
"""Error of the dual point relative to the step of the codes (criterion B of Rockafellar 1976)."""

_SUFFICIENT = 1e-4
"""Share of the predicted decrease that a step must attain (Armijo)."""

_HALVINGS = 20
"""Shorter steps that are tried before rounding is taken to have the last word."""


def is_worthwhile(problem: FixedAtoms) -> bool:
    """Whether λ is so small that first-order methods would be slow."""
    size = "small" if problem.evaluation_cost < WORTH_COMPILING else "large"
    return problem.lam < _SMALL_PENALTY[size] * problem.lambda_max()


def solve_interior_point(problem: FixedAtoms, tol: float, run: Run) -> Solution:
    """Clarabel on the conic form, and :class:`DualNewton` from its answer if that is not within ``tol`` yet.

    An interior point is accurate to about a millionth of the value at a penalty of a millionth of λ_max, whatever the
    conditioning. Where Clarabel reports no optimum, proximal gradient does what it can.
    """
    found = solve_reference(problem, tol, run)
    if found.status is Status.REFERENCE_FAILED:
        return iterate(ProximalGradient(), problem, tol, run)
    if found.status is not Status.STALLED:
        return replace(found, solver=NAME)
    polished = iterate(DualNewton(found), problem, tol, run)
    return replace(polished, solver=NAME, seconds=found.seconds + polished.seconds)


@dataclass(frozen=True)
class DualState:
    """Codes (N, K), the dual point (N, d) they were found with, the proximal parameter, and what does not change."""

    codes: torch.Tensor
    dual: torch.Tensor
    sigma: float
    data: torch.Tensor
    atoms: torch.Tensor


class DualNewton:
    """The proximal method of multipliers on ``½‖C(X − Z A)‖² + λ Σ_k θ_τ(z_k)`` (Li, Sun & Toh 2018), from near by.

    A step replaces Z by ``prox_{σλθ}(Z + σ Y Aᵀ)`` at the Y, with ``Σ_n y_n = 0`` if the bias is free, that minimizes
    ``½‖Y‖² − ⟨X, Y⟩ + ‖prox_{σλθ}(Z + σ Y Aᵀ)‖²/2σ``. That function is strongly convex and once differentiable, and
    near its minimum Newton's method takes a step or two whatever λ, τ and the conditioning of the atoms; far from it,
    and at large σ, it can cycle. Certified by the residual or by Y, re-centered and rescaled (T1, T11).

    Parameters
    ----------
    start
        Where to begin.
    """

    name = "dual-newton"
    default_iterations = 24
    first_check = 1
    patience = 8
    bound_stands: Literal[True] = True

    def __init__(self, start: Candidate) -> None:
        self.start = start

    def init(self, problem: FixedAtoms, device: torch.device) -> DualState:
        """The codes to begin with, and their residual."""
        data = problem.X.to_tensor(device=device) - problem.starting_bias().to(device)
        codes = torch.as_tensor(self.start.codes, dtype=torch.float64, device=device)
        state = DualState(codes, data, _FIRST_SIGMA, data, problem.atoms.to(device))
        return replace(state, dual=problem.feasible_dual(_residual(problem, state, codes)))

    def step(self, problem: FixedAtoms, state: DualState) -> DualState:
        """One proximal step: Newton on the dual, then the codes it gives."""
        Y, sigma = state.dual, state.sigma
        value, codes, gradient = _dual_objective(problem, state, Y)
        for _ in range(_NEWTON_STEPS):
            move = float(torch.linalg.vector_norm(codes - state.codes))
            if float(torch.linalg.vector_norm(gradient)) <= _INEXACT * move / math.sqrt(sigma):
                break
            direction = _newton_direction(problem, state, codes, gradient)
            slope, step = float((gradient * direction).sum()), 1.0
            for _ in range(_HALVINGS):
                trial = _dual_objective(problem, state, Y + step * direction)
                if trial[0] <= value + _SUFFICIENT * step * slope:
                    break
                step /= 2
            else:
                break
            Y, (value, codes, gradient) = Y + step * direction, trial
        return replace(state, codes=codes, dual=Y, sigma=min(sigma * _GROWTH, _LARGEST_SIGMA))

    def bounds(self, problem: FixedAtoms, state: DualState) -> tuple[float, float]:
        """At the codes."""
        residual = _residual(problem, state, state.codes)
        value = float(residual.square().sum()) / 2 + problem.lam * float(problem.penalty.value(state.codes).sum())
        return value / problem.n_points, _proved(problem, state)[0] / problem.n_points

    def finish(self, problem: FixedAtoms, state: DualState) -> Candidate:
        """Codes, the bias that is best for them, and the better of two dual points."""
        bias = problem.starting_bias()
        if problem.bias_is_free:
            bias = bias + (state.data - state.codes @ state.atoms).mean(dim=0).cpu()
        return problem.candidate(as_numpy(state.codes), as_numpy(bias), as_numpy(_proved(problem, state)[1]))

    def info(self, state: DualState) -> dict[str, Any]:
        """Nothing beyond the driver's."""
        del state
        return {}


def _residual(problem: FixedAtoms, state: DualState, codes: torch.Tensor) -> torch.Tensor:
    residual = torch.addmm(state.data, codes, state.atoms, alpha=-1)
    return residual - residual.mean(dim=0) if problem.bias_is_free else residual


def _proved(problem: FixedAtoms, state: DualState) -> tuple[float, torch.Tensor]:
    """The better bound, in sum units, of the residual and of Newton's dual point, and the feasible point that gives it.

    They are the same at the optimum; one has the rounding of the data, the other that of σ.
    """
    points = [problem.feasible_dual(Y) for Y in (_residual(problem, state, state.codes), state.dual)]
    bounds = [float((state.data * Y).sum() - Y.square().sum() / 2) for Y in points]
    return max(zip(bounds, points, strict=True), key=lambda pair: pair[0])


def _dual_objective(problem: FixedAtoms, state: DualState, Y: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
    """What a proximal step minimizes over Y, the codes there, and its gradient, the dual point minus their residual."""
    sigma = state.sigma
    codes = problem.penalty.prox(torch.addmm(state.codes, Y, state.atoms.T, alpha=sigma), sigma * problem.lam)
    value = Y.square().sum() / 2 - (state.data * Y).sum() + codes.square().sum() / (2 * sigma)
    return float(value), codes, Y - _residual(problem, state, codes)


def _newton_direction(
    problem: FixedAtoms, state: DualState, codes: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor:
    """Minus the inverse generalized Hessian times the gradient, (N, d), centered if the bias is free.

    The prox of one atom has the Jacobian ``c I + V W Vᵀ`` on its support S, ``c = 1/(1 + σλτ/θ)``, with the columns
    ``V = [1_S, z/‖z‖]`` and a 2 × 2 matrix W. So the Hessian is ``I + σ Σ_k c_k a_k a_kᵀ`` over the atoms of each
    datapoint, plus the columns ``1_S ⊗ a_k`` and ``z_k/‖z_k‖ ⊗ a_k``; a free bias borders it with ``1 ⊗ I``.
    """
    sigma, tau, (n, d) = state.sigma, problem.penalty.atom_cost, gradient.shape
    theta = problem.penalty.value(codes)
    used = theta > 0
    z, theta, atoms = codes[:, used], theta[used], state.atoms[used]
    support, weight = (z > 0).to(z), 1 / (1 + sigma * problem.lam * tau / theta)
    outer = (atoms[:, :, None] * atoms[:, None, :]).flatten(1)
    blocks = ((sigma * weight * support) @ outer).view(n, d, d)
    blocks.diagonal(dim1=1, dim2=2).add_(1)
    border = d if problem.bias_is_free else 0
    columns = [torch.eye(d).to(gradient).expand(n, d, d)[:, :, :border]]
    inner = torch.zeros((0, 0)).to(gradient)
    if tau > 0 and len(theta):
        basis = torch.stack([support, z / torch.linalg.vector_norm(z, dim=0)], dim=2)  # (N, k, 2)
        parts = sigma * _corrections(basis, z, theta, weight, (sigma * problem.lam, tau))
        inner = torch.diag_embed(parts.permute(1, 2, 0)).permute(2, 0, 3, 1).reshape(2 * len(theta), -1)
        columns.append(torch.einsum("nkj,kd->ndkj", basis, atoms).flatten(2))
    right = torch.cat([-gradient[:, :, None], *columns], dim=2)
    with failing_as("the Newton step", blocks):
        solved = torch.cholesky_solve(right, torch.linalg.cholesky(blocks)).reshape(n * d, -1)
    products = right[:, :, 1:].reshape(n * d, -1).T @ solved
    # Border: Σ y = 0. Columns of the atoms: their multipliers are W times what the direction has along them.
    target, matrix = products[:, 0], products[:, 1:]
    target = torch.cat([target[:border], inner @ target[border:]])
    matrix = torch.cat([matrix[:border], inner @ matrix[border:]])
    matrix[border:, border:].diagonal().add_(1)
    with failing_as("the Newton step", matrix):
        multipliers = torch.linalg.solve(matrix, target)
    direction = (solved[:, 0] - solved[:, 1:] @ multipliers).view(n, d)
    return direction - direction.mean(dim=0) if border else direction


def _corrections(
    basis: torch.Tensor, z: torch.Tensor, theta: torch.Tensor, weight: torch.Tensor, price: tuple[float, float]
) -> torch.Tensor:
    """The matrices W (k, 2, 2) at the prices σλ and τ: ``−c² B (I + c VᵀV B)⁻¹``, B the curvature of σλθ_τ in V."""
    (step, tau), mass, size = price, z.sum(dim=0), torch.linalg.vector_norm(z, dim=0)
    shares, mass_shares = size / theta, mass / theta
    B = torch.stack([shares**2, -mass_shares * shares, -mass_shares * shares, -tau * shares**2], dim=1).view(-1, 2, 2)
    B = B * (step * tau / theta)[:, None, None]
    products = torch.einsum("nki,nkj->kij", basis, basis)
    inverse = torch.eye(2).to(B) + weight[:, None, None] * products @ B
    return -(weight**2)[:, None, None] * torch.linalg.solve(inverse, B, left=False)
