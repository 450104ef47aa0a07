"""Hierarchies for the examples: closed forms of their absorbed optimum, and what a dictionary made of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cvxsae.diagnostics import absorption_gap


@dataclass(frozen=True)
class Tree:
    """Datapoints ``X = Z F`` of orthonormal features F with codes 0 or 1; a child fires only where its parent does.

    Absorption replaces the atom of every child c of p by ``(f_p + f_c)/√2`` and lets p fire only where it is alone.
    Children of one parent must exclude each other, and have no children: then C1 and C4 hold tree by tree.
    """

    features: np.ndarray
    active: np.ndarray
    parents: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """Datapoints, (N, d)."""
        return self.active @ self.features

    @cached_property
    def children(self) -> np.ndarray:
        """Indices of the features that have a parent."""
        return np.flatnonzero(self.parents >= 0)

    @cached_property
    def absorbed(self) -> np.ndarray:
        """The dictionary after full absorption (δ = 1), (K, d)."""
        atoms = self.features.copy()
        atoms[self.children] += self.features[self.parents[self.children]]
        return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)

    def values(self, lam: float) -> tuple[float, float]:
        """F of the true dictionary and of the absorbed one, in closed form (C1).

        Blocks are orthogonal, so costs add up: ``λ − λ²/2`` for every active true feature, but ``√2λ − λ²/2`` instead
        of twice that where a child has absorbed its parent.
        """
        single, pair = lam - lam**2 / 2, np.sqrt(2) * lam - lam**2 / 2
        true = single * float(self.active.sum(axis=1).mean())
        joined = float(self.active[:, self.children].sum(axis=1).mean())
        return true, true - joined * (2 * single - pair)

    def small_lambda_slopes(self) -> tuple[float, float]:
        """F/λ as λ → 0 of both dictionaries: C4 at δ = 0 and at δ = 1."""
        true = float(self.active.sum(axis=1).mean())
        return true, true - float(self.active[:, self.children].sum(axis=1).mean()) * (2 - np.sqrt(2))

    def absorption(self, dictionary: np.ndarray, codes: object) -> list[tuple[int, int, float, float, float]]:
        """For every child: parent, child, its atom's δ, absorption gap of the parent's atom, 1 − cos to (f_p + f_c)/√2.

        Atoms are matched to those of full absorption by their largest cosine. The gap compares datapoints with this
        child and datapoints of the parent with no child at all: under a sibling the parent is absorbed as well.
        """
        cosines = dictionary @ self.absorbed.T
        rows = []
        for child in self.children:
            parent = int(self.parents[child])
            own, above = int(cosines[:, child].argmax()), int(cosines[:, parent].argmax())
            along = self.features @ dictionary[own]
            siblings = self.children[(self.parents[self.children] == parent) & (self.children != child)]
            firing = (self.active[:, parent] > 0) & ~self.active[:, siblings].any(axis=1)
            gap = absorption_gap(codes, above, firing, self.active[:, child] > 0)
            rows.append((parent, int(child), float(along[parent] / along[child]), gap, float(1 - cosines[own, child])))
        return rows
