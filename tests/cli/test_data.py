"""What the command takes as datapoints: one file, several, a folder, a pattern, without outliers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from cvxsae import WideLimit, solve
from cvxsae.cli.main import app
from tests.helpers.sentences import is_one_sentence

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(name="X")
def some_data(rng):
    return rng.standard_normal((40, 4))


@pytest.fixture(name="folder")
def some_shards(tmp_path, X):
    for number, part in enumerate(np.split(X, [7, 20])):
        np.save(tmp_path / f"{number}.npy", part)
    return tmp_path


def test_shards_are_one_matrix(folder, X):
    value = solve(WideLimit(X, 0.5, bias=None)).value
    pattern = folder / "*.npy"
    for given in ([folder], [pattern], [folder / "0.npy", folder / "1.npy", folder / "2.npy"]):
        result = run("solve", "wide", *given, "--lam", 0.5, "--bias", "none", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["value"] == value


def test_outliers_are_left_out_and_named(folder, X):
    X[3] *= 1000
    np.save(folder / "0.npy", X[:7])
    result = run("solve", "wide", folder, "--lam", 0.5, "--bias", "none", "--drop-outliers", 10, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["value"] == solve(WideLimit(np.delete(X, 3, axis=0), 0.5, bias=None)).value
    assert report["notes"][0].startswith("1 of 40 rows (0.025) has a norm of at least 10 times the median")
    assert report["notes"][0].endswith("(row 3); left out")
    centered = run("solve", "wide", folder / "1.npy", "--lam", 0.5, "--drop-outliers", 10, "--center", "--rows", 5)
    assert "note: no outliers to leave out: none of 13 rows has a norm of at least 10 times" in centered.stdout


def test_bad_data_are_one_sentence_and_exit_code_2(folder, X):
    np.save(folder / "narrow.npy", X[:, :3])
    (folder / "sub").mkdir()
    bad = {
        f"DATA '{folder / 'narrow.npy'}' has dimension 3 but '{folder / '0.npy'}' has 4": [folder],
        f"DATA '{folder / 'none.npy'}' does not exist": [folder / "0.npy", folder / "none.npy"],
        f"DATA '{folder / 'x*.npy'}' is a pattern that no file has": [folder / "x*.npy"],
        f"DATA '{folder / 'sub'}' holds no .npy": [folder / "sub"],
        "DATA 'wordllama' does not exist": ["wordllama", folder / "0.npy"],
        "ratio is 1; pass more than 1": [folder / "0.npy", "--drop-outliers", 1],
        "--drop-outliers is -2": [folder / "0.npy", "--drop-outliers", -2],
    }
    for sentence, arguments in bad.items():
        result = run("solve", "wide", *arguments, "--lam", 0.5)
        assert result.exit_code == 2, sentence
        assert result.stderr.startswith(f"cvxsae: {sentence}"), result.stderr
        assert is_one_sentence(result.stderr)
    refused = run("match", folder / "0.npy", folder / "1.npy", "--drop-outliers", 10)
    assert refused.exit_code == 2
    assert "--drop-outliers applies to --data" in refused.stderr
