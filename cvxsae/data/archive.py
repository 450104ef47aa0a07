"""Several arrays in one ``.npz`` archive: sparse ones in parts, texts beside them, nothing ever unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from scipy import sparse

from cvxsae.errors import InputError

Array: TypeAlias = np.ndarray | torch.Tensor
StoredArray: TypeAlias = np.ndarray | torch.Tensor | sparse.csr_array

RECORD = "record.json"
"""The text in the archive of a kept record (:class:`cvxsae.data.storage.Folder`), beside its arrays."""

CSR_PARTS = ("data", "indices", "indptr", "shape")
"""What a sparse array ``codes`` is stored as: ``codes.data``, ``codes.indices``, ..."""


def flatten(mapping: Mapping[str, Any]) -> dict[str, Array]:
    """Split sparse arrays into their parts, and check that every array is numeric and no name is used twice."""
    arrays: dict[str, Array] = {}
    if not isinstance(mapping, Mapping) or not all(isinstance(entry, str) for entry in mapping):
        raise InputError(f"mapping is a {type(mapping).__name__}; pass a dict of arrays by name.")
    for entry, value in mapping.items():
        parts = {entry: value}
        if sparse.issparse(value):
            codes: sparse.csr_array = sparse.csr_array(value)  # type: ignore[call-overload]
            stored = (codes.data, codes.indices, codes.indptr, np.array(codes.shape, dtype=np.int64))
            parts = {f"{entry}.{part}": array for part, array in zip(CSR_PARTS, stored, strict=True)}
        for key, part in parts.items():
            array = part.detach().cpu() if isinstance(part, torch.Tensor) else np.asarray(part)
            if isinstance(array, np.ndarray) and array.dtype.kind not in "fiub":
                raise InputError(
                    f"mapping has {key!r} of dtype {array.dtype}; only arrays of real numbers can be saved."
                )
            if key in arrays:
                raise InputError(f"two arrays would be saved as {key!r}; rename one.")
            arrays[key] = array
    return arrays


def rebuild(arrays: Mapping[str, Array]) -> dict[str, StoredArray]:
    """The inverse of :func:`flatten`; raises ValueError if the parts of a sparse array contradict each other."""
    found: dict[str, Any] = dict(arrays)
    for prefix in [entry.removesuffix(".indptr") for entry in found if entry.endswith(".indptr")]:
        if all(f"{prefix}.{part}" in found for part in CSR_PARTS):
            data, indices, indptr, shape = (found.pop(f"{prefix}.{part}") for part in CSR_PARTS)
            n_rows, n_columns = (int(size) for size in shape)
            codes: Any = sparse.csr_array((data, indices, indptr), shape=(n_rows, n_columns))
            codes.check_format(full_check=True)
            found[prefix] = codes
    return found


def write_npz(stream: IO[bytes], arrays: Mapping[str, Array], texts: Mapping[str, str] | None = None) -> None:
    """Write flat arrays as ``NAME.npy`` and texts under their own names."""
    # Not numpy.savez: its own arguments forbid arrays named "file", and it would pickle objects.
    with zipfile.ZipFile(stream, mode="w", compression=zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, text in (texts or {}).items():
            archive.writestr(name, text)
        for key, value in arrays.items():
            if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16:
                raise InputError(f"{key!r} is bfloat16, which .npz cannot hold; save to .safetensors.")
            with archive.open(f"{key}.npy", mode="w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(value), allow_pickle=False)
