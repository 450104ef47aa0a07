"""Exact sparse codes for a fixed dictionary, datapoint by datapoint, each with its duality gap."""

from __future__ import annotations

import time
from typing import Any, Unpack

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike

from cvxsae.data import arguments
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.data.arguments import Bias
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Kept, Run, keywords
from cvxsae.parallel.group import group_of
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.activity import Activity, certain_activity
from cvxsae.solvers.codes.correlation import FIXED_BIAS, centered
from cvxsae.solvers.codes.engines import ENGINES, engine_name, make_engine
from cvxsae.solvers.codes.engines.calibration import ladder
from cvxsae.solvers.codes.engines.prices import Prices
from cvxsae.solvers.codes.engines.products import PRECISIONS
from cvxsae.solvers.codes.engines.screening import PreparedDictionary
from cvxsae.solvers.codes.engines.state import Tuning
from cvxsae.solvers.codes.kept import KeptBlocks
from cvxsae.solvers.codes.plan import LEAST_MEMORY, MEMORY_LIMIT, Job, Plan
from cvxsae.solvers.codes.result import Codes
from cvxsae.solvers.codes.rounds import BlockCodes

SMALLEST_TOL = 1e-13
"""Least relative gap that can be asked for: a few hundred units of rounding, which is what a certificate adds."""


DECIDING_TOLS = (1e-9, 1e-12)
"""Relative gaps to which undecided datapoints are coded again: the first decides most; the last, all but ties."""


class EncodeOptions(Compute, Kept, total=False):
    """Options of :func:`encode`: how it runs, and the prices of codes."""

    weights: ArrayLike | torch.Tensor | None
    """What each atom's code costs, in units of λ, (K,); None for 1."""
    ridge: ArrayLike | torch.Tensor | None
    """Ridge of each atom's code, in units of λ, (K,); None for 0."""
    precision: str | None
    """Of the products that screen: ``"int8"``, ``"bfloat16"``, ``"tf32"`` or ``"float32"``; None for the fastest."""


@keywords(EncodeOptions)
def encode(
    X: ActivationsLike,
    dictionary: ArrayLike | torch.Tensor,
    lam: float,
    *,
    bias: ArrayLike | torch.Tensor | None = None,
    tol: float = 1e-4,
    warm_start: Any = None,
    engine: str = "auto",
    memory_limit: int = MEMORY_LIMIT,
    **options: Unpack[EncodeOptions],
) -> Codes:
    """Compute the exact nonnegative sparse codes of every datapoint, certified (theory.md §1).

    It solves ``min_{z ≥ 0} ½‖x − b − Σ_k z_k d_k‖² + λ Σ_k z_k`` for every row x of X, to a relative duality gap of at
    most ``tol`` for *every* datapoint.
    With ``weights`` w and ``ridge`` ρ the penalty is ``λ Σ_k (w_k z_k + ½ρ_k z_k²)``.
    Values are in units of (P): with the ½, sums over features, means per datapoint.

    Parameters
    ----------
    X
        Data (N, d): arrays, tensors, memory maps, files or batches, whatever :class:`cvxsae.Activations` takes.
        Read in blocks; zero and duplicate rows are legal. Of data that ``ProcessGroup.shard`` shared out,
        every process codes its own rows: ``warm_start`` and the arrays returned are of those, the rest is the same in
        all.
    dictionary
        Atoms (K, d), rows of any non-zero norm; duplicates are legal. Codes are for the rows scaled to norm 1;
        :meth:`Codes.for_own_rows` gives them for the rows as passed.
    lam
        Penalty λ > 0. It scales with the data: see ``lambda_ratio`` of the result.
    bias
        ``None`` (zero) or a fixed array (d,).
    tol
        Relative duality gap per datapoint, (value − lower bound)/value, from 1e-13 to 1.
    warm_start
        Codes (N, K) to start from: a :class:`Codes`, or a sparse array of codes for atoms of norm 1.
    engine
        ``"auto"``, ``"fused"`` (numba, CPU), ``"torch"`` (any device) or ``"triton"`` (CUDA; never chosen by
        ``"auto"``, since it has yet to run on a GPU). All give codes that pass the same certificate.
    memory_limit
        Working memory in bytes, besides the data, four copies of the dictionary (six with weights or a ridge) and the
        codes themselves.
    weights
        What each atom's code costs, in units of λ and for atoms of norm 1, (K,), from 1e-12 to 1e12; None for 1.
    ridge
        Ridge of each atom's code, in the same units, (K,), zero or more; None for 0. The engine ``"triton"`` takes
        neither.
    precision
        Of the products that screen atoms: ``"int8"``, ``"bfloat16"``, ``"tf32"`` (CUDA) or ``"float32"``. None, the
        default, takes what is fastest here, by a measurement of milliseconds that is kept in the user's cache folder.
        A precision that is too coarse for a datapoint is followed by finer ones; the certificate is in float64
        whatever it is, and ``info["precisions"]`` says what was used.
    device
        Where to compute; the CPU by default.
    max_seconds
        Stop after this time and return what is finished, as after Ctrl-C. Compiling counts.
    progress
        Show a progress bar on stderr.
    folder
        Where finished blocks are kept, each with a checksum. A later call with the same data, dictionary, λ, bias,
        weights, ridge and ``tol`` resumes from them, whatever its engine, threads or memory limit.

    Returns
    -------
    Codes
        Its ``gaps`` are the certificate: the dual point is the residual, recomputed in float64 from the codes
        returned and scaled into ``{y : D y ≤ λ}``; every atom that the bounded error of a low-precision
        product could not exclude was recomputed in float64, and the rounding of all that is added to the gap.
        ``status`` is ``STALLED`` if some datapoint could not be certified to ``tol``, and ``INTERRUPTED`` after
        Ctrl-C: then datapoints not ``done`` have zero codes and the (true) gap 1.

    Raises
    ------
    InputError
        For data, dictionary, bias or options that cannot be used, or that are not the same in all processes; the
        sentence says what to do.
    GroupError
        If another process failed.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxsae import encode
    >>> codes = encode(np.array([[3.0, 0.0], [0.0, -1.0]]), np.eye(2), lam=1.0)
    >>> codes.codes.toarray().round(6).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    data = Activations(X)
    group = group_of(data)
    with group.guard():
        run = Run.start(options, EncodeOptions, group=group)
        problem = SparseCodes(
            data,
            dictionary,
            lam,
            bias=Bias.fixed(bias, data.shape[1], FIXED_BIAS).vector,
            weights=options.get("weights"),
            ridge=options.get("ridge"),
        )
        tol = relative_gap_asked(tol)
        arguments.choice(engine, "engine", ENGINES)
        memory = arguments.count(memory_limit, "memory_limit", least=LEAST_MEMORY)
        precision = options.get("precision")
        if precision is not None:
            arguments.choice(precision, "precision", PRECISIONS)
        warm = warm_codes(warm_start, problem)
        asked = {"dictionary": problem.atoms, "lam": problem.lam, "bias": problem.bias, "tol": tol}
        asked |= {"weights": problem.weights, "ridge": problem.ridge, "precision": precision}
        group.agree(call="encode", d=problem.dim, dtype=data.dtype, **asked)
        return encode_rows(problem, run, tol=tol, warm=warm, engine=engine, memory_limit=memory, precision=precision)


def relative_gap_asked(tol: float, name: str = "tol") -> float:
    """Check a relative gap."""
    tol = arguments.positive(tol, name)
    if not SMALLEST_TOL <= tol <= 1:
        raise InputError(f"{name} is {tol:g}; it is a relative gap, pass a number from {SMALLEST_TOL:g} to 1.")
    return tol


def encode_rows(
    problem: SparseCodes,
    run: Run,
    *,
    tol: float = 1e-4,
    warm: sp.csr_array | None = None,
    engine: str = "auto",
    memory_limit: int = MEMORY_LIMIT,
    precision: str | None = None,
) -> Codes:
    """:func:`encode` for arguments that have been checked, at a fixed bias.

    Past the deadline of ``run``, what is finished is returned, as after Ctrl-C; but Ctrl-C itself passes through an
    inner call: it has no use for codes that are zero where none were computed.
    """
    problem.X.require_unchanged()  # blocks are read one by one, and no pass over all of them compares
    name, started = engine_name(engine, run.device.type, has_prices=problem.has_prices), time.perf_counter()
    kept = None if run.folder is None else KeptBlocks(run.folder, problem, tol)
    job: Job | None = None
    precisions: tuple[str, ...] = ()
    try:
        prices = Prices.of(problem, run.device)
        prepared = PreparedDictionary(problem.atoms, run.device, uses=problem.n_points, prices=prices)
        plan = Plan.for_limit(problem.n_points, prepared, memory_limit, name)
        rungs = ladder(prepared, precision, threads=plan.threads)
        precisions = tuple(rung.precision for rung in rungs)
        tuning = Tuning(tol, rows=plan.rows, ladder=rungs)
        job = Job(problem, prepared, plan, warm=warm, kept=kept)
        make_engine(name, prepared, tuning).warm_up()
        started = time.perf_counter()
        ended = job.run(name, tuning, run)
        blocks = job.all_blocks()
    except KeyboardInterrupt:  # before the first block, or after the last
        if not problem.group.is_alone:
            raise
        ended = Status.INTERRUPTED
        data = () if job is not None else problem.X.batches()
        zeros = [BlockCodes.of_zeros(centered(block, problem).numpy() / problem.lam) for block in data]
        blocks = zeros if job is None else job.all_blocks()
    if ended is Status.INTERRUPTED and not run.is_outermost:
        raise KeyboardInterrupt
    seconds = time.perf_counter() - started
    info = {"engine": name, "device": str(run.device), "precisions": ", ".join(precisions)}
    return Codes.of_blocks(problem, blocks, tol=tol, ended=ended, seconds=seconds, info=info)


def decided_activity(problem: SparseCodes, codes: sp.csr_array, run: Run) -> Activity:
    """Which codes are active, as far as can be decided: undecided datapoints are coded again more and more exactly.

    What is not decided when the deadline of ``run`` has passed stays undecided. An interrupt passes through.
    """
    found, run = certain_activity(problem, codes, run), run.inner()
    for tol in DECIDING_TOLS:
        rows = np.flatnonzero(found.undecided_per_point)
        if not len(rows) or run.is_late:
            break
        bias = problem.bias if isinstance(problem.bias, torch.Tensor) else None
        part = SparseCodes.of_unit_rows(problem.X[rows], problem.atoms, problem.lam, bias, problem)
        exact = encode_rows(part, run, tol=tol, warm=sp.csr_array(codes[rows]))
        found = found.replaced(rows, certain_activity(part, exact.codes, run))
    return found


def warm_codes(warm_start: Any, problem: SparseCodes, name: str = "warm_start") -> sp.csr_array | None:
    """Check codes to start from: :class:`Codes` or a sparse array (N, K)."""
    if warm_start is None:
        return None
    n, K = problem.n_points, problem.n_atoms
    codes: Any = warm_start.codes if isinstance(warm_start, Codes) else warm_start
    sparse = bool(sp.issparse(codes))
    if not sparse:
        raise InputError(f"{name} is a {type(codes).__name__}; pass Codes or a scipy sparse array of shape ({n}, {K}).")
    if codes.shape != (n, K):
        raise InputError(f"{name} has shape {codes.shape}; there are {n} datapoints and {K} atoms.")
    rows = sp.csr_array(codes)
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    if not np.isfinite(rows.data).all():
        raise InputError(f"{name} holds NaN or infinite codes; pass finite ones.")
    return rows
