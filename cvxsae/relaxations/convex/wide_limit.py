"""The wide limit: one atom per datapoint, the floor under every dictionary of every width (T9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float

from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.data.arguments import BiasLike
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.linalg import EPS
from cvxsae.relaxations.problem import Problem, float64_tensor, made_together

RECOVERY_BYTES = 2**29
"""Dictionary and dual of the wide limit are as large as the data; beyond this they are not written out."""


def huber(norms: torch.Tensor, lam: float) -> torch.Tensor:
    """``h_λ(r) = ½r²`` for ``r ≤ λ``, ``λr − ½λ²`` beyond."""
    inner = norms.clamp(max=lam)
    return inner * (norms - inner / 2)


@dataclass(frozen=True)
class HuberSums:
    """Sums over datapoints at one bias b, ``u_n = x_n − b``, in float64 and on the CPU: those of parts of data add up.

    Attributes
    ----------
    scalars
        ``N``, ``Σ h_λ(‖u‖)``, ``Σ ψ·u``, ``Σ ‖ψ‖²``, ``Σ min(1, λ/‖u‖)``, (5,).
    vectors
        ``Σ ψ_λ(u)`` and ``Σ u``, (2, d).
    hessian
        Sum of Hessians, (d, d), if requested.
    closest
        Distance of the nearest datapoint and the datapoint, (1 + d,): of parts, the least counts.
    """

    scalars: torch.Tensor
    vectors: torch.Tensor
    hessian: torch.Tensor | None
    closest: torch.Tensor


@dataclass(frozen=True)
class HuberPass:
    """What one pass over the data says about a bias; everything per datapoint, in float64.

    Attributes
    ----------
    value
        ``(1/N) Σ_n h_λ(‖x_n − b‖)``.
    lower_bound
        Dual value of ``ψ_λ(x_n − b)`` re-centered and shrunk by ``λ/(λ + ‖mean ψ‖)``: feasible for certain.
    mean_psi
        ``(1/N) Σ_n ψ_λ(x_n − b)``, minus the gradient; zero at the optimum.
    hessian
        Of ``value``, (d, d), if requested.
    mean_weight
        ``(1/N) Σ_n min(1, λ/‖x_n − b‖)``: the curvature of the quadratic that majorizes ``value`` (IRLS).
    nearest
        The datapoint closest to b.
    """

    value: float
    lower_bound: float
    mean_psi: torch.Tensor
    hessian: torch.Tensor | None
    mean_weight: float
    nearest: torch.Tensor


@dataclass(frozen=True, init=False, eq=False)
class WideLimit(Problem):
    """The smallest value that any dictionary of any width can reach: a multivariate Huber location in the bias.

    ``F_wide = min_b (1/N) Σ_n h_λ(‖x_n − b‖)  ≤  F*_K`` for every K, with equality for K ≥ N        (5), T9

    with ``h_λ(r) = ½r²`` for ``r ≤ λ`` and ``λr − ½λ²`` beyond. It is attained by one atom per datapoint,
    ``d_n = (x_n − b)/‖x_n − b‖`` with code ``(‖x_n − b‖ − λ)_+``.
    Dual: ``max (1/N) Σ_n [ y_n·(x_n − b) − ½‖y_n‖² ]`` with ``‖y_n‖ ≤ λ``, and ``Σ_n y_n = 0`` when b is free; the
    certificate is ``y_n = ψ_λ(x_n − b)`` re-centered and rescaled, ``ψ_λ(u) = u·min(1, λ/‖u‖)``.

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.Activations` accepts; read in batches.
    lam
        Penalty λ > 0.
    bias
        ``"free"`` (optimized, the default), None (zero) or an array (d,) (fixed: then the value is closed form).

    Raises
    ------
    InputError
        For data, λ or bias that cannot be used.
    """

    name: ClassVar[str] = "wide"

    @made_together
    def __init__(self, X: ActivationsLike, lam: float, *, bias: BiasLike = "free") -> None:
        super().__init__(X, lam, bias)

    @property
    def evaluation_cost(self) -> float:
        """The Hessian."""
        return float(self.n_points) * self.dim**2

    def scan(
        self, bias: Float[torch.Tensor, " d"], *, hessian: bool = False, device: torch.device | None = None
    ) -> HuberPass:
        """One pass over the data at one bias: value, certified lower bound, gradient, curvature.

        With ``A = mean ψ·u``, ``B = mean ‖ψ‖²``, ``m = mean ψ``, ``ū = mean u`` (``u_n = x_n − b``) and
        ``s = λ/(λ + ‖m‖)`` the dual point ``s(ψ_n − m)`` has, without cancellation,
        ``value − lower bound = (1 − s)A − ½(1 − s²)B + s m·ū − ½s²‖m‖²``. With a fixed bias m is not removed and
        ``s = 1``: the gap is zero.
        """
        sums = self.sums(bias, hessian=hessian, device=device)
        n, value, inner, squares, weight_sum = sums.scalars.tolist()
        m, mean_offset = sums.vectors / n
        gap = 0.0
        if self.bias_is_free:
            length = float(torch.linalg.vector_norm(m))
            shrink = (1 - 8 * self.dim * EPS) * self.lam / (self.lam + length)
            gap = (1 - shrink) * inner / n - (1 - shrink**2) * squares / (2 * n)
            gap += shrink * float(m @ mean_offset) - shrink**2 * length**2 / 2
        curvature = None if sums.hessian is None else sums.hessian / n
        # The bound went through a product of vectors, and ends a shared solve in all processes or in none.
        bound = self.group.same_number(value / n - gap)
        return HuberPass(value / n, bound, m, curvature, weight_sum / n, sums.closest[1:])

    def sums(
        self, bias: Float[torch.Tensor, " d"], *, hessian: bool = False, device: torch.device | None = None
    ) -> HuberSums:
        """What :meth:`scan` needs of the data, summed over all processes."""
        here, group = self._sums_here(bias, hessian, device or self.X.device), self.group
        nearest = min(group.gather(here.closest), key=lambda found: float(found[0]))
        parts = [here.scalars, here.vectors] + ([] if here.hessian is None else [here.hessian])
        scalars, vectors, *curvature = group.sum(*parts)
        return HuberSums(scalars, vectors, curvature[0] if curvature else None, nearest)

    def _sums_here(self, bias: Float[torch.Tensor, " d"], hessian: bool, device: torch.device) -> HuberSums:
        """The sums over the datapoints here."""
        d = self.dim
        b = bias.to(device=device, dtype=torch.float64)
        psi_sum, offset_sum = torch.zeros(2, d, dtype=torch.float64, device=device)
        curvature = torch.zeros((d, d), dtype=torch.float64, device=device) if hessian else None
        value = inner = squares = weight_sum = inside = 0.0
        closest, nearest = float("inf"), b
        for batch in self.X.batches(device=device):
            offsets = batch - b
            norms = torch.linalg.vector_norm(offsets, dim=1)
            weights = torch.clamp(self.lam / norms.clamp(min=self.lam), max=1)
            psi_sum += weights @ offsets
            offset_sum += offsets.sum(dim=0)
            value += float(huber(norms, self.lam).sum())
            inner += float((weights * norms.square()).sum())
            squares += float((weights * norms).square().sum())
            weight_sum += float(weights.sum())
            index = int(norms.argmin())
            if float(norms[index]) < closest:
                closest, nearest = float(norms[index]), batch[index].clone()
            if curvature is not None:
                outside = norms > self.lam
                inside += float((~outside).sum())
                # In single precision: an approximate Hessian costs Newton nothing, and the certificate does not see it.
                scaled = (offsets * torch.where(outside, self.lam / norms.pow(3), 0).sqrt()[:, None]).float()
                curvature -= scaled.T @ scaled
                curvature.diagonal().add_(float(weights[outside].sum()))
        if curvature is not None:
            curvature.diagonal().add_(inside)
            curvature = curvature.cpu()
        scalars = torch.tensor([self.n_points, value, inner, squares, weight_sum], dtype=torch.float64)
        near = torch.cat([torch.tensor([closest], dtype=torch.float64), nearest.cpu()])
        return HuberSums(scalars, torch.stack([psi_sum, offset_sum]).cpu(), curvature, near)

    def sample(self, count: int) -> WideLimit | None:
        """The same problem on ``count`` evenly spaced datapoints; None if that would not be much less work."""
        if self.total_points <= 2 * count:
            return None
        few = self.X.spread(-(-count // self.group.size))
        return WideLimit(Activations(few, group=self.X.group), self.lam, bias=self.bias)

    # ------------------------------------------------------------------ the common vocabulary

    def objections(self, candidate: Candidate) -> list[str]:
        """Any unit-norm dictionary will do: the wide limit has no width."""
        return []

    def row_polars(self, Y: Float[torch.Tensor, "n d"]) -> Float[torch.Tensor, " n"]:
        """``‖y_n‖`` for every n."""
        return torch.linalg.vector_norm(Y, dim=1)

    def bounds(self, candidate: Candidate) -> tuple[float, float]:
        """Value and lower bound; for a candidate that is only a bias, those of ``ψ_λ(x_n − b)``, in one pass."""
        if candidate.codes is None and candidate.dual is None:
            scan = self.scan(float64_tensor(candidate.bias), device=torch.device("cpu"))
            return scan.value, scan.lower_bound
        return super().bounds(candidate)

    def bias_residual(self, candidate: Candidate) -> float:
        """``‖mean_n r_n‖ / λ``, zero at an optimal free bias; ``r_n = ψ_λ(x_n − b)`` where only a bias is given."""
        if candidate.codes is not None:
            return super().bias_residual(candidate)
        scan = self.scan(float64_tensor(candidate.bias), device=torch.device("cpu"))
        return float(torch.linalg.vector_norm(scan.mean_psi)) / self.lam

    def zero_candidate(self) -> Candidate:
        """All codes zero and the mean (or fixed) bias: optimal iff ``λ ≥ lambda_max``."""
        empty = np.zeros((0, self.dim)), np.zeros((self.n_points, 0))
        return Candidate(bias=self.starting_bias().numpy(), dictionary=empty[0], codes=empty[1])

    def complete(self, bias: np.ndarray) -> Candidate:
        """The atom-per-datapoint dictionary and codes of a bias, and the dual point that certifies it.

        Datapoints within λ of the bias get a zero code; one that sits on it gets the first axis as its atom.
        Beyond ``RECOVERY_BYTES``, in some process, only the bias is returned: it determines the rest.
        """
        if self.group.any(self.n_points * self.dim * 8 > RECOVERY_BYTES):
            return Candidate(bias=bias)
        offsets = self.X.to_numpy() - bias
        norms = np.linalg.norm(offsets, axis=1)
        atoms = np.divide(offsets, norms[:, None], where=norms[:, None] > 0, out=np.zeros_like(offsets))
        atoms[norms == 0, 0] = 1.0
        index = np.flatnonzero(norms > self.lam)
        codes = scipy.sparse.csr_array((norms[index] - self.lam, (index, index)), shape=(len(norms), len(norms)))
        psi = torch.from_numpy(atoms * np.minimum(norms, self.lam)[:, None])
        return Candidate(bias=bias, dictionary=atoms, codes=codes, dual=self.feasible_dual(psi).numpy())
