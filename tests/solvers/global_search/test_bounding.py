"""Bounds over boxes are bounds, for every penalty; boxes that lie somewhere else are noticed."""

import numpy as np
import pytest

from cvxsae.penalties import L0, L1, ElasticNet, Log, Matryoshka, Orthogonality, Signed, SquaredSum, TopOne, Tree
from cvxsae.solvers.global_search.bounding import bounds_over
from cvxsae.solvers.global_search.boxes import Boxes, Landscape
from cvxsae.solvers.global_search.penalties import cost_of

LAM = 0.25
TREE = Tree.of_parents([-1, 0])

CASES = [
    (L1(), 2, 2, True),
    (L1(), 3, 2, False),
    (L1(), 2, 3, True),
    (Signed(), 2, 2, False),
    (L0(), 2, 2, False),
    (TopOne(), 2, 2, False),
    (SquaredSum(), 2, 2, False),
    (ElasticNet(0.8), 2, 2, True),
    (Orthogonality(0.3), 3, 2, False),
    (Orthogonality(0.3), 1, 2, False),
    (Matryoshka(0.5), 2, 2, False),
    (Log(0.05), 2, 2, False),
    (Tree.of_parents([-1, 0]), 2, 2, False),
]
IDS = [f"{type(one).__name__}-{K}-{d}-{'free' if free else 'fixed'}" for one, K, d, free in CASES]


def _landscape(penalty, K, d, free, rng):
    X = rng.normal(size=(5, d))
    weights = rng.random(5)
    return Landscape(X, weights / weights.sum(), cost_of(penalty, K, LAM), None if free else 0.2 * rng.normal(size=d))


def _some_boxes(on, rng, count=60):
    whole = on.everything(0.5)
    whole = whole[rng.integers(len(whole), size=count)]
    size = (whole.hi - whole.lo) * rng.choice([1e-4, 1e-2, 0.1, 0.5], size=(count, 1))
    lo = whole.lo + rng.random(whole.lo.shape) * (whole.hi - whole.lo - size)
    return Boxes(lo, lo + size, whole.faces)


def _worst(on, boxes, lower, rng, points=12):
    """How far F lies above the bound, at the least, over random points of every box."""
    least = np.inf
    for row in range(len(boxes)):
        for _ in range(points):
            at = boxes.lo[row] + rng.random(boxes.lo.shape[1]) * (boxes.hi[row] - boxes.lo[row])
            least = min(least, on.value(*on.atoms_and_bias(at, boxes.faces[row])) - lower[row])
    return least


@pytest.mark.parametrize(("penalty", "K", "d", "free"), CASES, ids=IDS)
def test_no_dictionary_in_a_box_is_below_its_bound(penalty, K, d, free):
    rng = np.random.default_rng(K + d)
    on = _landscape(penalty, K, d, free, rng)
    boxes = _some_boxes(on, rng)
    found = bounds_over(on, boxes)
    points = 3 if isinstance(penalty, Log | Tree) else 12  # their codes take longer
    assert _worst(on, boxes, found.lower, rng, points) >= -1e-12
    assert np.isfinite(found.lower).mean() > 0.5 and np.isfinite(found.slopes).all()


@pytest.mark.parametrize("penalty", [L1(), ElasticNet(0.8), Matryoshka(0.5), TREE], ids=lambda one: one.name)
def test_bounds_of_small_boxes_are_tight(penalty):
    """To second order in the width, where F is smooth: that is what lets a search end."""
    rng = np.random.default_rng(7)
    on = _landscape(penalty, 2, 2, False, rng)
    center = rng.random((40, 2)) * 2 * np.pi
    loose = []
    for half in (3e-2, 3e-3):
        boxes = Boxes(center - half, center + half, np.zeros((40, 0), dtype=np.int64))
        lower = bounds_over(on, boxes).lower
        steps = half * np.array([(1, 1), (1, -1), (-1, 1), (-1, -1), (0, 0)])
        corners = [[on.value(*on.atoms_and_bias(one + s, boxes.faces[0])) for s in steps] for one in center]
        loose.append(np.quantile(np.min(corners, axis=1) - lower, 0.9))
    assert 0 < loose[1] <= loose[0] / 30


@pytest.mark.parametrize("moved", [(0.3, 0.0), (0.0, -0.3)])
def test_a_box_with_an_end_moved_inwards_is_caught(moved):
    """The negative control: bounds of narrower boxes, claimed for the whole ones."""
    rng = np.random.default_rng(3)
    on = _landscape(L1(), 2, 2, False, rng)
    lo = rng.random((80, 2)) * 5
    whole = Boxes(lo, lo + 0.4, np.zeros((80, 0), dtype=np.int64))
    narrower = Boxes(lo + moved[0], lo + 0.4 + moved[1], whole.faces)
    assert _worst(on, whole, bounds_over(on, whole).lower, rng) >= -1e-12
    assert _worst(on, whole, bounds_over(on, narrower).lower, rng) < -1e-4


def test_a_convex_box_is_convex():
    rng = np.random.default_rng(5)
    on = _landscape(L1(), 2, 2, False, rng)
    boxes = _some_boxes(on, rng, 400)
    convex = np.flatnonzero(bounds_over(on, boxes).is_convex)
    assert len(convex)
    for row in convex[:20]:
        for _ in range(20):
            a, b = (boxes.lo[row] + rng.random(2) * (boxes.hi[row] - boxes.lo[row]) for _ in range(2))
            ends = [on.value(*on.atoms_and_bias(at, boxes.faces[row])) for at in (a, b, (a + b) / 2)]
            assert ends[2] <= (ends[0] + ends[1]) / 2 + 1e-13
