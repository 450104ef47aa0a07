"""Exact sums of the codes, and exact minimization over atoms and bias given these sums.

For fixed codes the objective (P) depends on data and codes through ``A = ZᵀZ``, ``C = ZᵀX``, ``S = Zᵀ1``, ``Σx`` and
``Σ‖x‖²`` only. With ``B = C − S bᵀ``:

    N F(D, b, Z) = ½ Σ‖x_n − b‖² − ⟨D, B⟩ + ½⟨D, A D⟩ + λ ΣS,       Σ_n z_nk r_n = (B − A D)_k.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Float64, Int64

from cvxsae.parallel.group import ProcessGroup

BLOCK = 64
"""Atoms updated between two matrix products of a sweep: the iteration is the same for any number."""

CHUNK = 4096
"""Datapoints whose codes are made dense at a time."""

WORTH_A_THREAD = 20_000
"""Codes that keep a thread busy for longer than it takes to start."""


@dataclass
class CodeSums:
    """Sums over the datapoints seen, float64, on one device, updated in place; data as seen from the origin.

    Attributes
    ----------
    products
        A = ZᵀZ, (K, K).
    crosses
        C = ZᵀX, (K, d).
    mass
        S = Zᵀ1, (K,).
    active
        Number of datapoints that use each atom, (K,).
    total
        Σ_n x_n, (d,), over all datapoints, of all processes if there are several.
    energy
        Σ_n ‖x_n‖² over all datapoints.
    n_points
        N.
    """

    products: Float64[torch.Tensor, "K K"]
    crosses: Float64[torch.Tensor, "K d"]
    mass: Float64[torch.Tensor, " K"]
    active: Int64[torch.Tensor, " K"]
    total: Float64[torch.Tensor, " d"]
    energy: float
    n_points: int

    @classmethod
    def empty(cls, n_atoms: int, total: Float64[torch.Tensor, " d"], energy: float, n_points: int) -> CodeSums:
        """All codes zero; on the device of ``total``."""
        products, crosses = total.new_zeros((n_atoms, n_atoms)), total.new_zeros((n_atoms, len(total)))
        active = torch.zeros(n_atoms, dtype=torch.int64, device=total.device)
        return cls(products, crosses, total.new_zeros(n_atoms), active, total, energy, n_points)

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return self.total.device

    def add(self, codes: sp.csr_array, points: Float64[torch.Tensor, "n d"], *, sign: float = 1.0) -> None:
        """Add (or, with ``sign = −1``, take away) what some datapoints contribute through their codes."""
        if self.device.type == "cpu":
            self._scatter(codes, points, sign)
        else:
            self._multiply(codes, points, sign)
        users = np.bincount(codes.indices, minlength=len(self.mass)).astype(np.int64)
        self.active += torch.from_numpy(users).to(self.device) * (1 if sign > 0 else -1)
        if sign < 0:
            # what subtraction leaves of a dead atom is rounding, and would pass for a direction
            gone = self.active == 0
            self.products[gone], self.products[:, gone], self.crosses[gone], self.mass[gone] = 0, 0, 0, 0

    def over(self, group: ProcessGroup) -> CodeSums:
        """What the datapoints of all processes contributed; these sums themselves for one process."""
        if group.is_alone:
            return self
        products, crosses, mass, active = group.sum(self.products, self.crosses, self.mass, self.active)
        return replace(self, products=products, crosses=crosses, mass=mass, active=active)

    def _scatter(self, codes: sp.csr_array, points: Float64[torch.Tensor, "n d"], sign: float) -> None:
        """By the fused kernel: each thread has its own rows."""
        from cvxsae.solvers.dictionary import kernels

        flat = points.contiguous().numpy().reshape(-1)
        indptr, indices = codes.indptr.astype(np.int64), codes.indices.astype(np.int64)
        parts = min(torch.get_num_threads(), 1 + codes.nnz // WORTH_A_THREAD)
        sums = (self.products.numpy(), self.crosses.numpy(), self.mass.numpy())
        jobs = [(indptr, indices, codes.data, flat, points.shape[1], sign, part, parts, *sums) for part in range(parts)]
        if parts == 1:
            kernels.scatter(*jobs[0])
            return
        with ThreadPoolExecutor(parts) as pool:
            for job in [pool.submit(kernels.scatter, *job) for job in jobs]:
                job.result()

    def _multiply(self, codes: sp.csr_array, points: Float64[torch.Tensor, "n d"], sign: float) -> None:
        """By dense products, chunk by chunk: what a GPU is good at."""
        for start in range(0, len(points), CHUNK):
            chunk = codes[start : start + CHUNK].tocoo()
            places = torch.from_numpy(np.stack([chunk.row, chunk.col]).astype(np.int64)).to(self.device)
            dense = torch.zeros(chunk.shape, dtype=torch.float64, device=self.device)
            dense[places[0], places[1]] = torch.from_numpy(chunk.data).to(self.device)
            self.products.addmm_(dense.T, dense, alpha=sign)
            self.crosses.addmm_(dense.T, points[start : start + CHUNK].to(self.device), alpha=sign)
            self.mass += sign * dense.sum(dim=0)

    def targets(
        self, dictionary: Float64[torch.Tensor, "K d"], offset: Float64[torch.Tensor, " d"]
    ) -> Float64[torch.Tensor, "K d"]:
        """``Σ_n z_nk r_n`` of every atom, (K, d): λS_k d_k at a stationary dictionary (T3)."""
        return self.crosses - torch.outer(self.mass, offset) - self.products @ dictionary

    def value(self, dictionary: Float64[torch.Tensor, "K d"], offset: Float64[torch.Tensor, " d"], lam: float) -> float:
        """F(D, b, Z) at the codes that went in, mean per datapoint."""
        linear = self.crosses - torch.outer(self.mass, offset)
        squares = self.energy - 2 * float(self.total @ offset) + self.n_points * float(offset @ offset)
        # −⟨D, B⟩ + ½⟨D, AD⟩ = −½⟨D, B + (B − AD)⟩
        smooth = squares / 2 - float(((linear + self.targets(dictionary, offset)) * dictionary).sum()) / 2
        return (smooth + lam * float(self.mass.sum())) / self.n_points

    def mean_residual(
        self, dictionary: Float64[torch.Tensor, "K d"], offset: Float64[torch.Tensor, " d"]
    ) -> Float64[torch.Tensor, " d"]:
        """``mean_n r_n``: zero at the best free bias, which is ``offset`` plus this."""
        return (self.total - self.mass @ dictionary) / self.n_points - offset

    def gradient(
        self, dictionary: Float64[torch.Tensor, "K d"], offset: Float64[torch.Tensor, " d"], *, bias_is_free: bool
    ) -> Float64[torch.Tensor, "K1 d"]:
        """Riemannian gradient of F, the bias in the last row (zero if fixed)."""
        rows = -self.targets(dictionary, offset) / self.n_points
        rows = rows - dictionary * (dictionary * rows).sum(dim=1, keepdim=True)
        mean = self.mean_residual(dictionary, offset)
        return torch.cat([rows, -mean[None] if bias_is_free else torch.zeros_like(mean)[None]])

    def stationarity(
        self, dictionary: Float64[torch.Tensor, "K d"], offset: Float64[torch.Tensor, " d"], lam: float
    ) -> Float64[torch.Tensor, " K"]:
        """``‖E_k[r]/λ − d_k‖`` of every atom, NaN for dead ones (T3)."""
        scaled = self.targets(dictionary, offset) / (lam * self.mass[:, None])
        distances = torch.linalg.vector_norm(scaled - dictionary, dim=1)
        return torch.where(self.mass > 0, distances, torch.nan)

    def bias_residual(
        self, dictionary: Float64[torch.Tensor, "K d"], offset: Float64[torch.Tensor, " d"], lam: float
    ) -> float:
        """``‖mean_n r_n‖/λ`` (T3)."""
        return float(torch.linalg.vector_norm(self.mean_residual(dictionary, offset))) / lam

    def sweep(
        self,
        dictionary: Float64[torch.Tensor, "K d"],
        offset: Float64[torch.Tensor, " d"],
        *,
        dtype: torch.dtype = torch.float64,
    ) -> Float64[torch.Tensor, "K d"]:
        """Minimize F(D, b, Z) exactly over one unit-norm atom after another, all of them once; F never rises.

        One product per block of atoms gives their targets, the sequential updates inside a block keep them exact.
        """
        from cvxsae.solvers.dictionary import kernels

        # A power of two, by which no bit is lost: squares of the data need not fit a narrower dtype.
        shrink = 2.0 ** -math.frexp(float(self.products.diagonal().max()))[1]
        products = (self.products * shrink).to(dtype)
        linear = ((self.crosses - torch.outer(self.mass, offset)) * shrink).to(dtype)
        atoms = dictionary.to(dtype, copy=True)
        for first in range(0, len(atoms), BLOCK):
            rows = slice(first, first + BLOCK)
            block = atoms[rows].clone()
            targets = linear[rows] - products[rows] @ atoms
            if self.device.type == "cpu":
                kernels.sweep_block(block.numpy(), targets.numpy(), products[rows].numpy(), first)
            else:
                sweep_block(block, targets, products[rows, rows])
            atoms[rows] = block
        return unit(atoms.to(torch.float64))


def sweep_block(
    atoms: Float[torch.Tensor, "m d"], targets: Float[torch.Tensor, "m d"], products: Float[torch.Tensor, "m m"]
) -> None:
    """The same as the kernel, on any device."""
    for k in range(len(atoms)):
        best = targets[k] + products[k, k] * atoms[k]
        norm = torch.linalg.vector_norm(best)
        move = torch.where(norm > 0, best / norm.clamp(min=torch.finfo(best.dtype).tiny) - atoms[k], 0.0)
        atoms[k] += move
        targets -= products[:, k, None] * move


def unit(rows: Float64[torch.Tensor, "K d"]) -> Float64[torch.Tensor, "K d"]:
    """Rows scaled to norm 1."""
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
