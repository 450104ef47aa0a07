"""Boxes of dictionaries and biases, and the function over them that is minimized (theory.md T18).

A box holds an interval of every parameter: angles of atoms in the plane, two coordinates on a face of the cube around
the sphere in three dimensions, and the bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float64, Int64

from cvxsae.relaxations.solution import relative_gap
from cvxsae.solvers.global_search.curved import CurvedCost
from cvxsae.solvers.global_search.objective import CodeCost

PLANE, SPACE = 2, 3
"""Dimensions that can be searched."""

_ROUNDING = 1e-14
"""Relative rounding of F for perfect codes: a local search leaves angles of 1e-8, which is 1e-16 in F."""

FACES = np.array(
    [
        [[s * (i == a) for i in range(3)], *([float(i == (a + t) % 3) for i in range(3)] for t in (1, 2))]
        for a in range(3)
        for s in (1.0, -1.0)
    ]
)
"""Faces of the cube: center and two sides, (6, 3, 3)."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes as arrays.

    Attributes
    ----------
    lo, hi
        Ends of the parameters, (B, P).
    faces
        The face of each atom, (B, K); empty in the plane.
    """

    lo: Float64[np.ndarray, "B P"]
    hi: Float64[np.ndarray, "B P"]
    faces: Int64[np.ndarray, "B F"]

    def __len__(self) -> int:
        return len(self.lo)

    def __getitem__(self, rows: np.ndarray | slice) -> Boxes:
        return Boxes(self.lo[rows], self.hi[rows], self.faces[rows])

    @property
    def center(self) -> Float64[np.ndarray, "B P"]:
        """Midpoints."""
        return (self.lo + self.hi) / 2

    @property
    def half(self) -> Float64[np.ndarray, "B P"]:
        """Half widths, rounded up."""
        return np.nextafter((self.hi - self.lo) / 2, np.inf)

    def joined(self, other: Boxes) -> Boxes:
        """These and others."""
        pairs = ((self.lo, other.lo), (self.hi, other.hi), (self.faces, other.faces))
        return Boxes(*(np.concatenate(pair) for pair in pairs))

    def halved(self, sides: Int64[np.ndarray, " B"]) -> Boxes:
        """Every box cut in two across one side."""
        rows = np.arange(len(self))
        middle = self.center[rows, sides]
        first, second = self.hi.copy(), self.lo.copy()
        first[rows, sides] = second[rows, sides] = middle
        return Boxes(self.lo, first, self.faces).joined(Boxes(second, self.hi, self.faces))


@dataclass(frozen=True, eq=False)
class Landscape:
    """F over dictionaries of K atoms, with weighted datapoints.

    Attributes
    ----------
    X
        Datapoints, (N, d), d two or three.
    weights
        Of the datapoints, (N,), adding up to 1.
    cost
        What codes cost.
    bias
        The fixed bias (d,), or None where it is free.
    """

    X: Float64[np.ndarray, "N d"]
    weights: Float64[np.ndarray, " N"]
    cost: CodeCost | CurvedCost
    bias: Float64[np.ndarray, " d"] | None

    @property
    def quadratic(self) -> CodeCost:
        """What codes cost, where that is quadratic on every support."""
        assert isinstance(self.cost, CodeCost)
        return self.cost

    @property
    def n_atoms(self) -> int:
        """K."""
        return self.cost.n_atoms

    @property
    def dim(self) -> int:
        """D."""
        return self.X.shape[1]

    @property
    def n_angles(self) -> int:
        """Parameters of the atoms; those of a free bias come after them."""
        return self.n_atoms * (self.dim - 1)

    @property
    def n_parameters(self) -> int:
        """All of them, P."""
        return self.n_angles + (self.dim if self.bias is None else 0)

    @property
    def length(self) -> float:
        """Root mean square of the datapoints less the bias, or their mean where it is free: the unit of lengths."""
        offsets = self.X - (self.weights @ self.X if self.bias is None else self.bias)
        return float(np.sqrt(self.weights @ np.square(offsets).sum(axis=1))) or 1.0

    @property
    def rounding(self) -> float:
        """Differences of F below this are none: what the data's own rounding makes of a perfect reconstruction."""
        return _ROUNDING * self.cost.power_scale * self.length**2 / 2

    def gap(self, value: float, lower_bound: float) -> float:
        """Relative gap, and 0 for a difference that is rounding (where F can be zero, no relative one would close)."""
        return 0.0 if 0 <= value - lower_bound <= self.rounding else relative_gap(value, lower_bound)

    def everything(self, bias_reach: float) -> Boxes:
        """Boxes that cover all dictionaries, and all biases within a distance of the mean along each axis."""
        K = self.n_atoms
        if self.dim == PLANE:
            turn = np.pi if self.cost.signed else 2 * np.pi
            lo, hi, faces = np.zeros((1, K)), np.full((1, K), turn), np.zeros((1, 0), dtype=np.int64)
        else:
            usable = np.arange(len(FACES))[:: 2 if self.cost.signed else 1]
            faces = np.array(list(product(usable, repeat=K)), dtype=np.int64)
            if self.cost.is_symmetric:
                faces = faces[(np.diff(faces, axis=1) >= 0).all(axis=1)]
            hi = np.ones((len(faces), 2 * K))
            lo = -hi
        if self.bias is None:
            mean = self.weights @ self.X
            ones = np.ones((len(lo), 1))
            lo = np.concatenate([lo, ones * (mean - bias_reach)], axis=1)
            hi = np.concatenate([hi, ones * (mean + bias_reach)], axis=1)
        return Boxes(lo, hi, faces)

    def is_ordered(self, boxes: Boxes) -> np.ndarray:
        """Whether a box holds dictionaries in the one order of atoms that is searched."""
        if not self.cost.is_symmetric or self.dim != PLANE or self.n_atoms == 1:
            return np.ones(len(boxes), dtype=bool)
        K = self.n_atoms
        return np.asarray((boxes.lo[:, : K - 1] <= boxes.hi[:, 1:K]).all(axis=1))

    def atoms_and_bias(
        self, parameters: Float64[np.ndarray, " P"], faces: Int64[np.ndarray, " F"]
    ) -> tuple[Float64[np.ndarray, "K d"], Float64[np.ndarray, " d"]]:
        """The dictionary at a point."""
        angles = parameters[: self.n_angles]
        bias = parameters[self.n_angles :] if self.bias is None else self.bias
        if self.dim == PLANE:
            return np.column_stack([np.cos(angles), np.sin(angles)]), bias
        at = np.concatenate([np.ones((self.n_atoms, 1)), angles.reshape(self.n_atoms, 2)], axis=1)
        rows = np.einsum("kt,kti->ki", at, FACES[faces])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True), bias

    def value(self, atoms: Float64[np.ndarray, "K d"], bias: Float64[np.ndarray, " d"]) -> float:
        """F of a dictionary, with exact codes."""
        values, _ = self.cost.costs(self.X - bias, atoms)
        cosines = (atoms @ atoms.T)[np.triu_indices(len(atoms), 1)]
        return float(self.weights @ values) + self.cost.coherence * float(np.square(cosines).sum())
