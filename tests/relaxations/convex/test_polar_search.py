"""Branch and bound over the sphere: the polar exactly, against a fine grid, and certificates without a relaxation."""

import pytest
import torch

from cvxsae import InputError, LargeDictionary, certify, solve
from cvxsae.relaxations import AtomPenalty
from cvxsae.relaxations.convex.polar_search import sphere_polar
from tests.helpers import problems


def searched(penalty, Y, **options):
    return sphere_polar(penalty.polar, Y, penalty.best_direction(Y, starts=1), **options)


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 0.5, 8.0])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_interval_holds_the_polar_of_a_fine_grid(d, tau, rng):
    Y, penalty = torch.from_numpy(rng.normal(size=(25, d))), AtomPenalty(tau)
    result = searched(penalty, Y)
    grid = torch.from_numpy(problems.unit(rng.normal(size=(20_000, d))))
    highest = float(penalty.polar(Y @ grid.T).max())
    assert highest <= result.upper
    assert result.upper <= result.lower * (1 + 2e-6)
    assert result.lower <= max(highest * 1.01, result.lower * (d > 1))
    attained = penalty.polar((Y @ result.direction)[:, None])
    assert float(attained[0]) == pytest.approx(result.lower)


def test_a_bad_start_does_not_narrow_the_interval(rng):
    Y, penalty = torch.from_numpy(rng.normal(size=(30, 3))), AtomPenalty(2.0)
    good, bad = searched(penalty, Y), sphere_polar(penalty.polar, Y, (0.0, torch.zeros(3, dtype=Y.dtype)))
    assert bad.lower == pytest.approx(good.lower, rel=1e-5)
    stopped = sphere_polar(penalty.polar, Y, (0.0, torch.zeros(3, dtype=Y.dtype)), max_cells=8)
    assert stopped.lower <= good.lower <= stopped.upper
    assert stopped.upper > good.upper


def test_four_dimensions_are_too_many():
    with pytest.raises(InputError, match="at most 3"):
        searched(AtomPenalty(1.0), torch.eye(4, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.parametrize("bias", [None, "free"])
@pytest.mark.parametrize("d", [2, 3])
def test_few_dimensions_are_certified_without_a_relaxation(d, bias, rng):
    problem = LargeDictionary(problems.gaussian(rng, 80, d), 0.3, 10.0, bias=bias)
    solution = solve(problem, tol=1e-4)
    certificate = certify(problem, solution)
    assert certificate.is_certified
    assert solution.proof is None
    assert solution.solver == "directions"


@pytest.mark.slow
def test_the_exact_bound_is_at_least_the_relaxation_s(rng):
    problem = LargeDictionary(problems.gaussian(rng, 14, 3), 0.3, 10.0, bias=None)
    relaxed = solve(problem, solver="reference", raise_on_failure=False).relaxed_value
    solution = solve(problem, tol=1e-5, max_seconds=10, raise_on_failure=False)
    assert solution.value >= relaxed * (1 - 1e-7)  # type: ignore[operator]
    assert solution.lower_bound >= relaxed * (1 - 1e-4)  # type: ignore[operator]
