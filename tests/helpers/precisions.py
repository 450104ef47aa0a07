"""Precisions of screening products that tests can ask for: int8 saturates on processors without 32-bit sums."""

import pytest

from cvxsae.solvers.codes.engines.calibration import is_usable

NEEDS_INT8 = pytest.mark.skipif(not is_usable("int8", 64, "cpu"), reason="int8 products saturate on this processor")
INT8 = pytest.param("int8", marks=NEEDS_INT8)
