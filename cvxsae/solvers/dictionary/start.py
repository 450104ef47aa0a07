"""Where dictionary learning starts: directions of datapoints, seen from the bias of the wide limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import scipy.sparse as sp
import torch

from cvxsae.data import arguments, tensors
from cvxsae.data.arguments import InputError
from cvxsae.parallel.context import Run
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.shared import share_wide_limit
from cvxsae.solvers.codes.encode import encode_rows
from cvxsae.solvers.convex.driver import run_loop
from cvxsae.solvers.convex.wide_newton import WideLimitNewton
from cvxsae.solvers.dictionary.moves import replace_atoms
from cvxsae.solvers.dictionary.result import DictionaryFit
from cvxsae.solvers.dictionary.sample import ResidualSample, sample_here, sample_rows
from cvxsae.solvers.dictionary.spheres import random_directions, unit
from cvxsae.solvers.dictionary.state import DataSummary, unit_length

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64
    from numpy.typing import ArrayLike

    from cvxsae.parallel.group import ProcessGroup

SAME = 1e-9
"""Directions that agree to so much are one."""

LEAST_GROWTH = 32
"""Atoms added at a time to a dictionary with some missing, at least."""

GROWTH = 2
"""Atoms added at a time, at most: one for so many that are there, so that codes see what was added before."""

FILL_TOL = 2e-2
"""Relative gap of the codes between two such rounds."""

SCAN_TOL = 1e-9
"""Relative gap to which the wide limit is solved."""

Init: TypeAlias = "DictionaryFit | ArrayLike | torch.Tensor | tuple[Any, Any] | None"
"""Where to start: a fit, a dictionary (K', d) with K' ≤ K, or a dictionary and a bias."""


def summarize(problem: JointProblem, run: Run, group: ProcessGroup) -> tuple[DataSummary, Float64[np.ndarray, " d"]]:
    """The lower bound and its bias, and the sums of the data measured from there."""
    wide = share_wide_limit(WideLimit(problem.X, problem.lam, problem.bias), group)
    scan, device = run_loop(WideLimitNewton(group), wide, SCAN_TOL, run.inner().without_limit()), run.device
    bias = problem.fixed_bias() if not problem.bias_is_free else scan.primal.bias.cpu()
    total, energy = torch.zeros(problem.dim, dtype=torch.float64), 0.0
    for batch in problem.X.batches():
        shifted = batch.cpu() - bias
        total += shifted.sum(dim=0)
        energy += float(shifted.square().sum())
    (total,), n_points = group.sum(total), int(group.total(problem.n_points))
    bound = scan.dual.scan.lower_bound
    summary = DataSummary(bias.to(device), total.to(device), group.total(energy), bound, n_points)
    return summary, np.ascontiguousarray(bias.numpy())


def starting_point(
    problem: JointProblem,
    bias: Float64[np.ndarray, " d"],
    init: Init,
    seed: int,
    device: torch.device,
    group: ProcessGroup,
) -> tuple[Float64[np.ndarray, "K d"], Float64[np.ndarray, " d"], bool]:
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
    problem: JointProblem,
    dictionary: Float64[np.ndarray, "k d"],
    bias: Float64[np.ndarray, " d"],
    seed: int,
    device: torch.device,
) -> Float64[np.ndarray, "K d"]:
    """Add the atoms that lower F most (T7, T8), in rounds with exact codes between them, up to the problem's width."""
    rng = np.random.default_rng(seed)
    rows = sample_rows(problem.n_points, problem.dim)
    data = problem.X if len(rows) == problem.n_points else problem.X[rows]
    points = data.to_numpy() - bias
    length = unit_length(float(np.square(points).sum(axis=1).mean()))
    while len(dictionary) < problem.n_atoms:
        wanted = min(problem.n_atoms - len(dictionary), max(LEAST_GROWTH, len(dictionary) // GROWTH))
        here = SparseCodes.of_unit_rows(data, torch.from_numpy(dictionary), problem.lam, torch.from_numpy(bias))
        codes = encode_rows(here, Run(device=device, is_outermost=False), tol=FILL_TOL).codes
        residuals = ((points - codes @ dictionary) / length).astype(np.float32)
        padded = np.concatenate([dictionary, random_directions(wanted, problem.dim, rng)])
        empty = sp.csr_array((len(points), wanted))
        found = replace_atoms(
            ResidualSample(residuals, None, length),
            sp.csr_array(sp.hstack([codes, empty], format="csr")),
            padded,
            problem.lam,
            at_most=wanted,
            seed=seed + len(dictionary),
            device=device,
        )
        if found is None:  # no residual is longer than λ: this dictionary is optimal at any width (T7)
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
