"""Moves: what they cost and gain is exact, they pay, and they repair what descent cannot."""

import numpy as np
import pytest
import scipy.sparse as sp

from cvxsae import encode
from cvxsae.solvers.dictionary.move_table import MoveTable, NewAtom, Split
from cvxsae.solvers.dictionary.moves import replace_atoms
from cvxsae.solvers.dictionary.sample import ResidualSample, sample_rows
from cvxsae.solvers.dictionary.spheres import unit

LAM = 0.1


def start(*, seed: int = 0, n: int = 300, d: int = 8, k: int = 12):
    rng = np.random.default_rng(seed)
    truth = unit(rng.standard_normal((k, d)))
    X = np.clip(rng.standard_normal((n, k)) - 0.8, 0, None) @ truth
    return X, unit(rng.standard_normal((k, d)))


def value(X, Z, D):
    return (0.5 * ((X - Z @ D) ** 2).sum() + LAM * Z.sum()) / len(X)


def coded(X, D):
    codes = encode(X, D, LAM, tol=1e-9).codes
    return codes, (X - codes @ D).astype(np.float32)


def test_price_and_removal_are_exact():
    X, D = start()
    Z, R = coded(X, D)
    table = MoveTable(ResidualSample(R), Z, D, LAM)
    before = value(X, Z, D)
    price = table.removal_cost(3)
    table.remove(3)
    after = value(X, table.collect(), D)
    assert after - before == pytest.approx(price, rel=1e-4)
    assert price == pytest.approx(0.5 * (Z[:, [3]].toarray() ** 2).sum() / len(X), rel=1e-4)  # exact codes: ½ Σ z²/N
    assert table.removal_cost(3) == 0


@pytest.mark.parametrize("kind", ["atom", "split"])
def test_gains_are_exact(kind):
    X, D = start()
    Z, R = coded(X, D)
    dead = np.concatenate([D, unit(np.ones((1, 8)))])
    Z = sp.csr_array(sp.hstack([Z, sp.csr_array((len(X), 1))], format="csr"))
    table = MoveTable(ResidualSample(R), Z, dead, LAM)
    direction = R[np.linalg.norm(R, axis=1).argmax()]
    move = NewAtom(direction) if kind == "atom" else Split(2, direction, 6)
    gain, pieces = move.gain(table)
    assert gain > 0
    before = value(X, Z, dead)
    if kind == "split":
        table.remove(2)
    for atom, (way, rows, z) in zip([12] if kind == "atom" else [12, 2], pieces, strict=True):
        table.place(atom, way, rows, z)
    assert before - value(X, table.collect(), table.dictionary) == pytest.approx(gain, rel=1e-3)
    np.testing.assert_allclose(np.linalg.norm(table.dictionary, axis=1), 1, atol=1e-12)


def test_replacement_lowers_the_objective_by_what_it_says():
    X, D = start(seed=1)
    D[5] = D[4]  # a duplicate: it gains nothing that its twin could not
    Z, R = coded(X, D)
    given = Z.copy(), D.copy()
    found = replace_atoms(ResidualSample(R), Z, D, LAM, at_most=4, seed=0)
    assert found is not None
    fall = value(X, Z, D) - value(X, found.codes, found.dictionary)
    assert fall > 0
    assert fall == pytest.approx(found.gain, rel=0.3)  # moves overlap
    assert encode(X, found.dictionary, LAM).value < encode(X, D, LAM).value
    assert (given[0] != Z).nnz == 0  # nothing passed in is modified
    np.testing.assert_array_equal(given[1], D)


def test_dead_atoms_are_used_first_and_filled():
    X, D = start(seed=2)
    X = np.abs(X)
    D = np.concatenate([D, -unit(np.ones((2, 8)))])  # no datapoint has use for these
    Z, R = coded(X, D)
    dead = np.flatnonzero(np.asarray((Z > 0).sum(axis=0)).ravel() == 0)
    assert len(dead)
    found = replace_atoms(ResidualSample(R), Z, D, LAM, at_most=len(dead), seed=0)
    assert found is not None
    assert set(found.replaced) == set(dead.tolist())
    assert (np.asarray((encode(X, found.dictionary, LAM).codes > 0).sum(axis=0)).ravel()[dead] > 0).all()


def test_no_move_where_none_pays():
    """One direction, one atom on it: nothing gains more than it costs."""
    X = np.outer(np.linspace(1, 2, 20), [0.6, 0.8])
    D = np.array([[0.6, 0.8]])
    Z, R = coded(X, D)
    assert replace_atoms(ResidualSample(R), Z, D, LAM, at_most=1, seed=0) is None


def test_on_a_sample_other_datapoints_only_lose_the_atom():
    X, D = start(seed=3, n=400)
    D[5] = D[4]
    Z, R = coded(X, D)
    rows = np.arange(0, 400, 2)
    found = replace_atoms(ResidualSample(R[rows], rows), Z, D, LAM, at_most=3, seed=0)
    assert found is not None
    others = np.arange(1, 400, 2)
    moved = list(found.replaced)
    assert found.codes[others][:, moved].nnz == 0
    assert (np.abs(found.dictionary - D).max(axis=1) > 0).sum() >= len(moved)


def test_sample_rows_cover_small_data_and_bound_large():
    np.testing.assert_array_equal(sample_rows(5, 3), np.arange(5))
    rows = sample_rows(10**6, 1024)
    assert len(rows) == 2**16
    assert rows[0] == 0
    assert rows[-1] == 10**6 - 1
