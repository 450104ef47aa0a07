"""One pass over rows: their codes at given prices, the value of these codes, and the sums for the next step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch

from cvxsae.data.activations import Activations
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.solvers.codes.encode import encode_rows
from cvxsae.solvers.dictionary.sums import CodeSums

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64, Int64

    from cvxsae.parallel.context import Run
    from cvxsae.population.large.problem import PopulationDictionary

BLOCK_ROWS = 8192
"""Rows coded at a time: 16 MB of float64 at d = 256, and enough for two threads."""

CODE_TOL = 1e-4
"""Relative gap of each row's codes. Any codes attain what is evaluated; these are within 1e-4 of the best ones."""

PASS_TOL = 1e-3
"""The same while the dictionary moves: from the last pass' codes that takes half the time, and costs 1e-8."""

POLAR_TOL = 1e-6
"""The same where the polar of the residuals is to say that a search is over: codes that are off raise it."""

KEPT_CODES = 2**23
"""Most nonzero codes kept to start the next pass from: 100 MB. Where there are more, passes start from zero."""


@dataclass(frozen=True, eq=False)
class PricedDictionary:
    """A dictionary, a bias, and what each atom charges a code: all that the codes of any row need.

    ``z(x)`` minimizes ``½‖x − b − zD‖² + λ Σ_k (w_k z_k + ½ρ_k z_k²)``. With ``w_k = S_k/θ_k`` and ``ρ_k = τ̄/θ_k``
    these are the codes that are best for ``E ½‖·‖² + λ Σ_k θ_k``: its gradient in the codes, which is convex in them.

    Attributes
    ----------
    dictionary
        Unit-norm atoms, (K, d).
    bias
        (d,).
    weights, ridge
        w and ρ, (K,).
    start
        Codes that a pass over the rows of the last pass starts from, block by block; empty to start from zero.
    """

    dictionary: Float64[np.ndarray, "K d"]
    bias: Float64[np.ndarray, " d"]
    weights: Float64[np.ndarray, " K"]
    ridge: Float64[np.ndarray, " K"]
    start: tuple[sp.csr_array, ...] = ()

    @property
    def n_atoms(self) -> int:
        """K."""
        return len(self.dictionary)

    def from_zero(self) -> PricedDictionary:
        """The same, for other rows than those of the last pass."""
        return replace(self, start=())

    def only(self, atoms: np.ndarray) -> PricedDictionary:
        """Some of the atoms."""
        rows = (self.dictionary[atoms], self.bias, self.weights[atoms], self.ridge[atoms])
        return PricedDictionary(*rows, start=tuple(codes[:, atoms] for codes in self.start))

    def with_atoms(self, more: PricedDictionary) -> PricedDictionary:
        """These atoms and others, at this bias."""
        names = ("dictionary", "weights", "ridge")
        both = {name: np.concatenate([getattr(self, name), getattr(more, name)]) for name in names}
        width = self.n_atoms + more.n_atoms
        wider = (sp.csr_array((c.data, c.indices, c.indptr), shape=(c.shape[0], width)) for c in self.start)
        return replace(self, **both, start=tuple(wider))

    def codes(
        self, block: Activations, lam: float, run: Run, tol: float = CODE_TOL, warm: sp.csr_array | None = None
    ) -> sp.csr_array:
        """Codes of a block of rows, (n, K)."""
        if self.n_atoms == 0:
            return sp.csr_array((len(block), 0), dtype=np.float64)
        problem = SparseCodes(block, self.dictionary, lam, bias=self.bias, weights=self.weights, ridge=self.ridge)
        return encode_rows(problem, run, tol=tol, warm=warm).codes


@dataclass(frozen=True, eq=False)
class Attained:
    """What codes attain on rows, in float64, from rows, codes and dictionary alone.

    Attributes
    ----------
    loss
        ``E ½‖x − b − zD‖²``.
    mass, squares
        ``E z_k`` and ``E z_k²``, (K,).
    active
        Share of the rows with ``z_k > 0``, (K,).
    n_rows
        Number of rows.
    """

    loss: float
    mass: Float64[np.ndarray, " K"]
    squares: Float64[np.ndarray, " K"]
    active: Float64[np.ndarray, " K"]
    n_rows: int

    def value(self, problem: PopulationDictionary) -> float:
        """``E ½‖x − b − zD‖² + λ Σ_k √((E z_k)² + τ̄ E z_k²)``."""
        return self.loss + problem.lam * float(problem.prices(self.mass, self.squares).sum())


class Tally:
    """Sums of what blocks of rows attain."""

    def __init__(self, n_atoms: int) -> None:
        self.loss, self.n_rows = 0.0, 0
        self.mass, self.squares, self.active = (np.zeros(n_atoms) for _ in range(3))

    def add(self, residual: Float64[np.ndarray, "n d"], codes: sp.csr_array) -> None:
        """Add a block."""
        K = len(self.mass)
        self.loss += float(np.einsum("nd,nd->", residual, residual)) / 2
        self.mass += np.bincount(codes.indices, codes.data, minlength=K)
        self.squares += np.bincount(codes.indices, codes.data**2, minlength=K)
        self.active += np.bincount(codes.indices[codes.data > 0], minlength=K)
        self.n_rows += len(residual)

    def attained(self) -> Attained:
        """Means over the rows added."""
        n = self.n_rows
        return Attained(self.loss / n, self.mass / n, self.squares / n, self.active / n, n)


def coded_blocks(
    X: Activations, priced: PricedDictionary, lam: float, run: Run, *, tol: float = CODE_TOL
) -> Iterator[tuple[np.ndarray, sp.csr_array, np.ndarray]]:
    """Rows, their codes and their residuals ``x − b − zD``, block by block; past the deadline codes are zero."""
    for number, rows in enumerate(X.batches(rows=BLOCK_ROWS)):
        block, warm = rows.cpu(), priced.start[number] if priced.start else None
        codes = priced.codes(Activations(block), lam, run, tol, warm)
        points = block.numpy()
        yield points, codes, points - priced.bias - codes @ priced.dictionary


def attained_on(X: Activations, priced: PricedDictionary, lam: float, run: Run, *, tol: float = CODE_TOL) -> Attained:
    """What a priced dictionary attains on rows: one pass in bounded memory."""
    tally = Tally(priced.n_atoms)
    for _, codes, residual in coded_blocks(X, priced, lam, run, tol=tol):
        tally.add(residual, codes)
    return tally.attained()


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of the rows before anything is learned: measured once, in two passes.

    Attributes
    ----------
    X
        The rows.
    origin
        Where sums are measured from: the mean, or the fixed bias, (d,).
    total, energy
        ``Σ (x_n − origin)``, (d,), and ``Σ ‖x_n − origin‖²``.
    probes
        Rows whose residuals new atoms are searched in, (n,), in order.
    """

    X: Activations
    origin: Float64[np.ndarray, " d"]
    total: Float64[np.ndarray, " d"]
    energy: float
    probes: Int64[np.ndarray, " n"]

    @classmethod
    def of(cls, X: Activations, problem: PopulationDictionary, probes: int) -> Facts:
        """Measure them; ``probes`` rows, evenly spaced."""
        bias = problem.bias_for(X.shape[1])
        origin = bias.vector_or_zeros(X.shape[1]).numpy()
        if bias.is_free:
            first = X[:1].to_tensor(device=torch.device("cpu"))[0]
            origin = (first + sum((block.cpu() - first).sum(dim=0) for block in X.batches()) / len(X)).numpy()
        total, energy = np.zeros(X.shape[1]), 0.0
        for block in X.batches():
            shifted = block.cpu().numpy() - origin
            total += shifted.sum(axis=0)
            energy += float(np.einsum("nd,nd->", shifted, shifted))
        chosen = np.unique(np.linspace(0, len(X) - 1, min(len(X), probes)).astype(np.int64))
        return cls(X, origin, total, energy, chosen)


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass over the rows leaves: a priced dictionary, what it attains, and the sums over its codes.

    Attributes
    ----------
    priced
        The dictionary with the prices at which rows were coded, and their codes to start the next pass from.
    attained, value
        What it attains.
    sums
        Sums over the codes, data as seen from the origin.
    residuals
        Of the probes, (n, d).
    is_whole
        Whether every row was coded: not where the time ran out.
    """

    priced: PricedDictionary
    attained: Attained
    value: float
    sums: CodeSums
    residuals: Float64[np.ndarray, "n d"]
    is_whole: bool


def pass_over(
    facts: Facts, priced: PricedDictionary, problem: PopulationDictionary, run: Run, *, tol: float = PASS_TOL
) -> Pass:
    """Code all rows at these prices and add up; memory is that of a block and of K × K and K × d sums."""
    X, K = facts.X, priced.n_atoms
    total = torch.from_numpy(facts.total).to(run.device)
    sums = CodeSums.empty(K, total, facts.energy, len(X))
    tally, probed, first = Tally(K), list[Any](), 0
    kept, n_kept = list[sp.csr_array](), 0
    for points, codes, residual in coded_blocks(X, priced, problem.lam, run, tol=tol):
        tally.add(residual, codes)
        n_kept += codes.nnz
        kept = [*kept, codes] if n_kept <= KEPT_CODES else []
        if K:
            sums.add(codes, torch.from_numpy(points - facts.origin))
        here = facts.probes[(facts.probes >= first) & (facts.probes < first + len(points))] - first
        probed.append(residual[here])
        first += len(points)
        if run.is_late:
            break
    attained = tally.attained()
    whole = first == len(X) and not run.is_late
    coded = replace(priced, start=tuple(kept) if whole and n_kept <= KEPT_CODES else ())
    return Pass(coded, attained, attained.value(problem), sums, np.concatenate(probed), whole)
