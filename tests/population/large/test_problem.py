"""The specification of a population problem."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cvxsae.population import PopulationDictionary
from tests.helpers.problems import penalties
from tests.helpers.sentences import rejects


def test_prices_are_as_written(rng):
    Z = np.abs(rng.normal(size=(50, 3)))
    problem = PopulationDictionary(0.5, 0.02)
    found = problem.prices(Z.mean(axis=0), (Z**2).mean(axis=0))
    np.testing.assert_allclose(found, np.sqrt(Z.mean(axis=0) ** 2 + 0.02 * (Z**2).mean(axis=0)))
    np.testing.assert_allclose(found, penalties(Z, problem.atom_cost(50)) / 50)


def test_an_atom_at_its_price_costs_a_root_of_two():
    z = np.zeros(100)
    z[:5] = 1.0
    problem = PopulationDictionary(1.0, 0.05)
    assert problem.prices(z.mean(keepdims=True), (z**2).mean(keepdims=True))[0] / z.mean() == pytest.approx(2**0.5)


def test_on_rows_it_is_the_large_dictionary():
    problem = PopulationDictionary(0.5, 0.02, bias=[1.0, 2.0]).on(np.ones((10, 2)))
    assert problem.atom_cost == pytest.approx(0.2) and problem.lam == 0.5
    assert torch.equal(problem.fixed_bias(), torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert PopulationDictionary(0.5, 0.02).on(np.ones((10, 2))).bias_is_free


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((0.0, 0.1), "lam"),
        ((1.0, -0.1), "atom_price"),
        ((1.0, 0.0), "atom_price is 0.*WideLimit"),
        ((1.0, 0.1, "open"), "bias"),
        ((1.0, 0.1, np.zeros((2, 2))), "bias"),
        ((1.0, 0.1, [np.nan]), "bias"),
    ],
)
def test_what_cannot_be_used(arguments, word):
    with rejects(word):
        PopulationDictionary(*arguments)


def test_the_bias_has_to_fit():
    with rejects("bias"):
        PopulationDictionary(1.0, 0.1, bias=np.zeros(3)).on(np.ones((4, 2)))
