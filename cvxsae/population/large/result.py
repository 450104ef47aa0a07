"""The result of ``solve_population``: a dictionary, its attained value, and a bound on what others could gain."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.data import arguments
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.data.deadline import whatever_the_time
from cvxsae.data.files import read_arrays, write_arrays
from cvxsae.data.storage import fingerprint
from cvxsae.errors import InputError
from cvxsae.parallel.context import Run
from cvxsae.population.large.floor import LargeFloor
from cvxsae.population.large.problem import PopulationDictionary
from cvxsae.population.large.rows import Attained, PricedDictionary, Tally, attained_on, coded_blocks
from cvxsae.relaxations.solution import Record, Status, relative_gap
from cvxsae.solvers.codes.evaluation import CONFIDENCE, level
from cvxsae.statistics.means import mean_interval

if TYPE_CHECKING:
    from pathlib import Path

    import scipy.sparse as sp
    from jaxtyping import Float64

    from cvxsae.statistics.estimates import Estimate

GROUPED = "t limit of a mean over groups of rows, θ² at a fixed η"
"""How the upper limit for the distribution is made."""

GROUPS = 60
"""Most groups that held-out rows are divided into: t limits over 60 are 2 % wider than over very many."""

GROUP_ROWS = 50
"""Least rows of a group, except for the two that a limit takes: with fewer, limits are wider and hold less often."""

ROUNDED = 1e-9
"""Relative amount by which norms of atoms in a file may differ from 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """What a dictionary attains on rows that it has not seen.

    Attributes
    ----------
    value
        On these rows as if they were all: its θ is that of their own moments, so it is biased, slightly.
    groups
        ``ℓ̄ + λ Σ_k ½((((Σz_k)² − Σz_k²)/(m(m − 1)) + τ̄ Σz_k²/m)/η_k + η_k)`` of each group of m consecutive rows, ℓ̄
        the mean of ½‖x − b − zD‖². Its mean over the distribution is at least the value there, for any η that does not
        depend on the rows: ``θ ≤ ½(θ²/η + η)``, and products of different rows have the mean ``(E z)²``. η is θ on the
        rows learned on.
    n_rows
        Rows M.
    """

    value: float
    groups: Float64[np.ndarray, " g"] = field(repr=False)
    n_rows: int

    def limit(self, confidence: float) -> Estimate:
        """The upper limit of the distribution's value of this dictionary."""
        found = mean_interval(self.groups, level(confidence), side="upper")
        return replace(found, method=GROUPED, unit="group").at(self.value)


def held_out_of(
    X: Activations, priced: PricedDictionary, learned: Attained, problem: PopulationDictionary, run: Run
) -> HeldOut:
    """Evaluate on rows that have not been seen; ``learned`` is what gives η."""
    if X.shape[1] != priced.dictionary.shape[1]:
        raise InputError(f"held_out has dimension {X.shape[1]}, not {priced.dictionary.shape[1]} as the rows of X.")
    if len(X) < 4:
        raise InputError(f"held_out has {len(X)} rows; pass four at least, and hundreds for a limit that says much.")
    count, K = min(GROUPS, max(2, len(X) // GROUP_ROWS)), priced.n_atoms
    tally, first = Tally(K), 0
    loss, sizes, mass, squares = np.zeros(count), np.zeros(count), np.zeros((count, K)), np.zeros((count, K))
    for _, codes, residual in coded_blocks(X, priced, problem.lam, run):
        tally.add(residual, codes)
        group = (first + np.arange(len(residual))) * count // len(X)
        of_row = np.repeat(group, np.diff(codes.indptr))
        np.add.at(loss, group, np.einsum("nd,nd->n", residual, residual) / 2)
        np.add.at(sizes, group, 1)
        np.add.at(mass, (of_row, codes.indices), codes.data)
        np.add.at(squares, (of_row, codes.indices), codes.data**2)
        first += len(residual)
    eta = problem.prices(learned.mass, learned.squares)
    eta, m = np.where(eta > 0, eta, 1.0), sizes[:, None]
    theta_squared = (mass**2 - squares) / (m * (m - 1)) + problem.atom_price * squares / m
    groups = loss / sizes + problem.lam / 2 * (theta_squared / eta + eta).sum(axis=1)
    return HeldOut(value=tally.attained().value(problem), groups=groups, n_rows=len(X))


def require_floor_of(floor: Any, problem: PopulationDictionary, print_of_rows: str) -> None:
    """Refuse a floor of another problem, or of other rows where it is of rows.

    Raises
    ------
    InputError
        Saying what differs.
    """
    arguments.instance(floor, "floor", LargeFloor, "what large_floor returns")
    for name in ("lam", "atom_price"):
        here, there = getattr(problem, name), getattr(floor.problem, name)
        if here != there:
            raise InputError(f"floor is of {name} {there:g} and the problem has {here:g}; pass a floor of the same.")
    ours, theirs = (
        p.bias if isinstance(p.bias, str | None) else np.asarray(p.bias).tolist() for p in (problem, floor.problem)
    )
    if ours != theirs:
        raise InputError("floor is of another bias than the problem's; pass a floor of the same problem.")
    if floor.of == "rows" and floor.fingerprint != print_of_rows:
        raise InputError("floor is of other rows than X; pass one of these rows, or of the distribution.")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PopulationDictionaryFit:
    """A dictionary with all atoms that are worth their price, and its certificate.

    Values are in units of (P), per row. ``value`` holds for the given rows, whatever the search did: it is evaluated
    in float64 from rows, codes and dictionary. ``upper`` and ``lower`` are of what :attr:`of` says.

    Attributes
    ----------
    problem
        λ, atom price and bias.
    priced
        Dictionary, bias and the prices that codes are made at.
    attained
        What it attains on the given rows: loss, and moments of each atom's codes.
    held_out
        What it attains on rows not seen, if there were any.
    floor
        Bounds of batches, if there were any.
    confidence
        Of the joint statement: half of what is left of 1 goes to either limit where both are estimates.
    fingerprint
        Of the given rows.
    status
        ``STATIONARY`` if no direction was found in which the residual's polar exceeds λ by more than was asked for,
        ``STALLED`` if one was but rounds gained no more; otherwise the limit that ended the search.
    history
        What each pass attained on the rows it was over, with the lower bound 0.
    seconds, passes
        Time and passes taken, the last evaluation apart.
    new_atom_ratio
        The largest polar over λ of the residual that was found at the end (T13): where it is above 1 another atom
        pays, and at an optimum it is 1. The search is local, so it is a lower bound of the polar of the rows, at codes
        exact to 1e-6, and no proof that nothing else pays. Where a limit ended the search, it is of up to 20,000 rows.
        NaN where there was no such search.
    """

    problem: PopulationDictionary
    priced: PricedDictionary
    attained: Attained
    held_out: HeldOut | None = None
    floor: LargeFloor | None = None
    confidence: float = CONFIDENCE
    fingerprint: str = ""
    status: Status = Status.STATIONARY
    history: tuple[Record, ...] = ()
    seconds: float = 0.0
    passes: int = 0
    new_atom_ratio: float = float("nan")

    # ------------------------------------------------------------------ the dictionary

    @property
    def dictionary(self) -> Float64[np.ndarray, "K d"]:
        """Unit-norm atoms, (K, d)."""
        return self.priced.dictionary

    @property
    def bias(self) -> Float64[np.ndarray, " d"]:
        """Decoder bias, (d,)."""
        return self.priced.bias

    @property
    def n_atoms(self) -> int:
        """Width K: an outcome."""
        return self.priced.n_atoms

    @property
    def mass(self) -> Float64[np.ndarray, " K"]:
        """``E z_k`` on the given rows, (K,)."""
        return self.attained.mass

    @property
    def shares(self) -> Float64[np.ndarray, " K"]:
        """``(E z_k)²/E z_k²``, (K,): the share of the rows given that use an atom, if they used it equally."""
        mass, squares = self.attained.mass, self.attained.squares
        found: np.ndarray = np.divide(mass**2, squares, out=np.zeros_like(mass), where=squares > 0)
        return found

    @property
    def l0(self) -> float:
        """Mean number of active atoms of the given rows."""
        return float(self.attained.active.sum())

    def encode(self, X: ActivationsLike, *, tol: float = 1e-4) -> sp.csr_array:
        """The codes of any rows, (N, K): those that ``value`` is attained by, where the rows are the given rows."""
        import scipy.sparse as sp

        blocks = coded_blocks(Activations(X), self.priced, self.problem.lam, Run(is_outermost=False), tol=tol)
        return sp.csr_array(sp.vstack([codes for _, codes, _ in blocks]))

    # ------------------------------------------------------------------ what it is worth

    @property
    def value(self) -> float:
        """``E ½‖x − b − zD‖² + λ Σ_k θ(z_k)`` over the given rows: attained."""
        return self.attained.value(self.problem)

    @property
    def of(self) -> str:
        """What :attr:`upper`, :attr:`lower` and :attr:`gap` are of: ``"rows"`` (those given), ``"distribution"``."""
        if self.floor is None:
            return "rows" if self.held_out is None else "distribution"
        return self.floor.of

    @property
    def upper(self) -> float | None:
        """At most this is the value of the dictionary: exactly on the rows, with confidence on the distribution.

        None for the distribution if no rows were held out.
        """
        if self.of == "rows":
            return self.value
        return None if self.held_out is None else self._end(self.held_out.limit(self._each).high)

    @property
    def lower(self) -> float | None:
        """At least this is the value of every dictionary, with confidence; None without a floor of two batches."""
        return None if self.floor is None else self._end(self.floor.limit_at(self._each).low)

    @property
    def _each(self) -> float:
        both = self.of == "distribution" and self.floor is not None and self.held_out is not None
        return (1 + self.confidence) / 2 if both else self.confidence

    @staticmethod
    def _end(number: float) -> float | None:
        return None if np.isnan(number) else float(number)

    @property
    def gap(self) -> float | None:
        """Relative gap (upper − lower)/upper, at :attr:`confidence`; None where one of them is missing."""
        upper, lower = self.upper, self.lower
        return None if upper is None or lower is None else relative_gap(upper, lower)

    @property
    def objections(self) -> tuple[str, ...]:
        """What should not be, one sentence each: a lower limit above the value, which chance or an error can make."""
        upper, lower = self.upper, self.lower
        if upper is not None and lower is not None and lower > upper:
            return (f"The lower limit {lower:.9g} lies above the value {upper:.9g}.",)
        return ()

    @property
    def verdict(self) -> str:
        """The joint statement, in one sentence."""
        whole = "on the distribution" if self.of == "distribution" else f"on these {self.attained.n_rows:,} rows"
        upper, lower = self.upper, self.lower
        if upper is None:
            return f"no statement {whole}: hold rows out (held_out=) for an upper limit"
        if lower is None:
            return f"this dictionary costs {'at most ' * (self.of != 'rows')}{upper:.6g} {whole}; no floor was given"
        percent = 100 * relative_gap(upper, lower)
        return (
            f"at confidence {self.confidence:g}, {whole}: this dictionary costs at most {upper:.6g}, every dictionary "
            f"at least {lower:.6g}, so that no other can gain more than {upper - lower:.3g} ({percent:.3g} %)"
        )

    # ------------------------------------------------------------------ to files and words

    def to_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        return {
            "lam": self.problem.lam,
            "atom_price": self.problem.atom_price,
            "n_rows": self.attained.n_rows,
            "value": self.value,
            "of": self.of,
            "upper": self.upper,
            "lower": self.lower,
            "gap": self.gap,
            "confidence": self.confidence,
            "n_atoms": self.n_atoms,
            "l0": self.l0,
            "held_out": None if self.held_out is None else self.held_out.limit(self.confidence).to_dict(),
            "floor": None if self.floor is None else self.floor.to_dict(),
            "status": self.status.name,
            "new_atom_ratio": self.new_atom_ratio if np.isfinite(self.new_atom_ratio) else None,
            "passes": self.passes,
            "seconds": self.seconds,
        }

    def save(self, path: str | Path) -> Path:
        """Write dictionary, bias and prices, with λ, atom price and value, to a ``.npz`` or ``.safetensors`` file."""
        arrays = {name: getattr(self.priced, name) for name in ("dictionary", "bias", "weights", "ridge")}
        claims = {"lam": self.problem.lam, "atom_price": self.problem.atom_price, "value": self.value}
        return write_arrays(path, {**arrays, **claims})

    @classmethod
    def load(
        cls,
        path: str | Path,
        X: ActivationsLike,
        problem: PopulationDictionary,
        *,
        held_out: ActivationsLike | None = None,
        floor: LargeFloor | None = None,
    ) -> PopulationDictionaryFit:
        """Read what :meth:`save` wrote and evaluate it again on rows; no number in the file is trusted.

        Raises
        ------
        InputError
            For a file that cannot be read, arrays that do not fit together or rows of another dimension.
        """
        data = Activations(X)
        priced = _priced_from(dict(read_arrays(path)), f"path {str(path)!r}", problem, data.shape[1])
        run, print_of_rows = Run(is_outermost=False), fingerprint(data)
        if floor is not None:
            require_floor_of(floor, problem, print_of_rows)
        with whatever_the_time():
            attained = attained_on(data, priced, problem.lam, run)
            aside = None if held_out is None else Activations(held_out, name="held_out")
            apart = None if aside is None else held_out_of(aside, priced, attained, problem, run)
        return cls(
            problem=problem,
            priced=priced,
            attained=attained,
            held_out=apart,
            floor=floor,
            fingerprint=print_of_rows,
            status=Status.STALLED,
        )

    def __repr__(self) -> str:
        return (
            f"PopulationDictionaryFit({self.problem}, {self.n_atoms} atoms, value={self.value:.6g}, "
            f"status={self.status.name})"
        )

    def __str__(self) -> str:
        shares = self.shares
        spread = "" if not len(shares) else f", used by {100 * shares.min():.3g} to {100 * shares.max():.3g} % of rows"
        lines = [
            f"large dictionary of a distribution ({self.problem}): {self.status.name.lower()}",
            f"  atoms        {self.n_atoms}{spread}; L0 {self.l0:.3g}",
            f"  value        {self.value:.9g}   (attained on the {self.attained.n_rows:,} rows given)",
        ]
        if self.held_out is not None:
            lines.append(f"  held out     {self.held_out.limit(self.confidence)}")
        if self.floor is not None:
            lines.append(f"  floor        {self.floor}")
        lines.append(f"  together     {self.verdict}")
        return "\n".join([*lines, *(f"  objection    {sentence}" for sentence in self.objections)])


def _priced_from(held: dict[str, Any], source: str, problem: PopulationDictionary, dim: int) -> PricedDictionary:
    """The arrays of a file, checked."""
    missing = {"dictionary", "bias", "weights", "ridge"} - set(held)
    if missing:
        raise InputError(f"{source} holds no {min(missing)}; pass what PopulationDictionaryFit.save wrote.")
    D, bias, weights, ridge = (np.asarray(held[n], np.float64) for n in ("dictionary", "bias", "weights", "ridge"))
    K = len(D) if D.ndim == 2 else -1
    if D.shape != (K, dim) or bias.shape != (dim,) or weights.shape != (K,) or ridge.shape != (K,):
        raise InputError(f"{source} holds a dictionary of shape {D.shape}; it does not fit rows of dimension {dim}.")
    fixed = problem.bias_for(dim)
    norms = np.linalg.norm(D, axis=1)
    if not all(np.isfinite(a).all() for a in (D, bias, weights, ridge)) or (np.abs(norms - 1) > ROUNDED).any():
        raise InputError(f"{source} holds atoms that are not of norm 1 or numbers that are not finite.")
    if not fixed.is_free and not np.array_equal(bias, fixed.vector_or_zeros(dim).numpy()):
        raise InputError(f"{source} holds another bias than the problem's; pass the problem it was fitted for.")
    return PricedDictionary(D, bias, weights, ridge)
