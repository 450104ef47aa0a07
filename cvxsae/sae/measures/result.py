"""What :func:`cvxsae.sae.metrics` returns: numbers of each kind of codes, with intervals, and of each feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.statistics.estimates import EXACT_BINOMIAL, NONE, Estimate, shares

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float64, Int64

    from cvxsae.sae.chosen_lambda import ChosenLambda

__all__ = ["DENSE", "Estimate", "KindMetrics", "Metrics"]

ENCODER, EXACT, REFITTED = "encoder", "exact", "exact, refitted"
"""Kinds of codes: the SAE's own, exact ones of its dictionary at λ, and these refitted on their support."""

DENSE = 0.1
"""Share of the rows above which a feature counts as dense, as in the literature on dense latents."""

MEANINGS = {
    "l0": "active features per row",
    "l1": "sum of codes per row, for atoms of norm 1",
    "mse": "squared error per row, summed over dimensions",
    "explained_variance": "1 - fvu: R2 about the mean row",
    "fvu": "squared error over squared distance from the mean row, each summed over rows",
    "cosine": "cosine of row and reconstruction, mean over rows",
    "l2_ratio": "norm of the reconstruction over norm of the row, mean over rows",
    "relative_reconstruction_bias": "squared reconstructions over their products with the rows; 1: nothing is shrunk",
    "value": "loss of (P) at lambda per row: half the squared error plus lambda times l1",
    "dead": "features active on none of the rows given",
    "dense": "features active on more than a tenth of the rows given",
    "loss": "what the loss function returned for all reconstructions",
    "loss_recovered": "(loss of zeros - loss) / (loss of zeros - loss of X)",
}
"""The metrics, in the order of tables, and what they are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class KindMetrics:
    """The numbers of one kind of codes.

    Attributes
    ----------
    numbers
        By the names of :data:`MEANINGS`, those that there are.
    compat
        The other library's own numbers, by its own names; empty unless one was asked for.
    fires, mass, largest
        Of every feature: on how many rows it is active, the sum of its codes and the largest, (K,).
    gap
        Certified relative duality gap of ``value``, by the referee (T1), for exact codes; None for other kinds.
    l0_range
        Between what the L0 of every optimum at λ is certain to be, for exact codes; None for other kinds.
    """

    numbers: Mapping[str, Estimate]
    compat: Mapping[str, float]
    fires: Int64[np.ndarray, " K"]
    mass: Float64[np.ndarray, " K"]
    largest: Float64[np.ndarray, " K"]
    gap: float | None = None
    l0_range: tuple[float, float] | None = None

    def __getitem__(self, name: str) -> float:
        return self.numbers[name].value


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Metrics:
    """The field's metrics for several kinds of codes side by side (:func:`cvxsae.sae.metrics`).

    Attributes
    ----------
    kinds
        ``"encoder"``, ``"exact"`` and ``"exact, refitted"``, those that there are: ``metrics["exact"]["fvu"]`` is a
        number, ``metrics["exact"].numbers["fvu"]`` has its interval.
    lam
        λ of the exact codes, and where it came from.
    n_points, dim, n_atoms
        N, d and K.
    confidence
        Of the intervals.
    compat
        The library whose own numbers are given too, or None.
    notes
        What has to be said of these numbers, a sentence each: what intervals are about, units, what is missing.
    by_document
        Whether intervals are over documents and not over rows; then densities of single features have none.
    """

    kinds: Mapping[str, KindMetrics]
    lam: ChosenLambda
    n_points: int
    dim: int
    n_atoms: int
    confidence: float
    compat: str | None
    notes: tuple[str, ...] = field(default=())
    by_document: bool = False

    def __getitem__(self, kind: str) -> KindMetrics:
        return self.kinds[kind]

    def table(self) -> pd.DataFrame:
        """One row per metric; for each kind of codes the number and its interval, and then meaning and method.

        Another library's numbers are named ``library/name`` and have no interval. The last rows are what certifies the
        exact codes.
        """
        import pandas as pd

        names = [name for name in MEANINGS if any(name in kind.numbers for kind in self.kinds.values())]
        columns: dict[str, list[Any]] = {}
        extra = list(next(iter(self.kinds.values())).compat)
        for label, kind in self.kinds.items():
            found = [kind.numbers.get(name, Estimate(float("nan"))) for name in names]
            proofs = [kind.gap, *(kind.l0_range or (None, None))]
            others = [kind.compat[name] for name in extra] + [np.nan if p is None else p for p in proofs]
            blank = [float("nan")] * len(others)
            columns[label] = [estimate.value for estimate in found] + others
            columns[f"{label}, low"] = [estimate.low for estimate in found] + blank
            columns[f"{label}, high"] = [estimate.high for estimate in found] + blank
        proved = {
            "codes_gap": "certified relative duality gap of value (T1)",
            "l0_at_least": "L0 of every optimum, at least",
            "l0_at_most": "L0 of every optimum, at most",
        }
        table = pd.DataFrame(
            columns, index=pd.Index([*names, *(f"{self.compat}/{name}" for name in extra), *proved], name="metric")
        )
        theirs = [f"as {self.compat} defines it" for _ in extra]
        table["meaning"] = [*(MEANINGS[name] for name in names), *theirs, *proved.values()]
        first = next(iter(self.kinds.values())).numbers
        methods = [first[name].method if name in first else "none" for name in names]
        table["interval"] = [*methods, *["none"] * (len(table) - len(names))]
        return table if any(kind.gap is not None for kind in self.kinds.values()) else table.drop(index=list(proved))

    def features(self) -> pd.DataFrame:
        """One row per feature, by its index in the SAE: density with its exact interval, mean and largest code.

        For every kind of codes: ``density``, the share of rows on which it is active; ``density, low`` and ``high``,
        Clopper–Pearson for the distribution (a feature that no row uses may still be active on 3.7/N of the rows
        there are, at 95 %); ``mean code`` where it is active; ``largest code``; ``dead`` and ``dense``.
        """
        import pandas as pd

        table = pd.DataFrame(index=pd.RangeIndex(self.n_atoms, name="feature"))
        for label, kind in self.kinds.items():
            low, high = shares(kind.fires.astype(np.float64), self.n_points, self.confidence)
            if self.by_document:  # whose rows are no independent trials
                low = high = np.full(self.n_atoms, np.nan)
            density = kind.fires / self.n_points
            mean = np.divide(kind.mass, kind.fires, out=np.full(self.n_atoms, np.nan), where=kind.fires > 0)
            parts = {
                "density": density,
                "density, low": low,
                "density, high": high,
                "mean code": mean,
                "largest code": kind.largest,
                "dead": kind.fires == 0,
                "dense": density > DENSE,
            }
            for name, column in parts.items():
                table[f"{label}: {name}"] = column
        return table

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON: every number with its interval, without the numbers of single features."""
        kinds = {
            label: {
                "numbers": {name: estimate.to_dict() for name, estimate in kind.numbers.items()},
                "compat": {name: number if np.isfinite(number) else None for name, number in kind.compat.items()},
                "gap": kind.gap,
                "l0_range": None if kind.l0_range is None else list(kind.l0_range),
            }
            for label, kind in self.kinds.items()
        }
        return {
            "kinds": kinds,
            "lam": self.lam.lam,
            "lam_source": self.lam.source,
            "lam_sentence": self.lam.sentence,
            "n_points": self.n_points,
            "dim": self.dim,
            "n_atoms": self.n_atoms,
            "confidence": self.confidence,
            "density_interval": NONE if self.by_document else EXACT_BINOMIAL,
            "compat": self.compat,
            "notes": list(self.notes),
        }

    def to_saebench(self, kind: str = ENCODER) -> dict[str, Any]:
        """One kind of codes in the nesting of SAEBench's ``core`` results, ready for JSON.

        Its categories hold SAEBench's own numbers by its own definitions (which metrics of ``compat="saebench"`` have),
        for the given rows; ``eval_result_details`` has one entry per feature, by its index; a category of ours,
        ``convex``, has our numbers with intervals, λ, and what is certified, under a ``schema_version``.

        Raises
        ------
        InputError
            If these metrics are not of ``compat="saebench"``, or have no codes of that kind.
        """
        from cvxsae.sae.measures.saebench import results

        return results(self, kind)

    def __str__(self) -> str:
        width = max(len(label) for label in self.kinds) + 2
        lines = [f"{self.dim} -> {self.n_atoms}, {self.n_points:,} rows. {self.lam.sentence}"]
        lines.append(" " * 30 + "".join(f"{label:>{width}}" for label in self.kinds))
        for name in MEANINGS:
            found = [kind.numbers.get(name) for kind in self.kinds.values()]
            if any(found):
                cells = ("" if estimate is None else f"{estimate.value:.4g}" for estimate in found)
                lines.append(f"{name:<30}" + "".join(f"{cell:>{width}}" for cell in cells))
        return "\n".join([*lines, *self.notes])

    def __repr__(self) -> str:
        fvu = ", ".join(f"{label} {kind['fvu']:.4g}" for label, kind in self.kinds.items())
        return f"Metrics({self.n_points} x {self.dim} -> {self.n_atoms}, FVU {fvu})"
