"""Eigenvectors of one side of the spectrum of a symmetric matrix, by LAPACK, without those of the other side.

A projection on the semidefinite cone needs the eigenvectors on one side of zero alone, and the smaller side will do.
The matrix is reduced to a tridiagonal one (``sytrd``), whose eigenvectors on that side are computed from relatively
robust representations (``stemr``, Dhillon & Parlett 2004), a part of the side on each thread, and transformed back by
products with many reflectors at once (compact WY form, Schreiber & Van Loan 1989): both take time in proportion to how
many there are. SciPy has the routines in its interface for Cython; called through ctypes they hold no lock of the
interpreter, so Ctrl-C and deadlines are heard meanwhile. Where one is missing or fails, all eigenvectors are computed.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from cvxsae.data.deadline import go_on
from cvxsae.parallel.threads import begun, interruptible, library_threads
from cvxsae.relaxations import linalg

_LEAST_ORDER = 2000
"""Order below which all eigenvectors are as fast: half of them took 0.9 to 1.1 of the time at 2,000, 0.5 at 5 %."""

_UNORTHOGONAL = 0.05
"""Relative error in ``V(Vᵀx) = x`` for a vector x in the span above which the eigenvectors are not trusted."""

_CLEAR = 64.0
"""Size of an eigenvalue, in units of rounding of a matrix of size one, from which its sign is beyond doubt."""

_ROWS = 1024
"""Rows whose norm is taken at a time, as each is copied to float64."""

_EXTREME = 1e-30
"""Size of a matrix below which, and above whose inverse, it cannot be scaled to one in float32."""

_PART = 256
"""Fewest eigenvectors that are worth a thread of their own."""

_NEIGHBORS = 16
"""Eigenvalues on either side of a cut between two threads among which the widest gap is looked for."""

_TOGETHER = 256
"""Reflectors that are applied in one product: 128 and 512 take a tenth longer."""

_TRIDIAGONAL, _VECTORS = "sytrd", "stemr"
_ARGUMENTS = {_TRIDIAGONAL: 10, _VECTORS: 21}
_PREFIXES = {torch.float32: "s", torch.float64: "d"}


def half_spectrum(matrix: torch.Tensor, *, positive: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues above zero (or, if not ``positive``, up to zero), rising, and their eigenvectors, (n, m).

    ``matrix`` is symmetric, (n, n), float32 or float64. The time is that of a tridiagonal reduction and a share m/n of
    the rest. Nothing is proved: eigenvectors have the accuracy of the dtype, relative to the largest eigenvalue.

    Raises
    ------
    FactorizationError
        If the matrix has entries that are not finite, or no routine of LAPACK finds eigenvectors.
    OutOfTime
        If the deadline of the work in hand passes meanwhile.
    """
    largest = len(matrix) * float(matrix.abs().amax())
    if not math.isfinite(largest):
        raise linalg.FactorizationError("the eigenvectors", matrix)
    routines = _routines(_PREFIXES[matrix.dtype]) if matrix.device.type == "cpu" and matrix.dtype in _PREFIXES else None
    if routines is not None and len(matrix) >= _LEAST_ORDER and _EXTREME < largest < 1 / _EXTREME:
        go_on()
        blocks = (matrix[first : first + _ROWS] for first in range(0, len(matrix), _ROWS))
        norms = [float(torch.linalg.vector_norm(block, dtype=torch.float64)) for block in blocks]
        size = math.hypot(*norms)  # no eigenvalue is beyond
        found = interruptible(partial(_chosen, routines, matrix.numpy(), size, positive, torch.get_num_threads()))
        if found is not None:
            vectors = _transformed_back(*(torch.from_numpy(array) for array in found[1:]))
            if _orthonormal(vectors):
                return torch.from_numpy(found.values), vectors.T
    values, vectors = linalg.eigh(matrix)
    wanted = values > 0 if positive else values <= 0
    return values[wanted], vectors[:, wanted]


class _Found(NamedTuple):
    """Eigenvalues (m,), eigenvectors (m, n) of the tridiagonal matrix as rows, reflectors (n, n) and their factors."""

    values: np.ndarray
    vectors: np.ndarray
    reflectors: np.ndarray
    factors: np.ndarray


def _chosen(
    routines: dict[str, Callable[..., None]], matrix: np.ndarray, size: float, positive: bool, threads: int
) -> _Found | None:
    """The tridiagonal form and its eigenvectors on one side; None where a routine fails."""
    n, kind = len(matrix), matrix.dtype
    scale = kind.type(2.0 ** -math.frexp(size)[1])
    A = matrix * scale  # the routines write into it; they do not bear overflow. Symmetric, so either order is right
    diagonal, beside, factors = (np.zeros(n, kind) for _ in range(3))
    with library_threads(threads, user_api="blas"):
        if not _worked(partial(routines[_TRIDIAGONAL], b"L", n, A, n, diagonal, beside, factors), kind):
            return None
    if not (np.isfinite(diagonal).all() and np.isfinite(beside).all()):
        return None
    for entries in (diagonal, beside):  # stemr loses eigenvalues beside subnormal entries
        entries[np.abs(entries) < np.finfo(kind).eps ** 2] = 0
    side = 1 if positive else -1
    clear, inner = side * _CLEAR * float(np.finfo(kind).eps), 0.0
    least = _count(diagonal, beside[:-1], clear, positive)
    if not least:
        inner = -2 * clear  # stemr reads memory that it never wrote where it finds none, and may crash
        least = _count(diagonal, beside[:-1], -clear, positive)
        if not least:
            return _Found(np.zeros(0, kind), np.zeros((0, n), kind), A, factors)
    ends = sorted([inner, 2.0 * side])  # the lower one is not in the interval
    cuts = _cuts(diagonal, beside[:-1], positive, least, min(threads, least // _PART))
    parts = _eigenvectors(routines[_VECTORS], diagonal, beside, [ends[0], *cuts, ends[1]])
    beyond = np.cumsum([len(values) for values, _ in (reversed(parts) if positive else parts)])[:-1].tolist()
    counted = [_count(diagonal, beside[:-1], cut, positive) for cut in (reversed(cuts) if positive else cuts)]
    if cuts and beyond != counted:  # an eigenvalue too near to a cut is in both parts, or in neither
        parts = _eigenvectors(routines[_VECTORS], diagonal, beside, ends)
    if not parts:
        return None
    values, vectors = (np.concatenate(arrays) if len(arrays) > 1 else arrays[0] for arrays in zip(*parts, strict=True))
    if not least <= len(values) <= n:
        return None
    wanted = values > 0 if positive else values <= 0
    if not wanted.all():
        values, vectors = values[wanted], vectors[wanted]
    return _Found(values / scale, vectors, A, factors)


def _cuts(diagonal: np.ndarray, beside: np.ndarray, positive: bool, least: int, parts: int) -> list[float]:
    """Levels, rising, that divide the ``least`` outermost eigenvalues into parts, each in the widest gap nearby."""
    if parts < 2:
        return []
    from scipy.linalg import eigvalsh_tridiagonal

    n, cuts = len(diagonal), []
    form = diagonal.astype(np.float64), beside.astype(np.float64)
    for part in range(1, parts):
        index = least * part // parts
        index = n - index if positive else index
        nearby = max(0, index - _NEIGHBORS), min(n, index + _NEIGHBORS) - 1
        try:
            levels = eigvalsh_tridiagonal(*form, select="i", select_range=nearby)
        except linalg.FAILURES:
            return []
        widest = int(np.argmax(np.diff(levels)))
        cuts.append(float(levels[widest] + levels[widest + 1]) / 2)
    return sorted(cuts)


def _eigenvectors(
    routine: Callable[..., None], diagonal: np.ndarray, beside: np.ndarray, levels: list[float]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Between each two levels eigenvalues (m,), rising, and eigenvectors as rows (m, n); empty if one call fails."""
    n, kind = len(diagonal), diagonal.dtype

    def between(lower: float, upper: float) -> tuple[np.ndarray, np.ndarray] | None:
        values, count, state = np.zeros(n, kind), np.zeros(1, np.int32), np.zeros(1, np.int32)
        rows = np.empty((n, n), kind)  # as many as are found are written, and only those take memory
        work, integers = np.zeros(18 * n, kind), np.zeros(10 * n, np.int32)
        ends = np.array([lower, upper], kind)
        routine(
            *(b"V", b"V", n, diagonal.copy(), beside.copy(), ends[:1], ends[1:], 0, 0, count, values, rows, n, n),
            *(np.zeros(2 * n, np.int32), np.ones(1, np.int32), work, len(work), integers, len(integers), state),
        )
        m = int(count[0])
        return None if state[0] or not 0 <= m <= n else (values[:m], rows[:m])

    *waiting, last = (partial(between, *ends) for ends in pairwise(levels))
    outcomes = [begun(call) for call in waiting]
    found = [last(), *(outcome.result() for outcome in outcomes)]
    parts = [part for part in (*found[1:], found[0]) if part is not None]
    return parts if len(parts) == len(found) else []


def _transformed_back(vectors: torch.Tensor, reflectors: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Rows z (m, n) times ``Qᵀ``, in place; ``Q = H_1 ⋯ H_{n-1}``, ``H_i = I − τ_i v_i v_iᵀ``, v_i in row i from i + 1.

    k reflectors are ``I − VTVᵀ`` with ``T⁻¹ = triu(VᵀV, 1) + diag(1/τ)``.
    """
    n = len(reflectors)
    for first in reversed(range(0, n - 1, _TOGETHER)):
        go_on()
        last = min(first + _TOGETHER, n - 1)
        V = reflectors[first:last, first + 1 :].triu(1)
        V.diagonal().fill_(1)
        none = factors[first:last] == 0  # the identity
        V[none] = 0
        inverse = (V @ V.T).triu_(1)
        inverse.diagonal().copy_(torch.where(none, 1, factors[first:last]).reciprocal_())
        part = vectors[:, first + 1 :]
        part.addmm_(torch.linalg.solve_triangular(inverse, V @ part.T, upper=True).T, V, alpha=-1)
    return vectors


def _worked(call: Callable[..., None], kind: np.dtype) -> bool:
    """Ask a routine how much room it wants, give it that, and say whether it reports success."""
    room, state = np.zeros(1, kind), np.zeros(1, np.int32)
    call(room, -1, state)
    work = np.empty(max(1, int(room[0])), kind)
    call(work, len(work), state)
    return not state[0]


def _count(diagonal: np.ndarray, beside: np.ndarray, level: float, positive: bool) -> int:
    """How many eigenvalues of a tridiagonal matrix are above a level, or below it: signs of pivots (Sturm)."""
    least, pivot, count = float(np.finfo(np.float64).tiny), 1.0, 0
    for entry, square in zip(diagonal.tolist(), [0.0, *np.square(beside, dtype=np.float64).tolist()], strict=True):
        pivot = entry - level - square / pivot
        if abs(pivot) < least:
            pivot = least
        count += bool(pivot > 0) == positive
    return int(count)


def _orthonormal(vectors: torch.Tensor) -> bool:
    """Whether one combination of the rows has the coefficients that it was made of: orthogonality can be lost."""
    coefficients = torch.from_numpy(np.random.default_rng(len(vectors)).normal(size=len(vectors))).to(vectors)
    again = vectors @ (vectors.T @ coefficients)
    error = float(torch.linalg.vector_norm(again - coefficients))
    return error <= _UNORTHOGONAL * float(torch.linalg.vector_norm(coefficients))


@cache
def _routines(prefix: str) -> dict[str, Callable[..., None]] | None:
    """Both routines in the precision of a prefix; None where SciPy lacks one or has other integers."""
    from scipy.linalg import cython_lapack

    table: dict[str, Any] = vars(cython_lapack).get("__pyx_capi__", {})
    found: dict[str, Callable[..., None]] = {}
    for name, count in _ARGUMENTS.items():
        capsule = table.get(prefix + name)
        signature = b"" if capsule is None else _capsule_name(capsule)
        if signature.count(b"*") != count or b" int *" not in signature:
            return None
        found[name] = partial(_call, ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * count)(_pointer(capsule)))
    return found


def _call(routine: Callable[..., None], *arguments: np.ndarray | int | bytes) -> None:
    """Call a routine of Fortran: every argument by its address."""
    held: list[Any] = [
        ctypes.c_int(each) if isinstance(each, int) else ctypes.c_char(each) if isinstance(each, bytes) else each
        for each in arguments
    ]
    routine(*(each.ctypes.data if isinstance(each, np.ndarray) else ctypes.addressof(each) for each in held))


def _capsule_name(capsule: Any) -> bytes:
    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return bytes(name(capsule))


def _pointer(capsule: Any) -> int:
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(pointer(capsule, _capsule_name(capsule)))
