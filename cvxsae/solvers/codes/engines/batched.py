"""The engine in plain torch: many datapoints at once, on any device, nothing to compile.

The rounds are those of the fused engine. The small problems of a batch are solved together by block principal
pivoting: every iteration factors all working-set systems at once and exchanges every atom that is on the wrong side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, Num

from cvxsae.parallel.threads import torch_threads
from cvxsae.solvers.codes.engines.calibration import ladder
from cvxsae.solvers.codes.engines.gaps import NONE, MemberPrices, best_gaps, rounding
from cvxsae.solvers.codes.engines.pivoting import masked_factor, pivot
from cvxsae.solvers.codes.engines.prices import PRICE_ROUNDING
from cvxsae.solvers.codes.engines.products import product
from cvxsae.solvers.codes.engines.screening import LARGEST_INT8, PreparedDictionary
from cvxsae.solvers.codes.engines.state import Outcome, Stoppable, Tuning, Warm

GATHER_BYTES = 256 * 2**20
"""Largest gathered copy of working-set atoms."""

CORRECTED = 0.05
"""Share of ``tol`` at which a gradient on the support is zero, and float64 corrections end."""


LEAST_WHOLE, LARGEST_WHOLE = 1e-20, 1e20
"""Sizes of a residual's largest entry between which it has a scale in int8 that float32 can hold."""


class BatchedState:
    """Working sets (padded with ``NONE``), codes, exact correlations and residuals of a block, on the device."""

    def __init__(self, data: Float[torch.Tensor, "n d"], capacity: int) -> None:
        n = data.shape[0]
        self.data = data
        self.residual = data.clone()
        self.chosen = torch.full((n, capacity), NONE, dtype=torch.int64, device=data.device)
        self.codes = torch.zeros(n, capacity, dtype=torch.float64, device=data.device)
        self.correlations = torch.zeros_like(self.codes)


class BatchedEngine(Stoppable):
    """A block of datapoints as one batch. See :class:`cvxsae.solvers.codes.engines.state.Engine`."""

    name = "torch"

    def __init__(self, dictionary: PreparedDictionary, tuning: Tuning) -> None:
        self.dictionary = dictionary
        self.tuning = tuning
        self.device = dictionary.device
        self.dot_error = (dictionary.dim + 2) * 2.0**-53  # any order of summation
        self.ladder = tuning.ladder or ladder(dictionary, tuning.precision)

    def warm_up(self) -> None:
        """Nothing to compile."""

    def begin(self, data: Float[torch.Tensor, "n d"], warm: Warm | None) -> BatchedState:
        """Start from zero codes, or from the working sets of a warm start, solved."""
        state = BatchedState(data.to(self.device), self.dictionary.capacity)
        if warm is not None:
            n = len(data)
            self._fill(state, warm)
            everyone = torch.arange(n, device=self.device)
            nothing = torch.full((n, 1), NONE, dtype=torch.int64, device=self.device)
            unknown = torch.zeros(n, 1, dtype=torch.float64, device=self.device)
            with torch_threads(1):
                self._solve(state, everyone, nothing, unknown, restore=True)
        return state

    def _fill(self, state: BatchedState, warm: Warm) -> None:
        n, capacity = state.codes.shape
        chosen, codes = np.full((n, capacity), NONE, np.int64), np.zeros((n, capacity))
        warm.inside(self.dictionary.prices).fill(chosen, codes, np.zeros(n, np.int32))
        state.chosen, state.codes = torch.from_numpy(chosen).to(self.device), torch.from_numpy(codes).to(self.device)

    def as_they_are(self, data: Float[torch.Tensor, "n d"], warm: Warm) -> BatchedState:
        """State of given codes, of supports of any size, for :meth:`certify` alone."""
        widest = max(1, int(np.diff(warm.indptr).max(initial=0)))
        state = BatchedState(data.to(self.device), widest)
        self._fill(state, warm)
        held = state.chosen != NONE
        exact = self.dictionary.exact[state.chosen.clamp(min=0)] * held[:, :, None]
        prices = MemberPrices.of(self.dictionary, state.chosen)
        state.residual, state.correlations = _residual(state.data, exact, state.codes, prices)
        return state

    def advance(self, state: BatchedState, active: Int64[np.ndarray, " a"], *, first: bool, double: bool) -> Outcome:
        """One round for the active datapoints: one correlation pass, then certify or improve."""
        return self._run(state, active, first=first, double=double, improve=True)

    def certify(self, state: BatchedState, active: Int64[np.ndarray, " a"]) -> Outcome:
        """Certify the codes as they are, changing nothing."""
        return self._run(state, active, first=False, double=False, improve=False)

    def export(self, state: BatchedState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts, atom indices and codes."""
        count, chosen, codes = (state.chosen != NONE).sum(dim=1), state.chosen.cpu().numpy(), state.codes.cpu().numpy()
        if self.dictionary.prices is not None:
            codes = self.dictionary.prices.outside(codes, chosen.clip(min=0))
        return count.cpu().numpy(), chosen, codes

    def _run(
        self, state: BatchedState, active: Int64[np.ndarray, " a"], *, first: bool, double: bool, improve: bool
    ) -> Outcome:
        outcome = Outcome.empty(len(active))
        for start in range(0, len(active), self.tuning.rows):
            self.go_on()
            part = slice(start, start + self.tuning.rows)
            rows = torch.from_numpy(active[part]).to(self.device)
            room = self._room(state, rows, first=first) if improve else torch.zeros_like(rows)
            screened = self._screen(state, rows, room)
            outcome.values[part], outcome.gaps[part] = screened.values.cpu().numpy(), screened.gaps.cpu().numpy()
            outcome.done[part], outcome.rechecks[part] = screened.done.cpu().numpy(), screened.rechecks.cpu().numpy()
            outcome.added[part] = (screened.selected != NONE).sum(dim=1).cpu().numpy()
            if improve:
                left = ~screened.done
                with torch_threads(1):
                    self._solve(state, rows[left], screened.selected[left], screened.correlations[left], double=double)
        return outcome

    def _room(self, state: BatchedState, rows: Int[torch.Tensor, " b"], *, first: bool) -> Int[torch.Tensor, " b"]:
        count = (state.chosen[rows] != NONE).sum(dim=1)
        wanted = (count // self.tuning.divisor).clamp(self.tuning.later, self.tuning.most)
        if first:
            wanted = torch.where(count == 0, max(self.tuning.first, self.tuning.later), wanted)
        return torch.minimum(wanted, state.chosen.shape[1] - count)

    def correlate(
        self, r: Float[torch.Tensor, "b d"]
    ) -> tuple[Float[torch.Tensor, "b K"], Float[torch.Tensor, " b"], Float[torch.Tensor, " b"], float]:
        """Low-precision correlations, the margin of their error, the safe threshold and the least share."""
        norm = torch.linalg.vector_norm(r, dim=1)
        for rung in self.ladder:
            short, scale, lost = _shortened(r, rung.precision)
            _, proved = self.dictionary.rounded(rung.precision)
            margin, threshold = proved.margins(norm, lost, self.dictionary.reach)
            is_last = rung is self.ladder[-1]
            if is_last or float(margin.median()) * self.dictionary.usual_reach < self.tuning.widest_margin:
                break
        return self.product(short, scale, rung.precision), margin, threshold, proved.least_share

    def product(
        self, short: Num[torch.Tensor, "b d"], scale: Float[torch.Tensor, "b 1"], precision: str
    ) -> Float[torch.Tensor, "b K"]:
        """Product of shortened rows with the atoms, as it is stored, read as float32."""
        computed = product(precision, short, self.dictionary.rounded(precision)[0])
        if precision == "int8":  # whole numbers up to 2³¹ and their scales take one rounding each
            return computed.to(torch.float32) * (scale * self.dictionary.whole_scale).to(torch.float32)
        return computed.to(torch.float32)

    def _screen(self, state: BatchedState, rows: Int[torch.Tensor, " b"], room: Int[torch.Tensor, " b"]) -> _Screened:
        r, chosen = state.residual[rows], state.chosen[rows]
        codes, correlations = state.codes[rows], state.correlations[rows]
        computed, margin, threshold, least_share = self.correlate(r)
        place = torch.nonzero(chosen != NONE, as_tuple=True)
        computed[place[0], chosen[place]] = -torch.inf  # a padding index must never be written through
        square = (r * r).sum(dim=1)
        prices = MemberPrices.of(self.dictionary, chosen)
        if prices is None:
            largest = torch.where(codes > 0, correlations, 0.0).amax(dim=1).clamp(min=1.0)
            certain = computed.amax(dim=1).to(torch.float64) * least_share - margin
        else:
            square = square + prices.energy(codes)
            largest = prices.largest(codes, correlations, self.dot_error * square.sqrt())
            certain = self.dictionary.priced.certain(computed, margin, least_share)
        primal, gap, mass, scale = best_gaps(square, codes, correlations, torch.maximum(largest, certain), prices)
        hopeless = (certain > 1) & (gap > self.tuning.tol * primal) & (room > 0)

        pairs = torch.nonzero((computed > threshold[:, None]) & ~hopeless[:, None], as_tuple=True)
        if prices is not None:
            pairs = self.dictionary.priced.possible(pairs, computed[pairs], margin, least_share)
        exact = self._exact_products(r, *pairs)
        if prices is not None:
            exact = exact / self.dictionary.priced.weights[pairs[1]]
        outside = torch.full_like(largest, -torch.inf).scatter_reduce(0, pairs[0], exact, "amax")
        if prices is None:
            largest = torch.maximum(largest, outside) + self.dot_error * square.sqrt()
        else:
            blur = (
                (self.dot_error + PRICE_ROUNDING) * square.sqrt()[pairs[0]] / self.dictionary.priced.weights[pairs[1]]
            )
            outside = torch.full_like(largest, -torch.inf).scatter_reduce(0, pairs[0], exact + blur, "amax")
            largest = torch.maximum(largest, outside) * (1 + PRICE_ROUNDING)
        _, gap, mass, scale = best_gaps(square, codes, correlations, largest, prices)
        if prices is None:
            gap = gap + rounding(square, mass, (codes > 0).sum(dim=1), scale, self.dot_error)
        else:
            gap = gap + prices.rounding(square, codes, scale, self.dot_error)
        gap = torch.where(hopeless, torch.inf, gap)
        done = gap <= self.tuning.tol * primal

        ranked = torch.where(hopeless[:, None], computed, -torch.inf)
        ranked[pairs] = exact.to(ranked.dtype)
        most = max(1, min(int(room.max()) if len(room) else 1, ranked.shape[1]))
        values, selected = ranked.topk(most, dim=1)
        taken = (values > 1) & (torch.arange(most, device=self.device) < room[:, None]) & ~done[:, None]
        taken &= values > -torch.inf
        if prices is not None:
            values = values * self.dictionary.priced.weights[selected]
        return _Screened(
            values=primal, gaps=gap, done=done, rechecks=torch.bincount(pairs[0], minlength=len(rows)),
            selected=torch.where(taken, selected, NONE),
            correlations=torch.where(hopeless[:, None], torch.nan, values.to(torch.float64)),
        )  # fmt: skip

    def _exact_products(
        self, r: Float[torch.Tensor, "b d"], row: Int[torch.Tensor, " p"], atom: Int[torch.Tensor, " p"]
    ) -> Float[torch.Tensor, " p"]:
        """Float64 correlations of the listed pairs."""
        step = max(1, GATHER_BYTES // (16 * r.shape[1]))
        parts = [
            (r[row[start : start + step]] * self.dictionary.exact[atom[start : start + step]]).sum(dim=1)
            for start in range(0, len(row), step)
        ]
        return torch.cat(parts) if parts else r.new_zeros(0)

    def _solve(
        self, state: BatchedState, rows: Int[torch.Tensor, " b"], selected: Int[torch.Tensor, "b p"],
        correlations: Float[torch.Tensor, "b p"], *, double: bool = False, restore: bool = False,
    ) -> None:  # fmt: skip
        """Solve the working sets of these rows, few enough at a time for their atoms to fit."""
        dim = state.data.shape[1]
        size = (state.chosen[rows] != NONE).sum(dim=1) + (selected != NONE).sum(dim=1)
        order = size.argsort()
        while len(order):
            width = max(8, int(size[order[-1]]))
            step = max(1, GATHER_BYTES // (12 * width * (dim + 2 * width)))
            part, order = order[-step:], order[:-step]
            self.go_on()
            _solve_part(self, state, rows[part], selected[part], correlations[part], double=double, restore=restore)


def _shortened(
    r: Float[torch.Tensor, "b d"], precision: str
) -> tuple[Num[torch.Tensor, "b d"], Float[torch.Tensor, "b 1"], Float[torch.Tensor, " b"]]:
    """Rows in a precision, in units of a scale, and the norms of what that loses."""
    scale = torch.ones_like(r[:, :1])
    if precision == "int8":
        largest = r.abs().amax(dim=1, keepdim=True)
        has_scale = (largest > LEAST_WHOLE) & (largest < LARGEST_WHOLE)
        scale = torch.where(has_scale, largest / LARGEST_INT8, scale)
        short = (r / scale).round().clamp(-LARGEST_INT8, LARGEST_INT8).nan_to_num(0.0).to(torch.int8)
    else:
        short = r.to(torch.float32)
        short = short.to(torch.bfloat16) if precision == "bfloat16" else short
    return short, scale, torch.linalg.vector_norm(r - short.to(torch.float64) * scale, dim=1)


class _Screened:
    """What screening found for a batch, on the device."""

    def __init__(self, **found: Any) -> None:
        self.values: torch.Tensor = found["values"]
        self.gaps: torch.Tensor = found["gaps"]
        self.done: torch.Tensor = found["done"]
        self.rechecks: torch.Tensor = found["rechecks"]
        self.selected: torch.Tensor = found["selected"]
        self.correlations: torch.Tensor = found["correlations"]


def _solve_part(
    engine: BatchedEngine, state: BatchedState, rows: Int[torch.Tensor, " b"], selected: Int[torch.Tensor, "b p"],
    correlations: Float[torch.Tensor, "b p"], *, double: bool, restore: bool,
) -> None:  # fmt: skip
    members = torch.cat([state.chosen[rows], selected], dim=1)
    codes = torch.cat([state.codes[rows], torch.zeros_like(correlations)], dim=1)
    known = torch.cat([state.correlations[rows], correlations], dim=1)
    order = (members == NONE).to(torch.int8).argsort(dim=1, stable=True)
    order = order[:, : max(1, int((members != NONE).sum(dim=1).max()))]
    members, codes, known = members.gather(1, order), codes.gather(1, order), known.gather(1, order)
    valid = members != NONE
    prices = MemberPrices.of(engine.dictionary, members)
    limit = 1 if prices is None else prices.weights
    exact = engine.dictionary.exact[members.clamp(min=0)] * valid[:, :, None]  # a padded place is a zero row
    data, r = state.data[rows], state.residual[rows]
    if restore:
        r, known = _residual(data, exact, codes, prices)
    atoms = exact if double else exact.to(torch.float32)
    known = torch.where(  # unknown are those of new atoms, whose codes are 0
        known.isnan(), torch.bmm(atoms, r.to(atoms.dtype)[:, :, None])[:, :, 0].to(torch.float64), known
    )
    gram = torch.bmm(atoms, atoms.transpose(1, 2))
    tol: float | torch.Tensor = engine.tuning.tol
    if prices is not None:
        torch.diagonal(gram, dim1=1, dim2=2).masked_fill_(valid, 1.0)
        tol = (engine.tuning.tol * prices.weights.amin(dim=1, keepdim=True)).to(gram.dtype)
    codes, support = pivot(gram, (known - limit).to(gram.dtype), codes.to(gram.dtype), valid, tol)
    codes = codes.to(torch.float64)
    r, known = _residual(data, exact, codes, prices)
    factor = masked_factor(gram, support)
    for _ in range(engine.tuning.refinements + 2 * engine.tuning.is_fine):
        wrong = torch.where(support, known - limit, 0.0)
        if float((wrong / limit).abs().amax()) <= CORRECTED * engine.tuning.tol:
            break
        step = torch.cholesky_solve(wrong.to(gram.dtype)[:, :, None], factor)[:, :, 0].to(torch.float64)
        trial = (codes + torch.where(support, step, 0.0)).clamp(min=0)
        new_r, new_known = _residual(data, exact, trial, prices)
        better = _objective(new_r, trial, prices) <= _objective(r, codes, prices)
        codes = torch.where(better[:, None], trial, codes)
        r, known = torch.where(better[:, None], new_r, r), torch.where(better[:, None], new_known, known)
        if not bool(better.any()):
            break
    keep = codes > 0
    order = (~keep).to(torch.int8).argsort(dim=1, stable=True)[:, : state.chosen.shape[1]]
    keep = keep.gather(1, order)
    width = order.shape[1]
    for held, values, empty in (
        (state.chosen, members, NONE),
        (state.codes, codes, 0.0),
        (state.correlations, known, 0.0),
    ):
        fresh = torch.full((len(rows), held.shape[1]), empty, dtype=held.dtype, device=held.device)
        fresh[:, :width] = torch.where(keep, values.gather(1, order), empty)
        held[rows] = fresh
    state.residual[rows] = r


def _residual(
    data: Float[torch.Tensor, "b d"], exact: Float[torch.Tensor, "b m d"], codes: Float[torch.Tensor, "b m"],
    prices: MemberPrices | None,
) -> tuple[Float[torch.Tensor, "b d"], Float[torch.Tensor, "b m"]]:  # fmt: skip
    """Residual of the codes from scratch, and its float64 correlations with the working set."""
    r = data - torch.bmm(codes[:, None, :], exact)[:, 0]
    known = torch.bmm(exact, r[:, :, None])[:, :, 0]
    return r, known if prices is None else known - prices.shares * codes


def _objective(
    r: Float[torch.Tensor, "b d"], codes: Float[torch.Tensor, "b m"], prices: MemberPrices | None
) -> Float[torch.Tensor, " b"]:
    if prices is not None:
        return 0.5 * ((r * r).sum(dim=1) + prices.energy(codes)) + prices.mass(codes)
    return 0.5 * (r * r).sum(dim=1) + codes.sum(dim=1)
