"""Fewer atoms: those go whose datapoints can answer without them, and a path to small penalties made of it."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from cvxsae.data import arguments
from cvxsae.data.arguments import InputError
from cvxsae.parallel.context import Run
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.encode import encode_rows
from cvxsae.solvers.dictionary.learn import learn_dictionary
from cvxsae.solvers.dictionary.removal import cheapest_apart, removal_prices
from cvxsae.solvers.dictionary.reseed import reseeded
from cvxsae.solvers.dictionary.result import DictionaryFit
from cvxsae.solvers.dictionary.sample import sample_rows
from cvxsae.solvers.dictionary.start import FILL_TOL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float64

    from cvxsae.data.activations import ActivationsLike
    from cvxsae.data.arguments import BiasLike
    from cvxsae.relaxations.joint.joint import JointProblem

SURPLUS = 1.2
"""Atoms that :func:`penalty_path` learns with, over those it is asked for."""

RESEED_STEPS = 60
"""Descent steps between two rounds of reseeding."""

ON_THE_WAY = 1e-2
"""Stationarity of the fits that a path only passes through."""


def shrink(
    fit: DictionaryFit,
    n_atoms: int,
    *,
    seed: int | None = None,
    tol: float | None = None,
    max_seconds: float | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    second_order: bool = False,
) -> DictionaryFit:
    """Continue a fit at a smaller width: the atoms go whose removal costs least, then all are learned.

    The counterpart of :func:`cvxsae.grow`. Prices let other codes answer (:func:`removal_prices`), so duplicates and
    mixtures go first. Atoms go in rounds, half of what is too many at a time, with exact codes between them. It is
    certified like any other (:class:`DictionaryFit`); that no other choice of atoms would have been better is not.

    Parameters
    ----------
    fit
        What :func:`cvxsae.learn_dictionary`, :func:`cvxsae.grow` or this returned.
    n_atoms
        The new width, smaller than ``fit.n_atoms``.
    seed, tol
        Those of the fit, unless given.
    max_seconds, device, progress, second_order
        As in :func:`cvxsae.learn_dictionary`.

    Raises
    ------
    InputError
        If the width is not smaller, or another argument cannot be used.
    """
    if not isinstance(fit, DictionaryFit):
        raise InputError(f"fit is a {type(fit).__name__}; pass what learn_dictionary returned.")
    width = arguments.count(n_atoms, "n_atoms")
    if width >= fit.n_atoms:
        raise InputError(f"n_atoms is {width} but the fit has {fit.n_atoms} atoms; pass a smaller width.")
    where = arguments.compute_device(device)
    started = time.perf_counter()
    kept = without_cheapest(fit.problem, fit.dictionary, fit.bias, width, where)
    left = None if max_seconds is None else max(max_seconds - (time.perf_counter() - started), 1e-3)
    return learn_dictionary(
        fit.problem.X, width, fit.lam, bias=fit.problem.bias, seed=fit.seed if seed is None else seed,
        tol=fit.tol if tol is None else tol, max_seconds=left, device=device, progress=progress,
        init=(kept, fit.bias), second_order=second_order,
    )  # fmt: skip


def without_cheapest(
    problem: JointProblem, dictionary: Float64[np.ndarray, "K d"], bias: Float64[np.ndarray, " d"], width: int,
    device: torch.device,
) -> Float64[np.ndarray, "k d"]:  # fmt: skip
    """The ``width`` atoms that are left when those go, round by round, whose removal costs least."""
    rows = sample_rows(problem.n_points, problem.dim)
    data = problem.X if len(rows) == problem.n_points else problem.X[rows]
    points = data.to_numpy() - bias
    while len(dictionary) > width:
        here = SparseCodes.of_unit_rows(data, torch.from_numpy(dictionary), problem.lam, torch.from_numpy(bias))
        codes = encode_rows(here, Run(device=device, is_outermost=False), tol=FILL_TOL).codes
        prices = removal_prices(points, dictionary, codes, problem.lam)
        surplus = len(dictionary) - width
        gone = cheapest_apart(prices, dictionary, -(-surplus // 2))
        dictionary = np.delete(dictionary, gone, axis=0)
    return dictionary


def penalty_path(
    X: ActivationsLike,
    n_atoms: int,
    lams: Sequence[float],
    *,
    bias: BiasLike = "free",
    surplus: float = SURPLUS,
    reseeds: int = 0,
    seed: int = 0,
    tol: float = 1e-4,
    max_seconds: float | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> tuple[DictionaryFit, ...]:
    """Follow the joint optimum from a large penalty to a small one, with more atoms than asked for until the last.

    The landscape of F(D, b) has fewer poor minima where λ is large and where atoms are plenty, but the optimum there is
    not that of a small λ and a given width. So every fit starts from the one before; all but the last have
    ``⌈surplus · n_atoms⌉`` atoms; at the last penalty but one the cheapest of them are removed (:func:`cvxsae.shrink`),
    and the last is learned at ``n_atoms``. Where datapoints are few for an atom, ``reseeds`` is the stronger lever: at
    the first penalty, atoms that memorise a few datapoints are replaced again and again (:mod:`reseed`).

    Parameters
    ----------
    X
        Datapoints, (N, d), as in :func:`cvxsae.learn_dictionary`.
    n_atoms
        Width K of the last fits.
    lams
        Penalties, falling.
    bias, seed, device, progress
        As in :func:`cvxsae.learn_dictionary`.
    surplus
        How many times K atoms to learn with, 1 or more. 1 is a plain warm-started path.
    reseeds
        Rounds of :data:`RESEED_STEPS` steps at the first penalty, between which weakly supported atoms are replaced.
        The round with the lowest value is gone on from.
    tol
        Stationarity of the last fit; those on the way go to a hundredth at best.
    max_seconds
        For the whole path, shared out evenly over what is left of it.

    Returns
    -------
    tuple[DictionaryFit, ...]
        One fit per penalty, in their order, each with its own certificate; with a surplus and two penalties or
        more, the shrunk fit at the last penalty but one stands before the last.

    Raises
    ------
    InputError
        For penalties that do not fall, and arguments that cannot be used.
    """
    penalties = [arguments.penalty(lam, "lams") for lam in lams]
    if not penalties or any(low >= high for high, low in pairwise(penalties)):
        raise InputError(f"lams are {list(lams)}; pass at least one penalty, each smaller than the one before.")
    width = arguments.count(n_atoms, "n_atoms")
    if not (math.isfinite(surplus) and surplus >= 1):
        raise InputError(f"surplus is {surplus:g}; pass how many times n_atoms to learn with, 1 or more.")
    tol = arguments.positive(tol, "tol")
    wide = math.ceil(surplus * width)
    clock = _Clock(max_seconds, len(penalties) + (wide > width) + reseeds)
    on_the_way = max(tol, ON_THE_WAY)
    fits: list[DictionaryFit] = []
    start = None
    if reseeds:
        first = wide if len(penalties) > 1 else width
        start = _reseed(X, first, penalties[0], bias, arguments.count(reseeds, "reseeds"), seed, clock, device)
    for lam in penalties[:-1]:
        fits.append(
            learn_dictionary(
                X,
                wide,
                lam,
                bias=bias,
                seed=seed,
                tol=on_the_way,
                max_seconds=clock.share(),
                device=device,
                progress=progress,
                init=fits[-1] if fits else start,
            )
        )
        _go_on(fits[-1])
    if fits and wide > width:
        fits.append(
            shrink(fits[-1], width, tol=on_the_way, max_seconds=clock.share(), device=device, progress=progress)
        )
        _go_on(fits[-1])
    fits.append(
        learn_dictionary(
            X,
            width,
            penalties[-1],
            bias=bias,
            seed=seed,
            tol=tol,
            max_seconds=clock.share(),
            device=device,
            progress=progress,
            init=fits[-1] if fits else start,
        )
    )
    return tuple(fits)


def _go_on(fit: DictionaryFit) -> None:
    """Pass on a Ctrl-C that a fit on the way took for its own: there is none yet at the last penalty and width."""
    if fit.status is Status.INTERRUPTED:
        raise KeyboardInterrupt


def _reseed(
    X: ActivationsLike, width: int, lam: float, bias: BiasLike, rounds: int, seed: int, clock: _Clock,
    device: str | torch.device | None,
) -> DictionaryFit:  # fmt: skip
    """Learn for a while and replace the atoms that memorise, so many times: the best of the rounds."""
    best: DictionaryFit | None = None
    start = None
    for turn in range(rounds):
        fit = learn_dictionary(
            X, width, lam, bias=bias, seed=seed, tol=ON_THE_WAY, max_seconds=clock.share(), max_steps=RESEED_STEPS,
            device=device, init=start, moves=False, epochs=0,
        )  # fmt: skip
        _go_on(fit)
        if best is None or fit.value < best.value:
            best = fit
        rows = sample_rows(fit.problem.n_points, fit.problem.dim)
        points = fit.problem.X[rows].to_numpy() - fit.bias
        start = (reseeded(points, fit.dictionary, fit.codes.codes[rows], seed + turn), fit.bias)
    assert best is not None
    return best


class _Clock:
    """Shares what is left of a time limit over what is left to do."""

    def __init__(self, max_seconds: float | None, stages: int) -> None:
        self.limit = None if max_seconds is None else arguments.positive(max_seconds, "max_seconds")
        self.started, self.stages = time.perf_counter(), stages

    def share(self) -> float | None:
        """Seconds for the next stage."""
        self.stages -= 1
        if self.limit is None:
            return None
        left = self.limit - (time.perf_counter() - self.started)
        return max(left / (self.stages + 1), 1e-3)
