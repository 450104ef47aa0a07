"""Nonnegative least squares on known supports: codes without the shrinkage that the L1 penalty causes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from cvxsae.relaxations import linalg

if TYPE_CHECKING:
    from jaxtyping import Float64, Int

    from cvxsae.relaxations.convex.fixed_atoms import SparseCodes


ROUNDING = 1e-13
"""Correlation with a residual, relative to ‖x − b‖, below which its sign is rounding."""

CYCLES = 10
"""Cycles at most, for every atom of a support: supports do not repeat, so this only guards against rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Refit:
    """Codes refitted on their support.

    Attributes
    ----------
    codes
        Sparse (N, K), for atoms of norm 1: per datapoint the minimizer of ½‖x − b − zD‖² over z ≥ 0 on the support.
    stationarity
        What remains of the optimality conditions ``z ≥ 0, d_k·r ≤ 0, z_k d_k·r = 0`` on the support, per datapoint
        and relative to ‖x − b‖, (N,). Zero up to rounding: it is checked from the returned codes.
    fvu_before, fvu_after
        Fraction of variance unexplained, Σ‖x − x̂‖²/Σ‖x − mean‖².
    shrinkage_before, shrinkage_after
        ‖x̂‖²/x̂·(x − b), summed over datapoints (x̂ without bias): 1 where nothing is shrunk.
    """

    codes: sp.csr_array
    stationarity: Float64[np.ndarray, " N"]
    fvu_before: float
    fvu_after: float
    shrinkage_before: float
    shrinkage_after: float


def refit_codes(problem: SparseCodes, codes: sp.csr_array) -> Refit:
    """Solve nonnegative least squares on the support of every row of ``codes``, at the problem's fixed bias."""
    atoms, offset = problem.atoms.numpy(), problem.fixed_bias().numpy()
    refitted = codes.data.copy()
    stationarity = np.zeros(codes.shape[0])
    row = 0
    before, after = _Sums(), _Sums()
    for batch in problem.X.batches():
        for x in batch.cpu().numpy() - offset:
            part = slice(int(codes.indptr[row]), int(codes.indptr[row + 1]))
            members = atoms[codes.indices[part]]
            before.add(x, codes.data[part] @ members)
            refitted[part] = nonnegative_least_squares(members, x, codes.data[part])
            reconstruction = refitted[part] @ members
            after.add(x, reconstruction)
            gradient = members @ (x - reconstruction)
            scale = float(np.linalg.norm(x))
            if len(gradient) and scale > 0:
                slack = np.maximum(gradient, np.where(refitted[part] > 0, -gradient, 0.0))
                stationarity[row] = max(0.0, float(slack.max())) / scale
            row += 1
    kept = sp.csr_array((refitted, codes.indices.copy(), codes.indptr.copy()), shape=codes.shape)
    kept.eliminate_zeros()
    return Refit(
        codes=kept,
        stationarity=stationarity,
        fvu_before=before.fvu(),
        fvu_after=after.fvu(),
        shrinkage_before=before.shrinkage(),
        shrinkage_after=after.shrinkage(),
    )


def nonnegative_least_squares(
    members: Float64[np.ndarray, "m d"], x: Float64[np.ndarray, " d"], start: Float64[np.ndarray, " m"]
) -> Float64[np.ndarray, " m"]:
    """Minimise ½‖x − z @ members‖² over z ≥ 0 by an active-set method that starts from a feasible z.

    Each cycle solves on the free set and stops at the first code that reaches zero; atoms whose gradient asks for
    them come back one at a time, so the objective falls strictly and the free sets do not repeat.
    """
    z = start.astype(np.float64, copy=True)
    free: Int[np.ndarray, " f"] = np.flatnonzero(z > 0)
    floor = ROUNDING * float(np.linalg.norm(x))
    for _ in range(CYCLES * (len(z) + 1)):
        if len(free):
            step = linalg.least_squares(members[free].T, x - z @ members)
            target = z[free] + step
            if (target < 0).any():
                blocking = step < 0
                ratio = np.where(blocking, z[free] / np.where(blocking, -step, 1.0), np.inf)
                z[free] += min(1.0, float(ratio.min())) * step
                z[free[ratio <= ratio.min()]] = 0.0
                z = np.maximum(z, 0.0)
                free = np.flatnonzero(z > 0)
                continue
            z[free] = target
        gradient = members @ (x - z @ members)
        gradient[z > 0] = -np.inf
        best = int(gradient.argmax()) if len(z) else -1
        if best < 0 or gradient[best] <= floor or best in free:
            return z
        free = np.append(np.flatnonzero(z > 0), best)
    return z


class _Sums:
    """Running sums behind FVU and shrinkage."""

    def __init__(self) -> None:
        self.n, self.residual, self.square, self.cross, self.total = 0, 0.0, 0.0, 0.0, 0.0
        self.mean: Float64[np.ndarray, " d"] | float = 0.0

    def add(self, x: Float64[np.ndarray, " d"], reconstruction: Float64[np.ndarray, " d"]) -> None:
        self.n += 1
        self.residual += float(((x - reconstruction) ** 2).sum())
        self.square += float(reconstruction @ reconstruction)
        self.cross += float(reconstruction @ x)
        shift = x - self.mean  # Welford's recurrence: no cancellation when the mean is large
        self.mean = self.mean + shift / self.n
        self.total += float(shift @ (x - self.mean))

    def fvu(self) -> float:
        return self.residual / self.total if self.total > 0 else float("nan")

    def shrinkage(self) -> float:
        return self.square / self.cross if self.cross > 0 else 1.0
