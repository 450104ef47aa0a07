"""The result of :func:`cvxsae.match`: a table keyed by feature index, a report in words, and JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.data import arguments
from cvxsae.diagnostics.matching.assignment import KINDS, NONE
from cvxsae.diagnostics.matching.between import CONFIDENCE
from cvxsae.diagnostics.matching.way import VERDICTS

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float64, Int64

    from cvxsae.diagnostics.matching.assignment import Baseline
    from cvxsae.diagnostics.matching.between import Between, Difference

_BASELINES = {"isotropic": "random directions", "alike": "random, same covariance"}
"""What reports call a baseline."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """What became of the atoms of one dictionary in the other; entries belong to :attr:`features`.

    Attributes
    ----------
    features
        Their indices in the dictionary as it was passed, (K,): all, but for atoms of norm zero.
    kinds
        ``"shared"``, ``"split"``, ``"merged"`` or ``"new"``, (K,) (:func:`~.assignment.kinds_of`).
    partner
        Feature of the other dictionary it is matched with, (K,); −1 for none.
    cosine
        Cosine with it; NaN for none.
    nearest, nearest_cosine
        Feature of the other dictionary with the largest cosine, and that cosine.
    children
        For each split feature, the features of the other dictionary that make it up.
    no_atom
        Features left out, as their atom has norm zero.
    """

    features: Int64[np.ndarray, " K"]
    kinds: np.ndarray
    partner: Int64[np.ndarray, " K"]
    cosine: Float64[np.ndarray, " K"]
    nearest: Int64[np.ndarray, " K"]
    nearest_cosine: Float64[np.ndarray, " K"]
    children: dict[int, tuple[int, ...]]
    no_atom: int

    @property
    def counts(self) -> dict[str, int]:
        """How many features are of each kind."""
        return {kind: int((self.kinds == kind).sum()) for kind in KINDS}

    @property
    def mean_nearest(self) -> float:
        """Mean largest cosine with an atom of the other dictionary (MMCS)."""
        return float(self.nearest_cosine.mean())

    def table(self) -> pd.DataFrame:
        """One row per feature, indexed by ``feature``; ``partner`` is missing where there is none."""
        import pandas as pd

        columns = {
            "kind": self.kinds,
            "partner": pd.array(self.partner, dtype="Int64"),
            "cosine": self.cosine,
            "nearest": self.nearest,
            "nearest_cosine": self.nearest_cosine,
            "children": [self.children.get(int(feature), ()) for feature in self.features],
        }
        table = pd.DataFrame(columns, index=pd.Index(self.features, name="feature"))
        table.loc[self.partner == NONE, "partner"] = pd.NA
        return table

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        rows = {name: getattr(self, name).tolist() for name in ("features", "kinds", "partner", "cosine")}
        rows |= {name: getattr(self, name).tolist() for name in ("nearest", "nearest_cosine")}
        children = {str(feature): list(family) for feature, family in self.children.items()}
        return {**rows, "children": children, "counts": self.counts, "no_atom": self.no_atom}


@dataclass(frozen=True, kw_only=True, eq=False)
class Matching:
    """A comparison of two dictionaries: what both have, compared with chance, and whether they are the same optimum.

    Attributes
    ----------
    A, B
        The kinds of the atoms of each dictionary (:class:`Side`).
    dim
        Dimension d.
    similar
        Smallest cosine at which two atoms count as similar.
    mean_cosine
        Mean cosine of the matched pairs (PW-MCC): the largest that any one-to-one matching has, exactly.
    share
        Fraction of the matched pairs that are similar.
    baselines
        The same numbers for random dictionaries of the same K and d
        (:class:`~cvxsae.diagnostics.matching.assignment.Baseline`).
    between
        Which dictionary is better on the data, and what lies between them (:class:`~.between.Between`); None
        without data.
    """

    A: Side
    B: Side
    dim: int
    similar: float
    mean_cosine: float
    share: float
    baselines: tuple[Baseline, ...]
    between: Between | None

    @property
    def pairs(self) -> Int64[np.ndarray, "m 2"]:
        """The matched features, in the order of A."""
        matched = self.A.partner != NONE
        return np.stack([self.A.features[matched], self.A.partner[matched]], axis=1)

    @property
    def mean_nearest(self) -> tuple[float, float]:
        """Mean largest cosine (MMCS): of A's atoms with B's, and of B's with A's."""
        return self.A.mean_nearest, self.B.mean_nearest

    def table(self, which: str = "A") -> pd.DataFrame:
        """The kind of every atom of A (or of B), indexed by feature.

        Columns: ``kind``, ``partner`` and ``cosine`` (the matched atom of the other dictionary), ``nearest`` and
        ``nearest_cosine`` (the most similar one, whether or not it is matched), ``children`` (for a split feature, the
        features it was split into).

        Raises
        ------
        InputError
            For anything but "A" and "B".
        """
        side: Side = getattr(self, arguments.choice(which, "which", ("A", "B")))
        return side.table()

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {
            "dim": self.dim,
            "similar": self.similar,
            "mean_cosine": self.mean_cosine,
            "mean_nearest": list(self.mean_nearest),
            "share": self.share,
            "baselines": [asdict(one) for one in self.baselines],
            "A": self.A.to_dict(),
            "B": self.B.to_dict(),
            "between": None if self.between is None else self.between.to_dict(),
        }

    def __repr__(self) -> str:
        sizes = f"{len(self.A.features)} and {len(self.B.features)} atoms"
        verdict = "" if self.between is None else f", {self.between.verdict}"
        return f"Matching({sizes}, mean matched cosine {self.mean_cosine:.4g}{verdict})"

    def __str__(self) -> str:
        return "\n".join([*self._geometry(), *self._objective()])

    def _geometry(self) -> list[str]:
        rows = [("A against B", self.mean_cosine, 0.0, *self.mean_nearest, self.share)]
        for one in self.baselines:
            rows.append((_BASELINES[one.kind], one.mean_cosine, one.spread, *one.mean_nearest, one.share))
        lines = [
            f"two dictionaries: A of {len(self.A.features)} atoms, B of {len(self.B.features)}, dimension {self.dim}",
            f"  {'':<26}{'matched cosine':>18}{'A in B':>9}{'B in A':>9}{f'>= {self.similar:g}':>9}",
        ]
        for name, cosine, spread, *others in rows:
            around = f" +- {spread:.4f}" if spread else ""
            shown = "".join(f"{number:>9.4f}" for number in others[:2])
            lines.append(f"  {name:<26}{f'{cosine:.4f}{around}':>18}{shown}{others[2]:>9.1%}")
        lines.append("  (mean cosine of the best one-to-one matching; mean largest cosines; share of matched pairs)")
        for name, side in (("A", self.A), ("B", self.B)):
            parts = ", ".join(f"{count} {kind}" for kind, count in side.counts.items())
            empty = f"; {side.no_atom} of norm zero are left out" if side.no_atom else ""
            lines.append(f"  atoms of {name}: {parts}{empty}")
        return lines

    def _objective(self) -> list[str]:
        return [] if self.between is None else _objective(self.between, len(self.A.features) == len(self.B.features))


def _objective(found: Between, is_one_width: bool) -> list[str]:
    """The same in words."""
    rows, way = found.rows, found.way
    lines = [
        f"  F at lambda {found.lam:.6g}, exact codes:",
        f"    on the {rows.n_points:,} rows given (certified): {_better(rows)}",
        f"      stationary on them to {found.stationarity_a:.1e} (A) and {found.stationarity_b:.1e} (B)",
    ]
    if found.held_out is not None and found.distribution is not None:
        there = found.distribution
        lines.append(f"    on the {found.held_out.n_points:,} held-out rows (certified): {_better(found.held_out)}")
        said = (
            "no difference is shown" if there.low <= 0 <= there.high else f"{'B' if there.low > 0 else 'A'} is better"
        )
        lines.append(
            f"    for the distribution: F(A) - F(B) = {there.mean:.4g}, {CONFIDENCE:.0%} interval {there.low:.4g} to "
            f"{there.high:.4g} over {there.n_units:,} independent {there.unit}s; {said}"
        )
    else:
        lines.append("    for the distribution: nothing is said; that takes rows that neither was fitted to (held_out)")
    lines.append(f"  between them, on the rows given: {VERDICTS[found.verdict]}")
    if found.verdict == "basin" and is_one_width and rows.low * rows.high > 0:
        higher = "A" if rows.low > 0 else "B"
        lines.append(f"    so {higher} is no optimum of this width, unless a barrier hides between these points")
    looked = ", ".join(f"{step.value:.6g}" for step in way.steps)
    lines.append(f"    F on the way: {looked}{'' if way.is_complete else ' (time ran out)'}")
    if way.move > 0 and math.isfinite(way.barrier[0]):
        barrier, change = (max(0.0, part[0]) for part in (way.barrier, way.change))
        lines.append(f"    rise above both ends at least {barrier:.3g}, change at least {change:.3g}")
        lines.append(f"    (where F curves as usual, turning so far costs {way.move:.3g})")
    bends = [("A", way.curvature_a), ("B", way.curvature_b)]
    shown = ", ".join(f"{bend:.3g} at {name}" for name, bend in bends if bend is not None)
    lines.append(f"    curvature along it (usual: 1): {shown or 'does not exist at either end'}")
    return lines


def _better(found: Difference) -> str:
    values = f"F(A) = {found.value_a:.9g}, F(B) = {found.value_b:.9g}"
    if found.low > 0 or found.high < 0:
        better, other = ("B", "A") if found.low > 0 else ("A", "B")
        least = found.low if found.low > 0 else -found.high
        return f"{values}; {better} is better than {other} by at least {least:.3g}"
    return f"{values}; equal to {max(found.high, -found.low):.1e}"
