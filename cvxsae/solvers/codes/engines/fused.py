"""The CPU engine: large matrix products by torch, everything else of a round fused per datapoint by numba."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64

from cvxsae.solvers.codes.engines.cpu_certificate import Block, Rules
from cvxsae.solvers.codes.engines.cpu_kernels import BLOCK, KernelPrices
from cvxsae.solvers.codes.engines.cpu_screen import Products, Selected, Verdicts, narrow_rows, screen
from cvxsae.solvers.codes.engines.cpu_solve import Atoms, restore, solve
from cvxsae.solvers.codes.engines.prices import Prices
from cvxsae.solvers.codes.engines.screening import Precision, PreparedDictionary, fast_half_products
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

ONE_BITS = 0x3F800000
"""The float32 one; its upper half is the bfloat16 one."""


class FusedState:
    """Working sets, codes and residuals of a block of datapoints."""

    def __init__(
        self, data: Float64[np.ndarray, "n d"], capacity: int, warm: Warm | None, held: FusedState | None
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
        self.block = Block(
            data.shape[1], self.data, self.residual, self.settled, self.chosen, self.codes, self.correlations,
            self.count, self.grams, HELD_GRAM, self.known,
        )  # fmt: skip
        if warm is not None:
            warm.fill(self.chosen, self.codes, self.count)


class FusedEngine(Stoppable):
    """One block of datapoints on one CPU thread. See :class:`cvxsae.solvers.codes.engines.state.Engine`."""

    name = "fused"

    def __init__(self, dictionary: PreparedDictionary, tuning: Tuning) -> None:
        self.dictionary = dictionary
        self.tuning = tuning
        self._buffers: dict[torch.dtype, torch.Tensor] = {}
        self._held: FusedState | None = None
        self.exact = dictionary.exact.numpy().reshape(-1)
        self.working = dictionary.working.numpy().reshape(-1)
        self.prices = _kernel_prices(dictionary.prices)
        self.table = np.empty(0, np.float32) if dictionary.products is None else dictionary.products.numpy().reshape(-1)
        self.dot_error = (BLOCK + 2 + dictionary.dim // BLOCK) * 2.0**-53
        self.half = tuning.half_precision
        if self.half is None:
            self.half = fast_half_products(dictionary.device)
        if self.half:  # rounded here, once and by all threads, not by each of the workers at its first product
            _ = dictionary.half_precision

    def warm_up(self) -> None:
        """Compile (or load) the kernels on one small problem, so that no timing includes it."""
        plain = self.dictionary.prices is None
        ones, zeros = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        atoms = PreparedDictionary(torch.diag(ones), prices=None if plain else Prices(ones, zeros, ones, ones))
        x = torch.tensor([[3.0, 2.0], [0.5, 0.0]], dtype=torch.float64)
        engine = FusedEngine(atoms, Tuning(WARM_UP_TOL, half_precision=self.half, widest_margin=np.inf))
        everyone = np.arange(2)
        engine.advance(engine.begin(x, None), everyone, first=True, double=False)

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
        state = FusedState(np.ascontiguousarray(data.numpy()), self.dictionary.capacity, warm, self._held)
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
        products = self._correlate(state, active)
        room = self._room(state, active, first=first) if improve else np.zeros(len(active), np.int64)
        width = max(1, int(room.max()))
        selected = Selected(
            np.empty((len(active), width), np.int32), np.empty((len(active), width)), np.zeros(len(active), np.int64)
        )
        verdicts = Verdicts(
            outcome.values[part], outcome.gaps[part], np.zeros(len(active), np.bool_), outcome.rechecks[part]
        )
        rules = self._rules(double=False, refinements=self.tuning.refinements if improve else 0)
        screen(active, products, state.block, self.exact, rules, room, selected, verdicts, self.prices)
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
        frugal = self.half and self.tuning.frugal
        start, later = self.tuning.frugal_steps if frugal else (self.tuning.first, self.tuning.later)
        wanted = np.where(count == 0, start, 0) if first else 0
        wanted = np.maximum(wanted, np.clip(count // self.tuning.divisor, later, self.tuning.most))
        room: Int64[np.ndarray, " b"] = np.minimum(wanted, state.chosen.shape[1] - count)
        return room

    def _correlate(self, state: FusedState, active: Int64[np.ndarray, " b"]) -> Products:
        """Computed correlations, in bfloat16 or float32, and what they prove."""
        n, d = len(active), self.dictionary.dim
        single = np.empty(n * d, np.float32)
        half_bits = np.empty(n * d, np.int16)
        norms, errors = np.empty(n), np.empty((n, 2))
        narrow_rows(active, state.residual, d, single, single.view(np.int32), half_bits, norms, errors)
        if self.half:
            precision = self.dictionary.half_precision
            margin, threshold = precision.margins(*_tensors(norms, errors[:, 1]), self.dictionary.reach)
            if float(margin.median()) * self.dictionary.usual_reach < self.tuning.widest_margin:
                inputs = torch.from_numpy(half_bits).view(torch.bfloat16).view(n, d)
                product = self._buffer(n, torch.bfloat16)
                torch.mm(inputs, self.dictionary.half.T, out=product)
                return self._products(product.view(torch.int16), threshold, margin, precision)
        precision = self.dictionary.single_precision
        margin, threshold = precision.margins(*_tensors(norms, errors[:, 0]), self.dictionary.reach)
        product = self._buffer(n, torch.float32)
        torch.mm(torch.from_numpy(single).view(n, d), self.dictionary.single.T, out=product)
        return self._products(product.view(torch.int32), threshold, margin, precision)

    def _products(
        self,
        bits: Int[torch.Tensor, "b K"],
        threshold: Float64[torch.Tensor, " b"],
        margin: Float64[torch.Tensor, " b"],
        precision: Precision,
    ) -> Products:
        shift = 16 if bits.dtype is torch.int16 else 0
        return Products(
            bits=bits.numpy().reshape(-1),
            n_atoms=self.dictionary.n_atoms,
            threshold=threshold.numpy(),
            margin=margin.numpy(),
            least_share=precision.least_share,
            one=ONE_BITS >> shift,
            shift=shift,
        )

    def _buffer(self, n: int, dtype: torch.dtype) -> Float[torch.Tensor, "n K"]:
        """Memory for a product, kept between rounds: fresh pages would cost more than the product."""
        held = self._buffers.get(dtype)
        if held is None or len(held) < n:
            held = self._buffers[dtype] = torch.empty(n, self.dictionary.n_atoms, dtype=dtype)
        return held[:n]

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


def _kernel_prices(prices: Prices | None) -> KernelPrices | None:
    if prices is None:
        return None
    weights, shares, reach = (
        np.ascontiguousarray(part.numpy()) for part in (prices.weights, prices.shares, prices.reach)
    )
    return KernelPrices(weights, shares, reach, float(reach.max()))


def _tensors(
    norms: Float[np.ndarray, " b"], errors: Float[np.ndarray, " b"]
) -> tuple[Float[torch.Tensor, " b"], Float[torch.Tensor, " b"]]:
    return torch.from_numpy(norms), torch.from_numpy(np.ascontiguousarray(errors))
