"""Metrics in the nesting of SAEBench's ``core`` results, so that they can be set beside those of other SAEs."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae._version import __version__
from cvxsae.data import arguments
from cvxsae.errors import InputError
from cvxsae.sae.measures.definitions import SAEBench

if TYPE_CHECKING:
    from cvxsae.sae.measures.result import Metrics

SCHEMA_VERSION = 1
"""Of the category ``convex``, which SAEBench does not have: it changes when a name in it does."""

CATEGORIES = {
    "reconstruction_quality": ("explained_variance", "explained_variance_legacy", "mse", "cossim"),
    "shrinkage": ("l2_ratio", "relative_reconstruction_bias"),
    "sparsity": ("l0", "l1"),
}
"""Where SAEBench has which of its numbers."""

FREQUENT = {"1": 0.01, "10": 0.1}
"""Percents, and shares of the rows, above which a feature counts as frequent."""


def results(metrics: Metrics, kind: str) -> dict[str, Any]:
    """:meth:`Metrics.to_saebench`."""
    kind = arguments.choice(kind, "kind", tuple(metrics.kinds))
    if metrics.compat != SAEBench.name:
        raise InputError(f"compat is {metrics.compat!r} in these metrics; call metrics with compat={SAEBench.name!r}.")
    found = metrics.kinds[kind]
    density = found.fires / metrics.n_points
    fired = max(1, int(found.fires.sum()))
    frequent = {f"freq_over_{percent}_percent": float((density > share).mean()) for percent, share in FREQUENT.items()}
    normalized = {
        f"normalized_freq_over_{percent}_percent": float(found.fires[density > share].sum() / fired)
        for percent, share in FREQUENT.items()
    }
    proved: dict[str, Any] = {} if found.gap is None else {"gap": found.gap, "l0_range": list(found.l0_range or ())}
    given = {category: {name: _json(found.compat[name]) for name in names} for category, names in CATEGORIES.items()}
    return {
        "eval_type_id": "core",
        "eval_config": {"n_points": metrics.n_points, "codes": kind},
        "eval_id": str(uuid.uuid4()),
        "datetime_epoch_millis": time.time_ns() // 10**6,
        "eval_result_metrics": {
            **given,
            "misc_metrics": {**frequent, **normalized, "frac_alive": float((found.fires > 0).mean())},
            "convex": {
                "schema_version": SCHEMA_VERSION,
                "cvxsae_version": __version__,
                "lam": metrics.lam.lam,
                "lam_source": metrics.lam.source,
                **{name: estimate.to_dict() for name, estimate in found.numbers.items()},
                **proved,
            },
        },
        "eval_result_details": [
            {"index": index, "feature_density": float(share)} for index, share in enumerate(density)
        ],
    }


def _json(number: float) -> float | None:
    return number if np.isfinite(number) else None
