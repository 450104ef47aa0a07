"""Paths of dictionaries from a large penalty to a small one, with surplus atoms until the last penalty."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Unpack

from cvxsae.data import arguments
from cvxsae.data.activations import ActivationsLike
from cvxsae.data.arguments import BiasLike
from cvxsae.data.storage import Folder, fingerprint
from cvxsae.data.storage import Kept as KeptRecord
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Kept, Run, Seeded, keywords
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.dictionary.checkpoint import digest_of
from cvxsae.solvers.dictionary.held_out import HeldOut, HeldOutOptions, set_aside
from cvxsae.solvers.dictionary.learn import Settings, learn
from cvxsae.solvers.dictionary.reseed import reseeded
from cvxsae.solvers.dictionary.result import DictionaryFit
from cvxsae.solvers.dictionary.sample import sample_rows
from cvxsae.solvers.dictionary.shrink import REMOVAL_SHARE, without_cheapest
from cvxsae.solvers.dictionary.start import Given
from cvxsae.solvers.dictionary.watching import evaluate_fit

SURPLUS = 1.2
"""Atoms that :func:`dictionary_path` learns with, over those it is asked for."""

RESEED_STEPS = 60
"""Descent steps between two rounds of reseeding."""

ON_THE_WAY = 1e-2
"""Stationarity of the fits that a path only passes through."""

KIND = "a path of dictionaries"
"""What the folder holds, in words."""

SAME = 1e-8
"""Relative difference of the values of one dictionary whose codes were made exact twice."""

NAME_CHARACTERS = 16
"""Of a start's digest in the name of the folder of a search: no two starts of a path agree in so many."""


class PathOptions(Compute, Seeded, Kept, HeldOutOptions, total=False):
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
    """Follow the joint optimum from a large penalty to a small one, with surplus atoms until the last penalty.

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
    validation, validation_groups, patience
        As in :func:`cvxsae.learn_dictionary`, for every fit: each is the dictionary seen on its way that is lowest on
        the rows set aside, and has its evaluation there (``fit.validation``). Of rounds of reseeding the one that is
        lowest there is gone on from.
    max_seconds
        For the whole path, shared out evenly over what is left of it. Every fit's last coding of the data, which is
        its certificate, is made whatever the time.
    folder
        Where finished fits are kept, and the state of the one at work: a call with the same arguments goes on from
        there. Dictionary and bias of a kept fit are read; its data are recoded, and its value, certificates and
        status are computed again (a status may only get worse), with one exact coding per fit whatever the time.
        Only the reason why a search that is not stationary ended, and its seconds, are trusted; history and info are
        not kept. A fit that time cut short does not count as finished.

    Returns
    -------
    tuple[DictionaryFit, ...]
        One fit per penalty, in their order, each with its own certificate; with a surplus and two penalties or
        more, the shrunk fit at the last penalty but one stands before the last.

    Raises
    ------
    InputError
        For penalties that do not fall, arguments that cannot be used, and a folder that holds other work.
    KeyboardInterrupt
        If Ctrl-C came before the last fit, which is returned as it is then.
    """
    penalties = arguments.each(lams, "lams", arguments.penalty)
    if any(low >= high for high, low in pairwise(penalties)):
        raise InputError(f"lams are {penalties[:4]}; pass penalties, each smaller than the one before.")
    X, held_out = set_aside(X, options)
    problem = JointProblem(X, n_atoms, penalties[-1], bias=bias)
    if not problem.group.is_alone:
        raise InputError("X is shared by several processes; dictionary_path takes data of one process.")
    surplus, reseeds = arguments.positive(surplus, "surplus"), arguments.count(reseeds, "reseeds", least=0)
    if surplus < 1:
        raise InputError(f"surplus is {surplus:g}; pass how many times n_atoms to learn with, 1 or more.")
    run, target = Run.start(options, PathOptions), arguments.positive(stationarity, "stationarity")
    wide = JointProblem(problem.X, math.ceil(surplus * problem.n_atoms), penalties[0], bias=bias)
    asked = {"lams": list(penalties), "surplus": surplus, "reseeds": reseeds, "stationarity": target}
    if held_out is not None:
        asked["validation"] = held_out.digest
    stages = _Stages(run, len(penalties) + (wide.n_atoms > problem.n_atoms) + reseeds, _folder(problem, asked, run))
    on_the_way = Settings(max(target, ON_THE_WAY), held_out=held_out)
    fits: list[DictionaryFit] = []
    start = None
    if reseeds:
        first = wide if len(penalties) > 1 else problem
        start = _reseed(first, reseeds, replace(on_the_way, stationarity=ON_THE_WAY), stages)
    for number, lam in enumerate(penalties[:-1]):
        here = JointProblem(wide.X, wide.n_atoms, lam, bias=bias)
        settings = replace(on_the_way, start=Given.of(fits[-1] if fits else start, here))
        fits.append(stages.fit(f"fit-{number:03d}", here, settings))
    if fits and wide.n_atoms > problem.n_atoms:
        narrow = JointProblem(wide.X, problem.n_atoms, fits[-1].lam, bias=bias)
        fits.append(stages.shrunk(fits[-1], narrow, on_the_way))
    last = replace(on_the_way, stationarity=target, start=Given.of(fits[-1] if fits else start, problem))
    fits.append(stages.fit("last", problem, last, is_last=True))
    return tuple(fits)


def _reseed(problem: JointProblem, rounds: int, settings: Settings, stages: _Stages) -> DictionaryFit:
    """Learn for a while and replace the atoms that memorize, so many times: the best of the rounds."""
    best: DictionaryFit | None = None
    settings = replace(settings, moves=False, epochs=0)
    for turn in range(rounds):
        fit = stages.fit(f"round-{turn:03d}", problem, settings, max_steps=RESEED_STEPS)
        if best is None or _level(fit) < _level(best):
            best = fit
        rows = sample_rows(problem.n_points, problem.dim)
        points = problem.X[rows].to_numpy() - fit.bias
        atoms = reseeded(points, fit.dictionary, fit.codes[rows], stages.run.seed + turn)
        settings = replace(settings, start=Given.of((atoms, fit.bias), problem))
    assert best is not None
    return best


def _level(fit: DictionaryFit) -> float:
    """What tells which of two fits is better: F on rows set aside, if there are any."""
    return fit.value if fit.validation is None else fit.validation.value


def _folder(problem: JointProblem, asked: dict[str, object], run: Run) -> Folder | None:
    if run.folder is None:
        return None
    fixed = "free" if problem.bias_is_free else problem.fixed_bias().tolist()
    known = {"data": fingerprint(problem.X), "n_atoms": problem.n_atoms, "bias": fixed, "seed": run.seed}
    return Folder(run.folder, KIND, {**known, **asked})


class _Stages:
    """Shares what is left of a time limit over what is left to do, and takes from the folder what is done."""

    def __init__(self, run: Run, count: int, kept: Folder | None) -> None:
        self.run, self.count, self.kept = run, count, kept

    def fit(
        self,
        key: str,
        problem: JointProblem,
        settings: Settings,
        *,
        max_steps: int | None = None,
        is_last: bool = False,
    ) -> DictionaryFit:
        """A fit that is kept, or is learned now and kept."""
        return self._kept(key, problem, settings.held_out) or self._learned(
            key, problem, settings, self._next(max_steps, is_last)
        )

    def shrunk(self, fit: DictionaryFit, problem: JointProblem, settings: Settings) -> DictionaryFit:
        """The fit at a smaller width, as :func:`cvxsae.shrink` has it."""
        known = self._kept("shrunk", problem, settings.held_out)
        if known is not None:
            return known
        run = self._next()
        choosing = run.inner(share=REMOVAL_SHARE)
        atoms = without_cheapest(fit, problem.n_atoms, choosing)
        if choosing.is_late:
            self.kept = None  # not what a call with more time would choose
        start = Given.of((atoms, fit.bias), problem)
        return self._learned("shrunk", problem, replace(settings, start=start), run)

    def _next(self, max_steps: int | None = None, is_last: bool = False) -> Run:
        """How the next stage runs.

        What the last fit has reached is worth returning; an interrupt before it leaves nothing at its penalty.
        """
        share = 1 / max(1, self.count)
        self.count -= 1
        inner, shows = self.run.inner(share=share), self.run.progress and max_steps is None
        return replace(inner, progress=shows, max_steps=max_steps, is_outermost=is_last)

    def _kept(self, key: str, problem: JointProblem, held_out: HeldOut | None) -> DictionaryFit | None:
        again: Callable[[KeptRecord], DictionaryFit] = partial(_again, problem, held_out, self.run)
        found = None if self.kept is None else self.kept.read_as(key, again)
        if found is not None:
            self.count -= 1
        return found

    def _learned(self, key: str, problem: JointProblem, settings: Settings, run: Run) -> DictionaryFit:
        if self.kept is None:
            return learn(problem, settings, run)
        given = settings.start
        start = "" if given is None else digest_of(given.dictionary, given.bias)
        name = f"{key}-{hashlib.sha256(start.encode()).hexdigest()[:NAME_CHARACTERS]}"
        fit = learn(problem, settings, replace(run, folder=self.kept.path / name))
        if fit.status in (Status.TIME_LIMIT, Status.INTERRUPTED):
            self.kept = None  # what it has reached is in its own folder; a call with more time resumes from there
        else:
            claims = {"value": fit.value, "status": fit.status.name, "seconds": fit.seconds}
            arrays = {"dictionary": fit.dictionary, "bias": fit.bias, "codes": fit.codes}
            self.kept.write(key, {**claims, "target": fit.stationarity_target}, arrays)
        return fit


def _again(problem: JointProblem, held_out: HeldOut | None, run: Run, kept: KeptRecord) -> DictionaryFit:
    """A fit as its arrays have it: its numbers are computed again, never read."""
    claimed, status = kept.record, Status[kept.record["status"]]
    fit = DictionaryFit.judged(
        problem, kept.arrays, run.inner().without_limit(), status=status, target=float(claimed["target"])
    )
    if not math.isclose(fit.value, float(claimed["value"]), rel_tol=SAME):
        raise ValueError("its arrays do not bear out what it says")
    if held_out is not None:
        found = evaluate_fit(held_out, fit, run.inner().without_limit())
        fit = replace(fit, validation=found, held_out=held_out)
    return replace(fit, seconds=float(claimed["seconds"]))
