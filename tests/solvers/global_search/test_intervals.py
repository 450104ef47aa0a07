"""Interval and Taylor arithmetic: they contain what they are to contain."""

import numpy as np
import pytest

from cvxsae.solvers.global_search.intervals import Interval, Jet, cosine, inverse, root, sine


def _boxes(rng, count=2000):
    lo = rng.normal(size=count) * 3
    return lo, lo + rng.random(count) * rng.choice([1e-6, 1e-2, 1.0, 7.0], size=count)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: a * b,
        lambda a, b: a * -2.5 + b,
        lambda a, b: (a.square() if isinstance(a, Interval) else a**2) - 1.0,
        lambda a, b: cosine(a),
        lambda a, b: sine(b),
        lambda a, b: root(a * a + 1.0),
        lambda a, b: inverse(a * a + 0.5),
    ],
)
def test_every_point_is_inside(function):
    rng = np.random.default_rng(0)
    (a, b), (c, d) = _boxes(rng), _boxes(rng)
    whole = function(Interval(a, b), Interval(c, d))
    for t in (0.0, 0.3, 0.77, 1.0):
        for s in (0.0, 0.5, 1.0):
            point = function(a + t * (b - a), c + s * (d - c))
            assert ((whole.lo <= point + 1e-14 * abs(point)) & (point - 1e-14 * abs(point) <= whole.hi)).all()


def test_extrema_are_inside_and_ends_are_tight():
    around_top, around_bottom = Interval(np.array([-0.1]), np.array([0.2])), Interval(np.array([3.0]), np.array([3.3]))
    assert cosine(around_top).hi[0] == 1 and cosine(around_bottom).lo[0] == -1
    assert cosine(around_top).lo[0] == pytest.approx(np.cos(0.2), abs=1e-14)
    assert cosine(Interval(np.array([0.5]), np.array([1.0]))).hi[0] == pytest.approx(np.cos(0.5), abs=1e-14)


def test_what_may_be_zero_has_any_reciprocal():
    assert inverse(Interval(np.array([-1.0]), np.array([1.0]))).lo[0] == -np.inf


def _function(x, y):
    return (x * y).sine() * (y + 2.0) + (x.square() + y.square() + 1.0).inverse_root() - (x - y).cosine() * 0.3


def test_derivatives_are_those_of_differences():
    at, h = (0.4, -0.7), 1e-5

    def value(x, y):
        return _function(Jet.parameter(0, x), Jet.parameter(1, y)).value

    jet = _function(*(Jet.parameter(i, one) for i, one in enumerate(at)))
    for i in range(2):
        step = np.eye(2)[i] * h
        assert jet.gradient[i] == pytest.approx((value(*(at + step)) - value(*(at - step))) / (2 * h), abs=1e-8)
        for j in range(i, 2):
            other = np.eye(2)[j] * h
            corners = [value(*(at + s * step + t * other)) * s * t for s in (1, -1) for t in (1, -1)]
            assert jet.hessian[i, j] == pytest.approx(sum(corners) / (4 * h**2), abs=1e-4)


def test_derivatives_over_a_box_contain_those_of_its_points():
    lo, hi = np.array([0.3, -0.9]), np.array([0.5, -0.6])
    box = _function(*(Jet.parameter(i, Interval(np.array([lo[i]]), np.array([hi[i]]))) for i in range(2)))
    for at in np.random.default_rng(1).uniform(lo, hi, size=(50, 2)):
        point = _function(*(Jet.parameter(i, one) for i, one in enumerate(at)))
        for key, value in point.hessian.items():
            assert box.hessian[key].lo[0] <= value <= box.hessian[key].hi[0]
        for key, value in point.gradient.items():
            assert box.gradient[key].lo[0] <= value <= box.gradient[key].hi[0]
