"""The examples run as a reader would run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cvxsae import SparseCodes, WideLimit, solve
from cvxsae.data import write_arrays

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("kind", ["wide", "codes"])
def test_the_verifier_in_plain_numpy_agrees_with_the_package(tmp_path, rng, kind):
    X = rng.normal(size=(30, 5))
    problem = WideLimit(X, 0.4) if kind == "wide" else SparseCodes(X, rng.normal(size=(9, 5)), 0.4, bias="free")
    solution = solve(problem, tol=1e-9)
    np.save(tmp_path / "X.npy", X)
    write_arrays(tmp_path / "answer.npz", {**solution.arrays(), "lam": 0.4})
    assert "cvxsae" not in (EXAMPLES / "verify_certificate.py").read_text().split('"""')[2], "it must not import us"
    command = [sys.executable, EXAMPLES / "verify_certificate.py", kind, tmp_path / "X.npy", tmp_path / "answer.npz"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"value {solution.value:.9g}"[:14] in printed
    assert "codes ≥ 0: True, unit-norm atoms: True" in printed
    gap = float(printed.split("relative gap ")[1])
    assert abs(gap) <= 1e-9
    limit, lam = (float(part) for part in printed.split("≤ λ: ")[1].splitlines()[0].split(" ≤ "))
    assert limit <= lam * (1 + 1e-9)
