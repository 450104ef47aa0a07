"""F along the path from one dictionary to another (T5): whether it stays level, falls, or rises in between."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from cvxsae.diagnostics.matching.assignment import NONE
from cvxsae.diagnostics.sums import CODE_TOL
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.joint.curvature import Curvature
from cvxsae.solvers.codes.encode import encode_rows

if TYPE_CHECKING:
    from jaxtyping import Float64

    from cvxsae.data.activations import Activations
    from cvxsae.diagnostics.matching.assignment import Assignment
    from cvxsae.parallel.context import Run
    from cvxsae.solvers.codes.result import Codes

SAME_ANGLE = 1e-2
"""Angle (in radians; cosine 0.99995) within which all live atoms of one dictionary must be for it to be the same.

Searches stopped at a stationarity of 1e-4 where the curvature is a hundredth of its natural size end this far apart.
"""

FLAT = 1e-2
"""Change of F on the way, in units of what such a move costs where F curves as usual, up to which the way is flat."""

Verdict = Literal["same", "flat", "different", "basin", "undecided"]

VERDICTS: dict[Verdict, str] = {
    "same": "the same point: every live atom of one is where its partner is",
    "flat": "a flat direction: F hardly changes all the way from one to the other",
    "different": "different optima: F rises above both on the way (another way may have no such barrier)",
    "basin": "one basin: F changes on the way, and no barrier is seen at the points looked at",
    "undecided": "undecided: values on the way are missing, or known less exactly than they differ",
}
"""What a verdict says, in words."""


@dataclass(frozen=True, eq=False)
class Placed:
    """A dictionary with its bias: unit-norm atoms, (K, d), and b, (d,); float64."""

    atoms: Float64[np.ndarray, "K d"]
    bias: Float64[np.ndarray, " d"]

    def problem(self, X: Activations, lam: float) -> SparseCodes:
        """The codes of datapoints for it."""
        return SparseCodes.of_unit_rows(X, torch.from_numpy(self.atoms), lam, torch.from_numpy(self.bias))


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What is asked about two dictionaries on data.

    Attributes
    ----------
    rows, lam
        The datapoints and the penalty.
    held_out, units
        Datapoints that neither was fitted to and, for each of them, what it belongs to, as integers; None for none.
    tol
        Relative gap of the codes.
    points
        Points between the two at which F is evaluated.
    """

    rows: Activations
    lam: float
    held_out: Activations | None
    units: np.ndarray | None
    tol: float
    points: int


def coded(problem: SparseCodes, asked: Questions, run: Run, warm: Any = None) -> Codes:
    """Exact codes of a dictionary, as far as there is time."""
    return encode_rows(problem, replace(run.inner(), progress=run.progress), tol=asked.tol, warm=warm)


@dataclass(frozen=True)
class Step:
    """F at a point of the way: ``share`` of it done, the value attained, and the certified lower bound of F there."""

    share: float
    value: float
    lower_bound: float


@dataclass(frozen=True)
class Way:
    """F on the way from A to B: each atom on the great circle to its partner, the bias straight (T5).

    Atoms that the narrower dictionary lacks set out from (or arrive at) a copy of its nearest atom: a copy changes no
    value of F.

    Attributes
    ----------
    steps
        The values, from A (share 0) to B (share 1).
    is_complete
        Whether there was time for all points that were asked for.
    move
        ``½ (λ Σ_k m_k θ_k² + ‖Δb‖²)``, θ_k the angle an atom turns by and m_k its mean activation (over A's and B's):
        what the move costs where F curves as usual. Rises and changes are to be compared with it.
    largest_angle, bias_shift
        Largest angle of an atom that is alive in A or in B (of any, where none is alive), and ``‖Δb‖/λ``.
    curvature_a, curvature_b
        ``Δ·HΔ`` along the way, H the Hessian of F at A and at B, in the metric in which its natural size is 1; None
        where it does not exist: dependent active atoms (copies among them), codes at the edge, nothing that moves.
    """

    steps: tuple[Step, ...]
    is_complete: bool
    move: float
    largest_angle: float
    bias_shift: float
    curvature_a: float | None
    curvature_b: float | None

    @property
    def barrier(self) -> tuple[float, float]:
        """What the highest value seen on the way is above the higher end: between these, for certain."""
        inner, ends = self.steps[1:-1], (self.steps[0], self.steps[-1])
        if not inner:
            return -math.inf, math.inf
        low = max(step.lower_bound for step in inner) - max(step.value for step in ends)
        return low, max(step.value for step in inner) - max(step.lower_bound for step in ends)

    @property
    def change(self) -> tuple[float, float]:
        """Highest less lowest value seen on the way, ends included: between these, for certain."""
        values, bounds = ([getattr(step, name) for step in self.steps] for name in ("value", "lower_bound"))
        return max(0.0, max(bounds) - min(values)), max(values) - min(bounds)


@dataclass(frozen=True, eq=False)
class Aligned:
    """A dictionary in the order of the wider one: which of its atoms stands where, (K,), and which are copies, (K,)."""

    order: np.ndarray
    is_copy: np.ndarray

    @classmethod
    def both(cls, found: Assignment) -> tuple[Aligned, Aligned]:
        """Each atom of the wider dictionary beside its partner, or beside a copy of its nearest atom."""
        is_wide = len(found.partner_a) >= len(found.partner_b)
        wide = found if is_wide else found.swapped()
        own, is_copy = np.arange(len(wide.partner_a)), wide.partner_a == NONE
        sides = cls(own, np.zeros_like(is_copy)), cls(np.where(is_copy, wide.nearest_a, wide.partner_a), is_copy)
        return sides if is_wide else (sides[1], sides[0])

    def place(self, given: Placed) -> Placed:
        """The dictionary in that order."""
        return replace(given, atoms=given.atoms[self.order])

    def codes(self, given: Any) -> Any:
        """Codes in that order: of an atom and its copies, the atom has all."""
        import scipy.sparse as sp

        columns: Any = given.tocsc()[:, self.order]
        found = sp.csr_array(columns @ sp.diags_array(np.where(self.is_copy, 0.0, 1.0)))
        found.eliminate_zeros()
        return found


class GreatCircles:
    """Where each atom is on the great circle from one place to another, with the angle and direction it sets out in."""

    def __init__(self, start: Float64[np.ndarray, "K d"], end: Float64[np.ndarray, "K d"]) -> None:
        self.start, cosines = start, np.einsum("kd,kd->k", start, end)
        apart = end - cosines[:, None] * start
        lengths = np.linalg.norm(apart, axis=1)
        self.angles = np.arctan2(lengths, cosines)
        for k in np.flatnonzero((lengths == 0) & (cosines < 0)):  # antipodes: any direction leads there
            apart[k] = np.eye(start.shape[1])[np.abs(start[k]).argmin()]
            apart[k] -= (apart[k] @ start[k]) * start[k]
            lengths[k] = np.linalg.norm(apart[k])
        self.directions = np.divide(apart, lengths[:, None], out=np.zeros_like(apart), where=lengths[:, None] > 0)

    def at(self, share: float) -> Float64[np.ndarray, "K d"]:
        """The atoms after a share of the way, of norm 1."""
        turned = (share * self.angles)[:, None]
        atoms = np.cos(turned) * self.start + np.sin(turned) * self.directions
        return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)

    @property
    def velocity(self) -> Float64[np.ndarray, "K d"]:
        """How the atoms move at the start: tangent, with the angle as length."""
        return self.angles[:, None] * self.directions


def shares(points: int) -> Iterator[float]:
    """Where to look, the middle first: an early end leaves the most telling points."""
    yield from sorted((k / (points + 1) for k in range(1, points + 1)), key=lambda share: (abs(share - 0.5), share))


@dataclass(frozen=True, eq=False)
class End:
    """An end of the way: the dictionary as it stands there, its codes in that order, and what certifies them."""

    side: Aligned
    place: Placed
    codes: Any
    coded: Codes

    @property
    def mass(self) -> Float64[np.ndarray, " K"]:
        """Mean activation of every atom."""
        return np.asarray(self.codes.sum(axis=0)).ravel() / self.coded.n_points

    def step(self, share: float) -> Step:
        """F here."""
        return Step(share, self.coded.value, self.coded.lower_bound)

    def curvature(self, velocity: np.ndarray, shift: np.ndarray, run: Run) -> float | None:
        """``Δ·HΔ`` of a move from here in the metric in which its natural size is 1; None where H does not exist."""
        if self.side.is_copy.any():
            return None
        lam = self.coded.lam
        problem = self.place.problem(self.coded.problem.X, lam)
        exact = encode_rows(problem, run.inner(), tol=CODE_TOL, warm=self.codes)
        if not exact.done.all():
            return None
        at = Curvature(
            problem.X.to_tensor(device=run.device),
            problem.atoms,
            lam,
            exact.codes,
            bias=problem.fixed_bias(),
            bias_is_free=True,
            device=run.device,
        )
        moved, pushed = torch.from_numpy(velocity).to(run.device), torch.from_numpy(shift).to(run.device)
        size = lam * float(at.mass @ moved.square().sum(dim=1)) + float(pushed.square().sum())
        if not (at.is_regular and size > 0):
            return None
        turned, pulled = at.product(moved, pushed)
        return float((turned * moved).sum() + pulled @ pushed) / size


def way(start: End, end: End, asked: Questions, run: Run) -> Way:
    """Evaluate F between two ends. Past the deadline points are left out; an interrupt passes."""
    circles, back = (GreatCircles(a.place.atoms, b.place.atoms) for a, b in ((start, end), (end, start)))
    shift, mass = end.place.bias - start.place.bias, (start.mass + end.mass) / 2
    known = {0.0: start.codes, 1.0: end.codes}
    steps = [start.step(0.0), end.step(1.0)]
    for share in shares(asked.points):
        if run.is_late:
            break
        here = Placed(circles.at(share), start.place.bias + share * shift)
        nearest = min((abs(other - share), other) for other in known)[1]
        found = coded(here.problem(asked.rows, asked.lam), asked, run, known[nearest])
        known[share] = found.codes
        steps.append(Step(share, found.value, found.lower_bound))
    return Way(
        steps=tuple(sorted(steps, key=lambda step: step.share)),
        is_complete=len(steps) == asked.points + 2,
        move=(asked.lam * float(mass @ circles.angles**2) + float(shift @ shift)) / 2,
        largest_angle=float((circles.angles[mass > 0] if (mass > 0).any() else circles.angles).max(initial=0)),
        bias_shift=float(np.linalg.norm(shift)) / asked.lam,
        curvature_a=start.curvature(circles.velocity, shift, run),
        curvature_b=end.curvature(back.velocity, -shift, run),
    )


def verdict(found: Way) -> Verdict:
    """By what is certain: a rise or a change counts only where lower bounds and values leave no doubt."""
    if max(found.largest_angle, found.bias_shift) <= SAME_ANGLE:
        return "same"
    least = FLAT * found.move
    (rise, highest), (change, most) = found.barrier, found.change
    if len(found.steps) > 2 and rise > least:
        return "different"
    if len(found.steps) == 2 or not found.is_complete:
        return "undecided"
    if most <= least:
        return "flat"
    return "basin" if highest <= least < change else "undecided"
