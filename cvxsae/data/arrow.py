"""Arrow and Parquet: columns of vectors as rows, one vector per row.

A data set of Hugging Face is a folder of Arrow files, and SAELens caches activations as one: a row of the data set per
context, which holds a (context, d) array under the hook's name. Innermost lists are the datapoints; lists around them
are read one after the other. Arrow files that are not compressed hold the numbers as they are, so pyarrow only has to
say where, and they are read as those of any other file are. Parquet, and Arrow that is compressed, are decoded record
batch by record batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cvxsae.data.atomic import shown
from cvxsae.data.origins import LazyRows, StoredFile, StoredFiles
from cvxsae.data.pieces import PiecedRows
from cvxsae.data.stored import StoredRows
from cvxsae.data.streams import RowStream, Segment
from cvxsae.errors import InputError, reason

SUFFIXES = (".arrow", ".parquet")
"""Files that are read by column."""

STATE = "state.json"
"""In a folder that ``datasets`` wrote, what lists its files."""

END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""What a complete stream of Arrow ends with."""

RANDOM_ACCESS = b"ARROW1"
"""What an Arrow file begins with that is not a stream."""

DECODED_BYTES = 2**24
"""Decoded at a time, about."""


class Column(NamedTuple):
    """A column of a file."""

    file: Path
    column: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} {shown(self.file)}, column {self.column!r},"

    def segment(self, function: Callable[..., Iterator[np.ndarray]], *of: Any) -> Segment:
        """A part of the rows that a function reads."""
        return Segment(partial(function, *of), f"{self.name} {shown(self.file)}")


def arrow_rows(given: Sequence[tuple[Path, str | None]], name: str) -> LazyRows | RowStream:
    """The vectors in one column of some files, read as one matrix.

    Parameters
    ----------
    given
        Files of one type and the column of each; None for the only one that holds vectors: of floats, if there is one.
    name
        What messages call the argument.

    Raises
    ------
    InputError
        If a file cannot be read, the column is not there or one of several, or it does not hold vectors of one length
        and type: the message names file and column.
    """
    first = given[0][0]
    chosen = _column(*given[0], name)
    columns: list[Column] = []
    for file, key in given:
        label, kind = _column(file, key or chosen[0], name)
        columns.append(column := Column(file, label, name))
        if kind != chosen[1]:
            raise InputError(f"{column} holds vectors of {kind} but {shown(first)} of {chosen[1]}; write one dtype.")
    if columns[0].file.suffix == ".parquet":
        return _decoded(columns, [part for column in columns for part in _row_groups(column)])
    pieces: list[StoredRows] = []
    for column in columns:
        found = _in_place(column)
        if found is None:
            return _decoded(columns, [each.segment(_stream_batches, each) for each in columns])
        for piece in found:
            if pieces and (piece.shape[1], piece.dtype) != (pieces[0].shape[1], pieces[0].dtype):
                raise InputError(
                    f"{column} holds {piece.dtype} vectors of length {piece.shape[1]} but {shown(columns[0].file)} "
                    f"{pieces[0].dtype} vectors of length {pieces[0].shape[1]}; all must be alike."
                )
            pieces.append(piece)
    if not pieces:
        raise InputError(f"{columns[0]} holds no vectors; pass at least one datapoint.")
    return PiecedRows.of(pieces, name)


def _decoded(columns: list[Column], segments: list[Segment]) -> RowStream:
    """Rows that have to be decoded."""
    name = columns[0].name
    return RowStream(segments, StoredFiles(name, (StoredFile(name, column.file) for column in columns)), name)


# ---------------------------------------------------------------------- columns


def _schema(file: Path, name: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _Reading(file, name):
        if file.suffix == ".parquet":
            return pq.read_schema(file)
        with pa.OSFile(str(file)) as source:
            return _batches_of(source, file)[0]


def _batches_of(source: Any, file: Path) -> tuple[Any, Iterator[Any]]:
    """Schema and record batches of an Arrow file that is open."""
    import pyarrow as pa

    with file.open("rb") as stream:
        if stream.read(len(RANDOM_ACCESS)) != RANDOM_ACCESS:
            opened = pa.ipc.open_stream(source)
            return opened.schema, iter(opened)
    opened = pa.ipc.open_file(source)
    return opened.schema, (opened.get_batch(i) for i in range(opened.num_record_batches))


def _column(file: Path, wanted: str | None, name: str) -> tuple[str, Any]:
    """The column asked for, or the only one with vectors, and the type of its numbers."""
    kinds = {field.name: _entry_type(field.type) for field in _schema(file, name)}
    vectors = [column for column, kind in kinds.items() if kind is not None]
    listed = ", ".join(vectors) or "none"
    if wanted is not None:
        if wanted not in kinds:
            raise InputError(f"{name} {shown(file)} has no column {wanted!r}; those that hold vectors: {listed}.")
        if wanted not in vectors:
            raise InputError(f"{name} {shown(file)} has no vectors in column {wanted!r}; those that do: {listed}.")
        return wanted, kinds[wanted]
    floats = [column for column in vectors if _is_float(kinds[column])]
    found = floats or vectors
    if len(found) != 1:
        listed = ", ".join(found) or "none"
        raise InputError(
            f"{name} {shown(file)} has {len(found)} columns of vectors ({listed}); choose one with '{file}::COLUMN'."
        )
    return found[0], kinds[found[0]]


def _entry_type(kind: Any) -> Any:
    """The type of the numbers in a column of vectors; None for other columns."""
    import pyarrow as pa

    kind, depth = _plain(kind), 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = _plain(kind.value_type), depth + 1
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return kind if depth and is_number else None


def _plain(kind: Any) -> Any:
    """A type as it is stored: ``datasets`` has its own for arrays."""
    import pyarrow as pa

    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_float(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(kind))


# ---------------------------------------------------------------------- where the numbers are


def _numbers(array: Any, column: Column) -> tuple[Any, int]:
    """The numbers of all vectors of an array, one after the other, and the length of a vector (0 if there is none)."""
    import pyarrow as pa

    while True:
        array = array.storage if isinstance(array, pa.ExtensionArray) else array
        if array.null_count:
            raise InputError(f"{column} holds {array.null_count} missing value(s); drop those rows.")
        is_last = pa.types.is_primitive(_plain(array.type.value_type))
        if pa.types.is_fixed_size_list(array.type):
            size = array.type.list_size
            numbers, width = array.values.slice(array.offset * size, len(array) * size), size if len(array) else 0
        else:
            offsets = array.offsets.to_numpy()
            lengths = np.unique(np.diff(offsets)).tolist()
            if is_last and len(lengths) > 1:
                raise InputError(f"{column} holds vectors of length {lengths[0]} and {lengths[-1]}; all must be alike.")
            numbers, width = array.values.slice(offsets[0], offsets[-1] - offsets[0]), lengths[0] if lengths else 0
        if is_last:
            if numbers.null_count:
                raise InputError(f"{column} holds {numbers.null_count} missing number(s); drop those rows.")
            return numbers, width
        array = numbers


def _in_place(column: Column) -> list[StoredRows] | None:
    """Where the vectors of each record batch are in the file; None if they are compressed."""
    import pyarrow as pa

    held = StoredFile(column.name, column.file)
    pieces: list[StoredRows] = []
    # The map is left before anybody reads: pyarrow looks at what surrounds the numbers, not at these.
    with _Reading(column.file, column.name), pa.memory_map(str(column.file)) as source:
        begin, size = source.read_buffer(source.size()), source.size()
        source.seek(0)
        for batch in _batches_of(source, column.file)[1]:
            numbers, width = _numbers(batch.column(column.column), column)
            if not width:
                continue
            dtype = np.dtype(numbers.type.to_pandas_dtype())
            at = numbers.buffers()[1].address + numbers.offset * dtype.itemsize - begin.address
            if not 0 <= at < size:
                return None
            shape = len(numbers) // width, width
            pieces.append(StoredRows(held, at, shape, (width * dtype.itemsize, dtype.itemsize), dtype))
        is_stream = begin[: len(RANDOM_ACCESS)].to_pybytes() != RANDOM_ACCESS
        if is_stream and begin[size - len(END) :].to_pybytes() != END:
            raise ValueError("its end is missing")
    return pieces


# ---------------------------------------------------------------------- decoding


def _vectors(array: Any, column: Column) -> np.ndarray:
    numbers, width = _numbers(array, column)
    return numbers.to_numpy(zero_copy_only=False).reshape(-1, max(1, width))


def _stream_batches(column: Column) -> Iterator[np.ndarray]:
    """The vectors of an Arrow file, decoded."""
    import pyarrow as pa

    with _Reading(column.file, column.name), pa.OSFile(str(column.file)) as source:
        for batch in _batches_of(source, column.file)[1]:
            if len(vectors := _vectors(batch.column(column.column), column)):
                yield vectors


def _row_groups(column: Column) -> list[Segment]:
    """What begins each row group of a Parquet file."""
    import pyarrow.parquet as pq

    with _Reading(column.file, column.name):
        count = pq.read_metadata(column.file).num_row_groups
    return [column.segment(_row_group, column, number) for number in range(count)]


def _row_group(column: Column, number: int) -> Iterator[np.ndarray]:
    """The vectors of a row group of a Parquet file, decoded some at a time."""
    import pyarrow.parquet as pq

    with _Reading(column.file, column.name), pq.ParquetFile(column.file) as opened:
        group = opened.metadata.row_group(number)
        nbytes = max(1, group.total_byte_size // max(1, group.num_rows))
        rows = max(1, min(group.num_rows, DECODED_BYTES // nbytes))
        for batch in opened.iter_batches(batch_size=rows, row_groups=[number], columns=[column.column]):
            if len(vectors := _vectors(batch.column(column.column), column)):
                yield vectors


class _Reading:
    """Turn what pyarrow raises on a broken file into one sentence."""

    def __init__(self, file: Path, name: str) -> None:
        self.file, self.name = file, name

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, InputError):
            raise InputError(
                f"{self.name} {shown(self.file)} cannot be read as {self.file.suffix} ({reason(error)}); check that it "
                "is complete."
            ) from None
