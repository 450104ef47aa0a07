"""A lower bound, from batches, on the cost of every dictionary on a distribution or on very many rows.

For n rows drawn from the population, ``E[(L) at surcharge n τ̄] / n`` is at most the value of the population problem.
*Proof.* Restrict the optimum to the rows drawn; what has to be shown is ``E √(s² + n τ̄ q) ≤ n θ`` for the sums s, q of
z and z² over them. With ``ŝ = s/n`` and ``q̂ = q/n`` it is ``n √ŝ √(ŝ + τ̄ q̂/ŝ)``, so by Cauchy and Schwarz at most
``n √(E ŝ · (E ŝ + τ̄ E[q̂/ŝ]))``; ``E ŝ = E z``, and ``E[q̂/ŝ] ≤ E z²/E z``: leaving one of the rows out lowers ``q/s``
on average, since ``Σ_i z_i (m − z_i)/(s − z_i) ≤ 0`` for ``m = q/s`` (the mean of m − z under the weights z is zero, it
falls in z, and 1/(s − z) rises). ∎ The same steps hold without replacement. It sharpens theory.md T17 (e), whose
surcharge is n τ̄ − 1.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack

import numpy as np
from tqdm.auto import tqdm

from cvxsae.data import arguments
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.data.storage import Folder, fingerprint
from cvxsae.data.storage import Kept as KeptRecord
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Kept, Run, Seeded, keywords
from cvxsae.parallel.threads import threads_for
from cvxsae.population.large.problem import PopulationDictionary
from cvxsae.relaxations.candidate import Candidate, candidate_from, shape_objections
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.evaluation import CONFIDENCE, level
from cvxsae.solvers.convex.driver import iterate
from cvxsae.solvers.convex.large.relaxation import DoublyNonnegative, PairState
from cvxsae.solvers.convex.large.rounding import require_memory
from cvxsae.solvers.convex.solve import choose, solved
from cvxsae.statistics.means import bounded_mean, mean_interval

if TYPE_CHECKING:
    from jaxtyping import Float64

    from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
    from cvxsae.relaxations.solution import Solution
    from cvxsae.statistics.estimates import Estimate

POPULATIONS = ("distribution", "rows")
"""What a floor is of: the distribution that the rows are independent draws of, or these rows as the whole."""

LARGEST_BATCH = 5_000
"""Most rows of a batch: its relaxation holds several N × N matrices, 200 MB each at this size."""


class LargeFloorOptions(Compute, Kept, Seeded, total=False):
    """Options of :func:`large_floor` that it shares with other verbs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LargeFloor:
    """Certified lower bounds of batches: their mean is, in expectation, below the value of every dictionary (T17 e).

    Attributes
    ----------
    problem
        The problem whose value they bound.
    bounds
        One certified lower bound a batch, per row, (m,).
    batch
        Rows of a batch.
    of
        ``"distribution"``: rows are independent draws of it, and no two batches share one. ``"rows"``: the given rows
        are the whole population, and each batch is drawn from all of them without replacement.
    n_rows
        Number of rows given.
    fingerprint
        Of the given rows.
    confidence
        Of :attr:`limit`.
    status
        ``CERTIFIED`` if all batches asked for were solved; otherwise why not.
    seconds
        Wall-clock time each batch took, (m,); as measured then, of batches found in the folder.
    """

    problem: PopulationDictionary
    bounds: Float64[np.ndarray, " m"]
    batch: int
    of: str
    n_rows: int
    fingerprint: str = field(repr=False)
    confidence: float
    status: Status
    seconds: Float64[np.ndarray, " m"] = field(repr=False)

    @property
    def value(self) -> float:
        """The mean of the bounds."""
        return float(self.bounds.mean())

    @property
    def limit(self) -> Estimate:
        """The lower confidence limit of the population's value, at :attr:`confidence`, by Student's t over batches."""
        return self.limit_at(self.confidence)

    def limit_at(self, confidence: float, within: tuple[float, float] | None = None) -> Estimate:
        """The lower confidence limit at another confidence, or by Bernstein where the bounds' range is known.

        Parameters
        ----------
        confidence
            Between 0 and 1.
        within
            The range that bounds are known to lie in, valid at any number of batches: from 0 to ``½ max ‖x − c‖²`` for
            any one point c, if the bias is free. None for Student's t.

        Raises
        ------
        InputError
            For a confidence that is none, or a bound outside the range.
        """
        chosen = level(confidence)
        if within is None:
            return replace(mean_interval(self.bounds, chosen, side="lower"), unit="sample")
        low, high = float(within[0]), float(within[1])
        if not low <= self.bounds.min() <= self.bounds.max() <= high:
            raise InputError(f"within is ({low:g}, {high:g}) but a bound lies outside; pass a range that holds them.")
        return bounded_mean(self.bounds, (low, high), chosen, side="lower", unit="sample")

    def to_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        return {
            "value": self.value,
            "limit": self.limit.to_dict(),
            "batch": self.batch,
            "n_batches": len(self.bounds),
            "of": self.of,
            "n_rows": self.n_rows,
            "lam": self.problem.lam,
            "atom_price": self.problem.atom_price,
            "status": self.status.name,
            "seconds": float(self.seconds.sum()),
        }

    def __str__(self) -> str:
        whole = "the distribution" if self.of == "distribution" else f"these {self.n_rows:,} rows"
        low = self.limit.low
        said = "one batch gives no limit" if np.isnan(low) else f"at {self.confidence:.4g} at least {low:.6g}"
        return (
            f"every dictionary on {whole} ({self.problem}): {said} "
            f"(mean {self.value:.6g} over {len(self.bounds)} batches of {self.batch:,} rows)"
        )


@keywords(LargeFloorOptions)
def large_floor(
    X: ActivationsLike,
    problem: PopulationDictionary,
    *,
    batch: int = 500,
    n_batches: int = 8,
    of: str = "distribution",
    confidence: float = CONFIDENCE,
    tol: float = 2e-3,
    **options: Unpack[LargeFloorOptions],
) -> LargeFloor:
    """Bound from below the cost of every dictionary of any width, on a distribution or on many rows (theory.md T17 e).

    Each batch is a large-dictionary problem of ``batch`` rows with surcharge ``batch · τ̄``, solved by the doubly
    nonnegative relaxation; its bound is a dual point made feasible with proof (T11), whatever the solver did.

    Parameters
    ----------
    X
        Rows (N, d): anything :class:`~cvxsae.Activations` accepts.
    problem
        λ, atom price and bias.
    batch
        Rows of a batch. Bigger batches give higher bounds: time grows as its cube, memory as its square.
    n_batches
        Number of batches; two or more for a confidence limit.
    of
        ``"distribution"`` (default): the rows are independent draws, and what is bounded is the value of the
        distribution; batches share no row, so there must be ``batch · n_batches`` rows. ``"rows"``: the rows are the
        whole population; batches are drawn independently of each other. Rows of one document are not independent draws.
    confidence
        Of the limit.
    tol
        Relative gap to the relaxation's optimum at which a batch ends. Any bound holds; this is how sharp it is.
    device, max_seconds, progress
        As in :func:`cvxsae.solve`. Past the time, the batches done are the answer.
    seed
        Of which rows are in which batch.
    folder
        Where dual points and proofs of finished batches are kept, two N × N matrices each at most; a later call with
        the same arguments judges them again, resumes from there, and may ask for more batches.

    Returns
    -------
    LargeFloor
        Its ``limit`` holds for every dictionary of every width with the confidence asked for.

    Raises
    ------
    InputError
        For arguments that cannot be used, and if there was no time for a single batch.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxsae.population import PopulationDictionary, large_floor
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> floor = large_floor(X, PopulationDictionary(0.5, 0.05), batch=20, n_batches=4)
    >>> bool(0 < floor.limit.low < floor.value), floor.limit.unit
    (True, 'sample')
    """
    data = Activations(X)
    run = Run.start(options, LargeFloorOptions)
    asked = _Batches.checked(data, problem, batch, n_batches, of, run.seed)
    return floor_of(asked, run, level(confidence), arguments.nonnegative(tol, "tol"))


@dataclass(frozen=True)
class _Batches:
    """Which rows are in which batch."""

    data: Activations
    problem: PopulationDictionary
    size: int
    count: int
    of: str
    seed: int

    @classmethod
    def checked(
        cls, data: Activations, problem: PopulationDictionary, size: int, count: int, of: str, seed: int
    ) -> _Batches:
        """Check what was asked for."""
        arguments.instance(problem, "problem", PopulationDictionary, "a PopulationDictionary")
        problem.bias_for(data.shape[1])
        arguments.choice(of, "of", POPULATIONS)
        size = arguments.count(size, "batch", most=LARGEST_BATCH)
        count = arguments.count(count, "n_batches")
        needed = size * count if of == "distribution" else size
        if needed > len(data):
            raise InputError(
                f"X has {len(data):,} rows and {count:,} batches of {size:,} rows need {needed:,}; lower batch or "
                "n_batches."
            )
        return cls(data, problem, size, count, of, seed)

    def rows(self, index: int) -> np.ndarray:
        """The rows of one batch, in order."""
        n = len(self.data)
        if self.of == "distribution":
            order = np.random.default_rng(self.seed).permutation(n)
            return np.sort(order[index * self.size : (index + 1) * self.size])
        return np.sort(np.random.default_rng((self.seed, index)).choice(n, self.size, replace=False))


def floor_of(batches: _Batches, run: Run, confidence: float, tol: float) -> LargeFloor:
    """:func:`large_floor` for arguments that have been checked."""
    print_of_rows = fingerprint(batches.data)
    kept = None if run.folder is None else Folder(run.folder, "bounds of batches", _asked(batches, print_of_rows, tol))
    found: list[tuple[float, float]] = []
    status = Status.CERTIFIED
    try:
        for index in tqdm(range(batches.count), disable=not run.progress, desc="large floor", unit="batch"):
            problem = batches.problem.on(batches.data[batches.rows(index)])
            known = _kept_bound(kept, index, problem)
            if known is not None:
                found.append(known)
                continue
            if run.is_late:
                status = Status.TIME_LIMIT
                break
            started = time.perf_counter()
            solution = bounded(problem, run.inner(), tol)
            if solution.status is Status.TIME_LIMIT:  # which batches are counted must not depend on how far they got
                status = Status.TIME_LIMIT
                break
            found.append((max(solution.lower_bound, 0.0), time.perf_counter() - started))
            if kept is not None:
                point = Candidate(bias=solution.bias, dual=solution.dual, proof=solution.proof)
                kept.write(_key(index), {"seconds": found[-1][1]}, point.arrays())
    except KeyboardInterrupt:
        if not run.is_outermost or not found:
            raise
        status = Status.INTERRUPTED
    if not found:
        raise InputError(f"max_seconds ran out before one batch of {batches.size:,} rows was solved; raise it.")
    numbers = np.array(found)
    return LargeFloor(
        problem=batches.problem,
        bounds=numbers[:, 0],
        batch=batches.size,
        of=batches.of,
        n_rows=len(batches.data),
        fingerprint=print_of_rows,
        confidence=confidence,
        status=status,
        seconds=numbers[:, 1],
    )


def _key(index: int) -> str:
    return f"batch-{index:06d}"


def _kept_bound(kept: Folder | None, index: int, problem: LargeDictionary) -> tuple[float, float] | None:
    """Bound and seconds of a batch that was solved before: computed again from its dual point and proof."""

    def judged(record: KeptRecord) -> tuple[float, float]:
        point = candidate_from(record.arrays, "the record")
        objections = shape_objections(point, problem.n_points, problem.dim)
        if objections or point.dual is None:
            raise ValueError(objections[0] if objections else "it holds no dual point")
        with threads_for(problem):
            return max(problem.lower_bound(point), 0.0), float(record.record["seconds"])

    return None if kept is None else kept.read_as(_key(index), judged)


def _asked(batches: _Batches, print_of_rows: str, tol: float) -> dict[str, Any]:
    bias = batches.problem.bias
    return {
        "data": print_of_rows,
        "lam": batches.problem.lam,
        "atom_price": batches.problem.atom_price,
        "bias": bias if bias is None or isinstance(bias, str) else fingerprint(np.asarray(bias)),
        "batch": batches.size,
        "of": batches.of,
        "seed": batches.seed,
        "tol": tol,
    }


@dataclass(frozen=True)
class _BoundOnly(DoublyNonnegative):
    """The splitting alone: no dictionary is looked for once the bound is there."""

    bound_stands: ClassVar[Literal[True]] = True

    def verdict(self, problem: LargeDictionary, state: PairState) -> Status | None:
        """When the splitting has ended."""
        if state.phase in ("descend", "split"):
            return None
        return Status.RELAXED if state.closed else Status.STALLED


def bounded(problem: LargeDictionary, run: Run, tol: float) -> Solution:
    """A solution with the best lower bound; whatever solves this problem, less what only improves the dictionary."""
    chosen = choose(problem, "auto", run)
    if chosen.name == DoublyNonnegative.name:
        problem.require_resolvable()
        require_memory(problem, run.device, remedy="pass a smaller batch")
        with threads_for(problem):
            return iterate(_BoundOnly(tol), problem, tol, run)
    return solved(problem, run, tol=tol)
