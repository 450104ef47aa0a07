"""The four Triton kernels of a round on a GPU, and the functions that launch them.

``screen`` multiplies residuals with all atoms in bfloat16 and keeps, of every row of the product, the maximum of
each of at least 512 groups of atoms and one bit per atom (is it above the row's threshold?): the product itself is
never written. The other three have one program per datapoint: ``gram`` gathers a working set and multiplies it with
itself, ``descend`` solves the small problem by steepest coordinate descent, ``refresh`` recomputes the residual and the
correlations in float64 from the codes and says what gap the working set leaves. They are separate because they want
different numbers of warps: a descent is a chain of dependent steps, which one warp does best.

Units are those of :mod:`cvxsae.solvers.codes.engines.cpu_kernels`: the penalty is 1, atoms have norm 1.
"""

# Triton reads the annotations of kernels itself: arguments are pointers and integers unless they are tl.constexpr.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int

TILE = 128
"""Datapoints, and atoms, per tile of a screening product."""

WORD = 32
"""Atoms per word of screening bits."""

WIDEST = 128
"""Largest working set that the small kernels take."""

STEPS = 16
"""Most steps of a descent, per atom of the padded working set; what that does not solve goes to the torch engine."""


@triton.jit(do_not_specialize=["n", "parts", "tiles", "n_words", "low"])  # they vary: no compiling between rounds
def screen_kernel(
    r_ptr, atoms_ptr, threshold_ptr, best_ptr, words_ptr, n, K, d, parts, tiles, n_words, low,
    TILE_N: tl.constexpr, TILE_K: tl.constexpr, TILE_D: tl.constexpr, EVEN: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Products of TILE_N rows with every ``parts``-th tile of atoms; their maxima and bits.

    Lane g of part p sees the atoms (t · parts + p) · TILE_K + g for t < ``tiles``: one strided group. A maximum is kept
    as the bits of the float32 with t in its low bits (``low`` masks them), so value and place are one integer; that
    orders positive values rightly to 2⁻¹³, and reading it back can only lower a positive value.
    """
    row = (tl.program_id(0) * TILE_N + tl.arange(0, TILE_N)).to(tl.int64)
    held = row < n
    safe_row = tl.minimum(row, n - 1)
    part = tl.program_id(1)
    lane = tl.arange(0, TILE_K)
    column = tl.arange(0, TILE_D)
    word = tl.arange(0, TILE_K // 32)
    threshold = tl.load(threshold_ptr + safe_row)
    best = tl.full((TILE_N, TILE_K), -2147483648, tl.int32)
    for t in range(tiles):
        start = (t * parts + part) * TILE_K
        atom = start + lane
        safe_atom = tl.minimum(atom, K - 1).to(tl.int64)
        product = tl.zeros((TILE_N, TILE_K), tl.float32)
        for first in range(0, d, TILE_D):
            j = first + column
            if EVEN:
                a = tl.load(r_ptr + safe_row[:, None] * d + j[None, :])
                b = tl.load(atoms_ptr + safe_atom[None, :] * d + j[:, None])
            else:
                a = tl.load(r_ptr + safe_row[:, None] * d + j[None, :], mask=j[None, :] < d, other=0.0)
                b = tl.load(atoms_ptr + safe_atom[None, :] * d + j[:, None], mask=j[:, None] < d, other=0.0)
            if UPCAST:
                a, b = a.to(tl.float32), b.to(tl.float32)
            product = tl.dot(a, b, product)
        product = tl.where((atom < K)[None, :], product, float("-inf"))
        best = tl.maximum(best, (product.to(tl.int32, bitcast=True) & ~low) | t)
        above = (product > threshold[:, None]).to(tl.int32)
        bits = tl.reshape(above, (TILE_N, TILE_K // 32, 32)) << tl.arange(0, 32)[None, None, :]
        place = start // 32 + word
        tl.store(
            words_ptr + row[:, None] * n_words + place[None, :],
            tl.sum(bits, axis=2),
            mask=held[:, None] & (place < n_words)[None, :],
        )
    target = best_ptr + row[:, None] * (parts * TILE_K) + (part * TILE_K + lane)[None, :]
    tl.store(target, best, mask=held[:, None])


@triton.jit
def gram_kernel(
    rows_ptr, members_ptr, known_ptr, atoms_ptr, residual_ptr, gram_ptr, gradient_ptr, d,
    M: tl.constexpr, TILE_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Inner products of one working set, and its correlations minus 1 (computed here where ``known`` is NaN)."""
    i = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, M)
    column = tl.arange(0, TILE_D)
    row = tl.load(rows_ptr + i)
    member = tl.load(members_ptr + i * M + lane)
    here = member >= 0
    base = tl.maximum(member, 0) * d
    gram = tl.zeros((M, M), tl.float32)
    computed = tl.zeros((M,), tl.float32)
    for first in range(0, d, TILE_D):
        j = first + column
        inside = j < d
        a = tl.load(atoms_ptr + base[:, None] + j[None, :], mask=here[:, None] & inside[None, :], other=0.0)
        r = tl.load(residual_ptr + row * d + j, mask=inside, other=0.0).to(tl.float32)
        gram = tl.dot(a, tl.trans(a), gram, input_precision=PRECISION)
        computed += tl.sum(a * r[None, :], axis=1)
    tl.store(gram_ptr + i * M * M + lane[:, None] * M + lane[None, :], gram)
    known = tl.load(known_ptr + i * M + lane)
    tl.store(gradient_ptr + i * M + lane, tl.where(known == known, known - 1.0, computed - 1.0).to(tl.float32))


@triton.jit
def descend_kernel(
    members_ptr, gram_ptr, gradient_ptr, codes_ptr, solved_ptr, most, floor, share, M: tl.constexpr
):  # fmt: skip
    """Steepest coordinate descent for one working set; codes in float64, the gradient in float32.

    Every step minimizes the objective exactly along the coordinate that moves furthest, so it never rises. Stops when
    no coordinate would move by more than ``floor``, or than ``share`` of the first move.
    """
    i = tl.program_id(0).to(tl.int64)
    if tl.load(solved_ptr + i) == 0:
        lane = tl.arange(0, M)
        here = tl.load(members_ptr + i * M + lane) >= 0
        gradient = tl.load(gradient_ptr + i * M + lane)
        codes = tl.load(codes_ptr + i * M + lane)
        move = tl.where(here, tl.maximum(gradient, -codes.to(tl.float32)), 0.0)
        size = tl.max(tl.abs(move), axis=0)
        least = tl.maximum(size * share, floor)
        steps = 0
        while (size > least) & (steps < most):
            k = tl.argmax(tl.abs(move), axis=0)
            step = tl.sum(tl.where(lane == k, move, 0.0), axis=0)
            empties = gradient <= -codes.to(tl.float32)
            codes = tl.where(lane == k, tl.where(empties, 0.0, codes + step), codes)
            gradient -= step * tl.load(gram_ptr + i * M * M + k * M + lane)
            move = tl.where(here, tl.maximum(gradient, -codes.to(tl.float32)), 0.0)
            size = tl.max(tl.abs(move), axis=0)
            steps += 1
        tl.store(gradient_ptr + i * M + lane, gradient)
        tl.store(codes_ptr + i * M + lane, codes)


@triton.jit
def refresh_kernel(
    rows_ptr, members_ptr, codes_ptr, data_ptr, exact_ptr, residual_ptr, gradient_ptr, correlations_ptr, solved_ptr,
    d, tol, M: tl.constexpr, TILE_D: tl.constexpr, EVERY: tl.constexpr,
):  # fmt: skip
    """Residual of one datapoint's codes from scratch and its correlations with the support, in float64.

    ``solved`` becomes 1 when the gap over the working set alone (``cpu_certificate.best_gap``) is at most ``tol``
    relative. That only decides whether to go on: what certifies is the next screening. With ``EVERY`` the correlations
    of atoms without a code are recomputed too, instead of kept as the descent left them.
    """
    i = tl.program_id(0).to(tl.int64)
    if tl.load(solved_ptr + i) == 0:
        lane = tl.arange(0, M)
        column = tl.arange(0, TILE_D)
        row = tl.load(rows_ptr + i)
        member = tl.load(members_ptr + i * M + lane)
        codes = tl.load(codes_ptr + i * M + lane)
        gradient = tl.load(gradient_ptr + i * M + lane)
        here = member >= 0
        take = here & (codes > 0)
        base = tl.maximum(member, 0) * d
        squares = tl.zeros((TILE_D,), tl.float64)
        for first in range(0, d, TILE_D):
            j = first + column
            inside = j < d
            a = tl.load(exact_ptr + base[:, None] + j[None, :], mask=take[:, None] & inside[None, :], other=0.0)
            x = tl.load(data_ptr + row * d + j, mask=inside, other=0.0)
            r = x - tl.sum(codes[:, None] * a, axis=0)
            tl.store(residual_ptr + i * d + j, r, mask=inside)
            squares += tl.where(inside, r * r, 0.0)
        tl.debug_barrier()  # the residual is read back by other threads than wrote it
        if EVERY:
            take = here
        found = tl.zeros((M,), tl.float64)
        for first in range(0, d, TILE_D):
            j = first + column
            inside = j < d
            a = tl.load(exact_ptr + base[:, None] + j[None, :], mask=take[:, None] & inside[None, :], other=0.0)
            r = tl.load(residual_ptr + i * d + j, mask=inside, other=0.0)
            found += tl.sum(a * r[None, :], axis=1)
        found = tl.where(take, found, tl.where(here, gradient.to(tl.float64) + 1.0, 0.0))
        square = tl.sum(squares, axis=0)
        mass = tl.sum(codes, axis=0)
        largest = tl.maximum(tl.max(found, axis=0), 1.0)
        wanted = 1.0 + tl.sum(codes * found, axis=0) / tl.maximum(square, 1e-300)
        scale = tl.maximum(tl.minimum(1.0 / largest, wanted), 0.0)
        slack = tl.sum(codes * tl.maximum(1.0 - scale * found, 0.0), axis=0)
        gap = 0.5 * (1.0 - scale) * (1.0 - scale) * square + slack
        tl.store(gradient_ptr + i * M + lane, (found - 1.0).to(tl.float32))
        tl.store(correlations_ptr + i * M + lane, found)
        tl.store(solved_ptr + i, (gap <= tol * (0.5 * square + mass)).to(tl.int32))


INTERPRETED = not isinstance(screen_kernel, triton.JITFunction)
"""Whether kernels run in Triton's interpreter (``TRITON_INTERPRET=1`` when triton was imported)."""


@dataclass(frozen=True)
class Screened:
    """What ``screen`` keeps of a product: per group the largest value and its atom, per atom one bit."""

    values: Float[torch.Tensor, "n groups"]
    atoms: Int[torch.Tensor, "n groups"]
    words: Int[torch.Tensor, "n words"]


def screen(
    short: Float[torch.Tensor, "n d"], atoms: Float[torch.Tensor, "K d"], threshold: Float[torch.Tensor, " n"]
) -> Screened:
    """Multiply bfloat16 rows with bfloat16 atoms, accumulating in float32; see :func:`screen_kernel`.

    Parameters
    ----------
    threshold
        In float32. Bit k of a row is set when its computed correlation with atom k is larger. NaN sets none.

    Returns
    -------
    Screened
        Values of groups without an atom, or with none that is positive, are −inf.
    """
    n, d = short.shape
    K = len(atoms)
    device = short.device
    blocks, all_tiles = triton.cdiv(n, TILE), triton.cdiv(K, TILE)
    parts = min(all_tiles, max(4, min(16, 512 // blocks)))
    tiles = triton.cdiv(all_tiles, parts)
    low = triton.next_power_of_2(tiles) - 1
    n_words = triton.cdiv(K, WORD)
    best = torch.empty(n, parts * TILE, dtype=torch.int32, device=device)
    words = torch.empty(n, n_words, dtype=torch.int32, device=device)
    tile_d = 64 if d >= 64 else max(16, triton.next_power_of_2(d))
    screen_kernel[(blocks, parts)](
        short, atoms, threshold, best, words, n, K, d, parts, tiles, n_words, low,
        TILE_N=TILE, TILE_K=TILE, TILE_D=tile_d, EVEN=d % tile_d == 0, UPCAST=INTERPRETED,
        num_warps=8, num_stages=3,
    )  # fmt: skip
    group = torch.arange(parts * TILE, device=device)
    atom = group + (best & low).to(torch.int64) * (parts * TILE)
    values = torch.where(best > 0, (best & ~low).view(torch.float32), -torch.inf)
    return Screened(values, atom, words)


@dataclass
class SmallProblems:
    """Working sets of the same padded width M; unused places hold the atom −1, code 0.

    Attributes
    ----------
    rows
        Places of the datapoints in ``data`` and ``residual``.
    known
        Exact correlations, NaN where unknown.
    """

    rows: Int[torch.Tensor, " b"]
    members: Int[torch.Tensor, "b M"]
    codes: Float[torch.Tensor, "b M"]
    known: Float[torch.Tensor, "b M"]


@dataclass(frozen=True)
class SmallSolutions:
    """Codes, exact correlations of the support, residuals, and which are solved to the tolerance asked for."""

    codes: Float[torch.Tensor, "b M"]
    correlations: Float[torch.Tensor, "b M"]
    residual: Float[torch.Tensor, "b d"]
    solved: Bool[torch.Tensor, " b"]


def small_solve(
    problems: SmallProblems,
    data: Float[torch.Tensor, "n d"],
    residual: Float[torch.Tensor, "n d"],
    single: Float[torch.Tensor, "K d"],
    exact: Float[torch.Tensor, "K d"],
    tol: float,
) -> SmallSolutions:
    """Solve working sets: one program per datapoint and step, no synchronization with the host.

    Descent and float64 recomputation alternate; a datapoint that is solved to ``tol`` is left alone. All arrays must be
    contiguous; nothing passed is written to.
    """
    b, M = problems.members.shape
    d = data.shape[1]
    device = data.device
    gram = torch.empty(b, M, M, dtype=torch.float32, device=device)
    gradient = torch.empty(b, M, dtype=torch.float32, device=device)
    codes = problems.codes.clone()
    found = torch.zeros(b, M, dtype=torch.float64, device=device)
    new_residual = torch.empty(b, d, dtype=torch.float64, device=device)
    solved = torch.zeros(b, dtype=torch.int32, device=device)
    warps = 4 if M >= 64 else 2
    precision = "ieee" if torch.version.hip else "tf32x3"  # either is float32; the float64 recomputation decides
    gram_kernel[(b,)](
        problems.rows, problems.members, problems.known, single, residual, gram, gradient, d,
        M=M, TILE_D=32, PRECISION=precision, num_warps=warps,
    )  # fmt: skip
    every = tol < 1e-7
    for _ in range(6 if every else 3):
        descend_kernel[(b,)](
            problems.members, gram, gradient, codes, solved, STEPS * M, 0.05 * tol, 1e-6, M=M, num_warps=1
        )
        refresh_kernel[(b,)](
            problems.rows, problems.members, codes, data, exact, new_residual, gradient, found, solved,
            d, max(0.2 * tol, 1e-15), M=M, TILE_D=16, EVERY=every, num_warps=warps,
        )  # fmt: skip
    return SmallSolutions(codes, found, new_residual, solved.to(torch.bool))


def kernels() -> dict[str, Any]:
    """The kernels by name, for tests that compile them without a device."""
    return {
        "screen": screen_kernel, "gram": gram_kernel, "descend": descend_kernel, "refresh": refresh_kernel,
    }  # fmt: skip
