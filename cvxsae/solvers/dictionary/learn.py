"""Learn a dictionary: the joint optimum of dictionary, bias and exact codes that a sparse autoencoder approximates."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import scipy.sparse as sp
import torch

from cvxsae.data import arguments, tensors
from cvxsae.data.arguments import InputError
from cvxsae.parallel.context import Run, Steps
from cvxsae.parallel.group import ALONE, ProcessGroup
from cvxsae.parallel.threads import threads_for
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.shared import share_joint_problem, share_wide_limit
from cvxsae.relaxations.solution import Record, Status, relative_gap
from cvxsae.solvers.codes.encode import encode_rows
from cvxsae.solvers.convex.driver import Outcome, run_loop
from cvxsae.solvers.convex.wide_newton import WideLimitNewton
from cvxsae.solvers.dictionary import checkpoint as checkpoints
from cvxsae.solvers.dictionary.learner import MINIBATCH_TOL, Ground, Learner, State
from cvxsae.solvers.dictionary.moves import renew, sample_here, sample_rows, unit_length
from cvxsae.solvers.dictionary.result import DictionaryFit
from cvxsae.solvers.dictionary.stages.stochastic import rounds_of
from cvxsae.solvers.dictionary.start import datapoint_directions, random_directions

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float64
    from numpy.typing import ArrayLike

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

_LEAST_MINIBATCH = 1024
_LEAST_GROWTH, _GROWTH = 32, 2

Init: TypeAlias = "DictionaryFit | ArrayLike | torch.Tensor | tuple[Any, Any] | None"
"""Where to start: a fit, a dictionary (K', d) with K' ≤ K, or a dictionary and a bias."""


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
    ground, start_bias = _ground(problem, run, group)
    dictionary, start_bias, complete = _start(problem, start_bias, init, seed, where, group)
    if epochs is None:
        rounds = () if complete else rounds_of(EPOCHS) if init is None else GROWTH_ROUNDS
    else:
        rounds = rounds_of(epochs)
    learner = Learner(
        start=(group.same(torch.from_numpy(dictionary)).to(where), torch.from_numpy(start_bias).to(where)),
        ground=ground, tol=tol, seed=seed, rounds=rounds, minibatch=max(_LEAST_MINIBATCH, problem.n_atoms),
        second_order=second_order, moves=moves, device=where, group=group,
    )  # fmt: skip
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


def _ground(problem: JointProblem, run: Run, group: ProcessGroup) -> tuple[Ground, Float64[np.ndarray, " d"]]:
    """The floor and its bias, and the sums of the data measured from there."""
    wide = share_wide_limit(WideLimit(problem.X, problem.lam, problem.bias), group)
    device = run.device
    scan = run_loop(WideLimitNewton(group), wide, 1e-9, replace(run.inner(), deadline=math.inf))
    bias = problem.fixed_bias() if not problem.bias_is_free else scan.primal.bias.cpu()
    total, energy = torch.zeros(problem.dim, dtype=torch.float64), 0.0
    for batch in problem.X.batches():
        shifted = batch.cpu() - bias
        total += shifted.sum(dim=0)
        energy += float(shifted.square().sum())
    (total,), n_points = group.sum(total), int(group.total(problem.n_points))
    floor = scan.dual.scan.lower_bound
    ground = Ground(bias.to(device), total.to(device), group.total(energy), floor, n_points)
    return ground, np.ascontiguousarray(bias.numpy())


def _start(
    problem: JointProblem, bias: Float64[np.ndarray, " d"], init: Init, seed: int, device: torch.device,
    group: ProcessGroup,
) -> tuple[Float64[np.ndarray, "K d"], Float64[np.ndarray, " d"], bool]:  # fmt: skip
    """Dictionary and bias to start from, and whether they were given complete."""
    if init is None:
        return datapoint_directions(problem, bias, seed, group), bias, False
    if isinstance(init, DictionaryFit):
        init = (init.dictionary, init.bias)
    atoms, given = init if isinstance(init, tuple) and len(init) == 2 else (init, None)
    rows = tensors.unit_rows(atoms, "init", problem.dim)[0].cpu().numpy()
    if len(rows) > problem.n_atoms:
        raise InputError(f"init has {len(rows)} atoms but n_atoms is {problem.n_atoms}; pass at most as many.")
    if given is not None:
        fixed = arguments.bias_vector(given, problem.dim)
        if not isinstance(fixed, torch.Tensor):
            raise InputError("init holds a bias that is not an array; pass (dictionary, bias) or the dictionary alone.")
        if problem.bias_is_free:
            bias = np.ascontiguousarray(fixed.cpu().numpy())
    group.agree(init=rows, bias=bias)
    if len(rows) == problem.n_atoms:
        return rows, bias, True
    if group.is_alone:
        return fill(problem, rows, bias, seed, device), bias, False
    chosen = sample_here(problem.n_points, problem.dim, group)
    points = problem.X[chosen].to_numpy() if len(chosen) else np.zeros((0, problem.dim))
    filled = group.on_first(
        points,
        lambda parts: fill(JointProblem(np.concatenate(parts), problem.n_atoms, problem.lam), rows, bias, seed, device),
    )
    return filled, bias, False


def fill(
    problem: JointProblem, dictionary: Float64[np.ndarray, "k d"], bias: Float64[np.ndarray, " d"], seed: int,
    device: torch.device,
) -> Float64[np.ndarray, "K d"]:  # fmt: skip
    """Add the atoms that lower F most (T7, T8), in rounds with exact codes between them, up to the problem's width."""
    rng = np.random.default_rng(seed)
    rows = sample_rows(problem.n_points, problem.dim)
    data = problem.X if len(rows) == problem.n_points else problem.X[rows]
    points = data.to_numpy() - bias
    length = unit_length(float(np.square(points).sum(axis=1).mean()))
    while len(dictionary) < problem.n_atoms:
        wanted = min(problem.n_atoms - len(dictionary), max(_LEAST_GROWTH, len(dictionary) // _GROWTH))
        codes = encode_rows(
            data, torch.from_numpy(dictionary), problem.lam, bias=torch.from_numpy(bias), tol=MINIBATCH_TOL,
            device=device,
        ).codes  # fmt: skip
        residuals = ((points - codes @ dictionary) / length).astype(np.float32)
        padded = np.concatenate([dictionary, random_directions(wanted, problem.dim, rng)])
        empty = sp.csr_array((len(points), wanted))
        renewal = renew(
            residuals, sp.csr_array(sp.hstack([codes, empty], format="csr")), padded, problem.lam, at_most=wanted,
            seed=seed + len(dictionary), length=length, device=device,
        )  # fmt: skip
        if renewal is None:  # no residual is longer than λ: this dictionary is optimal at any width (T7)
            missing = problem.n_atoms - len(dictionary)
            return np.concatenate([dictionary, random_directions(missing, problem.dim, rng)])
        old = len(dictionary)
        dictionary = np.concatenate([renewal.dictionary[:old], renewal.dictionary[sorted(renewal.renewed)]])
    return dictionary


def _with_checkpoint(
    problem: JointProblem, learner: Learner, path: Path, options: dict[str, Any]
) -> tuple[Learner, checkpoints.Checkpoint]:
    """The learner with its file, taken up where that left off if it exists."""
    start, bias = learner.start
    options["start"] = hashlib.sha256(start.cpu().numpy().tobytes() + bias.cpu().numpy().tobytes()).hexdigest()
    group = learner.group
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
    resumed = checkpoints.unpack(arrays, learner, problem)
    if not group.is_alone:  # where it lay behind a later one that others lack: it stays on disk throughout
        kept.write(resumed)
    return replace(learner, checkpoint=kept, resumed=resumed), kept


def _fit(
    problem: JointProblem, learner: Learner, state: State, status: Status, history: tuple[Record, ...], seconds: float
) -> DictionaryFit:
    """Code the data once more, exactly, and say what that point is worth."""
    state = learner.better_end(problem, state)
    bias, dictionary = learner.bias(state.offset), state.dictionary.cpu()
    warm = state.place.codes.codes if state.place is not None else None
    tol = FINAL_TOL if state.place is None else min(FINAL_TOL, state.place.codes.tol)
    started = time.perf_counter()
    codes = encode_rows(
        problem.X, dictionary, problem.lam, bias=bias, tol=tol, warm=warm, device=learner.device,
        group=learner.group,
    )  # fmt: skip
    if state.place is not None and state.place.codes.value < codes.value:  # rounding: these were better already
        codes = state.place.codes
    if status is Status.CERTIFIED and relative_gap(codes.value, learner.ground.floor) > GLOBAL_TOL:
        status = Status.STALLED  # the loop's value was that of sums, which cancel where data are far from the bias
    statistics = learner.statistics(problem, codes.codes)
    stationarity = statistics.stationarity(state.dictionary, state.offset, problem.lam)
    drift = None
    if problem.bias_is_free:
        drift = learner.group.same_number(statistics.bias_residual(state.dictionary, state.offset, problem.lam))
    return DictionaryFit(
        problem=problem, dictionary=dictionary.numpy(), bias=bias.numpy(), codes=codes, floor=learner.ground.floor,
        stationarity=learner.group.same(stationarity).cpu().numpy(), bias_residual=drift,
        least_curvature=state.least_curvature, status=status,
        tol=learner.tol, seed=learner.seed, history=history, seconds=seconds + time.perf_counter() - started,
        info={**state.counts, "device": str(learner.device)},
    )  # fmt: skip
