"""The CPU engine: large matrix products by torch, everything else of a round fused per datapoint by numba."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from cvxsae.solvers.codes.engines import cpu_rounds
from cvxsae.solvers.codes.engines.screening import PreparedDictionary, fast_half_products
from cvxsae.solvers.codes.engines.state import Outcome, Tuning

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int, Int64

    from cvxsae.solvers.codes.engines.state import Warm

HELD_GRAM = 80 * 80
"""Inner products kept per datapoint between rounds, so that only those of new atoms are computed."""

PIVOT_FLOOR = 1e-5
"""Squared distance from the span of others below which a float32 factor takes an atom to lie in it."""

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
        if warm is not None:
            warm.fill(self.chosen, self.codes, self.count)


class FusedEngine:
    """One block of datapoints on one CPU thread. See :class:`cvxsae.solvers.codes.engines.state.Engine`."""

    name = "fused"

    def __init__(self, dictionary: PreparedDictionary, tuning: Tuning) -> None:
        self.dictionary = dictionary
        self.tuning = tuning
        self._buffers: dict[torch.dtype, torch.Tensor] = {}
        self._held: FusedState | None = None
        self.exact = dictionary.exact.numpy().reshape(-1)
        self.single = dictionary.single.numpy().reshape(-1)
        self.table = np.empty(0, np.float32) if dictionary.products is None else dictionary.products.numpy().reshape(-1)
        self.dot_error = (66 + dictionary.dim // 64) * 2.0**-53
        self.half = tuning.half_precision
        if self.half is None:
            self.half = fast_half_products(dictionary.device)
        if self.half:  # rounded here, once and by all threads, not by each of the workers at its first product
            _ = dictionary.half_precision

    def warm_up(self) -> None:
        """Compile (or load) the kernels on one small problem, so that no timing includes it."""
        atoms = PreparedDictionary(torch.eye(2, dtype=torch.float64))
        x = torch.tensor([[3.0, 2.0], [0.5, 0.0]], dtype=torch.float64)
        engine = FusedEngine(atoms, Tuning(0.5, half_precision=self.half, widest_margin=np.inf))
        everyone = np.arange(2)
        engine.advance(engine.begin(x, None), everyone, first=True, double=False)

    def begin(self, data: Float64[torch.Tensor, "n d"], warm: Warm | None) -> FusedState:
        """Start from zero codes, or from the working sets of a warm start, solved. Ends the state of the last block."""
        state = FusedState(np.ascontiguousarray(data.numpy()), self.dictionary.capacity, warm, self._held)
        if self._held is None or len(self._held.count) < len(state.count):
            self._held = state
        if warm is not None:
            everyone = np.arange(len(state.count))
            cpu_rounds.restore(
                everyone,
                state.data,
                state.residual,
                self.dictionary.dim,
                self.exact,
                state.chosen,
                state.codes,
                state.correlations,
                state.count,
            )
            self._solve(state, everyone, np.empty((len(everyone), 1), np.int32), np.empty((len(everyone), 1)),
                        np.zeros(len(everyone), np.int64), double=False)  # fmt: skip
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
        step = max(16, min(self.tuning.rows, len(active)))
        for start in range(0, len(active), step):
            part = slice(start, start + step)
            self._run_part(state, active[part], outcome, part, first=first, double=double, improve=improve)
        return outcome

    def _run_part(
        self, state: FusedState, active: Int64[np.ndarray, " b"], outcome: Outcome, part: slice, *,
        first: bool, double: bool, improve: bool,
    ) -> None:  # fmt: skip
        bits, threshold, margin, half = self._correlate(state, active)
        room = self._room(state, active, first=first) if improve else np.zeros(len(active), np.int64)
        width = max(1, int(room.max()))
        selected = np.empty((len(active), width), np.int32)
        values = np.empty((len(active), width))
        n_selected = np.zeros(len(active), np.int64)
        precision = self.dictionary.half_precision if half else self.dictionary.single_precision
        shift = 16 if half else 0
        done = np.zeros(len(active), np.bool_)
        cpu_rounds.screen(
            active, bits, self.dictionary.n_atoms, threshold, margin, precision.least_share, ONE_BITS >> shift, shift,
            state.data, state.residual, state.settled, self.dictionary.dim, self.exact, state.chosen, state.codes,
            state.correlations, state.count, state.grams, HELD_GRAM, state.known, self.tuning.tol,
            self._refinements() if improve else 0, PIVOT_FLOOR, room, self.dot_error, selected, values, n_selected,
            outcome.values[part], outcome.gaps[part], done, outcome.rechecks[part],
        )  # fmt: skip
        outcome.done[part], outcome.added[part] = done, n_selected
        left = ~done
        if improve and left.any():
            self._solve(state, active[left], selected[left], values[left], n_selected[left], double=double)

    def _refinements(self) -> int:
        """Corrections in float64 by a float32 factor, at most."""
        return 3 if self.tuning.tol >= 1e-7 else 6

    def _steps(self) -> tuple[int, int, int]:
        """Atoms added in the first round, at least later, the divisor of the support: few where passes are cheap."""
        cheap, dear = (24, 12, 2), (self.tuning.first, self.tuning.later, 2)
        return cheap if self.half and self.tuning.frugal else dear

    def _room(self, state: FusedState, active: Int64[np.ndarray, " b"], *, first: bool) -> Int64[np.ndarray, " b"]:
        """How many atoms each working set may take in this round."""
        count = state.count[active].astype(np.int64)
        start, later, share = self._steps()
        wanted = np.where(count == 0, start, 0) if first else 0
        wanted = np.maximum(wanted, np.clip(count // share, later, self.tuning.most))
        room: Int64[np.ndarray, " b"] = np.minimum(wanted, state.chosen.shape[1] - count)
        return room

    def _correlate(
        self, state: FusedState, active: Int64[np.ndarray, " b"]
    ) -> tuple[Int[np.ndarray, " b_times_K"], Float64[np.ndarray, " b"], Float64[np.ndarray, " b"], bool]:
        """Computed correlations as integer bits, their thresholds and margins, and whether they are bfloat16."""
        n, d = len(active), self.dictionary.dim
        single = np.empty(n * d, np.float32)
        half_bits = np.empty(n * d, np.int16)
        norms, errors = np.empty(n), np.empty((n, 2))
        cpu_rounds.narrow_rows(active, state.residual, d, single, single.view(np.int32), half_bits, norms, errors)
        if self.half:
            margin, threshold = self.dictionary.half_precision.margins(*_tensors(norms, errors[:, 1]))
            if float(margin.median()) < self.tuning.widest_margin:
                inputs = torch.from_numpy(half_bits).view(torch.bfloat16).view(n, d)
                product = self._buffer(n, torch.bfloat16)
                torch.mm(inputs, self.dictionary.half.T, out=product)
                return product.view(torch.int16).numpy().reshape(-1), threshold.numpy(), margin.numpy(), True
        margin, threshold = self.dictionary.single_precision.margins(*_tensors(norms, errors[:, 0]))
        product = self._buffer(n, torch.float32)
        torch.mm(torch.from_numpy(single).view(n, d), self.dictionary.single.T, out=product)
        return product.view(torch.int32).numpy().reshape(-1), threshold.numpy(), margin.numpy(), False

    def _buffer(self, n: int, dtype: torch.dtype) -> Float[torch.Tensor, "n K"]:
        """Memory for a product, kept between rounds: fresh pages would cost more than the product."""
        held = self._buffers.get(dtype)
        if held is None or len(held) < n:
            held = self._buffers[dtype] = torch.empty(n, self.dictionary.n_atoms, dtype=dtype)
        return held[:n]

    def _solve(
        self, state: FusedState, active: Int64[np.ndarray, " b"], selected: Int[np.ndarray, "b p"],
        values: Float64[np.ndarray, "b p"], n_selected: Int64[np.ndarray, " b"], *, double: bool,
    ) -> None:  # fmt: skip
        tol = self.tuning.tol
        atoms = self.exact if double else self.single
        cpu_rounds.solve(
            active, selected, values, n_selected, state.data, state.residual, state.settled, self.dictionary.dim,
            atoms, self.exact, np.empty(0, atoms.dtype) if double else self.table, state.chosen, state.codes,
            state.correlations, state.count, state.grams, HELD_GRAM, state.known, tol, max(0.1 * tol, 1e-14),
            1e-11 if double else PIVOT_FLOOR, self._refinements(), not double,
        )  # fmt: skip

    def export(self, state: FusedState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts, atom indices and codes."""
        return state.count, state.chosen, state.codes


def _tensors(*arrays: Float[np.ndarray, ...]) -> tuple[Float[torch.Tensor, ...], ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
