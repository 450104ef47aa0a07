"""One upper side of ``benchmarks/population_dictionary.py``, by whatever version of the package is on the path.

    PYTHONPATH=CHECKOUT python benchmarks/population_upper.py DATA PRICE CPU_SECONDS FILE

The populations are here too, so that this file needs nothing of the benchmarks of another checkout.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch

from cvxsae.data.embedded import embedded
from cvxsae.population import PopulationDictionary, solve_population

N_ROWS, SAMPLE_ROWS, LAM = 20_000, 2000, 0.08


def clustered_rows() -> np.ndarray:
    """20,000 rows around 60 directions of unequal frequency in 32 dimensions, unit mean-square norm."""
    rng = np.random.default_rng(0)
    C = rng.normal(size=(60, 32))
    C /= np.linalg.norm(C, axis=1, keepdims=True)
    often = 1.0 / np.arange(1, 61)
    X = C[rng.choice(60, N_ROWS, p=often / often.sum())] * rng.uniform(0.5, 1.5, size=(N_ROWS, 1))
    return unit_mean_square(X + 0.05 * rng.normal(size=X.shape))


def wordllama_rows() -> np.ndarray:
    """20,000 of the 32,000 token embeddings, centered, unit mean-square norm."""
    X = np.asarray(embedded("wordllama"), dtype=np.float64)
    return unit_mean_square(X[np.sort(np.random.default_rng(0).choice(len(X), N_ROWS, replace=False))])


def unit_mean_square(X: np.ndarray) -> np.ndarray:
    """Centered and scaled."""
    X = X - X.mean(axis=0)
    scaled: np.ndarray = X / np.sqrt((X**2).sum(axis=1).mean())
    return scaled


MADE = {"clustered": clustered_rows, "wordllama": wordllama_rows}


def upper_cell(name: str, price: float, seconds: float, file: str) -> dict[str, Any]:
    """In a process of its own, of this version or another: the search until so many CPU seconds have passed."""
    torch.set_num_threads(1)
    X, problem = MADE[name](), PopulationDictionary(LAM, price)
    solve_population(X[:500], problem, max_steps=12, sample_rows=SAMPLE_ROWS)  # compiles
    started = time.process_time()

    def stop(_: Any) -> None:
        if time.process_time() - started > seconds:
            raise KeyboardInterrupt

    fit = solve_population(X, problem, sample_rows=SAMPLE_ROWS, tol=3e-4, callback=stop)
    fit.save(file)
    told = fit.to_dict()
    kept = {key: told[key] for key in ("value", "n_atoms", "l0", "status", "passes", "new_atom_ratio")}
    return {**kept, "cpu_seconds": time.process_time() - started}


if __name__ == "__main__":
    print(json.dumps(upper_cell(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4])))
