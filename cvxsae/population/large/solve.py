"""``solve_population``: dictionary, prices and bias that lower the population value, and what they attain."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Unpack

import numpy as np
from tqdm.auto import tqdm

from cvxsae.data import arguments
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.data.deadline import OutOfTime, until, whatever_the_time
from cvxsae.data.storage import fingerprint
from cvxsae.parallel.context import Run, Seeded, Steps, keywords
from cvxsae.population.large.floor import LargeFloor
from cvxsae.population.large.problem import PopulationDictionary
from cvxsae.population.large.result import PopulationDictionaryFit, held_out_of, require_floor_of
from cvxsae.population.large.rows import Facts, Pass, PricedDictionary, attained_on, pass_over
from cvxsae.population.large.steps import between, improved, new_atoms, shrunk
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.solution import Record, Status
from cvxsae.solvers.codes.evaluation import CONFIDENCE, level

PROBES = 4096
"""Rows whose residuals new atoms are searched in."""

SAMPLE_ROWS = 20_000
"""Rows on which a dictionary is grown before all rows are passed over."""

FEWEST_STARTS, MOST_STARTS = 128, 768
"""Directions from which new atoms are searched in a round: as many as there are atoms, within these limits."""

SETTLING = 6
"""Most passes between two changes of the number of atoms: later ones gain little of what new atoms gain."""

ROUNDS = 40
"""Most changes of the number of atoms."""

FINISHING = 40
"""Most passes after the last one."""

TIDYINGS = (1.0, 1.0, 0.1, 0.1, 0.01)
"""What a merged pair may cost at the end, in units of ``tol`` times the value, tried from the boldest."""

FURTHEST = 3.0
"""Longest step, in steps to the fixed point: where steps succeed they grow, as their direction changes slowly."""

GROWTH = 1.5
"""By which a step that lowered the value grows."""

SHORTENED = 0.3
"""By which one that did not is shortened."""

SHORTEST = 0.02
"""Step below which descent has ended."""


class SolvePopulationOptions(Steps, Seeded, total=False):
    """Options of :func:`solve_population` that it shares with other verbs."""


@keywords(SolvePopulationOptions)
def solve_population(
    X: ActivationsLike,
    problem: PopulationDictionary,
    *,
    held_out: ActivationsLike | None = None,
    floor: LargeFloor | None = None,
    confidence: float = CONFIDENCE,
    sample_rows: int = SAMPLE_ROWS,
    tol: float = 1e-4,
    **options: Unpack[SolvePopulationOptions],
) -> PopulationDictionaryFit:
    """Find a dictionary of as many atoms as a distribution wants, each paying for the share of tokens that use it.

    Passes over the rows alternate with steps: exact codes at weights ``S_k/θ_k`` and ridges ``τ̄/θ_k``, then atoms and
    bias that are best for these codes, better prices, pairs of atoms merged and atoms removed where that pays, and new
    atoms in the directions in which the residual's polar exceeds λ (T13). What a pass attains is evaluated on all of
    its rows, from the codes; a step that does not lower it is shortened. The search is local, as every dictionary's is.

    Parameters
    ----------
    X
        Rows (N, d): anything :class:`~cvxsae.Activations` accepts; read in blocks. Memory is that of a block of
        rows and of K × K and K × d sums, besides a sample.
    problem
        λ, atom price and bias.
    held_out
        Rows (M, d) that nothing is learned on; with them, the fit has an upper limit for the distribution.
    floor
        What :func:`large_floor` says of the same problem: of these rows (``of="rows"``), or of the distribution.
    confidence
        Of the joint statement.
    sample_rows
        Rows on which the dictionary is grown before all are passed over.
    tol
        Relative decrease of the value per round, or per pass at the end, below which the search ends; and how much of
        it may be given up for fewer atoms.
    device, max_seconds, progress, callback
        As in :func:`cvxsae.solve`. Past the time, the best dictionary so far is evaluated on all rows and returned.
    max_steps
        Most passes over rows, those over the sample included.
    seed
        Of the sample and of where new atoms are searched.

    Returns
    -------
    PopulationDictionaryFit
        Its ``value`` is attained on the rows given, by codes that :meth:`PopulationDictionaryFit.encode` makes again.

    Raises
    ------
    InputError
        For arguments that cannot be used, and for a floor of another problem or of other rows.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxsae.population import PopulationDictionary, solve_population
    >>> X = np.repeat(np.eye(3), 20, axis=0)
    >>> fit = solve_population(X, PopulationDictionary(0.1, 0.01, bias=None))
    >>> fit.n_atoms, [round(float(share), 3) for share in fit.shares]
    (3, [0.333, 0.333, 0.333])
    """
    data = Activations(X)
    run = Run.start(options, SolvePopulationOptions)
    arguments.instance(problem, "problem", PopulationDictionary, "a PopulationDictionary")
    problem.bias_for(data.shape[1])
    aside = None if held_out is None else Activations(held_out, name="held_out")
    print_of_rows = fingerprint(data)
    if floor is not None:
        require_floor_of(floor, problem, print_of_rows)
    sample = arguments.count(sample_rows, "sample_rows")
    search = Search(problem, run, arguments.nonnegative(tol, "tol"))
    confidence = level(confidence)
    best, sure = search.whole(data, sample), run.inner().without_limit()
    with whatever_the_time():
        attained = attained_on(data, best, problem.lam, sure)
        apart = None if aside is None else held_out_of(aside, best, attained, problem, sure)
    return PopulationDictionaryFit(
        problem=problem,
        priced=best,
        attained=attained,
        held_out=apart,
        floor=floor,
        confidence=confidence,
        fingerprint=print_of_rows,
        status=search.status,
        history=tuple(search.history),
        seconds=time.perf_counter() - search.started,
        new_atom_ratio=search.ratio,
        passes=search.passes,
    )


@dataclass
class Search:
    """The search, with what it has seen.

    Attributes
    ----------
    problem, run, tol
        What was asked for.
    best, lowest
        The best point on the rows last passed over, and what it attained; None before one pass was finished.
    status, history, passes, ratio
        How it ended, what passes attained, their number, and the largest polar over λ found at the end.
    """

    problem: PopulationDictionary
    run: Run
    tol: float
    best: PricedDictionary | None = None
    status: Status = Status.STATIONARY
    history: list[Record] = field(default_factory=list)
    passes: int = 0
    ratio: float = float("nan")
    lowest: float = math.inf

    def __post_init__(self) -> None:
        self.started, self.quiet = time.perf_counter(), self.run.inner()
        self.bar = tqdm(disable=not self.run.progress, desc="population dictionary", unit="pass")

    def whole(self, X: Activations, sample_rows: int) -> PricedDictionary:
        """Grow on a sample where there are more rows, then descend on all of them."""
        nothing = PricedDictionary(np.zeros((0, X.shape[1])), self._center(X), np.zeros(0), np.zeros(0))
        try:
            with until(self.run.last_moment):
                if len(X) > sample_rows:
                    rows = np.sort(np.random.default_rng(self.run.seed).choice(len(X), sample_rows, replace=False))
                    sample = Activations(X[rows].to_tensor())
                    self.grow(Facts.of(sample, self.problem, PROBES), nothing)
                    self.finish(Facts.of(X, self.problem, PROBES), self.best or nothing)
                else:
                    facts = Facts.of(X, self.problem, PROBES)
                    self.grow(facts, nothing)
                    self.finish(facts, self.best or nothing)
        except OutOfTime:
            self.status = Status.TIME_LIMIT
        except KeyboardInterrupt:
            if not self.run.is_outermost:
                raise
            self.status = Status.INTERRUPTED
        finally:
            self.bar.close()
        return self.best or nothing

    def _center(self, X: Activations) -> np.ndarray:
        """The bias of zero codes."""
        return WideLimit(X, self.problem.lam, bias=self.problem.bias_for(X.shape[1]).public).starting_bias().numpy()

    def _is_over(self) -> bool:
        """Whether a limit has been met; notes which."""
        if self.run.is_late:
            self.status = Status.TIME_LIMIT
        elif self.run.max_steps is not None and self.passes >= self.run.max_steps:
            self.status = Status.MAX_ITER
        return self.status is not Status.STATIONARY

    def grow(self, facts: Facts, start: PricedDictionary) -> None:
        """Settle, merge, remove and add, until nothing pays."""
        best, point = math.inf, start
        for round_ in range(ROUNDS):
            here = self.settled(facts, point, SETTLING)
            if here is None or here.value >= best * (1 - self.tol):
                return
            best = here.value
            if self._is_over():
                return
            starts = min(max(FEWEST_STARTS, here.priced.n_atoms), MOST_STARTS)
            fresh, self.ratio = new_atoms(here.residuals, self.problem, self.run.seed + round_, starts)
            fewer = shrunk(here, self.problem, facts)
            if not fresh.n_atoms and fewer.n_atoms == here.priced.n_atoms:
                return
            point = fewer.with_atoms(fresh)

    def finish(self, facts: Facts, start: PricedDictionary) -> None:
        """Descend with the atoms there are, then with fewer as long as that costs no more than ``tol``."""
        self.lowest = math.inf
        here = None if self._is_over() else self.settled(facts, start, FINISHING)
        if here is None:
            return
        ceiling = here.value * (1 + self.tol)
        for share in TIDYINGS:
            if self._is_over():
                break
            fewer = shrunk(here, self.problem, facts, share * self.tol * here.value)
            again = None if fewer.n_atoms == here.priced.n_atoms else self.settled(facts, fewer, FINISHING)
            if again is not None and again.value <= ceiling:
                here = again
        self.best = here.priced
        if not self._is_over():
            _, self.ratio = new_atoms(here.residuals, self.problem, self.run.seed, FEWEST_STARTS)

    def settled(self, facts: Facts, start: PricedDictionary, most: int) -> Pass | None:
        """Passes and steps with the atoms there are, until a pass gains less than ``tol``: the best pass."""
        best = self._passed(facts, start)
        if best is None or not start.n_atoms:
            return best
        goal, length = improved(best, self.problem, facts), 1.0
        for _ in range(most - 1):
            if self._is_over():
                break
            here = self._passed(facts, between(best.priced, goal, length))
            if here is None:
                break
            if here.value < best.value:
                gained, best = best.value - here.value, here
                if gained <= self.tol * best.value and length >= 1:
                    break
                goal, length = improved(best, self.problem, facts), min(FURTHEST, length * GROWTH)
            else:
                length = min(1.0, length) * SHORTENED if length <= 1 else 1.0
                if length < SHORTEST:
                    break
        return best

    def _passed(self, facts: Facts, point: PricedDictionary) -> Pass | None:
        """One pass over the rows; None if the time ran out in it."""
        here = pass_over(facts, point, self.problem, self.quiet)
        if not here.is_whole:
            return None
        self.passes += 1
        record = Record(self.passes, time.perf_counter() - self.started, here.value, 0.0)
        self.history.append(record)
        self.bar.set_postfix_str(f"{point.n_atoms} atoms, value {here.value:.6g}", refresh=False)
        self.bar.update()
        if here.value < self.lowest:
            self.lowest, self.best = here.value, point
        if self.run.callback is not None:
            self.run.callback(record)
        return here
