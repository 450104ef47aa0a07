"""The better dictionary that is memory: an SAE trained on many rows, audited on a few others.

    python -m tests.sae.audits.few_rows

A population with more features than the SAE has atoms: 20,000 rows of it train an SAE, and four rows an atom are left
to audit it. What D and D' are worth to the population is computed on 20,000 others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cvxsae import encode, train_sae
from cvxsae.data import sparse_features

LAM, STATIONARITY = 0.3, 1e-3


@dataclass(frozen=True)
class Size:
    """How large it is."""

    n_points: int = 20_000
    dim: int = 16
    features: int = 256
    n_atoms: int = 64
    few: int = 256
    steps: int = 2000
    probability: float = 0.02


SMALL = Size(n_points=1500, dim=6, features=48, n_atoms=16, few=64, steps=400, probability=0.06)
"""What a test can afford."""


def drawn(size: Size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to train on, the few to audit on, and others that stand for the population."""
    n = 2 * size.n_points + size.few
    X = sparse_features(n, size.dim, size.features, seed=0, probability=size.probability, noise=0.1).X
    return X[: size.n_points], X[size.n_points : -size.n_points], X[-size.n_points :]


def trained(many: np.ndarray, size: Size) -> Any:
    """The SAE."""
    return train_sae(many, size.n_atoms, LAM, steps=size.steps, seed=0)


def worth(rows: np.ndarray, dictionary: Any, bias: Any) -> float:
    """F(D, b) on some rows."""
    return encode(rows, dictionary, LAM, bias=bias, tol=1e-6).value


def main() -> None:
    """Print the old figures, the new ones, and what a report says."""
    import cvxsae

    audit: Any = cvxsae.audit
    size = Size()
    many, few, others = drawn(size)
    sae = trained(many, size)
    old, new = (audit(few, sae, held_out=share, stationarity=STATIONARITY) for share in (None, 0.25))
    for name, found in (("none held out", old), ("a quarter held out", new)):
        ledger = found.ledger
        print(f"\n--- {name}")
        print(found)
        pairs = ((sae.dictionary, sae.b_dec), (ledger.dictionary, ledger.decoder_bias))
        own, other = (worth(others, *pair) for pair in pairs)
        print(f"population: F(D, b) {own:.4f}, F(D', b') {other:.4f}, dictionary gap {own - other:+.4f}")


if __name__ == "__main__":
    main()
