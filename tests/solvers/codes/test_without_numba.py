"""Without numba everything works, on the torch engine or as plain Python; importing the package loads it never."""

import subprocess
import sys

import numpy as np
import pytest

from cvxsae import encode

WORK = """
import numpy as np
import cvxsae
from cvxsae import WideLimit, encode, learn_dictionary, solve
from cvxsae.errors import InputError
rng = np.random.default_rng(0)
X, D = rng.normal(size=(40, 4)), rng.normal(size=(8, 4))
codes = encode(X, D, 0.2, tol=1e-8)
assert codes.engine == "torch", codes.engine
assert codes.is_certified
try:
    encode(X, D, 0.2, engine="fused")
except InputError as error:
    assert "numba" in str(error) and "engine='torch'" in str(error), error
else:
    raise SystemExit("fused was not refused")
assert solve(WideLimit(X, 0.2)).is_certified
assert learn_dictionary(X, 4, 0.2, max_steps=3).value > 0
print(codes.value)
"""

MISSING = "import sys; sys.modules['numba'] = None; sys.modules['llvmlite'] = None\n"
ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "numba":
            raise ImportError("no numba for this processor")
sys.meta_path.insert(0, Absent())
"""


def run(program, environment=()):
    import os

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, **dict(environment)},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("before", [MISSING, ABSENT], ids=["missing", "cannot be imported"])
def test_everything_works_where_numba_does_not(before):
    rng = np.random.default_rng(0)
    X, D = rng.normal(size=(40, 4)), rng.normal(size=(8, 4))
    with_numba = encode(X, D, 0.2, tol=1e-8, engine="fused")
    assert with_numba.engine == "fused"
    assert float(run(before + WORK)) == pytest.approx(with_numba.value, rel=1e-7)


@pytest.mark.slow
def test_everything_works_where_numba_is_switched_off():
    assert float(run(WORK, {"NUMBA_DISABLE_JIT": "1"})) > 0


@pytest.mark.slow
def test_importing_the_package_loads_no_numba():
    run("import sys, cvxsae\nfrom cvxsae import encode\nassert not {'numba', 'llvmlite'} & set(sys.modules)")
