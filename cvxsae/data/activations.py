"""Activations: one validated, read-only view of N datapoints, whatever form they had.

Accepted: numpy arrays and memory maps (float16, float32, float64, integers), torch tensors (also
bfloat16, on any device), paths to ``.npy``, ``.npz``, ``.safetensors``, ``.pt``, ``.arrow`` and ``.parquet`` files
(``"file::name"`` names an array or column), lists of such paths, folders of such files or patterns that they match
(shards, read as one matrix), folders that Hugging Face's ``datasets`` saved, iterables of ``(n, d)`` batches, and
functions without arguments that return such an iterable whenever they are called. Nothing is copied that can be shared:
floats of native byte order stay where they are, and what lies in files is read block by block; what a function gives is
read again from the function, and never held. What has to be converted (integers, foreign byte order, reversed rows) is
converted block by block, in memory up to 1 GiB and beyond that in an unnamed temporary file, so that a file is never in
memory whole. Files are never unpickled.

Data are what they were when they were accepted, or an error: every pass over all of them compares a checksum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
import xxhash
from jaxtyping import Float

from cvxsae.data import files, tensors
from cvxsae.data.arithmetic import computes
from cvxsae.data.deadline import go_on
from cvxsae.data.origins import LazyRows
from cvxsae.data.pieces import PiecedRows, without_rows
from cvxsae.data.shards import are_paths, open_paths
from cvxsae.data.stored import StoredRows, mapping_under, stored_rows
from cvxsae.data.streams import RowStream, function_rows
from cvxsae.errors import InputError

if TYPE_CHECKING:
    from cvxsae.parallel.group import ProcessGroup

BATCH_BYTES = 32 * 2**20
"""Size of one batch in the precision it is computed in."""

FRESH_SECONDS = 2.0
"""Age below which the time of a file's last change may also be that of the next: the coarsest clock of file systems."""


@computes
class Activations:
    """N datapoints of dimension d, finite, one per row; read in batches, never modified.

    Parameters
    ----------
    X
        Data in any form that this module accepts; see the module's first lines.
    name
        Name of the argument in error messages.
    group
        The processes that hold the other rows, if these are one process's share
        (:meth:`cvxsae.parallel.ProcessGroup.shard`); None if they are all there are.

    Attributes
    ----------
    group
        The processes that hold the other rows, or None. Rows chosen from the data belong to this process alone.

    Raises
    ------
    InputError
        If the data are not a non-empty matrix of finite real numbers, or (here and whenever they are read) have
        changed since they were accepted.

    Notes
    -----
    A pass over all rows computes their checksum (XXH3) on the way and compares it with the one of the rows that were
    accepted; so does handing these data to another call. Of a file, identity, size and time of change are compared at
    every read, and content only where these differ or were too fresh to tell. Of a tensor on a GPU torch's own count of
    changes is compared.

    Pickled, data that came as a path travel as that path, others as they are (maps beyond 1 GiB as the path).
    """

    group: ProcessGroup | None
    _held: torch.Tensor | LazyRows
    _name: str
    _came_as_path: bool
    _changes: int
    _checksum: bytes | None
    """None for rows chosen from others."""
    _whole: Activations | None
    """The data that these are a view of; None if they are all, or a copy."""
    _is_fresh: bool
    """Whether their file can have changed since without showing it."""

    def __init__(self, X: ActivationsLike, *, name: str = "X", group: ProcessGroup | None = None) -> None:
        stream: RowStream | None = None
        if isinstance(X, Activations):
            X.require_unchanged()
            self.__dict__.update(X.__dict__)
            self.group = X.group if group is None else group
            if self._whole is None:
                return
        else:
            self.group, self._name, self._came_as_path = group, name, are_paths(X)
            held = _open(X, name)
            stream = held if isinstance(held, RowStream) else None
            self._held = held.rows() if isinstance(held, RowStream) else held  # none of a stream before it is accepted
            self._changes = _changes(self._held)
        self._whole = self._checksum = None
        seen, row = xxhash.xxh3_128(), 0
        for batch in self.batches(dtype=None) if stream is None else stream.accept():
            tensors.require_finite(batch, name, first_row=row)
            _add(seen, batch)
            row += len(batch)
        self._held = self._held if stream is None else stream.rows()
        self._is_fresh = isinstance(self._held, LazyRows) and self._held.file.age() < FRESH_SECONDS
        self._checksum = seen.digest()

    def _chosen(self, held: torch.Tensor | LazyRows, *, is_view: bool) -> Activations:
        """Wrap rows of these data, which have been checked."""
        rows = type(self).__new__(type(self))
        whole = self if self._whole is None else self._whole
        rows.__dict__.update(self.__dict__, group=None, _held=held, _checksum=None, _whole=whole if is_view else None)
        return rows

    @property
    def tensor(self) -> Float[torch.Tensor, "N d"]:
        """All rows in the precision they have, where they are; of a file, read into memory."""
        (block,) = self.batches(rows=len(self), dtype=None)
        return block

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the data."""
        return self._held.dtype if isinstance(self._held, torch.Tensor) else self._held.torch_dtype

    @property
    def device(self) -> torch.device:
        """Where the data are."""
        return self._held.device if isinstance(self._held, torch.Tensor) else torch.device("cpu")

    @property
    def shape(self) -> tuple[int, int]:
        """Number of datapoints and their dimension, (N, d)."""
        return self._held.shape[0], self._held.shape[1]

    @property
    def is_forward_only(self) -> bool:
        """Whether rows come in one order, so that rows chosen by number cost a pass for all that are asked together."""
        return isinstance(self._held, LazyRows) and self._held.is_forward_only

    def __len__(self) -> int:
        return self._held.shape[0]

    def __getitem__(self, rows: slice | np.ndarray | torch.Tensor) -> Activations:
        self._require_file()
        chosen = _some(self._held, torch.from_numpy(rows.copy()) if isinstance(rows, np.ndarray) else rows)
        if 0 in chosen.shape or len(chosen.shape) != 2:
            raise InputError(f"rows chosen from {self!r} give shape {tuple(chosen.shape)}; choose at least one row.")
        return self._chosen(chosen, is_view=isinstance(rows, slice))

    def __repr__(self) -> str:
        n_points, dim = self.shape
        return f"Activations({n_points} x {dim}, {str(self.dtype).removeprefix('torch.')}, {self.device})"

    def __getstate__(self) -> dict[str, Any]:
        held = self._held
        has_name = isinstance(held, LazyRows) and held.file.has_name
        if has_name and (self._came_as_path or self.is_forward_only or held.nbytes > files.MEMORY_LIMIT):
            return dict(self.__dict__)
        return {**self.__dict__, "_held": _some(held, slice(None), copied=True), "_whole": None, "_changes": 0}

    def batches(
        self,
        *,
        rows: int | None = None,
        dtype: torch.dtype | None = torch.float64,
        device: torch.device | None = None,
    ) -> Iterator[Float[torch.Tensor, "n d"]]:
        """Yield consecutive blocks of rows, converted to ``dtype`` (``None``: as stored) on ``device``.

        One full iteration is one pass over the data; memory is that of one block. Blocks may share
        memory with the data and must not be written to. After the last block comes an :class:`InputError` if the data
        are not what they were.
        """
        self._require_file()
        width = torch.finfo(dtype or torch.float64).bits // 8
        step = rows or max(1, BATCH_BYTES // (width * self.shape[1]))
        seen = xxhash.xxh3_128()
        for start in range(0, len(self), step):
            go_on()
            block = _block(self._held, slice(start, start + step))
            if self._checksum is not None:
                _add(seen, block)
            yield block.to(device=device, dtype=dtype)
        if self._checksum is not None:
            self._compare(seen)

    def require_unchanged(self) -> None:
        """Raise if the data are not what they were when they were accepted.

        Costs one read of data in memory, and a look at the state of a file.
        """
        whole = self if self._whole is None else self._whole
        held, checksum = whole._held, whole._checksum
        if checksum is None:
            return
        before = None
        if isinstance(held, LazyRows):
            before, now = held.file.state, held.file.state_now()
            if before == now and not whole._is_fresh:
                return
            held.file.state = now  # for the time of comparing
        try:
            seen = xxhash.xxh3_128()
            for start in range(0, len(whole), step := max(1, BATCH_BYTES // (8 * whole.shape[1]))):
                _add(seen, _block(held, slice(start, start + step)))
            whole._compare(seen)
        except InputError:
            if isinstance(held, LazyRows) and before is not None:
                held.file.state = before
            raise
        if isinstance(held, LazyRows):
            whole._is_fresh = held.file.age() < FRESH_SECONDS

    def _compare(self, seen: Any) -> None:
        held = self._held
        if seen.digest() == self._checksum and _changes(held) == self._changes:
            return
        if isinstance(held, LazyRows) and held.file.has_name:
            raise held.file.changed()
        raise InputError(
            f"{self._name} was changed in place since it was passed, so that nothing can be said of it any more; pass "
            "a copy, or compute again."
        )

    def _require_file(self) -> None:
        """Look at the state of the file that the data are in, if they are in one."""
        if isinstance(self._held, LazyRows) and self._held.file.state_now() != self._held.file.state:
            self.require_unchanged()

    def without(self, rows: np.ndarray) -> Activations:
        """All rows but these (their numbers), in their order; of what is not in memory nothing is copied."""
        is_kept = torch.ones(len(self), dtype=torch.bool)
        is_kept[torch.from_numpy(rows)] = False
        if not is_kept.any():
            raise InputError(f"all {len(self)} rows of {self!r} are left out; keep at least one.")
        if isinstance(self._held, StoredRows | PiecedRows):
            held = without_rows(self._held, rows)
            if held is not None:
                return Activations(self._chosen(held, is_view=True))
        if self.is_forward_only:
            return Activations(partial(_kept, self, is_kept), name=self._name)
        return Activations(self[is_kept.to(self.device)])

    def spread(self, count: int) -> Activations:
        """Return ``count`` evenly spaced rows as a copy; of a file only these are read."""
        rows = torch.linspace(0, len(self) - 1, min(count, len(self)), dtype=torch.float64).long()
        return self[rows.to(self.device)]

    def to_tensor(
        self, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
    ) -> Float[torch.Tensor, "N d"]:
        """Return all rows as one tensor, sharing memory when nothing has to be converted."""
        return self.tensor.to(device=device, dtype=dtype)

    def to_numpy(self) -> Float[np.ndarray, "N d"]:
        """Return all rows as a float64 numpy array, sharing memory when nothing has to be converted."""
        return self.to_tensor(device=torch.device("cpu")).numpy()


ActivationsLike: TypeAlias = (
    Activations
    | np.ndarray
    | torch.Tensor
    | str
    | Path
    | Sequence[Any]
    | Iterable[np.ndarray | torch.Tensor]
    | Callable[[], Iterable[np.ndarray | torch.Tensor]]
)
"""What :class:`Activations` accepts."""


def _open(X: Any, name: str) -> torch.Tensor | LazyRows | RowStream:
    """Return the data: in memory, as rows of files, or as rows that come in one order."""
    is_path = are_paths(X)
    if is_path:
        X = open_paths(X, name)
    if isinstance(X, LazyRows | RowStream):
        return X
    if isinstance(X, torch.Tensor | np.ndarray):
        return _in_place(X, name, is_path=is_path)
    if hasattr(X, "__array__") or hasattr(X, "toarray") or (isinstance(X, Sequence) and not _is_batch(X)):
        return tensors.matrix(X, name)
    if isinstance(X, Iterable):
        return files.gather(X, name)
    if callable(X):
        return function_rows(X, name)
    raise InputError(f"{name} is a {type(X).__name__}; pass an array, a tensor, a path or an iterable of batches.")


def _in_place(X: np.ndarray | torch.Tensor, name: str, *, is_path: bool) -> torch.Tensor | StoredRows:
    """An array where it is, unless it has to be converted."""
    if isinstance(X, torch.Tensor):
        tensors.require_plain(X, name)
    if X.ndim != 2 or 0 in X.shape:
        return tensors.matrix(X, name)
    tensors.float_tensor(X[:1], name)
    mapping = mapping_under(X)
    step = max(1, BATCH_BYTES // (8 * X.shape[1]))
    steps = [slice(start, start + step) for start in range(0, len(X), step)]
    if mapping is None:
        return tensors.matrix(X, name) if tensors.shareable(X) else files.gather((X[some] for some in steps), name)
    stored = stored_rows(X, name, mapping)
    if mapping.is_copy and not is_path and not all(_are_same(X[some], stored[some]) for some in steps):
        return files.gather((X[some] for some in steps), name)
    return stored if tensors.shareable(X) else files.gather((stored[some].read() for some in steps), name)


def _are_same(X: np.ndarray | torch.Tensor, stored: StoredRows) -> bool:
    """Whether a part of memory still is what is in the file under it."""
    if isinstance(X, torch.Tensor):
        return torch.equal(X, stored.tensor())
    return np.array_equal(X, stored.read())


def _some(held: torch.Tensor | LazyRows, rows: slice | torch.Tensor, *, copied: bool = False) -> Any:
    """Chosen rows of the data, where they are if they can be."""
    if isinstance(held, torch.Tensor):
        return held[rows].clone(memory_format=torch.contiguous_format) if copied else held[rows]
    if isinstance(rows, torch.Tensor):
        return held.take(rows)
    return held[rows].tensor() if copied else held[rows]


def _kept(data: Activations, is_kept: torch.Tensor) -> Iterator[torch.Tensor]:
    """The blocks of some data without some of their rows."""
    start = 0
    for block in data.batches(dtype=None):
        yield block[is_kept[start : start + len(block)]]
        start += len(block)


def _block(held: torch.Tensor | LazyRows, rows: slice) -> torch.Tensor:
    return held[rows] if isinstance(held, torch.Tensor) else held[rows].tensor()


def _is_batch(sequence: Sequence[Any]) -> bool:
    return len(sequence) > 0 and isinstance(sequence[0], torch.Tensor | np.ndarray) and sequence[0].ndim == 2


def _add(seen: Any, block: torch.Tensor) -> None:
    """Let a checksum see a block; on a GPU, :func:`_changes` does instead."""
    if block.device.type == "cpu":
        entries = block.view(torch.int16) if block.dtype is torch.bfloat16 else block  # which numpy does not have
        seen.update(np.ascontiguousarray(entries.numpy()))


def _changes(held: torch.Tensor | LazyRows) -> int:
    """How often torch has changed a tensor on a GPU in place, as far as it counts."""
    on_gpu = isinstance(held, torch.Tensor) and held.device.type != "cpu" and not held.is_inference()
    return held._version if on_gpu and isinstance(held, torch.Tensor) else 0
