"""The kernels of rough codes: residuals, one round on a working set of each datapoint, and the pull on the atoms.

Units are those of :mod:`cvxsae.solvers.codes.engines.cpu_kernels`: the penalty is 1. Everything is float32, and rows
are as long as whole vectors. What the kernels take is described where they are called, in
:mod:`cvxsae.solvers.dictionary.rough`, which loads them on use: they need numba.
"""

# numba infers the types of kernels from their arguments; annotations would only repeat "array" and "int".
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np

from cvxsae.solvers.codes.engines.compiled import REORDER, U, jit
from cvxsae.solvers.codes.engines.cpu_kernels import gram, low_bits
from cvxsae.solvers.codes.engines.cpu_vectors import LANES, eliminate, update_and_rank

GLANCE = 32
"""Correlations of which the largest is looked at first."""

IN_SET = -1
"""Marks the atoms of a working set among the bits of correlations: those of a negative NaN."""


@jit()
def begin(known, first, last, points, atoms, d, working, residuals):
    """Copy known codes into working sets and write ``x − zD``, of the rows from first to last; matrices are flat."""
    for n in range(first, last):
        start = known.starts[n]
        m = min(known.starts[n + 1] - start, working.atoms.shape[1])
        working.sizes[n] = m
        for j in range(U(d)):
            residuals[U(n * d) + j] = points[U(n * d) + j]
        for t in range(m):
            k, z = known.atoms[start + t], known.codes[start + t]
            working.atoms[n, t], working.codes[n, t] = k, z
            eliminate(residuals, n * d, atoms, (np.int64(k) * d,), d, (z,))


@jit(fastmath=REORDER)
def _take(rows, place, atoms, atom, d, r):
    """Copy an atom to a row of the working set; its product with r."""
    to, of = U(place), U(atom * d)
    total = rows.dtype.type(0)
    for j in range(U(d)):
        value = atoms[of + j]
        rows[to + j] = value
        total += value * r[j]
    return total


@jit()
def _list_above(bits, row, K, level, found, values):
    """List the atoms whose correlation bits exceed a level."""
    n = 0
    for start in range(0, K, GLANCE):
        end = min(start + GLANCE, K)
        largest = bits[U(row + start)]
        for k in range(U(row + start), U(row + end)):
            largest = bits[k] if bits[k] > largest else largest
        if largest > level:
            for k in range(start, end):
                if bits[U(row + k)] > level:
                    found[n], values[n] = k, bits[U(row + k)]
                    n += 1
    return n


@jit()
def _level_of(values, n, low, p):
    """A level that at most p of the first n values exceed, and not many fewer."""
    high = np.int64(low)
    for t in range(n):
        high = max(high, np.int64(values[t]))
    low = np.int64(low)
    while high - low > 1:
        middle = low + (high - low) // 2
        above = 0
        for t in range(n):
            above += values[t] > middle
        if above > p:
            low = middle
        else:
            high = middle
            if above + p // 8 >= p:
                break
    return high


@jit()
def _entering(bits, row, K, one, p, found, values):
    """The atoms with the largest correlations above one, about p and no more; in the first places of ``found``."""
    n = _list_above(bits, row, K, one, found, values)
    if n <= p:
        return n
    level, chosen = _level_of(values, n, one, p), 0
    for t in range(n):
        if values[t] > level:
            found[chosen] = found[t]
            chosen += 1
    return chosen


@jit()
def improve(working, first, last, bits, n_atoms, rule, points, residuals, atoms, d):
    """Solve codes again on their working sets and the atoms that correlate most with the residuals.

    Those of the rows from first to last, in place. ``bits`` are those of the products of their residuals with all
    atoms, and are overwritten. Coordinate descent on the working set, steepest first, ends at the floor.
    """
    one, entering, floor = rule
    capacity = working.atoms.shape[1]
    size = capacity + LANES
    rows, G = np.zeros(size * d, np.float32), np.empty(size * size, np.float32)
    q, z, r = np.zeros(size, np.float32), np.zeros(size, np.float32), np.empty(d, np.float32)
    members = np.empty(size, np.int64)
    found, values = np.empty(n_atoms, np.int32), np.empty(n_atoms, bits.dtype)
    unit = np.float32(1)
    for n in range(first, last):
        row, m = (n - first) * n_atoms, working.sizes[n]
        for j in range(U(d)):
            r[j] = residuals[U(n * d) + j]
        for t in range(m):
            k = np.int64(working.atoms[n, t])
            members[t], z[t] = k, working.codes[n, t]
            q[t] = _take(rows, t * d, atoms, k, d, r) - unit
            bits[U(row + k)] = IN_SET
        room = min(max(entering, m // 2), capacity - m)
        for t in range(_entering(bits, row, n_atoms, one, room, found, values)):
            k = np.int64(found[t])
            members[m], z[m] = k, 0.0
            q[m] = _take(rows, m * d, atoms, k, d, r) - unit
            m += 1
        if m == 0:
            continue
        _descend(rows, G, q, z, m, d, floor)
        for j in range(U(d)):
            r[j] = points[U(n * d) + j]
        kept = 0
        for t in range(m):
            if z[t] > 0:
                working.atoms[n, kept], working.codes[n, kept] = members[t], z[t]
                kept += 1
                eliminate(r, 0, rows, (t * d,), d, (z[t],))
        working.sizes[n] = kept
        for j in range(U(d)):
            residuals[U(n * d) + j] = r[j]


@jit()
def _descend(rows, G, q, z, m, d, floor):
    """Steepest coordinate descent on a working set of m unit rows, from codes z with gradients q."""
    stride = (m + LANES - 1) // LANES * LANES
    for k in range(m, stride):
        z[k], q[k] = 0.0, 0.0
    gram(rows, 0, m, d, G, stride)
    low = low_bits(stride)
    key = update_and_rank(q, z, G, 0, stride, q.dtype.type(0), low)
    for _ in range(8 * m + 32):  # a guard: it takes about as many steps as there are atoms
        if key < 0:
            return
        place = np.int64(key & low)
        steepest = U(place)
        if abs(q[steepest]) <= floor:
            return
        step = max(q[steepest], -z[steepest])
        z[steepest] += step
        key = update_and_rank(q, z, G, place * stride, stride, step, low)


@jit()
def add_pull(working, residuals, d, part, parts, pull):
    """Add ``z_n r_n`` of every datapoint to the rows of ``pull``, flat (K, d), of every ``parts``-th atom."""
    for n in range(len(working.sizes)):
        for t in range(working.sizes[n]):
            k = np.int64(working.atoms[n, t])
            if k % parts == part:
                eliminate(pull, k * d, residuals, (n * d,), d, (-working.codes[n, t],))


@jit()
def compress(working, unit, to):
    """Write codes times their unit as compressed rows."""
    at = 0
    for n in range(len(working.sizes)):
        to.starts[n] = at
        for t in range(working.sizes[n]):
            to.atoms[at], to.codes[at] = working.atoms[n, t], unit * working.codes[n, t]
            at += 1
    to.starts[len(working.sizes)] = at


@jit(fastmath=REORDER)
def adam(atoms, uphill, first, second, rows, rates):
    """A step of Adam on the sphere for some rows of (K, d), in float64: ``atoms`` and both means are overwritten.

    ``rates`` are what is new in either mean, the length of the step, and the least number to divide by.
    """
    begin, end = rows
    new_first, new_second, length, least = rates
    for k in range(begin, end):
        atom, gradient, mean, square = atoms[k], uphill[k], first[k], second[k]
        along, norm = 0.0, 0.0
        for j in range(U(len(atom))):
            along += atom[j] * gradient[j]
        for j in range(U(len(atom))):
            tangent = gradient[j] - along * atom[j]
            mean[j] += new_first * (tangent - mean[j])
            square[j] += new_second * (tangent * tangent - square[j])
            atom[j] -= length * mean[j] / max(np.sqrt(square[j]), least)
            norm += atom[j] * atom[j]
        norm = 1.0 / np.sqrt(norm)
        for j in range(U(len(atom))):
            atom[j] *= norm
