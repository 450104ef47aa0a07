"""The methods of a study, one cell at a time."""

from __future__ import annotations

import pytest

from cvxsae.data import sparse_features
from cvxsae.data.activations import Activations
from cvxsae.study.method import CellInput
from cvxsae.study.registry import EVERY_METHOD
from tests.helpers.interrupts import interrupt_newton

X = Activations(sparse_features(30, 4, 6, seed=0).X)


@pytest.mark.parametrize("name", ["wide_limit", "large_dictionary", "learned", "trained_sae", "calibrate"])
def test_an_interrupt_passes_through(name, monkeypatch):
    """There is no cell to keep; nothing on the way may take half an answer for a whole one."""
    cell = CellInput(name, X, 0.1, "free", n_atoms=3, atom_cost=0.0, target_l0=1.0)
    method = EVERY_METHOD[name]
    interrupt_newton(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        method.run(cell)
