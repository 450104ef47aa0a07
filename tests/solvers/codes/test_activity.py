"""What is said to be certain about which codes are positive, against all optima, enumerated in exact arithmetic."""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import scipy.sparse as sp

from cvxsae import SparseCodes, encode
from cvxsae.parallel.context import Run
from cvxsae.solvers.codes import activity as module
from cvxsae.solvers.codes.activity import ACTIVE, certain_activity
from cvxsae.solvers.codes.encode import decided_activity
from tests.helpers import problems


def solved(matrix, right):
    """The solution of a square system of fractions; None if it is singular."""
    rows = [[*row, entry] for row, entry in zip(matrix, right, strict=True)]
    for i in range(len(rows)):
        pivot = next((j for j in range(i, len(rows)) if rows[j][i] != 0), None)
        if pivot is None:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [entry / rows[i][i] for entry in rows[i]]
        for j in range(len(rows)):
            if j != i and rows[j][i] != 0:
                rows[j] = [a - rows[j][i] * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [row[-1] for row in rows]


def extreme_optima(x, D, lam):
    """The optimal codes with independent atoms, whose hull is the set of all optima: every support is tried."""
    x, D, lam = [Fraction(v) for v in x], [[Fraction(v) for v in row] for row in D], Fraction(lam)

    def dot(u, v):
        return sum((a * b for a, b in zip(u, v, strict=True)), Fraction(0))

    found = []
    for size in range(len(x) + 1):
        for support in combinations(range(len(D)), size):
            z = solved([[dot(D[j], D[k]) for k in support] for j in support], [dot(D[j], x) - lam for j in support])
            if z is None or any(value < 0 for value in z):
                continue
            r = [x[i] - sum((v * D[k][i] for v, k in zip(z, support, strict=True)), Fraction(0)) for i in range(len(x))]
            if all(dot(atom, r) <= lam for atom in D):
                codes = np.zeros(len(D))
                codes[list(support)] = [float(v) for v in z]
                found.append(codes)
    return np.array(found)


def mistakes(found, problem, truth):
    """Claims that some optimum contradicts, and codes left undecided."""
    marks = found.entries.toarray()
    wrong = undecided = 0
    for n in range(problem.n_points):
        always, never = (truth[n] > 0).all(axis=0), (truth[n] == 0).all(axis=0)
        active = marks[n] == ACTIVE
        inactive = (marks[n] == 0) & ~found.is_open[n]
        wrong += int((active & ~always).sum() + (inactive & ~never).sum())
        undecided += int((~active & ~inactive).sum())
        assert found.active_per_point[n] == active.sum()
        assert found.undecided_per_point[n] == (~active & ~inactive).sum()
    assert found.undecided_per_atom.sum() == undecided
    return wrong, undecided


def enumerated(rng, n=12, d=3, K=6, twin=False):
    """A random problem with all its optima; with ``twin``, two atoms are the same."""
    D = rng.normal(size=(K, d))
    if twin:
        D[1] = D[0]
    problem = SparseCodes(2 * rng.normal(size=(n, d)), D, 0.4)
    X, atoms = problem.X.to_numpy(), problem.atoms.numpy()
    return problem, [extreme_optima(x, atoms, problem.lam) for x in X]


SIZES = (0.0, 1e-9, 1e-6, 1e-3, 1e-1, 1.0)


def inexact(rng, truth, size):
    """Codes that are off by about so much."""
    exact = np.array([optima[0] for optima in truth])
    return sp.csr_array(np.maximum(exact + size * rng.normal(size=exact.shape), 0.0))


def test_no_claim_is_contradicted_by_any_optimum(rng):
    problem, truth = enumerated(rng)
    assert all(len(optima) == 1 for optima in truth)
    l0 = float(np.mean([(optima > 0).sum() for optima in truth]))
    left = []
    for size in SIZES:
        found = certain_activity(problem, inexact(rng, truth, size), Run())
        wrong, undecided = mistakes(found, problem, truth)
        assert wrong == 0
        least, most = found.l0_range
        assert least <= found.l0 <= most
        assert least <= l0 <= most
        left.append(undecided)
    assert left[0] == 0
    assert 0 < left[-2] < left[-1]


def test_of_two_equal_atoms_neither_is_decided(rng):
    problem, truth = enumerated(rng, twin=True)
    assert any(len(optima) > 1 for optima in truth)
    found = decided_activity(problem, inexact(rng, truth, 1e-3), Run())
    wrong, undecided = mistakes(found, problem, truth)
    assert wrong == 0
    twice = sum(len(optima) > 1 for optima in truth)
    assert undecided == 2 * twice
    assert list(found.undecided_per_atom) == [twice, twice, 0, 0, 0, 0]
    assert found.dead_range[1] >= 2


def test_a_radius_that_is_too_small_is_caught(rng, monkeypatch):
    """The control of the tests above: their reference tells a ball that misses the optimum from one that holds it."""
    problem, truth = enumerated(rng)
    honest = module.residual_ball

    def smaller(*arguments):
        ball = honest(*arguments)
        return replace(ball, radius=0.1 * ball.radius)

    monkeypatch.setattr(module, "residual_ball", smaller)
    assert any(mistakes(certain_activity(problem, inexact(rng, truth, t), Run()), problem, truth)[0] for t in SIZES)


def test_an_atom_that_is_just_not_used_stays_undecided():
    """Its correlation is λ and its code zero: in rounding that cannot be told from one that is used."""
    codes = encode([[2.0, 1.0]], np.eye(2), 1.0, tol=1e-12)
    assert codes.activity.entries.toarray().tolist() == [[ACTIVE, module.UNLIKELY]]
    assert codes.activity.to_dict() == {"l0": 1.0, "l0_range": [1.0, 2.0], "dead": 1, "dead_range": [0, 1]}
    assert str(codes.activity) == "L0 1.00 (between 1.00 and 2.00), dead: 0 certain, 1 undecided"
    clear = encode([[2.0, 0.5]], np.eye(2), 1.0).activity
    assert str(clear) == "L0 1.00, dead: 1 certain, 0 undecided"


def test_what_is_certain_does_not_depend_on_tolerance_or_start(rng):
    X, D = problems.gaussian(rng, 150, 10), rng.normal(size=(40, 10))
    D[-3:] = -np.abs(X).max() * np.eye(10)[:3]  # some that hardly anything uses
    starts = [encode(X, D, 0.8, tol=tol) for tol in (0.5, 1e-2, 1e-4, 1e-6, 1e-12)]
    starts.append(encode(X, D, 0.8, tol=1e-4, warm_start=encode(X, D, 0.3)))
    ranges = [codes.activity.l0_range for codes in starts]
    assert max(least for least, _ in ranges) <= min(most for _, most in ranges)
    assert len({codes.l0 for codes in starts}) > 1  # stored codes do depend on both
    decided = [decided_activity(codes.problem, codes.codes, Run()) for codes in starts]
    assert {found.undecided_per_point.sum() for found in decided} == {0}
    assert len({(found.l0, found.dead, found.l0_range, found.dead_range) for found in decided}) == 1
    assert all(np.array_equal(found.entries.toarray(), decided[0].entries.toarray()) for found in decided)


def test_without_time_nothing_is_certain(rng):
    X, D = problems.gaussian(rng, 9, 4), rng.normal(size=(6, 4))
    codes = encode(X, D, 0.3)
    late = Run(deadline=time.perf_counter() - 1)
    for found in (
        certain_activity(codes.problem, codes.codes, late),
        decided_activity(codes.problem, codes.codes, late),
    ):
        assert found.is_open.all()
        assert found.l0 == codes.l0
        assert found.l0_range == (0.0, 6.0)
        assert found.dead_range == (0, 6)
        assert (found.undecided_per_atom == 9).all()


@pytest.mark.parametrize("scale", [1e-90, 1e90])
def test_units_do_not_matter(scale, rng):
    X, D = problems.gaussian(rng, 20, 5), rng.normal(size=(9, 5))
    plain, scaled = encode(X, D, 0.4, tol=1e-9).activity, encode(scale * X, D, scale * 0.4, tol=1e-9).activity
    assert str(plain) == str(scaled)
    hopeless = certain_activity(SparseCodes(1e90 * X, D, 1e-90), sp.csr_array((20, 9)), Run())
    assert hopeless.is_open.all()
