"""The result of :func:`cvxsae.population.population_floor`: floors of batches, and the limit for the distribution."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cvxsae.statistics.estimates import Estimate
from cvxsae.statistics.means import bounded_mean, ratio_interval

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

    from cvxsae.population.cells import BatchFloor
    from cvxsae.relaxations.solution import Status

ALONE = "one batch: the floor holds for its rows, and no confidence exists for the distribution"
"""What is said where there are fewer than two batches."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PopulationFloor:
    """Certified floors of independent batches, and the limit that they give for the distribution (T17 a); units of (P).

    ``print(floor)`` says in a paragraph what holds for the rows and what for the distribution.

    Attributes
    ----------
    batches
        What each batch counts for, in their order.
    n_atoms
        Width K; None for every width (the wide limit).
    lam
        Penalty λ.
    bias
        The bias it holds for: ``"free"`` (every bias), None (zero) or an array (d,).
    confidence
        Of the lower limit.
    unit
        What is independent: ``"row"`` or ``"document"``.
    order
        ``"random"`` (batches drawn without replacement), or ``"source"`` (consecutive rows of a source).
    range
        Where every floor lies for certain if ``largest_norm`` was given, else None.
    left_over
        Rows that are in no batch, as far as they have been seen.
    status
        ``TIME_LIMIT`` or ``INTERRUPTED`` where not every batch was done; None otherwise.
    notes
        Sentences on what else has to be known.
    seconds
        Wall-clock time of the call.
    """

    batches: tuple[BatchFloor, ...] = field(repr=False)
    n_atoms: int | None
    lam: float
    bias: Float64[np.ndarray, " d"] | Literal["free"] | None
    confidence: float
    unit: str
    order: str
    range: tuple[float, float] | None
    left_over: int
    status: Status | None = None
    notes: tuple[str, ...] = ()
    seconds: float = float("nan")

    @property
    def values(self) -> Float64[np.ndarray, " m"]:
        """Certified floor of each batch, mean per row of it, (m,)."""
        return np.array([batch.value for batch in self.batches])

    @property
    def theorems(self) -> tuple[str, ...]:
        """Where the floor of each batch comes from."""
        return tuple(batch.theorem for batch in self.batches)

    @property
    def sizes(self) -> Int64[np.ndarray, " m"]:
        """Rows of each batch, (m,)."""
        return np.array([batch.n_points for batch in self.batches], dtype=np.int64)

    @property
    def objections(self) -> tuple[str, ...]:
        """What the referee says against floors of batches, which then count as 0; empty if nothing."""
        return tuple(sentence for batch in self.batches for sentence in batch.objections)

    @property
    def is_certified(self) -> bool:
        """Whether the referee had nothing to say."""
        return not self.objections

    @property
    def for_rows(self) -> float:
        """No dictionary (of this width) costs less than this on the rows in the batches: certain, without statistics.

        It is ``Σ n_S f_S / Σ n_S``: the least value over all rows is at least the mean of those over the parts.
        """
        return self.estimate.value

    @property
    def estimate(self) -> Estimate:
        """Mean of the floors, and the lower confidence limit of F*_K of the distribution; NaN for fewer than two."""
        return self.limit()

    @property
    def lower_limit(self) -> float:
        """With :attr:`confidence`, no dictionary has an expected loss below this; NaN for fewer than two batches."""
        return self.estimate.low

    def limit(self, confidence: float | None = None) -> Estimate:
        """The estimate with a lower limit at another confidence.

        Student's t; the empirical Bernstein limit where the range of floors is known, which holds at every number of
        batches. Of documents a ratio of sums over batches (:func:`~cvxsae.statistics.means.ratio_interval`). Never
        below 0, as no loss is.
        """
        level = self.confidence if confidence is None else confidence
        if self.range is not None:
            return bounded_mean(self.values, self.range, level, side="lower", unit="batch")
        found = ratio_interval(self.values * self.sizes, self.sizes, level, side="lower", unit="batch")
        return replace(found, low=max(found.low, 0.0)) if found.n_units > 1 else found

    @property
    def bias_is_free(self) -> bool:
        """Whether it holds for every bias."""
        return isinstance(self.bias, str)

    @property
    def what(self) -> str:
        """Which dictionaries it is about, in words."""
        width = "any number of atoms" if self.n_atoms is None else f"{self.n_atoms:,} atoms"
        return f"dictionary of {width} and {'any bias' if self.bias_is_free else 'this bias'}"

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {
            "estimate": self.estimate.to_dict(),
            "lower_limit": self.lower_limit,
            "for_rows": self.for_rows,
            "n_atoms": self.n_atoms,
            "lam": self.lam,
            "bias": "free" if self.bias_is_free else "fixed",
            "confidence": self.confidence,
            "n_batches": len(self.batches),
            "n_points": int(self.sizes.sum()),
            "left_over": self.left_over,
            "unit": self.unit,
            "order": self.order,
            "range": None if self.range is None else list(self.range),
            "values": self.values.tolist(),
            "sizes": self.sizes.tolist(),
            "theorems": list(self.theorems),
            "batch_seconds": [batch.seconds for batch in self.batches],
            "status": None if self.status is None else self.status.name,
            "objections": list(self.objections),
            "notes": list(self.notes),
            "seconds": self.seconds,
        }

    @property
    def size_in_words(self) -> str:
        """Rows of a batch, in words."""
        sizes, documents = self.sizes, self.batches[0].n_documents
        if documents is None:
            return f"{sizes[0]:,} rows"
        plural = "" if documents == 1 else "s"
        return f"{documents:,} document{plural} ({sizes.min():,} to {sizes.max():,} rows)"

    def __str__(self) -> str:
        found, count = self.estimate, len(self.batches)
        certain = f"no {self.what} costs less than {self.for_rows:.6g} per row on average"
        if count < 2:
            parts = [f"For these {self.sizes.sum():,} rows alone {certain} at λ {self.lam:.4g} ({self.theorems[0]})."]
            parts.append(f"This is {ALONE}; pass more rows or a smaller batch.")
        else:
            how = "drawn at random" if self.order == "random" else "in the order of the source"
            parts = [
                f"For the distribution of these rows no {self.what} has an expected loss below {found.low:.6g} at "
                f"λ {self.lam:.4g}, with confidence {found.confidence:.4g} ({found.method}).",
                f"It comes from the certified floors of {count} independent batches of {self.size_in_words} each, "
                f"{how}, whose mean is {found.value:.6g}.",
                f"For the {self.sizes.sum():,} rows in the batches {certain}, for certain.",
                "Bigger batches have higher floors in expectation, more batches a limit closer to the mean (T17 a).",
            ]
        if self.left_over:
            parts.append(f"{self.left_over:,} rows are in no batch.")
        said = [f"{sentence[0].upper()}{sentence[1:]}." for sentence in self.notes]
        return " ".join((*parts, *said, *self.objections))
