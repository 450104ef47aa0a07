"""Factorizations that do not stop a solve: each tries a second LAPACK routine before it gives up, in one sentence.

LAPACK's fast routines (divide and conquer, Cholesky) can fail on matrices that are fine except for rounding, on one
processor and not on another. What fails here fails twice, or holds NaN; it raises :class:`FactorizationError`, which
solvers turn into a status. Every function takes numpy arrays or torch tensors and returns what it was given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from cvxsae.data.deadline import go_on
from cvxsae.errors import Error
from cvxsae.parallel.threads import interruptible

EPS = float(np.finfo(np.float64).eps)
"""Spacing of float64 at 1, the unit of every rounding slack."""

TINY = float(np.finfo(np.float64).tiny)
"""The smallest normal number, the unit of every slack for underflow."""

FACTORIZED_ORDER = 1500
"""Order above which a matrix is proved semidefinite by a Cholesky factorization, far cheaper than eigenvalues."""

_SLOW_ORDER = 3000
"""Order from which a call of LAPACK takes seconds: it is then left where Ctrl-C or the deadline come in the middle."""

_GRAM_ROWS = 1024
"""Rows of a symmetric product that are computed at a time, up to the diagonal."""

_LANCZOS_STEPS = 100
"""Most steps of an estimate of an extreme eigenvalue."""

_LANCZOS_RESIDUAL = 1e-4
"""Residual, in units of the eigenvalue, at which it is good enough."""

_LIFTS = (1e-9, 1e-7, 1e-5, 1e-3, 1e-1, 1.0)
"""Shares of a matrix's size by which its least eigenvalue, as estimated, is lowered until that is proved."""

Array = TypeVar("Array", np.ndarray, torch.Tensor)

_TorchFailure: type[Exception] = vars(torch.linalg)["LinAlgError"]
FAILURES = (np.linalg.LinAlgError, _TorchFailure)
"""What numpy, scipy and torch raise when LAPACK reports a failure."""


class FactorizationError(Error, ArithmeticError):
    """A matrix that neither of two LAPACK routines could factorize."""

    def __init__(self, what: str, matrix: np.ndarray | torch.Tensor) -> None:
        shape = " x ".join(str(size) for size in matrix.shape[-2:])
        super().__init__(
            f"{what} of a {shape} matrix could not be computed; rescale the data (unit mean-square norm) and check "
            "lam against lambda_max."
        )


@contextmanager
def failing_as(what: str, matrix: np.ndarray | torch.Tensor) -> Iterator[None]:
    """Turn a failure of LAPACK within the block into a :class:`FactorizationError` about this matrix."""
    try:
        yield
    except (*FAILURES, ValueError) as error:  # scipy raises ValueError for NaN
        raise FactorizationError(what, matrix) from error


def eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues, rising, and eigenvectors of symmetric matrices (..., n, n): divide and conquer, else QR."""
    go_on()
    try:
        call = torch.linalg.eigh if isinstance(matrix, torch.Tensor) else np.linalg.eigh
        values, vectors = _called(call, matrix)
        return values, vectors
    except FAILURES:
        with failing_as("the eigenvectors", matrix):
            flat = _flat(matrix)
            pairs = [_scipy().eigh(each, driver="ev") for each in flat if each.size]
        shape = tuple(matrix.shape)
        values = _like(np.reshape([pair[0] for pair in pairs], shape[:-1]), matrix)
        vectors = _like(np.reshape([pair[1] for pair in pairs], shape), matrix)
    return values, vectors


def eigvalsh(matrix: Array) -> Array:
    """Eigenvalues, rising, of symmetric matrices (..., n, n)."""
    go_on()
    try:
        call = torch.linalg.eigvalsh if isinstance(matrix, torch.Tensor) else np.linalg.eigvalsh
        values: Array = _called(call, matrix)
        return values
    except FAILURES:
        with failing_as("the eigenvalues", matrix):
            found = [_scipy().eigh(each, driver="ev", eigvals_only=True) for each in _flat(matrix)]
        return _like(np.reshape(found, tuple(matrix.shape)[:-1]), matrix)


def extreme_eigenvalues(matrix: Array) -> tuple[Array, Array]:
    """The least and the largest eigenvalue of symmetric matrices (..., n, n), or bounds of them; never fails.

    Where the eigenvalues cannot be computed, it is minus and plus the Frobenius norm, which no eigenvalue is beyond:
    what is proved from them stays proved, only weaker.
    """
    try:
        values = eigvalsh(matrix)
        ends = values[..., 0], values[..., -1]
    except FactorizationError:
        if isinstance(matrix, torch.Tensor):
            norms = torch.linalg.matrix_norm(matrix)
            return -norms, norms
        size = np.sqrt(np.square(matrix).sum(axis=(-2, -1)))
        ends = -size, size
    return (ends[0], ends[1]) if isinstance(matrix, torch.Tensor) else (np.asarray(ends[0]), np.asarray(ends[1]))


def svd(matrix: Array) -> tuple[Array, Array, Array]:
    """The thin singular value decomposition ``U, s, Vᵀ`` of a matrix (m, n): divide and conquer, else QR."""
    go_on()
    try:
        if isinstance(matrix, torch.Tensor):
            left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
            return left, singular, right
        left, singular, right = np.linalg.svd(matrix, full_matrices=False)
        return left, singular, right
    except FAILURES:
        with failing_as("the singular values", matrix):
            parts = _scipy().svd(_flat(matrix)[0], full_matrices=False, lapack_driver="gesvd")
        return _like(parts[0], matrix), _like(parts[1], matrix), _like(parts[2], matrix)


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """The singular values, falling, of a matrix (m, n)."""
    try:
        return np.asarray(np.linalg.svd(matrix, compute_uv=False))
    except FAILURES:
        return svd(matrix)[1]


def cholesky(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cholesky factors of matrices (..., n, n), and above zero where there is none: those are not to be used."""
    go_on()
    try:
        factor, failed = _called(torch.linalg.cholesky_ex, matrix)
        return factor, failed
    except FAILURES:
        return torch.zeros_like(matrix), torch.ones(matrix.shape[:-2], dtype=torch.int32, device=matrix.device)


def weighted_gram(vectors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """``V diag(w) Vᵀ`` (n, n) for V (n, m), exactly symmetric beyond an order where half the products pay."""
    n, scaled = len(vectors), vectors * weights
    if n < _SLOW_ORDER:
        return scaled @ vectors.T
    gram = torch.empty((n, n), dtype=vectors.dtype, device=vectors.device)
    for first in range(0, n, _GRAM_ROWS):
        last = min(first + _GRAM_ROWS, n)
        torch.matmul(scaled[first:last], vectors[:last].T, out=gram[first:last, :last])
        gram[:first, first:last] = gram[first:last, :first].T
    return gram


def semidefinite_shift(matrix: torch.Tensor) -> float:
    """A number s for which ``matrix + s·1 ⪰ 0`` is proved by a Cholesky factorization; infinite where that fails.

    The factorization of a symmetric (n, n) matrix in float64, of which the lower triangle is read, is exact for a
    matrix that differs from it by at most ``γ_{n+1} trace`` in the spectral norm, whatever the order of its sums (Rump
    2006, "Verification of positive definiteness"); twice that is allowed for. Where numbers underflow, every entry
    errs besides by n products, and by a division times the pivot it is divided by, whose square is at most the trace.
    Allowed for is the smallest normal number each, so that subnormal ones may become zero, times n for the norm.
    """
    factor, failed = cholesky(matrix)
    pivots = factor.diagonal()
    if bool(failed) or not bool((pivots > 0).all() & torch.isfinite(pivots).all()):
        return math.inf
    n, trace = len(matrix), float(matrix.diagonal().sum())
    return (n + 8) * EPS * trace + n * (2 * n + 4 + trace) * TINY


def largest_eigenvalue(product: Callable[[torch.Tensor], torch.Tensor], like: torch.Tensor) -> float:
    """An estimate from below of the largest eigenvalue of a symmetric operator on vectors ``like`` (n,): Lanczos.

    With every vector kept orthogonal to all before it, from a fixed start. Nothing is proved.
    """
    n = len(like)
    steps = min(n, _LANCZOS_STEPS)
    basis = torch.zeros((steps + 1, n), dtype=like.dtype, device=like.device)
    generator = torch.Generator().manual_seed(n)
    vector = torch.randn(n, generator=generator, dtype=torch.float64).to(like)
    basis[0] = vector / torch.linalg.vector_norm(vector)
    diagonal, beside = list[float](), list[float]()
    value = 0.0
    for step in range(steps):
        go_on()
        image = product(basis[step])
        diagonal.append(float(basis[step] @ image))
        for _ in range(2):  # once is not enough in floating point, twice is
            image = image - basis[: step + 1].T @ (basis[: step + 1] @ image)
        length = float(torch.linalg.vector_norm(image))
        complete = length <= n * EPS * max(map(abs, diagonal))  # the basis spans all that the start reaches
        if step % 10 == 9 or step + 1 == steps or complete:
            values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
            value = float(values[-1])
            if complete or length * abs(float(vectors[-1, -1])) <= _LANCZOS_RESIDUAL * abs(value):
                break
        beside.append(length)
        basis[step + 1] = image / length
    return value


def least_eigenvalue(matrix: torch.Tensor) -> float:
    """A lower bound of the least eigenvalue of a symmetric matrix (n, n) in float64, rounding included.

    Up to ``FACTORIZED_ORDER`` from the eigenvalues, beyond from an estimate that a Cholesky factorization proves.
    """
    size = float(torch.linalg.matrix_norm(matrix))
    if len(matrix) > FACTORIZED_ORDER and size > 0:
        estimate = -largest_eigenvalue(lambda vector: -(matrix @ vector), matrix[0])
        for lift in _LIFTS:
            shift = max(-estimate, 0.0) + lift * size
            shifted = matrix.clone()
            shifted.diagonal().add_(shift)
            shift += semidefinite_shift(shifted) + EPS * (shift + size)
            if math.isfinite(shift):
                return -shift
    return float(extreme_eigenvalues(matrix)[0]) - 8 * len(matrix) * EPS * size


@dataclass(frozen=True)
class PositiveFactor:
    """What solves ``M x = y`` for a symmetric M (n, n): a Cholesky factor, or eigenvalues and eigenvectors."""

    cholesky: torch.Tensor | None
    values: torch.Tensor | None = None
    vectors: torch.Tensor | None = None

    def solve(self, right: torch.Tensor) -> torch.Tensor:
        """``M⁻¹ right``, (n, m)."""
        if self.cholesky is not None:
            return torch.cholesky_solve(right, self.cholesky)
        assert self.values is not None
        assert self.vectors is not None
        return self.vectors @ ((self.vectors.T @ right) / self.values[:, None])


def positive_factor(matrix: torch.Tensor, least: float) -> PositiveFactor:
    """Factorize a symmetric matrix whose eigenvalues are known to be at least ``least`` > 0.

    Cholesky, if rounding leaves it positive definite. Otherwise eigenvectors, with the eigenvalues that rounding took
    below ``least`` put back to it: the matrix is shifted by at most what rounding did to it.
    """
    factor, failed = cholesky(matrix)
    if not bool(failed):
        return PositiveFactor(factor)
    values, vectors = eigh(matrix)
    return PositiveFactor(None, values.clamp(min=least), vectors)


def solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``M⁻¹ right`` for a square matrix; least squares where M is singular to working precision."""
    try:
        return np.linalg.solve(matrix, right)
    except FAILURES:
        return least_squares(matrix, right)


def solve_or_none(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor | None:
    """``M⁻¹ right`` for a square matrix; None where M is singular."""
    try:
        answer, failed = torch.linalg.solve_ex(matrix, right)
    except FAILURES:
        return None
    return None if bool((failed > 0).any()) else answer


def least_squares(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The shortest ``x`` that minimizes ``‖M x − right‖``: divide and conquer, else pivoted QR."""
    try:
        return np.linalg.lstsq(matrix, right, rcond=None)[0]
    except FAILURES:
        with failing_as("the least-squares solution", matrix):
            return np.asarray(_scipy().lstsq(matrix, right, lapack_driver="gelsy")[0])


def nonnegative_least_squares(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``x ≥ 0`` that minimizes ``‖M x − right‖``: active sets, else a trust region over the orthant."""
    from scipy import optimize

    try:
        return np.asarray(optimize.nnls(matrix, right, maxiter=30 * matrix.shape[1] + 100)[0])
    except (*FAILURES, RuntimeError):  # RuntimeError: not done within maxiter
        with failing_as("the nonnegative least-squares solution", matrix):
            return np.asarray(optimize.lsq_linear(matrix, right, bounds=(0, np.inf), tol=1e-14).x)


def pseudo_inverse(matrix: torch.Tensor, rtol: float) -> torch.Tensor:
    """Pseudo-inverses of symmetric matrices (..., n, n); eigenvalues below ``rtol`` times the largest count as zero."""
    try:
        return torch.linalg.pinv(matrix, hermitian=True, rtol=rtol)
    except FAILURES:
        values, vectors = eigh(matrix)
        used = values.abs() > rtol * values.abs().amax(dim=-1, keepdim=True)
        return (vectors * torch.where(used, 1 / values, 0)[..., None, :]) @ vectors.mT


def _called(call: Callable[..., Any], matrix: np.ndarray | torch.Tensor) -> Any:
    """What a routine of LAPACK returns; where that takes seconds, Ctrl-C and the deadline are heard meanwhile."""
    return interruptible(partial(call, matrix)) if matrix.shape[-1] >= _SLOW_ORDER else call(matrix)


def _scipy() -> Any:
    """scipy.linalg, which is loaded only when a first choice has failed."""
    import scipy.linalg

    return scipy.linalg


def _flat(matrix: np.ndarray | torch.Tensor) -> np.ndarray:
    """The matrices in float64 on the CPU, (m, rows, columns)."""
    array = matrix.detach().to("cpu", torch.float64).numpy() if isinstance(matrix, torch.Tensor) else matrix
    return np.asarray(array, dtype=np.float64).reshape(math.prod(array.shape[:-2]), *array.shape[-2:])


def _like(array: np.ndarray, matrix: Array) -> Array:
    if isinstance(matrix, torch.Tensor):
        return torch.from_numpy(np.ascontiguousarray(array)).to(matrix)
    return np.asarray(array, dtype=matrix.dtype)
