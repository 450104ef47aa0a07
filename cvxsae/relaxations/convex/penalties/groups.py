"""Norms of groups of atoms: disjoint groups, and groups that are nested in each other (a tree)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64

from cvxsae.data import arguments
from cvxsae.data.deadline import go_on
from cvxsae.errors import InputError
from cvxsae.relaxations.convex.penalties.row_penalty import (
    RowPenalty,
    group_sums,
    labels_of,
    linear_radial,
    require_length,
    weights_of,
)
from cvxsae.relaxations.linalg import EPS

NEWTON_STEPS = 60
"""Most steps to the polar of a tree, from below: each is at least that of a convex, decreasing function."""

DOUBLINGS = 60
"""Most doublings of the slack that is added to such a polar until it is one: from a rounding up to the number."""


@dataclass(frozen=True)
class Group(RowPenalty):
    """``Ω(z) = Σ_g w_g ‖z_g‖₂`` over disjoint groups g of atoms, ``z ≥ 0``: groups are active or not as a whole.

    Its polar is ``max_g ‖(v_g)_+‖ / w_g``. T16 holds only where it is L1, groups of one atom with equal weights: m
    equal codes of a group that sum to s cost ``w s/√m``, less than a single code.

    Parameters
    ----------
    groups
        The group of every atom, (K,): whole numbers from zero.
    weights
        w > 0 of every group; None for 1.

    Raises
    ------
    InputError
        For groups that are not numbered without a gap, or weights that are not positive.
    """

    groups: Any
    weights: Any = None

    name: ClassVar[str] = "group"
    formula: ClassVar[str] = "Σ_g w_g ‖z_g‖"

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", labels_of(self.groups))
        object.__setattr__(self, "weights", weights_of(self.weights, max(self.groups) + 1))

    @cached_property
    def _level(self) -> Level:
        return Level(torch.tensor(self.groups), torch.tensor(self.weights, dtype=torch.float64))

    def require_atoms(self, n_atoms: int) -> None:
        """One group per atom."""
        require_length(len(self.groups), n_atoms, "groups")

    def value(self, Z: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """``Σ_g w_g ‖z_g‖`` of every row."""
        return self._level.norms(Z) @ self._level.weights.to(Z)

    def prox(self, V: Float[torch.Tensor, "n K"], step: float) -> Float[torch.Tensor, "n K"]:
        """``(1 − step·w_g/‖(v_g)_+‖)_+ (v_g)_+`` of every group."""
        return self._level.shrunk(V.clamp(min=0), arguments.nonnegative(step, "step"))

    def polar(self, V: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """``max_g ‖(v_g)_+‖ / w_g`` of every row."""
        return (self._level.norms(V.clamp(min=0)) / self._level.weights.to(V)).amax(dim=1)

    @property
    def mass_objection(self) -> str | None:
        """T16 needs groups of one atom and equal weights."""
        if len(self.groups) > len(self.weights):
            return "codes of one group that share a sum cost less than a single one"
        return None if min(self.weights) == max(self.weights) else "groups differ in weight"

    def of_mass(self, s: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        """``w t`` of groups of one atom."""
        self.require_mass()
        return self.weights[0] * s

    def radial(self, r: Float64[np.ndarray, "*n"], lam: float) -> Float64[np.ndarray, "*n"]:
        """That of L1."""
        return linear_radial(r, lam * float(self.of_mass(np.ones(1))[0]))


class Level(NamedTuple):
    """Groups that share no atom, by the group of every atom; the weight of a group of atoms that are in none is 0."""

    labels: Int64[torch.Tensor, " K"]
    weights: Float[torch.Tensor, " G"]

    def norms(self, V: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, "n G"]:
        """``‖v_g‖`` of every group."""
        return group_sums(V.square(), self.labels, len(self.weights)).sqrt_()

    def shrunk(self, V: Float[torch.Tensor, "n K"], step: float) -> Float[torch.Tensor, "n K"]:
        """Every group shortened by ``step·w_g``, to nothing where it is shorter."""
        cut, norms = step * self.weights.to(V), self.norms(V)
        share = torch.where(norms > cut, 1 - cut / norms.clamp(min=torch.finfo(V.dtype).tiny), 0)
        return V * share[:, self.labels.to(V.device)]


class Nested(NamedTuple):
    """One level of a tree: its groups, the number of the outermost group around each, and which are outermost."""

    level: Level
    roots: Int64[torch.Tensor, " G"]
    last: Int64[torch.Tensor, " m"]


@dataclass(frozen=True)
class Tree(RowPenalty):
    """``Ω(z) = Σ_g w_g ‖z_g‖₂`` over groups g, any two nested or disjoint, ``z ≥ 0``.

    After Jenatton, Mairal, Obozinski and Bach (2011). An atom is active only where every group that contains it is. The
    prox is one pass from the smallest groups up: each is shortened by its weight. Zero is the prox at t iff
    ``Ω°(v) ≤ t``; the polar is the smallest such t, the root of a convex, decreasing function of each outermost group.

    Parameters
    ----------
    groups
        Atoms of every group; all K atoms must be in some group. :meth:`of_parents` makes them from a tree of atoms.
    weights
        w > 0 of every group; None for 1.

    Raises
    ------
    InputError
        For groups that overlap without being nested, an atom in no group, or weights that are not positive.
    """

    groups: Any
    weights: Any = None

    name: ClassVar[str] = "tree"
    formula: ClassVar[str] = "Σ_g w_g ‖z_g‖, nested groups"

    def __post_init__(self) -> None:
        groups = arguments.each(self.groups, "groups", _atoms_of)
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "weights", weights_of(self.weights, len(groups)))
        self._nesting()

    @classmethod
    def of_parents(cls, parents: Any, weights: Any = None) -> Tree:
        """One group per atom: the atom and all below it, where ``parents[k]`` is the atom above k, or −1.

        Raises
        ------
        InputError
            For a parent that is no atom, or atoms above themselves.
        """
        above = arguments.each(parents, "parents", lambda value, name: arguments.count(value, name, least=-1))
        below: list[list[int]] = [[] for _ in above]
        for atom in range(len(above)):
            at, steps = atom, 0
            while at >= 0:
                if at >= len(above) or steps > len(above):
                    found = f"sends atom {atom} to {at}" if at >= len(above) else f"leads atom {atom} in a circle"
                    raise InputError(f"parents {found}; pass the atom above each of {len(above)}, or -1 for none.")
                below[at].append(atom)
                at, steps = above[at], steps + 1
        return cls(below, weights)

    @property
    def n_atoms(self) -> int:
        """Number of atoms K."""
        return 1 + max(max(group) for group in self.groups)

    def _nesting(self) -> tuple[list[int], list[int]]:
        """Height of every group (1 for those that contain no other) and its outermost group, checked."""
        heights, roots = [0] * len(self.groups), list(range(len(self.groups)))
        outer = [-1] * self.n_atoms  # the largest group so far around every atom
        above = [-1] * len(self.groups)
        for g in sorted(range(len(self.groups)), key=lambda g: len(self.groups[g])):
            atoms = set(self.groups[g])
            for inner in {outer[k] for k in atoms} - {-1}:
                if not atoms.issuperset(self.groups[inner]):
                    raise InputError(f"groups {inner} and {g} overlap; of any two one must contain the other, or none.")
                heights[g], above[inner] = max(heights[g], heights[inner]), g
            heights[g] += 1
            for k in atoms:
                outer[k] = g
        if -1 in outer:
            raise InputError(f"groups leaves out atom {outer.index(-1)}; every atom needs a group, or it is free.")
        for g in sorted(range(len(self.groups)), key=lambda g: -heights[g]):
            roots[g] = g if above[g] < 0 else roots[above[g]]
        return heights, roots

    @cached_property
    def _levels(self) -> tuple[Nested, ...]:
        """Groups by height, lowest first; those of one height are disjoint."""
        heights, roots = self._nesting()
        numbers = {root: number for number, root in enumerate(sorted(set(roots)))}
        levels = []
        for height in range(1, max(heights) + 1):
            here = [g for g in range(len(heights)) if heights[g] == height]
            labels = torch.full((self.n_atoms,), len(here))
            for number, g in enumerate(here):
                labels[list(self.groups[g])] = number
            weights = torch.tensor([*(self.weights[g] for g in here), 0.0], dtype=torch.float64)
            around = torch.tensor([*(numbers[roots[g]] for g in here), 0])
            last = torch.tensor([place for place, g in enumerate(here) if roots[g] == g], dtype=torch.int64)
            levels.append(Nested(Level(labels, weights), around, last))
        return tuple(levels)

    def require_atoms(self, n_atoms: int) -> None:
        """The atoms of all groups."""
        require_length(self.n_atoms, n_atoms, "groups")

    def value(self, Z: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """``Σ_g w_g ‖z_g‖`` of every row."""
        total = Z.new_zeros(len(Z))
        for level, _, _ in self._levels:
            total += level.norms(Z) @ level.weights.to(Z)
        return total

    def prox(self, V: Float[torch.Tensor, "n K"], step: float) -> Float[torch.Tensor, "n K"]:
        """One pass from the smallest groups up, each shortened by ``step·w_g``."""
        step, Z = arguments.nonnegative(step, "step"), V.clamp(min=0)
        for level, _, _ in self._levels:
            go_on()
            Z = level.shrunk(Z, step)
        return Z

    def polar(self, V: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """The smallest t of every row at which :meth:`prox` is zero, not below it: Newton's method, then a check."""
        V = V.clamp(min=0)
        T = V.new_zeros((len(V), sum(len(nested.last) for nested in self._levels)))
        for _ in range(NEWTON_STEPS):
            excess, slope = self._excess(V, T)
            further = T + excess.clamp(min=0) / -slope
            if not bool((further > T * (1 + EPS)).any()):
                break
            T = further
        slack = 2 * EPS
        for _ in range(DOUBLINGS):
            missing = self._excess(V, T)[0] > 0
            if not bool(missing.any()):
                break
            T, slack = torch.where(missing, T * (1 + slack), T), 2 * slack
        return T.amax(dim=1)

    @property
    def mass_objection(self) -> str | None:
        """T16 needs what is L1: every atom in groups of its own, of the same total weight."""
        if any(len(group) > 1 for group in self.groups):
            return "an atom below another pays for more groups, and codes of one group that share a sum cost less"
        totals = self._totals
        return None if np.ptp(totals) <= 1e-15 * totals.max() else "atoms differ in weight"

    @property
    def _totals(self) -> Float64[np.ndarray, " K"]:
        """What a single code of every atom pays."""
        return np.array(
            [sum(w for w, g in zip(self.weights, self.groups, strict=True) if k in g) for k in range(self.n_atoms)]
        )

    def of_mass(self, s: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        """``w t`` of groups of one atom."""
        self.require_mass()
        return self._totals.min() * s

    def radial(self, r: Float64[np.ndarray, "*n"], lam: float) -> Float64[np.ndarray, "*n"]:
        """That of L1."""
        return linear_radial(r, lam * float(self.of_mass(np.ones(1))[0]))

    def _excess(
        self, V: Float[torch.Tensor, "n K"], T: Float[torch.Tensor, "n R"]
    ) -> tuple[Float[torch.Tensor, "n R"], Float[torch.Tensor, "n R"]]:
        """``‖·‖ − t w`` of every outermost group when the pass at t comes to it, and its slope in t."""
        tiny = torch.finfo(V.dtype).tiny
        found, slopes = torch.zeros_like(T), -torch.ones_like(T)
        U, dU = V, torch.zeros_like(V)
        for level, around, ends in self._levels:
            labels, weights, roots, last = (part.to(V.device) for part in (*level, around, ends))
            norms, cut = level.norms(U), T[:, roots] * weights
            safe = norms.clamp(min=tiny)
            rate = group_sums(U * dU, labels, len(weights)) / safe
            found[:, roots[last]] = (norms - cut)[:, last]
            slopes[:, roots[last]] = (rate - weights)[:, last]
            share = torch.where(norms > cut, 1 - cut / safe, 0)
            change = torch.where(norms > cut, cut * rate / safe**2 - weights / safe, 0)
            dU = dU * share[:, labels] + U * change[:, labels]
            U = U * share[:, labels]
        return found, slopes


def _atoms_of(value: Any, name: str) -> tuple[int, ...]:
    """The atoms of one group, sorted, each once."""
    atoms = arguments.each(value, name, lambda atom, name: arguments.count(atom, name, least=0))
    return tuple(sorted(set(atoms)))
