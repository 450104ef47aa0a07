"""Quasi-Newton descent on the spheres, preconditioned by the codes.

With the codes Z held fixed, F is a quadratic in (D, b) with the Hessian ``H_Z = (1/N) [Z 1]ᵀ[Z 1]`` in every
coordinate (plus ``λS_k/N`` from the sphere's curvature), and it majorizes F. ``H_Z⁻¹`` applied to the gradient is
therefore a step of alternating minimization; limited-memory BFGS pairs correct it for the codes' response, which
is what makes alternating minimization slow. Gradients are exact by the envelope theorem,
``∂F/∂d_k = −(1/N) Σ_n z_nk r_n`` (T3), no derivative of a code being needed, and every accepted step lowers F itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64

from cvxsae.parallel.group import ProcessGroup
from cvxsae.relaxations.linalg import PositiveFactor, positive_factor
from cvxsae.solvers.dictionary.evaluator import Evaluator
from cvxsae.solvers.dictionary.state import CurvaturePair, Evaluation
from cvxsae.solvers.dictionary.sums import CodeSums, unit


@dataclass(frozen=True)
class QuasiNewton:
    """One step of descent.

    Attributes
    ----------
    memory
        Pairs of steps and gradient changes kept.
    sufficient
        Share of the fall that the slope predicts, which a step must reach (Armijo).
    flatter
        Where F can no longer tell, a step must shorten the slope to this share.
    shorter, most_tries
        Factor between two tries of a line search, and how many there are.
    ridge
        Added to the fixed-code Hessian, relative to its largest diagonal entry: dead atoms have none of their own.
    rounding
        Relative error of a value of F, besides the gap of its codes.
    curved
        Cosine of step and gradient change below which a pair says nothing of the curvature.
    least_scale, most_scale
        Bounds on the factor by which the latest pair corrects the preconditioner.
    """

    memory: int = 20
    sufficient: float = 1e-4
    flatter: float = 0.9
    shorter: float = 0.3
    most_tries: int = 12
    ridge: float = 1e-10
    rounding: float = 1e-13
    curved: float = 1e-12
    least_scale: float = 0.2
    most_scale: float = 50.0

    def descend(
        self, evaluator: Evaluator, here: Evaluation, pairs: tuple[CurvaturePair, ...], code_tol: float
    ) -> tuple[Evaluation, tuple[CurvaturePair, ...]] | None:
        """One step; None where no step along any direction at hand lowers F by more than rounding."""
        group = evaluator.group
        for memory in (pairs, ()) if pairs else ((),):
            direction = group.same(self._direction(evaluator, here, memory))
            slope = group.same_number(float((direction * here.gradient).sum()))
            if not slope < 0:
                continue
            found = self._search(evaluator, here, direction, slope, code_tol)
            if found is not None:
                return found, self._remember(here, found, memory, group)
        return None

    def _direction(
        self, evaluator: Evaluator, here: Evaluation, pairs: tuple[CurvaturePair, ...]
    ) -> Float64[torch.Tensor, "K1 d"]:
        """Minus the two-loop recursion applied to the gradient, with the fixed-code Hessian's inverse at its center."""
        factor = self._factor(here.sums, evaluator.lam)

        def precondition(rows: Float64[torch.Tensor, "K1 d"]) -> Float64[torch.Tensor, "K1 d"]:
            solved = factor.solve(rows)
            if not evaluator.bias_is_free:
                solved[-1] = 0
            return tangent_part(here.variables, solved)

        rest = here.gradient.clone()
        weights = []
        for pair in reversed(pairs):
            weight = float((pair.step * rest).sum()) / pair.curvature
            rest -= weight * pair.change
            weights.append(weight)
        rest = precondition(rest)
        if pairs:
            last = pairs[-1]
            scale = last.curvature / float((last.change * precondition(last.change)).sum())
            rest *= min(max(scale, self.least_scale), self.most_scale)
        for pair, weight in zip(pairs, reversed(weights), strict=True):
            rest += (weight - float((pair.change * rest).sum()) / pair.curvature) * pair.step
        return -tangent_part(here.variables, rest)

    def _factor(self, sums: CodeSums, lam: float) -> PositiveFactor:
        """Factor of the fixed-code Hessian over atoms and bias."""
        size, n_points = len(sums.mass), sums.n_points
        hessian = sums.products.new_zeros((size + 1, size + 1))
        hessian[:-1, :-1] = sums.products / n_points
        hessian[:-1, -1] = hessian[-1, :-1] = sums.mass / n_points
        hessian[-1, -1] = 1
        curved = hessian.diagonal()[:-1] + lam * sums.mass / n_points
        least = self.ridge * float(curved.max().clamp(min=lam**2))
        hessian.diagonal()[:-1] += lam * sums.mass / n_points + least
        return positive_factor(hessian, least)

    def _search(
        self,
        evaluator: Evaluator,
        here: Evaluation,
        direction: Float64[torch.Tensor, "K1 d"],
        slope: float,
        code_tol: float,
    ) -> Evaluation | None:
        """Backtrack until F falls enough; where F can no longer tell, until the gradient does."""
        rounding = (self.rounding + here.codes.gap) * here.value
        length = 1.0
        for _ in range(self.most_tries):
            moved = retract(here.variables, length * direction)
            found = evaluator.evaluate(*moved, here.codes.codes, code_tol)
            if found.value <= here.value + self.sufficient * length * slope:
                return found
            if found.value <= here.value + rounding:
                ahead = evaluator.group.same_number(float((found.gradient * direction).sum()))
                if abs(ahead) <= self.flatter * abs(slope):
                    return found
            length *= self.shorter
        return None

    def _remember(
        self, before: Evaluation, after: Evaluation, pairs: tuple[CurvaturePair, ...], group: ProcessGroup
    ) -> tuple[CurvaturePair, ...]:
        """Carry the pairs to the new tangent space, drop those that saw no positive curvature, add the new one.

        All processes keep the same ones: a search starts over where there are some, and does not where there are none.
        """
        at = after.variables
        step = tangent_part(at, at - before.variables)
        change = after.gradient - tangent_part(at, before.gradient)
        carried = [
            replace(pair, step=tangent_part(at, pair.step), change=tangent_part(at, pair.change)) for pair in pairs
        ]
        carried.append(CurvaturePair(step, change))
        norm = torch.linalg.vector_norm
        curved = [pair.curvature > self.curved * float(norm(pair.step) * norm(pair.change)) for pair in carried]
        agreed = group.same(torch.tensor(curved, dtype=torch.float64)).tolist()
        kept = [pair for pair, holds in zip(carried, agreed, strict=True) if holds]
        return tuple(kept[-self.memory :])


def tangent_part(
    variables: Float64[torch.Tensor, "K1 d"], rows: Float64[torch.Tensor, "K1 d"]
) -> Float64[torch.Tensor, "K1 d"]:
    """Drop what would change the norms of atoms."""
    tangent = rows.clone()
    atoms = variables[:-1]
    tangent[:-1] -= atoms * (atoms * rows[:-1]).sum(dim=1, keepdim=True)
    return tangent


def retract(
    variables: Float64[torch.Tensor, "K1 d"], step: Float64[torch.Tensor, "K1 d"]
) -> tuple[Float64[torch.Tensor, "K d"], Float64[torch.Tensor, " d"]]:
    """Move, and put the atoms back on their spheres."""
    moved = variables + step
    return unit(moved[:-1]), moved[-1]
