"""Sparse products and active Gram matrices against their dense definitions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cvxsae.relaxations.joint import active_gram as active_sets
from cvxsae.relaxations.joint.active_gram import ActiveSolver, CodePattern
from tests.helpers import problems


@pytest.fixture
def coded(rng):
    Z = sp.csr_array(rng.uniform(0.1, 1, (50, 12)) * (rng.random((50, 12)) < rng.uniform(0, 0.6, (50, 1))))
    return Z, problems.unit(rng.normal(size=(12, 9)))


def test_products(coded, device, rng, monkeypatch):
    Z, D = coded
    pattern = CodePattern(Z, device)
    values = torch.from_numpy(Z.data).to(device)
    atoms, rows = torch.from_numpy(D).to(device), torch.from_numpy(rng.normal(size=(50, 9))).to(device)
    assert np.allclose(pattern.times(values, atoms).cpu(), Z @ D)
    assert np.allclose(pattern.transposed_times(values, rows).cpu(), Z.T @ rows.cpu().numpy())
    expected = (rows.cpu().numpy() @ D.T)[Z.nonzero()]
    assert np.allclose(pattern.sampled(rows, atoms).cpu(), expected)
    monkeypatch.setitem(active_sets._GATHER_ENTRIES, device.type, 40)
    assert np.allclose(pattern.sampled(rows, atoms).cpu(), expected)


@pytest.mark.parametrize("budget", [20, 2**21])
def test_solves(coded, device, budget, rng, monkeypatch):
    monkeypatch.setitem(active_sets._BLOCK_ENTRIES, device.type, budget)
    Z, D = coded
    pattern = CodePattern(Z, device)
    solver = ActiveSolver(pattern, torch.from_numpy(D).to(device))
    values = rng.normal(size=Z.nnz)
    found = solver.solve(torch.from_numpy(values).to(device)).cpu().numpy()
    for n in range(50):
        part = slice(Z.indptr[n], Z.indptr[n + 1])
        members = D[Z.indices[part]]
        assert np.allclose(members @ members.T @ found[part], values[part]) or len(members) > 9
    assert solver.singular == int((np.diff(Z.indptr) > 9).sum())


def test_singular_sets_are_counted_and_solved_in_the_least_squares_sense(device):
    D = np.array([[1.0, 0], [1, 0], [0, 1]])
    Z = sp.csr_array(np.array([[1.0, 1, 1], [0, 0, 0], [1, 0, 1]]))
    solver = ActiveSolver(CodePattern(Z, device), torch.from_numpy(D).to(device))
    assert solver.singular == 1
    assert solver.is_singular.tolist() == [True, False, False]
    found = solver.solve(torch.tensor([1.0, 1, 3, 2, 5], dtype=torch.float64, device=device))
    assert found.tolist() == pytest.approx([0.5, 0.5, 3, 2, 5])


def test_no_codes_at_all(device):
    pattern = CodePattern(sp.csr_array((4, 3)), device)
    atoms = torch.eye(3, dtype=torch.float64, device=device)
    solver = ActiveSolver(pattern, atoms)
    empty = torch.zeros(0, dtype=torch.float64, device=device)
    assert solver.solve(empty).shape == (0,)
    assert not pattern.times(empty, atoms).any()
    assert pattern.sampled(atoms[:1].expand(4, 3), atoms).shape == (0,)
