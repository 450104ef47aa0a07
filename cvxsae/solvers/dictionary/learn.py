"""Learn a dictionary: the joint optimum of dictionary, bias and exact codes that a sparse autoencoder approximates."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cvxsae.data import arguments
from cvxsae.data.arguments import InputError
from cvxsae.parallel.context import Run, Steps
from cvxsae.parallel.group import ALONE, ProcessGroup
from cvxsae.parallel.threads import threads_for
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.shared import share_joint_problem
from cvxsae.relaxations.solution import Record, Status, relative_gap
from cvxsae.solvers.convex.driver import Outcome, run_loop
from cvxsae.solvers.dictionary import checkpoint as checkpoints
from cvxsae.solvers.dictionary.evaluator import Evaluator
from cvxsae.solvers.dictionary.learner import Learner
from cvxsae.solvers.dictionary.moves import Moves
from cvxsae.solvers.dictionary.result import DictionaryFit
from cvxsae.solvers.dictionary.stages.polish import Polishing
from cvxsae.solvers.dictionary.stages.stochastic import StochasticSteps
from cvxsae.solvers.dictionary.start import Init, starting_point, summarize
from cvxsae.solvers.dictionary.state import Polish, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvxsae.data.activations import ActivationsLike
    from cvxsae.data.arguments import BiasLike

EPOCHS = 17
"""Passes over the data before the full-batch stage: 2, 4 and 8 stochastic ones, each time followed by an exact one."""

GROWTH_ROUNDS = (0, 0)
"""After atoms were added to a dictionary: exact passes alone."""

FINAL_TOL = 1e-9
"""Largest relative duality gap of the codes that are returned."""

GLOBAL_TOL = 1e-9
"""A value this close to the floor, relative, is a global optimum."""


def learn_dictionary(
    X: ActivationsLike,
    n_atoms: int,
    lam: float,
    *,
    bias: BiasLike = "free",
    seed: int = 0,
    tol: float = 1e-4,
    max_seconds: float | None = None,
    max_steps: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    init: Init = None,
    second_order: bool = False,
    moves: bool = True,
    epochs: int | None = None,
    checkpoint: str | Path | None = None,
    callback: Callable[[Record], None] | None = None,
    group: ProcessGroup | None = None,
) -> DictionaryFit:
    """Find a dictionary of K unit-norm atoms, a decoder bias and exact codes that minimise (P).

    ``F(D, b, Z) = (1/N) Σ_n [ ½‖x_n − b − Σ_k z_nk d_k‖² + λ Σ_k z_nk ]`` over ``‖d_k‖ = 1``, ``Z ≥ 0`` and, if it is
    free, b. The problem is not convex: what is certified is that the codes are exact (duality gap), that the point is
    stationary (T3), and how much any dictionary of any width could still gain (the floor, T9;
    :func:`cvxsae.width_floor` has the one of this width).

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.data.Activations` accepts; read in batches, never copied whole.
    n_atoms
        Width K. Memory besides the data and the codes is about 16 K² bytes.
    lam
        Penalty λ > 0, in the units of the data.
    bias
        ``"free"`` (optimised), None (zero) or an array (d,) (fixed).
    seed
        Decides the start, the minibatches and where new atoms are looked for. Same seed, same answer.
    tol
        Stationarity to reach: ``‖E_k[r]/λ − d_k‖`` of every live atom and ``‖mean_n r_n‖/λ`` of a free bias (T3).
    max_seconds
        Stop after this time; the point reached is coded exactly and returned.
    max_steps
        Stop after so many steps (minibatches, descent steps, rounds of moves): unlike time, the same everywhere.
    device
        Where to compute: ``"cpu"`` (default) or ``"cuda"``.
    progress
        Whether to show a progress bar.
    init
        Start from a :class:`DictionaryFit`, a dictionary (K', d) or a pair of dictionary and bias. With K' < K the
        missing atoms are those that lower F most. By default: directions of datapoints, seen from the wide limit's
        bias.
    second_order
        Compute the least eigenvalue of the Riemannian Hessian at the end (T5) and leave a saddle if it is one.
    moves
        Give up atoms that earn little for new ones (T7) or splits (T8) that earn more; without, only dead atoms.
    epochs
        Passes over the data before full-batch descent, in minibatches: 2 stochastic ones and an exact one, 4 and one, 8
        and one, and so on, as many as asked for. By default 17; two exact ones from an ``init`` with some atoms
        missing, none from a complete one, which passes asked for may leave. None if all datapoints fit one minibatch.
    checkpoint
        A ``.npz`` file to keep the state in, every ten seconds and at the end; a call with the same arguments goes on
        from it.
    callback
        Called with a :class:`Record` at every step.
    group
        The processes that share the work, from :func:`cvxsae.process_group`: ``X`` and the codes of the result are this
        process's rows, the rest is the same in all and says what it says of all rows. ``checkpoint`` is then one file
        for each process; ``second_order`` is not available.

    Returns
    -------
    DictionaryFit
        Dictionary, bias, codes and what certifies them; ``status`` says how the search ended. A search that ran out of
        time is returned like any other.

    Raises
    ------
    InputError
        For arguments that cannot be used, or that are not the same in all processes.
    GroupError
        If another process failed.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxsae import learn_dictionary
    >>> X = np.repeat([[1.0, 0.0], [1.0, 1.0]], 10, axis=0)  # one feature alone, and both together (C1)
    >>> fit = learn_dictionary(X, 2, 0.1, bias=None)
    >>> round(fit.value, 8)
    0.11571068
    """
    group = group or ALONE
    with group.guard():
        problem = JointProblem(X, n_atoms, lam, bias)
        tol, seed = arguments.positive(tol, "tol"), arguments.count(seed, "seed", least=0)
        given = {"device": device, "max_seconds": max_seconds, "max_steps": max_steps, "progress": progress}
        run = Run.start({**given, "callback": callback}, Steps, group=group)
        epochs = None if epochs is None else arguments.count(epochs, "epochs", least=0)
        if second_order and not group.is_alone:
            raise InputError(
                f"second_order is asked of {group.size} processes, and the curvature needs all rows in one; pass "
                "second_order=False."
            )
        group.agree(
            call="learn_dictionary", d=problem.dim, dtype=problem.X.tensor.dtype, n_atoms=problem.n_atoms,
            lam=problem.lam, bias=problem.bias, seed=seed, tol=tol, max_seconds=max_seconds, max_steps=max_steps,
            moves=moves, epochs=epochs, checkpoint=checkpoint is not None, init="absent" if init is None else "given",
        )  # fmt: skip
        problem = share_joint_problem(problem, group)
        with threads_for(problem):
            return _learn(
                problem, run, tol, seed, epochs, init, group, checkpoint, second_order=second_order, moves=moves,
            )  # fmt: skip


def _learn(
    problem: JointProblem, run: Run, tol: float, seed: int, epochs: int | None, init: Init,
    group: ProcessGroup, checkpoint: str | Path | None, *, second_order: bool, moves: bool,
) -> DictionaryFit:  # fmt: skip
    """Start, search and certify, with arguments that have been checked."""
    where = run.device
    summary, start_bias = summarize(problem, run, group)
    dictionary, start_bias, complete = starting_point(problem, start_bias, init, seed, where, group)
    stochastic = StochasticSteps()
    if epochs is None:
        rounds = () if complete else stochastic.rounds_of(EPOCHS) if init is None else GROWTH_ROUNDS
    else:
        rounds = stochastic.rounds_of(epochs)
    start = group.same(torch.from_numpy(dictionary)).to(where), torch.from_numpy(start_bias).to(where) - summary.origin
    learner = Learner(
        evaluator=Evaluator(problem, summary, seed, where, group),
        start=start,
        rounds=rounds,
        stochastic=stochastic,
        polishing=Polishing(tol, second_order, Moves(only_dead=not moves)),
    )
    kept = None
    if checkpoint is not None:
        options = {"seed": seed, "tol": tol, "second_order": second_order, "moves": moves, "rounds": rounds}
        learner, kept = _with_checkpoint(problem, learner, Path(checkpoint), options)
    outcome: Outcome[State] = run_loop(learner, problem, GLOBAL_TOL, run, every_step=True)
    if kept is not None:
        group.any(False)  # a state goes when all have written the two after it
        kept.write(outcome.primal, keep_last=not group.is_alone)
    seconds = kept.seconds if kept else outcome.seconds
    return _fit(problem, learner, outcome.primal, outcome.status, outcome.history, seconds)


def grow(
    fit: DictionaryFit,
    n_atoms: int,
    *,
    seed: int | None = None,
    tol: float | None = None,
    max_seconds: float | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    second_order: bool = False,
    checkpoint: str | Path | None = None,
    group: ProcessGroup | None = None,
) -> DictionaryFit:
    """Continue a fit at a larger width: atoms are added where they lower F most (T7, T8), then all are learned.

    The value never rises on the way, so a path of widths is one warm-started run.

    Parameters
    ----------
    fit
        What :func:`learn_dictionary` or :func:`grow` returned.
    n_atoms
        The new width, larger than ``fit.n_atoms``.
    seed, tol
        Those of the fit, unless given.
    max_seconds, device, progress, second_order, checkpoint, group
        As in :func:`learn_dictionary`.

    Raises
    ------
    InputError
        If the width is not larger, or another argument cannot be used.
    """
    if not isinstance(fit, DictionaryFit):
        raise InputError(f"fit is a {type(fit).__name__}; pass what learn_dictionary returned.")
    width = arguments.count(n_atoms, "n_atoms")
    if width <= fit.n_atoms:
        raise InputError(f"n_atoms is {width} but the fit has {fit.n_atoms} atoms; pass a larger width.")
    return learn_dictionary(
        fit.problem.X, width, fit.lam, bias=fit.problem.bias, seed=fit.seed if seed is None else seed,
        tol=fit.tol if tol is None else tol, max_seconds=max_seconds, device=device, progress=progress, init=fit,
        second_order=second_order, checkpoint=checkpoint, group=group,
    )  # fmt: skip


def _with_checkpoint(
    problem: JointProblem, learner: Learner, path: Path, options: dict[str, Any]
) -> tuple[Learner, checkpoints.Checkpoint]:
    """The learner with its file, taken up where that left off if it exists."""
    start, bias = learner.start[0], learner.start[1] + learner.evaluator.summary.origin
    options["start"] = hashlib.sha256(start.cpu().numpy().tobytes() + bias.cpu().numpy().tobytes()).hexdigest()
    group = learner.evaluator.group
    if not group.is_alone:
        options["process"] = [group.rank, group.size]
        path = path.with_name(f"{path.stem}.process-{group.rank}-of-{group.size}{path.suffix}")
    mark = checkpoints.fingerprint(problem, **options)
    kept = checkpoints.Checkpoint(path, mark)
    files = (kept.path,) if group.is_alone else (kept.path, kept.last_but_one)
    found = [checkpoints.read(file, mark) for file in files if file.exists()]
    by_step = {int(arrays.get("step", -1)): (arrays, seconds) for arrays, seconds in reversed(found)}
    everywhere = set.intersection(*(set(steps) for steps in group.gather(list(by_step))))
    if not everywhere:
        group.agree(**{"the state in the checkpoint": sorted(by_step)})
        return replace(learner, checkpoint=kept), kept
    arrays, seconds = by_step[max(everywhere)]
    kept = checkpoints.Checkpoint(path, mark, seconds=seconds)
    resumed = checkpoints.unpack(arrays, learner.evaluator)
    if not group.is_alone:  # where it lay behind a later one that others lack: it stays on disk throughout
        kept.write(resumed)
    return replace(learner, checkpoint=kept, resumed=resumed), kept


def _fit(
    problem: JointProblem, learner: Learner, state: State, status: Status, history: tuple[Record, ...], seconds: float
) -> DictionaryFit:
    """Code the data once more, exactly, and say what that point is worth."""
    evaluator, group = learner.evaluator, learner.evaluator.group
    state = learner.better_end(state)
    known = state.evaluation if isinstance(state, Polish) else None
    tol = FINAL_TOL if known is None else min(FINAL_TOL, known.codes.tol)
    started = time.perf_counter()
    codes = evaluator.encode_all(state.dictionary, state.offset, None if known is None else known.codes.codes, tol)
    if known is not None and known.codes.value < codes.value:  # rounding: these were better already
        codes = known.codes
    bound = evaluator.summary.lower_bound
    if status is Status.CERTIFIED and relative_gap(codes.value, bound) > GLOBAL_TOL:
        status = Status.STALLED  # the loop's value was that of sums, which cancel where data are far from the bias
    sums = evaluator.sums(codes.codes)
    stationarity = sums.stationarity(state.dictionary, state.offset, problem.lam)
    drift = None
    if problem.bias_is_free:
        drift = group.same_number(sums.bias_residual(state.dictionary, state.offset, problem.lam))
    return DictionaryFit(
        problem=problem,
        dictionary=state.dictionary.cpu().numpy(),
        bias=evaluator.bias(state.offset).numpy(),
        codes=codes,
        floor=bound,
        stationarity=group.same(stationarity).cpu().numpy(),
        bias_residual=drift,
        least_curvature=state.least_curvature if isinstance(state, Polish) else None,
        status=status,
        tol=learner.polishing.target,
        seed=evaluator.seed,
        history=history,
        seconds=seconds + time.perf_counter() - started,
        info={**state.counts, "device": str(evaluator.device)},
    )
