"""The sums over data, dictionary and exact codes that the optimality conditions need, from one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Float64, Int64
from tqdm import tqdm

from cvxsae.data import arguments
from cvxsae.data.activations import ActivationsLike
from cvxsae.data.arguments import BiasLike
from cvxsae.data.deadline import OutOfTime, until
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Run, keywords
from cvxsae.parallel.group import all_rows
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.joint.active_gram import ActiveSolver, CodePattern
from cvxsae.solvers.codes.activity import Activity
from cvxsae.solvers.codes.encode import decided_activity, encode_rows, relative_gap_asked, warm_codes
from cvxsae.solvers.codes.result import Codes

CODE_TOL = 1e-12
"""Relative gap to which codes are computed before conditions are checked to 1e-6."""

LEAST_FIRINGS = 10
"""A feature active on fewer datapoints says little about others: it is measured, and never heads a ranking."""

_ROWS = 4096
"""Datapoints in a block: enough for the products to run at full speed, few enough to stay in cache."""

_PRODUCT_ENTRIES = 2**23
"""Most entries of a block of products ``d_k·r_n``: 64 MB in float64."""

_CODES_SHARE = 0.5
"""Share of a time limit that codes may take: the sums need time too."""

_MOMENTS = ("count", "x", "r", "e", "xx", "xr", "xe", "rr", "ee")
"""Fields of :class:`Moments`, in the order in which their sums are kept."""

_DOUBLE_ENTRIES = 2**26
"""Residuals with more entries are kept in single precision (statistics are summed in double all the same)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Sums over half of the datapoints, for regressions of the residual on the data.

    Attributes
    ----------
    count
        Datapoints in this half.
    x, r, e
        Sums of ``x − b`` (d,), of the residual r (d,) and of ``e = ‖r‖``.
    xx, xr, xe
        Sums of ``(x − b)(x − b)ᵀ`` and ``(x − b)rᵀ``, (d, d), and of ``e(x − b)``, (d,).
    rr, ee
        Sums of ``‖r‖²`` and of e².
    """

    count: int
    x: Float64[np.ndarray, " d"]
    r: Float64[np.ndarray, " d"]
    e: float
    xx: Float64[np.ndarray, "d d"]
    xr: Float64[np.ndarray, "d d"]
    xe: Float64[np.ndarray, " d"]
    rr: float
    ee: float


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureStatistics:
    """Exact codes of a dictionary on data, and their sums. ``E_k[f] = Σ_n z_nk f_n / S_k``; NaN for dead features.

    Attributes
    ----------
    codes
        The codes with their certificates.
    activity
        Which of them are active at every optimum: L0 and dead features, as far as they are certain.
    dictionary
        Unit-norm atoms, (K, d) float64 on the CPU.
    bias
        (d,) float64; zeros if none was given.
    lam
        Penalty λ.
    residuals
        ``r_n = x_n − b − z_n D``, (N, d) on the compute device; float32 beyond 2²⁶ entries.
    residual_norms
        ``‖r_n‖``, (N,).
    shrinkage
        ``‖λ D_Aᵀ G_A⁻¹ 1‖²`` of every datapoint, (N,): the part of ``‖r_n‖²`` that which atoms are active determines
        (T2).
    counts
        On how many datapoints each feature is active, (K,).
    mass
        ``S_k/N``, (K,).
    mean_residual, mean_data
        ``E_k[r]`` and ``E_k[x − b]``, (K, d).
    standard_error
        Of ``E_k[r]/λ``, as the ratio of two sums over datapoints (delta method): the root of the trace of its
        covariance, (K,). NaN for features that fire fewer than twice.
    mean_bias_residual
        ``mean_n r_n``, (d,).
    largest_ratio
        ``max_n d_k·r_n/λ``, (K,): at most 1 at exact codes; how close a dead feature is to firing.
    energies
        Means over datapoints of ``‖x − b‖²``, ``‖x̂‖²`` and ``x̂·(x − b)``.
    second_moment
        ``mean_n r_n r_nᵀ``, (d, d).
    halves
        Moments of the even and of the odd datapoints.
    dependent
        Datapoints whose active atoms are linearly dependent: their codes need not be unique.
    """

    codes: Codes
    activity: Activity
    dictionary: Float64[torch.Tensor, "K d"]
    bias: Float64[np.ndarray, " d"]
    lam: float
    residuals: Float[torch.Tensor, "N d"]
    residual_norms: Float64[np.ndarray, " N"]
    shrinkage: Float64[np.ndarray, " N"]
    counts: Int64[np.ndarray, " K"]
    mass: Float64[np.ndarray, " K"]
    mean_residual: Float64[np.ndarray, "K d"]
    mean_data: Float64[np.ndarray, "K d"]
    standard_error: Float64[np.ndarray, " K"]
    mean_bias_residual: Float64[np.ndarray, " d"]
    largest_ratio: Float64[np.ndarray, " K"]
    energies: tuple[float, float, float]
    second_moment: Float64[np.ndarray, "d d"]
    halves: tuple[Moments, Moments]
    dependent: int

    @property
    def n_points(self) -> int:
        """Number of datapoints N."""
        return len(self.residual_norms)

    @property
    def n_atoms(self) -> int:
        """Width K."""
        return len(self.counts)

    @property
    def live(self) -> np.ndarray:
        """Whether each feature fires anywhere, (K,)."""
        return self.counts > 0

    @property
    def has_evidence(self) -> np.ndarray:
        """Features that fire on enough datapoints to be ranked, (K,): on ten, or on a tenth of all."""
        return self.counts >= max(1, min(LEAST_FIRINGS, self.n_points // 10))

    @property
    def density(self) -> Float64[np.ndarray, " K"]:
        """Share of the datapoints on which each feature is active, (K,)."""
        return self.counts / self.n_points

    def activations(self, feature: int) -> tuple[Int64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
        """Datapoints on which a feature is active, and its codes there."""
        column: Any = self.codes.codes[:, [arguments.index(feature, "feature", self.n_atoms)]].tocoo()
        return column.row.astype(np.int64), column.data


def require_statistics(statistics: Any) -> FeatureStatistics:
    """Refuse anything else."""
    return arguments.instance(statistics, "statistics", FeatureStatistics, "what feature_statistics returned")


@keywords(Compute)
def feature_statistics(
    X: ActivationsLike,
    dictionary: Any,
    lam: float,
    *,
    bias: BiasLike = None,
    codes: Any = None,
    code_tol: float = CODE_TOL,
    **options: Unpack[Compute],
) -> FeatureStatistics:
    """Encode the data and compute sums of the codes: two passes over the data, one of them :func:`~cvxsae.encode`.

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.Activations` accepts.
    dictionary
        Atoms as rows, (K, d), any norm but zero.
    lam
        Penalty λ > 0 of (P).
    bias
        None (zero) or an array (d,).
    codes
        Codes to start from, not trusted: :class:`~cvxsae.results.Codes` or sparse (N, K) for atoms of norm 1.
    code_tol
        Relative gap of every datapoint's codes.
    options
        ``device``, ``max_seconds`` (half of it for the codes) and ``progress``. Where time runs out, ``codes.done``
        says which datapoints have no exact codes.

    Returns
    -------
    FeatureStatistics
        Memory: the residuals (as large as the data), codes, and a few arrays (K, d) and (d, d).

    Raises
    ------
    InputError
        For arguments that cannot be used, and a ``max_seconds`` that passed before the sums were complete.
    KeyboardInterrupt
        On Ctrl-C: conditions mean nothing where codes are not exact.
    """
    run = Run.start(options, Compute)
    problem, tol = at_one_bias(X, dictionary, lam, bias), arguments.positive(code_tol, "code_tol")
    with never_too_late():
        return measured(problem, codes, tol, run)


def at_one_bias(X: ActivationsLike, dictionary: Any, lam: float, bias: BiasLike) -> SparseCodes:
    """The coding problem whose solution the conditions are about; a free bias is refused."""
    if isinstance(bias, str):
        raise InputError(
            f"bias is {bias!r}, but conditions are checked at one bias; pass its value, "
            "and trained_bias=True if it was optimized along with the dictionary."
        )
    return SparseCodes(all_rows(X), dictionary, lam, bias=bias)


def exact_codes(problem: SparseCodes, start: Any, tol: float, run: Run) -> Codes:
    """Exact codes, from codes that are not trusted. An interrupt passes through: partial codes would mislead."""
    inner = replace(run.inner(), progress=run.progress)
    return encode_rows(problem, inner, tol=relative_gap_asked(tol, "code_tol"), warm=warm_codes(start, problem))


def measured(problem: SparseCodes, start: Any, tol: float, run: Run) -> FeatureStatistics:
    """:func:`feature_statistics` of a problem at a fixed bias, from codes that are not trusted.

    Raises
    ------
    OutOfTime
        If time was over before the sums were complete.
    """
    codes = exact_codes(problem, start, tol, run.inner(share=_CODES_SHARE) if math.isfinite(run.deadline) else run)
    with until(run.last_moment):
        return _Pass(problem, codes, run).sums()


@contextmanager
def never_too_late() -> Iterator[None]:
    """Say in one sentence that there was no time for the sums of :func:`measured`."""
    try:
        yield
    except OutOfTime as late:
        raise InputError(
            "max_seconds passed before the sums over all datapoints were complete, and parts of them mean nothing; "
            "raise it or pass fewer rows."
        ) from late


class _Pass:
    """The sums, while they grow."""

    def __init__(self, problem: SparseCodes, codes: Codes, run: Run) -> None:
        device = run.device
        self.data, self.codes, self.device, self.run = problem.X, codes, device, run
        self.offset = problem.fixed_bias().to(device)
        self.rows, self.dictionary = problem.atoms, problem.atoms.to(device)
        n, d = self.data.shape
        precision = torch.float64 if n * d <= _DOUBLE_ENTRIES else torch.float32
        self.residuals = torch.empty((n, d), dtype=precision, device=device)
        self.norms, self.shrinkage = np.zeros(n), np.zeros(n)
        K = problem.n_atoms

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.weighted_residual, self.weighted_data, self.residual_sum = zeros(K, d), zeros(K, d), zeros(d)
        self.squares_residual, self.squares_length = zeros(K, d), zeros(K)
        self.second, self.largest = zeros(d, d), zeros(K) - float("inf")
        self.energies = np.zeros(3)
        self.halves = [[0, zeros(d), zeros(d), 0.0, zeros(d, d), zeros(d, d), zeros(d), 0.0, 0.0] for _ in range(2)]
        self.dependent = 0

    def sums(self) -> FeatureStatistics:
        start = 0
        with tqdm(total=len(self.data), unit="points", disable=not self.run.progress, desc="statistics") as bar:
            for batch in self.data.batches(rows=_ROWS, device=self.device):
                self._add(start, batch - self.offset)
                start += len(batch)
                bar.update(len(batch))
        n = len(self.data)
        mass = np.asarray(self.codes.codes.sum(axis=0)).ravel()
        divisor = np.where(mass > 0, mass, np.nan)[:, None]
        counts = np.bincount(self.codes.codes.indices, minlength=len(self.rows)).astype(np.int64)
        mean_residual = self.weighted_residual.cpu().numpy() / divisor
        return FeatureStatistics(
            codes=self.codes,
            activity=decided_activity(self.codes.problem, self.codes.codes, self.run),
            dictionary=self.rows,
            bias=self.offset.cpu().numpy(),
            lam=self.codes.lam,
            residuals=self.residuals,
            residual_norms=self.norms,
            shrinkage=self.shrinkage,
            counts=counts,
            mass=mass / n,
            mean_residual=mean_residual,
            standard_error=self._standard_error(mean_residual, counts, divisor[:, 0]),
            mean_data=self.weighted_data.cpu().numpy() / divisor,
            mean_bias_residual=(self.residual_sum / n).cpu().numpy(),
            largest_ratio=self.largest.cpu().numpy() / self.codes.lam,
            energies=(float(self.energies[0]) / n, float(self.energies[1]) / n, float(self.energies[2]) / n),
            second_moment=(self.second / n).cpu().numpy(),
            halves=(self._half(0), self._half(1)),
            dependent=self.dependent,
        )

    def _standard_error(
        self, mean: Float64[np.ndarray, "K d"], counts: Int64[np.ndarray, " K"], mass: Float64[np.ndarray, " K"]
    ) -> Float64[np.ndarray, " K"]:
        """``√(Σ_n z² ‖r_n − E_k[r]‖²)/S_k``, enlarged for the degree of freedom that the mean takes; in units of λ."""
        lam = self.codes.lam
        squares: Float64[np.ndarray, " K"] = np.asarray((self.codes.codes / lam).power(2).sum(axis=0)).ravel()
        crossed = (self.squares_residual.cpu().numpy() * (mean / lam)).sum(axis=1)
        apart = self.squares_length.cpu().numpy() - 2 * crossed + squares * np.square(mean / lam).sum(axis=1)
        freedom = np.where(counts > 1, counts / np.maximum(counts - 1, 1), np.nan)
        return np.sqrt(np.maximum(apart, 0) * freedom) / (mass / lam)

    def _add(self, start: int, x: Float64[torch.Tensor, "n d"]) -> None:
        part = slice(start, start + len(x))
        block: sp.csr_array = self.codes.codes[part]
        pattern = CodePattern(block, self.device)
        values = torch.from_numpy(block.data).to(self.device)
        reconstruction = pattern.times(values, self.dictionary)
        r = x - reconstruction
        norms = torch.linalg.vector_norm(r, dim=1)
        self.residuals[part] = r.to(self.residuals.dtype)
        self.norms[part] = norms.cpu().numpy()
        solver = ActiveSolver(pattern, self.dictionary)
        shrunk = solver.solve(torch.full_like(values, self.codes.lam**2))
        owner = pattern.indices[0]
        self.shrinkage[part] = norms.new_zeros(len(x)).index_add_(0, owner, shrunk).cpu().numpy()
        self.dependent += solver.singular
        self.weighted_residual += pattern.transposed_times(values, r)
        self.weighted_data += pattern.transposed_times(values, x)
        squares = (values / self.codes.lam).square()
        self.squares_residual += pattern.transposed_times(squares, r / self.codes.lam)
        self.squares_length += pattern.transposed_times(squares, (norms / self.codes.lam).square()[:, None])[:, 0]
        self.residual_sum += r.sum(dim=0)
        self.second += r.T @ r
        self.energies += [
            float((a * b).sum()) for a, b in ((x, x), (reconstruction, reconstruction), (reconstruction, x))
        ]
        for rows in torch.split(r, max(1, _PRODUCT_ENTRIES // len(self.dictionary))):
            self.largest = torch.maximum(self.largest, (rows @ self.dictionary.T).amax(dim=0))
        for half, sums in enumerate(self.halves):
            first = (half - start) % 2
            self._add_moments(sums, x[first::2], r[first::2], norms[first::2])

    @staticmethod
    def _add_moments(sums: list[Any], x: torch.Tensor, r: torch.Tensor, e: torch.Tensor) -> None:
        first = (len(x), x.sum(dim=0), r.sum(dim=0), float(e.sum()))
        second = (x.T @ x, x.T @ r, x.T @ e, float(r.square().sum()), float(e.square().sum()))
        for place, new in enumerate(first + second):
            sums[place] += new

    def _half(self, half: int) -> Moments:
        values: list[Any] = [v.cpu().numpy() if isinstance(v, torch.Tensor) else v for v in self.halves[half]]
        return Moments(**dict(zip(_MOMENTS, values, strict=True)))
