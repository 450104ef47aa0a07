"""A memory map larger than the memory allowed is solved and certified within it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """
import resource, sys
import numpy as np
from cvxsae import WideLimit, certify, solve

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

before = peak()
problem = WideLimit(np.load(sys.argv[1], mmap_mode="r"), 0.5)
solution = solve(problem, tol=1e-9)
certificate = certify(problem, solution)
print(certificate.is_certified, solution.info["passes"], peak() - before)
"""


@pytest.mark.slow
def test_wide_limit_of_a_memory_map_stays_far_below_its_size(tmp_path):
    rows, dim = 2**19, 192
    size = rows * dim * 4 / 2**20
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, (rows, dim))
    X[:: rows // 64] = 1.0  # the rest of the file is a hole: no disk is used, but every page has to be read
    X.flush()
    del X
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "X.npy"], capture_output=True, text=True, check=True
    )
    certified, passes, growth = done.stdout.split()
    assert certified == "True"
    assert int(passes) <= 15
    assert float(growth) < 0.6 * size, f"{growth} MiB for a file of {size:.0f} MiB"
