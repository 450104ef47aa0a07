"""Rough codes: good enough for a stochastic gradient, several times as fast as certified ones, and with no certificate.

A round multiplies the residuals of a minibatch with all atoms, in bfloat16 where that is faster, lets the atoms that
correlate most into each datapoint's working set, and descends there in float32 until no projected gradient is longer
than a share of λ. Datapoints that have codes from the pass before get one round, others two. What an exact solver
would do besides (certify, factorize, look again at all atoms) would cost several times as much: here the next pass
looks again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float32, Float64

from cvxsae.data.deadline import go_on
from cvxsae.parallel.threads import worker_pool
from cvxsae.solvers.codes.engines.calibration import half_is_faster
from cvxsae.solvers.codes.engines.compiled import why_not_compiled

ROWS = 128
"""Datapoints in a product: whatever the number of threads, so that it does not change the answer."""

ADAM_ENTRIES = 2**18
"""Numbers of a dictionary that one thread updates: they take longer than the thread to start."""

LARGEST = 1e15
"""Length of datapoints in units of λ above which float32 might overflow."""

ONE_BITS = 0x3F800000
"""The float32 one; its upper half is the bfloat16 one."""


class Sparse(NamedTuple):
    """Codes of datapoints, compressed rows."""

    starts: np.ndarray
    atoms: np.ndarray
    codes: np.ndarray


class Padded(NamedTuple):
    """Codes of datapoints as rows of one length, (n, capacity), and how many each has."""

    sizes: np.ndarray
    atoms: np.ndarray
    codes: np.ndarray


class Round(NamedTuple):
    """What a round does.

    Attributes
    ----------
    one
        Bits of the correlation above which an atom may enter a working set.
    entering
        Atoms that enter a working set, at most, or half as many as it has.
    floor
        Projected gradient at which a working set counts as solved.
    """

    one: int
    entering: int
    floor: float


@dataclass(frozen=True)
class RoughCodes:
    """How rough codes are.

    Attributes
    ----------
    floor
        Longest projected gradient left on a working set, in units of λ: twice or half as much gains as much in quality
        as it costs in time.
    entering
        Atoms that may enter a working set in a round, or half as many as it has.
    first, first_rounds
        Atoms that may enter an empty working set, and rounds of datapoints without codes.
    """

    floor: float = 0.1
    entering: int = 12
    first: int = 32
    first_rounds: int = 2

    def minibatch(
        self,
        points: Float64[torch.Tensor, "n d"],
        dictionary: Float64[torch.Tensor, "K d"],
        lam: float,
        warm: sp.csr_array | None,
    ) -> tuple[sp.csr_array, Float64[torch.Tensor, "K d"]]:
        """Codes of some datapoints, less the bias, and ``Σ_n z_nk r_n``, their pull on every atom, (K, d)."""
        from cvxsae.solvers.codes.engines.cpu_vectors import LANES
        from cvxsae.solvers.dictionary import rough_kernels as kernels

        (n, d), n_atoms = points.shape, len(dictionary)
        known = Sparse(np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
        if warm is not None:
            known = Sparse(
                warm.indptr.astype(np.int64), warm.indices.astype(np.int32), (warm.data / lam).astype(np.float32)
            )
        most = int(np.diff(known.starts).max(initial=0))
        capacity = min(n_atoms, max(most, 2 * self.first) + max(self.entering, most // 2))
        working = Padded(
            np.zeros(n, np.int64),
            np.empty((n, -(-capacity // LANES) * LANES), np.int32),
            np.empty((n, -(-capacity // LANES) * LANES), np.float32),
        )
        data, atoms = _padded(points, 1 / lam), _padded(dictionary, 1.0)
        length = data.shape[1]
        half = atoms.to(torch.bfloat16) if half_is_faster(length, n_atoms, "cpu", 1) else None
        work = _Minibatch(data, torch.empty_like(data), atoms, half, known, working)
        rounds = [self.entering] if most else [self.first] * self.first_rounds
        _in_threads([partial(self._solve, work, slice(a, min(a + ROWS, n)), rounds) for a in range(0, n, ROWS)])
        pull = torch.zeros_like(atoms)
        flat, parts = work.residuals.numpy().reshape(-1), torch.get_num_threads()
        into = pull.numpy().reshape(-1)
        _in_threads([partial(kernels.add_pull, working, flat, length, part, parts, into) for part in range(parts)])
        size = int(working.sizes.sum())
        found = Sparse(np.empty(n + 1, np.int64), np.empty(size, np.int32), np.empty(size))
        kernels.compress(working, lam, found)
        codes = sp.csr_array((found.codes, found.atoms, found.starts), shape=(n, n_atoms))
        return codes, pull[:, :d].to(torch.float64) * lam**2

    def _solve(self, work: _Minibatch, rows: slice, rounds: list[int]) -> None:
        """The rounds of some rows, which let so many atoms in; codes and residuals are written."""
        from cvxsae.solvers.dictionary import rough_kernels as kernels

        go_on()
        points, residuals, atoms = (part.numpy().reshape(-1) for part in (work.points, work.residuals, work.atoms))
        first, last, length, n_atoms = rows.start, rows.stop, work.points.shape[1], len(work.atoms)
        kernels.begin(work.known, first, last, points, atoms, length, work.working, residuals)
        for entering in rounds:
            go_on()
            bits = work.correlations(rows).numpy().reshape(-1)
            rule = Round(ONE_BITS >> (16 if bits.dtype == np.int16 else 0), entering, self.floor)
            kernels.improve(work.working, first, last, bits, n_atoms, rule, points, residuals, atoms, length)


@dataclass(frozen=True)
class _Minibatch:
    """Datapoints in units of λ and their residuals, the atoms, codes known before, and room for those to come."""

    points: Float32[torch.Tensor, "n length"]
    residuals: Float32[torch.Tensor, "n length"]
    atoms: Float32[torch.Tensor, "K length"]
    half: torch.Tensor | None
    known: Sparse
    working: Padded

    def correlations(self, rows: slice) -> torch.Tensor:
        """Bits of the products of some residuals with all atoms."""
        if self.half is None:
            return torch.mm(self.residuals[rows], self.atoms.T).view(torch.int32)
        return torch.mm(self.residuals[rows].to(torch.bfloat16), self.half.T).view(torch.int16)


def can_be_rough(device: torch.device, longest: float) -> bool:
    """Whether rough codes can be had: kernels are compiled for the CPU, and the data are not too long for float32."""
    return device.type == "cpu" and why_not_compiled() is None and longest < LARGEST


def adam_in_threads(
    dictionary: Float64[torch.Tensor, "K d"],
    gradient: Float64[torch.Tensor, "K d"],
    first: Float64[torch.Tensor, "K d"],
    second: Float64[torch.Tensor, "K d"],
    rates: tuple[float, float, float, float],
) -> None:
    """A step of Adam on the sphere (:func:`~cvxsae.solvers.dictionary.rough_kernels.adam`), in place."""
    from cvxsae.solvers.dictionary import rough_kernels as kernels

    n_atoms, arrays = len(dictionary), [part.numpy() for part in (dictionary, gradient, first, second)]
    rows = max(1, ADAM_ENTRIES // dictionary.shape[1])
    _in_threads([partial(kernels.adam, *arrays, (a, min(a + rows, n_atoms)), rates) for a in range(0, n_atoms, rows)])


def _padded(rows: Float64[torch.Tensor, "n d"], factor: float) -> Float32[torch.Tensor, "n length"]:
    """Rows times a factor in float32, as long as whole vectors."""
    from cvxsae.solvers.codes.engines.cpu_vectors import LANES

    n, d = rows.shape
    padded = torch.zeros((n, -(-d // LANES) * LANES), dtype=torch.float32)
    padded[:, :d] = rows * factor
    return padded


def _in_threads(calls: list[Callable[[], None]]) -> None:
    """Make calls, each on one of as many threads as torch has."""
    workers = min(torch.get_num_threads(), len(calls))
    if workers < 2:
        for call in calls:
            call()
        return
    with worker_pool(workers, "rough codes", 1) as pool:
        for waiting in [pool.submit(call) for call in calls]:
            waiting.result()
