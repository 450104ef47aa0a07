"""What :func:`cvxsae.learn_dictionary` returns: a dictionary, and what is certain about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.solution import Status, relative_gap

if TYPE_CHECKING:
    from jaxtyping import Float64

    from cvxsae.relaxations.joint.joint import JointProblem
    from cvxsae.relaxations.solution import Record
    from cvxsae.solvers.codes.result import Codes

# A search for a stationary point does not end by a gap, as most solves do.
_MESSAGES = {
    Status.CERTIFIED: "the value reached the floor: no dictionary of any width is better",
    Status.STALLED: "no step lowers the value any more at this precision, though stationarity is above tol",
    Status.TIME_LIMIT: "max_seconds was reached before stationarity was within tol",
    Status.INTERRUPTED: "the search was interrupted before stationarity was within tol",
}
_REMEDIES = {
    Status.STALLED: "accept the stationarity reached (a larger tol), or centre the data if it lies far from the bias",
    Status.INTERRUPTED: "run it again, with a checkpoint or with this fit as init",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class DictionaryFit:
    """A learned dictionary with exact codes. Values are in units of (P): mean per datapoint.

    Attributes
    ----------
    problem
        The joint problem it answers: data, width, λ, bias.
    dictionary
        Unit-norm atoms as rows, (K, d) float64.
    bias
        Decoder bias, (d,).
    codes
        Exact codes of every datapoint; their duality gaps certify F(D, b).
    floor
        Certified lower bound over every dictionary of every width (T9); at the fixed bias, if it is fixed.
    stationarity
        ``‖E_k[r]/λ − d_k‖`` of every atom at the returned point, NaN for a dead one, (K,) (T3).
    bias_residual
        ``‖mean_n r_n‖/λ`` for a free bias (T3), None for a fixed one.
    least_curvature
        Smallest eigenvalue of the Riemannian Hessian where it was asked for (T5), scaled as in
        :class:`~cvxsae.relaxations.joint.curvature.LeastCurvature`; None otherwise.
    status
        ``STATIONARY`` if every stationarity residual is within ``tol``; ``CERTIFIED`` if the value reached the floor, a
        global optimum of every width; otherwise why the search ended.
    tol
        The stationarity that was asked for.
    seed
        Of the start and of every choice made on the way.
    history
        Value and floor over time. Values are those of the codes at hand; they never rise.
    seconds
        Wall-clock time, earlier runs of a resumed fit included.
    info
        Epochs, steps, evaluations, atoms given up for better ones, device.
    """

    problem: JointProblem
    dictionary: Float64[np.ndarray, "K d"]
    bias: Float64[np.ndarray, " d"]
    codes: Codes
    floor: float
    stationarity: Float64[np.ndarray, " K"]
    bias_residual: float | None
    least_curvature: float | None
    status: Status
    tol: float
    seed: int
    history: tuple[Record, ...] = ()
    seconds: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """F(D, b) at the exact codes."""
        return self.codes.value

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
    def gap(self) -> float:
        """``(value − floor)/value``: all that any other dictionary, of any width, could gain."""
        return relative_gap(self.value, self.floor)

    @property
    def message(self) -> str:
        """How the search ended, in words."""
        return _MESSAGES.get(self.status, self.status.message)

    @property
    def remedy(self) -> str:
        """What to do about it, in words; empty if there is nothing to do."""
        return _REMEDIES.get(self.status, self.status.remedy)

    def candidate(self) -> Candidate:
        """The arrays alone, for :func:`cvxsae.certify` and others that trust nothing else."""
        return Candidate(bias=self.bias, dictionary=self.dictionary, codes=self.codes.codes)

    def arrays(self) -> dict[str, Any]:
        """``dictionary``, ``bias`` and ``codes``, for :func:`cvxsae.data.write_arrays`."""
        return {"dictionary": self.dictionary, "bias": self.bias, "codes": self.codes.codes}

    def summary(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        lambda_max = self.problem.lambda_max()
        return {
            "problem": self.problem.name,
            "n_points": self.codes.n_points,
            "dim": self.problem.dim,
            "n_atoms": self.n_atoms,
            "dead_atoms": self.dead_atoms,
            "lam": self.lam,
            "lam_over_lambda_max": self.lam / lambda_max if lambda_max > 0 else None,
            "value": self.value,
            "floor": self.floor,
            "gap": self.gap,
            "codes_gap": self.codes.gap,
            "largest_code_gap": self.codes.largest_gap,
            "l0": self.codes.l0,
            "stationarity": self.worst_stationarity,
            "bias_residual": self.bias_residual,
            "least_curvature": self.least_curvature,
            "tol": self.tol,
            "seed": self.seed,
            "status": self.status.name,
            "message": self.message,
            "seconds": self.seconds,
            **self.info,
        }

    def __repr__(self) -> str:
        return (
            f"DictionaryFit({self.n_atoms} atoms, λ {self.lam:.4g}, value {self.value:.6g}, floor {self.floor:.6g}, "
            f"stationarity {self.worst_stationarity:.1e}, L0 {self.codes.l0:.1f}, {self.status.name.lower()})"
        )
