"""Matching the atoms of two dictionaries by cosine, compared with chance, and the kind of each atom."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from cvxsae.diagnostics.phenomena import DUPLICATE
from cvxsae.parallel.threads import interruptible

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

SIMILAR = 0.7
"""Cosine from which two atoms count as alike: the field's threshold (stitching, latents shared between seeds)."""

SPLIT_SHARE = 0.5
"""Most of the distance ``1 − cos`` to its nearest child alone that a split atom may have to its children together.

Two halves of a split make up their parent, so the distance vanishes; a stray neighbor of a good match takes little off.
"""

KINDS = ("shared", "split", "merged", "new")
"""What an atom can be, see :func:`kinds_of`."""

NONE = -1
"""Stands for no atom where an index is expected."""

BLOCK_ENTRIES = 2**22
"""Most entries of a block of cosines beside the one matrix of all: 32 MB."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """The one-to-one matching of two dictionaries with the largest sum of cosines, and the nearest atom of each.

    Attributes
    ----------
    partner_a, partner_b
        Atom of the other dictionary each atom is matched with, (K_A,) and (K_B,); −1 for those left over by the
        wider dictionary.
    cosine_a, cosine_b
        Cosines of those pairs; NaN where there is none.
    nearest_a, nearest_b
        Atom of the other dictionary with the largest cosine, whether or not it is matched.
    nearest_cosine_a, nearest_cosine_b
        That cosine.
    """

    partner_a: Int64[np.ndarray, " A"]
    partner_b: Int64[np.ndarray, " B"]
    cosine_a: Float64[np.ndarray, " A"]
    cosine_b: Float64[np.ndarray, " B"]
    nearest_a: Int64[np.ndarray, " A"]
    nearest_b: Int64[np.ndarray, " B"]
    nearest_cosine_a: Float64[np.ndarray, " A"]
    nearest_cosine_b: Float64[np.ndarray, " B"]

    @property
    def mean_cosine(self) -> float:
        """Mean cosine of the matched pairs (PW-MCC)."""
        return float(np.nanmean(self.cosine_a))

    @property
    def mean_nearest(self) -> tuple[float, float]:
        """Mean over the atoms of A of the largest cosine with an atom of B, and the other way around (MMCS)."""
        return float(self.nearest_cosine_a.mean()), float(self.nearest_cosine_b.mean())

    def share(self, similar: float) -> float:
        """Share of the matched pairs with at least this cosine."""
        return float((self.cosine_a[self.partner_a != NONE] >= similar).mean())

    def swapped(self) -> Assignment:
        """The same with A and B exchanged."""
        parts = {}
        for name in ("partner", "cosine", "nearest", "nearest_cosine"):
            parts[f"{name}_a"], parts[f"{name}_b"] = getattr(self, f"{name}_b"), getattr(self, f"{name}_a")
        return Assignment(**parts)


def assigned(A: Float64[np.ndarray, "A d"], B: Float64[np.ndarray, "B d"]) -> Assignment:
    """Match the rows of two unit-norm dictionaries: ``max Σ cos`` over one-to-one matchings, exactly.

    The Hungarian method of :func:`scipy.optimize.linear_sum_assignment` on all cosines in float64: ``8 K_A K_B`` bytes.
    Its worst case is cubic; on one core it took 1 to 2 s at K = 4,096 and 13 to 45 s (and 2.1 GB) at 16,384, the more
    the less the two have in common. A limit on time does not act inside it.
    """
    if len(A) > len(B):  # the method copies a matrix that is taller than wide
        return assigned(B, A).swapped()
    from scipy.optimize import linear_sum_assignment

    distances = np.empty((len(A), len(B)))
    nearest_a, nearest_cosine_a = np.empty(len(A), np.int64), np.empty(len(A))
    nearest_b, nearest_cosine_b = np.zeros(len(B), np.int64), np.full(len(B), -np.inf)
    step = max(1, BLOCK_ENTRIES // len(B))
    for start in range(0, len(A), step):
        part = slice(start, start + step)
        cosines = A[part] @ B.T
        nearest_a[part], nearest_cosine_a[part] = cosines.argmax(axis=1), cosines.max(axis=1)
        best = cosines.argmax(axis=0)
        largest = cosines[best, np.arange(len(B))]
        nearer = largest > nearest_cosine_b
        nearest_b[nearer], nearest_cosine_b[nearer] = best[nearer] + start, largest[nearer]
        np.negative(cosines, out=distances[part])
    rows, columns = interruptible(partial(linear_sum_assignment, distances))
    partner_b, cosine_b = np.full(len(B), NONE, np.int64), np.full(len(B), np.nan)
    partner_b[columns], cosine_b[columns] = rows, -distances[rows, columns]
    return Assignment(
        partner_a=columns.astype(np.int64),
        partner_b=partner_b,
        cosine_a=-distances[rows, columns],
        cosine_b=cosine_b,
        nearest_a=nearest_a,
        nearest_b=nearest_b,
        nearest_cosine_a=nearest_cosine_a,
        nearest_cosine_b=nearest_cosine_b,
    )


# ------------------------------------------------------------------------------------------ what became of an atom


def kinds_of(
    found: Assignment, A: Float64[np.ndarray, "A d"], B: Float64[np.ndarray, "B d"], similar: float
) -> tuple[np.ndarray, dict[int, tuple[int, ...]]]:
    """The kind of every atom of A in B, and the children of those that were split.

    *new*: no atom of B is ``similar`` (cosine at least that). *split*: two atoms of B or more have it as their nearest
    and are similar to it, and their best nonnegative mixture is at most :data:`SPLIT_SHARE` as far from it (in
    ``1 − cos``) as the nearest of them alone. *merged*: its nearest is an atom of B that is split into it and others of
    A, or its nearest is matched with another atom of A and its own partner is not similar. *shared*: all others; their
    partner is similar. The first that holds counts, except that split comes before merged.

    Returns
    -------
    tuple
        One of :data:`KINDS` an atom, (K_A,), and the atoms of B that each split atom was split into.
    """
    children, parents = _split(found, A, B, similar), _split(found.swapped(), B, A, similar)
    parts = {part for family in parents.values() for part in family}
    kinds = np.full(len(A), "shared", dtype="<U6")
    kinds[~(found.cosine_a >= similar)] = "merged"
    kinds[list(parts)] = "merged"
    kinds[found.nearest_cosine_a < similar] = "new"
    kinds[list(children)] = "split"
    return kinds, children


def _split(
    found: Assignment, A: Float64[np.ndarray, "A d"], B: Float64[np.ndarray, "B d"], similar: float
) -> dict[int, tuple[int, ...]]:
    """The atoms of A that two atoms of B or more make up, with those."""
    alike = np.flatnonzero(found.nearest_cosine_b >= similar)
    parents, counts = np.unique(found.nearest_b[alike], return_counts=True)
    families = {int(one): alike[found.nearest_b[alike] == one] for one in parents[counts > 1]}
    return {
        parent: tuple(int(child) for child in family)
        for parent, family in families.items()
        if found.nearest_cosine_a[parent] < DUPLICATE and is_made_up(A[parent], B[family])
    }


def is_made_up(atom: Float64[np.ndarray, " d"], parts: Float64[np.ndarray, "m d"]) -> bool:
    """Whether the best nonnegative mixture of unit atoms is so much nearer to an atom than the nearest of them."""
    from scipy.optimize import nnls

    weights, _ = nnls(parts.T, atom)
    mixture = weights @ parts
    length = float(np.linalg.norm(mixture))
    together = 1 - float(atom @ mixture) / length if length > 0 else 1.0
    return together <= SPLIT_SHARE * (1 - float((parts @ atom).max()))


# ------------------------------------------------------------------------------------------ what chance would give

Spread = Literal["isotropic", "alike"]


@dataclass(frozen=True)
class Baseline:
    """What the same numbers are for two random dictionaries of the same K and d: means over independent draws.

    Attributes
    ----------
    kind
        ``"isotropic"``: atoms uniform on the sphere. ``"alike"``: Gaussian with the mean and covariance of each
        dictionary's atoms, scaled to norm 1; dictionaries of the same data share these whatever their features.
    draws
        Pairs of dictionaries drawn.
    mean_cosine, spread
        Mean matched cosine, and its standard deviation over draws (0 for one draw).
    mean_nearest
        Mean largest cosines, A in B and B in A.
    share
        Share of matched pairs that are similar.
    """

    kind: Spread
    draws: int
    mean_cosine: float
    spread: float
    mean_nearest: tuple[float, float]
    share: float


def baseline(
    kind: Spread,
    dictionaries: tuple[Float64[np.ndarray, "A d"], Float64[np.ndarray, "B d"]],
    draws: int,
    similar: float,
    rng: np.random.Generator,
) -> Baseline:
    """Match random dictionaries as the real ones were matched; each draw costs what that cost."""
    rows = []
    for _ in range(draws):
        found = assigned(*(_random(kind, like, rng) for like in dictionaries))
        rows.append((found.mean_cosine, *found.mean_nearest, found.share(similar)))
    means, first = np.mean(rows, axis=0), np.array(rows)[:, 0]
    return Baseline(
        kind=kind,
        draws=draws,
        mean_cosine=float(means[0]),
        spread=float(first.std(ddof=1)) if draws > 1 else 0.0,
        mean_nearest=(float(means[1]), float(means[2])),
        share=float(means[3]),
    )


def _random(kind: Spread, like: Float64[np.ndarray, "K d"], rng: np.random.Generator) -> Float64[np.ndarray, "K d"]:
    if kind == "isotropic":
        drawn = rng.standard_normal(like.shape)
    else:
        mean = like.mean(axis=0)
        factor = (like - mean) / np.sqrt(len(like))  # factorᵀ factor is the covariance
        if len(like) > like.shape[1]:  # a square one has the same
            squares, axes = np.linalg.eigh(factor.T @ factor)
            factor = (axes * np.sqrt(np.maximum(squares, 0))).T
        drawn = mean + rng.standard_normal((len(like), len(factor))) @ factor
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
