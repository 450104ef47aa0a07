"""The GPU engine: the rounds of the torch engine, with its two expensive parts in Triton kernels.

Screening does not write the matrix of correlations: a fused product keeps the maximum of every group of atoms, from
which working sets are filled, and one bit per atom, from which the candidates of a certificate are recomputed in
float64. Small problems are solved by one program per datapoint. What the kernels do not take (float64 rounds, wide
working sets, problems that coordinate descent does not finish, dictionaries for which bfloat16 is too coarse) goes to
the torch engine, whose certificate this is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64

from cvxsae.solvers.codes.engines import triton_kernels
from cvxsae.solvers.codes.engines.batched import GATHER_BYTES, BatchedEngine, BatchedState, _Screened
from cvxsae.solvers.codes.engines.gaps import NONE, best_gaps, rounding
from cvxsae.solvers.codes.engines.screening import PreparedDictionary
from cvxsae.solvers.codes.engines.state import Tuning, Warm

START_WIDTH = 64
"""Places per datapoint that a state starts with; it grows as needed."""

WIDTHS = (16, 32, 64, triton_kernels.WIDEST)
"""Padded working sets: a kernel is compiled for each."""


class TritonEngine(BatchedEngine):
    """A block of datapoints as one batch on a GPU. See :class:`cvxsae.solvers.codes.engines.state.Engine`."""

    name = "triton"

    def __init__(self, dictionary: PreparedDictionary, tuning: Tuning) -> None:
        super().__init__(dictionary, tuning)
        self.half = any(rung.precision == "bfloat16" for rung in self.ladder)
        self.dense_rows = tuning.rows
        fused = dictionary.n_atoms // 8 + 12 * 16 * triton_kernels.TILE + 40 * dictionary.dim
        self.tuning = replace(tuning, rows=max(tuning.rows, tuning.rows * 6 * dictionary.n_atoms // fused))

    def warm_up(self) -> None:
        """Compile the kernels for every width and the dictionary at hand."""
        d, device = self.dictionary.dim, self.device
        if self.half:
            triton_kernels.screen(
                torch.zeros(1, d, dtype=torch.bfloat16, device=device), self.dictionary.half,
                torch.ones(1, device=device),
            )  # fmt: skip
        data = torch.zeros(1, d, dtype=torch.float64, device=device)
        for width in WIDTHS:
            members = torch.full((1, width), NONE, dtype=torch.int64, device=device)
            members[0, 0] = 0
            nothing = torch.zeros(1, width, dtype=torch.float64, device=device)
            problems = triton_kernels.SmallProblems(
                torch.zeros(1, dtype=torch.int64, device=device), members, nothing, nothing
            )
            self._kernels(problems, data, data)

    def begin(self, data: Float[torch.Tensor, "n d"], warm: Warm | None) -> BatchedState:
        """Start from zero codes, or from the working sets of a warm start, solved."""
        if warm is None:
            return BatchedState(data.to(self.device).contiguous(), min(START_WIDTH, self.dictionary.capacity))
        state = super().begin(data, warm)
        width = max(1, int((state.chosen != NONE).sum(dim=1).max())) if len(data) else 1
        state.data = state.data.contiguous()
        state.chosen, state.codes = state.chosen[:, :width].clone(), state.codes[:, :width].clone()
        state.correlations = state.correlations[:, :width].clone()
        return state

    def export(self, state: BatchedState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts, atom indices in ascending order and codes, no wider than the largest support."""
        count = (state.chosen != NONE).sum(dim=1)
        width = max(1, int(count.max())) if len(count) else 1
        last = torch.iinfo(torch.int64).max
        order = torch.where(state.chosen == NONE, last, state.chosen).argsort(dim=1)[:, :width]
        chosen, codes = state.chosen.gather(1, order), state.codes.gather(1, order)
        return count.cpu().numpy(), chosen.cpu().numpy(), codes.cpu().numpy()

    def _room(self, state: BatchedState, rows: Int[torch.Tensor, " b"], *, first: bool) -> Int[torch.Tensor, " b"]:
        count = (state.chosen[rows] != NONE).sum(dim=1)
        wanted = (count // self.tuning.divisor).clamp(self.tuning.later, self.tuning.most)
        if first:
            wanted = torch.where(count == 0, max(self.tuning.first, self.tuning.later), wanted)
        return torch.minimum(wanted, self.dictionary.capacity - count)

    def _screen(self, state: BatchedState, rows: Int[torch.Tensor, " b"], room: Int[torch.Tensor, " b"]) -> _Screened:
        r = state.residual[rows]
        square = (r * r).sum(dim=1)
        short = r.to(torch.float32).to(torch.bfloat16)
        # accumulators are compared as they are, never stored in bfloat16: no output rounding
        precision = replace(self.dictionary.half_precision, output=0.0) if self.half else None
        if precision is not None:
            lost = torch.linalg.vector_norm(r - short.to(torch.float64), dim=1)
            margin, threshold = precision.margins(square.sqrt(), lost)
        if precision is None or float(margin.median()) >= self.tuning.widest_margin:
            return self._screen_densely(state, rows, room)
        found = triton_kernels.screen(short, self.dictionary.half, _float32_below(threshold))
        chosen, codes, correlations = state.chosen[rows], state.codes[rows], state.correlations[rows]
        values, words = _without_members(found, chosen)

        largest = torch.where(codes > 0, correlations, 0.0).amax(dim=1).clamp(min=1.0)
        certain = values.amax(dim=1).to(torch.float64) - margin
        primal, gap, _, _ = best_gaps(square, codes, correlations, torch.maximum(largest, certain))
        hopeless = (certain > 1) & (gap > self.tuning.tol * primal) & (room > 0)

        row, atom = set_bits(words.masked_fill_(hopeless[:, None], 0))
        exact = self._exact_products(r, row, atom)
        outside = torch.full_like(largest, -torch.inf).scatter_reduce(0, row, exact, "amax")
        largest = torch.maximum(largest, outside) + self.dot_error * square.sqrt()
        _, gap, mass, scale = best_gaps(square, codes, correlations, largest)
        gap = gap + rounding(square, mass, (codes > 0).sum(dim=1), scale, self.dot_error)
        gap = torch.where(hopeless, torch.inf, gap)
        done = gap <= self.tuning.tol * primal

        most = max(1, int(room.max()) if len(room) else 1)
        selected, known = _best_exact(row, atom, exact, len(rows), most)
        by_group = _best_of_groups(values, found.atoms, most)
        selected = torch.where(hopeless[:, None], by_group, selected)
        taken = (torch.arange(most, device=self.device) < room[:, None]) & ~done[:, None]
        return _Screened(
            values=primal, gaps=gap, done=done, rechecks=torch.bincount(row, minlength=len(rows)),
            selected=torch.where(taken, selected, NONE),
            correlations=torch.where(hopeless[:, None], torch.nan, known),
        )  # fmt: skip

    def _screen_densely(
        self, state: BatchedState, rows: Int[torch.Tensor, " b"], room: Int[torch.Tensor, " b"]
    ) -> _Screened:
        """The torch engine's screening, in as many pieces as its matrix of correlations needs."""
        parts = [
            super(TritonEngine, self)._screen(state, some, places)
            for some, places in zip(torch.split(rows, self.dense_rows), torch.split(room, self.dense_rows), strict=True)
        ]
        width = max(part.selected.shape[1] for part in parts)
        joined = {
            name: torch.cat([getattr(part, name) for part in parts]) for name in ("values", "gaps", "done", "rechecks")
        }
        return _Screened(
            **joined,
            selected=torch.cat([_widened(part.selected, width, NONE) for part in parts]),
            correlations=torch.cat([_widened(part.correlations, width, 0.0) for part in parts]),
        )

    def _solve(
        self, state: BatchedState, rows: Int[torch.Tensor, " b"], selected: Int[torch.Tensor, "b p"],
        correlations: Float[torch.Tensor, "b p"], *, double: bool = False, restore: bool = False,
    ) -> None:  # fmt: skip
        """Solve the working sets of these rows: by the kernels if they can, else as the torch engine does."""
        if not len(rows):
            return
        size = (state.chosen[rows] != NONE).sum(dim=1) + (selected != NONE).sum(dim=1)
        _grow(state, int(size.max()), self.dictionary.capacity)
        left = torch.ones_like(rows, dtype=torch.bool)
        if not (double or restore):
            narrower = 0
            for width in WIDTHS:
                some = torch.nonzero((size > narrower) & (size <= width), as_tuple=True)[0]
                narrower = width
                step = max(1, GATHER_BYTES // (4 * width * width + 64 * width + 16 * self.dictionary.dim))
                for part in torch.split(some, step):
                    left[part] = ~self._solve_part(state, rows[part], selected[part], correlations[part], width)
        if bool(left.any()):
            super()._solve(state, rows[left], selected[left], correlations[left], double=double, restore=restore)

    def _solve_part(
        self, state: BatchedState, rows: Int[torch.Tensor, " b"], selected: Int[torch.Tensor, "b p"],
        correlations: Float[torch.Tensor, "b p"], width: int,
    ) -> Bool[torch.Tensor, " b"]:  # fmt: skip
        """Solve by the kernels and keep what they solved; says which that is."""
        members = torch.cat([state.chosen[rows], selected], dim=1)
        codes = torch.cat([state.codes[rows], torch.zeros_like(correlations)], dim=1)
        known = torch.cat([state.correlations[rows], correlations], dim=1)
        order = (members == NONE).to(torch.int8).argsort(dim=1, stable=True)[:, :width]
        members, codes, known = (
            _widened(part.gather(1, order), width, empty)
            for part, empty in ((members, NONE), (codes, 0.0), (known, 0.0))
        )
        problems = triton_kernels.SmallProblems(rows, members, torch.where(members == NONE, 0.0, codes), known)
        answer = self._kernels(problems, state.data, state.residual)
        solved = answer.solved & answer.residual.isfinite().all(dim=1)
        keep = answer.codes > 0
        order = (~keep).to(torch.int8).argsort(dim=1, stable=True)[:, : state.chosen.shape[1]]
        keep, rows = keep.gather(1, order)[solved], rows[solved]
        for held, values, empty in (
            (state.chosen, members, NONE),
            (state.codes, answer.codes, 0.0),
            (state.correlations, answer.correlations, 0.0),
        ):
            fresh = torch.where(keep, values.gather(1, order)[solved], empty)
            held[rows] = _widened(fresh, held.shape[1], empty)
        state.residual[rows] = answer.residual[solved]
        return solved

    def _kernels(
        self, problems: triton_kernels.SmallProblems, data: Float[torch.Tensor, "n d"],
        residual: Float[torch.Tensor, "n d"],
    ) -> triton_kernels.SmallSolutions:  # fmt: skip
        return triton_kernels.small_solve(
            problems, data, residual, self.dictionary.single, self.dictionary.exact, self.tuning.tol
        )


def set_bits(words: Int[torch.Tensor, "n w"]) -> tuple[Int64[torch.Tensor, " p"], Int64[torch.Tensor, " p"]]:
    """Row and position of every bit that is set, row by row, ascending."""
    row, word = torch.nonzero(words, as_tuple=True)
    place = torch.arange(triton_kernels.WORD, device=words.device, dtype=words.dtype)
    entry, bit = torch.nonzero((words[row, word][:, None] >> place) & 1, as_tuple=True)
    return row[entry], word[entry] * triton_kernels.WORD + bit


def _without_members(
    found: triton_kernels.Screened, chosen: Int[torch.Tensor, "b m"]
) -> tuple[Float[torch.Tensor, "b groups"], Int[torch.Tensor, "b w"]]:
    """Group maxima (−inf where a member of the working set hides the rest) and bits, of other atoms."""
    row, place = torch.nonzero(chosen != NONE, as_tuple=True)
    member = chosen[row, place]
    group = member % found.values.shape[1]
    values = found.values
    hidden = found.atoms[row, group] == member
    values[row[hidden], group[hidden]] = -torch.inf
    word = torch.div(member, triton_kernels.WORD, rounding_mode="floor")
    bit = torch.ones_like(member) << (member % triton_kernels.WORD)
    own = torch.zeros(found.words.shape, dtype=torch.int32, device=chosen.device)
    own.index_put_((row, word), _as_int32(bit), accumulate=True)  # distinct bits: adding is or
    return values, found.words & ~own


def _as_int32(bits: Int64[torch.Tensor, " p"]) -> Int[torch.Tensor, " p"]:
    """The lower 32 bits, as they are."""
    return torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32)


def _best_exact(
    row: Int64[torch.Tensor, " p"], atom: Int64[torch.Tensor, " p"], exact: Float[torch.Tensor, " p"], n: int, most: int
) -> tuple[Int64[torch.Tensor, "n most"], Float[torch.Tensor, "n most"]]:
    """The largest violators of every row, among pairs whose correlations are known."""
    violates = exact > 1
    row, atom, exact = row[violates], atom[violates], exact[violates]
    order = exact.argsort(descending=True, stable=True)
    order = order[row[order].argsort(stable=True)]
    row, atom, exact = row[order], atom[order], exact[order]
    count = torch.bincount(row, minlength=n)
    rank = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    first = rank < most
    selected = torch.full((n, most), NONE, dtype=torch.int64, device=row.device)
    known = torch.zeros(n, most, dtype=torch.float64, device=row.device)
    selected[row[first], rank[first]], known[row[first], rank[first]] = atom[first], exact[first]
    return selected, known


def _best_of_groups(
    values: Float[torch.Tensor, "n groups"], atoms: Int64[torch.Tensor, "n groups"], most: int
) -> Int64[torch.Tensor, "n most"]:
    """The group maxima that are largest and above the penalty."""
    top, place = values.topk(min(most, values.shape[1]), dim=1)
    return _widened(torch.where(top > 1, atoms.gather(1, place), NONE), most, NONE)


def _float32_below(threshold: Float[torch.Tensor, " b"]) -> Float[torch.Tensor, " b"]:
    """The largest float32 that is not above each threshold (or the next smaller one)."""
    single = threshold.to(torch.float32)
    return torch.nextafter(single, torch.full_like(single, -torch.inf)).contiguous()


def _widened(values: torch.Tensor, width: int, empty: float) -> torch.Tensor:
    """The same rows with more places."""
    missing = width - values.shape[1]
    return torch.nn.functional.pad(values, (0, missing), value=empty).contiguous() if missing > 0 else values


def _grow(state: BatchedState, width: int, capacity: int) -> None:
    """Make room for working sets of this size."""
    held = state.chosen.shape[1]
    if width <= held:
        return
    wider = min(max(width, 2 * held), capacity)
    state.chosen = _widened(state.chosen, wider, NONE)
    state.codes = _widened(state.codes, wider, 0.0)
    state.correlations = _widened(state.correlations, wider, 0.0)
