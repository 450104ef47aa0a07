"""The CPU engine: large matrix products by torch, everything else of a round fused per datapoint by numba."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64, Num

from cvxsae.solvers.codes.engines.calibration import Rung, ladder
from cvxsae.solvers.codes.engines.cpu_candidates import Rows
from cvxsae.solvers.codes.engines.cpu_certificate import Block, Rules
from cvxsae.solvers.codes.engines.cpu_kernels import BLOCK, KernelPrices
from cvxsae.solvers.codes.engines.cpu_screen import IN_SET, IN_SET_INT8, Products, Selected, Verdicts, screen
from cvxsae.solvers.codes.engines.cpu_shorten import to_bfloat16, to_float32, to_int8
from cvxsae.solvers.codes.engines.cpu_solve import Atoms, restore, solve
from cvxsae.solvers.codes.engines.prices import Prices
from cvxsae.solvers.codes.engines.products import product
from cvxsae.solvers.codes.engines.screening import PreparedDictionary
from cvxsae.solvers.codes.engines.state import Outcome, Stoppable, Tuning, Warm

HELD_GRAM = 80 * 80
"""Inner products kept per datapoint between rounds, so that only those of new atoms are computed."""

PIVOT_FLOOR = 1e-5
"""Squared distance from the span of others below which a float32 factor takes an atom to lie in it."""

DOUBLE_PIVOT_FLOOR = 1e-11
"""The same for a float64 factor: the square of the distance that its rounding leaves, with room."""

LEAST_FLOOR = 1e-14
"""Projected gradient below which float64 has nothing to say."""

SOLVED_AT_ONCE = 16
"""Datapoints whose working sets are solved before it is asked whether to go on: up to tens of milliseconds each."""

FEWEST_ROWS = 16
"""Fewest datapoints in a product: fewer would read the dictionary for almost nothing."""

WARM_UP_TOL = 1e-3
"""Gap to which the problem is solved that kernels are compiled on: so small that every one of them has work."""

NARROWER = 0.5
"""Share of the margin at which a product was too coarse for a datapoint, below which it is tried again."""

NO_LIMIT = 2**62
"""Candidates of a datapoint, where there is no finer product."""

STORED = {"int8": torch.int32, "bfloat16": torch.bfloat16, "float32": torch.float32}
"""Type of a product of each precision."""


class FusedState:
    """Working sets, codes and residuals of a block of datapoints."""

    def __init__(
        self,
        data: Float64[np.ndarray, "n d"],
        capacity: int,
        warm: Warm | None,
        held: FusedState | None,
        rungs: int = 1,
    ) -> None:
        n = data.shape[0]
        self.data = data.reshape(-1)
        self.chosen: Int[np.ndarray, "n capacity"]
        self.codes: Float64[np.ndarray, "n capacity"]
        self.correlations: Float64[np.ndarray, "n capacity"]
        self.grams: Float[np.ndarray, " g"]
        self.residual: Float64[np.ndarray, " nd"]
        self.count: Int[np.ndarray, " n"]
        if held is not None and len(held.count) >= n:  # fresh pages cost as much as a round: take those of a past block
            self.chosen, self.codes, self.correlations = held.chosen[:n], held.codes[:n], held.correlations[:n]
            self.grams, self.residual = held.grams, held.residual[: self.data.size]
            self.residual[:] = self.data
        else:
            self.residual = self.data.copy()
            self.chosen = np.empty((n, capacity), np.int32)
            self.codes, self.correlations = np.empty((n, capacity)), np.empty((n, capacity))
            self.grams = np.empty(n * HELD_GRAM, np.float32)
        self.count, self.known = np.zeros(n, np.int32), np.zeros(n, np.int32)
        self.settled = np.ones(n, np.bool_)
        self.too_coarse = np.full((rungs, n), np.inf)  # margins at which products were
        self.block = Block(
            data.shape[1], self.data, self.residual, self.settled, self.chosen, self.codes, self.correlations,
            self.count, self.grams, HELD_GRAM, self.known,
        )  # fmt: skip
        if warm is not None:
            warm.fill(self.chosen, self.codes, self.count)


class Shortened(NamedTuple):
    """Residuals (b, d) rounded to a precision, in units of ``scale`` where that is not 0, and what products prove."""

    inputs: torch.Tensor
    scale: np.ndarray
    margin: np.ndarray
    threshold: np.ndarray

    def of(self, some: Bool[np.ndarray, " b"]) -> Shortened:
        """Those of some rows."""
        if some.all():
            return self
        rows = torch.from_numpy(some)
        return Shortened(self.inputs[rows], self.scale[some], self.margin[some], self.threshold[some])


class FusedEngine(Stoppable):
    """One block of datapoints on one CPU thread. See :class:`cvxsae.solvers.codes.engines.state.Engine`."""

    name = "fused"

    def __init__(self, dictionary: PreparedDictionary, tuning: Tuning) -> None:
        self.dictionary = dictionary
        self.tuning = tuning
        self._buffer: torch.Tensor | None = None
        self._held: FusedState | None = None
        self.exact = dictionary.exact.numpy().reshape(-1)
        self.working = dictionary.working.numpy().reshape(-1)
        self.rows = Rows(self.exact, self.working, dictionary.single_precision.atom_error)
        self.prices = _kernel_prices(dictionary.prices)
        self.table = np.empty(0, np.float32) if dictionary.products is None else dictionary.products.numpy().reshape(-1)
        self.dot_error = (BLOCK + 2 + dictionary.dim // BLOCK) * 2.0**-53
        torch.get_num_threads()  # a thread's first product would ignore the number set, and wait for others; this asks
        self.ladder = tuning.ladder or ladder(dictionary, tuning.precision)
        if len(self.ladder) > 1:  # rounded here, once and by all threads, not by each of the workers
            for rung in self.ladder:
                dictionary.rounded(rung.precision)

    def warm_up(self) -> None:
        """Compile (or load) the kernels, so that no timing includes it."""
        for rung in self.ladder:
            _compile_for(rung.precision, self.dictionary.prices is None)

    def begin(self, data: Float64[torch.Tensor, "n d"], warm: Warm | None) -> FusedState:
        """Start from zero codes, or from the working sets of a warm start, solved. Ends the state of the last block."""
        state = self.as_they_are(data, warm)
        if warm is not None:
            everyone = np.arange(len(state.count))
            nothing = Selected(
                np.empty((len(everyone), 1), np.int32), np.empty((len(everyone), 1)), np.zeros(len(everyone), np.int64)
            )
            self._solve(state, everyone, nothing, double=False)
        return state

    def as_they_are(self, data: Float64[torch.Tensor, "n d"], warm: Warm | None) -> FusedState:
        """State of given codes, for :meth:`certify`. Ends the state of the last block."""
        warm = None if warm is None else warm.inside(self.dictionary.prices)
        state = FusedState(
            np.ascontiguousarray(data.numpy()), self.dictionary.capacity, warm, self._held, len(self.ladder)
        )
        if self._held is None or len(self._held.count) < len(state.count):
            self._held = state
        if warm is not None:
            restore(np.arange(len(state.count)), state.block, self.exact, self.prices)
        return state

    def advance(self, state: FusedState, active: Int64[np.ndarray, " a"], *, first: bool, double: bool) -> Outcome:
        """One round for the active datapoints: one correlation pass, then certify or improve."""
        return self._run(state, active, first=first, double=double, improve=True)

    def certify(self, state: FusedState, active: Int64[np.ndarray, " a"]) -> Outcome:
        """Certify the codes as they are, changing nothing."""
        return self._run(state, active, first=False, double=False, improve=False)

    def _run(
        self, state: FusedState, active: Int64[np.ndarray, " a"], *, first: bool, double: bool, improve: bool
    ) -> Outcome:
        outcome = Outcome.empty(len(active))
        step = max(FEWEST_ROWS, min(self.tuning.rows, len(active)))
        for start in range(0, len(active), step):
            self.go_on()
            part = slice(start, start + step)
            self._run_part(state, active[part], outcome, part, first=first, double=double, improve=improve)
        return outcome

    def _run_part(
        self, state: FusedState, active: Int64[np.ndarray, " b"], outcome: Outcome, part: slice, *,
        first: bool, double: bool, improve: bool,
    ) -> None:  # fmt: skip
        n = len(active)
        room = self._room(state, active, first=first) if improve else np.zeros(n, np.int64)
        width = max(1, int(room.max()))
        selected = Selected(np.empty((n, width), np.int32), np.empty((n, width)), np.zeros(n, np.int64))
        verdicts = Verdicts(
            outcome.values[part],
            outcome.gaps[part],
            np.zeros(n, np.bool_),
            outcome.rechecks[part],
            np.zeros(n, np.bool_),
        )
        rules = self._rules(double=False, refinements=self.tuning.refinements if improve else 0)
        waiting: Int64[np.ndarray, " w"] = np.arange(n)
        for rung, too_coarse in zip(self.ladder, state.too_coarse, strict=True):
            rows = active[waiting]
            short = self._shorten(state, rows, rung.precision)
            some, tried, is_last = waiting, np.ones(len(rows), np.bool_), rung is self.ladder[-1]
            if not is_last:
                tried = short.margin < NARROWER * too_coarse[rows]
                some, rows, short = waiting[tried], rows[tried], short.of(tried)
            if len(some):
                is_all = len(some) == n  # then nothing is copied
                chosen = selected if is_all else Selected(*(array[some] for array in selected))
                found = verdicts if is_all else Verdicts(*(array[some] for array in verdicts))
                products = self._correlate(short, rung)
                screen(rows, products, state.block, self.rows, rules, room[some], chosen, found, self.prices)
                for held, new in () if is_all else zip((*selected, *verdicts), (*chosen, *found), strict=True):
                    held[some] = new
                if is_last:  # it leaves nothing out
                    break
                too_coarse[rows[found.blurred]] = short.margin[found.blurred]
                tried[tried] = ~found.blurred
            waiting = waiting[~tried]
            if not len(waiting):
                break
        outcome.done[part], outcome.added[part] = verdicts.done, selected.sizes
        left = ~verdicts.done
        if improve and left.any():
            self._solve(state, active[left], Selected(*(array[left] for array in selected)), double=double)

    def _rules(self, *, double: bool, refinements: int) -> Rules:
        tuning = self.tuning
        floor = max(tuning.floor_share * tuning.tol, LEAST_FLOOR)
        pivot_floor = DOUBLE_PIVOT_FLOOR if double else PIVOT_FLOOR
        return Rules(tuning.tol, floor, pivot_floor, refinements, not double, self.dot_error)

    def _room(self, state: FusedState, active: Int64[np.ndarray, " b"], *, first: bool) -> Int64[np.ndarray, " b"]:
        """How many atoms each working set may take in this round."""
        count = state.count[active].astype(np.int64)
        is_cheap = self.ladder[0].price < self.tuning.cheap
        start, later = self.tuning.frugal_steps if is_cheap else (self.tuning.first, self.tuning.later)
        wanted = np.where(count == 0, start, 0) if first else 0
        wanted = np.maximum(wanted, np.clip(count // self.tuning.divisor, later, self.tuning.most))
        room: Int64[np.ndarray, " b"] = np.minimum(wanted, state.chosen.shape[1] - count)
        return room

    def _shorten(self, state: FusedState, active: Int64[np.ndarray, " b"], precision: str) -> Shortened:
        """Residuals rounded to a precision, and what products with them prove."""
        n, d = len(active), self.dictionary.dim
        norms, errors, scales = np.empty(n), np.empty(n), np.zeros(n)
        if precision == "int8":
            whole = np.empty(n * d, np.int8)
            to_int8(active, state.residual, d, whole, scales, norms, errors)
            scales *= self.dictionary.whole_scale
            inputs = torch.from_numpy(whole)
        elif precision == "bfloat16":
            half_bits = np.empty(n * d, np.int16)
            to_bfloat16(active, state.residual, d, half_bits, norms, errors)
            inputs = torch.from_numpy(half_bits).view(torch.bfloat16)
        else:
            single = np.empty(n * d, np.float32)
            to_float32(active, state.residual, d, single, norms, errors)
            inputs = torch.from_numpy(single)
        _, proved = self.dictionary.rounded(precision)
        margin, threshold = proved.margins(torch.from_numpy(norms), torch.from_numpy(errors), self.dictionary.reach)
        return Shortened(inputs.view(n, d), scales, margin.numpy(), threshold.numpy())

    def _correlate(self, short: Shortened, rung: Rung) -> Products:
        """Computed correlations in a precision, and what they prove."""
        atoms, proved = self.dictionary.rounded(rung.precision)
        computed = product(rung.precision, short.inputs, atoms, out=self._room_for(len(short.margin), rung.precision))
        is_half = rung.precision == "bfloat16"
        limit = np.inf if np.isinf(self.tuning.widest_margin) else rung.rechecks
        bits = computed.view(torch.int16 if is_half else torch.int32)
        return Products(
            bits=bits.numpy().reshape(-1),
            n_atoms=self.dictionary.n_atoms,
            threshold=short.threshold,
            margin=short.margin,
            least_share=proved.least_share,
            unit=short.scale,
            absent=IN_SET_INT8 if rung.precision == "int8" else IN_SET,
            shift=16 if is_half else 0,
            most=int(min(limit * self.dictionary.n_atoms, NO_LIMIT)),
        )

    def _room_for(self, n: int, precision: str) -> Num[torch.Tensor, "n K"]:
        """Memory for a product, kept between rounds: fresh pages would cost more than the product."""
        K, stored = self.dictionary.n_atoms, STORED[precision]
        if self._buffer is None or len(self._buffer) < n * K:
            self._buffer = torch.empty(n * K, dtype=torch.int32)
        return self._buffer.view(stored)[: n * K].view(n, K)

    def _solve(self, state: FusedState, active: Int64[np.ndarray, " b"], selected: Selected, *, double: bool) -> None:
        exact, nothing = self.exact, np.empty(0)
        atoms = Atoms(exact, exact, nothing) if double else Atoms(self.working, exact, self.table)
        rules = self._rules(double=double, refinements=self.tuning.refinements)
        for start in range(0, len(active), SOLVED_AT_ONCE):
            self.go_on()
            part = slice(start, start + SOLVED_AT_ONCE)
            solve(active[part], Selected(*(array[part] for array in selected)), state.block, atoms, rules, self.prices)

    def export(self, state: FusedState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts, atom indices and codes."""
        codes = state.codes
        if self.dictionary.prices is not None:
            held = np.arange(codes.shape[1]) < state.count[:, None]
            codes = self.dictionary.prices.outside(np.where(held, codes, 0.0), np.where(held, state.chosen, 0))
        return state.count, state.chosen, codes


@cache
def _compile_for(precision: str, plain: bool) -> None:
    """Solve one small problem, once in a process."""
    ones, zeros = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    atoms = PreparedDictionary(torch.diag(ones), prices=None if plain else Prices(ones, zeros, ones, ones))
    x = torch.tensor([[3.0, 2.0], [0.5, 0.0]], dtype=torch.float64)
    engine = FusedEngine(atoms, Tuning(WARM_UP_TOL, ladder=(Rung(precision),)))
    engine.advance(engine.begin(x, None), np.arange(2), first=True, double=False)


def _kernel_prices(prices: Prices | None) -> KernelPrices | None:
    if prices is None:
        return None
    weights, shares, reach = (
        np.ascontiguousarray(part.numpy()) for part in (prices.weights, prices.shares, prices.reach)
    )
    return KernelPrices(weights, shares, reach, float(reach.max()))
