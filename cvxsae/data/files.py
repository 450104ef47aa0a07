"""Reading and writing arrays without ever unpickling, and gathering batches into one array."""

from __future__ import annotations

import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import Float

from cvxsae.data import arguments
from cvxsae.data.archive import RECORD, Array, StoredArray, flatten, rebuild, write_npz
from cvxsae.data.atomic import shown, write_atomically
from cvxsae.data.origins import StoredFile
from cvxsae.data.stored import StoredRows
from cvxsae.data.tensors import float_tensor, share
from cvxsae.errors import InputError, in_short, reason

MEMORY_LIMIT = 2**30
"""Bytes that :func:`gather_batches` keeps in memory; what is longer goes to an unlinked temporary file."""


def read_array(path: str | os.PathLike[str], name: str, key: str | None = None) -> Array:
    """Open the array in a file, memory-mapped where the format allows it.

    ``.npy``, ``.safetensors`` and ``.pt`` are mapped and read as they are used; ``.npz`` is an
    archive, so its array is read into memory.

    Parameters
    ----------
    path
        A ``.npy``, ``.npz``, ``.safetensors`` or ``.pt`` file. ``"file.npz::key"`` is the same as ``key="key"``.
    name
        What messages call the argument.
    key
        Which of several arrays to read; not needed when the file holds only one.

    Returns
    -------
    np.ndarray or torch.Tensor
        The array as stored: any shape, any dtype. Not to be written to.

    Raises
    ------
    InputError
        If the file is missing, is not what its suffix says, is truncated, holds Python objects, or
        holds several arrays and no key chooses one.
    """
    file, key = _locate(path, name, key)
    with _reading(file, name):
        entries = READERS[file.suffix](file)
    if key is not None and list(entries) == [ONLY]:
        raise InputError(f"{name} {str(file)!r} is one array and has no key {key!r}; leave the key out.")
    chosen = _choose(list(entries), file, name, key)
    with _reading(file, name):
        return entries[chosen]()


def read_arrays(path: str | os.PathLike[str], name: str = "path") -> dict[str, StoredArray]:
    """Read every array of a ``.npz`` or ``.safetensors`` file: the inverse of :func:`write_arrays`.

    Returns
    -------
    dict
        numpy arrays, except that bfloat16 comes back as a torch tensor and what was sparse as a
        ``scipy.sparse.csr_array``.

    Raises
    ------
    InputError
        As :func:`read_array`, and if the parts of a sparse array contradict each other.
    """
    file = arguments.existing_file(path, name)
    _writer(file, name)
    with _reading(file, name):
        return rebuild({entry: _as_numpy(load()) for entry, load in READERS[file.suffix](file).items()})


def read_saved(path: str | os.PathLike[str], name: str = "path") -> dict[str, Any]:
    """Read the dictionary that ``torch.save`` wrote to a ``.pt`` file, with all that is in it, on the CPU.

    Tensors are mapped and read as they are used; numbers, text, lists and dictionaries come as they are. Nothing else
    can be in it: what would run code is refused.

    Raises
    ------
    InputError
        As :func:`read_array`, and if the file holds no dictionary.
    """
    file = arguments.existing_file(path, name)
    with _reading(file, name):
        content = _saved(file)
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}, not a dict of tensors")
        return {
            str(key): value.detach() if isinstance(value, torch.Tensor) else value for key, value in content.items()
        }


def write_arrays(path: str | os.PathLike[str], mapping: Mapping[str, Any], name: str = "path") -> Path:
    """Save arrays under their names, all or nothing: an existing file is replaced only by a complete one.

    Parameters
    ----------
    path
        A ``.npz`` or ``.safetensors`` file; the suffix chooses the format.
    mapping
        Real numbers, numpy arrays, torch tensors and scipy sparse arrays by name. A sparse array
        ``codes`` is stored as ``codes.data``, ``codes.indices``, ``codes.indptr`` and ``codes.shape``.
    name
        What messages call the path.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        If the suffix is another one, the folder does not exist, or a value is not an array of real numbers.
    """
    file = arguments.path(path, name)
    write, arrays = _writer(file, name), flatten(mapping)
    return write_atomically(path, lambda stream: write(stream, arrays), name)


def gather_batches(
    batches: Iterable[Array], name: str, *, memory_limit: int | None = None
) -> Float[torch.Tensor, "N d"]:
    """Concatenate ``(n, d)`` batches in the precision of the first.

    Up to ``memory_limit`` bytes are held in memory; beyond it everything goes to a temporary file
    that has no name and vanishes with the tensor, and memory is that of one batch. ``TMPDIR``
    chooses the disk. Each batch is copied before the next is asked for, so an iterator may reuse its buffer.

    Parameters
    ----------
    batches
        numpy arrays or torch tensors, each of shape (n, d) with the same d; n may vary and be zero.
        A batch may have a narrower dtype than the first (nothing is lost), not a wider one.
    name
        What messages call the argument.
    memory_limit
        In bytes; :data:`MEMORY_LIMIT` unless given.

    Raises
    ------
    InputError
        If there is no row at all, or a batch does not fit the first: the message gives its index.
    """
    held = gather(batches, name, memory_limit=memory_limit)
    return held if isinstance(held, torch.Tensor) else held.mapped()


def gather(batches: Iterable[Array], name: str, *, memory_limit: int | None = None) -> torch.Tensor | StoredRows:
    """Do what :func:`gather_batches` does, but do not map the temporary file, if there is one."""
    limit = MEMORY_LIMIT if memory_limit is None else arguments.count(memory_limit, "memory_limit", least=0)
    arguments.instance(batches, name, Iterable, "an iterable of (n, d) batches")
    held = bytearray()
    file: IO[bytes] | None = None
    first: torch.Tensor | None = None
    try:
        for index, value in enumerate(batches):
            batch = checked_batch(value, f"{name} (batch {index})", first)
            if first is None:
                first = batch[:0].clone()
            block = batch.to(device="cpu", dtype=first.dtype).reshape(-1).view(torch.uint8).numpy()
            if file is None and len(held) + block.nbytes > limit:
                file = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
                file.write(held)
                held.clear()
            if file is None:
                held += block.data
            else:
                file.write(block.data)
        if first is None or not (held or file):
            raise InputError(f"{name} yields no rows; pass at least one (n, d) batch.")
        if file is None:
            return torch.frombuffer(held, dtype=first.dtype).view(-1, first.shape[1])
        file.flush()
        return StoredRows.packed(StoredFile(name, handle=os.dup(file.fileno())), file.tell(), first)
    except OSError as error:
        # Only a failure to write the temporary file is ours to explain; the iterator's own errors pass.
        if file is None or error.filename is not None:
            raise
        raise InputError(
            f"{name} does not fit in {tempfile.gettempdir()!r} ({error.strerror}); point TMPDIR to a larger disk."
        ) from None
    finally:
        if file is not None:
            file.close()


def checked_batch(value: Any, name: str, first: torch.Tensor | None) -> torch.Tensor:
    """Return one batch as a tensor that fits the first."""
    if not isinstance(value, np.ndarray | torch.Tensor):
        raise InputError(f"{name} is a {type(value).__name__}; yield (n, d) arrays or tensors.")
    batch = float_tensor(value, name)
    if batch.ndim != 2 or batch.shape[1] == 0:
        raise InputError(f"{name} has shape {tuple(batch.shape)}; yield (n, d) arrays or tensors.")
    if first is None:
        return batch
    if batch.shape[1] != first.shape[1]:
        raise InputError(
            f"{name} has dimension {batch.shape[1]} but batch 0 has {first.shape[1]}; all must have the same."
        )
    if torch.promote_types(batch.dtype, first.dtype) != first.dtype:
        found, wanted = (str(dtype).removeprefix("torch.") for dtype in (batch.dtype, first.dtype))
        raise InputError(f"{name} is {found} but batch 0 is {wanted}, which would lose digits; yield one dtype.")
    return batch


def _locate(path: str | os.PathLike[str], name: str, key: str | None) -> tuple[Path, str | None]:
    """Split ``path::key`` and check that the file exists and has a known suffix."""
    text = str(arguments.path(path, name))
    key = None if key is None else arguments.instance(key, "key", str, "the name of an array")
    if key is None and "::" in text and not Path(text).exists():
        text, _, key = text.rpartition("::")
    file = arguments.existing_file(text, name)
    if file.suffix not in READERS:
        *first, last = READERS
        raise InputError(
            f"{name} {str(file)!r} has the file type {file.suffix or 'none'!r}; "
            f"pass a {', '.join(first)} or {last} file."
        )
    return file, key


@contextmanager
def _reading(file: Path, name: str) -> Iterator[None]:
    """Turn whatever a parser raises on a broken or hostile file into one sentence."""
    try:
        _refuse_pickle(file, name)
        yield
    except InputError:
        raise
    except Exception as error:  # a broken file can make a parser raise anything
        raise InputError(
            f"{name} {str(file)!r} cannot be read as {file.suffix} ({reason(error)}); "
            "check that it is complete and holds plain numeric arrays."
        ) from None


def _refuse_pickle(file: Path, name: str) -> None:
    """Reject a file that starts like a pickle: protocols 2 to 5 open with 0x80 and their number."""
    with file.open("rb") as stream:
        start = stream.read(2)
    if len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5 and file.suffix != ".safetensors":
        raise InputError(
            f"{name} {str(file)!r} is a pickle, which could run code and is never opened; "
            "save plain arrays with numpy.save, torch.save (as a zip archive) or safetensors."
        )


Entries = dict[str, Callable[[], Array]]
"""The arrays of a file by name, each as a function that opens it."""

ONLY = ""
"""The name of an array in a file that holds one and names none."""


def _npy_entries(file: Path) -> Entries:
    return {ONLY: partial(np.lib.format.open_memmap, file, mode="r")}


def _npz_entries(file: Path) -> Entries:
    if not zipfile.is_zipfile(file):
        raise ValueError("it is not a zip archive")
    with np.load(file, allow_pickle=False) as archive:
        names = [name for name in archive.files if name != RECORD]
    return {entry: partial(_npz_member, file, entry) for entry in names}


def _safetensors_entries(file: Path) -> Entries:
    opened: Any = safetensors.safe_open(file, framework="pt")
    return {entry: partial(opened.get_tensor, entry) for entry in opened.keys()}  # noqa: SIM118


def _saved(file: Path) -> Any:
    if not zipfile.is_zipfile(file):
        raise ValueError("it is not a zip archive written by torch.save")
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def _pt_entries(file: Path) -> Entries:
    content = _saved(file)
    if isinstance(content, torch.Tensor):
        content = {ONLY: content}
    if not isinstance(content, dict):
        raise TypeError(f"it holds a {type(content).__name__}, not a tensor or a dict of tensors")
    tensors = {str(entry): tensor for entry, tensor in content.items() if isinstance(tensor, torch.Tensor)}
    return {entry: tensor.detach for entry, tensor in tensors.items()}


READERS: dict[str, Callable[[Path], Entries]] = {
    ".npy": _npy_entries,
    ".npz": _npz_entries,
    ".safetensors": _safetensors_entries,
    ".pt": _pt_entries,
}
"""What opens a file, by its suffix. What a reader raises becomes one sentence; none may ever unpickle."""


def _npz_member(file: Path, entry: str) -> np.ndarray:
    with np.load(file, allow_pickle=False) as archive:
        array = archive[entry]
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{entry!r} is not an array")
    return array


def _choose(keys: list[str], file: Path, name: str, key: str | None) -> str:
    """Return the key that was asked for, or the only one."""
    listed = ", ".join(keys)
    if key is not None and key not in keys:
        raise InputError(f"{name} {str(file)!r} has no array {key!r}; it holds {listed or 'none'}.")
    if key is None and len(keys) != 1:
        if not keys:
            raise InputError(f"{name} {str(file)!r} holds no arrays; pass a file with one.")
        raise InputError(f"{name} {str(file)!r} holds {len(keys)} arrays ({listed}); choose one with '{file}::KEY'.")
    return keys[0] if key is None else key


def _as_numpy(array: Array) -> Array:
    return array.numpy() if isinstance(array, torch.Tensor) and array.dtype != torch.bfloat16 else array


def _writer(file: Path, name: str) -> Callable[[IO[bytes], dict[str, Array]], None]:
    """Return what writes the format that the suffix names."""
    if file.suffix == ".npz":
        return write_npz
    if file.suffix == ".safetensors":
        return _write_safetensors
    kind = in_short(file.suffix or "none")
    raise InputError(f"{name} {shown(file)} has the file type {kind}; use .npz or .safetensors.")


def _write_safetensors(stream: IO[bytes], arrays: dict[str, Array]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for key, value in arrays.items():
        tensor = (share(value) if isinstance(value, np.ndarray) else value).contiguous()
        start = tensor.untyped_storage().data_ptr()
        tensors[key] = tensor.clone() if start in seen else tensor  # the format refuses shared memory
        seen.add(start)
    try:
        safetensors.torch.save_file(tensors, stream.name)
    except safetensors.SafetensorError as error:  # no room, among others
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(*((int(number[1]), os.strerror(int(number[1]))) if number else (reason(error),))) from None
