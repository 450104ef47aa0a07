"""Which atom is which: against brute force, and what became of atoms whose fate is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cvxsae.diagnostics.matching import assignment
from cvxsae.diagnostics.matching.assignment import assigned, baseline, is_made_up, kinds_of


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("sizes", [(5, 5), (4, 6), (6, 4), (1, 3)])
def test_the_matching_is_the_best_of_all(rng, sizes, monkeypatch):
    A, B = (unit(rng.normal(size=(size, 3))) for size in sizes)
    cosines = A @ B.T
    if len(A) <= len(B):
        ways = itertools.permutations(range(len(B)), len(A))
        best = max(cosines[np.arange(len(A)), list(way)].mean() for way in ways)
    else:
        ways = itertools.permutations(range(len(A)), len(B))
        best = max(cosines[list(way), np.arange(len(B))].mean() for way in ways)
    for entries in (2**22, 1):  # all cosines at once, and row by row
        monkeypatch.setattr(assignment, "BLOCK_ENTRIES", entries)
        found = assigned(A, B)
        assert found.mean_cosine == pytest.approx(best, rel=1e-12)
        np.testing.assert_array_equal(found.nearest_a, cosines.argmax(axis=1))
        np.testing.assert_array_equal(found.nearest_b, cosines.argmax(axis=0))
        np.testing.assert_allclose(found.nearest_cosine_a, cosines.max(axis=1))
        np.testing.assert_allclose(found.nearest_cosine_b, cosines.max(axis=0))
        assert found.mean_nearest == pytest.approx((cosines.max(axis=1).mean(), cosines.max(axis=0).mean()))
        matched = np.flatnonzero(found.partner_a >= 0)
        assert len(matched) == min(sizes)
        np.testing.assert_array_equal(found.partner_b[found.partner_a[matched]], matched)
        np.testing.assert_allclose(found.cosine_a[matched], cosines[matched, found.partner_a[matched]])
        assert np.isnan(found.cosine_a[found.partner_a < 0]).all()
        assert found.swapped().mean_cosine == pytest.approx(best, rel=1e-12)


def test_a_greedy_matching_would_not_do():
    """Nearest first takes cosine 0.9 and is left with −0.9: the best matching has 0 twice."""
    A, B = unit(np.array([[1.0, 0.0], [0.0, 1.0]])), unit(np.array([[0.9, -0.4], [0.9, 0.5]]))
    found = assigned(A, B)
    assert found.partner_a.tolist() == [0, 1]
    assert found.nearest_a[0] == 1 or found.nearest_cosine_a[0] >= found.cosine_a[0]
    flipped = assigned(A, B[::-1].copy())
    assert flipped.partner_a.tolist() == [1, 0]


E3 = np.eye(8)


def test_every_kind():
    tilt = 0.5
    children = unit(np.stack([E3[0] + tilt * E3[1], E3[0] - tilt * E3[1]]))
    A = np.stack([E3[0], E3[2], E3[3], *unit(np.stack([E3[4] + tilt * E3[5], E3[4] - tilt * E3[5]]))])
    B = np.stack([E3[6], *children, E3[2], E3[4]])
    found = assigned(A, B)
    kinds, parts = kinds_of(found, A, B, 0.7)
    assert kinds.tolist() == ["split", "shared", "new", "merged", "merged"]
    assert parts == {0: (1, 2)}
    kinds, parts = kinds_of(found.swapped(), B, A, 0.7)
    assert kinds.tolist() == ["new", "merged", "merged", "shared", "split"]
    assert parts == {4: (3, 4)}


def test_a_stray_neighbor_is_no_split():
    """A good match with a second, similar atom that adds nothing to it; the second is taken: merged."""
    A = np.stack([E3[0]])
    B = unit(np.stack([E3[0] + 0.3 * E3[1], E3[0] + 0.8 * E3[2]]))
    found = assigned(A, B)
    assert kinds_of(found, A, B, 0.7)[0].tolist() == ["shared"]
    assert kinds_of(found.swapped(), B, A, 0.7)[0].tolist() == ["shared", "merged"]
    assert not is_made_up(A[0], B)
    assert is_made_up(A[0], unit(np.stack([E3[0] + E3[1], E3[0] - 0.9 * E3[1]])))


def test_a_duplicate_is_shared_whatever_else_is_near():
    A = np.stack([E3[0]])
    B = unit(np.stack([E3[0] + 0.1 * E3[1], E3[0] - 0.9 * E3[1]]))
    found = assigned(A, B)
    assert is_made_up(A[0], B)
    assert kinds_of(found, A, B, 0.7)[0].tolist() == ["shared"]


def test_antipodes_are_not_alike():
    A = np.stack([E3[0], E3[1]])
    found = assigned(A, -A)
    assert kinds_of(found, A, -A, 0.7)[0].tolist() == ["new", "new"]


def test_kinds_are_exhaustive_and_shared_atoms_have_a_partner(rng):
    for _ in range(200):
        d, sizes = rng.integers(2, 5), rng.integers(1, 9, size=2)
        A, B = (unit(rng.normal(size=(size, d))) for size in sizes)
        found = assigned(A, B)
        kinds, parts = kinds_of(found, A, B, 0.7)
        assert set(kinds) <= {"shared", "split", "merged", "new"}
        assert (found.cosine_a[kinds == "shared"] >= 0.7).all()
        assert (found.nearest_cosine_a[kinds != "new"] >= 0.7).all()
        assert (found.nearest_cosine_a[kinds == "new"] < 0.7).all()
        assert set(parts) == set(np.flatnonzero(kinds == "split"))
        assert all(len(family) > 1 for family in parts.values())


def test_random_dictionaries_sit_at_the_baseline_and_copies_do_not(rng):
    A, B = (unit(rng.normal(size=(60, 16))) for _ in range(2))
    drawn = baseline("isotropic", (A, B), 20, 0.7, np.random.default_rng(1))
    assert drawn.draws == 20
    assert abs(assigned(A, B).mean_cosine - drawn.mean_cosine) < 5 * drawn.spread
    assert assigned(A, A[rng.permutation(60)]).mean_cosine > drawn.mean_cosine + 20 * drawn.spread
    again = baseline("isotropic", (A, B), 20, 0.7, np.random.default_rng(1))
    assert again == drawn
    assert baseline("isotropic", (A, B), 1, 0.7, np.random.default_rng(1)).spread == 0


@pytest.mark.parametrize("size", [12, 40])
def test_what_lies_in_a_cone_is_alike_without_being_the_same(rng, size):
    """Two unrelated dictionaries around one direction beat random ones by far, and not those of their covariance."""
    A, B = (unit(rng.normal(size=(size, 16)) + 4 * np.eye(16)[0]) for _ in range(2))
    found = assigned(A, B).mean_cosine
    isotropic, alike = (baseline(kind, (A, B), 20, 0.7, np.random.default_rng(2)) for kind in ("isotropic", "alike"))
    assert found > isotropic.mean_cosine + 5 * isotropic.spread
    assert abs(found - alike.mean_cosine) < 0.07
