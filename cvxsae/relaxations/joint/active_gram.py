"""Linear algebra on active sets: sparse codes times dense rows, and the Gram matrices of active atoms."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64, Int64

from cvxsae.data.deadline import go_on
from cvxsae.relaxations import linalg

_BLOCK_ENTRIES = {"cpu": 2**21, "cuda": 2**27}
"""Most entries of a batch of Gram matrices: 16 MB on a CPU (its cache), 1 GB on a GPU."""

_GATHER_ENTRIES = {"cpu": 2**16, "cuda": 2**27}
"""Entries gathered at a time: on a CPU few enough to stay in cache."""

_SINGULAR = 1e-10
"""Squared pivot, relative to unit atoms, below which a Gram matrix counts as singular."""


class CodePattern:
    """Which atoms are active where, and products with matrices that are zero elsewhere."""

    def __init__(self, codes: sp.csr_array, device: torch.device) -> None:
        coo = codes.tocoo()
        self.shape = (int(codes.shape[0]), int(codes.shape[1]))
        self.indptr = codes.indptr.astype(np.int64)
        indices = np.stack([coo.row, coo.col]).astype(np.int64)
        order = np.argsort(indices[1], kind="stable")
        self.indices = torch.from_numpy(indices).to(device)
        self._order = torch.from_numpy(order).to(device)
        self._transposed = self.indices.flip(0)[:, self._order]

    def times(self, values: torch.Tensor, rows: Float64[torch.Tensor, "K m"]) -> Float64[torch.Tensor, "N m"]:
        """(N, K) matrix with these values times a dense one."""
        return torch.sparse.mm(_coo(self.indices, values, self.shape), rows)

    def transposed_times(
        self, values: torch.Tensor, rows: Float64[torch.Tensor, "N m"]
    ) -> Float64[torch.Tensor, "K m"]:
        """Its transpose times a dense one."""
        return torch.sparse.mm(_coo(self._transposed, values[self._order], self.shape[::-1]), rows)

    def sampled(
        self, left: Float64[torch.Tensor, "N d"], right: Float64[torch.Tensor, "K d"]
    ) -> Float64[torch.Tensor, " nnz"]:
        """``left_n · right_k`` for every active (n, k)."""
        step = max(1, _GATHER_ENTRIES[left.device.type] // left.shape[1])
        parts = []
        for rows, columns in zip(*(torch.split(index, step) for index in self.indices), strict=True):
            go_on()
            parts.append((left[rows] * right[columns]).sum(dim=1))
        return torch.cat(parts)


def _coo(indices: torch.Tensor, values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.sparse_coo_tensor(indices, values, shape, is_coalesced=True, check_invariants=False)


class ActiveSolver:
    """``G_A⁻¹`` of every datapoint's active atoms, kept in batches of datapoints with similar numbers of them.

    Memory: about ``8 Σ_n |A_n|²`` bytes.
    """

    def __init__(self, pattern: CodePattern, dictionary: Float64[torch.Tensor, "K d"]) -> None:
        self.size = int(pattern.indices.shape[1])
        counts = np.diff(pattern.indptr)
        device = dictionary.device
        self.is_singular = torch.zeros(len(counts), dtype=torch.bool, device=device)
        self.batches: list[tuple[torch.Tensor, torch.Tensor]] = []
        columns = torch.cat([pattern.indices[1], pattern.indices.new_zeros(1)])
        for points, width in similar_counts(counts, _BLOCK_ENTRIES[device.type] // dictionary.shape[1]):
            go_on()
            places = pattern.indptr[points][:, None] + np.arange(width)
            places[np.arange(width)[None, :] >= counts[points][:, None]] = self.size
            slots = torch.from_numpy(places).to(device)
            inverse, singular = gram_inverses(dictionary[columns[slots]], slots < self.size)
            self.is_singular[torch.from_numpy(points).to(device)] = singular
            self.batches.append((slots, inverse))
        self.singular = int(self.is_singular.sum())

    def solve(self, values: Float64[torch.Tensor, " nnz"]) -> Float64[torch.Tensor, " nnz"]:
        """``G_A⁻¹ v_A`` of every datapoint."""
        padded = torch.cat([values, values.new_zeros(1)])
        answer = torch.empty_like(padded)
        for slots, inverse in self.batches:
            go_on()
            answer[slots] = torch.bmm(inverse, padded[slots][:, :, None])[:, :, 0]
        return answer[:-1]


def similar_counts(counts: Int64[np.ndarray, " N"], budget: int) -> Iterator[tuple[np.ndarray, int]]:
    """Datapoints with codes in groups whose active sets differ by a quarter at most, and the largest of a group."""
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0]
    start = 0
    while start < len(order):
        widest = max(int(1.25 * counts[order[start]]), 4)
        stop = int(np.searchsorted(counts[order], widest, side="right"))
        stop = min(stop, start + max(1, budget // widest))
        yield order[start:stop], int(counts[order[stop - 1]])
        start = stop


def gram_inverses(
    members: Float64[torch.Tensor, "n a d"], real: torch.Tensor
) -> tuple[Float64[torch.Tensor, "n a a"], torch.Tensor]:
    """Inverses of Gram matrices (pseudo-inverses of singular ones), zero where padded, and which are singular."""
    both = real[:, :, None] & real[:, None, :]
    padding = torch.diag_embed((~real).to(members.dtype))
    gram = torch.where(both, members @ members.mT, 0) + padding
    factor, failed = linalg.cholesky(gram)
    singular = (failed > 0) | (torch.diagonal(factor, dim1=1, dim2=2).amin(dim=1).square() < _SINGULAR)
    inverse = torch.cholesky_inverse(torch.where(singular[:, None, None], torch.eye(gram.shape[1]).to(gram), factor))
    if bool(singular.any()):
        inverse[singular] = linalg.pseudo_inverse(gram[singular], _SINGULAR)
    return torch.where(both, inverse, 0), singular
