"""What dictionary and bias need to know of the codes: exact sums, and exact minimisation over atoms given them.

For fixed codes the objective (P) depends on data and codes through ``A = ZᵀZ``, ``C = ZᵀX``, ``S = Zᵀ1``, ``Σx`` and
``Σ‖x‖²`` only. With ``B = C − S bᵀ``:

    N F(D, b, Z) = ½ Σ‖x_n − b‖² − ⟨D, B⟩ + ½⟨D, A D⟩ + λ ΣS,       Σ_n z_nk r_n = (B − A D)_k.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch

from cvxsae.solvers.learning import kernels

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int64

BLOCK = 64
"""Atoms updated between two matrix products of a sweep: the iteration is the same for any number."""

_CHUNK = 4096


@dataclass
class Statistics:
    """Sums over the datapoints seen, float64, updated in place. Data are measured from an origin that its owner keeps.

    Attributes
    ----------
    products
        A = ZᵀZ, (K, K).
    crosses
        C = ZᵀX, (K, d).
    mass
        S = Zᵀ1, (K,).
    total
        Σ_n x_n, (d,), over all datapoints.
    energy
        Σ_n ‖x_n‖² over all datapoints.
    n_points
        N.
    active
        Number of datapoints that use each atom, (K,).
    """

    products: Float64[np.ndarray, "K K"]
    crosses: Float64[np.ndarray, "K d"]
    mass: Float64[np.ndarray, " K"]
    total: Float64[np.ndarray, " d"]
    energy: float
    n_points: int
    active: Int64[np.ndarray, " K"]

    @classmethod
    def empty(cls, n_atoms: int, total: Float64[np.ndarray, " d"], energy: float, n_points: int) -> Statistics:
        """All codes zero."""
        return cls(
            np.zeros((n_atoms, n_atoms)), np.zeros((n_atoms, len(total))), np.zeros(n_atoms), total, energy, n_points,
            np.zeros(n_atoms, dtype=np.int64),
        )  # fmt: skip

    def add(
        self, codes: sp.csr_array, points: Float64[np.ndarray, "n d"], *, sign: float = 1.0, device: torch.device
    ) -> None:
        """Add (or, with ``sign = −1``, take away) what some datapoints contribute through their codes."""
        if device.type == "cpu":
            self._scatter(codes, points, sign)
        else:
            self._multiply(codes, points, sign, device)
        self.active += np.bincount(codes.indices, minlength=len(self.mass)) * (1 if sign > 0 else -1)
        gone = self.active == 0  # what subtraction leaves of a dead atom is rounding, and would pass for a direction
        if sign < 0 and gone.any():
            self.products[gone], self.products[:, gone], self.crosses[gone], self.mass[gone] = 0, 0, 0, 0

    def _scatter(self, codes: sp.csr_array, points: Float64[np.ndarray, "n d"], sign: float) -> None:
        flat = np.ascontiguousarray(points).reshape(-1)
        indptr, indices = codes.indptr.astype(np.int64), codes.indices.astype(np.int64)
        parts = min(torch.get_num_threads(), 1 + codes.nnz // 20_000)
        jobs = [
            (indptr, indices, codes.data, flat, points.shape[1], sign, part, parts,
             self.products, self.crosses, self.mass)
            for part in range(parts)
        ]  # fmt: skip
        if parts == 1:
            kernels.scatter(*jobs[0])
            return
        with ThreadPoolExecutor(parts) as pool:
            for job in [pool.submit(kernels.scatter, *job) for job in jobs]:
                job.result()

    def _multiply(
        self, codes: sp.csr_array, points: Float64[np.ndarray, "n d"], sign: float, device: torch.device
    ) -> None:
        products = torch.zeros(self.products.shape, dtype=torch.float64, device=device)
        crosses = torch.zeros(self.crosses.shape, dtype=torch.float64, device=device)
        for start in range(0, len(points), _CHUNK):
            chunk = torch.from_numpy(codes[start : start + _CHUNK].toarray()).to(device)
            products += chunk.T @ chunk
            crosses += chunk.T @ torch.from_numpy(points[start : start + _CHUNK]).to(device)
        self.products += sign * products.cpu().numpy()
        self.crosses += sign * crosses.cpu().numpy()
        self.mass += sign * np.asarray(codes.sum(axis=0)).ravel()

    def targets(
        self, dictionary: Float64[np.ndarray, "K d"], offset: Float64[np.ndarray, " d"]
    ) -> Float64[np.ndarray, "K d"]:
        """``Σ_n z_nk r_n`` of every atom, (K, d): λS_k d_k at a stationary dictionary (T3)."""
        explained = (torch.from_numpy(self.products) @ torch.from_numpy(dictionary)).numpy()
        return self.crosses - np.outer(self.mass, offset) - explained

    def value(self, dictionary: Float64[np.ndarray, "K d"], offset: Float64[np.ndarray, " d"], lam: float) -> float:
        """F(D, b, Z) at the codes that went in, mean per datapoint."""
        targets = self.targets(dictionary, offset)
        linear = self.crosses - np.outer(self.mass, offset)
        squares = self.energy - 2 * float(self.total @ offset) + self.n_points * float(offset @ offset)
        # −⟨D, B⟩ + ½⟨D, AD⟩ = −½⟨D, B + (B − AD)⟩
        smooth = squares / 2 - float(((linear + targets) * dictionary).sum()) / 2
        return (smooth + lam * float(self.mass.sum())) / self.n_points

    def best_offset(self, dictionary: Float64[np.ndarray, "K d"]) -> Float64[np.ndarray, " d"]:
        """The free bias that is best for these codes: the mean of x − zD."""
        best: Float64[np.ndarray, " d"] = (self.total - self.mass @ dictionary) / self.n_points
        return best

    def stationarity(
        self, dictionary: Float64[np.ndarray, "K d"], offset: Float64[np.ndarray, " d"], lam: float
    ) -> Float64[np.ndarray, " K"]:
        """``‖E_k[r]/λ − d_k‖`` of every atom, NaN for dead ones (T3)."""
        live = self.mass > 0
        residuals = np.full(len(live), np.nan)
        scaled = self.targets(dictionary, offset)[live] / (lam * self.mass[live, None])
        residuals[live] = np.linalg.norm(scaled - dictionary[live], axis=1)
        return residuals

    def bias_residual(
        self, dictionary: Float64[np.ndarray, "K d"], offset: Float64[np.ndarray, " d"], lam: float
    ) -> float:
        """``‖mean_n r_n‖/λ`` (T3)."""
        mean = (self.total - self.mass @ dictionary) / self.n_points - offset
        return float(np.linalg.norm(mean)) / lam

    def sweep(
        self,
        dictionary: Float64[np.ndarray, "K d"],
        offset: Float64[np.ndarray, " d"],
        *,
        dtype: type[np.floating] = np.float64,
        device: torch.device,
    ) -> Float64[np.ndarray, "K d"]:
        """Minimise F(D, b, Z) exactly over one unit-norm atom after another, all of them once; F never rises.

        One product per block of atoms gives their targets, the sequential updates inside a block keep them exact.
        """
        products = torch.from_numpy(self.products.astype(dtype, copy=False)).to(device)
        linear = torch.from_numpy((self.crosses - np.outer(self.mass, offset)).astype(dtype, copy=False)).to(device)
        atoms = torch.from_numpy(dictionary.astype(dtype)).to(device)
        for first in range(0, len(atoms), BLOCK):
            rows = slice(first, first + BLOCK)
            block = atoms[rows].clone()
            targets = linear[rows] - products[rows] @ atoms
            if device.type == "cpu":
                kernels.sweep_block(block.numpy(), targets.numpy(), products[rows].numpy(), first)
            else:
                _sweep_block(block, targets, products[rows, rows])
            atoms[rows] = block
        swept = atoms.cpu().numpy().astype(np.float64)
        return unit(swept)


def _sweep_block(
    atoms: Float[torch.Tensor, "m d"], targets: Float[torch.Tensor, "m d"], products: Float[torch.Tensor, "m m"]
) -> None:
    """The same as the kernel, on any device."""
    for k in range(len(atoms)):
        best = targets[k] + products[k, k] * atoms[k]
        norm = torch.linalg.vector_norm(best)
        move = torch.where(norm > 0, best / norm.clamp(min=torch.finfo(best.dtype).tiny) - atoms[k], 0.0)
        atoms[k] += move
        targets -= products[:, k, None] * move


def unit(rows: Float[np.ndarray, "K d"]) -> Float64[np.ndarray, "K d"]:
    """Rows scaled to norm 1, in float64."""
    rows = rows.astype(np.float64, copy=False)
    scaled: Float64[np.ndarray, "K d"] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled
