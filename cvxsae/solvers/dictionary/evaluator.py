"""Passes over the data: exact codes, their sums and the gradient, in one process or in several."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Float32, Float64, Int64

from cvxsae.data.deadline import OutOfTime
from cvxsae.parallel.context import Run
from cvxsae.parallel.group import ProcessGroup
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.encode import encode_rows
from cvxsae.solvers.codes.result import Codes
from cvxsae.solvers.dictionary.rough import RoughCodes, can_be_rough
from cvxsae.solvers.dictionary.sample import ResidualSample, deal_forward, sample_here, windows
from cvxsae.solvers.dictionary.state import DataSummary, Evaluation
from cvxsae.solvers.dictionary.sums import CodeSums


class DeadlineReached(OutOfTime):
    """Time ran out before all datapoints were coded. It never leaves the search: the state before is gone on from."""


EXACT_PER_ROUGH = 3.0
"""How many times as long as rough codes certified ones may take."""

PACES_KEPT = 4
"""Codings whose quickest is the pace: one that was held up, by a kernel compiled or by other work, says little."""


@dataclass
class Pace:
    """How long it takes to code a datapoint, by the last few times some were coded."""

    kept: deque[float] = field(default_factory=lambda: deque(maxlen=PACES_KEPT))

    @property
    def seconds(self) -> float:
        """Seconds a datapoint; zero until two codings have been timed."""
        return min(self.kept) if len(self.kept) > 1 else 0.0

    def coded(self, problem: SparseCodes, run: Run, *, tol: float, warm: sp.csr_array | None) -> Codes:
        """Codes, and a note of the time they took."""
        begun = time.perf_counter()
        codes = encode_rows(problem, run, tol=tol, warm=warm)
        self.kept.append((time.perf_counter() - begun) / problem.n_points)
        return codes


@dataclass(frozen=True)
class Evaluator:
    """The joint problem as its search sees it.

    Where several processes hold the datapoints, all decide the same: decisions are made on sums over all of them, and
    what went through a matrix product is taken from the first.

    Attributes
    ----------
    problem
        Data, width, λ and bias.
    summary
        Sums of the data and the lower bound.
    run
        How passes over the data run: device, seed and deadline of the search.
    pace
        Of coding, so that the time to code all datapoints once more can be set aside.
    """

    problem: JointProblem
    summary: DataSummary
    run: Run
    pace: Pace = field(default_factory=Pace)

    @property
    def group(self) -> ProcessGroup:
        """The processes that hold the datapoints."""
        return self.problem.group

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return self.run.device

    @property
    def seed(self) -> int:
        """Of everything that is drawn."""
        return self.run.seed

    def until(self, deadline: float) -> Evaluator:
        """The same with another deadline."""
        return replace(self, run=replace(self.run, deadline=deadline))

    @property
    def lam(self) -> float:
        """Penalty λ."""
        return self.problem.lam

    @property
    def bias_is_free(self) -> bool:
        """Whether the bias is a variable."""
        return self.problem.bias_is_free

    def bias(self, offset: Float64[torch.Tensor, " d"]) -> Float64[torch.Tensor, " d"]:
        """The bias at an offset, on the CPU and in the coordinates of the data."""
        return (self.summary.origin + offset).cpu()

    def measured(self, points: Float[torch.Tensor, "n d"]) -> Float64[torch.Tensor, "n d"]:
        """Datapoints as seen from the origin."""
        return points.to(device=self.device, dtype=torch.float64) - self.summary.origin

    def windows(self, parts: int) -> list[range]:
        """The minibatches dealt from each stretch of data that can only be read forward; the same in all processes."""
        here = -(-self.summary.n_points // self.group.size)
        return windows(here, self.problem.dim * self.problem.X.dtype.itemsize, parts)

    def deal(self, parts: int) -> tuple[Int64[np.ndarray, " _"], ...]:
        """The datapoints of each minibatch, ascending: of several processes, those here of the one deal of all.

        Where rows come in one order, each process deals its own, within the stretches of a shuffle buffer.
        """
        here = self.problem.n_points
        if self.problem.X.is_forward_only:
            return deal_forward(here, self.windows(parts), self.seed)
        first, total = self.group.places(here)
        order = np.random.default_rng(self.seed).permutation(total) - first
        order = np.where((order >= 0) & (order < here), order, -1)
        minibatches = (np.sort(order[part::parts]) for part in range(parts))
        return tuple(rows[rows >= 0] for rows in minibatches)

    def encode_minibatch(
        self,
        rows: Int64[np.ndarray, " n"],
        dictionary: Float64[torch.Tensor, "K d"],
        offset: Float64[torch.Tensor, " d"],
        warm: sp.csr_array | None,
        tol: float,
    ) -> tuple[Float64[torch.Tensor, "n d"], sp.csr_array]:
        """Some datapoints of this process, as seen from the origin, and their codes.

        Raises
        ------
        DeadlineReached
            If some are not finished at the deadline. Several processes finish theirs whatever the time: one that gave
            up alone would leave the others waiting.
        """
        if not len(rows):  # of a process with few datapoints, some minibatches have none
            return offset.new_zeros((0, self.problem.dim)), sp.csr_array((0, len(dictionary)))
        data = self.problem.X[rows]
        at = SparseCodes.of_unit_rows(data, dictionary.cpu(), self.lam, self.bias(offset))
        run = self.run if self.group.is_alone else self.run.without_limit()
        codes = self.pace.coded(at, run, tol=tol, warm=warm)
        if codes.status is Status.TIME_LIMIT:
            raise DeadlineReached
        return self.measured(data.to_tensor()), codes.codes

    @property
    def can_be_rough(self) -> bool:
        """Whether stochastic steps can do with rough codes here."""
        longest = math.sqrt(self.summary.energy) / self.lam  # of a datapoint, at most
        return can_be_rough(self.device, longest)

    def rough_minibatch(
        self,
        rough: RoughCodes,
        rows: Int64[np.ndarray, " n"],
        dictionary: Float64[torch.Tensor, "K d"],
        offset: Float64[torch.Tensor, " d"],
        warm: sp.csr_array | None,
    ) -> tuple[sp.csr_array, Float64[torch.Tensor, "K d"]]:
        """Rough codes of some datapoints of this process, and ``Σ_n z_nk r_n`` of every atom, (K, d)."""
        begun = time.perf_counter()
        points = self.measured(self.problem.X[rows].to_tensor()) - offset
        found = rough.minibatch(points, dictionary, self.lam, warm)
        self.pace.kept.append(EXACT_PER_ROUGH * (time.perf_counter() - begun) / len(rows))
        return found

    def encode_all(
        self,
        dictionary: Float64[torch.Tensor, "K d"],
        offset: Float64[torch.Tensor, " d"],
        warm: sp.csr_array | None,
        tol: float,
    ) -> Codes:
        """Codes of all datapoints.

        Raises
        ------
        DeadlineReached
            If some are not finished at the deadline, in one process or another.
        """
        codes = self.encode_what_can_be(dictionary, offset, warm, tol)
        if codes.status is Status.TIME_LIMIT:
            raise DeadlineReached
        return codes

    def encode_what_can_be(
        self,
        dictionary: Float64[torch.Tensor, "K d"],
        offset: Float64[torch.Tensor, " d"],
        warm: sp.csr_array | None,
        tol: float,
    ) -> Codes:
        """Codes of all datapoints; zero, and known to be no more than that, where time ran out."""
        at = SparseCodes.of_unit_rows(self.problem.X, dictionary.cpu(), self.lam, self.bias(offset))
        return self.pace.coded(at, self.run, tol=tol, warm=warm)

    def evaluate(
        self,
        dictionary: Float64[torch.Tensor, "K d"],
        offset: Float64[torch.Tensor, " d"],
        warm: sp.csr_array | None,
        tol: float,
    ) -> Evaluation:
        """Exact codes, value and gradient, the same in all processes."""
        dictionary, offset = self.group.same(dictionary), self.group.same(offset)
        codes = self.encode_all(dictionary, offset, warm, tol)
        sums = self.sums(codes.codes)
        gradient = self.group.same(sums.gradient(dictionary, offset, bias_is_free=self.bias_is_free))
        return Evaluation(torch.cat([dictionary, offset[None]]), codes, gradient, sums)

    def no_sums(self, n_atoms: int) -> CodeSums:
        """The sums of zero codes."""
        return CodeSums.empty(n_atoms, self.summary.total, self.summary.energy, self.summary.n_points)

    def sums(self, codes: sp.csr_array) -> CodeSums:
        """Sums over all datapoints, of all processes."""
        return self.own_sums(codes).over(self.group)

    def own_sums(self, codes: sp.csr_array) -> CodeSums:
        """Sums over the datapoints of this process."""
        sums = self.no_sums(codes.shape[1])
        start = 0
        for batch in self.problem.X.batches():
            sums.add(codes[start : start + len(batch)], self.measured(batch))
            start += len(batch)
        return sums

    def worst_residual(self, evaluation: Evaluation) -> float:
        """Longest stationarity residual (T3): over live atoms, and the bias if it is free."""
        sums, dictionary, offset = evaluation.sums, evaluation.dictionary, evaluation.offset
        worst = float(sums.stationarity(dictionary, offset, self.lam).nan_to_num(0.0).max())
        if self.bias_is_free:
            worst = max(worst, sums.bias_residual(dictionary, offset, self.lam))
        return self.group.same_number(worst)

    def residual_sample(
        self, dictionary: Float64[torch.Tensor, "K d"], offset: Float64[torch.Tensor, " d"], codes: sp.csr_array
    ) -> ResidualSample:
        """``x − b − zD`` of the datapoints that moves are judged on."""
        rows = sample_here(self.problem.n_points, self.problem.dim, self.group)
        is_all, length = len(rows) == self.problem.n_points, self.summary.unit_length
        found = self._residuals(dictionary, offset, codes, None if is_all else rows, length)
        return ResidualSample(found, None if is_all and self.group.is_alone else rows, length)

    def _residuals(
        self,
        dictionary: Float64[torch.Tensor, "K d"],
        offset: Float64[torch.Tensor, " d"],
        codes: sp.csr_array,
        rows: Int64[np.ndarray, " n"] | None,
        length: float,
    ) -> Float32[np.ndarray, "n d"]:
        """Residuals of all datapoints, or of some, in float32, divided by a length."""
        bias, atoms = self.bias(offset).numpy(), dictionary.cpu().numpy()
        if rows is not None and not len(rows):  # of few processes' sample none may be here
            return np.zeros((0, self.problem.dim), dtype=np.float32)
        if rows is not None:
            return ((self.problem.X[rows].to_numpy() - bias - codes[rows] @ atoms) / length).astype(np.float32)
        blocks, start = [], 0
        for batch in self.problem.X.batches():
            points = batch.cpu().numpy() - bias
            blocks.append(((points - codes[start : start + len(points)] @ atoms) / length).astype(np.float32))
            start += len(points)
        return np.concatenate(blocks)
