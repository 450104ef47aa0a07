"""The public function that bounds how far a dictionary is from the best of its width on the distribution (T17 c)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch

from cvxsae.data import arguments, splits
from cvxsae.data.arguments import Bias, BiasLike
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Kept, Run, Seeded, keywords
from cvxsae.population.batches import jobs_of
from cvxsae.population.cells import Question
from cvxsae.population.draws import draws_of
from cvxsae.population.floor import floor_of_draws, largest_norm_of, search_of
from cvxsae.population.floor_result import PopulationFloor
from cvxsae.population.gap_result import PopulationGap
from cvxsae.population.subject import Subject, held_out_rows
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.evaluation import CONFIDENCE, Evaluation, evaluation_of, level
from cvxsae.solvers.floors.search import FloorSizes
from cvxsae.statistics.means import bounded_mean

if TYPE_CHECKING:
    from cvxsae.data.activations import ActivationsLike
    from cvxsae.population.subject import Autoencoder
    from cvxsae.solvers.dictionary.result import DictionaryFit
    from cvxsae.statistics.estimates import Estimate

__all__ = ["PopulationGap", "population_gap"]

OWN = "own"
"""The width that a dictionary has itself."""

CODES = ("exact", "encoder")
"""With which codes the upper side is evaluated."""

CODES_TOL = 1e-4
"""Relative gap of exact codes, per row: what is not known of them is inside the upper limit."""

OF_FLOORS = ("batch", "n_batches", "jobs", "folder", "seed", "max_points", "max_dim")
"""Options that only the floor has a use for."""

UPPER_SHARE = 0.25
"""Part of the time left that the upper side may take where time is limited; floors have the rest."""


class PopulationGapOptions(Compute, Seeded, Kept, FloorSizes, total=False):
    """How :func:`population_gap` runs, and how the batches of the floor are drawn."""

    codes: str
    """With which codes: ``"exact"`` (what the dictionary is worth), or ``"encoder"``, those of the SAE's encoder."""
    batch: int | None
    """Rows of a batch of the floor, as in :func:`population_floor`."""
    n_batches: int | None
    """How many batches, as in :func:`population_floor`."""
    largest_norm: float | None
    """A norm that no row of the distribution exceeds, as in :func:`population_floor`; for both sides."""
    jobs: int | None
    """Batches at a time, as in :func:`population_floor`."""


@keywords(
    PopulationGapOptions,
    codes="exact",
    batch=None,
    n_batches=None,
    largest_norm=None,
    jobs=None,
    max_points=None,
    max_dim=None,
)
def population_gap(
    X: ActivationsLike,
    dictionary: DictionaryFit | Autoencoder | tuple[Any, Any],
    lam: float | None = None,
    *,
    n_atoms: int | str | None = OWN,
    bias: BiasLike = "free",
    groups: Any = None,
    confidence: float = CONFIDENCE,
    floor: PopulationFloor | None = None,
    **options: Unpack[PopulationGapOptions],
) -> PopulationGap:
    """Bound how much any dictionary of K atoms can gain over this one on the distribution of the rows (T17 c).

    The upper side is the mean of its loss over rows that it has not seen, with an upper confidence limit; the lower
    side is that of :func:`population_floor`. The confidence is joint: either side is at ``1 − (1 − confidence)/2``, and
    the union bound needs no independence, so that both may use the same rows.

    Parameters
    ----------
    X
        Rows (N, d) that the dictionary was not learned on: anything :class:`~cvxsae.Activations` accepts. For an
        SAE as the model has them; where it normalizes them, everything is about the normalized rows.
    dictionary
        A :class:`~cvxsae.results.DictionaryFit`, a :class:`~cvxsae.SparseAutoencoder`, or a pair (dictionary, bias) of
        arrays (K, d) and (d,), None for a bias of zero.
    lam
        Penalty λ; None for that of the fit or the SAE.
    n_atoms
        Width of the dictionaries it is compared with: ``"own"``, a number, or None for every width.
    bias
        ``"free"``: the floor is for every bias. None or an array: for this bias alone, which must be the dictionary's.
    groups
        Which document each row is of, (N,); None if rows are independent. For both sides.
    confidence
        Of both limits together, between 0 and 1.
    floor
        A floor of the same distribution that is there already, for instance of many more rows or of a source, at this
        λ, width and bias: its limit is taken at the confidence of one side. None: from the batches of ``X``.
    codes
        ``"exact"``: what the dictionary is worth. ``"encoder"``: what the SAE costs with its own codes.
    batch, n_batches, largest_norm, jobs, max_points, max_dim, seed, folder
        As in :func:`population_floor`. With ``largest_norm`` the upper limit is an empirical Bernstein one too.
    device, max_seconds, progress
        A quarter of the time is for the upper side. Rows that are not coded in time have the value of zero codes.

    Returns
    -------
    PopulationGap
        Its ``gap`` holds for the distribution with the confidence asked for; NaN from fewer than two batches.

    Raises
    ------
    InputError
        For arguments that cannot be used, and for rows that the dictionary was learned on.
    KeyboardInterrupt
        On Ctrl-C before the first batch is done.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxsae.population import population_gap
    >>> rng = np.random.default_rng(0)
    >>> X = np.eye(4)[rng.integers(0, 4, 400)] * rng.uniform(1, 2, (400, 1))
    >>> found = population_gap(X, (np.eye(4), None), 0.1, n_atoms=None, bias=None, batch=50)
    >>> found.upper.high > found.lower.for_rows > found.lower.lower_limit
    True
    """
    start = time.perf_counter()
    run, side = Run.start(options, PopulationGapOptions), (1 + level(confidence)) / 2
    rows = held_out_rows(X)
    subject = Subject.of(dictionary, rows.shape[1])
    penalty, width = _penalty(lam, subject), _width(n_atoms, subject)
    codes = arguments.choice(options.get("codes", "exact"), "codes", CODES)
    known = largest_norm_of(options.get("largest_norm"), groups)
    if known is not None and codes == "encoder":
        raise InputError("largest_norm bounds the cost of exact codes, not of an encoder's; leave one of the two out.")
    question = Question(width, penalty, _floor_bias(bias, subject), known, search_of(options, width))
    one_side = _given_floor(floor, question, side, options)
    labels, seen = splits.document_labels(groups, len(rows)), subject.require_unseen(rows)
    data = subject.rows(rows)
    for block in data.batches() if known is not None else ():
        question.require_range(block, "X")
    jobs = jobs_of(options.get("jobs"))
    draws = (
        None
        if one_side is not None
        else draws_of(data, options.get("batch"), options.get("n_batches"), groups, run.seed)
    )
    if codes == "encoder":
        evaluated = subject.encoder_value(rows, penalty, labels, side)
    else:
        problem = SparseCodes(data, subject.dictionary, penalty, bias=subject.bias)
        coding = run.inner(share=UPPER_SHARE if draws is not None else 1.0)
        evaluated = evaluation_of(problem, coding, tol=CODES_TOL, groups=labels, confidence=side)
    upper = _upper(evaluated, Question(width or 1, penalty, Bias(torch.from_numpy(subject.bias)), known), side)
    if one_side is None:
        assert draws is not None
        one_side = floor_of_draws(draws, question, run, jobs, side)
    notes = (*subject.notes(), *(() if seen is None else (seen,)), *_coding_notes(evaluated))
    return PopulationGap(
        upper=upper,
        lower=one_side,
        confidence=2 * side - 1,
        n_points=len(rows),
        n_atoms=width,
        lam=penalty,
        codes=codes,
        l0=evaluated.l0,
        notes=notes,
        seconds=time.perf_counter() - start,
    )


def _upper(evaluated: Evaluation, question: Question, side: float) -> Estimate:
    """The upper limit of the expected loss: t, or empirical Bernstein where rows have known norms."""
    if question.range is None:
        return evaluated.limit("upper", side)
    return bounded_mean(evaluated.values, question.range, side, side="upper")


def _penalty(lam: float | None, subject: Subject) -> float:
    """The penalty that was asked for, or the dictionary's own."""
    if lam is None and subject.lam is None:
        raise InputError("lam is None but the dictionary has no penalty of its own; pass a number.")
    return arguments.penalty(subject.lam if lam is None else lam, "lam")


def _width(n_atoms: int | str | None, subject: Subject) -> int | None:
    """The width of the dictionaries that it is compared with."""
    if isinstance(n_atoms, str):
        arguments.choice(n_atoms, "n_atoms", (OWN,))
        return subject.width
    return None if n_atoms is None else arguments.count(n_atoms, "n_atoms")


def _floor_bias(value: BiasLike, subject: Subject) -> Bias:
    """The bias of the floor: free, or fixed at the dictionary's own."""
    bias = Bias.of(value, len(subject.bias))
    if bias.is_free or np.array_equal(bias.vector_or_zeros(len(subject.bias)).numpy(), subject.bias):
        return bias
    raise InputError("bias is fixed but differs from the dictionary's; pass bias='free', or the dictionary's own.")


def _given_floor(
    floor: PopulationFloor | None, question: Question, side: float, options: Mapping[str, Any]
) -> PopulationFloor | None:
    """A floor that was there already, at the confidence of one side.

    Raises
    ------
    InputError
        If it is about another λ, width or bias (a floor for more atoms, every width or every bias serves too), or if
        options say how to compute one.
    """
    if floor is None:
        return None
    given = arguments.instance(floor, "floor", PopulationFloor, "what population_floor returned")
    for name in OF_FLOORS:
        if options.get(name) is not None:
            raise InputError(f"{name} says how a floor is computed but floor is one already; leave one of them out.")
    facts: Mapping[str, tuple[Any, Any]] = {
        "lam": (given.lam, question.lam),
        "n_atoms": (given.n_atoms, question.n_atoms),
    }
    is_wider = given.n_atoms is None or (question.n_atoms is not None and given.n_atoms >= question.n_atoms)
    for name, (theirs, ours) in facts.items():
        if theirs != ours and not (name == "n_atoms" and is_wider):
            raise InputError(f"floor is for {name} {theirs} but here it is {ours}; pass a floor for the same.")
    if not given.bias_is_free and not _is_same(given.bias, question.bias):
        raise InputError("floor is for a fixed bias but here it is another or free; pass a floor for bias='free'.")
    return replace(given, confidence=side)


def _is_same(given: Any, bias: Bias) -> bool:
    """Whether a fixed bias, None or a vector, is this one."""
    if bias.is_free:
        return False
    dim = next((len(one) for one in (given, bias.vector) if one is not None), 0)
    return np.array_equal(Bias.of(given, dim).vector_or_zeros(dim).numpy(), bias.vector_or_zeros(dim).numpy())


def _coding_notes(evaluated: Evaluation) -> tuple[str, ...]:
    """What coding did not get done."""
    if evaluated.status is Status.CERTIFIED:
        return ()
    return (f"coding of the held-out rows ended early ({evaluated.status.message}), which the upper limit takes in",)
