"""The verb ``match``: same numbers as the API, dictionaries from files of every kind, bad input in one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from cvxsae import SparseAutoencoder, learn_dictionary, match
from cvxsae.cli.main import app
from cvxsae.data.files import read_arrays, write_arrays
from cvxsae.data.synthetic import sparse_features
from tests.helpers.sentences import is_one_sentence

runner = CliRunner()
LAM = 0.2


def run(*arguments):
    return runner.invoke(app, ["match", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module", name="folder")
def made(tmp_path_factory):
    """A fit, an SAE made of it and its permuted atoms on disk."""
    folder = tmp_path_factory.mktemp("matching")
    X = sparse_features(60, 5, 6, seed=5, noise=0.05).X
    fit = learn_dictionary(X[:40], 4, LAM, max_steps=10)
    np.save(folder / "X.npy", X[:40])
    np.save(folder / "held_out.npy", X[40:])
    np.save(folder / "D.npy", fit.dictionary[[2, 0, 3, 1]])
    fit.save(folder / "fit.npz")
    sae = SparseAutoencoder.from_fit(fit)
    sae.save(folder / "sae")
    write_arrays(folder / "weights.safetensors", {"W_dec": sae.W_dec, "b_dec": sae.b_dec, "other": np.ones(3)})
    return folder


def test_it_says_what_the_api_says(folder):
    files = ("--data", folder / "X.npy", "--held-out", folder / "held_out.npy", "--lam", LAM)
    result = run(folder / "D.npy", folder / "fit.npz", *files, "--points", 3, "--draws", 2, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    X, held_out = np.load(folder / "X.npy"), np.load(folder / "held_out.npy")
    fit = read_arrays(folder / "fit.npz")
    A, B = np.load(folder / "D.npy"), (fit["dictionary"], fit["bias"])
    expected = match(A, B, X, LAM, held_out=held_out, points=3, draws=2).to_dict()
    del report["notes"], report["schema"]
    assert report == json.loads(json.dumps(expected))
    assert report["A"]["partner"] == [2, 0, 3, 1]


def test_dictionaries_of_every_kind(folder, tmp_path):
    for other in ("sae", "fit.npz", "weights.safetensors", "weights.safetensors::W_dec"):
        result = run(folder / "D.npy", folder / other, "--folder", tmp_path / "tables")
        assert result.exit_code == 0, result.output
        assert "4 shared, 0 split, 0 merged, 0 new" in result.stdout
        table = np.genfromtxt(tmp_path / "tables" / "A.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
        assert table["partner"].tolist() == [2, 0, 3, 1]
        assert (tmp_path / "tables" / "B.csv").exists()


def test_time_that_ran_out_is_exit_code_1(folder):
    result = run(folder / "fit.npz", folder / "sae", "--data", folder / "X.npy", "--lam", LAM, "--max-seconds", 1e-6)
    assert result.exit_code == 1, result.output
    assert "undecided" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing.npy", "D.npy"), "A 'nothing.npy' does not exist"),
        (("D.npy", "X.npy::key"), "B "),
        (("D.npy", "D.npy", "--data", "X.npy"), "lam is None"),
        (("D.npy", "D.npy", "--data", "nothing"), "DATA 'nothing' does not exist"),
        (("D.npy", "D.npy", "--held-out", "nothing.npy", "--lam", "1"), "held_out 'nothing.npy' does not exist"),
        (("D.npy", "D.npy", "--rows", "3"), "--rows applies to --data"),
        (
            ("D.npy", "D.npy", "--data", "X.npy", "--center", "--held-out", "X.npy", "--lam", "1"),
            "--center and --scale",
        ),
        (("D.npy", "D.npy", "--similar", "2"), "similar is 2"),
        (("D.npy", "D.npy", "--lam", "1"), "lam is given"),
        (("D.npy", "D.npy", "--folder", "D.npy/x"), "--folder"),
    ],
)
def test_bad_input_is_one_sentence(folder, arguments, said, monkeypatch):
    monkeypatch.chdir(folder)
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"cvxsae: {said}"), result.stderr
    assert is_one_sentence(result.stderr)
