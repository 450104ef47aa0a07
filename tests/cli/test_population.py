"""The verbs about the distribution: same numbers as the API, exit codes, bad input in one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from cvxsae.cli.main import app
from cvxsae.population import population_floor, population_gap
from tests.helpers.sentences import is_one_sentence

runner = CliRunner()
LAM = 0.3


def run(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module", name="folder")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("population")
    np.save(folder / "X.npy", np.random.default_rng(0).standard_normal((200, 3)))
    np.save(folder / "groups.npy", np.arange(200) // 5)
    (folder / "groups.txt").write_text("".join(f"text {row // 5:02}\n" for row in range(200)), encoding="utf-8")
    np.save(folder / "D.npy", np.eye(3))
    return folder


@pytest.mark.slow
def test_population_floor_gives_what_the_api_gives(folder, tmp_path):
    X, groups = np.load(folder / "X.npy"), np.load(folder / "groups.npy")
    options = ("--lam", LAM, "--wide", "--batch", 40, "--confidence", 0.9, "--folder", tmp_path / "kept")
    result = run("population-floor", folder / "X.npy", *options, "--groups", folder / "groups.npy", "--json")
    assert result.exit_code == 0, result.output
    expected = population_floor(X, None, LAM, batch=40, confidence=0.9, groups=groups)
    assert json.loads(result.stdout)["lower_limit"] == pytest.approx(expected.lower_limit, rel=1e-12)
    assert len(list((tmp_path / "kept").glob("*.npz"))) == 5
    lines = run("population-floor", folder / "X.npy", *options, "--groups", folder / "groups.txt", "--json")
    assert json.loads(lines.stdout)["lower_limit"] == json.loads(result.stdout)["lower_limit"]  # from the same folder
    text = run("population-floor", folder / "X.npy", "--lam-ratio", 0.1, "--width", 2, "--batches", 3, "--batch", 20)
    assert "3 independent batches of 20 rows" in text.stdout and "--lam-ratio depends on these rows" in text.stdout


def test_population_gap_gives_what_the_api_gives(folder):
    options = ("--lam", LAM, "--dictionary", folder / "D.npy", "--wide", "--batch", 40, "--json")
    result = run("population-gap", folder / "X.npy", *options)
    assert result.exit_code == 0, result.output
    expected = population_gap(np.load(folder / "X.npy"), (np.eye(3), None), LAM, n_atoms=None, batch=40)
    assert json.loads(result.stdout)["gap"] == pytest.approx(expected.gap, rel=1e-12)


def test_without_a_confidence_the_exit_code_is_1(folder):
    result = run("population-floor", folder / "X.npy", "--lam", LAM, "--wide", "--batch", 150)
    assert result.exit_code == 1 and "no confidence exists" in result.stdout


BAD = {
    "no width": (["population-floor", "X.npy", "--lam", 1], "exactly one of --width and --wide"),
    "two widths": (["population-floor", "X.npy", "--lam", 1, "--wide", "--width", 3], "exactly one of --width"),
    "no labels": (["population-floor", "X.npy", "--lam", 1, "--wide", "--groups", "none.npy"], "--groups"),
    "labels of other rows": (["population-floor", "X.npy", "--lam", 1, "--wide", "--groups", "D.npy"], "groups has"),
    "rows of documents": (
        ["population-floor", "X.npy", "--lam", 1, "--wide", "--groups", "groups.npy", "--rows", 9],
        "--rows uses a subset",
    ),
    "too many": (["population-floor", "X.npy", "--lam", 1, "--wide", "--batch", 50, "--batches", 9], "n_batches is 9"),
    "no dictionary": (["population-gap", "X.npy", "--lam", 1], "exactly one of --dictionary and --sae"),
    "no sae": (["population-gap", "X.npy", "--lam", 1, "--sae", "nowhere"], "does not exist"),
    "both widths": (
        ["population-gap", "X.npy", "--lam", 1, "--dictionary", "D.npy", "--wide", "--width", 3],
        "at most one of --width and --wide",
    ),
    "no encoder": (["population-gap", "X.npy", "--lam", 1, "--dictionary", "D.npy", "--encoder"], "no encoder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(folder, monkeypatch, case):
    options, sentence = BAD[case]
    monkeypatch.chdir(folder)
    result = run(*options)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr and result.stdout == ""
    assert is_one_sentence(result.stderr)
