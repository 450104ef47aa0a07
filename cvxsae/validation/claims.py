"""The claims of an answer, compared with what its arrays attain and prove."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.code_penalty import ROUNDINGS
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.convex.penalized_codes import PenalizedCodes
from cvxsae.relaxations.linalg import EPS
from cvxsae.relaxations.problem import Problem, float64_tensor
from cvxsae.relaxations.solution import Solution, Status, relative_gap
from cvxsae.solvers.codes.result import Codes
from cvxsae.solvers.dictionary.result import DictionaryFit
from cvxsae.validation.floors import least_wide

CLAIM_TOLERANCE = 1e-9
"""Claims may differ from what is recomputed by this, relative to the value: rounding of two float64 computations."""

WIDE_TOLERANCE = 1e-6
"""The same for a learned dictionary's bound over every width, for which the referee finds a dual point of its own."""

STATIONARITY_TOLERANCE = 1e-6
"""How far a claimed stationarity may be from the one recomputed, in units of λ: codes are exact to about its square."""


def claims_of(candidate: Candidate) -> Claims:
    """What there is to compare: nothing for a bare candidate."""
    for kind, claims in ((DictionaryFit, FitClaims), (Codes, CodesClaims), (Solution, SolutionClaims)):
        if isinstance(candidate, kind):
            return claims(candidate)
    return Claims(candidate)


@dataclass(frozen=True)
class Claims:
    """A candidate that says nothing of itself."""

    answer: Any

    @property
    def must_close(self) -> bool:
        """Whether the gap to the lower bound is held against the answer."""
        return True

    def with_dual(self, problem: Problem) -> Candidate:
        """The candidate, with the dual point its lower bound is computed from."""
        return self.answer

    def objections(self, problem: Problem, value: float, lower_bound: float) -> list[str]:
        """What is claimed and not so."""
        return []

    def facts(self, problem: Problem) -> dict[str, float]:
        """Fields of the certificate that only this kind of answer has."""
        return {}


class SolutionClaims(Claims):
    """Value, lower bound, λ and τ."""

    slack = CLAIM_TOLERANCE

    def objections(self, problem: Problem, value: float, lower_bound: float) -> list[str]:
        """Compare the numbers of any solution."""
        said, solution = [], self.answer
        least = np.finfo(np.float64).tiny
        for symbol, attribute in (("λ", "lam"), ("τ", "penalty.atom_cost")):
            theirs, ours = attrgetter(attribute)(solution.problem), attrgetter(attribute)(problem)
            if theirs != ours:
                said.append(f"The solution is for {symbol} = {theirs:g}, the problem has {symbol} = {ours:g}.")
        for name in ("weights", "ridge"):
            if not _same(getattr(solution.problem, name, None), getattr(problem, name, None)):
                said.append(f"The solution's problem has other {name} than the problem.")
        if isinstance(problem, PenalizedCodes) and solution.problem.penalty != problem.penalty:
            said.append("The solution's problem has another penalty than the problem.")
        if not abs(solution.value - value) <= CLAIM_TOLERANCE * max(abs(value), least):
            said.append(f"The solution claims the value {solution.value:.12g}; its arrays attain {value:.12g}.")
        rounding = float(np.mean(row_rounding(problem, solution)))
        if not solution.lower_bound <= lower_bound + self.slack * max(abs(value), least) + rounding:
            said.append(
                f"The solution claims the lower bound {solution.lower_bound:.12g}; "
                f"its dual point proves {lower_bound:.12g}."
            )
        return said


class CodesClaims(SolutionClaims):
    """Besides, the value and the gap of every datapoint."""

    def objections(self, problem: Problem, value: float, lower_bound: float) -> list[str]:
        """Compare every datapoint's numbers too."""
        said = super().objections(problem, value, lower_bound)
        if not isinstance(problem, SparseCodes) or problem.bias_is_free:
            return said
        codes = self.answer
        values, bounds = row_bounds(problem, codes)
        slack = CLAIM_TOLERANCE * np.maximum(values, np.finfo(np.float64).tiny)
        off = ~(np.abs(codes.values - values) <= slack)
        if off.any():
            n = int(off.argmax())
            said.append(f"The codes of {int(off.sum())} datapoints claim another value than they attain, first {n}.")
        boastful = ~(codes.values * (1 - codes.gaps) <= bounds + slack + row_rounding(problem, codes))
        if boastful.any():
            n = int(boastful.argmax())
            said.append(f"{int(boastful.sum())} datapoints claim a smaller gap than their codes prove, first {n}.")
        return said


class FitClaims(SolutionClaims):
    """Besides, exact codes, stationarity, and a bound over every width."""

    slack = WIDE_TOLERANCE

    @property
    def must_close(self) -> bool:
        """A stationary dictionary says nothing about the gap to other widths; a global optimum does."""
        return self.answer.status is Status.CERTIFIED

    def with_dual(self, problem: Problem) -> Candidate:
        """With a dual point of the wide limit (T9), which bounds every width; the referee's own if none was given."""
        fit = self.answer
        dual = fit.dual if fit.dual is not None or not problem.group.is_alone else _wide_dual(problem)
        return Candidate(bias=fit.bias, dictionary=fit.dictionary, codes=fit.codes, dual=dual)

    def objections(self, problem: Problem, value: float, lower_bound: float) -> list[str]:
        """Compare codes and stationarity too."""
        fit = self.answer
        known = fit.dual is not None or problem.group.is_alone
        said = super().objections(problem, value, lower_bound if known else np.inf)
        facts, tol = self.facts(problem), fit.encoding.tol
        if not facts["codes_gap"] <= max(fit.encoding.gap, tol) + CLAIM_TOLERANCE:
            said.append(f"The codes have a relative gap of {facts['codes_gap']:.2e} (T1), where {tol:.0e} is claimed.")
        residuals, drift = stationarity(problem, fit)
        claimed, found = float(np.nanmax(fit.stationarity, initial=0)), float(np.nanmax(residuals, initial=0))
        if not found <= claimed + STATIONARITY_TOLERANCE:
            atom = int(np.nanargmax(residuals))
            said.append(f"Atom {atom} is {found:.2e} λ from stationary (T3); the fit claims at most {claimed:.2e}.")
        if problem.bias_is_free and not drift <= (fit.bias_residual or 0.0) + STATIONARITY_TOLERANCE:
            said.append(f"The bias is {drift:.2e} λ from stationary (T3); the fit claims {fit.bias_residual or 0:.2e}.")
        worst = max(found, drift if problem.bias_is_free else 0.0)
        if fit.status is Status.STATIONARY and not worst <= fit.stationarity_target + STATIONARITY_TOLERANCE:
            said.append(f"The fit claims to be stationary to {fit.stationarity_target:.1e}; it is to {worst:.1e}.")
        return said

    def facts(self, problem: Problem) -> dict[str, float]:
        """Gap of the codes and stationarity, recomputed."""
        fit = self.answer
        codes = SparseCodes(problem.X, fit.dictionary, problem.lam, bias=fit.bias)
        candidate = Candidate(bias=fit.bias, dictionary=codes.atoms.numpy(), codes=fit.codes)
        residuals, _ = stationarity(problem, fit)
        worst = float(np.nanmax(residuals, initial=0))
        return {"codes_gap": relative_gap(*codes.bounds(candidate)), "stationarity": worst}


def _same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


def row_bounds(
    problem: SparseCodes, candidate: Candidate
) -> tuple[Float64[np.ndarray, " N"], Float64[np.ndarray, " N"]]:
    """Value and certified lower bound of every datapoint (T1), for a fixed bias."""
    codes: Any = candidate.codes
    values, bounds = [], []
    atoms = np.asarray(candidate.dictionary, dtype=np.float64)
    for rows, residual in problem.residual_batches(candidate):
        offsets = residual + torch.from_numpy(np.ascontiguousarray(codes[rows] @ atoms))
        Y = problem.feasible_dual(residual, offsets=offsets)
        values.append(residual.square().sum(dim=1) / 2)
        bounds.append((Y * offsets).sum(dim=1) - Y.square().sum(dim=1) / 2 - problem.conjugates(Y))
    return torch.cat(values).numpy() + problem.lam * problem.row_penalties(codes), torch.cat(bounds).numpy()


def row_rounding(problem: Problem, candidate: Candidate) -> Float64[np.ndarray, " n"]:
    """What a residual in float64 leaves open of every datapoint's bound, beyond :data:`CLAIM_TOLERANCE`.

    Weights divide the rounding of a residual: where one is tiny, two ways to compute it scale a dual point differently.
    Zero without weights.
    """
    if not isinstance(problem, SparseCodes) or problem.weights is None or candidate.codes is None:
        return np.zeros(1)
    codes: Any = candidate.codes
    mass, active = (np.asarray(part.sum(axis=1)).ravel() for part in (codes, codes > 0))
    offsets = [
        torch.linalg.vector_norm(batch.cpu() - torch.from_numpy(candidate.bias), dim=1) for batch in problem.X.batches()
    ]
    roundings = problem.dim + 2 * ROUNDINGS + active
    moved = EPS * roundings * (torch.cat(offsets).numpy() + mass)
    share = np.minimum(1.0, moved / (problem.lam * float(problem.weights.min())))
    return share * row_values(problem, candidate)


def row_values(problem: SparseCodes, candidate: Candidate) -> Float64[np.ndarray, " N"]:
    """The value of every datapoint, for a fixed bias."""
    assert candidate.codes is not None
    squares = [residual.square().sum(dim=1) / 2 for _, residual in problem.residual_batches(candidate)]
    return torch.cat(squares).numpy() + problem.lam * problem.row_penalties(candidate.codes)


def stationarity(problem: Problem, candidate: Candidate) -> tuple[Float64[np.ndarray, " K"], float]:
    """``‖E_k[r]/λ − d_k‖`` of every atom, NaN for dead ones, and ``‖mean_n r_n‖/λ``, from the arrays alone (T3)."""
    codes: Any = candidate.codes
    atoms = np.asarray(candidate.dictionary, dtype=np.float64)
    weighted, total = np.zeros(atoms.shape), np.zeros(problem.dim)
    for rows, block in problem.residual_batches(candidate):
        weighted += codes[rows].T @ block.numpy()
        total += block.sum(dim=0).numpy()
    mass = np.asarray(codes.sum(axis=0)).ravel()
    group, n_points = problem.group, problem.total_points
    if not group.is_alone:
        sums = group.sum(torch.from_numpy(weighted), torch.from_numpy(total), torch.from_numpy(mass))
        weighted, total, mass = (part.numpy() for part in sums)
    residuals = np.full(len(atoms), np.nan)
    live = mass > 0
    residuals[live] = np.linalg.norm(weighted[live] / mass[live, None] / problem.lam - atoms[live], axis=1)
    return residuals, float(np.linalg.norm(total)) / (n_points * problem.lam)


def _wide_dual(problem: Problem) -> Float64[np.ndarray, "N d"]:
    """A dual point of the wide limit: the offsets from a good bias, shortened to λ."""
    data = problem.X.to_numpy()
    bias = least_wide(data, problem.lam)[1] if problem.bias_is_free else problem.fixed_bias().numpy()
    offsets = data - bias
    norms = np.linalg.norm(offsets, axis=1, keepdims=True)
    return float64_tensor(offsets * np.minimum(1, problem.lam / np.maximum(norms, problem.lam))).numpy()
