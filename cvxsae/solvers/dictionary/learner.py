"""The search for the joint optimum: rounds of stochastic and exact minibatches, then full-batch polishing.

*Gradients.* A round begins with stochastic gradient steps (:mod:`~cvxsae.solvers.dictionary.stages.stochastic`): 2
passes over the data in the first, 4 in the second, 8 in the third. If F is not lower after them than before, they are
undone.

*Minibatches.* A round ends with an exact pass. All datapoints are coded, and dealt into minibatches. A step codes one
of them again under the current dictionary (warm-started), replaces what it contributed to the sums of
:mod:`~cvxsae.solvers.dictionary.sums`, and minimises over every atom in turn and over the bias. Sums are exact,
nothing is forgotten or faded out, so the objective at the codes at hand never rises (block coordinate descent on (P)).

*Polishing.* Full-batch quasi-Newton steps on F(D, b) (:mod:`~cvxsae.solvers.dictionary.stages.polish`) until every
stationarity residual (T3) is within ``tol``.

*Moves.* When descent slows, and when it has ended, atoms that earn less than a new atom (T7) or a split (T8) would are
given up for it (:mod:`~cvxsae.solvers.dictionary.moves`); dead atoms at the end of every pass over the data. Where the
curvature is asked for, a saddle is left along its escape direction (T5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch
from threadpoolctl import threadpool_limits

from cvxsae.parallel.group import ALONE, ProcessGroup
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.joint.curvature import Curvature
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.encode import encode_rows
from cvxsae.solvers.dictionary.moves import renew, renew_together, sample_here, unit_length
from cvxsae.solvers.dictionary.stages import stochastic as gradients
from cvxsae.solvers.dictionary.stages.polish import Pair, Place, descend, gradient_at, retract
from cvxsae.solvers.dictionary.stages.stochastic import Momentum
from cvxsae.solvers.dictionary.sums import Statistics

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64, Int64

    from cvxsae.solvers.codes.result import Codes
    from cvxsae.solvers.dictionary.checkpoint import Checkpoint

MINIBATCH_TOL = 2e-2
"""Relative gap of the codes in an exact pass."""

_TIGHTEST, _LOOSEST = 1e-13, 1e-6
_MOVES_SHARE = 16
_SLOW = 3e-4
_WORTH = 1e-7
_SADDLE = -1e-4
_PATIENCE, _FALL = 20, 1e-12
"""Steps in a row that neither lower F by more than rounding nor shorten the stationarity residual."""


@dataclass(frozen=True)
class Ground:
    """What stays the same: the data's origin and sums, and the floor.

    Attributes
    ----------
    origin
        Data are measured from here: the fixed bias, or that of the wide limit.
    total, energy
        Σ(x_n − origin) and Σ‖x_n − origin‖².
    floor
        Certified lower bound of every width.
    n_points
        Datapoints, of all processes if there are several.
    """

    origin: Float64[torch.Tensor, " d"]
    total: Float64[torch.Tensor, " d"]
    energy: float
    floor: float
    n_points: int


@dataclass(frozen=True)
class Before:
    """Where stochastic steps began, to return to if they led nowhere."""

    dictionary: Float64[torch.Tensor, "K d"]
    offset: Float64[torch.Tensor, " d"]
    value: float
    codes: sp.csr_array | None


@dataclass(frozen=True)
class State:
    """Where the search is. Of several processes each holds codes, deal and ``statistics`` of its own datapoints.

    In the stages "gradients" and "minibatches" ``dealt`` (the datapoints of each minibatch) and ``batches`` (their
    codes) are there; in the first ``momentum`` and ``before`` (dictionary, offset, value and codes when the round
    began), in the second ``statistics``. In the last stage, "polish", there are ``place`` and ``pairs``.
    """

    dictionary: Float64[torch.Tensor, "K d"]
    offset: Float64[torch.Tensor, " d"]
    value: float
    stage: str
    step: int = 0
    round: int = 0
    part: int = 0
    dealt: tuple[Int64[np.ndarray, " n"], ...] = ()
    batches: tuple[sp.csr_array | None, ...] = ()
    momentum: Momentum | None = None
    before: Before | None = None
    statistics: Statistics | None = None
    place: Place | None = None
    pairs: tuple[Pair, ...] = ()
    settled: bool = False
    stuck: bool = False
    idle: int = 0
    best: float = math.inf
    least_curvature: float | None = None
    last_moves: int = 0
    value_at_moves: float = math.inf
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, **added: int) -> dict[str, int]:
        """Counters after adding to some."""
        return {**self.counts, **{name: self.counts.get(name, 0) + n for name, n in added.items()}}


@dataclass(frozen=True)
class Learner:
    """The algorithm, for the driver. See the module's first lines.

    Attributes
    ----------
    start
        Dictionary and bias to begin with.
    ground
        Constants of the data.
    tol
        Stationarity to reach.
    seed
        Of minibatches and of the search for new atoms.
    rounds
        Stochastic passes over the data before each exact one.
    minibatch
        Datapoints in a minibatch of an exact pass. No more in all: straight to polishing.
    second_order
        Compute the least curvature at the end, and leave saddles.
    moves
        Give up atoms that earn little for better ones. Dead atoms are re-used in any case.
    device
        Where to compute.
    checkpoint
        Where to keep the state, or None.
    resumed
        A state to go on from.
    group
        The processes that hold the datapoints. All decide the same: decisions are made on sums over all of them, and
        what went through a matrix product is taken from the first.
    """

    start: tuple[Float64[torch.Tensor, "K d"], Float64[torch.Tensor, " d"]]
    ground: Ground
    tol: float
    seed: int
    rounds: tuple[int, ...]
    minibatch: int
    second_order: bool
    moves: bool
    device: torch.device
    checkpoint: Checkpoint | None = None
    resumed: State | None = None
    group: ProcessGroup = ALONE

    name = "dictionary"
    default_iterations = 10**9
    first_check = 1
    patience = 10**9

    # ------------------------------------------------------------------ what the driver asks for

    def init(self, problem: JointProblem, device: torch.device) -> State:
        """Zero codes at the start, or the state that was kept."""
        del device
        if self.resumed is not None:
            return self.resumed
        dictionary, bias = self.start
        nothing = self._nothing(len(dictionary))
        offset = bias - self.ground.origin
        value = self.group.same_number(nothing.value(dictionary, offset, problem.lam))
        state = State(dictionary, offset, value, "polish")
        if not self.rounds or self.ground.n_points <= self.minibatch:
            return state
        return self._begin_round(problem, state, None)

    def restore(self, problem: JointProblem, state: State, codes: sp.csr_array | None, tol: float) -> State:
        """Complete a state from disk: order, sums and place are computed again."""
        if codes is not None:
            return replace(state, place=self._place(problem, state.dictionary, state.offset, codes, tol))
        if state.stage == "polish":
            return state
        dealt = self._deal(problem, len(state.batches))
        if state.stage == "gradients":
            return replace(state, dealt=dealt)
        statistics = self._nothing(len(state.dictionary))
        for rows, held in zip(dealt, state.batches, strict=True):
            if held is not None and len(rows):
                statistics.add(held, self._measured(problem.X[rows].to_tensor()))
        return replace(state, dealt=dealt, statistics=statistics)

    def step(self, problem: JointProblem, state: State) -> State:
        """One minibatch, one descent step, or one round of moves."""
        with threadpool_limits(limits=1, user_api="blas"):
            after = {"gradients": self._gradient, "minibatches": self._minibatch, "polish": self._polish}[state.stage](
                problem, state
            )
        after = replace(after, step=state.step + 1)
        if self.checkpoint is not None:
            self.checkpoint.offer(after, self.group)
        return after

    def bounds(self, problem: JointProblem, state: State) -> tuple[float, float]:
        """The value at the codes at hand (of the last full evaluation), and the floor."""
        del problem
        return state.value, self.ground.floor

    def verdict(self, problem: JointProblem, state: State) -> Status | None:
        """Stationary within ``tol`` and no move left that pays; or no way down at this precision."""
        del problem
        if state.settled:
            return Status.STATIONARY
        return Status.STALLED if state.stuck else None

    def finish(self, problem: JointProblem, state: State) -> Candidate:
        """Dictionary and bias; the caller codes the data once more and certifies that."""
        del problem
        return Candidate(bias=self.bias(state.offset).numpy(), dictionary=state.dictionary.cpu().numpy())

    def better_end(self, problem: JointProblem, state: State) -> State:
        """The state, or, if it ended among stochastic steps that led up, where they began."""
        if state.stage != "gradients":
            return state
        dictionary, bias = self.start
        before = state.before or Before(dictionary, bias - self.ground.origin, math.inf, None)
        now, then = (
            self._place(problem, end.dictionary, end.offset, before.codes, MINIBATCH_TOL) for end in (state, before)
        )
        return state if now.value < then.value else replace(state, dictionary=then.dictionary, offset=then.offset)

    def info(self, state: State) -> dict[str, Any]:
        """Counters."""
        return dict(state.counts)

    def bias(self, offset: Float64[torch.Tensor, " d"]) -> Float64[torch.Tensor, " d"]:
        """The bias at an offset, on the CPU and in the coordinates of the data."""
        return (self.ground.origin + offset).cpu()

    def _measured(self, points: Float[torch.Tensor, "n d"]) -> Float64[torch.Tensor, "n d"]:
        """Datapoints as seen from the origin."""
        return points.to(device=self.device, dtype=torch.float64) - self.ground.origin

    # ------------------------------------------------------------------ rounds

    def _begin_round(self, problem: JointProblem, state: State, codes: sp.csr_array | None) -> State:
        """Stochastic steps if this round has some, else its exact pass; codes as far as they are known."""
        if self.rounds[state.round] == 0:
            return self._begin_pass(problem, state, codes)
        dealt = self._deal(problem, -(-self.ground.n_points // gradients.MINIBATCH))
        batches = (None,) * len(dealt) if codes is None else tuple(codes[rows] for rows in dealt)
        before = None if codes is None else Before(state.dictionary, state.offset, state.value, codes)
        return replace(
            state, stage="gradients", dealt=dealt, batches=batches, statistics=None, before=before,
            momentum=Momentum.none(state.dictionary),
        )  # fmt: skip

    def _gradient(self, problem: JointProblem, state: State) -> State:
        """One stochastic step."""
        momentum, parts = state.momentum, len(state.batches)
        assert momentum is not None
        steps = gradients.steps_of(self.rounds[state.round], parts)
        part = gradients.minibatch_at(momentum.taken, parts, self.seed + state.round)
        points, codes = self._coded(problem, state, part, gradients.TOL)
        length = unit_length(self.ground.energy / self.ground.n_points)
        pull = gradients.pull(codes, points - state.offset, state.dictionary) / length**2
        (pull,), count = self.group.sum(pull), self.group.total(len(points))
        dictionary, momentum = momentum.step(
            state.dictionary, -pull / max(1.0, count), gradients.rate_at(momentum.taken, steps)
        )
        batches = (*state.batches[:part], codes, *state.batches[part + 1 :])
        after = replace(state, dictionary=self.group.same(dictionary), momentum=momentum, batches=batches)
        if momentum.taken < steps:
            return after
        known = all(self.group.gather(all(held is not None for held in batches)))
        after = replace(after, counts=state.count(epochs=self.rounds[state.round]))
        return self._begin_pass(problem, after, _in_order(batches, state.dealt) if known else None)

    def _coded(
        self, problem: JointProblem, state: State, part: int, tol: float
    ) -> tuple[Float64[torch.Tensor, "n d"], sp.csr_array]:
        """The datapoints of a minibatch and their codes, under the dictionary at hand."""
        rows = state.dealt[part]
        if not len(rows):  # of a process with few datapoints, some minibatches have none
            return state.offset.new_zeros((0, problem.dim)), sp.csr_array((0, len(state.dictionary)))
        data = problem.X[rows]
        codes = encode_rows(
            data, state.dictionary.cpu(), problem.lam, bias=self.bias(state.offset), tol=tol,
            warm=state.batches[part], device=self.device,
        ).codes  # fmt: skip
        return self._measured(data.to_tensor()), codes

    def _begin_pass(self, problem: JointProblem, state: State, codes: sp.csr_array | None) -> State:
        """Code all datapoints: F, and the sums of the exact pass. Stochastic steps that did not lower F are undone."""
        place = self._place(problem, state.dictionary, state.offset, codes, MINIBATCH_TOL)
        before = state.before
        if before is not None and not place.value < before.value:
            return replace(
                state, dictionary=before.dictionary, offset=before.offset, value=before.value, stage="polish",
                dealt=(), batches=(before.codes,), momentum=None, before=None, last_moves=state.step,
            )  # fmt: skip
        dealt = self._deal(problem, -(-self.ground.n_points // self.minibatch))
        own = place.statistics if self.group.is_alone else self._own_statistics(problem, place.codes.codes)
        return replace(
            state, stage="minibatches", part=0, dealt=dealt, batches=tuple(place.codes.codes[rows] for rows in dealt),
            statistics=own, momentum=None, before=None, value=min(place.value, state.value),
            dictionary=self.group.same(place.statistics.sweep(place.dictionary, state.offset, dtype=torch.float32)),
        )  # fmt: skip

    def _deal(self, problem: JointProblem, parts: int) -> tuple[Int64[np.ndarray, " n"], ...]:
        """The datapoints of each minibatch, ascending: of several processes, those here of the one deal of all."""
        first, total = self.group.places(problem.n_points)
        order = np.random.default_rng(self.seed).permutation(total) - first
        order = np.where((order >= 0) & (order < problem.n_points), order, -1)
        minibatches = (np.sort(order[part::parts]) for part in range(parts))
        return tuple(rows[rows >= 0] for rows in minibatches)

    def _minibatch(self, problem: JointProblem, state: State) -> State:
        """One minibatch of the exact pass."""
        assert state.statistics is not None
        part = state.part
        points, codes = self._coded(problem, state, part, MINIBATCH_TOL)
        statistics, old = state.statistics, state.batches[part]
        if old is not None:
            statistics.add(old, points, sign=-1.0)
        statistics.add(codes, points)
        whole = statistics.over(self.group)
        dictionary = self.group.same(whole.sweep(state.dictionary, state.offset, dtype=torch.float32))
        offset = state.offset
        if problem.bias_is_free:
            offset = self.group.same(offset + whole.mean_residual(dictionary, offset))
        batches = (*state.batches[:part], codes, *state.batches[part + 1 :])
        after = replace(state, dictionary=dictionary, offset=offset, batches=batches, part=part + 1)
        return after if part + 1 < len(batches) else self._end_round(problem, after)

    def _end_round(self, problem: JointProblem, state: State) -> State:
        """The value, new atoms for dead ones, and the next round or polishing."""
        statistics, dictionary = state.statistics, state.dictionary
        assert statistics is not None
        codes, whole = _in_order(state.batches, state.dealt), statistics.over(self.group)
        state = replace(
            state, value=self._lower(state.value, whole, dictionary, state.offset, problem.lam),
            counts=state.count(epochs=1), round=state.round + 1,
        )  # fmt: skip
        renewal = None
        if not (whole.mass > 0).all():  # live atoms are judged once codes are exact: here it would cost an epoch
            renewal = self._renewal(problem, dictionary, state.offset, codes, state.step)
        if renewal is not None:
            dictionary, codes = torch.from_numpy(renewal.dictionary).to(self.device), renewal.codes
            state = replace(state, counts=state.count(renewed=len(renewal.renewed)))
            state = replace(state, dictionary=dictionary)
        if state.round < len(self.rounds):
            if renewal is None and self.rounds[state.round] == 0:
                return replace(state, part=0)
            return self._begin_round(problem, state, codes)
        return replace(state, stage="polish", dealt=(), batches=(codes,), statistics=None, last_moves=state.step)

    # ------------------------------------------------------------------ polishing

    def _polish(self, problem: JointProblem, state: State) -> State:
        if state.place is None:
            warm = state.batches[0] if state.batches else None
            place = self._place(problem, state.dictionary, state.offset, warm, _LOOSEST)
            return self._at(replace(state, batches=(), dealt=(), statistics=None), place)
        here = state.place
        worst = self._worst(problem, here)
        tight = max(_TIGHTEST, min(_LOOSEST, 1e-3 * worst**2))
        if here.codes.tol > 30 * tight and here.codes.tol > _TIGHTEST:
            place = self._place(problem, state.dictionary, state.offset, here.codes.codes, tight)
            return self._at(state, place, pairs=state.pairs)
        if worst <= self.tol:
            return self._settle(problem, state)
        state = replace(state, idle=0 if worst < 0.9 * state.best else state.idle + 1, best=min(worst, state.best))
        if self._due(state):
            moved = self._move(problem, state, tight)
            if moved is not None:
                return moved
            state = replace(state, last_moves=state.step, value_at_moves=state.value)
        found = descend(
            here, state.pairs, lambda d, b: self._place(problem, d, b, here.codes.codes, tight),
            problem.lam, bias_is_free=problem.bias_is_free, group=self.group,
        )  # fmt: skip
        if found is not None and state.idle < _PATIENCE:
            place, pairs = found
            return self._at(state, place, pairs=pairs)
        if here.codes.tol > _TIGHTEST:  # codes that are not exact enough can hide the way down
            place = self._place(problem, state.dictionary, state.offset, here.codes.codes, _TIGHTEST)
            return self._at(state, place)
        moved = self._move(problem, state, tight)
        return replace(state, stuck=True) if moved is None else moved

    def _at(self, state: State, place: Place, *, pairs: tuple[Pair, ...] = ()) -> State:
        """The state at a new place. A fall of F beyond rounding is progress, whatever stationarity does."""
        fell = place.value < state.value - _FALL * abs(state.value)
        return replace(
            state, dictionary=place.dictionary, offset=place.offset, place=place, pairs=pairs,
            value=min(place.value, state.value), counts=state.count(steps=1), idle=0 if fell else state.idle,
        )  # fmt: skip

    def _due(self, state: State) -> bool:
        """Moves are judged when a while has passed in which descent gained little."""
        since = state.step - state.last_moves
        if since < 10 or not math.isfinite(state.value_at_moves):
            return since >= 10
        return state.value_at_moves - state.value < _SLOW * since * (state.value - self.ground.floor) / 10

    def _settle(self, problem: JointProblem, state: State) -> State:
        """Stationary: make the moves that pay, leave a saddle, or be done."""
        assert state.place is not None
        moved = self._move(problem, state, state.place.codes.tol)
        if moved is not None:
            return moved
        if not self.second_order:
            return replace(state, settled=True)
        least, place = self._escape(problem, state.place)
        state = replace(state, least_curvature=least)
        if place is None:
            return replace(state, settled=True)
        return replace(self._at(state, place), counts=state.count(escapes=1))

    def _move(self, problem: JointProblem, state: State, tol: float) -> State | None:
        """Give up some atoms for better ones; None unless F falls by more than rounding."""
        place = state.place
        assert place is not None
        if not self._may_move(place.statistics):
            return None
        renewal = self._renewal(problem, place.dictionary, place.offset, place.codes.codes, state.step)
        if renewal is None:
            return None
        found = self._place(
            problem,
            torch.from_numpy(renewal.dictionary).to(self.device),
            place.offset,
            renewal.codes,
            max(tol, _TIGHTEST),
        )
        if not found.value < place.value - _WORTH * (place.value - self.ground.floor):
            return None
        counts = state.count(renewed=len(renewal.renewed))
        after = replace(state, counts=counts, last_moves=state.step, value_at_moves=found.value)
        return self._at(after, found)

    def _may_move(self, statistics: Statistics) -> bool:
        return self.moves or not bool((statistics.mass > 0).all())

    def _renewal(
        self, problem: JointProblem, dictionary: Float64[torch.Tensor, "K d"], offset: Float64[torch.Tensor, " d"],
        codes: sp.csr_array, seed: int,
    ) -> Any:  # fmt: skip
        rows = sample_here(problem.n_points, problem.dim, self.group)
        every = len(rows) == problem.n_points
        users = torch.from_numpy(np.bincount(codes.indices, minlength=len(dictionary)))
        dead = int((self.group.sum(users)[0] == 0).sum())
        share = max(1, len(dictionary) // _MOVES_SHARE) if self.moves else 0
        length = unit_length(self.ground.energy / self.ground.n_points)
        residuals = self._residuals(problem, dictionary, offset, codes, None if every else rows, length)
        if not self.group.is_alone:
            return renew_together(
                residuals, codes, dictionary.cpu().numpy(), problem.lam, rows, self.group, at_most=max(dead, share),
                seed=self.seed + seed, length=length, device=self.device,
            )  # fmt: skip
        return renew(
            residuals, codes, dictionary.cpu().numpy(), problem.lam, at_most=max(dead, share), seed=self.seed + seed,
            rows=None if every else rows, length=length, device=self.device,
        )  # fmt: skip

    def _escape(self, problem: JointProblem, place: Place) -> tuple[float, Place | None]:
        """The least curvature, and where following it leads if it is negative."""
        curvature = Curvature(
            problem.X.to_tensor(), place.dictionary, problem.lam, place.codes.codes, bias=self.bias(place.offset),
            bias_is_free=problem.bias_is_free, device=self.device,
        )  # fmt: skip
        least = curvature.least(seed=self.seed)
        if not least.eigenvalue < _SADDLE:
            return least.eigenvalue, None
        shift = torch.zeros_like(place.offset) if least.bias_direction is None else least.bias_direction
        direction = torch.cat([least.direction, shift[None]])
        for length in (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3):
            ends = [
                self._place(
                    problem, *retract(place.variables, sign * length * direction), place.codes.codes, place.codes.tol
                )
                for sign in (1.0, -1.0)
            ]
            best = min(ends, key=lambda end: end.value)
            if best.value < place.value - _WORTH * (place.value - self.ground.floor):
                return least.eigenvalue, best
        return least.eigenvalue, None

    # ------------------------------------------------------------------ passes over the data

    def _place(
        self, problem: JointProblem, dictionary: Float64[torch.Tensor, "K d"], offset: Float64[torch.Tensor, " d"],
        warm: sp.csr_array | None, tol: float,
    ) -> Place:  # fmt: skip
        """Exact codes, value and gradient."""
        dictionary, offset = self.group.same(dictionary), self.group.same(offset)
        codes: Codes = encode_rows(
            problem.X, dictionary.cpu(), problem.lam, bias=self.bias(offset),
            tol=tol, warm=warm, device=self.device, group=self.group,
        )  # fmt: skip
        statistics = self.statistics(problem, codes.codes)
        gradient = self.group.same(gradient_at(statistics, dictionary, offset, bias_is_free=problem.bias_is_free))
        return Place(torch.cat([dictionary, offset[None]]), codes, gradient, statistics)

    def _nothing(self, n_atoms: int) -> Statistics:
        return Statistics.empty(n_atoms, self.ground.total, self.ground.energy, self.ground.n_points)

    def _lower(
        self, value: float, whole: Statistics, dictionary: Float64[torch.Tensor, "K d"],
        offset: Float64[torch.Tensor, " d"], lam: float,
    ) -> float:  # fmt: skip
        """The value at the codes at hand, or the one before if that was lower."""
        return self.group.same_number(min(value, whole.value(dictionary, offset, lam)))

    def statistics(self, problem: JointProblem, codes: sp.csr_array) -> Statistics:
        """Sums over all datapoints, of all processes."""
        return self._own_statistics(problem, codes).over(self.group)

    def _own_statistics(self, problem: JointProblem, codes: sp.csr_array) -> Statistics:
        """Sums over the datapoints of this process."""
        statistics = self._nothing(codes.shape[1])
        start = 0
        for batch in problem.X.batches():
            statistics.add(codes[start : start + len(batch)], self._measured(batch))
            start += len(batch)
        return statistics

    def _residuals(
        self, problem: JointProblem, dictionary: Float64[torch.Tensor, "K d"], offset: Float64[torch.Tensor, " d"],
        codes: sp.csr_array, rows: Int64[np.ndarray, " n"] | None, length: float,
    ) -> Float32[np.ndarray, "n d"]:  # fmt: skip
        """``x − b − zD`` of all datapoints, or of some, in float32, divided by a length."""
        bias, atoms = self.bias(offset).numpy(), dictionary.cpu().numpy()
        if rows is not None and not len(rows):  # of few processes' sample none may be here
            return np.zeros((0, problem.dim), dtype=np.float32)
        if rows is not None:
            return ((problem.X[rows].to_numpy() - bias - codes[rows] @ atoms) / length).astype(np.float32)
        blocks, start = [], 0
        for batch in problem.X.batches():
            points = batch.cpu().numpy() - bias
            blocks.append(((points - codes[start : start + len(points)] @ atoms) / length).astype(np.float32))
            start += len(points)
        return np.concatenate(blocks)

    def _worst(self, problem: JointProblem, place: Place) -> float:
        atoms = place.statistics.stationarity(place.dictionary, place.offset, problem.lam)
        worst = float(atoms.nan_to_num(0.0).max())
        if problem.bias_is_free:
            worst = max(worst, place.statistics.bias_residual(place.dictionary, place.offset, problem.lam))
        return self.group.same_number(worst)


def _in_order(batches: tuple[sp.csr_array | None, ...], dealt: tuple[Int64[np.ndarray, " n"], ...]) -> sp.csr_array:
    """Codes of all datapoints in the order of the data."""
    rows = np.concatenate(dealt)
    place = np.empty(len(rows), dtype=np.int64)
    place[rows] = np.arange(len(rows))
    held = [codes for codes in batches if codes is not None]
    return sp.csr_array(sp.vstack(held, format="csr")[place])
