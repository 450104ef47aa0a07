"""How often the intervals of a ledger hold, where the distribution is known: a finite population that is sampled from.

    python -m tests.sae.audits.coverage [--rows 20000] [--repetitions 300]

Rows have documents. Each has a share of its own of the features that the SAE has learned badly, so that rows of one
document are alike (intra-class correlation about 0.3).
The dictionaries D and D' and the encoder are fixed. What they are worth on the whole population is computed to 1e-9,
and what an interval sees are codes exact to a percent: what these leave open has to be inside. Samples are drawn with
replacement, rows or whole documents, and intervals come from :func:`cvxsae.sae.audits.held_out.estimates_of`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cvxsae import SparseCodes, encode
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.solution import Status
from cvxsae.sae.audits.held_out import estimates_of
from cvxsae.solvers.codes.evaluation import Evaluation
from cvxsae.validation.claims import row_values

LAM, DIM, FEATURES, PER_DOCUMENT, ACTIVE = 0.2, 16, 16, 20, 2.0
"""Penalty; dimension; atoms; rows of a document; mean number of active features."""

SPREAD = 0.35
"""Of the share of badly learned features of a document: the less, the more are documents all of one kind."""

MUTED = 0.1
"""What the encoder multiplies their codes by."""

OFF = 0.3
"""How far the SAE's atoms are from the planted ones, per coordinate, where it has learned badly: half of them."""

EXACT_TOL, SEEN_TOL = 1e-9, 1e-2
"""Relative gaps of the codes that the truth comes from, and of those that an interval is made of."""

DRAWN_ROWS, DRAWN_DOCUMENTS, SEEN_GAP = 400, 100, 0.5
"""Rows and documents in a sample, and a dictionary gap on other rows: any number."""


@dataclass(frozen=True, eq=False)
class Population:
    """All rows, as three evaluations, what they are for the whole population, and how alike rows of a document are."""

    by_encoder: Evaluation
    exact: Evaluation
    local: Evaluation
    truth: dict[str, float]
    document: np.ndarray
    correlation: dict[str, float]

    @classmethod
    def made(cls, n_points: int, seed: int = 0) -> Population:
        """So many rows in documents of equal size."""
        rng = np.random.default_rng(seed)
        document = np.arange(n_points) // PER_DOCUMENT
        planted = np.linalg.qr(rng.normal(size=(DIM, FEATURES)))[0].T
        is_bad = np.arange(FEATURES) % 2 == 0
        share = rng.beta(SPREAD, SPREAD, document.max() + 1)[document, None]
        probability = np.where(is_bad, share, 1 - share) * 2 * ACTIVE / FEATURES
        active = rng.random((n_points, FEATURES)) < probability
        X = active * rng.uniform(1, 2, active.shape) @ planted + 0.05 * rng.normal(size=(n_points, DIM))
        far = _unit(planted + OFF * is_bad[:, None] * rng.normal(size=planted.shape))
        near = _unit(planted + 0.05 * rng.normal(size=planted.shape))
        codes = np.where(is_bad, MUTED, 1.0) * np.maximum(X @ far.T - LAM, 0)
        values = _values(X, far, codes)
        loose, tight = (_evaluated(X, far, tol) for tol in (SEEN_TOL, EXACT_TOL))
        local, tight_local = (_evaluated(X, near, tol) for tol in (SEEN_TOL, EXACT_TOL))
        by_encoder = replace(loose, values=values, lower=values)
        lost, gap = values - tight.values, tight.values - tight_local.values
        truth = {
            "loss": values.mean(),
            "exact": tight.value,
            "local": tight_local.value,
            "amortization_gap": lost.mean(),
            "dictionary_gap": gap.mean(),
            "memorization": SEEN_GAP - gap.mean(),
        }
        alike = {"amortization_gap": intraclass(lost), "dictionary_gap": intraclass(gap)}
        return cls(by_encoder, loose, local, truth, document, alike)

    def coverage(self, repetitions: int, *, draw: str, unit: str, seed: int = 1) -> dict[str, float]:
        """Share of the samples whose interval holds the truth, by name: rows or documents drawn, rows or documents
        taken for units."""
        rng, held = np.random.default_rng(seed), dict.fromkeys(self.truth, 0)
        for _ in range(repetitions):
            if draw == "row":
                rows, groups = rng.integers(len(self.document), size=DRAWN_ROWS), None
            else:
                chosen = rng.integers(self.document.max() + 1, size=DRAWN_DOCUMENTS)
                rows = (chosen[:, None] * PER_DOCUMENT + np.arange(PER_DOCUMENT)).ravel()
                groups = np.repeat(np.arange(DRAWN_DOCUMENTS), PER_DOCUMENT)
            units = groups if unit == "document" else None
            by_encoder, exact, local = (_part(one, rows, units) for one in self._all)
            for name, one in estimates_of(by_encoder, exact, local, SEEN_GAP).items():
                held[name] += one.low <= self.truth[name] <= one.high
        return {name: count / repetitions for name, count in held.items()}

    @property
    def _all(self) -> tuple[Evaluation, Evaluation, Evaluation]:
        return self.by_encoder, self.exact, self.local


def intraclass(values: np.ndarray) -> float:
    """The intra-class correlation of documents of equal size: that of one-way analysis of variance."""
    by_document = values.reshape(-1, PER_DOCUMENT)
    between = PER_DOCUMENT * by_document.mean(axis=1).var(ddof=1)
    within = by_document.var(axis=1, ddof=1).mean()
    return float((between - within) / (between + (PER_DOCUMENT - 1) * within))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _values(X: np.ndarray, D: np.ndarray, codes: np.ndarray) -> np.ndarray:
    frame = Candidate(bias=np.zeros(DIM), dictionary=D, codes=codes)
    return row_values(SparseCodes(X, D, LAM), frame)


def _evaluated(X: np.ndarray, D: np.ndarray, tol: float) -> Evaluation:
    codes = encode(X, D, LAM, tol=tol)
    active = np.diff(codes.codes.indptr)
    how: dict[str, Any] = {"groups": None, "confidence": 0.95, "status": Status.CERTIFIED, "active": active}
    return Evaluation(values=codes.values, lower=codes.values * (1 - codes.gaps), **how)


def _part(one: Evaluation, rows: np.ndarray, groups: np.ndarray | None) -> Evaluation:
    return replace(one, values=one.values[rows], lower=one.lower[rows], active=one.active[rows], groups=groups)


WAYS = (("row", "row"), ("document", "document"), ("document", "row"))
"""What is drawn, and what is taken for the unit; the last is wrong, and its intervals must fail."""


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repetitions", type=int, default=300)
    asked = parser.parse_args()
    population = Population.made(asked.rows)
    print("population:", {name: round(float(value), 5) for name, value in population.truth.items()})
    print("intra-class correlation:", {name: round(value, 3) for name, value in population.correlation.items()})
    for draw, unit in WAYS:
        found = population.coverage(asked.repetitions, draw=draw, unit=unit)
        print(f"{draw}s drawn, unit {unit}:", {name: round(float(share), 3) for name, share in found.items()})


if __name__ == "__main__":
    main()
