"""λ that means something: the largest one, a warm-started path, and the one that gives a wanted number of atoms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike
from tqdm import tqdm

from cvxsae.data import arguments
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.data.arguments import Bias
from cvxsae.data.arithmetic import own_arithmetic
from cvxsae.data.deadline import OutOfTime, until
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Run, Seeded, keywords
from cvxsae.parallel.group import group_of
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.correlation import FIXED_BIAS, largest_correlation
from cvxsae.solvers.codes.encode import decided_activity, encode_rows, relative_gap_asked
from cvxsae.solvers.codes.result import Codes

SEARCH_TOL = 1e-6
"""Relative gap to which the search for λ codes; what is undecided then is coded more exactly."""

LEAST_RATIO = 1e-6
"""λ/λ_max down to which is searched: below, codes are those of least squares."""

FIRST_RATIO = 0.3
"""λ/λ_max at which the search begins, where most data have a few active atoms."""

MOST_PENALTIES = 100_000
"""Penalties of a path that are chosen here: more than any path has, and few enough to list."""

LATE = "max_seconds passed before the largest λ was known, from which the others follow; raise it."
"""What is said where a pass over the data is more than there is time for."""

MOST_STEPS = 60
"""Bisections at most: they end long before, by ``rtol`` or because L0 jumps over the target."""

SAME = 1e-9
"""Relative difference of two penalties between which nothing is left to find."""


class SearchOptions(Seeded, total=False):
    """Options of :func:`lambda_for_l0`."""

    device: str | torch.device | None
    """Where to compute: ``"cpu"`` (default) or ``"cuda"``."""
    max_seconds: float | None
    """Wall-clock limit of the whole call; None for none."""


@own_arithmetic()
def lambda_max(
    X: ActivationsLike,
    dictionary: ArrayLike | torch.Tensor,
    *,
    bias: ArrayLike | torch.Tensor | None = None,
    weights: ArrayLike | torch.Tensor | None = None,
) -> float:
    """Return the smallest λ at which every code is zero, max_nk d_k·(x_n − b) over atoms scaled to norm 1.

    With weights it is max_nk d_k·(x_n − b)/w_k; a ridge does not change it. Zero if no atom has a positive correlation
    with any datapoint: then codes are zero for every λ > 0.

    Parameters
    ----------
    X
        Data (N, d), anything :class:`cvxsae.Activations` takes; if several processes share them, the answer is
        that of all.
    dictionary
        Atoms (K, d), rows of any non-zero norm.
    bias
        ``None`` (zero) or an array (d,).
    weights
        What each atom's code costs, in units of λ, (K,); None for 1.

    Examples
    --------
    >>> from cvxsae import lambda_max
    >>> lambda_max([[3.0, 4.0], [-3.0, -4.0]], dictionary=[[1.0, 0.0], [0.0, 2.0]])
    4.0
    """
    return max(0.0, _top(_problem(Activations(X), dictionary, bias, weights, None)))


def _problem(
    data: Activations,
    dictionary: ArrayLike | torch.Tensor,
    bias: ArrayLike | torch.Tensor | None,
    weights: ArrayLike | torch.Tensor | None,
    ridge: ArrayLike | torch.Tensor | None,
) -> SparseCodes:
    """At λ = 1, which stands for none yet."""
    vector = Bias.fixed(bias, data.shape[1], FIXED_BIAS).vector
    return SparseCodes(data, dictionary, 1.0, bias=vector, weights=weights, ridge=ridge)


def _top(problem: SparseCodes, run: Run | None = None) -> float:
    """λ_max of all processes; of one, within the limits of a run."""
    try:
        with until(run.last_moment) if run is not None and problem.group.is_alone else nullcontext():
            return max(problem.group.gather(largest_correlation(problem)))
    except OutOfTime as late:
        raise InputError(LATE) from late


def _at(problem: SparseCodes, lam: float) -> SparseCodes:
    at = replace(problem, lam=lam)
    assert isinstance(at, SparseCodes)
    return at


@keywords(Compute)
def code_path(
    X: ActivationsLike,
    dictionary: ArrayLike | torch.Tensor,
    lams: Sequence[float] | int = 10,
    *,
    bias: ArrayLike | torch.Tensor | None = None,
    weights: ArrayLike | torch.Tensor | None = None,
    ridge: ArrayLike | torch.Tensor | None = None,
    tol: float = 1e-4,
    smallest_ratio: float = 0.05,
    **options: Unpack[Compute],
) -> tuple[Codes, ...]:
    """Compute codes along a path of penalties, largest λ first; each starts from the previous one.

    Parameters
    ----------
    X, dictionary, bias, weights, ridge, tol
        As in :func:`cvxsae.encode`; weights and ridge are in units of λ, so what they charge falls along the path.
    lams
        Penalties, or how many to take, equally spaced in log λ from λ_max down to ``smallest_ratio`` · λ_max.
    smallest_ratio
        Above 0 and at most 1.
    device
        Where to compute; the CPU by default.
    max_seconds
        Stop after this time, for the whole path.
    progress
        Show a progress bar on stderr.

    Returns
    -------
    tuple of Codes
        For each λ from the largest to the smallest, each certified to ``tol``. After ``max_seconds`` or Ctrl-C the
        path ends early: codes of smaller λ are missing, and the last may have the status ``TIME_LIMIT`` or
        ``INTERRUPTED``.

    Raises
    ------
    InputError
        For arguments that cannot be used, and a ``max_seconds`` that passed before the path could be chosen.
    KeyboardInterrupt
        On Ctrl-C before that.
    """
    data = Activations(X)
    group = group_of(data)
    with group.guard():
        run = Run.start(options, Compute, group=group)
        problem = _problem(data, dictionary, bias, weights, ridge)
        tol = relative_gap_asked(tol)
        penalties = _penalties(problem, lams, smallest_ratio, run)
        group.agree(call="code_path", dictionary=problem.atoms, bias=problem.bias, tol=tol, lams=penalties)
        path: list[Codes] = []
        for lam in tqdm(penalties, disable=not run.progress, desc="code path", unit="λ"):
            warm = path[-1].codes if path else None
            path.append(encode_rows(_at(problem, lam), replace(run, progress=False), tol=tol, warm=warm))
            if run.is_late or path[-1].status is Status.INTERRUPTED:
                break
    return tuple(path)


def _penalties(problem: SparseCodes, lams: Any, smallest_ratio: float, run: Run) -> list[float]:
    """From the largest to the smallest."""
    if not isinstance(lams, int | np.integer):
        return sorted(arguments.each(lams, "lams", arguments.penalty), reverse=True)
    count, ratio = (
        arguments.count(lams, "lams", most=MOST_PENALTIES),
        arguments.positive(smallest_ratio, "smallest_ratio"),
    )
    if ratio > 1:
        raise InputError(f"smallest_ratio is {ratio:g}; pass a number above 0 and at most 1.")
    top = _top(problem, run)
    if top <= 0:
        raise InputError("lams is a number of penalties but no atom has a positive correlation with X; pass them.")
    return [float(lam) for lam in top * np.geomspace(1.0, ratio, count)]


@keywords(SearchOptions)
def lambda_for_l0(
    X: ActivationsLike,
    dictionary: ArrayLike | torch.Tensor,
    l0: float,
    *,
    bias: ArrayLike | torch.Tensor | None = None,
    weights: ArrayLike | torch.Tensor | None = None,
    ridge: ArrayLike | torch.Tensor | None = None,
    rtol: float = 0.02,
    max_points: int | None = 4096,
    **options: Unpack[SearchOptions],
) -> float:
    """Return a λ whose exact codes have about ``l0`` active atoms per datapoint.

    Bisection in log λ from λ_max down, every step warm-started and certified to 1e-6, on at most ``max_points``
    datapoints drawn at random (in each process). The L0 of the λ returned is that of the optimum as far as it can be
    decided (:attr:`Codes.activity <cvxsae.results.Codes.activity>`), whatever the tolerance.

    Parameters
    ----------
    X, dictionary, bias, weights, ridge
        As in :func:`cvxsae.encode`.
    l0
        Mean number of active atoms wanted.
    rtol
        Relative difference from ``l0`` that is accepted.
    max_points
        None for all.
    seed
        Of the datapoints drawn.
    device
        Where to compute; the CPU by default.
    max_seconds
        Give up after this time.

    Raises
    ------
    InputError
        If no λ down to 1e-6 · λ_max reaches the target (K, d or the data allow no more), if L0 jumps over it, or if
        time ran out: a number could not say so. The sentence has the penalties nearest to the target.
    KeyboardInterrupt
        On Ctrl-C.
    """
    data = Activations(X)
    group = group_of(data)
    with group.guard():
        run = Run.start(options, SearchOptions, group=group)
        target, rtol = arguments.positive(l0, "l0"), arguments.nonnegative(rtol, "rtol")
        if max_points is not None and len(data) > (most := arguments.count(max_points, "max_points")):
            chosen = np.random.default_rng(run.seed).choice(len(data), size=most, replace=False)
            data = Activations(data[np.sort(chosen)], group=data.group)
        problem = _problem(data, dictionary, bias, weights, ridge)
        group.agree(call="lambda_for_l0", dictionary=problem.atoms, bias=problem.bias, l0=target, rtol=rtol)
        return search_lambda(problem, target, rtol, run.inner()).found(target)


@dataclass(frozen=True)
class LambdaSearch:
    """Where a search for λ ended.

    Attributes
    ----------
    lam, l0
        The last penalty tried and its mean number of active atoms.
    is_close
        Whether that is close enough to the target.
    above, below
        The same of the nearest penalties known to give too few and too many; None where none is.
    is_late
        Whether time ran out.
    """

    lam: float
    l0: float
    is_close: bool
    above: tuple[float, float] | None
    below: tuple[float, float] | None
    is_late: bool

    def found(self, target: float) -> float:
        """The penalty, or the reason why there is none."""
        if self.is_close:
            return self.lam
        ends = " and ".join(f"λ = {lam:.6g} gives {l0:.4g}" for lam, l0 in filter(None, (self.above, self.below)))
        if self.is_late:
            known = f"; {ends}" if ends else ""
            raise InputError(f"max_seconds passed before a λ with l0 = {target:g} was found{known}; raise it.")
        raise InputError(f"l0 is {target:g} active atoms but L0 jumps over it: {ends}; pass one of these or rtol.")


def search_lambda(problem: SparseCodes, target: float, rtol: float, run: Run) -> LambdaSearch:
    """:func:`lambda_for_l0` for arguments that have been checked; where L0 jumps or time runs out, the nearest."""
    top = _top(problem, run)
    if top <= 0:
        raise InputError(
            "X has no positive correlation with any atom, so all codes are zero; check bias and dictionary."
        )
    lam, l0, codes = FIRST_RATIO * top, 0.0, None
    above, below, is_close, is_late = None, None, False, False
    for _ in range(MOST_STEPS):
        at = _at(problem, lam)
        codes = encode_rows(at, run, tol=SEARCH_TOL, warm=None if codes is None else codes.codes)
        if is_late := codes.status is Status.TIME_LIMIT:
            break
        l0 = at.group.total(decided_activity(at, codes.codes, run).l0 * at.n_points) / at.total_points
        if is_close := abs(l0 - target) <= rtol * target:
            break
        if l0 < target:
            above = (lam, l0)
        else:
            below = (lam, l0)
        high, low = top if above is None else above[0], LEAST_RATIO * top if below is None else below[0]
        if high / low < 1 + SAME:
            break
        lam = max(low, lam / 2) if below is None else math.sqrt(high * low)
    if not (is_close or is_late or below):
        raise InputError(
            f"l0 is {target:g} active atoms but λ = {LEAST_RATIO:g} · λ_max gives {l0:.4g}; lower l0 or widen the "
            "dictionary."
        )
    return LambdaSearch(lam, l0, is_close, above, below, is_late)
