"""The best width floor that a kernel gives: a concave maximisation over the weights of the datapoints (T14, T15)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from cvxsae.data import arguments
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.data.arguments import InputError
from cvxsae.relaxations import linalg
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.floors import kernels as bound
from cvxsae.relaxations.floors.floor import Floor, FloorPart
from cvxsae.relaxations.floors.spectral import spectral_values
from cvxsae.relaxations.problem import EPS
from cvxsae.solvers.convex.solve import solve

if TYPE_CHECKING:
    from cvxsae.data.arguments import BiasLike
    from cvxsae.relaxations.floors.kernels import KernelLike, ZonalKernel

MAX_POINTS = 6000
"""Most datapoints (pairs, with a free bias) in one part: its kernel matrix takes 0.3 GB in float64."""

_DENSE = 1200  # up to here all eigenvectors in float64 cost less than a subspace iteration is worth
_ROUNDS = 25


def width_floor(
    X: ActivationsLike,
    lam: float,
    n_atoms: int,
    *,
    bias: BiasLike = None,
    kernels: Sequence[KernelLike] = (1, 2, 3),
    max_points: int | None = None,
    tol: float = 1e-3,
    device: str | torch.device | None = None,
    max_seconds: float | None = None,
    progress: bool = False,
    seed: int = 0,
) -> Floor:
    """Certified lower bound of F(D, b) for every dictionary D of K unit-norm atoms: the best of T9, T10, T14 and T15.

    T14 and T15 give each datapoint a share ``q_n = ‖Πψ(v_n)‖²`` in the span of the atoms' features, of which there is
    only so much: ``Σ_n w_n q_n ≤ Λ_K(w)``, the sum of the K largest eigenvalues of ``[√w_n k(v_n·v_m) √w_m]``. So

        ``F(D, b) ≥ (1/N) [ Σ_n min_{0≤q≤1} ( Ψ_n(q) + w_n q ) − Λ_K(w) ]``                                  (6c)

    with ``Ψ_n(q)`` the least φ(x_n) can be at share q: ``h_{λ/c}(‖x_n − b‖)`` at ``k(c)² = q`` (T14), and a sharper
    function for k(t) = t² (T15). The right-hand side is concave in w; Frank-Wolfe on its dual maximises it within
    ``tol``. The weights found are then evaluated once in float64, intervals bounded at their safe end and rounding
    subtracted, so the bound holds as printed however the search went.

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.data.Activations` accepts.
    lam
        Penalty λ > 0.
    n_atoms
        Width K.
    bias
        None (zero) or an array (d,): the bound is for this bias. ``"free"``: for every bias; datapoints are paired, so
        the bound is weaker than at the best bias.
    kernels
        Powers p (``k(t) = t^p``), mixtures ``{p: c_p}`` or :class:`~cvxsae.relaxations.floors.kernels.ZonalKernel`; the
        most promising for each width is optimised. With a free bias the powers of a mixture must be all even or odd.
    max_points
        Most points in one part. More datapoints are split at random into equal parts, and the bound is the mean of
        theirs: weaker, but memory and time grow as N rather than N² and N³. Default 6000.
    tol
        Relative distance, to the best bound of this kernel and these directions, at which the search stops.
    device
        Where to compute: CPU by default.
    max_seconds
        Time for the search, or None. The last evaluation of each part is always made.
    progress
        Show a progress bar.
    seed
        For the split into parts and pairs, and the start of the subspace iteration.

    Returns
    -------
    Floor
        ``value`` is in units of (P), mean per datapoint; ``parts`` hold what proves it.

    Raises
    ------
    InputError
        For arguments that cannot be used.
    """
    return width_floors(
        X,
        lam,
        (n_atoms,),
        bias=bias,
        kernels=kernels,
        max_points=max_points,
        tol=tol,
        device=device,
        max_seconds=max_seconds,
        progress=progress,
        seed=seed,
    )[0]


def width_floors(
    X: ActivationsLike,
    lam: float,
    widths: Sequence[int],
    *,
    bias: BiasLike = None,
    kernels: Sequence[KernelLike] = (1, 2, 3),
    max_points: int | None = None,
    tol: float = 1e-3,
    device: str | torch.device | None = None,
    max_seconds: float | None = None,
    progress: bool = False,
    seed: int = 0,
) -> tuple[Floor, ...]:
    """:func:`width_floor` for several widths, in the order given: one split, each width starting from its neighbour.

    The values never rise with the width: a bound for K atoms holds for fewer.
    """
    activations = Activations(X)
    lam = arguments.penalty(lam, "lam")
    chosen = _widths(widths)
    shift = arguments.bias_vector(bias, activations.shape[1])
    search = _Search(
        lam=lam,
        widths=tuple(sorted(set(chosen))),
        kernels=_kernels(kernels, paired=isinstance(shift, str)),
        tol=arguments.positive(tol, "tol"),
        device=arguments.compute_device(device),
        deadline=math.inf if max_seconds is None else time.monotonic() + arguments.positive(max_seconds, "max_seconds"),
        seed=arguments.count(seed, "seed", least=0),
    )
    most = MAX_POINTS if max_points is None else arguments.count(max_points, "max_points")
    groups = list(_groups(activations, isinstance(shift, str), most, search.seed))
    parts: list[dict[int, FloorPart]] = []
    with tqdm(total=len(groups) * len(search.widths), disable=not progress, desc="width floor", unit="width") as bar:
        for index, (rows, partners) in enumerate(groups):
            offsets = _offsets(activations, shift, rows, partners)
            share = replace(search, deadline=_slice(search.deadline, len(groups) - index))
            with threadpool_limits(limits=1 if len(rows) <= _DENSE else None):  # small eigenproblems: threads only wait
                parts.append(dict(_part_floors(offsets, share, rows, partners, bar)))
    wide = _wide_value(activations, lam, shift)
    floors = {
        width: _combine(width, lam, shift, [part[width] for part in parts], len(activations), wide)
        for width in search.widths
    }
    return tuple(floors[width] for width in chosen)


def _widths(widths: Sequence[int]) -> tuple[int, ...]:
    if isinstance(widths, str) or not isinstance(widths, Iterable):  # a lone number is the likely slip
        raise InputError(f"widths is {widths!r}; pass a sequence of whole numbers, such as (128, 512).")
    chosen = tuple(arguments.count(width, "n_atoms") for width in widths)
    if not chosen:
        raise InputError("widths is empty; pass at least one width.")
    return chosen


def _kernels(kernels: Sequence[KernelLike], *, paired: bool) -> tuple[ZonalKernel, ...]:
    if isinstance(kernels, str) or not isinstance(kernels, Iterable):
        raise InputError(f"kernels is {kernels!r}; pass a sequence of powers or mixtures, such as (1, 2, 3).")
    chosen = tuple(bound.kernel(value) for value in kernels)
    if not chosen:
        raise InputError("kernels is empty; pass at least one power, such as (2,).")
    for one in chosen:
        if paired and not one.one_parity:
            raise InputError(f"kernels holds {one}, but with a free bias powers must be all even or all odd.")
    return chosen


# ---------------------------------------------------------------------- parts of the data


def _groups(
    activations: Activations, paired: bool, most: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Random parts of at most ``most`` datapoints, or of that many pairs of datapoints that lie far apart."""
    from scipy.optimize import linear_sum_assignment

    order = np.random.default_rng(seed).permutation(len(activations))
    count = len(order) // 2 if paired else len(order)
    for part in np.array_split(np.arange(count), max(1, math.ceil(count / most))):
        if not paired:
            yield np.sort(order[part]), None
        elif len(part):
            first, second = order[2 * part], order[2 * part + 1]
            left, right = (activations[side].to_tensor().cpu().to(torch.float64) for side in (first, second))
            yield first, second[linear_sum_assignment(torch.cdist(left, right).numpy(), maximize=True)[1]]


def _offsets(
    activations: Activations, shift: torch.Tensor | str | None, rows: np.ndarray, partners: np.ndarray | None
) -> Float[torch.Tensor, "n d"]:
    points = activations[rows].to_tensor().cpu()
    if partners is not None:
        return (points - activations[partners].to_tensor().cpu()) / 2
    return points - shift if isinstance(shift, torch.Tensor) else points


def _slice(deadline: float, shares: int) -> float:
    """When the first of so many equal shares of the time that is left ends."""
    now = time.monotonic()
    return deadline if deadline == math.inf else now + max(0.0, deadline - now) / shares


def _wide_value(activations: Activations, lam: float, shift: torch.Tensor | str | None) -> float:
    problem = WideLimit(activations, lam, shift)
    solution = solve(problem, tol=1e-9, raise_on_failure=False)
    return max(0.0, solution.lower_bound * (1 - 8 * (problem.n_points + problem.dim) * EPS))


def _combine(
    width: int, lam: float, shift: torch.Tensor | str | None, parts: list[FloorPart], n_points: int, wide: float
) -> Floor:
    """The mean over parts, or the wide limit if that is higher."""
    bias: np.ndarray | Literal["free"] | None = None
    if shift is not None:
        bias = shift.numpy() if isinstance(shift, torch.Tensor) else "free"
    value = math.fsum((len(part.rows) * (1 if part.partners is None else 2)) * part.value for part in parts) / n_points
    value *= 1 - 8 * EPS
    if not parts or value <= wide:
        return Floor(wide, width, lam, "T9", bias)
    return Floor(value, width, lam, parts[0].theorem, bias, tuple(parts))


def _part_floors(
    offsets: torch.Tensor, search: _Search, rows: np.ndarray, partners: np.ndarray | None, bar: tqdm
) -> Iterator[tuple[int, FloorPart]]:
    """The best bound of one part for each width, from the largest width down."""
    n, d = offsets.shape
    spectral = spectral_values(Activations(offsets), search.lam, search.widths, None)
    norms = torch.linalg.vector_norm(offsets, dim=1)
    points = _Points.of(offsets, search)
    inner = norms.clamp(max=search.lam)
    radial = float((inner * (norms - inner / 2)).mean()) * (1 - 8 * (n + d) * EPS)
    best = FloorPart(rows, partners, radial, "T9")
    start: dict[ZonalKernel, torch.Tensor] = {}
    for index in reversed(range(len(search.widths))):
        width = search.widths[index]
        if spectral[index] > best.value:
            best = FloorPart(rows, partners, spectral[index], "T10")
        if points is not None and width < len(points.live):
            budget = replace(search, deadline=_slice(search.deadline, index + 1))
            found = points.best(width, budget, start, best.value)
            if found is not None and found.value > best.value:
                best = replace(found, rows=rows, partners=partners)
        bar.update()
        yield width, best


# ---------------------------------------------------------------------- the search for weights


@dataclass(frozen=True)
class _Search:
    """What the search is asked for, and how long it may take."""

    lam: float
    widths: tuple[int, ...]
    kernels: tuple[ZonalKernel, ...]
    tol: float
    device: torch.device
    deadline: float
    seed: int


@dataclass(frozen=True)
class _Points:
    """The points longer than λ, in units of a power of two near their mean length; the others cost ½‖x‖² each."""

    live: torch.Tensor
    lengths: torch.Tensor
    directions: torch.Tensor
    lam: float
    scale: float
    short_costs: float
    total: int

    @classmethod
    def of(cls, offsets: torch.Tensor, search: _Search) -> _Points | None:
        norms = torch.linalg.vector_norm(offsets, dim=1)
        live = torch.nonzero(norms > search.lam)[:, 0]
        if len(live) == 0:
            return None
        scale = 2.0 ** round(math.log2(float(norms[live].mean())))
        short = torch.ones(len(norms), dtype=torch.bool)
        short[live] = False
        chosen = offsets[live].to(search.device) / scale
        lengths = torch.linalg.vector_norm(chosen, dim=1)
        return cls(
            live,
            lengths * (1 - (offsets.shape[1] + 8) * EPS),
            chosen / lengths[:, None],
            search.lam / scale,
            scale,
            float((norms[short] / scale).square().sum()) / 2,
            len(norms),
        )

    def best(
        self, width: int, search: _Search, start: dict[ZonalKernel, torch.Tensor], known: float
    ) -> FloorPart | None:
        """Optimise the kernel that looks best at its first weights, and evaluate it if it can beat what is known."""
        target = known / self.scale**2 * self.total - self.short_costs
        ascents = [
            _Ascent(self, kernel, width, search, start.get(kernel))
            for kernel in search.kernels
            if not (kernel.powers == (1,) and width >= self.directions.shape[1])
        ]
        if not ascents:
            return None
        ascent = max(ascents, key=lambda one: one.value)
        ascent.run(target)
        start[ascent.kernel] = ascent.best
        return self.evaluate(ascent.best, ascent.kernel, width) if ascent.value > target else None

    def evaluate(self, weights: torch.Tensor, kernel: ZonalKernel, width: int) -> FloorPart:
        """(6c) at the best multiple of these weights: float64, rounding subtracted."""
        limit = bound.share_limit(self.directions, weights, kernel, width)
        lower_ends = bound.shares(kernel).to(weights.device)
        costs = bound.least_costs(self.lengths, self.lam, kernel)
        best, factor = -math.inf, 1.0
        for trial in (*torch.logspace(-2, 2, 41, base=2.0).tolist(), 1.0):
            value = float(bound.inner_minimum(costs, lower_ends, trial * weights).values.sum()) - trial * limit
            if value > best:
                best, factor = value, trial
        slack = 8 * (self.total + self.directions.shape[1] + 8) * EPS * (best + 2 * factor * limit + self.short_costs)
        value = (best + self.short_costs - slack) / self.total * self.scale**2
        full = np.zeros(self.total)
        full[self.live.numpy()] = (factor * weights * self.scale**2).cpu().numpy()
        empty = np.zeros(0, dtype=int)
        return FloorPart(
            empty, None, value, kernel.theorem, kernel, full, factor * limit * self.scale**2 * (1 + 4 * EPS)
        )


class _Ascent:
    """Frank-Wolfe on the dual of (6c): ``min Σ_n Ψ_n**(q_n)`` over the shares that K features can have.

    Every set of weights w gives shares of the top eigenvectors, ``q(w)``, at which ``Σ w_n q_n`` is largest. The dual
    is minimised over the convex hull of the shares seen so far (exponentiated gradient), its slopes are the next
    weights, and the distance of dual and bound says how far the bound is from the best.
    """

    def __init__(
        self, points: _Points, kernel: ZonalKernel, width: int, search: _Search, start: torch.Tensor | None
    ) -> None:
        self.points, self.kernel, self.width, self.search = points, kernel, width, search
        self.costs = bound.least_costs(points.lengths, points.lam, kernel)
        self.lower_ends = bound.shares(kernel).to(points.lengths.device)
        self.replies = _Replies(points, kernel)
        self.oracle = _TopShares(points.directions, kernel, width, search.seed)
        self.value, self.dual = -math.inf, math.inf
        weights = points.lengths if start is None else start
        limit, share = self.oracle(weights)
        for factor in torch.logspace(-12, 4, 65, base=2.0).tolist() if start is None else (1.0,):
            self._offer(factor * weights, factor * limit)
        self.seen = share[None]
        self.mixture = torch.ones(1, dtype=torch.float64, device=share.device)

    def _offer(self, weights: torch.Tensor, limit: float) -> None:
        value = float(bound.inner_minimum(self.costs, self.lower_ends, weights).values.sum()) - limit
        if value > self.value:
            self.value, self.best = value, weights

    def run(self, target: float) -> None:
        """Improve the weights until the dual is within ``tol`` of the bound, or below ``target``, or time is up."""
        for _ in range(_ROUNDS):
            if time.monotonic() > self.search.deadline:
                break
            weights = self._mix()
            self.dual = min(self.dual, self._dual(weights))
            if self.dual <= max(target, self.value + self.search.tol * abs(self.dual)):
                break
            limit, share = self.oracle(weights)
            self._offer(weights, limit)
            self.seen = torch.cat([self.seen, share[None]])
            self.mixture = torch.cat([0.8 * self.mixture, self.mixture.new_tensor([0.2])])

    def _mix(self) -> torch.Tensor:
        """Minimise the dual over the mixtures of the shares seen; return the weights at the minimum."""
        scale = 2 * len(self.costs) / max(abs(self.value), 1e-300)
        for step in range(60 if len(self.seen) > 1 else 0):
            slopes = -(self.seen @ self.replies(self.mixture @ self.seen)) / len(self.costs) * scale
            self.mixture = self.mixture * torch.exp(-(slopes - slopes.min()) / (1 + step / 20))
            self.mixture = self.mixture / self.mixture.sum()
        least = float(self.points.lengths.min()) ** 2 * 1e-6
        return self.replies(self.mixture @ self.seen).clamp(min=least)

    def _dual(self, weights: torch.Tensor) -> float:
        inner = bound.inner_minimum(self.costs, self.lower_ends, weights).values
        return float((inner - weights * (self.mixture @ self.seen)).sum())


class _Replies:
    """Weights at which a datapoint's inner minimum is at a given share: minus the slope of Ψ**, tabulated by λ/‖x‖."""

    def __init__(self, points: _Points, kernel: ZonalKernel) -> None:
        device = points.lengths.device
        ratios = points.lam / points.lengths
        grid = torch.logspace(math.log2(float(ratios.min())), 0, 33, base=2.0, dtype=torch.float64, device=device)
        row = (ratios[:, None] / grid).log().abs().argmin(dim=1)
        self.square = points.lengths.square()
        self.weights = torch.logspace(-14, 17, 311, base=2.0, dtype=torch.float64, device=device)
        one = torch.ones(1, dtype=torch.float64, device=device)
        costs = torch.cat([bound.least_costs(one, float(ratio), kernel) for ratio in grid])
        ends = bound.shares(kernel).to(device)
        shares = torch.stack([ends[(costs + w * ends).argmin(dim=1)] for w in self.weights], dim=1)
        self.falling = -shares[row]  # rising in the weight, as searchsorted wants it

    def __call__(self, share: torch.Tensor) -> torch.Tensor:
        above = torch.searchsorted(self.falling, -share[:, None])[:, 0]
        right, left = above.clamp(max=len(self.weights) - 1), (above - 1).clamp(min=0)
        every = torch.arange(len(share), device=share.device)
        high, low = -self.falling[every, left], -self.falling[every, right]
        part = torch.where(high > low, (high - share) / (high - low).clamp(min=1e-12), 0).clamp(0, 1)
        weights = self.weights[left] + part * (self.weights[right] - self.weights[left])
        return torch.where(above == 0, 0.0, weights) * self.square


class _TopShares:
    """``Λ_K(w)`` and the shares of the top eigenvectors, near enough to search with.

    All eigenvectors in float64 for few points; a subspace iteration in float32 that starts where the last one ended
    for many.
    """

    def __init__(self, directions: torch.Tensor, kernel: ZonalKernel, width: int, seed: int) -> None:
        self.width, self.kernel = width, kernel
        self.dense = len(directions) <= _DENSE
        matrix = kernel(directions @ directions.T)
        self.matrix = matrix if self.dense else matrix.float()
        self.basis: torch.Tensor | None = None
        self.seed = seed

    def __call__(self, weights: torch.Tensor) -> tuple[float, torch.Tensor]:
        root = weights.to(self.matrix.dtype).sqrt()
        weighted = self.matrix * root[:, None] * root
        values, vectors = linalg.eigh(weighted) if self.dense else self._iterate(weighted)
        values, vectors = values.flip(0)[: self.width].clamp(min=0), vectors.flip(1)[:, : self.width]
        share = vectors.square().to(torch.float64) @ values.to(torch.float64) / weights.clamp(min=1e-300)
        return float(values.to(torch.float64).sum()), share.clamp(0, 1)

    def _iterate(self, weighted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rounds = 2
        if self.basis is None:
            rounds = 5
            generator = torch.Generator().manual_seed(self.seed)
            columns = min(len(weighted), int(1.1 * self.width) + 8)
            self.basis = torch.randn((len(weighted), columns), generator=generator).to(weighted.device)
        for _ in range(rounds):
            self.basis = _orthonormal(weighted @ self.basis)
        small = self.basis.T @ (weighted @ self.basis)
        values, rotation = linalg.eigh((small + small.T) / 2)
        self.basis = self.basis @ rotation
        return values, self.basis


def _orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of the columns: by Cholesky, which is fast, where they are far enough from dependent."""
    factor, failed = linalg.cholesky(columns.T @ columns)
    diagonal = factor.diagonal()
    if bool(failed) or float(diagonal.min()) < 1e-2 * float(diagonal.max()):
        return torch.linalg.qr(columns)[0]
    return torch.linalg.solve_triangular(factor.T, columns, upper=True, left=False)
