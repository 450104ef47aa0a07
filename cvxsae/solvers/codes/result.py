"""What :func:`cvxsae.encode` returns: sparse codes, and what certifies them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch

from cvxsae.data.arguments import InputError
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.correlation import largest_correlation
from cvxsae.solvers.codes.refit import Refit, refit_codes

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int64

    from cvxsae.data.activations import Activations


@dataclass(frozen=True)
class Share:
    """Sums over the datapoints of one of several processes."""

    n_points: int
    value: float
    bound: float
    loose: float
    largest_gap: float
    active: int
    passes: int
    passes_max: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Codes:
    """Sparse codes of every datapoint, each with its certificate. Values are in units of (P): mean per datapoint.

    Of codes that several processes made together (:func:`cvxsae.process_group`) arrays hold this process's datapoints;
    ``value``, ``lower_bound``, ``gap``, ``largest_gap``, ``l0``, ``passes_mean``, ``passes_max``, ``n_points`` and
    ``status`` are those of all.

    Attributes
    ----------
    codes
        Sparse (N, K), float64, positive where stored, for atoms of norm 1. The certificates are for exactly these
        numbers. :meth:`for_own_rows` gives the codes for the dictionary as it was passed.
    values
        ½‖x − b − zD‖² + λ Σ z of every datapoint, (N,).
    gaps
        Certified relative duality gap of every datapoint, (value − lower bound)/value, (N,). It is a proof, rounding
        included: no codes of that datapoint have a value below ``values · (1 − gaps)`` (theory.md T1).
    passes
        Correlation passes over the dictionary that each datapoint took, (N,); two is the floor from a cold start.
    done
        Whether each datapoint was certified to ``tol``, (N,).
    lam, tol
        The penalty λ and the relative gap that was asked for.
    atom_norms
        Norms of the dictionary's rows as they were passed, (K,).
    rounds
        Rounds taken by the slowest block of datapoints.
    seconds
        Wall-clock time, without compilation.
    engine
        Name of the engine that computed them.
    status
        ``CERTIFIED`` if every datapoint is done; otherwise why not.
    """

    codes: sp.csr_array
    values: Float64[np.ndarray, " N"]
    gaps: Float64[np.ndarray, " N"]
    passes: Int64[np.ndarray, " N"]
    done: Bool[np.ndarray, " N"]
    lam: float
    tol: float
    atom_norms: Float64[np.ndarray, " K"]
    rounds: int
    seconds: float
    engine: str
    status: Status
    _data: Activations
    _rows: Float64[torch.Tensor, "K d"]
    _bias: Float64[torch.Tensor, " d"] | None
    _shares: tuple[Share, ...] = ()

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """What each process's datapoints add up to, by rank; of one process, one."""
        return self._shares or (self.share(),)

    def share(self) -> Share:
        """What the datapoints here add up to."""
        return Share(
            n_points=len(self.values), value=float(self.values.sum()),
            bound=float((self.values * (1.0 - self.gaps)).sum()), loose=float((self.values * self.gaps).sum()),
            largest_gap=float(self.gaps.max()), active=int(self.codes.nnz), passes=int(self.passes.sum()),
            passes_max=int(self.passes.max()),
        )  # fmt: skip

    @property
    def n_points(self) -> int:
        """Number of datapoints N."""
        return sum(share.n_points for share in self.shares)

    @property
    def value(self) -> float:
        """Objective of (P) at these codes: mean per datapoint."""
        return sum(share.value for share in self.shares) / self.n_points

    @property
    def lower_bound(self) -> float:
        """Certified lower bound on the objective over all codes: mean per datapoint."""
        return sum(share.bound for share in self.shares) / self.n_points

    @property
    def gap(self) -> float:
        """Relative gap of the means, (value − lower_bound)/value; 0 where the value is 0."""
        value = self.value
        return sum(share.loose for share in self.shares) / self.n_points / value if value > 0 else 0.0

    @property
    def largest_gap(self) -> float:
        """Largest relative gap of a datapoint."""
        return max(share.largest_gap for share in self.shares)

    @property
    def l0(self) -> float:
        """Mean number of active atoms per datapoint."""
        return sum(share.active for share in self.shares) / self.n_points

    @property
    def passes_mean(self) -> float:
        """Mean number of correlation passes."""
        return sum(share.passes for share in self.shares) / self.n_points

    @property
    def passes_max(self) -> int:
        """Largest number of correlation passes."""
        return max(share.passes_max for share in self.shares)

    @property
    def points_per_second(self) -> float:
        """Datapoints coded per second of wall-clock time."""
        return self.n_points / max(self.seconds, 1e-12)

    @cached_property
    def lambda_max(self) -> float:
        """Smallest penalty at which all codes are zero, max_nk d_k·(x_n − b); one pass over the data, at first use.

        Raises
        ------
        InputError
            For codes that several processes made: no process can tell alone.
        """
        if len(self.shares) > 1:
            raise InputError(
                f"lambda_max of codes over {len(self.shares)} processes is not known to one of them; take the largest "
                "of cvxsae.lambda_max over the processes' rows."
            )
        return largest_correlation(self._data, self._rows, self._bias)

    @property
    def lambda_ratio(self) -> float:
        """λ/λ_max (infinite if no datapoint has a positive correlation)."""
        return self.lam / self.lambda_max if self.lambda_max > 0 else float("inf")

    def for_own_rows(self) -> sp.csr_array:
        """Codes for the dictionary's rows as they were passed: z_k divided by the norm of row k, (N, K)."""
        return sp.csr_array(
            (self.codes.data / self.atom_norms[self.codes.indices], self.codes.indices, self.codes.indptr),
            shape=self.codes.shape,
        )

    def to_torch(self, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> torch.Tensor:
        """Codes as a sparse torch tensor in COO layout, (N, K)."""
        coo = self.codes.tocoo()
        indices = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
        values = torch.from_numpy(coo.data).to(dtype)
        tensor = torch.sparse_coo_tensor(indices, values, coo.shape, is_coalesced=True, check_invariants=False)
        return tensor if device is None else tensor.to(device)

    def refit(self) -> Refit:
        """Nonnegative least squares on each datapoint's support: the shrinkage that λ causes removed.

        Returns
        -------
        Refit
            The refitted codes, how far they are from exact, and FVU and shrinkage before and after.
        """
        return refit_codes(self._data, self._rows, self._bias, self.codes)

    def __repr__(self) -> str:
        return (
            f"Codes({self.n_points} x {self.codes.shape[1]}, λ {self.lam:.4g}, value {self.value:.6g} "
            f"≥ {self.lower_bound:.6g}, largest gap {self.largest_gap:.1e}, L0 {self.l0:.1f}, "
            f"{self.status.name.lower()})"
        )
