"""Shrinking a dictionary by removing the atoms its datapoints need least."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import numpy as np
import torch
from jaxtyping import Float64

from cvxsae.data import arguments
from cvxsae.errors import InputError
from cvxsae.parallel.context import Run, keywords
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.encode import encode_rows
from cvxsae.solvers.dictionary.held_out import going_on, set_aside
from cvxsae.solvers.dictionary.learn import LearnOptions, Settings, learn, width_of
from cvxsae.solvers.dictionary.removal import cheapest_apart, removal_prices
from cvxsae.solvers.dictionary.result import DictionaryFit
from cvxsae.solvers.dictionary.sample import sample_rows
from cvxsae.solvers.dictionary.start import FILL_TOL, Given

REMOVAL_SHARE = 0.5
"""Share of the time left that choosing the atoms to remove may take."""


@keywords(LearnOptions)
def shrink(
    fit: DictionaryFit,
    n_atoms: int,
    *,
    stationarity: float | None = None,
    second_order: bool = False,
    **options: Unpack[LearnOptions],
) -> DictionaryFit:
    """Shrink a dictionary by removing the atoms that its datapoints need least, then learn all remaining atoms.

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
    validation, validation_groups, patience
        As in :func:`cvxsae.grow`.
    second_order, max_seconds, max_steps, device, progress, callback, folder
        As in :func:`cvxsae.learn_dictionary`.

    Raises
    ------
    InputError
        If the width is not smaller, or another argument cannot be used.
    KeyboardInterrupt
        On Ctrl-C before there is a point of the new width.
    """
    width = width_of(fit, n_atoms)
    if width >= fit.n_atoms:
        raise InputError(f"n_atoms is {width} but the fit has {fit.n_atoms} atoms; pass a smaller width.")
    if not fit.problem.group.is_alone:
        raise InputError("fit is of datapoints that several processes share; shrink takes those of one process.")
    options.setdefault("seed", fit.seed)
    run = Run.start(options, LearnOptions)
    target = fit.stationarity_target if stationarity is None else arguments.positive(stationarity, "stationarity")
    _, held_out = set_aside(fit.problem.X, {**options, "validation": going_on(fit.held_out, options)})
    return shrunk(fit, width, Settings(target, second_order=second_order, held_out=held_out), run)


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
