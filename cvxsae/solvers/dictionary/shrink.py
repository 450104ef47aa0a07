"""Fewer atoms: those go whose datapoints can answer without them, and a path to small penalties made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Unpack

import numpy as np
import torch
from jaxtyping import Float64

from cvxsae.data import arguments
from cvxsae.data.activations import ActivationsLike
from cvxsae.data.arguments import BiasLike
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Run, Seeded, keywords
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.encode import encode_rows
from cvxsae.solvers.dictionary.learn import LearnOptions, Settings, learn, width_of
from cvxsae.solvers.dictionary.removal import cheapest_apart, removal_prices
from cvxsae.solvers.dictionary.reseed import reseeded
from cvxsae.solvers.dictionary.result import DictionaryFit
from cvxsae.solvers.dictionary.sample import sample_rows
from cvxsae.solvers.dictionary.start import FILL_TOL, Given

SURPLUS = 1.2
"""Atoms that :func:`dictionary_path` learns with, over those it is asked for."""

RESEED_STEPS = 60
"""Descent steps between two rounds of reseeding."""

REMOVAL_SHARE = 0.5
"""Share of the time left that choosing the atoms to remove may take."""

ON_THE_WAY = 1e-2
"""Stationarity of the fits that a path only passes through."""


@keywords(LearnOptions)
def shrink(
    fit: DictionaryFit,
    n_atoms: int,
    *,
    stationarity: float | None = None,
    second_order: bool = False,
    **options: Unpack[LearnOptions],
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
    stationarity, seed
        Those of the fit, unless given.
    second_order, max_seconds, max_steps, device, progress, callback, folder
        As in :func:`cvxsae.learn_dictionary`.

    Raises
    ------
    InputError
        If the width is not smaller, or another argument cannot be used.
    """
    width = width_of(fit, n_atoms)
    if width >= fit.n_atoms:
        raise InputError(f"n_atoms is {width} but the fit has {fit.n_atoms} atoms; pass a smaller width.")
    if not fit.problem.group.is_alone:
        raise InputError("fit is of datapoints that several processes share; shrink takes those of one process.")
    options.setdefault("seed", fit.seed)
    run = Run.start(options, LearnOptions)
    target = fit.stationarity_target if stationarity is None else arguments.positive(stationarity, "stationarity")
    return shrunk(fit, width, Settings(target, second_order=second_order), run)


def shrunk(fit: DictionaryFit, width: int, settings: Settings, run: Run) -> DictionaryFit:
    """:func:`shrink` with arguments that have been checked."""
    kept = without_cheapest(fit, width, run.inner(share=REMOVAL_SHARE))
    problem = JointProblem(fit.problem.X, width, fit.lam, bias=fit.problem.bias)
    return learn(problem, replace(settings, start=Given.of((kept, fit.bias), problem)), run)


def without_cheapest(fit: DictionaryFit, width: int, run: Run) -> Float64[np.ndarray, "k d"]:
    """The ``width`` atoms that are left when those go, round by round, whose removal costs least.

    Past the deadline those with the largest codes stay.
    """
    problem, dictionary = fit.problem, fit.dictionary
    rows = sample_rows(problem.n_points, problem.dim)
    data = problem.X if len(rows) == problem.n_points else problem.X[rows]
    points, bias = data.to_numpy() - fit.bias, torch.from_numpy(fit.bias)
    while len(dictionary) > width:
        at = SparseCodes.of_unit_rows(data, torch.from_numpy(dictionary), problem.lam, bias)
        coded = encode_rows(at, run, tol=FILL_TOL)
        if coded.status is Status.TIME_LIMIT:
            squares = np.asarray((fit.codes * fit.codes).sum(axis=0)).ravel()
            return fit.dictionary[np.sort(np.argsort(-squares, kind="stable")[:width])]
        prices = removal_prices(points, dictionary, coded.codes, problem.lam)
        surplus = len(dictionary) - width
        gone = cheapest_apart(prices, dictionary, -(-surplus // 2))
        dictionary = np.delete(dictionary, gone, axis=0)
    return dictionary


class PathOptions(Compute, Seeded, total=False):
    """Options of :func:`dictionary_path` that it shares with other verbs."""


@keywords(PathOptions)
def dictionary_path(
    X: ActivationsLike,
    n_atoms: int,
    lams: Sequence[float],
    *,
    bias: BiasLike = "free",
    surplus: float = SURPLUS,
    reseeds: int = 0,
    stationarity: float = 1e-4,
    **options: Unpack[PathOptions],
) -> tuple[DictionaryFit, ...]:
    """Follow the joint optimum from a large penalty to a small one, with more atoms than asked for until the last.

    The landscape of F(D, b) has fewer poor minima where λ is large and where atoms are plenty, but the optimum there is
    not that of a small λ and a given width. So every fit starts from the one before; all but the last have
    ``⌈surplus · n_atoms⌉`` atoms; at the last penalty but one the cheapest of them are removed (:func:`cvxsae.shrink`),
    and the last is learned at ``n_atoms``. Where datapoints are few for an atom, ``reseeds`` is the stronger lever: at
    the first penalty, atoms that memorize a few datapoints are replaced again and again (:mod:`reseed`).

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
    stationarity
        Of the last fit; those on the way go to a hundredth at best.
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
    KeyboardInterrupt
        If Ctrl-C came before the last fit, which is returned as it is then.
    """
    penalties = arguments.each(lams, "lams", arguments.penalty)
    if any(low >= high for high, low in pairwise(penalties)):
        raise InputError(f"lams are {penalties[:4]}; pass penalties, each smaller than the one before.")
    problem = JointProblem(X, n_atoms, penalties[-1], bias=bias)
    if not problem.group.is_alone:
        raise InputError("X is shared by several processes; dictionary_path takes data of one process.")
    surplus, reseeds = arguments.positive(surplus, "surplus"), arguments.count(reseeds, "reseeds", least=0)
    if surplus < 1:
        raise InputError(f"surplus is {surplus:g}; pass how many times n_atoms to learn with, 1 or more.")
    run, target = Run.start(options, PathOptions), arguments.positive(stationarity, "stationarity")
    wide = JointProblem(problem.X, math.ceil(surplus * problem.n_atoms), penalties[0], bias=bias)
    stages = _Stages(run, len(penalties) + (wide.n_atoms > problem.n_atoms) + reseeds)
    on_the_way = Settings(max(target, ON_THE_WAY))
    fits: list[DictionaryFit] = []
    start = None
    if reseeds:
        first = wide if len(penalties) > 1 else problem
        start = _reseed(first, reseeds, stages)
    for lam in penalties[:-1]:
        here = JointProblem(wide.X, wide.n_atoms, lam, bias=bias)
        settings = replace(on_the_way, start=Given.of(fits[-1] if fits else start, here))
        fits.append(learn(here, settings, stages.next()))
    if fits and wide.n_atoms > problem.n_atoms:
        fits.append(shrunk(fits[-1], problem.n_atoms, on_the_way, stages.next()))
    # What the last fit has reached is worth returning; an interrupt before it leaves nothing at this penalty.
    last = replace(stages.next(), is_outermost=True)
    fits.append(learn(problem, Settings(target, Given.of(fits[-1] if fits else start, problem)), last))
    return tuple(fits)


def _reseed(problem: JointProblem, rounds: int, stages: _Stages) -> DictionaryFit:
    """Learn for a while and replace the atoms that memorize, so many times: the best of the rounds."""
    best: DictionaryFit | None = None
    settings = Settings(ON_THE_WAY, moves=False, epochs=0)
    for turn in range(rounds):
        run = replace(stages.next(), max_steps=RESEED_STEPS, progress=False)
        fit = learn(problem, settings, run)
        if best is None or fit.value < best.value:
            best = fit
        rows = sample_rows(problem.n_points, problem.dim)
        points = problem.X[rows].to_numpy() - fit.bias
        atoms = reseeded(points, fit.dictionary, fit.codes[rows], run.seed + turn)
        settings = replace(settings, start=Given.of((atoms, fit.bias), problem))
    assert best is not None
    return best


class _Stages:
    """Shares what is left of a time limit over what is left to do."""

    def __init__(self, run: Run, count: int) -> None:
        self.run, self.count = run, count

    def next(self) -> Run:
        """How the next stage runs."""
        share = 1 / max(1, self.count)
        self.count -= 1
        return replace(self.run.inner(share=share), progress=self.run.progress)
