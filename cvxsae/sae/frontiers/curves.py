"""What :func:`cvxsae.sae.frontier` returns: points of several curves, one table, one figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.sae.measures.result import ENCODER, EXACT, REFITTED
from cvxsae.sae.styles import LINES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from cvxsae.sae.chosen_lambda import ChosenLambda

K_SPARSE, LEARNED, LEARNED_REFITTED = "k-sparse", "learned", "learned, refitted"
"""The other curves: the best codes found of at most k atoms, and exact codes of a dictionary learned for them."""

MEANINGS: Mapping[str, str] = {
    ENCODER: "the SAE as it is",
    EXACT: "its decoder with exact codes along λ",
    REFITTED: "the same without shrinkage",
    K_SPARSE: "its decoder with the best codes found of at most k atoms",
    LEARNED: "another dictionary with exact codes along λ",
    LEARNED_REFITTED: "the same without shrinkage",
}
"""The curves, in the order of tables and figures."""

NO_BEST = "Codes of at most k atoms are the best found, not proved to be the best: the gap is what a bound leaves open."
"""What is said of the gap of k-sparse codes."""

LEVEL = 0.95
"""Confidence of the intervals of FVU."""


@dataclass(frozen=True)
class FrontierPoint:
    """One point of a frontier.

    Attributes
    ----------
    curve
        A name of :data:`MEANINGS`.
    lam
        λ of the codes; None for the encoder and for k-sparse codes.
    k
        Most active atoms of a datapoint, where it is the same for all: of k-sparse codes and of a TopK encoder.
    l0, fvu
        Active atoms per datapoint, and the fraction of variance unexplained, in the units of X.
    fvu_low, fvu_high
        The interval of FVU for the distribution the rows were drawn from (delta method), at the confidence of the
        frontier, over rows, or over documents where an audit knows them.
    value
        Loss of (P) at λ, or half the squared error per datapoint where there is no λ; where the SAE codes the data.
    gap
        Certified relative gap of ``value`` to the best codes of this dictionary: at this λ (T1), or with at most k
        active atoms. None where nothing is claimed.
    """

    curve: str
    lam: float | None
    k: int | None
    l0: float
    fvu: float
    fvu_low: float
    fvu_high: float
    value: float
    gap: float | None


@dataclass(frozen=True, kw_only=True, repr=False)
class Frontier:
    """Fraction of variance unexplained against L0, for an SAE and for better codes (:func:`cvxsae.sae.frontier`).

    Attributes
    ----------
    points
        All of them, curve by curve.
    lam
        The SAE's λ, or the one at which exact codes have its L0, and where it came from.
    n_points, dim, n_atoms
        Datapoints that were looked at, d and K. FVU and L0 are exact statements about these datapoints.
    notes
        What has to be said of it, a sentence each.
    confidence
        Of the intervals of FVU.
    """

    points: tuple[FrontierPoint, ...]
    lam: ChosenLambda
    n_points: int
    dim: int
    n_atoms: int
    notes: tuple[str, ...] = ()
    confidence: float = LEVEL

    def curve(self, name: str) -> tuple[FrontierPoint, ...]:
        """The points of one curve, sparsest first."""
        return tuple(sorted((point for point in self.points if point.curve == name), key=lambda point: point.l0))

    @property
    def least_suboptimality(self) -> float | None:
        """Fraction of the squared error of the encoder's codes that better codes, which were found, avoid.

        They use the same dictionary and, on every datapoint, at most as many atoms: the encoder is short of the best
        there is by at least this, whatever it was trained for. None where no such codes were computed.
        """
        (encoder,) = self.curve(ENCODER)
        found = self.curve(K_SPARSE)
        same = [point for point in found if point.k is None]  # as many as the encoder, row by row; with a k, all alike
        same = same or [point for point in found if point.k == encoder.l0]
        if not same or not encoder.value > 0:
            return None
        return 1 - min(point.value for point in same) / encoder.value

    def table(self) -> pd.DataFrame:
        """One row a point: curve, lam, k, l0, fvu, fvu_low, fvu_high, value, gap; NaN where there is none."""
        import pandas as pd

        points = [asdict(point) for name in MEANINGS for point in self.curve(name)]
        return pd.DataFrame(points).astype(dict.fromkeys(("lam", "k", "gap"), np.float64))

    def figure(self) -> Figure:
        """Fraction of variance unexplained against active atoms per datapoint, a line a curve."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 5), layout="constrained")
        axes = figure.subplots()
        for (name, meaning), line in zip(MEANINGS.items(), reversed(LINES), strict=True):
            points = self.curve(name)
            if points:
                style: dict[str, Any] = {**line, **({"markersize": 14, "linestyle": "none"} if name == ENCODER else {})}
                axes.plot([p.l0 for p in points], [p.fvu for p in points], label=f"{name}: {meaning}", **style)
        if any(point.l0 > 0 for point in self.points):
            axes.set_xscale("log")
        axes.set(xlabel="active atoms per datapoint (L0)", ylabel="fraction of variance unexplained (FVU)")
        axes.legend(frameon=False, fontsize="small")
        return figure

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        points = [
            {
                name: None if isinstance(value, float) and not np.isfinite(value) else value
                for name, value in row.items()
            }
            for row in map(asdict, self.points)
        ]
        return {
            "points": points,
            "least_suboptimality": self.least_suboptimality,
            "lam": self.lam.lam,
            "lam_sentence": self.lam.sentence,
            "n_points": self.n_points,
            "dim": self.dim,
            "n_atoms": self.n_atoms,
            "confidence": self.confidence,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [f"{self.dim} -> {self.n_atoms}, {self.n_points:,} rows. {self.lam.sentence}"]
        lines.append(f"  {'curve':<20}{'λ':>10}{'k':>6}{'L0':>9}{'FVU':>9}{'gap':>10}")
        for name in MEANINGS:
            for point in self.curve(name):
                lam = "" if point.lam is None else f"{point.lam:.4g}"
                k = "" if point.k is None else str(point.k)
                gap = "" if point.gap is None else f"{point.gap:.1e}"
                lines.append(f"  {name:<20}{lam:>10}{k:>6}{point.l0:>9.2f}{point.fvu:>9.4f}{gap:>10}")
        if self.least_suboptimality is not None:
            lines.append(
                f"Codes of its dictionary with as many atoms on every row have {self.least_suboptimality:.1%} less "
                "squared error than the encoder's."
            )
        if any(point.gap is not None for point in self.curve(K_SPARSE)):
            lines.append(NO_BEST)
        return "\n".join([*lines, *self.notes])

    def __repr__(self) -> str:
        curves = {name: len(self.curve(name)) for name in MEANINGS}
        return f"Frontier({', '.join(f'{name}: {count}' for name, count in curves.items() if count)})"
