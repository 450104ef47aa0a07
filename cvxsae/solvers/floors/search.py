"""The best width floor that a kernel gives: a concave maximization over the weights of the datapoints (T14, T15)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypedDict, TypeVar, Unpack, overload

import numpy as np
import torch
from jaxtyping import Float, Int64
from tqdm.auto import tqdm

from cvxsae.data import arguments
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.data.arguments import BiasLike
from cvxsae.data.deadline import OutOfTime, until
from cvxsae.data.sources import rows_in_turn
from cvxsae.data.storage import fingerprint
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Run, Seeded, keywords
from cvxsae.parallel.group import all_rows
from cvxsae.parallel.threads import interruptible, library_threads, threads_for
from cvxsae.relaxations import linalg
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.floors import kernels as bound
from cvxsae.relaxations.floors.floor import Floor, FloorPart
from cvxsae.relaxations.floors.kernels import KernelLike, ZonalKernel
from cvxsae.relaxations.floors.spectral import spectral_values
from cvxsae.relaxations.floors.square_features import n_features
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.linalg import EPS
from cvxsae.relaxations.solution import Solution
from cvxsae.solvers.convex.driver import iterate
from cvxsae.solvers.convex.wide_newton import WideLimitNewton
from cvxsae.solvers.floors.ascent import FrankWolfe, LivePoints

Found = TypeVar("Found")

MAX_POINTS = 6000
"""Most datapoints (pairs, with a free bias) in one part: its kernel matrix takes 0.3 GB in float64."""

MAX_NUMBERS = 2**26
"""Most numbers in one part whose kernel t² is worked on through its features: half a gigabyte in float64."""

PAIRED_AT_ONCE = 1000
"""Pairs among which partners are chosen where a limit on time could pass meanwhile: a second.

Without one, up to 6,000 are: ten seconds for two thousand, and pairs that are two percent longer.
"""

WIDE_TOL = 1e-9
"""Relative gap of the wide limit that a floor is compared with: far below any difference that is reported."""


WIDE_SHARE = 0.25
"""Share of the time left that it may take."""


class FloorSizes(TypedDict, total=False):
    """How large the parts of a floor may be, for other verbs that compute one."""

    max_points: int | None
    """Most points in one part, as in :func:`width_floor`."""
    max_dim: int | None
    """Directions that points are projected on first, as in :func:`width_floor`."""


class FloorOptions(Compute, Seeded, total=False):
    """How :func:`width_floor` runs."""


@dataclass(frozen=True, kw_only=True)
class FloorSearch:
    """What a floor is searched with: the keywords of :func:`width_floor` that say what the bound is built from."""

    kernels: tuple[ZonalKernel, ...]
    max_points: int | None = None
    tol: float = 1e-3
    max_dim: int | None = None

    @classmethod
    def of(
        cls,
        kernels: Any = (1, 2, 3),
        max_points: int | None = None,
        tol: float = 1e-3,
        max_dim: int | None = None,
    ) -> FloorSearch:
        """Check the arguments."""
        return cls(
            kernels=arguments.each(kernels, "kernels", lambda one, _: bound.kernel(one)),
            max_points=None if max_points is None else arguments.count(max_points, "max_points"),
            tol=arguments.positive(tol, "tol"),
            max_dim=None if max_dim is None else arguments.count(max_dim, "max_dim"),
        )

    def points_at_once(self, dim: int) -> int:
        """Most points in one part: what was asked for, else what takes seconds of eigenvalues.

        Through the features of t² that is any number in few dimensions; other kernels are then left out.
        """
        if self.max_points is not None:
            return self.max_points
        dim = min(dim, self.max_dim or dim)
        few = n_features(dim) <= FrankWolfe.most_features // 2 and any(one.is_square for one in self.kernels)
        return max(MAX_POINTS, MAX_NUMBERS // dim) if few else MAX_POINTS

    def projection(self, points: Float[torch.Tensor, "n d"]) -> Float[torch.Tensor, "d r"] | None:
        """Orthonormal directions in which the points are longest, ``max_dim`` of them; None where there are no more."""
        if self.max_dim is None or points.shape[1] <= self.max_dim:
            return None
        vectors = linalg.eigh(points.T @ points)[1]
        return torch.linalg.qr(vectors.flip(1)[:, : self.max_dim])[0]

    def require_parity(self) -> None:
        """Refuse kernels that are of no use for pairs of datapoints."""
        for one in self.kernels:
            if not one.one_parity:
                raise InputError(f"kernels holds {one}, but with a free bias powers must be all even or all odd.")


@overload
def width_floor(
    X: ActivationsLike,
    widths: int,
    lam: float,
    *,
    bias: BiasLike = "free",
    kernels: Sequence[KernelLike] = (1, 2, 3),
    max_points: int | None = None,
    tol: float = 1e-3,
    max_dim: int | None = None,
    **options: Unpack[FloorOptions],
) -> Floor: ...
@overload
def width_floor(
    X: ActivationsLike,
    widths: Sequence[int],
    lam: float,
    *,
    bias: BiasLike = "free",
    kernels: Sequence[KernelLike] = (1, 2, 3),
    max_points: int | None = None,
    tol: float = 1e-3,
    max_dim: int | None = None,
    **options: Unpack[FloorOptions],
) -> tuple[Floor, ...]: ...


@keywords(FloorOptions)
def width_floor(
    X: ActivationsLike,
    widths: int | Sequence[int],
    lam: float,
    *,
    bias: BiasLike = "free",
    kernels: Sequence[KernelLike] = (1, 2, 3),
    max_points: int | None = None,
    tol: float = 1e-3,
    max_dim: int | None = None,
    **options: Unpack[FloorOptions],
) -> Floor | tuple[Floor, ...]:
    """Prove a lower bound on F(D, b) for every dictionary D of K unit-norm atoms: the best of T9, T10, T14 and T15.

    T14 and T15 give each datapoint a share ``q_n = ‖Πψ(v_n)‖²`` in the span of the atoms' features, of which there is
    only so much: ``Σ_n w_n q_n ≤ Λ_K(w)``, the sum of the K largest eigenvalues of ``[√w_n k(v_n·v_m) √w_m]``. So

        ``F(D, b) ≥ (1/N) [ Σ_n min_{0≤q≤1} ( Ψ_n(q) + w_n q ) − Λ_K(w) ]``                                  (6c)

    with ``Ψ_n(q)`` the least φ(x_n) can be at share q: ``h_{λ/c}(‖x_n − b‖)`` at ``k(c)² = q`` (T14), and a sharper
    function for k(t) = t² (T15). The right-hand side is concave in w; Frank-Wolfe on its dual maximizes it within
    ``tol``. The weights found are then evaluated once in float64, intervals bounded at their safe end and rounding
    subtracted, so the bound holds as printed however the search went.

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.Activations` accepts.
    widths
        Width K, or several widths: one split of the data serves all, and each width starts from its neighbor.
    lam
        Penalty λ > 0.
    bias
        ``"free"``: for every bias; datapoints are paired, so the bound is weaker than at the best bias. None (zero) or
        an array (d,): the bound is for this bias alone.
    kernels
        Powers p (``k(t) = t^p``), mixtures ``{p: c_p}`` or :class:`~cvxsae.relaxations.floors.kernels.ZonalKernel`; the
        most promising for each width is optimized. With a free bias the powers of a mixture must be all even or odd.
    max_points
        Most points in one part. More datapoints are split at random into equal parts, and the bound is the mean of
        theirs: weaker, but memory and time grow as N rather than N² and N³. Default 6000; in up to 76 dimensions, where
        the kernel t² has few features, 67 million numbers, in time that grows as N. Parts of more than 8000 points in
        more dimensions are for t² alone, take memory that grows as N and time as N², and their bound holds except for a
        probability of 1e-12 over ``seed`` (``failure_probability``).
    tol
        Relative distance, to the best bound of this kernel and these directions, at which the search stops.
    max_dim
        Project the datapoints of a part on so many directions first, those in which they are longest. What sticks out
        is left out, which lowers the bound, so it holds as it is; in up to 76 dimensions a part may then be large.
        Default: no projection.
    options
        ``device``, ``max_seconds``, ``progress`` and ``seed`` (of the split into parts and pairs, and of the subspace
        iteration). The last evaluation of each part is always made, however short the time. The same seed gives the
        same floor on a machine that keeps its measurement of products (:func:`~cvxsae.encode`), which decides in what
        precision large parts are searched.

    Returns
    -------
    Floor or tuple of Floor
        ``value`` is in units of (P), mean per datapoint; ``parts`` hold what proves it, and
        :func:`~cvxsae.certify` checks that. Of several widths a tuple in their order, values never rising with K: a
        bound for K atoms holds for fewer.

    Raises
    ------
    InputError
        For arguments that cannot be used.
    KeyboardInterrupt
        On Ctrl-C: part of a floor proves nothing.
    """
    run = Run.start(options, FloorOptions)
    search = FloorSearch.of(kernels, max_points, tol, max_dim)
    is_one = not isinstance(widths, Iterable) or not getattr(widths, "ndim", 1)
    chosen = arguments.each((widths,) if is_one else widths, "widths", arguments.count)
    data = all_rows(X)
    floors = find_floors([JointProblem(data, width, lam, bias=bias) for width in chosen], search, run)
    return floors[0] if is_one else floors


def find_floors(
    problems: Sequence[JointProblem], search: FloorSearch, run: Run, limit: Solution | None = None
) -> tuple[Floor, ...]:
    """The floors of joint problems that differ in their width alone, in the order given.

    ``limit`` is their wide limit, if it has been solved. An interrupt passes through.
    """
    problem = problems[0]
    activations, shift = problem.X, None if problem.bias_is_free else problem.fixed_bias()
    if shift is None:
        search.require_parity()
    widths = tuple(sorted({one.n_atoms for one in problems}))
    groups = _groups(activations, shift is None, search.points_at_once(problem.dim), run.seed)
    wide = _wide_value(problem, limit, run)
    parts: list[dict[int, FloorPart]] = []
    points = rows_in_turn(activations, [side for group in groups for side in group if side is not None])
    with tqdm(total=len(groups) * len(widths), disable=not run.progress, desc="width floor", unit="width") as bar:
        for index, (rows, partners) in enumerate(groups):
            offsets = next(points)
            if partners is not None:
                others = next(points)
                order = _far_apart(offsets, others, run)
                partners, offsets = partners[order], (offsets - others[torch.from_numpy(order)]) / 2
            elif shift is not None:
                offsets = offsets - shift
            basis = search.projection(offsets)
            lost = 0.0
            if basis is not None:  # what is added to a point, times its length, bounds what it adds to its cost
                lost = _lengthening(basis) * float(offsets.square().sum()) / len(offsets)
                offsets = offsets @ basis
            part = _Part(
                offsets, problem.lam, widths, search, run.inner(share=1 / (len(groups) - index)), bar.set_postfix_str
            )
            found: dict[int, FloorPart] = {}
            # Threads only wait for each other in small eigenvalue problems.
            with library_threads(1 if len(rows) <= FrankWolfe.dense else None):
                for width, best in part.floors():
                    axes = None if basis is None else basis.numpy()
                    found[width] = replace(
                        best, rows=rows, partners=partners, value=max(best.value - lost, 0.0), projection=axes
                    )
                    bar.update()
            parts.append(found)
    mark = fingerprint(activations)
    return tuple(_combine(one, [part[one.n_atoms] for part in parts], wide, mark) for one in problems)


# ---------------------------------------------------------------------- parts of the data


def _groups(activations: Activations, paired: bool, most: int, seed: int) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Random parts of at most ``most`` datapoints, or of that many pairs of datapoints."""
    order = np.random.default_rng(seed).permutation(len(activations))
    count = len(order) // 2 if paired else len(order)
    parts = [part for part in np.array_split(np.arange(count), max(1, math.ceil(count / most))) if len(part)]
    if paired:
        return [(order[2 * part], order[2 * part + 1]) for part in parts]
    return [(np.sort(order[part]), None) for part in parts]


def _far_apart(
    first: Float[torch.Tensor, "n d"], second: Float[torch.Tensor, "n d"], run: Run
) -> Int64[np.ndarray, " n"]:
    """The order of the second in which partners lie far from each other; past the deadline, as they come."""
    from scipy.optimize import linear_sum_assignment

    order = np.arange(len(second))
    at_once = PAIRED_AT_ONCE if math.isfinite(run.deadline) else MAX_POINTS
    for start in range(0, len(first), at_once):
        if run.is_late:
            break
        part = slice(start, start + at_once)
        distances = torch.cdist(first[part], second[part]).numpy()
        matched = interruptible(partial(linear_sum_assignment, distances, maximize=True))
        order[part] = order[part][matched[1]]
    return order


def _lengthening(basis: Float[torch.Tensor, "d r"]) -> float:
    """What a product with a nearly orthonormal basis can add to a point, as a share of its length.

    The basis is at most ``1 + ‖BᵀB − I‖/2`` times one that lengthens no vector (``floors_proofs.md``, Lemma 5);
    rounding adds ``d√r ε/2``, and ``dr ε/4`` to the former as it is computed.
    """
    d, r = basis.shape
    excess = basis.T @ basis
    excess.diagonal().sub_(1)
    return float(torch.linalg.matrix_norm(excess)) + d * r * EPS


@dataclass(frozen=True)
class _Part:
    """The points of one part, and what is asked about them."""

    offsets: torch.Tensor
    lam: float
    widths: tuple[int, ...]
    search: FloorSearch
    run: Run
    tell: Callable[[str], None]

    def floors(self) -> Iterator[tuple[int, FloorPart]]:
        """The best bound for each width, from the largest width down; rows and partners are left to the caller."""
        n, d = self.offsets.shape
        none = np.zeros(0, dtype=int)
        norms = torch.linalg.vector_norm(self.offsets, dim=1)
        points = LivePoints.of(self.offsets, self.lam, self.run.device)
        inner = norms.clamp(max=self.lam)
        radial = float((inner * (norms - inner / 2)).mean()) * (1 - 8 * (n + d) * EPS)
        best = FloorPart(none, None, radial, "T9")
        if self.run.is_late:
            yield from ((width, best) for width in reversed(self.widths))
            return
        spectral = self._or_none(lambda: spectral_values(Activations(self.offsets), self.lam, self.widths, None))
        start: dict[ZonalKernel, torch.Tensor] = {}
        for index in reversed(range(len(self.widths))):
            width = self.widths[index]
            if spectral is not None and spectral[index] > best.value:
                best = FloorPart(none, None, spectral[index], "T10")
            if points is not None and width < len(points.live) and not self.run.is_late:
                deadline = self.run.inner(share=1 / (index + 1)).deadline
                frank_wolfe = FrankWolfe(tol=self.search.tol, deadline=deadline, seed=self.run.seed, tell=self.tell)
                searched = partial(points.best, width, self.search.kernels, frank_wolfe, start, best.value)
                found = self._or_none(searched)
                if found is not None and found.value > best.value:
                    best = found
            yield width, best

    def _or_none(self, proved: Callable[[], Found | None]) -> Found | None:
        """What is proved in time, else None."""
        try:
            with until(self.run.last_moment):
                return proved()
        except OutOfTime:
            return None


def solved_wide_limit(problem: WideLimit, tol: float, run: Run, *, share: float = 1.0) -> Solution:
    """The wide limit (T9) inside another call, in a share of its time: interrupts pass through.

    Where time is limited and the data are large, the solution is the bias alone, which determines the rest.
    """
    with threads_for(problem):
        newton = WideLimitNewton(is_bare=math.isfinite(run.deadline))
        return iterate(newton, problem, tol, run.inner(share=share))


def _wide_value(problem: JointProblem, limit: Solution | None, run: Run) -> float:
    """The wide limit's lower bound, which every floor reaches at least."""
    wide = WideLimit(problem.X, problem.lam, bias=problem.bias)
    bound = (limit or solved_wide_limit(wide, WIDE_TOL, run, share=WIDE_SHARE)).lower_bound
    return max(0.0, bound * (1 - 8 * (wide.n_points + wide.dim) * EPS))


def _combine(problem: JointProblem, parts: list[FloorPart], wide: float, mark: str) -> Floor:
    """The mean over parts, or the wide limit if that is higher."""
    total = math.fsum((len(part.rows) * (1 if part.partners is None else 2)) * part.value for part in parts)
    value = total / problem.n_points * (1 - 8 * EPS)
    if not parts or value <= wide:
        return Floor(problem, wide, "T9", fingerprint=mark)
    return Floor(problem, value, parts[0].theorem, tuple(parts), mark)
