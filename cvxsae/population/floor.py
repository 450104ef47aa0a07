"""The public function that bounds the loss of every dictionary on the distribution that rows are drawn from (T17 a)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

from cvxsae.data import arguments
from cvxsae.data.arguments import Bias, BiasLike
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Kept, Run, Seeded, keywords
from cvxsae.population.batches import floor_batches, jobs_of
from cvxsae.population.cells import Question
from cvxsae.population.draws import Draws, RandomDraws, draws_of
from cvxsae.population.floor_result import PopulationFloor
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.evaluation import CONFIDENCE, level
from cvxsae.solvers.floors.search import FloorSearch, FloorSizes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cvxsae.data.sources import BatchSource

__all__ = ["PopulationFloor", "population_floor"]

RANGE_OF_ROWS = "largest_norm is for independent rows; batches of documents have no known size, leave it out."
"""Why a range of the floors is of no use for documents."""


class PopulationFloorOptions(Compute, Seeded, Kept, FloorSizes, total=False):
    """How :func:`population_floor` runs, and what is known of the rows."""

    largest_norm: float | None
    """A norm that no row of the distribution exceeds, known beforehand: the limit is an empirical Bernstein one."""
    jobs: int | None
    """Batches at a time, in processes of their own, as in :class:`joblib.Parallel`; None for one, in this process."""


@keywords(PopulationFloorOptions, largest_norm=None, jobs=None, max_points=None, max_dim=None)
def population_floor(
    X: BatchSource,
    n_atoms: int | None,
    lam: float,
    *,
    bias: BiasLike = "free",
    batch: int | None = None,
    n_batches: int | None = None,
    groups: Any = None,
    confidence: float = CONFIDENCE,
    **options: Unpack[PopulationFloorOptions],
) -> PopulationFloor:
    """Compute a lower confidence limit of ``F*_K(P)``, the least expected loss of any dictionary of K atoms.

    For a batch S of rows of the distribution P, ``E[ min_{D,b} F_S(D, b) ] ≤ min_{D,b} F_P(D, b)``, because on a batch
    the best dictionary for that batch is at least as good as the best one for all (T17 a). So certified floors of
    independent batches (T9, T10, T14, T15) are, in expectation, below ``F*_K(P)``, and a lower confidence limit of
    their mean is a lower confidence limit of ``F*_K(P)``. The referee (:func:`~cvxsae.certify`) checks every floor
    before it counts.

    Parameters
    ----------
    X
        Anything :class:`~cvxsae.Activations` accepts, (N, d): batches are disjoint and drawn at random. Or an
        iterable of (m, d) batches, finite or without an end, or a function that returns one: batches are consecutive
        rows then. Rows must be independent draws, or in documents that are (``groups``); of a source, such that batches
        are independent of each other (shuffled tokens).
    n_atoms
        Width K; None for the floor of every width (the wide limit T9).
    lam
        Penalty λ > 0, chosen without looking at these rows.
    bias
        ``"free"``: for every bias. None (zero) or an array (d,): for this bias alone; the floor is higher then.
    batch
        Rows of a batch. Bigger batches have higher floors and take longer, more batches a limit closer to their mean.
        Default: an eighth of the rows, at most 4,000.
    n_batches
        How many batches; None for as many as there are rows for. A source without an end needs it (or ``max_seconds``).
    groups
        Which document each row is of, (N,): integers or strings. Then batches are equally many whole documents, of
        about ``batch`` rows, and the limit is that of a ratio
        (:func:`~cvxsae.statistics.means.ratio_interval`, T17 d).
    confidence
        Of the lower limit, between 0 and 1.
    largest_norm
        A norm R that no row of the distribution exceeds, known beforehand and not read off the rows. Floors then lie
        between 0 and ``½R²`` (fixed bias: ``½(R + ‖b‖)²``; all widths: ``h_λ`` instead of the square), and the
        limit is an empirical Bernstein one, valid at every number of batches. It takes dozens of batches to be of use.
    jobs
        Batches at a time, in processes of their own.
    max_points, max_dim
        Of the floor of a width in every batch, as in :func:`cvxsae.width_floor`; refused for every width.
    seed
        Of the batches, and of the search for every floor.
    folder
        Where finished batches are kept, each with what proves it, which is gone through again when it is read. A later
        call resumes from there, also with more batches, and several processes or machines may share the folder, each
        doing what is missing.
    device, max_seconds, progress
        After ``max_seconds`` or Ctrl-C the batches done by then count, with the (lower) limit of so few. Batches are
        taken in a fixed order and only those before the first unfinished one count, so that the choice does not depend
        on their floors, only on how long they take.

    Returns
    -------
    PopulationFloor
        Its ``lower_limit`` holds for the distribution with the confidence asked for, ``for_rows`` for the rows in the
        batches for certain. From fewer than two batches there is no confidence, and it says so.

    Raises
    ------
    InputError
        For arguments that cannot be used.
    KeyboardInterrupt
        On Ctrl-C before the first batch is done.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxsae.population import population_floor
    >>> X = np.random.default_rng(0).standard_normal((400, 3)) + 5
    >>> floor = population_floor(X, None, 0.5, bias=None, batch=50)
    >>> len(floor.batches), bool(floor.lower_limit < floor.for_rows < 0.5 * np.linalg.norm(X, axis=1).mean())
    (8, True)
    """
    start = time.perf_counter()
    run = Run.start(options, PopulationFloorOptions)
    jobs, sure = jobs_of(options.get("jobs")), level(confidence)
    width = None if n_atoms is None else arguments.count(n_atoms, "n_atoms")
    penalty, known = arguments.penalty(lam, "lam"), largest_norm_of(options.get("largest_norm"), groups)
    draws = draws_of(X, batch, n_batches, groups, run.seed)
    question = Question(width, penalty, _bias(bias, draws), known, search_of(options, width))
    found = floor_of_draws(draws, question, run, jobs, sure)
    return replace(found, seconds=time.perf_counter() - start)


def floor_of_draws(draws: Draws, question: Question, run: Run, jobs: int, confidence: float) -> PopulationFloor:
    """The floor of batches. An interrupt passes through unless this is the outermost call and a batch is done."""
    start = time.perf_counter()
    done = floor_batches(draws, question, run, jobs)
    return PopulationFloor(
        batches=done.floors,
        n_atoms=question.n_atoms,
        lam=question.lam,
        bias=_public(question.bias),
        confidence=confidence,
        unit=draws.unit,
        order=draws.order,
        range=question.range,
        left_over=draws.left_over(),
        status=done.status,
        notes=tuple(_notes(draws, question, len(done.floors), done.status)),
        seconds=time.perf_counter() - start,
    )


def _public(bias: Bias) -> Any:
    """A bias as the caller wrote it, in numpy."""
    return "free" if bias.is_free else None if bias.vector is None else bias.vector.numpy().copy()


def search_of(options: Mapping[str, Any], n_atoms: int | None) -> FloorSearch:
    """How floors are built; refuses what only floors of a width have, where they are of every width."""
    sizes: dict[str, Any] = {name: options.get(name) for name in ("max_points", "max_dim")}
    for name, size in sizes.items():
        if size is not None and n_atoms is None:
            raise InputError(f"{name} is for the floor of a width, but n_atoms is None; leave it out.")
    return FloorSearch.of(**sizes)


def largest_norm_of(value: Any, groups: Any) -> float | None:
    """Check what is known of the norms."""
    if value is None:
        return None
    if groups is not None:
        raise InputError(RANGE_OF_ROWS)
    return arguments.positive(value, "largest_norm")


def _bias(value: BiasLike, draws: Draws) -> Bias:
    """The bias; of a source, the dimension is not known before its first batch, which checks it."""
    if isinstance(draws, RandomDraws):
        return Bias.of(value, draws.data.shape[1])
    return Bias.of(value, getattr(value, "shape", (0,))[0] if not isinstance(value, str) and value is not None else 0)


def _notes(draws: Draws, question: Question, done: int, status: Status | None) -> Iterable[str]:
    """What else has to be known."""
    asked = draws.total()
    if draws.order == "source":
        yield (
            "batches are consecutive rows of the source: every row must have the distribution that is meant, and "
            "batches must be independent of each other, as those of shuffled rows are"
        )
    if draws.unit == "document":
        yield "documents are the units, so that rows of one document may depend on each other (T17 d)"
    if question.largest_norm is not None:
        yield f"it is assumed that no row of the distribution is longer than {question.largest_norm:g}"
    if status is not None:
        of = "" if asked is None else f" of {asked}"
        ended = "the time was over" if status is Status.TIME_LIMIT else "the call was interrupted"
        yield (
            f"{ended} after {done}{of} batches in their fixed order, so that which ones count depends on how long they "
            "take and not on their floors"
        )
    elif asked is not None and done < asked:
        yield f"the source ended after {done} of {asked} batches"
