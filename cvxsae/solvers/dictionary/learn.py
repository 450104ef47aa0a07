"""Learn a dictionary: the joint optimum of dictionary, bias and exact codes that a sparse autoencoder approximates."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Unpack

from cvxsae.data import arguments
from cvxsae.data.activations import ActivationsLike
from cvxsae.data.arguments import BiasLike
from cvxsae.errors import InputError
from cvxsae.parallel.context import Kept, Run, Seeded, Steps, keywords
from cvxsae.parallel.threads import threads_for
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.convex.driver import Outcome, run_loop
from cvxsae.solvers.dictionary.checkpoint import Checkpoint, digest_of
from cvxsae.solvers.dictionary.evaluator import Evaluator
from cvxsae.solvers.dictionary.held_out import HeldOut, HeldOutOptions, going_on, set_aside
from cvxsae.solvers.dictionary.learner import Learner, grace
from cvxsae.solvers.dictionary.moves import Moves
from cvxsae.solvers.dictionary.result import FINAL_TOL, GLOBAL_TOL, DictionaryFit, judge_fit
from cvxsae.solvers.dictionary.stages.polish import Polishing
from cvxsae.solvers.dictionary.stages.stochastic import StochasticSteps
from cvxsae.solvers.dictionary.start import Given, Init, starting_point
from cvxsae.solvers.dictionary.state import Polish, State
from cvxsae.solvers.dictionary.summary import summarize
from cvxsae.solvers.dictionary.watching import Watch

EPOCHS = 55
"""Passes over the data before the full-batch stage: 4, 12 and 36 stochastic ones, each time and then an exact one."""

GROWTH_ROUNDS = (0, 0)
"""After atoms were added to a dictionary: exact passes alone."""

SEARCH_SHARE = 0.9
"""Share of the time that the search may take; the rest is for coding the data exactly at its end."""


class LearnOptions(Steps, Seeded, Kept, HeldOutOptions, total=False):
    """Options of :func:`learn_dictionary`, :func:`grow` and :func:`shrink` that they share with other verbs."""


class SearchOptions(LearnOptions, total=False):
    """Options of :func:`learn_dictionary`."""

    epochs: int | None
    """Passes over the data before full-batch descent; None for as many as the start asks for."""


@dataclass(frozen=True)
class Settings:
    """What is asked of a search besides its problem and limits, checked.

    Attributes
    ----------
    stationarity
        To reach.
    start
        Dictionary and bias to start from, or None.
    second_order, moves, epochs
        As in :func:`learn_dictionary`.
    held_out
        Rows set aside, on which the search is watched, or None.
    """

    stationarity: float = 1e-4
    start: Given | None = None
    second_order: bool = False
    moves: bool = True
    epochs: int | None = None
    held_out: HeldOut | None = None

    def rounds(self, stochastic: StochasticSteps, n_atoms: int) -> tuple[int, ...]:
        """Stochastic passes before each exact one."""
        if self.epochs is not None:
            return stochastic.rounds_of(self.epochs)
        if self.start is None:
            return stochastic.rounds_of(EPOCHS)
        return () if len(self.start.dictionary) == n_atoms else GROWTH_ROUNDS


@keywords(SearchOptions)
def learn_dictionary(
    X: ActivationsLike,
    n_atoms: int,
    lam: float,
    *,
    bias: BiasLike = "free",
    stationarity: float = 1e-4,
    init: Init = None,
    second_order: bool = False,
    moves: bool = True,
    **options: Unpack[SearchOptions],
) -> DictionaryFit:
    """Find a dictionary of K unit-norm atoms, a decoder bias and exact codes that minimize (P).

    ``F(D, b, Z) = (1/N) Σ_n [ ½‖x_n − b − Σ_k z_nk d_k‖² + λ Σ_k z_nk ]`` over ``‖d_k‖ = 1``, ``Z ≥ 0`` and, if it is
    free, b. The problem is not convex. It is certified that the codes are exact (duality gap), that the point is
    stationary (T3), and how much any dictionary of any width could still gain (the lower bound, T9;
    :func:`cvxsae.width_floor` computes the bound for this width).

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.Activations` accepts; read in batches, never copied whole. Of
        data that :meth:`cvxsae.parallel.ProcessGroup.shard` shared out, the codes of the result are those of this
        process's rows and the rest says what it says of all rows; ``second_order`` is not available then.
    n_atoms
        Width K. Memory besides the data and the codes is about 16 K² bytes.
    lam
        Penalty λ > 0, in the units of the data.
    bias
        ``"free"`` (optimized), None (zero) or an array (d,) (fixed).
    stationarity
        Target for ``‖E_k[r]/λ − d_k‖`` of every live atom and ``‖mean_n r_n‖/λ`` of a free bias (T3).
    init
        Start from a :class:`DictionaryFit`, a dictionary (K', d) or a pair of dictionary and bias. With K' < K the
        missing atoms are those that lower F most. By default: directions of datapoints, seen from the wide limit's
        bias.
    second_order
        Compute the least eigenvalue of the Riemannian Hessian at the end (T5) and leave a saddle if it is one.
    moves
        Whether to replace atoms that lower F little by new atoms (T7) or splits (T8) that lower it more; without it,
        only dead atoms are replaced.
    epochs
        Passes over the data before full-batch descent, in minibatches: 4 stochastic ones and an exact one, 12 and one,
        36 and one, and so on, as many as asked for. By default 55; two exact ones from an ``init`` with some atoms
        missing, none from a complete one, which passes asked for may leave. None if all datapoints fit one minibatch.
    validation
        Rows (M, d) that nothing is learned from, or a share of X (0.2: a fifth of its rows) that is set aside by
        ``seed``; the problem of the fit is then of the other rows. F on these rows is evaluated on the way with exact
        codes (:mod:`~cvxsae.solvers.dictionary.watching`); once it has stopped falling, the search ends as
        ``EARLY_STOPPED``. However it ends, the dictionary seen that is lowest on them is returned, with its evaluation
        as ``validation``. Having chosen it, they flatter it: for an unbiased number evaluate it on a third set of rows
        (:func:`cvxsae.population.evaluate`). Not for data that several processes share.
    validation_groups
        Which document each row is of, integers or strings, (M,), or (N,) where a share is set aside, which then
        consists of whole documents; intervals are over documents (T17 d). None if rows are independent.
    patience
        Evaluations in a row whose paired 95 % interval shows no decrease, after which the search ends; None for 5. They
        come at the end of every stochastic round and exact pass, and every five steps of descent.
    max_seconds
        Wall-clock limit of the whole call. The point reached is coded exactly and returned; for that, time is set aside
        as far as it can be known. What is not coded a second after the limit has zero codes: ``encoding.done`` says
        which datapoints, and value and certificates are those of the codes returned. Ctrl-C ends it likewise. Neither
        ends the compilation of kernels, which takes the first calls on a machine some seconds.
    max_steps
        Stop after so many steps (minibatches, descent steps, rounds of moves): unlike time, the same everywhere. With
        ``folder`` these are steps of this call, beyond those that are kept.
    seed
        Random seed of the start, the minibatches and the search for new atoms. The same seed gives the same answer on a
        machine that keeps its measurement of products (:func:`~cvxsae.encode`), which decides in what precision they
        run; another precision rounds otherwise, which a search can amplify into another optimum.
    device
        Where to compute: ``"cpu"`` (default) or ``"cuda"``.
    progress
        Whether to show a progress bar.
    callback
        Called with a :class:`~cvxsae.results.Record` at every step.
    folder
        Where to keep the state, every ten seconds and at the end; a call with the same arguments resumes from it. Each
        of several processes keeps its own part.

    Returns
    -------
    DictionaryFit
        Dictionary, bias, codes and what certifies them; ``status`` says how the search ended. A search that ran out of
        time, or was interrupted, is returned like any other.

    Raises
    ------
    InputError
        For arguments that cannot be used, or that are not the same in all processes.
    GroupError
        If another process failed.
    KeyboardInterrupt
        If Ctrl-C came before there was a point to return, or again while it was coded.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxsae import learn_dictionary
    >>> X = np.repeat([[1.0, 0.0], [1.0, 1.0]], 10, axis=0)  # one feature alone, and both together (C1)
    >>> fit = learn_dictionary(X, 2, 0.1, bias=None)
    >>> round(fit.value, 8)
    0.11571068
    """
    X, held_out = set_aside(X, options)
    problem = JointProblem(X, n_atoms, lam, bias=bias)
    with problem.group.guard():
        run, epochs = Run.start(options, SearchOptions, group=problem.group), options.get("epochs")
        settings = Settings(
            arguments.positive(stationarity, "stationarity"),
            Given.of(init, problem),
            second_order,
            moves,
            None if epochs is None else arguments.count(epochs, "epochs", least=0),
            held_out,
        )
        if second_order and not problem.group.is_alone:
            raise InputError(
                f"second_order is asked of {problem.group.size} processes, and the curvature needs all rows in one; "
                "pass second_order=False."
            )
        problem.group.agree(
            call="learn_dictionary",
            d=problem.dim,
            dtype=problem.X.dtype,
            n_atoms=problem.n_atoms,
            lam=problem.lam,
            bias=problem.bias,
            seed=run.seed,
            stationarity=settings.stationarity,
            max_seconds=options.get("max_seconds"),
            max_steps=run.max_steps,
            moves=moves,
            epochs=epochs,
            folder=run.folder is not None,
            init="absent" if init is None else "given",
        )
        return learn(problem, settings, run)


def learn(problem: JointProblem, settings: Settings, run: Run) -> DictionaryFit:
    """Start, search and certify, with arguments that have been checked."""
    with threads_for(problem):
        began, inner = time.perf_counter(), run.inner(share=SEARCH_SHARE)
        stochastic = StochasticSteps()
        rounds = settings.rounds(stochastic, problem.n_atoms)
        kept = None if run.folder is None else _checkpoint(problem, settings, rounds, run)
        watch = None if settings.held_out is None else Watch(settings.held_out)
        evaluator = Evaluator(problem, summarize(problem, inner), inner)
        learner = Learner(
            evaluator=evaluator,
            start=starting_point(problem, evaluator.summary, settings.start, inner),
            rounds=rounds,
            stochastic=stochastic,
            polishing=Polishing(settings.stationarity, settings.second_order, Moves(only_dead=not settings.moves)),
            checkpoint=kept,
            resumed=None if kept is None else kept.resume(evaluator, settings.stationarity, watch),
            watch=watch,
            end=run.deadline,
        )
        search = replace(run, deadline=inner.deadline)
        outcome: Outcome[State] = run_loop(learner, problem, GLOBAL_TOL, search, every_step=True)
        if kept is not None:
            problem.group.any(False)  # a state goes when all have written the two after it
            kept.write(outcome.primal, evaluator)
        fit = _fit(learner, outcome, run)
        return replace(fit, seconds=kept.seconds if kept else time.perf_counter() - began)


def _checkpoint(problem: JointProblem, settings: Settings, rounds: tuple[int, ...], run: Run) -> Checkpoint:
    """The folder of this search."""
    given = settings.start
    options = {
        "seed": run.seed,
        "stationarity": settings.stationarity,
        "second_order": settings.second_order,
        "moves": settings.moves,
        "rounds": list(rounds),
        "init": None if given is None else digest_of(given.dictionary, given.bias),
    }
    if settings.held_out is not None:  # folders of searches without it stay what they were
        options["validation"] = settings.held_out.digest
    assert run.folder is not None
    return Checkpoint(run.folder, problem, options)


def _fit(learner: Learner, outcome: Outcome[State], run: Run) -> DictionaryFit:
    """Code the data once more, exactly, and say what that point is worth."""
    # Who presses Ctrl-C does not wait for all datapoints to be coded.
    end = time.perf_counter() if outcome.status is Status.INTERRUPTED else run.deadline
    state, ended, last, warm, whole = outcome.primal, outcome.status, grace(end), None, None
    if learner.watch is None:
        state, warm, whole = learner.better_end(state, last)
    else:
        state, ended = learner.watch.chosen(learner.evaluator.until(end), state, ended)
    known = state.evaluation.codes if isinstance(state, Polish) and state.evaluation is not None else None
    evaluator = learner.evaluator.until(last if known is None else end)
    tol, warm = (FINAL_TOL, warm) if known is None else (min(FINAL_TOL, known.tol), known.codes)
    status, codes = ended, known
    try:
        exact = evaluator.encode_what_can_be(state.dictionary, state.offset, warm, tol)
        if known is None or not known.value < exact.value:  # these were better already, by rounding or for lack of time
            codes = exact
        if whole is not None and exact.status is Status.TIME_LIMIT and whole.codes.value < exact.value:
            state, codes = replace(state, dictionary=whole.dictionary, offset=whole.offset), whole.codes
    except KeyboardInterrupt:
        if known is None or not (run.is_outermost and evaluator.group.is_alone):
            raise
        status = Status.INTERRUPTED
    assert codes is not None
    target = learner.polishing.target
    fit = judge_fit(evaluator, state.dictionary, state.offset, codes, status, target)
    if status is Status.STATIONARY and fit.status is not status and known is not None:
        fit = judge_fit(evaluator, state.dictionary, state.offset, known, status, target)
    if learner.watch is not None:
        validation = learner.watch.final(evaluator, state)
        fit = replace(fit, validation=validation, held_out=learner.watch.rows)
    return replace(
        fit,
        history=outcome.history,
        least_curvature=state.least_curvature if isinstance(state, Polish) else None,
        info={**state.counts, "device": str(run.device)},
    )


def width_of(fit: DictionaryFit, n_atoms: int) -> int:
    """The width to go on at from a fit, if that is one."""
    arguments.instance(fit, "fit", DictionaryFit, "what learn_dictionary returned")
    return arguments.count(n_atoms, "n_atoms")


@keywords(LearnOptions)
def grow(
    fit: DictionaryFit,
    n_atoms: int,
    *,
    stationarity: float | None = None,
    second_order: bool = False,
    **options: Unpack[LearnOptions],
) -> DictionaryFit:
    """Continue a fit at a larger width: add the atoms that lower F most (T7, T8), then learn all atoms.

    The value never rises on the way, so a path of widths is one warm-started run. Where rows are set aside, what is
    returned is lowest on them, and its value on those learned from is not what the search ended at.

    Parameters
    ----------
    fit
        What :func:`learn_dictionary` or :func:`grow` returned.
    n_atoms
        The new width, larger than ``fit.n_atoms``.
    stationarity, seed
        Those of the fit, unless given.
    validation, validation_groups, patience
        As in :func:`learn_dictionary`, except for a share, as the fit has seen all of its rows. The rows that were set
        aside for the fit stay so, unless others, or None, are given.
    second_order, max_seconds, max_steps, device, progress, callback, folder
        As in :func:`learn_dictionary`.

    Raises
    ------
    InputError
        If the width is not larger, or another argument cannot be used.
    KeyboardInterrupt
        On Ctrl-C before there is a point of the new width.
    """
    width = width_of(fit, n_atoms)
    if width <= fit.n_atoms:
        raise InputError(f"n_atoms is {width} but the fit has {fit.n_atoms} atoms; pass a larger width.")
    options.setdefault("seed", fit.seed)
    options["validation"] = going_on(fit.held_out, options)
    return learn_dictionary(
        fit.problem.X,
        width,
        fit.lam,
        bias=fit.problem.bias,
        stationarity=fit.stationarity_target if stationarity is None else stationarity,
        init=fit,
        second_order=second_order,
        **options,
    )
