"""Which codes are positive in every optimum, which are zero in every optimum, and which are undecided.

The number of stored codes depends on the tolerance and on the start: at a small gap an atom that no optimum uses can
still have a code, and one that every optimum uses may have none yet. What is certain does not.

*The ball.* Codes z of a datapoint x (without bias) with residual r, and any y = s r with D y ≤ λ, 0 ≤ s ≤ 1. The value
is 1-strongly convex in zD and the dual 1-strongly concave in y, so with the optimal residual r* (theory.md T1)

    ½‖r − r*‖² + ½‖y − r*‖² ≤ (value − optimum) + (optimum − dual value) = gap,

and by the parallelogram law r* is in the ball around m = (r + y)/2 with the radius ρ, ρ² = gap − ¼‖r − y‖²
= ¼(1 − s)²‖r‖² + Σ_k z_k (λ − s d_k·r): a sum without cancellation. (Ndiaye et al. 2017 take y and √(2 gap).)

*Certainly zero.* If d_k·m + ‖d_k‖ρ < λ then d_k·r* < λ, and T1 leaves z_k = 0 in every optimum. P is what is left.

*Certainly positive.* Take any w, and P as above. Every optimum z* has x − r* = Σ_{j∈P} z*_j d_j, so that

    w·(x − r*) = Σ_{j∈P} z*_j w·d_j ≤ z*_k w·d_k + M max_{j∈P, j≠k} (w·d_j)_+,   M ≥ Σ_j z*_j.

If w·(x − m) − ‖w‖ρ, which is at most the left side, exceeds the last term, z*_k > 0 in every optimum. Here w is
the row of the pseudo-inverse of P's atoms: w·d_k = 1 and w·d_j = 0, unless d_k is in the span of the others. Then,
as for a duplicate, optima may differ and the code stays undecided. M = value/λ.

With weights and ridge all this holds of the plain problem in more dimensions that they are equal to
(:mod:`cvxsae.solvers.codes.engines.prices`): atoms of norm 1 there, ω_k instead of λ, and M = value/min_{j∈P} ω_j.

Rounding is added on the safe side everywhere. Units are those of the engines: the penalty is 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Bool, Float64, Int64

from cvxsae.parallel.context import Run
from cvxsae.parallel.threads import torch_threads
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.joint.active_gram import gram_inverses, similar_counts
from cvxsae.relaxations.linalg import EPS
from cvxsae.solvers.codes.correlation import centered
from cvxsae.solvers.codes.engines.prices import PRICE_ROUNDINGS, Prices

ACTIVE, LIKELY, UNLIKELY = 1, 2, 3
"""Positive in every optimum; undecided, positive in the codes at hand; undecided, zero in the codes at hand."""

BLOCK_ENTRIES = 2**21
"""Entries of a block of correlations, or of copied atoms: 16 MB in float64."""

RIDGE_SPARE = 2
"""By how much this is more with a ridge, where an optimum may need more than d atoms."""

SPARE = 32
"""A datapoint with more than d + this many atoms that may be active is left open: no optimum needs more than d."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Activity:
    """What is certain about which codes are positive, at the exact optimum and at every one if there are several.

    ``l0`` and ``dead`` count what is certain and, of the undecided, what is positive in the codes at hand: they lie
    between ``least`` and ``most``, which hold whatever the tolerance was. Of data that several processes share, all
    of this is about the datapoints here.

    Attributes
    ----------
    entries
        Sparse (N, K): ``ACTIVE``, ``LIKELY``, ``UNLIKELY``. What is not stored is zero in every optimum,
        unless the datapoint is open: then it is undecided.
    is_open
        Datapoints of which nothing is known but what is stored: their gap is too large, or time ran out, (N,).
    """

    entries: sp.csr_array
    is_open: Bool[np.ndarray, " N"]

    @property
    def active_per_point(self) -> Int64[np.ndarray, " N"]:
        """Codes of each datapoint that are positive in every optimum, (N,)."""
        return self._per_point(self.entries.data == ACTIVE)

    @property
    def undecided_per_point(self) -> Int64[np.ndarray, " N"]:
        """Codes of each datapoint that may or may not be, (N,); the others are zero in every optimum."""
        n_atoms = self.entries.shape[1]
        stored = self._per_point(self.entries.data != ACTIVE)
        return np.where(self.is_open, n_atoms - self.active_per_point, stored)

    @property
    def active_per_atom(self) -> Int64[np.ndarray, " K"]:
        """On how many datapoints each atom's code is positive in every optimum, (K,)."""
        return self._per_atom(self.entries.data == ACTIVE)

    @property
    def undecided_per_atom(self) -> Int64[np.ndarray, " K"]:
        """On how many datapoints each atom's code may or may not be, (K,)."""
        in_open = np.repeat(self.is_open, np.diff(self.entries.indptr))
        unstored = int(self.is_open.sum()) - self._per_atom(in_open)
        return unstored + self._per_atom(self.entries.data != ACTIVE)

    @property
    def fires_per_atom(self) -> Int64[np.ndarray, " K"]:
        """On how many datapoints each atom counts as active, (K,): certain, or undecided and positive at hand."""
        return self._per_atom(self.entries.data <= LIKELY)

    @property
    def l0(self) -> float:
        """Mean number of active atoms per datapoint."""
        return float((self.entries.data <= LIKELY).sum() / len(self.is_open))

    @property
    def l0_range(self) -> tuple[float, float]:
        """The least and the most it can be."""
        least, undecided = float(self.active_per_point.mean()), float(self.undecided_per_point.mean())
        return least, least + undecided

    @property
    def dead(self) -> int:
        """Atoms that count as active on no datapoint."""
        return int((self.fires_per_atom == 0).sum())

    @property
    def dead_range(self) -> tuple[int, int]:
        """Atoms that no optimum uses, and those that not every optimum is certain to use."""
        silent = self.active_per_atom == 0
        return int((silent & (self.undecided_per_atom == 0)).sum()), int(silent.sum())

    def to_dict(self) -> dict[str, float | int | list[float] | list[int]]:
        """The numbers, ready for JSON."""
        return {"l0": self.l0, "l0_range": list(self.l0_range), "dead": self.dead, "dead_range": list(self.dead_range)}

    def __str__(self) -> str:
        return f"L0 {show_l0(self.l0, self.l0_range)}, dead: {show_dead(self.dead_range)}"

    def replaced(self, rows: Int64[np.ndarray, " n"], other: Activity) -> Activity:
        """The same with what ``other`` says of some datapoints, wherever that leaves less undecided."""
        better = other.undecided_per_point < self.undecided_per_point[rows]
        source = np.arange(len(self.is_open))
        source[rows[better]] = len(source) + np.flatnonzero(better)
        entries = sp.csr_array(sp.vstack([self.entries, other.entries], format="csr")[source])
        return Activity(entries=entries, is_open=np.concatenate([self.is_open, other.is_open])[source])

    def _per_point(self, chosen: Bool[np.ndarray, " nnz"]) -> Int64[np.ndarray, " N"]:
        return np.diff(np.concatenate([[0], np.cumsum(chosen)])[self.entries.indptr])

    def _per_atom(self, chosen: Bool[np.ndarray, " nnz"]) -> Int64[np.ndarray, " K"]:
        return np.bincount(self.entries.indices[chosen], minlength=self.entries.shape[1]).astype(np.int64)


def show_l0(l0: float, bounds: tuple[float, float]) -> str:
    """A mean number of active atoms, and between what it is certain to be if that differs in print."""
    shown, least, most = (f"{number:.2f}" for number in (l0, *bounds))
    return shown if least == most == shown else f"{shown} (between {least} and {most})"


def show_dead(bounds: tuple[int, int]) -> str:
    """How many atoms are certainly dead, and how many may be."""
    return f"{bounds[0]} certain, {bounds[1] - bounds[0]} undecided"


def certain_activity(problem: SparseCodes, codes: sp.csr_array, run: Run) -> Activity:
    """What nonnegative codes (N, K) at a fixed bias prove about all optimal ones; one pass in float64.

    Past the deadline of ``run``, the datapoints that are left stay open.
    """
    atoms = problem.atoms.numpy()
    prices = Prices.of(problem, torch.device("cpu"))
    step = max(1, BLOCK_ENTRIES // max(atoms.shape))
    blocks, is_open, start = [], np.ones(problem.n_points, np.bool_), 0
    for batch in problem.X.batches(rows=step):
        if run.is_late:
            blocks.append(_likely(codes[start:]))
            break
        rows = slice(start, start + len(batch))
        start = rows.stop
        held = codes[rows]
        scaled = sp.csr_array((held.data / problem.lam, held.indices, held.indptr), shape=held.shape)
        x = centered(batch, problem).numpy() / problem.lam
        if prices is None:
            entries, is_open[rows] = _classify(x, scaled, atoms)
        else:
            entries, is_open[rows] = _classify_priced(x, scaled, atoms, prices)
        blocks.append(entries)
    return Activity(entries=sp.csr_array(sp.vstack(blocks, format="csr")), is_open=is_open)


def _likely(codes: sp.csr_array) -> sp.csr_array:
    """The codes that are positive, none of them certain."""
    marks = np.where(codes.data > 0, LIKELY, 0).astype(np.int8)
    found = sp.csr_array((marks, codes.indices, codes.indptr), shape=codes.shape)
    found.eliminate_zeros()
    return found


def _stored(codes: sp.csr_array, possible: Bool[np.ndarray, "n K"]) -> sp.csr_array:
    """Entries of a block, none of them certain yet: codes that are positive, and whatever else is possible."""
    positive = sp.csr_array((codes.data > 0, codes.indices, codes.indptr), shape=codes.shape).toarray()
    rows, columns = np.nonzero(positive | possible)
    marks = np.where(positive[rows, columns], LIKELY, UNLIKELY).astype(np.int8)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(positive)))])
    return sp.csr_array((marks, columns, indptr), shape=codes.shape)


@dataclass(frozen=True)
class Ball:
    """Where the optimal residual of each datapoint of a block is, rounding included; ``center`` is ``half`` · r."""

    center: Float64[np.ndarray, "n d"]
    radius: Float64[np.ndarray, " n"]
    correlations: Float64[np.ndarray, "n K"]
    value: Float64[np.ndarray, " n"]
    half: Float64[np.ndarray, " n"]


def residual_ball(x: Float64[np.ndarray, "n d"], codes: sp.csr_array, atoms: Float64[np.ndarray, "K d"]) -> Ball:
    """The ball around m = (r + y)/2, the correlations d_k·m, and the value at these codes."""
    d, owner = x.shape[1], np.repeat(np.arange(len(x)), np.diff(codes.indptr))
    mass = np.bincount(owner, codes.data, minlength=len(x))
    r = x - codes @ atoms
    products = r @ atoms.T
    length = np.linalg.norm(r, axis=1)
    off = (np.diff(codes.indptr) + 4) * EPS * (np.linalg.norm(x, axis=1) + mass)  # of r
    blur = off + (d + 4) * EPS * length  # of a product
    s = np.minimum(1.0, (1 - 4 * EPS) / np.maximum(products.max(axis=1) + blur, EPS))
    slack = codes.data * (1 - s[owner] * products[owner, codes.indices])
    spread = np.bincount(owner, slack, minlength=len(x)) + mass * (blur + 8 * EPS)
    spread += (np.diff(codes.indptr) + 4) * EPS * np.bincount(owner, np.abs(slack), minlength=len(x))
    squared = ((1 - s) * (length + off)) ** 2 / 4 + spread
    radius = np.sqrt(np.maximum(squared, 0.0)) * (1 + 8 * EPS) + blur
    half = (1 + s[:, None]) / 2
    return Ball(half * r, radius, half * products, length**2 / 2 + mass, half[:, 0])


def _classify(
    x: Float64[np.ndarray, "n d"], codes: sp.csr_array, atoms: Float64[np.ndarray, "K d"]
) -> tuple[sp.csr_array, Bool[np.ndarray, " n"]]:
    """Entries of a block, and which datapoints stay open."""
    with np.errstate(over="ignore", invalid="ignore"):  # where arithmetic overflows nothing is certain
        ball = residual_ball(x, codes, atoms)
        possible = ~(ball.correlations + ball.radius[:, None] < 1 - 8 * EPS)
    entries, is_open, sizes = _left(codes, possible, ball, x.shape[1] + SPARE)
    with torch_threads(1):  # matrices are small: threads would wait for each other
        for some, width in similar_counts(sizes, BLOCK_ENTRIES // x.shape[1]):
            held = np.arange(width) < sizes[some, None]
            places = np.where(held, entries.indptr[some, None] + np.arange(width), 0)
            members = torch.from_numpy(atoms[entries.indices[places]] * held[:, :, None])
            inverse, _ = gram_inverses(members, torch.from_numpy(held))
            aim, radius, value = (torch.from_numpy(a[some]) for a in (x - ball.center, ball.radius, ball.value))
            proved = _surely_positive(members, inverse @ members, aim, radius, value).numpy() & held
            entries.data[places[proved]] = ACTIVE
    return entries, is_open


def _left(
    codes: sp.csr_array, possible: Bool[np.ndarray, "n K"], ball: Ball, most: int
) -> tuple[sp.csr_array, Bool[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Entries of what may be active, which datapoints stay open, and how many atoms to look at in the others."""
    is_open = (possible.sum(axis=1) > most) | ~np.isfinite(ball.radius)
    possible[is_open] = False
    surely = sp.csr_array(codes.multiply(possible | is_open[:, None]))
    surely.eliminate_zeros()
    entries = _stored(surely, possible)
    return entries, is_open, np.where(is_open, 0, np.diff(entries.indptr))


def priced_ball(
    x: Float64[np.ndarray, "n d"], codes: sp.csr_array, atoms: Float64[np.ndarray, "K d"], prices: Prices
) -> Ball:
    """:func:`residual_ball` in the dimensions that the ridge adds, of which ``center`` leaves those out.

    ``codes`` are those of the engines, and so are ``atoms``, the rows ν_k d_k.
    """
    d, owner = x.shape[1], np.repeat(np.arange(len(x)), np.diff(codes.indptr))
    weights, shares = prices.weights.numpy(), prices.shares.numpy()
    own_weights, own_shares = weights[codes.indices], shares[codes.indices]
    mass = np.bincount(owner, codes.data, minlength=len(x))
    paid = np.bincount(owner, codes.data * own_weights, minlength=len(x))
    r = x - codes @ atoms
    products = r @ atoms.T
    products[owner, codes.indices] -= own_shares * codes.data
    length = np.sqrt(np.square(r).sum(axis=1) + np.bincount(owner, own_shares * codes.data**2, minlength=len(x)))
    off = (np.diff(codes.indptr) + 4 + PRICE_ROUNDINGS) * EPS * (np.linalg.norm(x, axis=1) + mass)
    blur = off + (d + 4 + PRICE_ROUNDINGS) * EPS * length
    ratio = ((products + blur[:, None]) / weights).max(axis=1) * (1 + PRICE_ROUNDINGS * EPS)
    s = np.minimum(1.0, (1 - 4 * EPS) / np.maximum(ratio, EPS))
    slack = codes.data * (own_weights - s[owner] * products[owner, codes.indices])
    spread = np.bincount(owner, slack, minlength=len(x)) + mass * blur + PRICE_ROUNDINGS * EPS * (paid + length**2)
    spread += (np.diff(codes.indptr) + 4) * EPS * np.bincount(owner, np.abs(slack), minlength=len(x))
    squared = ((1 - s) * (length + off)) ** 2 / 4 + spread
    radius = np.sqrt(np.maximum(squared, 0.0)) * (1 + 8 * EPS) + blur
    half = (1 + s[:, None]) / 2
    return Ball(half * r, radius, half * products, length**2 / 2 + paid, half[:, 0])


def _classify_priced(
    x: Float64[np.ndarray, "n d"], codes: sp.csr_array, atoms: Float64[np.ndarray, "K d"], prices: Prices
) -> tuple[sp.csr_array, Bool[np.ndarray, " n"]]:
    """:func:`_classify` with weights and ridge."""
    inside = sp.csr_array((prices.inside(codes.data, codes.indices), codes.indices, codes.indptr), shape=codes.shape)
    rows, dense = atoms * prices.lengths.numpy()[:, None], inside.toarray()
    weights, roots = prices.weights.numpy(), np.sqrt(prices.shares.numpy())
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        ball = priced_ball(x, inside, rows, prices)
        possible = ~(ball.correlations + ball.radius[:, None] < weights * (1 - 8 * EPS))
    entries, is_open, sizes = _left(codes, possible, ball, RIDGE_SPARE * (x.shape[1] + SPARE))
    with torch_threads(1):
        for some, width in similar_counts(sizes, BLOCK_ENTRIES // x.shape[1]):
            held = np.arange(width) < sizes[some, None]
            places = np.where(held, entries.indptr[some, None] + np.arange(width), 0)
            atom = entries.indices[places]
            own = roots[atom] * held
            extended = np.concatenate([rows[atom] * held[:, :, None], own[:, :, None] * np.eye(width)], axis=2)
            members = torch.from_numpy(extended)
            inverse, _ = gram_inverses(members, torch.from_numpy(held))
            extra = ball.half[some, None] * own * dense[some[:, None], atom]  # minus the center in an atom's dimension
            aim = torch.from_numpy(np.concatenate([x[some] - ball.center[some], extra], axis=1))
            least = np.where(held, weights[atom], np.inf).min(axis=1)
            radius, mass = torch.from_numpy(ball.radius[some]), torch.from_numpy(ball.value[some] / least)
            proved = _surely_positive(members, inverse @ members, aim, radius, mass).numpy() & held
            entries.data[places[proved]] = ACTIVE
    return entries, is_open


def _surely_positive(
    members: Float64[torch.Tensor, "n m d"],
    w: Float64[torch.Tensor, "n m d"],
    aim: Float64[torch.Tensor, "n d"],
    radius: Float64[torch.Tensor, " n"],
    mass: Float64[torch.Tensor, " n"],
) -> Bool[torch.Tensor, "n m"]:
    """Which atoms of P (``members``, zero where padded) the vectors w prove to have a positive code in every optimum.

    ``aim`` is x − m, ``mass`` is M. It holds for any w.
    """
    rounding = (members.shape[2] + 2) * EPS
    norms = torch.linalg.vector_norm(w, dim=2) * (1 + rounding)
    off = radius + rounding * torch.linalg.vector_norm(aim, dim=1)
    least = torch.einsum("nmd,nd->nm", w, aim) - norms * off[:, None]
    cross = w @ members.mT
    cross.diagonal(dim1=1, dim2=2).zero_()
    others = (cross.amax(dim=2) + rounding * norms).clamp(min=0)
    return least > mass[:, None] * (1 + rounding) * others
