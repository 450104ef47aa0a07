"""The start of dictionary learning: directions of datapoints, seen from the bias of the wide limit."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from cvxsae.data import tensors
from cvxsae.data.arguments import Bias
from cvxsae.data.deadline import OutOfTime, until
from cvxsae.errors import InputError
from cvxsae.parallel.context import Run
from cvxsae.parallel.group import ProcessGroup
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.encode import encode_rows
from cvxsae.solvers.dictionary.many_starts import WIDEST, ManyStarts
from cvxsae.solvers.dictionary.moves import replace_atoms
from cvxsae.solvers.dictionary.result import DictionaryFit
from cvxsae.solvers.dictionary.sample import ResidualSample, sample_here, sample_rows
from cvxsae.solvers.dictionary.spheres import random_directions, unit
from cvxsae.solvers.dictionary.state import DataSummary, unit_length

SAME = 1e-9
"""Directions that agree to so much are one."""

LEAST_GROWTH = 32
"""Atoms added at a time to a dictionary with some missing, at least."""

GROWTH = 2
"""Atoms added at a time, at most: one for so many that are there, so that codes see what was added before."""

FILL_TOL = 2e-2
"""Relative gap of the codes between two such rounds."""

Init: TypeAlias = "DictionaryFit | ArrayLike | torch.Tensor | tuple[Any, Any] | None"
"""Where to start: a fit, a dictionary (K', d) with K' ≤ K, or a dictionary and a bias."""


@dataclass(frozen=True)
class Given:
    """A start that was given, checked.

    Attributes
    ----------
    dictionary
        Unit-norm atoms, (k, d) with k at most the problem's width.
    bias
        (d,), or None where none was given.
    """

    dictionary: Float64[np.ndarray, "k d"]
    bias: Float64[np.ndarray, " d"] | None = None

    @classmethod
    def of(cls, init: Init, problem: JointProblem) -> Given | None:
        """Check ``init``; None for none."""
        if init is None:
            return None
        if isinstance(init, DictionaryFit):
            init = (init.dictionary, init.bias)
        atoms, bias = init if isinstance(init, tuple) and len(init) == 2 else (init, None)
        rows = tensors.unit_rows(atoms, "init", problem.dim)[0].cpu().numpy()
        if len(rows) > problem.n_atoms:
            raise InputError(f"init has {len(rows)} atoms but n_atoms is {problem.n_atoms}; pass at most as many.")
        if bias is None:
            return cls(rows)
        vector = Bias.of(bias, problem.dim).vector
        if vector is None:
            raise InputError("init holds a bias that is not an array; pass (dictionary, bias) or the dictionary alone.")
        return cls(rows, np.ascontiguousarray(vector.numpy()))


def starting_point(
    problem: JointProblem, summary: DataSummary, given: Given | None, run: Run
) -> tuple[Float64[torch.Tensor, "K d"], Float64[torch.Tensor, " d"]]:
    """Dictionary and offset to start from, on the run's device, the same in all processes."""
    group, origin = problem.group, summary.origin.cpu()
    bias = origin.numpy()
    if given is None:
        atoms = datapoint_directions(problem, bias, run.seed, group)
        if problem.n_atoms <= WIDEST and group.is_alone:
            return _best_of_many(problem, summary, torch.from_numpy(atoms), run)
    else:
        if given.bias is not None and problem.bias_is_free:
            bias = given.bias
        atoms = given.dictionary
        group.agree(init=atoms, bias=bias)
        if len(atoms) < problem.n_atoms:
            atoms = _filled(problem, atoms, bias, run)
    offset = torch.from_numpy(bias).to(run.device) - summary.origin
    return group.same(torch.from_numpy(atoms)).to(run.device), offset


def _best_of_many(
    problem: JointProblem, summary: DataSummary, atoms: Float64[torch.Tensor, "K d"], run: Run
) -> tuple[Float64[torch.Tensor, "K d"], Float64[torch.Tensor, " d"]]:
    """Atoms and offset that alternating minimization from many starts ends lowest at."""
    starts = ManyStarts()
    points = problem.X.spread(starts.most_points).to_tensor(device=summary.origin.device) - summary.origin
    rng = np.random.default_rng(run.seed)
    free = problem.bias_is_free
    best = starts.best(points.cpu(), atoms, problem.lam, rng, bias_is_free=free)
    return best[0].to(run.device), best[1].to(run.device)


def _filled(
    problem: JointProblem, atoms: Float64[np.ndarray, "k d"], bias: Float64[np.ndarray, " d"], run: Run
) -> Float64[np.ndarray, "K d"]:
    """:func:`fill` on the sample of all processes' rows, by the first of them."""
    group = problem.group
    if group.is_alone:
        return fill(problem, atoms, bias, run)
    chosen = sample_here(problem.n_points, problem.dim, group)
    points = problem.X[chosen].to_numpy() if len(chosen) else np.zeros((0, problem.dim))
    filled: Float64[np.ndarray, "K d"] = group.on_first(
        points,
        lambda parts: fill(JointProblem(np.concatenate(parts), problem.n_atoms, problem.lam), atoms, bias, run),
    )
    return filled


def fill(
    problem: JointProblem, dictionary: Float64[np.ndarray, "k d"], bias: Float64[np.ndarray, " d"], run: Run
) -> Float64[np.ndarray, "K d"]:
    """Add the atoms that lower F most (T7, T8), in rounds with exact codes between them, up to the problem's width.

    Past the deadline, random directions are added.
    """
    rng = np.random.default_rng(run.seed)
    rows = sample_rows(problem.n_points, problem.dim)
    data = problem.X if len(rows) == problem.n_points else problem.X[rows]
    points = data.to_numpy() - bias
    length = unit_length(float(np.square(points).sum(axis=1).mean()))
    while len(dictionary) < problem.n_atoms:
        wanted = min(problem.n_atoms - len(dictionary), max(LEAST_GROWTH, len(dictionary) // GROWTH))
        at = SparseCodes.of_unit_rows(data, torch.from_numpy(dictionary), problem.lam, torch.from_numpy(bias))
        coded = encode_rows(at, run, tol=FILL_TOL)
        found = None
        if coded.status is not Status.TIME_LIMIT:
            residuals = ((points - coded.codes @ dictionary) / length).astype(np.float32)
            padded = np.concatenate([dictionary, random_directions(wanted, problem.dim, rng)])
            empty = sp.csr_array((len(points), wanted))
            with suppress(OutOfTime), until(run.deadline):
                found = replace_atoms(
                    ResidualSample(residuals, None, length),
                    sp.csr_array(sp.hstack([coded.codes, empty], format="csr")),
                    padded,
                    problem.lam,
                    at_most=wanted,
                    seed=run.seed + len(dictionary),
                    device=run.device,
                )
        if found is None:  # no residual is longer than λ: this dictionary is optimal at any width (T7); or it is late
            missing = problem.n_atoms - len(dictionary)
            return np.concatenate([dictionary, random_directions(missing, problem.dim, rng)])
        old = len(dictionary)
        dictionary = np.concatenate([found.dictionary[:old], found.dictionary[sorted(found.replaced)]])
    return dictionary


def datapoint_directions(
    problem: JointProblem, origin: Float64[np.ndarray, " d"], seed: int, group: ProcessGroup
) -> Float64[np.ndarray, "K d"]:
    """K distinct directions of datapoints, drawn with probability ∝ ``(‖x_n − b‖ − λ)_+``.

    Those are the codes of the wide limit (T9): with as many atoms as distinct directions of datapoints longer than λ
    the start is its optimum already. What the data cannot fill is drawn at random. Processes draw from
    their own datapoints, in the order of exponential clocks: the first of all are among the first of each, so the
    start is the same for any number of them.
    """
    rng = np.random.default_rng(seed)
    excess = np.concatenate(
        [
            torch.linalg.vector_norm(batch.cpu() - torch.from_numpy(origin), dim=1).numpy()
            for batch in problem.X.batches()
        ]
    )
    excess = np.maximum(excess - problem.lam, 0.0)
    # The order of a weighted draw without replacement: exponential clocks.
    clocks = np.full(len(excess), np.inf)
    long = excess > 0
    first, total = group.places(int(long.sum()))
    clocks[long] = rng.exponential(size=total)[first : first + int(long.sum())] / excess[long]
    order = np.argsort(clocks, kind="stable")[: int(long.sum())]
    atoms = np.zeros((0, problem.dim))
    times = np.zeros(0)
    taken = 0
    while len(atoms) < problem.n_atoms and taken < len(order):
        rows = order[taken : taken + 2 * (problem.n_atoms - len(atoms))]
        taken += len(rows)
        fresh = unit(_rows(problem, rows) - origin)
        atoms, times = np.concatenate([atoms, fresh]), np.concatenate([times, clocks[rows]])
        kept = _first_of_each(atoms)[: problem.n_atoms]
        atoms, times = atoms[kept], times[kept]
    if not group.is_alone:
        drawn, clock = zip(*group.gather((atoms, times)), strict=True)
        atoms = np.concatenate(drawn)[np.argsort(np.concatenate(clock), kind="stable")]
        atoms = atoms[_first_of_each(atoms)][: problem.n_atoms]
    missing = problem.n_atoms - len(atoms)
    return np.concatenate([atoms, random_directions(missing, problem.dim, rng)])


def _rows(problem: JointProblem, rows: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, "n d"]:
    order = np.argsort(rows)
    found = np.empty((len(rows), problem.dim))
    found[order] = problem.X[rows[order]].to_numpy()
    return found


def _first_of_each(atoms: Float64[np.ndarray, "m d"]) -> Int64[np.ndarray, " k"]:
    """Indices of atoms that no earlier one equals to nine digits, in order."""
    _, first = np.unique(np.round(atoms / SAME), axis=0, return_index=True)
    kept: Int64[np.ndarray, " k"] = np.sort(first).astype(np.int64)
    return kept
