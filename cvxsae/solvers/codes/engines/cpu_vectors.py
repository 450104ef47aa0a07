"""Inner loops of the fused kernels in LLVM's vector types: sixteen numbers at a time, without remainders.

numba's loops over short rows spend most of their time in scalar remainders and, on processors with AVX-512,
use half of its width. These take lengths that are multiples of :data:`LANES`; where a processor's registers are
shorter, LLVM splits the vectors.
"""

# numba passes types and LLVM values; what a generator does not need of them it still has to accept.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

LANES = 16
"""Numbers in a vector: float32 in a register of AVX-512; rows are padded to multiples of it."""

CACHE_LINE = 64
"""Bytes that are read from memory at once."""

_tuple_of: Any = types.UniTuple

INDEX = ir.IntType(64)
"""Type of places in arrays."""


class _Chunks:
    """Loads and stores of sixteen numbers of flat arrays."""

    def __init__(self, context: Any, builder: Any, element: Any) -> None:
        self.context, self.builder = context, builder
        self.element = ir.FloatType() if element.bitwidth == 32 else ir.DoubleType()
        self.integer = ir.IntType(element.bitwidth)
        self.bytes = element.bitwidth // 8
        self.vector, self.integers = ir.VectorType(self.element, LANES), ir.VectorType(self.integer, LANES)

    def base(self, array_type: Any, array: Any) -> Any:
        return self.context.make_array(array_type)(self.context, self.builder, array).data

    def place(self, base: Any, at: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(base, [at]), self.vector.as_pointer())

    def load(self, base: Any, at: Any) -> Any:
        return self.builder.load(self.place(base, at), align=self.bytes)

    def store(self, value: Any, base: Any, at: Any) -> None:
        self.builder.store(value, self.place(base, at), align=self.bytes)

    def spread(self, scalar: Any, vector: Any) -> Any:
        """Sixteen copies."""
        undefined = ir.Constant(vector, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def minus_product(self, value: Any, factor: Any, other: Any) -> Any:
        product = self.builder.fmul(factor, other, flags=("contract",))
        return self.builder.fsub(value, product, flags=("contract",))

    def plus_product(self, value: Any, factor: Any, other: Any) -> Any:
        product = self.builder.fmul(factor, other, flags=("contract",))
        return self.builder.fadd(value, product, flags=("contract",))

    def total(self, vector: Any) -> Any:
        """Sum of the lanes, halves added to each other."""
        while vector.type.count > 1:
            half = vector.type.count // 2
            low, high = (
                ir.Constant(ir.VectorType(ir.IntType(32), half), list(range(first, first + half)))
                for first in (0, half)
            )
            low, high = (self.builder.shuffle_vector(vector, vector, part) for part in (low, high))
            vector = self.builder.fadd(low, high)
        return self.builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    @contextmanager
    def loop(self, length: Any, *values: Any) -> Iterator[tuple[Any, list[Any]]]:
        """Over 0, 16, ... below the length, which is positive. The body replaces the values it carries in the list."""
        b = self.builder
        before = b.block
        body, after = b.append_basic_block("chunk"), b.append_basic_block("chunks_done")
        b.branch(body)
        b.position_at_end(body)
        at = b.phi(INDEX)
        at.add_incoming(ir.Constant(INDEX, 0), before)
        phis = [b.phi(value.type) for value in values]
        for phi, value in zip(phis, values, strict=True):
            phi.add_incoming(value, before)
        carried = list(phis)
        yield at, carried
        for phi, value in zip(phis, carried, strict=True):
            phi.add_incoming(value, b.block)
        step = b.add(at, ir.Constant(INDEX, LANES))
        at.add_incoming(step, b.block)
        b.cbranch(b.icmp_unsigned("<", step, length), body, after)
        b.position_at_end(after)


def _update_and_rank(typing: Any, q: Any, z: Any, G: Any, start: Any, length: Any, step: Any, low: Any) -> Any:
    """Q ← q − step · G[start : start + length]; the place where the projected gradient is largest, in the low bits.

    The result is ``bits(size) with those of low replaced by the place``, negative if no size is positive: nonnegative
    floats and their bits have the same order. ``low`` is 2ᵏ − 1 ≥ length − 1.
    """

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        chunks = _Chunks(context, b, q.dtype)
        q_, z_, g_ = (chunks.base(kind, value) for kind, value in zip((q, z, G), arguments[:3], strict=True))
        first, length, step, low = arguments[3:]
        low = b.trunc(low, chunks.integer) if chunks.integer.width < 64 else low
        factor, mask = chunks.spread(step, chunks.vector), chunks.spread(b.not_(low), chunks.integers)
        lanes = ir.Constant(chunks.integers, list(range(LANES)))
        unsigned = ir.Constant(chunks.integers, [(1 << (chunks.integer.width - 1)) - 1] * LANES)
        zero = ir.Constant(chunks.vector, [0.0] * LANES)
        least = ir.Constant(chunks.integers, [-1] * LANES)
        with chunks.loop(length, least) as (at, best):
            new = chunks.minus_product(chunks.load(q_, at), factor, chunks.load(g_, b.add(first, at)))
            chunks.store(new, q_, at)
            word = b.bitcast(new, chunks.integers)
            held = b.fcmp_ordered(">", chunks.load(z_, at), zero)
            size = b.select(held, b.and_(word, unsigned), word)
            place = b.add(lanes, chunks.spread(b.trunc(at, chunks.integer) if chunks.integer.width < 64 else at,
                                               chunks.integers))  # fmt: skip
            key = b.or_(b.and_(size, mask), place)
            best[0] = b.select(b.icmp_signed(">", key, best[0]), key, best[0])
        name = f"llvm.vector.reduce.smax.v{LANES}i{chunks.integer.width}"
        reduce = b.module.declare_intrinsic(name, fnty=ir.FunctionType(chunks.integer, [chunks.integers]))
        key = b.call(reduce, best)
        return b.sext(key, INDEX) if chunks.integer.width < 64 else key

    element = q.dtype
    return types.int64(q, z, G, types.int64, types.int64, element, types.int64), generate


def _eliminate(typing: Any, to: Any, target: Any, L: Any, sources: Any, length: Any, f: Any) -> Any:
    """Subtract from a row of ``to`` the rows of L at the places of a tuple, times the numbers of the tuple f."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        chunks = _Chunks(context, b, L.dtype)
        into, base = chunks.base(to, arguments[0]), chunks.base(L, arguments[2])
        place, length, factors = arguments[1], arguments[4], arguments[5]
        rows = [b.extract_value(arguments[3], i) for i in range(f.count)]
        copies = [chunks.spread(b.extract_value(factors, i), chunks.vector) for i in range(f.count)]
        with chunks.loop(length) as (at, _):
            value = chunks.load(into, b.add(place, at))
            for copy, row in zip(copies, rows, strict=True):
                value = chunks.minus_product(value, copy, chunks.load(base, b.add(row, at)))
            chunks.store(value, into, b.add(place, at))
        return context.get_dummy_value()

    return types.void(to, types.int64, L, _tuple_of(types.int64, f.count), types.int64, f), generate


def _scale(typing: Any, L: Any, place: Any, length: Any, f: Any) -> Any:
    """Multiply a row by a number."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        chunks = _Chunks(context, b, L.dtype)
        base, factor = chunks.base(L, arguments[0]), chunks.spread(arguments[3], chunks.vector)
        with chunks.loop(arguments[2]) as (at, _):
            where = b.add(arguments[1], at)
            chunks.store(b.fmul(chunks.load(base, where), factor), base, where)
        return context.get_dummy_value()

    return types.void(L, types.int64, types.int64, L.dtype), generate


def _dots(typing: Any, L: Any, places: Any, x: Any, target: Any, length: Any) -> Any:
    """Products of rows of L, at the places of a tuple, with a row of x: a tuple of as many."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        chunks = _Chunks(context, b, L.dtype)
        base, other = chunks.base(L, arguments[0]), chunks.base(x, arguments[2])
        rows = [b.extract_value(arguments[1], i) for i in range(places.count)]
        zeros = [ir.Constant(chunks.vector, [0.0] * LANES)] * places.count
        with chunks.loop(arguments[4], *zeros) as (at, sums):
            value = chunks.load(other, b.add(arguments[3], at))
            for i, row in enumerate(rows):
                sums[i] = chunks.plus_product(sums[i], value, chunks.load(base, b.add(row, at)))
        made = ir.Constant(context.get_value_type(signature.return_type), ir.Undefined)
        for i, total in enumerate(sums):
            made = b.insert_value(made, chunks.total(total), i)
        return made

    whole = _tuple_of(types.int64, places.count)
    return _tuple_of(L.dtype, places.count)(L, whole, x, types.int64, types.int64), generate


def _take(typing: Any, rows: Any, place: Any, atoms: Any, of: Any, ahead: Any, length: Any, r: Any) -> Any:
    """Copy a row of ``atoms`` to a place of ``rows``, and return its product with r; ask for the row ``ahead``.

    Rows lie anywhere in a dictionary that fits in no cache: without asking, every one would be waited for.
    """

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        chunks = _Chunks(context, b, rows.dtype)
        into, base, other = (chunks.base(kind, arguments[i]) for i, kind in ((0, rows), (2, atoms), (6, r)))
        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        prefetch = b.module.declare_intrinsic("llvm.prefetch", (pointer,), _prefetch_type(pointer, word))
        read, keep, data = (ir.Constant(word, number) for number in (0, 3, 1))
        with chunks.loop(arguments[5], ir.Constant(chunks.vector, [0.0] * LANES)) as (at, sums):
            for line in range(0, LANES * chunks.bytes, CACHE_LINE):
                after = ir.Constant(INDEX, line // chunks.bytes)
                at_line = b.gep(base, [b.add(arguments[4], b.add(at, after))])
                b.call(prefetch, [b.bitcast(at_line, pointer), read, keep, data])
            value = chunks.load(base, b.add(arguments[3], at))
            chunks.store(value, into, b.add(arguments[1], at))
            sums[0] = chunks.plus_product(sums[0], value, chunks.load(other, at))
        return chunks.total(sums[0])

    number = types.int64
    return rows.dtype(rows, number, atoms, number, number, number, r), generate


def _prefetch_type(pointer: Any, word: Any) -> Any:
    return ir.FunctionType(ir.VoidType(), [pointer, word, word, word])


def _tile(typing: Any, rows: Any, a: Any, b: Any, length: Any, G: Any, stride: Any, i: Any, j: Any) -> Any:
    """Write the inner products of four rows from place a with four from place b to G at (i, j) and at (j, i).

    Sixteen running sums, so that every load is used four times; they are summed across lanes together, pair by pair.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        chunks = _Chunks(context, builder, rows.dtype)
        base, into = chunks.base(rows, arguments[0]), chunks.base(G, arguments[4])
        first, second, size = arguments[1:4]
        apart, row, column = arguments[5:]
        starts = [builder.add(of, builder.mul(size, ir.Constant(INDEX, p))) for of in (first, second) for p in range(4)]
        zeros = [ir.Constant(chunks.vector, [0.0] * LANES)] * 16
        with chunks.loop(size, *zeros) as (at, sums):
            left, right = ([chunks.load(base, builder.add(of, at)) for of in part] for part in (starts[:4], starts[4:]))
            for t in range(16):
                sums[t] = chunks.plus_product(sums[t], left[t // 4], right[t % 4])
        level = sums
        while len(level) > 1:
            level = [_pairwise(builder, *level[t : t + 2]) for t in range(0, len(level), 2)]
        for p in range(4):
            for top, side, lanes in ((row, column, range(4 * p, 4 * p + 4)), (column, row, range(p, 16, 4))):
                mask = ir.Constant(ir.VectorType(ir.IntType(32), 4), list(lanes))
                four = builder.shuffle_vector(level[0], level[0], mask)
                at = builder.add(builder.mul(builder.add(top, ir.Constant(INDEX, p)), apart), side)
                place = builder.bitcast(builder.gep(into, [at]), four.type.as_pointer())
                builder.store(four, place, align=chunks.bytes)
        return context.get_dummy_value()

    number = types.int64
    return types.void(rows, number, number, number, G, number, number, number), generate


def _pairwise(builder: Any, a: Any, b: Any) -> Any:
    """Sums of neighboring lanes of a, then of b."""
    even, odd = (ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(range(p, 2 * LANES, 2))) for p in (0, 1))
    return builder.fadd(builder.shuffle_vector(a, b, even), builder.shuffle_vector(a, b, odd))


update_and_rank: Any = intrinsic(_update_and_rank)
tile: Any = intrinsic(_tile)
eliminate: Any = intrinsic(_eliminate)
scale: Any = intrinsic(_scale)
dots: Any = intrinsic(_dots)
take: Any = intrinsic(_take)
