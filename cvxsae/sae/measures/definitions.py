"""The metrics of other libraries, computed as they compute them, errors included.

Each is taken over all rows as one batch: what a library averages over batches depends on how these were cut.
Sources read: SAELens 6.54 (``evals.py``, the ``explained_variance_legacy`` it still reports, which papers quote),
SAEBench 0.6.0 (``evals/core``), dictionary_learning 0.1.0 (``evaluation.evaluate``), overcomplete 0.3.0 (``metrics``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse as sp
    from jaxtyping import Float64

SMALL_NORM = 1e-4
"""Norm of a datapoint below which SAELens and SAEBench divide by 1 instead, when they compare lengths."""

OVERCOMPLETE_EPSILON = 1e-6
"""What overcomplete adds to divisors, and its least code that counts in ``l0_eps``."""


@dataclass(frozen=True, eq=False)
class Rows:
    """A block of datapoints, their reconstructions, and codes for the atoms as the file has them (any norm)."""

    x: Float64[np.ndarray, "n d"]
    reconstruction: Float64[np.ndarray, "n d"]
    center: Float64[np.ndarray, " d"]
    codes: sp.csr_array

    @property
    def error(self) -> Float64[np.ndarray, "n d"]:
        """The part of the data that is not reconstructed."""
        return self.x - self.reconstruction

    @property
    def l0(self) -> Float64[np.ndarray, " n"]:
        """Codes that are not zero."""
        return np.diff(self.codes.indptr).astype(np.float64)

    @property
    def l1(self) -> Float64[np.ndarray, " n"]:
        """Their sum."""
        return np.asarray(self.codes.sum(axis=1)).ravel()


class Definition(ABC):
    """One library's metrics: means of columns over rows, and what is made of them."""

    name: ClassVar[str]

    @abstractmethod
    def columns(self, rows: Rows) -> Mapping[str, np.ndarray]:
        """Numbers of every row."""

    @abstractmethod
    def finish(self, mean: Mapping[str, Any], n_points: int, dead_share: float) -> dict[str, float]:
        """The metrics, by the library's own names, from the means of the columns."""


def _squares(array: np.ndarray) -> np.ndarray:
    return np.square(array).sum(axis=1)


def _norms(array: np.ndarray) -> np.ndarray:
    return np.linalg.norm(array, axis=1)


def _common(rows: Rows) -> dict[str, np.ndarray]:
    """Columns that more than one library has; rows of norm zero give NaN, as theirs do."""
    size, length = _norms(rows.x), _norms(rows.reconstruction)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = (rows.x / size[:, None] * (rows.reconstruction / length[:, None])).sum(axis=1)
        return {
            "l0": rows.l0,
            "l1": rows.l1,
            "error": _squares(rows.error),
            "cosine": unit,
            "ratio": length / np.where(size < SMALL_NORM, 1.0, size),
            "plain_ratio": length / size,
            "length": _squares(rows.reconstruction),
            "product": (rows.x * rows.reconstruction).sum(axis=1),
            "legacy": 1 - _squares(rows.error) / _squares(rows.x - rows.center),
        }


def _quotient(above: float, below: float) -> float:
    return above / below if below != 0 else float("nan")


class SAELensLegacy(Definition):
    """``explained_variance``: mean over tokens of 1 − ‖e‖²/‖x − x̄‖², which a few quiet tokens can decide."""

    name: ClassVar[str] = "saelens-legacy"

    def columns(self, rows: Rows) -> Mapping[str, np.ndarray]:  # noqa: D102
        return _common(rows)

    def finish(self, mean: Mapping[str, Any], n_points: int, dead_share: float) -> dict[str, float]:  # noqa: D102
        return {
            "explained_variance": float(mean["legacy"]),
            "mse": float(mean["error"]),
            "cossim": float(mean["cosine"]),
            "l2_ratio": float(mean["ratio"]),
            "relative_reconstruction_bias": _quotient(float(mean["length"]), float(mean["product"])),
            "l0": float(mean["l0"]),
            "l1": float(mean["l1"]),
        }


class SAEBench(Definition):
    """``explained_variance`` subtracts (mean of x²)², not ‖mean of x‖²: it depends on the scale of the data.

    Its ``mse`` divides by the number of tokens twice.
    """

    name: ClassVar[str] = "saebench"

    def columns(self, rows: Rows) -> Mapping[str, np.ndarray]:  # noqa: D102
        return {**_common(rows), "square": _squares(rows.x), "entry": np.square(rows.x).mean(axis=1)}

    def finish(self, mean: Mapping[str, Any], n_points: int, dead_share: float) -> dict[str, float]:  # noqa: D102
        error = float(mean["error"])
        return {
            **SAELensLegacy().finish(mean, n_points, dead_share),
            "explained_variance": 1 - _quotient(error, float(mean["square"]) - float(mean["entry"]) ** 2),
            "explained_variance_legacy": float(mean["legacy"]),
            "mse": error / n_points,
        }


class DictionaryLearning(Definition):
    """``frac_variance_explained`` is about centered errors: a constant offset of all reconstructions goes unnoticed."""

    name: ClassVar[str] = "dictionary-learning"

    def columns(self, rows: Rows) -> Mapping[str, np.ndarray]:  # noqa: D102
        return {
            **_common(rows),
            "offset": rows.error,
            "distance": _norms(rows.error),
            "spread": _squares(rows.x - rows.center),
        }

    def finish(self, mean: Mapping[str, Any], n_points: int, dead_share: float) -> dict[str, float]:  # noqa: D102
        left = float(mean["error"]) - float(np.square(mean["offset"]).sum())
        return {
            "l2_loss": float(mean["distance"]),
            "l1_loss": float(mean["l1"]),
            "l0": float(mean["l0"]),
            "frac_variance_explained": 1 - _quotient(left, float(mean["spread"])),
            "cossim": float(mean["cosine"]),
            "l2_ratio": float(mean["plain_ratio"]),
            "relative_reconstruction_bias": _quotient(float(mean["length"]), float(mean["product"])),
            "frac_alive": 1 - dead_share,
        }


class Overcomplete(Definition):
    """``r2_score`` is about the mean of all entries, one number, not the mean datapoint; L0 are shares of the width."""

    name: ClassVar[str] = "overcomplete"

    def columns(self, rows: Rows) -> Mapping[str, np.ndarray]:  # noqa: D102
        counts = rows.codes.data >= OVERCOMPLETE_EPSILON
        large = np.diff(np.concatenate([[0], np.cumsum(counts)])[rows.codes.indptr])
        distance, width = _norms(rows.error), rows.codes.shape[1]
        return {
            "error": np.square(rows.error).mean(axis=1),
            "square": np.square(rows.x).mean(axis=1),
            "entry": rows.x.mean(axis=1),
            "distance": distance,
            "relative": distance / (_norms(rows.x) + OVERCOMPLETE_EPSILON),
            "l0": rows.l0 / width,
            "large": large / width,
        }

    def finish(self, mean: Mapping[str, Any], n_points: int, dead_share: float) -> dict[str, float]:  # noqa: D102
        spread = float(mean["square"]) - float(mean["entry"]) ** 2
        return {
            "r2_score": 1 - float(mean["error"]) / (spread + OVERCOMPLETE_EPSILON),
            "avg_l2_loss": float(mean["distance"]),
            "relative_avg_l2_loss": float(mean["relative"]),
            "l0": float(mean["l0"]),
            "l0_eps": float(mean["large"]),
            "dead_codes": dead_share,
        }


DEFINITIONS: Mapping[str, Definition] = {
    kind.name: kind() for kind in (SAELensLegacy, SAEBench, DictionaryLearning, Overcomplete)
}
"""The libraries whose numbers can be reproduced, by name."""
