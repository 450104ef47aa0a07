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
from cvxsae.data.overlap import require_apart
from cvxsae.data.storage import fingerprint
from cvxsae.parallel.context import Run, Seeded, Steps, keywords
from cvxsae.population.large.directions import Found, new_atoms, ratio_on_all_rows
from cvxsae.population.large.floor import LargeFloor
from cvxsae.population.large.problem import PopulationDictionary
from cvxsae.population.large.result import PopulationDictionaryFit, held_out_of, require_floor_of
from cvxsae.population.large.rows import POLAR_TOL, Facts, Pass, PricedDictionary, attained_on, pass_over
from cvxsae.population.large.steps import between, improved, shrunk
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.solution import Record, Status
from cvxsae.solvers.codes.evaluation import CONFIDENCE, level

PROBES = 20_000
"""Most rows whose residuals new atoms are searched in: on fewer rows the polar is larger, since noise is fitted."""

PROBE_ENTRIES = 2**23
"""Most numbers of these rows: 64 MB in double precision."""

SAMPLE_ROWS = 20_000
"""Rows on which a dictionary is grown before all rows are passed over."""

ROWS_PER_ATOM = 16
"""Rows of a sample for each atom grown on it: with fewer, atoms memorize these rows."""

STARTS = 768
"""Directions from which new atoms are searched in a round."""

BOLD = 1e-3
"""Relative gain of what is found, codes of other atoms as they are, above which rounds glance and pass on quickly."""

BOLD_PASSES, SETTLING = 3, 6
"""Most passes in such a round and in others: later ones gain little of what new atoms gain."""

IDLE = 0.01
"""Gain of a round, in units of ``tol``, below which others would be of no use: the polar sees less than the value."""

ROUNDS = 40
"""Most changes of the number of atoms."""

LAST_STARTS = 64
"""Directions from which the polar is searched where a limit ended the search."""

CUT_SHORT = (Status.TIME_LIMIT, Status.MAX_ITER, Status.INTERRUPTED)
"""How a search ends that was not over."""

CYCLES = 5
"""Most times that descent with the atoms there are is followed by a search for others."""

FINISHING = 40
"""Most passes after the last one."""

TIDYINGS = (1.0, 1.0, 0.1, 0.1, 0.01)
"""What a merged pair may cost at the end, in units of ``tol`` times the value, tried from the boldest."""

FURTHEST = 8.0
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
    stationarity: float = 0.01,
    **options: Unpack[SolvePopulationOptions],
) -> PopulationDictionaryFit:
    """Find a dictionary with as many atoms as are worth a price that depends on the share of tokens that use them.

    Passes over the rows alternate with steps: exact codes at weights ``S_k/θ_k`` and ridges ``τ̄/θ_k``, then atoms and
    bias that are best for these codes, better prices, pairs of atoms merged and atoms removed where that pays, and new
    atoms in the directions in which the residual's polar exceeds λ (T13). What a pass attains is evaluated on all of
    its rows, from the codes; a step that does not lower it is shortened. The search ends where no direction is found
    in which the polar exceeds λ by a share ``stationarity``: elsewhere an atom with small enough codes pays. Both the
    search for dictionaries and that for directions are local, so the polar found is a lower bound of the polar.

    Parameters
    ----------
    X
        Rows (N, d): anything :class:`~cvxsae.Activations` accepts; read in blocks. Memory is that of a block of
        rows and of K × K and K × d sums, besides a sample and up to eight million codes.
    problem
        λ, atom price and bias.
    held_out
        Rows (M, d) that nothing is learned on; with them, the fit has an upper limit for the distribution. Refused
        where half of them or more are equal to rows of X.
    floor
        What :func:`large_floor` says of the same problem: of these rows (``of="rows"``), or of the distribution.
    confidence
        Of the joint statement.
    sample_rows
        Rows on which the dictionary is grown before all are passed over.
    tol
        Relative decrease of the value per round, or per pass at the end, below which the search ends; and how much of
        it may be given up for fewer atoms.
    stationarity
        Share by which the polar found may exceed λ at the end.
    device, max_seconds, progress, callback
        As in :func:`cvxsae.solve`. Past the time, the best dictionary so far is evaluated on all rows and returned.
    max_steps
        Most passes over rows, those over the sample included.
    seed
        Of the sample and of where new atoms are searched.

    Returns
    -------
    PopulationDictionaryFit
        Its ``value`` is attained on the given rows, by codes that :meth:`PopulationDictionaryFit.encode` makes again.

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
    if aside is not None and aside.shape[1] == data.shape[1]:
        require_apart(data, aside, "held_out")
    print_of_rows = fingerprint(data)
    if floor is not None:
        require_floor_of(floor, problem, print_of_rows)
    sample = arguments.count(sample_rows, "sample_rows")
    tol, stationarity = arguments.nonnegative(tol, "tol"), arguments.positive(stationarity, "stationarity")
    search = Search(problem, run, tol, stationarity)
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
    problem, run, tol, stationarity
        What was asked for.
    best, lowest
        The best point on the rows last passed over, and what it attained; None before one pass was finished.
    status, history, passes, ratio
        How it ended, what passes attained, their number, and the largest polar over λ found at the best point.
    length, rounds
        The step to begin with, in steps to the fixed point; searches for new atoms.
    is_on_all
        Whether the best point is that of all rows, not of a sample.
    """

    problem: PopulationDictionary
    run: Run
    tol: float
    stationarity: float
    best: Pass | None = None
    status: Status = Status.STATIONARY
    history: list[Record] = field(default_factory=list)
    passes: int = 0
    ratio: float = float("nan")
    lowest: float = math.inf
    length: float = 1.0
    rounds: int = 0
    is_on_all: bool = False

    def __post_init__(self) -> None:
        self.started, self.quiet = time.perf_counter(), self.run.inner()
        self.bar = tqdm(disable=not self.run.progress, desc="population dictionary", unit="pass")

    def whole(self, X: Activations, sample_rows: int) -> PricedDictionary:
        """Grow on a sample where there are more rows, then on all of them."""
        start = PricedDictionary(np.zeros((0, X.shape[1])), self._center(X), np.zeros(0), np.zeros(0))
        probes = min(PROBES, max(1, PROBE_ENTRIES // X.shape[1]))
        try:
            with until(self.run.last_moment):
                if len(X) > sample_rows:
                    rows = np.sort(np.random.default_rng(self.run.seed).choice(len(X), sample_rows, replace=False))
                    sample = Facts.of(Activations(X[rows].to_tensor()), self.problem, probes)
                    self._grow(sample, self._passed(sample, start), most=sample_rows // ROWS_PER_ATOM)
                    start = start if self.best is None else self.best.priced.from_zero()
                    self.lowest = math.inf
                self._solve(Facts.of(X, self.problem, probes), start)
        except OutOfTime:
            self.status = Status.TIME_LIMIT
        except KeyboardInterrupt:
            if not self.run.is_outermost:
                raise
            self.status = Status.INTERRUPTED
        finally:
            self.bar.close()
        if self.status in CUT_SHORT and self.is_on_all and self.best is not None:
            with whatever_the_time():
                found = new_atoms(self.best.residuals, self.problem, self.run.seed, LAST_STARTS)
                self.ratio = found.ratio
        return start if self.best is None else self.best.priced.from_zero()

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

    def _solve(self, facts: Facts, start: PricedDictionary) -> None:
        """Grow, descend with the atoms there are, and look again, until the polar found exceeds λ no more."""
        here = None if self._is_over() else self._passed(facts, start)
        before, self.is_on_all = math.inf, here is not None
        for _ in range(CYCLES):
            here = self._grow(facts, here)
            if here is None or self._is_over():
                return
            here = self._descended(facts, here, FINISHING)
            self.ratio = self._polar_ratio(facts, here)
            if self.ratio <= 1 + self.stationarity or here.value >= before * (1 - IDLE * self.tol):
                break
            before = here.value
        if here is None or self._is_over():
            return
        self._tidy(facts, here)
        if not self._is_over() and self.ratio > 1 + self.stationarity:
            self.status = Status.STALLED

    def _polar_ratio(self, facts: Facts, here: Pass) -> float:
        """The largest polar over λ found, on all rows, at codes more exact than those of a pass."""
        exact = pass_over(facts, here.priced, self.problem, self.quiet, tol=POLAR_TOL)
        here = exact if exact.is_whole else here
        found = self._searched(here, is_thorough=True)
        if len(facts.probes) == len(facts.X):
            return found.ratio
        point, rows = here.priced, here.residuals
        return ratio_on_all_rows(facts, point, self.problem, self.quiet, found.directions, rows)

    def _grow(self, facts: Facts, here: Pass | None, most: float = math.inf) -> Pass | None:
        """Add atoms, settle, merge and remove, until no polar exceeds λ, a round gains too little, or K is ``most``.

        Bold rounds come first: many atoms, few passes. Once these atoms gain little, searches are thorough and passes
        more.
        """
        is_bold = True
        for _ in range(ROUNDS):
            if here is None or self._is_over() or here.priced.n_atoms >= most:
                return here
            found = self._searched(here, is_thorough=not is_bold)
            if is_bold and found.gain <= BOLD * here.value:
                is_bold = False
                continue
            fewer = shrunk(here, self.problem, facts)
            if found.atoms.n_atoms or fewer.n_atoms < here.priced.n_atoms:
                again = self._settled(facts, fewer.with_atoms(found.atoms), BOLD_PASSES if is_bold else SETTLING)
                if again is None:
                    return here
                gained, here = max(0.0, here.value - again.value), min(here, again, key=lambda pass_: pass_.value)
                if gained > IDLE * self.tol * here.value:
                    continue
            if not is_bold:
                return here
            is_bold = False
        return here

    def _searched(self, here: Pass, *, is_thorough: bool) -> Found:
        """What a search for new atoms finds at this point."""
        self.rounds += 1
        seed, excess = self.run.seed + self.rounds, self.stationarity / 2
        return new_atoms(here.residuals, self.problem, seed, STARTS, excess=excess, is_thorough=is_thorough)

    def _tidy(self, facts: Facts, here: Pass) -> None:
        """Descend with fewer atoms as long as that costs no more than ``tol`` and leaves the polar where it was."""
        ceiling, refused = here.value * (1 + self.tol), 0.0
        for share in TIDYINGS:
            if self._is_over():
                return
            if share == refused:
                continue
            refused = share
            fewer = shrunk(here, self.problem, facts, share * self.tol * here.value)
            again = None if fewer.n_atoms == here.priced.n_atoms else self._settled(facts, fewer, FINISHING)
            if again is None or again.value > ceiling:
                continue
            ratio = self._polar_ratio(facts, again)
            if ratio <= max(self.ratio, 1 + self.stationarity):
                here = self.best = again
                self.ratio, refused = ratio, 0.0

    def _settled(self, facts: Facts, start: PricedDictionary, most: int) -> Pass | None:
        """Passes and steps with the atoms there are, until a pass gains less than ``tol``: the best pass."""
        here = self._passed(facts, start)
        return here if here is None else self._descended(facts, here, most)

    def _descended(self, facts: Facts, best: Pass, most: int) -> Pass:
        """The best of further passes from a point."""
        if not best.priced.n_atoms or self._is_over():
            return best
        goal = improved(best, self.problem, facts)
        for _ in range(most - 1):
            if self._is_over():
                break
            here = self._passed(facts, between(best.priced, goal, self.length))
            if here is None:
                break
            if here.value < best.value:
                gained, best = best.value - here.value, here
                if gained <= self.tol * best.value and self.length >= 1:
                    break
                goal, self.length = improved(best, self.problem, facts), min(FURTHEST, self.length * GROWTH)
            elif self.length < SHORTEST:
                break
            else:
                self.length = 1.0 if self.length > 1 else self.length * SHORTENED
        self.length = min(max(self.length, 1.0), GROWTH)
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
            self.lowest, self.best = here.value, here
        if self.run.callback is not None:
            self.run.callback(record)
        return here
