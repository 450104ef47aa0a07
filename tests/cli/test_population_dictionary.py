"""The verb of the large dictionary of a distribution: same numbers as the API, files, bad input in one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from cvxsae.cli.main import app
from cvxsae.population import PopulationDictionary, PopulationDictionaryFit, solve_population

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, ["population-dictionary", *(str(argument) for argument in arguments)])


@pytest.mark.slow
def test_it_gives_what_the_api_gives(tmp_path):
    X = np.eye(4)[np.random.default_rng(0).integers(4, size=40)] + 0.05 * np.random.default_rng(1).normal(size=(40, 4))
    np.save(tmp_path / "X.npy", X)
    options = ("--lam", 0.1, "--atom-price", 0.05, "--batch", 5, "--batches", 2, "--out", tmp_path / "fit.npz")
    result = run(tmp_path / "X.npy", *options, "--max-steps", 3, "--json")
    assert result.exit_code == 1, result.output  # three steps are not enough, and that is said
    problem = PopulationDictionary(0.1, 0.05)
    told, expected = json.loads(result.stdout), solve_population(X, problem, max_steps=3)
    assert told["value"] == pytest.approx(expected.value, rel=1e-9) and told["of"] == "rows"
    assert told["lower"] < told["upper"] == told["value"]
    assert PopulationDictionaryFit.load(tmp_path / "fit.npz", X, problem).value == pytest.approx(expected.value)
    np.save(tmp_path / "seen.npy", X[::-1])
    refused = run(tmp_path / "X.npy", *options[:8], "--held-out", tmp_path / "seen.npy", "--max-steps", 3)
    assert refused.exit_code == 2 and "40 rows of 40 that are learned from" in refused.output
    np.save(tmp_path / "other.npy", X + 0.01)
    aside = run(tmp_path / "X.npy", *options[:8], "--held-out", tmp_path / "other.npy", "--max-steps", 3)
    assert "on the distribution" in aside.stdout and aside.exit_code == 1


def test_bad_input_is_one_sentence(tmp_path):
    np.save(tmp_path / "X.npy", np.ones((5, 2)))
    result = run(tmp_path / "X.npy", "--lam", 0.1, "--atom-price", 0)
    assert result.exit_code == 2 and "atom_price is 0" in result.output
