"""k-sparse codes against brute force, plain matching pursuit, and the formulas of their search in plain numpy."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvxsae import encode
from cvxsae.parallel.context import Run
from cvxsae.relaxations.convex import coherence
from cvxsae.relaxations.convex.coherence import Coherence
from cvxsae.solvers import k_sparse_codes
from cvxsae.solvers.codes import k_sparse, swaps
from cvxsae.solvers.codes.swaps import Atoms, Supports, pair_gains, pursue
from tests.helpers.problems import unit
from tests.helpers.sentences import rejects

RNG = np.random.default_rng(0)
N, K, D = 40, 8, 5
ATOMS, X, BIAS = unit(RNG.normal(size=(K, D))), RNG.normal(size=(N, D)), RNG.normal(size=D) / 4


def nnls(members: np.ndarray, x: np.ndarray) -> float:
    """½ of the squared error of nonnegative least squares."""
    if not len(members):
        return float(x @ x) / 2
    found: Any = scipy.optimize.nnls(members.T, x)
    return float(found[1] ** 2 / 2)


def best(x: np.ndarray, atoms: np.ndarray, k: int) -> float:
    return min(nnls(atoms[list(some)], x) for some in combinations(range(len(atoms)), k))


def plain_pursuit(x: np.ndarray, atoms: np.ndarray, k: int) -> float:
    """Nonnegative orthogonal matching pursuit as it is written: k times the best atom, then least squares."""
    support: list[int] = []
    residual = x
    for _ in range(k):
        scores = atoms @ residual
        scores[support] = -np.inf
        if scores.max() <= 1e-12:
            break
        support.append(int(scores.argmax()))
        found: Any = scipy.optimize.nnls(atoms[support].T, x)
        support = [atom for atom, code in zip(support, found[0], strict=True) if code > 0]
        residual = x - found[0][found[0] > 0] @ atoms[support]
    return float(residual @ residual) / 2


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_codes_are_attained_and_near_the_best_of_all_supports(k: int):
    found = k_sparse_codes(X, ATOMS, k, bias=BIAS)
    codes = found.codes.toarray()
    assert (codes >= 0).all() and ((codes > 0).sum(axis=1) <= k).all()
    np.testing.assert_allclose(found.values, np.sum((X - BIAS - codes @ ATOMS) ** 2, axis=1) / 2, rtol=1e-12)
    truth = np.array([best(x, ATOMS, k) for x in X - BIAS])
    assert (found.values >= truth - 1e-12).all()
    assert (found.lower_bounds <= truth + 1e-12).all()
    assert (np.abs(found.values - truth) < 1e-9).mean() >= 0.85  # most are the best there is
    assert found.done.all()
    for row in np.flatnonzero(found.swap_optimal):  # no swap helps: by brute force
        support = set(np.flatnonzero(codes[row]))
        for out in support:
            for new in set(range(K)) - support:
                swapped = sorted(support - {out} | {new})
                assert nnls(ATOMS[swapped], X[row] - BIAS) >= found.values[row] - 1e-9


def test_one_atom_is_solved_exactly_and_certified():
    found = k_sparse_codes(X, ATOMS, 1)
    np.testing.assert_allclose(found.lower_bounds, found.values, rtol=1e-9)
    assert found.gap < 1e-9


def test_orthogonal_atoms_are_solved_exactly_for_every_k():
    basis = np.linalg.qr(RNG.normal(size=(D, D)))[0]
    for k in (2, 3):
        found = k_sparse_codes(X, basis, k)
        assert found.gap < 1e-9
        kept = np.sort(np.maximum(X @ basis.T, 0), axis=1)[:, -k:]
        np.testing.assert_allclose(found.values, (np.sum(X**2, axis=1) - np.sum(kept**2, axis=1)) / 2, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 4))
def test_never_worse_than_plain_pursuit_nor_than_the_support_given(seed: int, k: int):
    rng = np.random.default_rng(seed)
    atoms, data = unit(rng.normal(size=(7, 4))), rng.normal(size=(5, 4))
    supports = np.argsort(rng.normal(size=(5, 7)), axis=1)[:, :k]
    given_codes = np.zeros((5, 7))
    np.put_along_axis(given_codes, supports, rng.uniform(0.5, 1, (5, k)), axis=1)
    found = k_sparse_codes(data, atoms, k, start=sp.csr_array(given_codes))
    for x, support, value in zip(data, supports, found.values, strict=True):
        assert value <= plain_pursuit(x, atoms, k) + 1e-12
        assert value <= nnls(atoms[support], x) + 1e-12


def test_a_start_that_is_better_than_pursuit_is_kept():
    """Two atoms beside a decoy between them: pursuit takes the decoy first, and swaps alone may not undo it."""
    atoms = unit(np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0.1, 0], [0, 0, 0, 1]]))
    data = np.array([[1.0, 1.0, 0, 0]])
    start = sp.csr_array(np.array([[1.0, 1.0, 0, 0]]))
    np.testing.assert_allclose(k_sparse_codes(data, atoms, 2, start=start).values, 0, atol=1e-20)
    assert plain_pursuit(data[0], atoms, 2) > 1e-4
    np.testing.assert_allclose(k_sparse_codes(data, atoms, 2).values, 0, atol=1e-20)  # swaps do


def test_every_datapoint_may_have_its_own_k():
    each = np.arange(N) % 4
    found = k_sparse_codes(X, ATOMS, each)
    assert ((np.diff(found.codes.indptr)) <= each).all()
    assert found.done.all() and found.swap_optimal[each == 0].all()
    for k in range(4):
        rows = each == k
        alone = k_sparse_codes(X[rows], ATOMS, k) if k else None
        expected = np.sum(X[rows] ** 2, axis=1) / 2 if alone is None else alone.values
        np.testing.assert_allclose(found.values[rows], expected, rtol=1e-12)
    np.testing.assert_allclose(found.lower_bounds[each == 0], found.values[each == 0], rtol=1e-9)


def test_more_atoms_than_needed_end_at_nonnegative_least_squares():
    found = k_sparse_codes(X, ATOMS, K)
    assert found.is_unconstrained.all() and found.swap_optimal.all()
    np.testing.assert_allclose(found.values, [nnls(ATOMS, x) for x in X], atol=1e-12)


def test_gains_of_swaps_are_those_of_least_squares():
    """The formula for all pairs against least squares on every swapped support."""
    at, k = Atoms.of(torch.from_numpy(ATOMS), torch.device("cpu")), torch.full((N,), 3)
    supports = pursue(Supports.empty(torch.from_numpy(X), k), at, Run())
    gains, regular = pair_gains(supports, at)
    assert regular.all()
    for row in range(N):
        places, held = supports.index[row].tolist(), supports.held[row].tolist()
        support = [atom for atom, is_held in zip(places, held, strict=True) if is_held]
        for place, atom in enumerate(places):
            for new in range(K):
                if not held[place] or not torch.isfinite(gains[row, place, new]):
                    continue
                swapped = [a for a in support if a != atom] + [new]
                z: Any = np.linalg.lstsq(ATOMS[swapped].T, X[row], rcond=None)[0]
                error = np.sum((X[row] - z @ ATOMS[swapped]) ** 2) / 2
                expected = float(supports.errors(at)[row]) - error
                np.testing.assert_allclose(float(gains[row, place, new]), expected, atol=1e-10)


def test_lower_bounds_need_a_dictionary_that_is_not_coherent():
    """Negative control: with λ_k as if atoms were orthogonal, the bound would be above what is attained."""
    found = k_sparse_codes(X, ATOMS, 3)
    orthogonal = Coherence(np.ones(4)).bounds(torch.from_numpy(X), torch.from_numpy(ATOMS), np.full(N, 3))
    assert (orthogonal > found.values + 1e-6).any()
    least = Coherence.of(torch.from_numpy(ATOMS), 3).least
    negative = np.maximum(-ATOMS @ ATOMS.T, 0)
    expected = [1 - max(np.sort(row)[::-1][: k - 1].sum() for row in negative) for k in (1, 2, 3)]
    np.testing.assert_allclose(least[1:], expected)


def test_duplicates_zero_rows_and_exact_reconstructions_are_legal():
    atoms = np.vstack([ATOMS, ATOMS[:2]])
    data = np.vstack([np.zeros(D), 2 * ATOMS[0], ATOMS[0] + ATOMS[1], -ATOMS[0]])
    found = k_sparse_codes(data, atoms, 2)
    np.testing.assert_allclose(found.values[:3], 0, atol=1e-20)
    assert found.done.all()
    assert found.codes[[0]].nnz == 0


def test_blocks_and_kept_gram_matrices_change_nothing(monkeypatch: pytest.MonkeyPatch):
    whole = k_sparse_codes(X, ATOMS, 3)
    for module, name in ((k_sparse, "BLOCK_ENTRIES"), (swaps, "PAIR_ENTRIES"), (coherence, "COHERENCE_ENTRIES")):
        monkeypatch.setattr(module, name, 7 * K)
    monkeypatch.setattr(swaps, "GRAM_ENTRIES", 0)
    parts = k_sparse_codes(X, ATOMS, 3)
    np.testing.assert_allclose(parts.values, whole.values, rtol=1e-9)
    np.testing.assert_allclose(parts.lower_bounds, whole.lower_bounds)


def test_out_of_time_values_are_true_and_datapoints_not_done():
    start = encode(X, ATOMS, 0.2)
    found = k_sparse_codes(X, ATOMS, 3, start=start, max_seconds=1e-9)
    assert not found.done.any() and not found.swap_optimal.any()
    np.testing.assert_allclose(found.values, np.sum((X - found.codes @ ATOMS) ** 2, axis=1) / 2)
    assert found.l0 > 0 and "KSparseCodes(40 x 8" in repr(found)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"k": 0}, "k is 0; it must be a whole number of at least 1"),
        ({"k": [1, 2]}, "k has 2 numbers but there are 40 datapoints"),
        ({"bias": "free"}, "bias is 'free' but here it must be fixed"),
        ({"start": 3}, "start is a int; pass Codes or a scipy sparse array"),
        ({"seed": 1}, "'seed' is not an option here"),
    ],
)
def test_bad_arguments_are_one_sentence(options: dict[str, Any], message: str):
    with rejects(message):
        k_sparse_codes(X, ATOMS, **{"k": 2, **options})
