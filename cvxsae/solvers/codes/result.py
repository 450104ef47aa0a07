"""The result of :func:`cvxsae.encode`: sparse codes and their certificate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch

from cvxsae.data.files import read_arrays
from cvxsae.errors import InputError
from cvxsae.parallel.context import Run
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.solution import Record, Solution, Status
from cvxsae.solvers.codes.activity import Activity, certain_activity
from cvxsae.solvers.codes.correlation import largest_correlation
from cvxsae.solvers.codes.refit import Refit, refit_codes
from cvxsae.solvers.codes.rounds import BlockCodes
from cvxsae.solvers.codes.worth import worth_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jaxtyping import Bool, Float64, Int64

    from cvxsae.relaxations.problem import Problem

SOLVER = "working-set"
"""The algorithm's name."""


def as_float64(array: Any) -> Any:
    """A float64 array, sparse as it was: what a file holds may be of any kind."""
    if isinstance(array, torch.Tensor):
        return array.double().numpy()
    return array.astype(np.float64)


_ENDS = (Status.INTERRUPTED, Status.TIME_LIMIT, Status.STALLED)
"""Why codes may not be certified; of what several processes say the first counts."""


@dataclass(frozen=True)
class Share:
    """Sums over the datapoints of one of several processes."""

    n_points: int
    value: float
    bound: float
    loose: float
    largest_gap: float
    active: int
    passes: int
    passes_max: int

    @classmethod
    def of(
        cls,
        codes: sp.csr_array,
        values: Float64[np.ndarray, " n"],
        gaps: Float64[np.ndarray, " n"],
        passes: Int64[np.ndarray, " n"],
    ) -> Share:
        """Add them up."""
        return cls(
            n_points=len(values),
            value=float(values.sum()),
            bound=float((values * (1.0 - gaps)).sum()),
            loose=float((values * gaps).sum()),
            largest_gap=float(gaps.max()),
            active=int(codes.nnz),
            passes=int(passes.sum()),
            passes_max=int(passes.max()),
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Codes(Solution):
    """Sparse codes of every datapoint, each with its certificate. Values are in units of (P): mean per datapoint.

    Of codes that several processes made together (:func:`cvxsae.process_group`) arrays hold this process's datapoints;
    ``value``, ``lower_bound``, ``gap``, ``largest_gap``, ``l0``, ``passes_mean``, ``passes_max``, ``n_points`` and
    ``status`` are those of all.

    Attributes
    ----------
    problem
        The :class:`SparseCodes` they answer: data, unit-norm atoms, λ, bias, weights and ridge.
    codes
        Sparse (N, K), float64, positive where stored, for atoms of norm 1. The certificates are for exactly these
        numbers. :meth:`for_own_rows` gives the codes for the dictionary as it was passed.
    values
        ½‖x − b − zD‖² + λ Σ z of every datapoint, (N,); with weights and ridge + λ Σ_k (w_k z_k + ½ρ_k z_k²).
    gaps
        Certified relative duality gap of every datapoint, (value − lower bound)/value, (N,). It is a proof, rounding
        included: no codes of that datapoint have a value below ``values · (1 − gaps)`` (theory.md T1). Its dual point
        is the residual, scaled; it is not stored.
    passes
        Correlation passes over the dictionary that each datapoint took, (N,); two is the floor from a cold start.
    done
        Whether each datapoint was certified to ``tol``, (N,).
    rounds
        Rounds taken by the slowest block of datapoints.
    shares
        What each process's datapoints add up to, by rank; of one process, one.
    seconds
        Wall-clock time, without compilation.
    status
        ``CERTIFIED`` if every datapoint is done; otherwise why not.
    """

    problem: SparseCodes
    codes: sp.csr_array
    values: Float64[np.ndarray, " N"]
    gaps: Float64[np.ndarray, " N"]
    passes: Int64[np.ndarray, " N"]
    done: Bool[np.ndarray, " N"]
    rounds: int
    shares: tuple[Share, ...]

    @classmethod
    def of_blocks(
        cls,
        problem: SparseCodes,
        blocks: Sequence[BlockCodes],
        *,
        tol: float,
        ended: Status | None,
        seconds: float,
        info: dict[str, Any],
    ) -> Codes:
        """Put blocks of all rows together in the units of the data; collective if several processes share these."""
        lam = problem.lam
        lengths = np.concatenate([np.diff(block.indptr) for block in blocks])
        arrays = (
            np.concatenate([block.codes for block in blocks]) * lam,
            np.concatenate([block.indices for block in blocks]),
            np.concatenate([[0], np.cumsum(lengths)]),
        )
        codes = sp.csr_array(arrays, shape=(problem.n_points, problem.n_atoms))
        values = np.concatenate([block.values for block in blocks]) * lam**2
        gaps = np.concatenate([block.gaps for block in blocks])
        passes = np.concatenate([block.passes for block in blocks])
        done = np.concatenate([block.done for block in blocks])
        rounds = max(block.rounds for block in blocks)
        here = Share.of(codes, values, gaps, passes)
        status = Status.CERTIFIED if done.all() else ended or Status.STALLED
        shares, statuses, used = zip(*problem.group.gather((here, status, info.get("precisions", ""))), strict=True)
        n_points = sum(share.n_points for share in shares)
        value, bound = (sum(getattr(share, name) for share in shares) / n_points for name in ("value", "bound"))
        frame = problem.candidate(codes, problem.fixed_bias().numpy())
        return cls(
            problem=problem,
            dictionary=frame.dictionary,
            bias=frame.bias,
            codes=codes,
            values=values,
            gaps=gaps,
            passes=passes,
            done=done,
            rounds=rounds,
            shares=shares,
            value=value,
            lower_bound=bound,
            status=next((status for status in _ENDS if status in statuses), Status.CERTIFIED),
            tol=tol,
            history=(Record(rounds, seconds, value, bound),),
            seconds=seconds,
            solver=SOLVER,
            info={
                **info,
                "precisions": " | ".join(sorted(set(used))),
                "rounds": rounds,
                "correlation_passes": sum(share.passes for share in shares) / n_points,
                "l0": sum(share.active for share in shares) / n_points,
                "largest_datapoint_gap": max(share.largest_gap for share in shares),
            },
        )

    @classmethod
    def load(cls, path: str | Path, problem: Problem) -> Codes:
        """Read codes that :meth:`save` wrote and certify them again for a problem; no number in the file is trusted.

        Raises
        ------
        InputError
            For a file that cannot be read, a problem that is no :class:`SparseCodes` at a fixed bias, or arrays that do
            not fit it.
        """
        if not isinstance(problem, SparseCodes) or problem.bias_is_free:
            raise InputError(
                f"problem is {getattr(problem, 'name', type(problem).__name__)!r}; pass SparseCodes at a fixed bias."
            )
        held = read_arrays(path)
        if not {"codes", "bias", "dictionary"} <= set(held):
            raise InputError(f"path {str(path)!r} holds no codes with dictionary and bias; pass what Codes.save wrote.")
        codes = sp.csr_array(as_float64(held["codes"]))
        bias, dictionary = as_float64(held["bias"]), as_float64(held["dictionary"])
        objections = problem.objections(Candidate(bias=bias, dictionary=dictionary))
        if codes.shape != (problem.n_points, problem.n_atoms):
            objections.append(f"The codes have shape {codes.shape}, not {(problem.n_points, problem.n_atoms)}.")
        if not (np.isfinite(codes.data).all() and (codes.data >= 0).all()):
            objections.append("Some codes are negative or not finite.")
        if not np.array_equal(bias, problem.fixed_bias().numpy()):
            objections.append("They are codes at another bias.")
        if objections:
            raise InputError(f"path {str(path)!r} does not fit the problem: {objections[0]}")
        tol = float(as_float64(held["tol"])) if "tol" in held else 1.0
        blocks = worth_of(problem, codes, tol)
        return cls.of_blocks(problem, blocks, tol=tol, ended=None, seconds=0.0, info={"engine": "file"})

    @property
    def lam(self) -> float:
        """Penalty λ."""
        return self.problem.lam

    @property
    def atom_norms(self) -> Float64[np.ndarray, " K"]:
        """Norms of the dictionary's rows as they were passed, (K,)."""
        return self.problem.row_norms.numpy()

    @property
    def engine(self) -> str:
        """Name of the engine that computed them."""
        return str(self.info["engine"])

    @property
    def n_points(self) -> int:
        """Number of datapoints N."""
        return sum(share.n_points for share in self.shares)

    @property
    def gap(self) -> float:
        """Relative gap of the means, (value − lower_bound)/value; 0 where the value is 0."""
        loose = sum(share.loose for share in self.shares) / self.n_points  # not the difference, which would cancel
        return loose / self.value if self.value > 0 else 0.0

    @property
    def largest_gap(self) -> float:
        """Largest relative gap of a datapoint."""
        return max(share.largest_gap for share in self.shares)

    @property
    def l0(self) -> float:
        """Mean number of positive codes per datapoint: of these codes; :attr:`activity` says what is sure of it."""
        return sum(share.active for share in self.shares) / self.n_points

    @property
    def passes_mean(self) -> float:
        """Mean number of correlation passes."""
        return sum(share.passes for share in self.shares) / self.n_points

    @property
    def passes_max(self) -> int:
        """Largest number of correlation passes."""
        return max(share.passes_max for share in self.shares)

    @property
    def points_per_second(self) -> float:
        """Datapoints coded per second of wall-clock time."""
        return self.n_points / max(self.seconds, 1e-12)

    @cached_property
    def activity(self) -> Activity:
        """Which codes are positive in every optimum, which in none, and bounds of L0 and of the number of dead atoms.

        One float64 pass over these datapoints, at first use. Where much is undecided, start again from these codes:
        ``encode(..., tol=1e-12, warm_start=codes).activity``.
        """
        return certain_activity(self.problem, self.codes, Run())

    @cached_property
    def lambda_max(self) -> float:
        """Smallest penalty at which all codes are zero, max_nk d_k·(x_n − b)/w_k; one pass over the data, at first use.

        Raises
        ------
        InputError
            For codes that several processes made: no process can tell alone.
        """
        if len(self.shares) > 1:
            raise InputError(
                f"lambda_max of codes over {len(self.shares)} processes is not known to one of them; take the largest "
                "of cvxsae.lambda_max over the processes' rows."
            )
        return largest_correlation(self.problem)

    @property
    def lambda_ratio(self) -> float:
        """λ/λ_max (infinite if no datapoint has a positive correlation)."""
        return self.lam / self.lambda_max if self.lambda_max > 0 else float("inf")

    def for_own_rows(self) -> sp.csr_array:
        """Codes for the dictionary's rows as they were passed: z_k divided by the norm of row k, (N, K)."""
        return sp.csr_array(
            (self.codes.data / self.atom_norms[self.codes.indices], self.codes.indices, self.codes.indptr),
            shape=self.codes.shape,
        )

    def to_torch(self, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> torch.Tensor:
        """Codes as a sparse torch tensor in COO layout, (N, K)."""
        coo = self.codes.tocoo()
        indices = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
        values = torch.from_numpy(coo.data).to(dtype)
        tensor = torch.sparse_coo_tensor(indices, values, coo.shape, is_coalesced=True, check_invariants=False)
        return tensor if device is None else tensor.to(device)

    def refit(self, *, progress: bool = False) -> Refit:
        """Nonnegative least squares on each datapoint's support: the shrinkage that λ, weights and ridge cause removed.

        Parameters
        ----------
        progress
            Whether to show a progress bar on stderr.

        Returns
        -------
        Refit
            The refitted codes, how far they are from exact, and FVU and shrinkage before and after.
        """
        return refit_codes(self.problem, self.codes, progress=progress)

    def _line(self) -> str:
        return (
            f"{self.n_points} x {self.codes.shape[1]}, λ {self.lam:.4g}, value {self.value:.6g} "
            f"≥ {self.lower_bound:.6g}, largest gap {self.largest_gap:.1e}, L0 {self.l0:.1f}, "
            f"{self.status.name.lower()}"
        )
