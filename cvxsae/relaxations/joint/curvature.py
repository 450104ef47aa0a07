"""First and second derivatives of F(D, b) at exact codes, and whether a stationary dictionary is a minimum (T3, T5)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64

from cvxsae.data.deadline import go_on, whatever_the_time
from cvxsae.relaxations import linalg
from cvxsae.relaxations.joint.active_gram import ActiveSolver, CodePattern

_BLOCK_ENTRIES = {"cpu": 2**21, "cuda": 2**27}
"""Most entries of a block of codes and residuals: 16 MB on a CPU (its cache), 1 GB on a GPU."""

_BASIS = 40
"""Lanczos vectors held before a restart."""

_KEPT = 10
"""Lowest Ritz vectors kept by a restart: a quarter, as is usual for thick restarts."""


@dataclass(frozen=True)
class LeastCurvature:
    """The smallest eigenvalue that Lanczos found of the scaled Hessian, and the direction that has it.

    Attributes
    ----------
    eigenvalue
        Of the Hessian in the metric ``λ Σ_k (S_k/N)‖Δ_k‖² + ‖β‖²``: dimensionless, and negative iff the plain
        Hessian has a negative eigenvalue. It is attained by the direction, so a negative value proves that F can be
        lowered.
    residual
        ``‖Hv − μv‖`` in that metric: within this of ``eigenvalue`` there is an eigenvalue.
    curvature
        Second derivative of F along the unit direction, in units of (P).
    direction
        Escape direction Δ, (K, d): rows orthogonal to their atoms. With ``bias_direction`` it has norm 1.
    bias_direction
        (d,), or None with a fixed bias.
    converged
        Whether Lanczos reached its tolerance.
    """

    eigenvalue: float
    residual: float
    curvature: float
    direction: Float64[torch.Tensor, "K d"]
    bias_direction: Float64[torch.Tensor, " d"] | None
    converged: bool


class Curvature:
    """F(D, b) to second order around a dictionary, codes moving as they must (T5).

    Where every active code is positive, every other atom strictly below λ and active atoms independent, F is twice
    differentiable. The codes are made exact on their support, ``z_A = G_A⁻¹(D_A(x − b) − λ)``, wherever that is
    nonnegative; the support itself is taken from ``codes``. Everything is in float64.

    Parameters
    ----------
    X
        Datapoints, (N, d) float64.
    dictionary
        Unit-norm atoms, (K, d) float64.
    lam
        Penalty λ > 0.
    codes
        Optimal codes of every datapoint, (N, K).
    bias
        Decoder bias (d,), or None for zero.
    bias_is_free
        Whether the bias is a variable.
    device
        Where to compute.

    Attributes
    ----------
    value
        F(D, b) in units of (P).
    codes
        Values of the codes after the polish, in the order of ``indices``, (nnz,).
    indices
        Datapoint and atom of every code, (2, nnz).
    residuals
        ``x_n − b − z_n D``, (N, d).
    mass
        ``S_k/N``, (K,); zero for dead atoms.
    least_code
        Smallest active code over λ: one side of strict complementarity; infinite if all codes are zero.
    least_slack
        Smallest ``1 − d_j·r_n/λ`` over inactive (n, j): the other side. Negative if the codes are not optimal.
    singular
        Number of datapoints whose active atoms are dependent: there F has a kink and the Hessian means nothing.
    """

    def __init__(
        self,
        X: Float64[torch.Tensor, "N d"],
        dictionary: Float64[torch.Tensor, "K d"],
        lam: float,
        codes: sp.csr_array,
        *,
        bias: Float64[torch.Tensor, " d"] | None = None,
        bias_is_free: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.lam, self.bias_is_free = lam, bias_is_free
        self.dictionary = dictionary.to(self.device)
        offsets = X.to(self.device) if bias is None else X.to(self.device) - bias.to(self.device)
        self._pattern = CodePattern(codes, self.device)
        self._solver = ActiveSolver(self._pattern, self.dictionary)
        self.singular = self._solver.singular
        given = torch.from_numpy(codes.data.astype(np.float64)).to(self.device)
        self.codes = self._polished(offsets, given)
        self.indices = self._pattern.indices
        self.residuals = offsets - self._pattern.times(self.codes, self.dictionary)
        ones = torch.ones((len(offsets), 1), dtype=torch.float64, device=self.device)
        self.mass = self._pattern.transposed_times(self.codes, ones)[:, 0] / len(offsets)
        self.value = (float(self.residuals.square().sum()) / 2 + lam * float(self.codes.sum())) / len(offsets)
        self.least_code = float(self.codes.min()) / lam if len(self.codes) else float("inf")
        self.least_slack = self._least_slack()

    @property
    def is_regular(self) -> bool:
        """Whether strict complementarity holds and active atoms are independent, so that the Hessian exists."""
        return self.singular == 0 and self.least_code > 0 and self.least_slack > 0

    @property
    def live(self) -> torch.Tensor:
        """Whether each atom is active somewhere, (K,)."""
        return self.mass > 0

    def gradient(self) -> tuple[Float64[torch.Tensor, "K d"], Float64[torch.Tensor, " d"]]:
        """Riemannian gradient ``−(S_k/N)(E_k[r] − (d_k·E_k[r]) d_k)`` in D and ``−mean_n r_n`` in b."""
        n = len(self.residuals)
        raw = -self._pattern.transposed_times(self.codes, self.residuals) / n
        return self._tangent(raw), -self.residuals.mean(dim=0)

    def product(
        self, direction: Float64[torch.Tensor, "K d"], bias_direction: Float64[torch.Tensor, " d"] | None = None
    ) -> tuple[Float64[torch.Tensor, "K d"], Float64[torch.Tensor, " d"]]:
        """Hessian times a direction: second derivatives of F along great circles, (K, d), and in the bias, (d,).

        ``dz = G_A⁻¹(Δ_A r − D_A(Δ_Aᵀz + β))``, ``dr = −Δ_Aᵀz − β − D_Aᵀdz``,
        ``Hess[Δ]_k = (I − d_k d_kᵀ) mean_n(−dz_nk r_n − z_nk dr_n) + λ mean_n(z_nk) Δ_k``, ``Hess[β] = −mean_n dr_n``.
        What of the direction is not tangent is dropped. Cost: five sparse products, about 10 nnz·d multiplications.
        """
        tangent = self._tangent(direction.to(self.device))
        moved = self._pattern.times(self.codes, tangent)
        if bias_direction is not None:
            moved = moved + bias_direction.to(self.device)
        pull = self._pattern.sampled(self.residuals, tangent) - self._pattern.sampled(moved, self.dictionary)
        code_moves = self._solver.solve(pull)
        residual_moves = -moved - self._pattern.times(code_moves, self.dictionary)
        raw = self._pattern.transposed_times(code_moves, self.residuals)
        raw += self._pattern.transposed_times(self.codes, residual_moves)
        bent = self.lam * self.mass[:, None] * tangent
        return self._tangent(-raw / len(self.residuals)) + bent, -residual_moves.mean(dim=0)

    def least(
        self, *, tol: float = 1e-3, products: int = 500, seed: int = 0, deadline: float = math.inf
    ) -> LeastCurvature:
        """Smallest eigenvalue of the Hessian over live atoms (and a free bias) by Lanczos, in the scaled metric.

        Parameters
        ----------
        tol
            Residual ``‖Hv − μv‖`` to stop at; in the scaled metric the Hessian's natural size is 1.
        products
            Hessian-vector products at most.
        seed
            Of the starting vector.
        deadline
            The ``time.perf_counter`` at which to stop with the best pair so far.
        """
        space = _TangentSpace(self)
        if space.size == 0:
            none = torch.zeros_like(self.dictionary)
            return LeastCurvature(float("inf"), 0.0, float("inf"), none, None, converged=True)
        start = torch.randn(space.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        with whatever_the_time():  # it has a deadline of its own, at which it has something to return
            eigenvalue, vector, residual = _lowest(space.apply, start.to(self.device), tol, products, deadline)
        direction, shift = space.unpack(vector)
        length = float(torch.sqrt(direction.square().sum() + (0 if shift is None else shift.square().sum())))
        return LeastCurvature(
            eigenvalue,
            residual,
            eigenvalue / length**2,  # in the scaled metric the vector has length 1
            direction / length,
            None if shift is None else shift / length,
            converged=residual <= tol,
        )

    def _tangent(self, rows: Float64[torch.Tensor, "K d"]) -> Float64[torch.Tensor, "K d"]:
        return rows - self.dictionary * (self.dictionary * rows).sum(dim=1, keepdim=True)

    def _polished(
        self, offsets: Float64[torch.Tensor, "N d"], given: Float64[torch.Tensor, " nnz"]
    ) -> Float64[torch.Tensor, " nnz"]:
        """Codes exact on their support, except on datapoints where that would make one negative or is ill-posed."""
        exact = self._solver.solve(self._pattern.sampled(offsets, self.dictionary) - self.lam)
        refused = torch.zeros(len(offsets), dtype=torch.bool, device=self.device)
        refused[self._pattern.indices[0][exact <= 0]] = True
        refused |= self._solver.is_singular
        return torch.where(refused[self._pattern.indices[0]], given, exact)

    def _least_slack(self) -> float:
        """Smallest 1 − d_j·r_n/λ over pairs that are not active, in blocks of datapoints."""
        n, n_atoms = len(self.residuals), len(self.dictionary)
        rows, columns = self._pattern.indices
        step = max(1, _BLOCK_ENTRIES[self.device.type] // n_atoms)
        largest = -float("inf")
        for start in range(0, n, step):
            go_on()
            products = self.residuals[start : start + step] @ self.dictionary.T
            first, last = (int(torch.searchsorted(rows, edge)) for edge in (start, start + step))
            products[rows[first:last] - start, columns[first:last]] = -float("inf")
            largest = max(largest, float(products.max()))
        return 1 - largest / self.lam


class _TangentSpace:
    """Coordinates in which the metric of :class:`LeastCurvature` is the identity: d − 1 a live atom, d for a free bias.

    A reflection takes ``d_k`` to ±e_1, so tangent vectors are those without a first coordinate.
    """

    def __init__(self, curvature: Curvature) -> None:
        self.curvature = curvature
        self.live = curvature.live.nonzero()[:, 0]
        atoms = curvature.dictionary[self.live]
        mirror = atoms.clone()
        mirror[:, 0] += torch.where(atoms[:, 0] >= 0, 1.0, -1.0)
        self.mirror = mirror / torch.linalg.vector_norm(mirror, dim=1, keepdim=True)
        self.scale = (curvature.lam * curvature.mass[self.live]).rsqrt()[:, None]
        self.dim = atoms.shape[1]
        self.split = len(atoms) * (self.dim - 1)
        self.size = self.split + (self.dim if curvature.bias_is_free else 0)

    def unpack(self, values: Float64[torch.Tensor, " m"]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Direction in the dictionary, (K, d), and in the bias."""
        flat = torch.nn.functional.pad(values[: self.split].view(len(self.live), self.dim - 1), (1, 0))
        direction = torch.zeros_like(self.curvature.dictionary)
        direction[self.live] = self._reflect(flat) * self.scale
        return direction, values[self.split :] if self.curvature.bias_is_free else None

    def apply(self, values: Float64[torch.Tensor, " m"]) -> Float64[torch.Tensor, " m"]:
        """The scaled Hessian times a vector."""
        direction, shift = self.unpack(values)
        image, pull = self.curvature.product(direction, shift)
        rows = self._reflect(image[self.live] * self.scale)[:, 1:].reshape(-1)
        parts = [rows] if shift is None else [rows, pull]
        return torch.cat(parts)

    def _reflect(self, rows: Float64[torch.Tensor, "k d"]) -> Float64[torch.Tensor, "k d"]:
        return rows - 2 * self.mirror * (self.mirror * rows).sum(dim=1, keepdim=True)


def _lowest(
    apply: Callable[[torch.Tensor], torch.Tensor],
    start: Float64[torch.Tensor, " m"],
    tol: float,
    products: int,
    deadline: float,
) -> tuple[float, Float64[torch.Tensor, " m"], float]:
    """Lowest eigenpair of a symmetric operator and its residual: Lanczos with full orthogonality and thick restarts.

    Each product extends the basis by the residual of the lowest Ritz vector; at the largest size the basis shrinks to
    the lowest Ritz vectors.
    """
    room = min(_BASIS, len(start))
    basis, images = start.new_zeros((2, room, len(start)))
    vector = start / torch.linalg.vector_norm(start)
    size = 0
    for _ in range(max(1, products)):
        basis[size], images[size] = vector, apply(vector)
        size += 1
        values, mixing = linalg.eigh(basis[:size] @ images[:size].T)
        eigenvalue, lowest = float(values[0]), mixing[:, 0] @ basis[:size]
        left = mixing[:, 0] @ images[:size] - eigenvalue * lowest
        residual = float(torch.linalg.vector_norm(left))
        if residual <= tol or size == len(start) or time.perf_counter() > deadline:
            break
        if size == room:
            size = min(_KEPT, room - 1)
            basis[:size], images[:size] = mixing[:, :size].T @ basis, mixing[:, :size].T @ images
        for _ in range(2):
            left = left - basis[:size].T @ (basis[:size] @ left)
        vector = left / torch.linalg.vector_norm(left)
    return eigenvalue, lowest, residual
