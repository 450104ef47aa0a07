"""The result of :func:`cvxsae.learn_dictionary`: a dictionary, and what is certified about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64

from cvxsae.data import arguments, tensors
from cvxsae.data.arguments import Bias
from cvxsae.data.files import read_arrays, write_arrays
from cvxsae.errors import InputError
from cvxsae.parallel.context import Run
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.linalg import EPS
from cvxsae.relaxations.problem import Problem
from cvxsae.relaxations.solution import Solution, Status, relative_gap
from cvxsae.solvers.codes.evaluation import Evaluation
from cvxsae.solvers.codes.result import Codes
from cvxsae.solvers.dictionary.evaluator import Evaluator
from cvxsae.solvers.dictionary.held_out import HeldOut
from cvxsae.solvers.dictionary.summary import summarize

FINAL_TOL = 1e-9
"""Largest relative duality gap of the codes that are returned."""

GLOBAL_TOL = 1e-9
"""A value this close to the lower bound, relative, is a global optimum."""

ROUNDING = 4 * EPS
"""How far the norm of an atom that was scaled to 1 may be from it."""

SOLVER = "dictionary"
"""The algorithm's name."""

# A search for a stationary point does not end by a gap, as most solves do.
_MESSAGES = {
    Status.CERTIFIED: "the value reached the lower bound: no dictionary of any width is better",
    Status.STALLED: "no step lowers the value any more at this precision, though stationarity is above its target",
    Status.MAX_ITER: "max_steps was reached before stationarity was within its target",
    Status.TIME_LIMIT: "max_seconds was reached before stationarity was within its target",
    Status.INTERRUPTED: "the search was interrupted before stationarity was within its target",
}
_REMEDIES = {
    Status.STALLED: "accept the stationarity reached (a larger target), or center the data if it lies far from the "
    "bias",
    Status.MAX_ITER: "raise max_steps, or go on with this fit as init or from its folder (limits are per call)",
    Status.TIME_LIMIT: "raise max_seconds, or go on with this fit as init or from its folder (limits are per call)",
    Status.INTERRUPTED: "run it again, with a folder or with this fit as init",
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DictionaryFit(Solution):
    """A learned dictionary with exact codes. Values are in units of (P): mean per datapoint.

    ``lower_bound`` holds for every dictionary of every width (T9), at the fixed bias if it is fixed; ``gap`` is all
    that any other dictionary could gain, and ``is_certified`` says that nothing is left (to 1e-9).

    Attributes
    ----------
    problem
        The joint problem it answers: data, width, λ, bias.
    dictionary
        Unit-norm atoms as rows, (K, d) float64.
    bias
        Decoder bias, (d,).
    codes
        Exact codes of every datapoint (of this process), sparse (N, K).
    encoding
        The same codes with what certifies them: their duality gaps certify ``value`` as F(D, b).
    stationarity
        ``‖E_k[r]/λ − d_k‖`` of every atom at the returned point, NaN for a dead one, (K,) (T3).
    bias_residual
        ``‖mean_n r_n‖/λ`` for a free bias (T3), None for a fixed one.
    least_curvature
        Smallest eigenvalue of the Riemannian Hessian where it was asked for (T5), scaled as in
        :class:`~cvxsae.relaxations.joint.curvature.LeastCurvature`; None otherwise.
    status
        ``STATIONARY`` if every stationarity residual is within ``stationarity_target``; ``CERTIFIED`` if the value
        reached the lower bound, a global optimum of every width; otherwise why the search ended. ``EARLY_STOPPED``:
        where F was lowest on the rows set aside, which says nothing of the optimum of the rows learned from.
    stationarity_target
        The stationarity that was asked for.
    seed
        Of the start and of every choice made on the way.
    validation
        Of the rows set aside, if there were any: what the dictionary is worth on each of them, certified. They have
        chosen among the dictionaries on the way (``held_out`` in ``history``), so for the distribution its ``mean`` is
        biased downwards: a third set of rows has no such bias (:func:`cvxsae.population.evaluate`).
    held_out
        These rows, their documents, and which rows of the data given they were; None without any.
    history
        Value and lower bound over time. Values are those of the codes at hand; they never rise. ``held_out`` is F on
        the rows set aside, where it was evaluated.
    seconds
        Wall-clock time, earlier runs of a resumed fit included.
    info
        Epochs, steps, evaluations, atoms replaced by better ones, device.
    """

    problem: JointProblem
    dictionary: Float64[np.ndarray, "K d"]
    codes: sp.csr_array
    encoding: Codes
    stationarity: Float64[np.ndarray, " K"]
    bias_residual: float | None
    least_curvature: float | None = None
    stationarity_target: float
    seed: int
    validation: Evaluation | None = None
    held_out: HeldOut | None = None

    @classmethod
    def load(cls, path: str | Path, problem: Problem) -> DictionaryFit:
        """Read a fit that :meth:`save` wrote and judge it again: data are coded and the bound is computed anew.

        Raises
        ------
        InputError
            For a file that cannot be read, or arrays that do not fit the problem.
        """
        problem = arguments.instance(problem, "problem", JointProblem, "the JointProblem that the fit answers")
        held: dict[str, Any] = dict(read_arrays(path))
        missing = {"dictionary", "bias", "stationarity_target"} - set(held)
        if missing:
            raise InputError(f"path {str(path)!r} holds no {min(missing)}; pass a file that DictionaryFit.save wrote.")
        run = Run(is_outermost=False, seed=int(held.get("seed", 0)))
        target = float(held["stationarity_target"])
        try:
            return cls.judged(problem, held, run, status=Status.STATIONARY, target=target)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"path {str(path)!r} does not fit the problem: {error}") from None

    @classmethod
    def judged(
        cls, problem: JointProblem, held: Mapping[str, Any], run: Run, *, status: Status, target: float
    ) -> DictionaryFit:
        """A fit of these arrays: data are coded and every number is computed anew.

        Codes among the arrays are where coding starts. The status is trusted only as far as the numbers bear it out.
        """
        atoms, norms = tensors.unit_rows(held["dictionary"], "dictionary", problem.dim)
        if bool(((norms - 1).abs() <= ROUNDING).all()):  # of norm 1 already: the same bit for bit
            atoms = torch.tensor(np.asarray(held["dictionary"], np.float64))
        bias = Bias.fixed(held["bias"], problem.dim, "pass a file that DictionaryFit.save wrote")
        objections = problem.objections(Candidate(bias=held["bias"], dictionary=held["dictionary"]))
        if objections:
            raise ValueError(objections[0])
        evaluator = Evaluator(problem, summarize(problem, run), run)
        offset = _offset(bias.vector_or_zeros(problem.dim), evaluator.summary.origin.cpu()).to(run.device)
        atoms = atoms.to(run.device)
        warm = held.get("codes")
        is_fitting = isinstance(warm, sp.csr_array) and warm.shape == (problem.n_points, problem.n_atoms)
        encoding = evaluator.encode_all(atoms, offset, warm if is_fitting else None, FINAL_TOL)
        return judge_fit(evaluator, atoms, offset, encoding, status, target)

    def save(self, path: str | Path) -> Path:
        """Write dictionary, bias, codes and what was claimed of them to a ``.npz`` or ``.safetensors`` file."""
        claims = {name: getattr(self, name) for name in ("lam", "value", "lower_bound", "tol", "stationarity_target")}
        return write_arrays(path, {**self.arrays(), **claims, "seed": self.seed})

    @property
    def lam(self) -> float:
        """Penalty λ."""
        return self.problem.lam

    @property
    def n_atoms(self) -> int:
        """Width K."""
        return len(self.dictionary)

    @property
    def dead_atoms(self) -> int:
        """Atoms that no datapoint uses."""
        return int(np.isnan(self.stationarity).sum())

    @property
    def worst_stationarity(self) -> float:
        """Largest stationarity residual: over live atoms, and the bias if it is free."""
        live = self.stationarity[~np.isnan(self.stationarity)]
        return max(float(live.max(initial=0.0)), self.bias_residual or 0.0)

    @property
    def message(self) -> str:
        """How the search ended, in words."""
        return _MESSAGES.get(self.status, self.status.message)

    @property
    def remedy(self) -> str:
        """What to do about it, in words; empty if there is nothing to do."""
        return _REMEDIES.get(self.status, self.status.remedy)

    def candidate(self) -> Candidate:
        """The arrays alone, without what is claimed of them."""
        return Candidate(bias=self.bias, dictionary=self.dictionary, codes=self.codes)

    def to_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        return {
            **super().to_dict(),
            "n_points": self.encoding.n_points,
            "n_atoms": self.n_atoms,
            "dead_atoms": self.dead_atoms,
            "codes_gap": self.encoding.gap,
            "largest_code_gap": self.encoding.largest_gap,
            "l0": self.encoding.l0,
            "stationarity": self.worst_stationarity,
            "stationarity_target": self.stationarity_target,
            "bias_residual": self.bias_residual,
            "least_curvature": self.least_curvature,
            "seed": self.seed,
            **({} if self.validation is None else {"validation": self.validation.mean.to_dict()}),
        }

    def _line(self) -> str:
        seen = "" if self.validation is None else f"held-out F {self.validation.value:.6g}, "
        level = f"{seen}value {self.value:.6g}, lower bound {self.lower_bound:.6g}"
        ended = f"stationarity {self.worst_stationarity:.1e}, L0 {self.encoding.l0:.1f}, {self.status.name.lower()}"
        return f"{self.n_atoms} atoms, λ {self.lam:.4g}, {level}, {ended}"


def _offset(bias: Float64[torch.Tensor, " d"], origin: Float64[torch.Tensor, " d"]) -> Float64[torch.Tensor, " d"]:
    """What added to an origin gives a bias, bit for bit if there is such a number."""
    offset = bias - origin
    for end in (-torch.inf, torch.inf):
        beside = torch.nextafter(offset, torch.full_like(offset, end))
        offset = torch.where((origin + offset != bias) & (origin + beside == bias), beside, offset)
    return offset


def judge_fit(
    evaluator: Evaluator,
    dictionary: Float64[torch.Tensor, "K d"],
    offset: Float64[torch.Tensor, " d"],
    encoding: Codes,
    status: Status,
    target: float,
) -> DictionaryFit:
    """What a dictionary with exact codes is worth; the status that was reached as far as the numbers bear it out.

    Values are those of the codes, not of their sums, which cancel where data are far from the bias.
    """
    problem, group = evaluator.problem, evaluator.group
    sums, bound = evaluator.sums(encoding.codes), evaluator.summary.lower_bound
    stationarity = group.same(sums.stationarity(dictionary, offset, problem.lam)).cpu().numpy()
    drift = None
    if problem.bias_is_free:
        drift = group.same_number(sums.bias_residual(dictionary, offset, problem.lam))
    worst = max(float(np.nan_to_num(stationarity).max(initial=0.0)), drift or 0.0)
    if relative_gap(encoding.value, bound) <= GLOBAL_TOL:
        status = Status.CERTIFIED
    elif status is Status.CERTIFIED:
        status = Status.STALLED
    if status is Status.STATIONARY and not worst <= target:
        status = Status.STALLED
    return DictionaryFit(
        problem=problem,
        dictionary=dictionary.cpu().numpy(),
        bias=evaluator.bias(offset).numpy(),
        codes=encoding.codes,
        encoding=encoding,
        value=encoding.value,
        lower_bound=bound,
        stationarity=stationarity,
        bias_residual=drift,
        status=status,
        tol=GLOBAL_TOL,
        stationarity_target=target,
        seed=evaluator.seed,
        solver=SOLVER,
    )
