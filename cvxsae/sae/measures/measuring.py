"""The pass behind :func:`cvxsae.sae.metrics`: codes in, block by block, numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch

from cvxsae.sae.measures.definitions import Definition, Rows
from cvxsae.sae.measures.result import DENSE, KindMetrics
from cvxsae.sae.normalization import as_it_is
from cvxsae.statistics.estimates import Estimate, Means, Moments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64, Int64

    from cvxsae.data.activations import Activations
    from cvxsae.sae.autoencoder import SparseAutoencoder
    from cvxsae.sae.normalization import Normalization

_BLOCK_ENTRIES = 2**21
"""Entries of a block of rows: 16 MB in float64, and a few times that in all."""

NUMBERS = ("l0", "l1", "error", "spread", "cosine", "l2_ratio", "length", "product", "half")
"""What is known of every row: moments of these are all that is kept."""


@dataclass(frozen=True, eq=False)
class Decoder:
    """A dictionary of unit-norm atoms with a bias, and what happens around it."""

    atoms: Float64[np.ndarray, "K d"]
    bias: Float64[np.ndarray, " d"]
    norms: Float64[np.ndarray, " K"]
    normalization: Normalization | None = None

    @classmethod
    def of(cls, model: SparseAutoencoder) -> Decoder:
        """That of an SAE."""
        return cls(model.dictionary, model.b_dec.astype(np.float64), model.atom_norms, model.normalization)

    def blocks(
        self, data: Activations, codes: sp.csr_array
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
        """Rows, the datapoints, their reconstructions in the same units, and the squared errors where they are coded.

        ``codes`` (N, K) belong to unit-norm atoms.
        """
        start = 0
        for block in data.batches(rows=max(1, _BLOCK_ENTRIES // data.shape[1])):
            raw = block.cpu()
            rows = slice(start, start + len(raw))
            start = rows.stop
            x, undo = (raw, as_it_is) if self.normalization is None else self.normalization.forward(raw)
            decoded = torch.from_numpy(np.ascontiguousarray(codes[rows] @ self.atoms + self.bias))
            errors = (x - decoded).square().sum(dim=1).numpy()
            yield rows, raw.numpy(), undo(decoded).numpy(), errors

    def for_own_rows(self, codes: sp.csr_array) -> sp.csr_array:
        """Codes for the atoms as the SAE has them, of any norm."""
        norms = self.norms[codes.indices]
        scaled = np.divide(codes.data, norms, out=np.zeros_like(codes.data), where=norms > 0)
        return sp.csr_array((scaled, codes.indices, codes.indptr), shape=codes.shape)


class Measuring:
    """The numbers of one kind of codes, while they grow."""

    def __init__(
        self,
        decoder: Decoder,
        center: Float64[np.ndarray, " d"],
        definition: Definition | None,
        *,
        keep: bool = False,
        groups: Int64[np.ndarray, " N"] | None = None,
    ) -> None:
        self.decoder, self.center, self.definition = decoder, center, definition
        self.moments, self.theirs = Moments(NUMBERS, groups), Means()
        K = len(decoder.atoms)
        self.fires, self.mass, self.largest = np.zeros(K, np.int64), np.zeros(K), np.zeros(K)
        self.kept: list[np.ndarray] | None = [] if keep else None

    def add(self, data: Activations, codes: sp.csr_array) -> None:
        """Add datapoints with their codes (n, K), nonnegative, for unit-norm atoms."""
        for rows, x, reconstruction, errors in self.decoder.blocks(data, codes):
            here = codes[rows]
            here.eliminate_zeros()
            self.moments.add(_numbers(x, reconstruction, errors, self.center, here))
            if self.definition is not None:
                own = Rows(x, reconstruction, self.center, self.decoder.for_own_rows(here))
                self.theirs.add(self.definition.columns(own))
            self.fires += np.bincount(here.indices, minlength=len(self.fires))
            self.mass += np.bincount(here.indices, here.data, minlength=len(self.fires))
            np.maximum.at(self.largest, here.indices, here.data)
            if self.kept is not None:
                self.kept.append(reconstruction)

    def reconstructions(self) -> Float64[np.ndarray, "N d"]:
        """Those of all rows, if they were kept; they are not any longer."""
        kept, self.kept = self.kept or [], None
        return np.concatenate(kept)

    def finish(
        self,
        confidence: float,
        lam: float | None = None,
        gap: float | None = None,
        l0_range: tuple[float, float] | None = None,
        **more: float,
    ) -> KindMetrics:
        """The numbers; at λ the value too; ``more`` are numbers without interval."""
        of, level = self.moments, confidence
        dead, density = int((self.fires == 0).sum()), self.fires / of.n
        numbers = {
            "l0": of.average("l0", level),
            "l1": of.average("l1", level),
            "mse": of.average("error", level),
            "explained_variance": of.ratio("error", "spread", level, complement=True),
            "fvu": of.ratio("error", "spread", level),
            "cosine": of.average("cosine", level),
            "l2_ratio": of.average("l2_ratio", level),
            "relative_reconstruction_bias": of.ratio("length", "product", level),
            "dead": Estimate(dead),
            "dense": Estimate(int((density > DENSE).sum())),
            **{name: Estimate(number) for name, number in more.items()},
        }
        if lam is not None:
            numbers["value"] = of.combination({"half": 1.0, "l1": lam}, level)
        theirs = {} if self.definition is None else self.definition.finish(self.theirs.mean, of.n, dead / len(density))
        return KindMetrics(
            numbers=numbers,
            compat=theirs,
            fires=self.fires,
            mass=self.mass,
            largest=self.largest,
            gap=gap,
            l0_range=l0_range,
        )


def _numbers(
    x: np.ndarray, reconstruction: np.ndarray, errors: np.ndarray, center: np.ndarray, codes: sp.csr_array
) -> dict[str, np.ndarray]:
    """:data:`NUMBERS` of a block; ``errors`` are squared, where the SAE codes the data."""
    size, length = np.linalg.norm(x, axis=1), np.linalg.norm(reconstruction, axis=1)
    product, none = (x * reconstruction).sum(axis=1), np.zeros(len(x))
    return {
        "l0": np.diff(codes.indptr).astype(np.float64),
        "l1": np.asarray(codes.sum(axis=1)).ravel(),
        "error": np.square(x - reconstruction).sum(axis=1),
        "spread": np.square(x - center).sum(axis=1),
        "cosine": np.divide(product, size * length, out=none.copy(), where=size * length > 0),
        "l2_ratio": np.divide(length, size, out=none.copy(), where=size > 0),
        "length": length**2,
        "product": product,
        "half": errors / 2,
    }


def mean_row(data: Activations) -> Float64[np.ndarray, " d"]:
    """The mean of all rows, x̄."""
    means = Means()
    for block in data.batches():
        means.add({"x": block.cpu().numpy()})
    return means.mean["x"]
