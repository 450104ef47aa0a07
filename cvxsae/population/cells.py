"""The floor of one batch: the search, the referee's certificate, and the proof that is repeated when it is read."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cvxsae.data.activations import Activations
from cvxsae.data.storage import fingerprint
from cvxsae.errors import InputError
from cvxsae.parallel.threads import threads_for_cost
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.floors.floor import Floor, part_arrays, part_from
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.linalg import EPS
from cvxsae.solvers.floors.search import WIDE_TOL, FloorSearch, find_floors, solved_wide_limit
from cvxsae.validation.certify import certify

if TYPE_CHECKING:
    from cvxsae.data.arguments import Bias
    from cvxsae.data.storage import Kept
    from cvxsae.parallel.context import Run
    from cvxsae.population.draws import Batch
    from cvxsae.validation.certificate import Certificate

ANY_GAP = 1.0
"""Relative gap at which the referee is content with a wide limit: its lower bound alone is used, whatever the gap."""

SAME = 1e-9
"""How far, relative, a kept floor may be above what its proof gives when it is read: two roundings, no more."""


@dataclass(frozen=True)
class BatchFloor:
    """What one batch counts for.

    Attributes
    ----------
    index, n_points, n_documents
        Its place in the order of batches, its rows, and its documents where these are the unit.
    value
        Certified floor of F(D, b) over these rows, mean per row; 0, which always holds, where the referee objects.
    theorem
        Where the floor comes from.
    seconds
        Wall-clock time of search and referee; where it was kept, of the call that found it.
    objections
        What the referee says against it; empty if nothing.
    """

    index: int
    n_points: int
    value: float
    theorem: str
    seconds: float
    n_documents: int | None = None
    objections: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """What is asked of every batch: width (None for every width), penalty and bias, and what is known of the rows.

    ``largest_norm`` is a norm that no row of the distribution exceeds, or None. It changes no floor, only the limit.
    ``search`` says how the floors of a width are built.
    """

    n_atoms: int | None
    lam: float
    bias: Bias = field(repr=False)
    largest_norm: float | None = None
    search: FloorSearch = field(default_factory=FloorSearch.of)

    @property
    def range(self) -> tuple[float, float] | None:
        """Between what every floor, and every value with exact codes, lies for certain; None if norms are not known.

        With exact codes no row costs more than with zero codes, ``½‖x − b‖² ≤ ½r²`` with ``r = R + ‖b‖`` for a fixed
        bias. A free bias can be zero, so that the least value over it is at most ``½R²``. The wide limit at such a bias
        is ``mean h_λ(‖x − b‖) ≤ h_λ(r)`` (T9), as h rises. A floor is below the least value, and none is negative.
        """
        if self.largest_norm is None:
            return None
        vector = self.bias.vector
        r = self.largest_norm + (0.0 if vector is None else float(torch.linalg.vector_norm(vector)))
        inner = r if self.n_atoms is not None else min(r, self.lam)
        return 0.0, inner * (r - inner / 2)

    def require_range(self, rows: torch.Tensor, where: str) -> None:
        """Refuse rows that are longer than what was said of all.

        Raises
        ------
        InputError
            Naming the largest norm.
        """
        if self.largest_norm is None:
            return
        found = float(torch.linalg.vector_norm(rows.to(torch.float64), dim=1).max())
        if found > self.largest_norm:
            raise InputError(
                f"largest_norm is {self.largest_norm:g} but {where} has a row of norm {found:.6g}; pass a norm that no "
                "row of the distribution can exceed, or leave it out."
            )

    def mark(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        vector = self.bias.vector
        bias = "free" if self.bias.is_free else None if vector is None else fingerprint(vector)
        sizes = {"max_points": self.search.max_points, "max_dim": self.search.max_dim}
        asked = {name: size for name, size in sizes.items() if size is not None}
        return {"n_atoms": self.n_atoms, "lam": self.lam, "bias": bias, **asked}

    def floor_of(self, batch: Batch, run: Run) -> tuple[BatchFloor, dict[str, Any]] | None:
        """Floor and proof of a batch; None if the time ran out on the way and it is not the first of all."""
        n_points, dim = batch.rows.shape
        with threads_for_cost(float(n_points) ** 2 * dim):  # a matrix of products of rows
            return self._found(batch, run)

    def _found(self, batch: Batch, run: Run) -> tuple[BatchFloor, dict[str, Any]] | None:
        start = time.perf_counter()
        wide, width = WideLimit(Activations(batch.rows), self.lam, bias=self.bias.public), self.n_atoms
        if width is None:
            solution = solved_wide_limit(wide, WIDE_TOL, run)
            proof: dict[str, Any] = {"bias": solution.bias}
            value, theorem = _wide_floor(wide, solution.lower_bound), "T9"
        else:
            problem = JointProblem(wide.X, width, self.lam, bias=self.bias.public)
            (floor,) = find_floors([problem], self.search, run)
            heads = [[part.value, part.theorem] for part in floor.parts]
            proof = {"parts": heads, **part_arrays(floor.parts)}
            value, theorem = floor.value, floor.theorem
        if run.is_late and batch.index > 0:
            return None
        checked = certify(solution, tol=ANY_GAP) if width is None else certify(floor)
        found = self._judged(batch, (value, theorem), checked)
        return replace(found, seconds=time.perf_counter() - start), proof

    def _judged(self, batch: Batch, claim: tuple[float, str], checked: Certificate) -> BatchFloor:
        """What the referee leaves of a claim."""
        said = tuple(f"Batch {batch.index}: {sentence}" for sentence in checked.objections)
        value = 0.0 if said else claim[0]
        return BatchFloor(batch.index, len(batch.rows), value, claim[1], 0.0, batch.n_documents, said)

    # ------------------------------------------------------------------ records

    def proven(self, kept: Kept, batch: Batch) -> BatchFloor:
        """What a record is worth: its proof is gone through again on the rows of the batch, nothing is trusted.

        Raises
        ------
        ValueError
            If it is about other rows, or its proof does not bear it out: it is computed again then.
        """
        record, data = kept.record, Activations(batch.rows)
        if record["rows"] != fingerprint(data):
            raise ValueError("it is about other rows")
        value, theorem = float(record["value"]), str(record["theorem"])
        if self.n_atoms is None:
            wide = WideLimit(data, self.lam, bias=self.bias.public)
            bias = np.asarray(kept.arrays["bias"], np.float64)
            if not self.bias.is_free and not np.array_equal(bias, wide.fixed_bias().numpy()):
                raise ValueError("its bias is another")
            most, theorem = _wide_floor(wide, wide.bounds(Candidate(bias=bias))[1]), "T9"
            if not value <= most * (1 + SAME):
                raise ValueError(f"it claims {value:.12g} and its bias proves {most:.12g}")
            said: tuple[str, ...] = ()
        else:
            problem = JointProblem(data, self.n_atoms, self.lam, bias=self.bias.public)
            parts = tuple(
                part_from(kept.arrays, place, float(part_value), str(part_theorem))
                for place, (part_value, part_theorem) in enumerate(record["parts"])
            )
            said = certify(problem, Floor(problem, value, theorem, parts, record["rows"])).objections
        if said:
            raise ValueError(f"the referee says: {said[0]}")
        if not value >= 0:
            raise ValueError(f"its floor is {value:g}")
        return BatchFloor(batch.index, len(data), value, theorem, float(record["seconds"]), batch.n_documents)


def record_of(batch: Batch, found: BatchFloor, proof: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is kept of a batch: its numbers, and the arrays that prove them."""
    record = {
        "rows": fingerprint(batch.rows),
        "value": found.value,
        "theorem": found.theorem,
        "seconds": found.seconds,
        "parts": proof.get("parts", []),
    }
    return record, {name: array for name, array in proof.items() if name != "parts"}


def _wide_floor(wide: WideLimit, bound: float) -> float:
    """The wide limit's lower bound, rounding subtracted."""
    return max(0.0, bound * (1 - 8 * (wide.n_points + wide.dim) * EPS))
