"""The command: every verb, every exit code, every bad input in one sentence with nothing written."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cvxsae import NotCertifiedError, Status, WideLimit, __version__, solve
from cvxsae.cli.main import app
from cvxsae.data import write_arrays
from tests.helpers.sentences import is_one_sentence

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def data(tmp_path, rng):
    """A folder with activations, a dictionary and a bias."""
    np.save(tmp_path / "X.npy", rng.normal(size=(20, 4)))
    np.save(tmp_path / "D.npy", rng.normal(size=(7, 4)))
    np.save(tmp_path / "b.npy", np.full(4, 0.1))
    return tmp_path


PROBLEMS: dict[str, list] = {
    "wide": [],
    "codes": ["--dictionary", "D.npy"],
    "large": ["--atom-cost", 0.2, "--rows", 8],
    "candidates": ["--atoms", "data", "--atom-cost", 0.5],
}


def resolved(folder, options):
    return [folder / option if str(option).endswith(".npy") else option for option in options]


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("bias", ["none", "free", "mean", "b.npy"])
def test_solve_certifies_and_reports_the_same_numbers_as_json(data, kind, bias):
    options = [
        kind,
        data / "X.npy",
        "--lam-ratio",
        0.3,
        *resolved(data, [*PROBLEMS[kind], "--bias", bias]),
        "--tol",
        5e-2,
    ]
    result = run("solve", *options, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["certified"] and report["certificate"]["certified"]
    assert report["lower_bound"] <= report["value"] * (1 + 1e-12)
    assert report["lam_over_lambda_max"] == pytest.approx(0.3)


def test_the_command_gives_the_value_of_the_api(data):
    result = run("solve", "wide", data / "X.npy", "--lam", 0.7, "--json")
    expected = solve(WideLimit(np.load(data / "X.npy"), 0.7))
    assert json.loads(result.stdout)["value"] == pytest.approx(expected.value, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("kind", PROBLEMS)
def test_written_arrays_certify_against_the_problem_and_not_against_another(data, kind, suffix):
    out = data / f"solution.{suffix}"
    problem = [kind, data / "X.npy", *resolved(data, PROBLEMS[kind])]
    solved = run("solve", *problem, "--lam", 0.4, "--tol", 5e-2, "--out", out)
    assert solved.exit_code == 0, solved.output
    assert f"arrays written to {out}" in solved.stdout
    again = run("certify", *problem, "--lam", 0.4, "--solution", out, "--tol", 5e-2)
    assert again.exit_code == 0, again.output
    other = run("certify", *problem, "--lam", 1.6, "--solution", out, "--tol", 1e-3)
    assert other.exit_code == 1
    assert "NOT certified" in other.stdout


@pytest.mark.slow
def test_not_certified_is_exit_code_1_with_a_remedy(data):
    result = run("solve", "large", data / "X.npy", "--lam", 0.2, "--atom-cost", 3, "--max-seconds", 1e-3)
    assert result.exit_code == 1
    assert "TIME_LIMIT" in result.stdout
    assert "raise max_seconds or tol" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROBLEMS)
def test_crosscheck_agrees(data, kind):
    result = run("crosscheck", kind, data / "X.npy", "--lam-ratio", 0.3, "--rows", 12, *resolved(data, PROBLEMS[kind]))
    assert result.exit_code == 0, result.output
    assert "reference and torch agree" in result.stdout


def test_centering_and_scaling_are_reported(data):
    result = run("solve", "wide", data / "X.npy", "--lam-ratio", 0.3, "--center", "--scale", "--json")
    assert any("λ becomes" in note for note in json.loads(result.stdout)["notes"])


def bad_inputs(folder):
    """Arguments of ``solve`` and what the sentence must say."""
    nan = np.ones((5, 4))
    nan[3, 1] = np.nan
    np.save(folder / "nan.npy", nan)
    np.save(folder / "inf.npy", np.where(np.isnan(nan), np.inf, nan))
    np.save(folder / "empty.npy", np.zeros((0, 4)))
    np.save(folder / "flat.npy", np.ones(4))
    np.save(folder / "zero_atom.npy", np.vstack([np.eye(4), np.zeros(4)]))
    np.save(folder / "wrong_d.npy", np.ones((3, 5)))
    (folder / "notes.txt").write_text("1 2 3")
    (folder / "disguise.npy").write_bytes(pickle.dumps({"a": 1}))
    (folder / "disguise.pt").write_bytes(pickle.dumps(print))
    np.save(folder / "same.npy", np.ones((3, 4)))
    X, lam = folder / "X.npy", ("--lam", 0.5)
    return {
        "nan": (["wide", folder / "nan.npy", *lam], "row 3"),
        "inf": (["wide", folder / "inf.npy", *lam], "row 3"),
        "empty": (["wide", folder / "empty.npy", *lam], "empty"),
        "one-dimensional": (["wide", folder / "flat.npy", *lam], "two-dimensional"),
        "wrong d": (["codes", X, "--dictionary", folder / "wrong_d.npy", *lam], "dimension 4"),
        "zero atom": (["codes", X, "--dictionary", folder / "zero_atom.npy", *lam], "zero atom"),
        "lam zero": (["wide", X, "--lam", 0], "lam is 0"),
        "lam negative": (["wide", X, "--lam", -1], "lam is -1"),
        "lam twice": (["wide", X, "--lam", 1, "--lam-ratio", 0.1], "--lam and --lam-ratio were both passed"),
        "lam missing": (["wide", X], "λ is missing; pass --lam"),
        "lam ratio of nothing": (["wide", folder / "same.npy", "--lam-ratio", 0.1], "lambda_max is 0"),
        "lam ratio negative": (["wide", X, "--lam-ratio", -1], "--lam-ratio is -1"),
        "lam that vanishes": (["wide", X, "--lam", 1e-200], "rescale"),
        "seed negative": (["wide", X, *lam, "--rows", 2, "--seed", -1], "--seed is -1"),
        "unknown type": (["wide", folder / "notes.txt", *lam], "notes.txt"),
        "pickle as npy": (["wide", folder / "disguise.npy", *lam], "disguise.npy"),
        "pickle as pt": (["wide", folder / "disguise.pt", *lam], "disguise.pt"),
        "missing file": (["wide", folder / "nothing.npy", *lam], "does not exist"),
        "folder": (["wide", folder, *lam], "DATA"),
        "bias of wrong length": (["wide", X, *lam, "--bias", folder / "wrong_d.npy"], "bias has shape"),
        "codes without dictionary": (["codes", X, *lam], "needs --dictionary"),
        "dictionary for wide": (["wide", X, *lam, "--dictionary", X], "does not apply"),
        "atom cost missing": (["large", X, *lam], "needs --atom-cost"),
        "negative atom cost": (["large", X, *lam, "--atom-cost", -1], "atom_cost is -1"),
        "too many rows": (["wide", X, *lam, "--rows", 21], "--rows is 21"),
        "unknown solver": (["wide", X, *lam, "--solver", "magic"], "solver is 'magic'"),
        "solver of another problem": (["wide", X, *lam, "--solver", "factorized"], "solver is 'factorized'"),
        "unknown device": (["wide", X, *lam, "--device", "abacus"], "device"),
        "out of unknown type": (["wide", X, *lam, "--out", folder / "out.txt"], "--out"),
        "out in no folder": (["wide", X, *lam, "--out", folder / "no" / "out.npz"], "does not exist"),
        "tol negative": (["wide", X, *lam, "--tol", -1], "tol is -1"),
    }


@pytest.mark.parametrize("case", range(31))
def test_bad_input_is_one_sentence_exit_code_2_and_nothing_written(data, case):
    name, (options, sentence) = list(bad_inputs(data).items())[case]
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    out = [] if "--out" in options else ["--out", data / "result.npz"]
    result = run("solve", *options, *out)
    assert result.exit_code == 2, (name, result.output)
    assert sentence in result.stderr, (name, result.stderr)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert is_one_sentence(result.stderr)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


def test_a_reference_that_would_not_finish_is_refused(data):
    np.save(data / "many.npy", np.random.default_rng(0).normal(size=(300, 4)))
    result = run("crosscheck", "large", data / "many.npy", "--lam", 0.5, "--atom-cost", 1)
    assert result.exit_code == 2
    assert "semidefinite block" in result.stderr


def test_certify_needs_a_file_of_ours(data):
    result = run("certify", "wide", data / "X.npy", "--lam", 1, "--solution", data / "X.npy")
    assert result.exit_code == 2
    np.savez(data / "foreign.npz", something=np.ones(3))
    result = run("certify", "wide", data / "X.npy", "--lam", 1, "--solution", data / "foreign.npz")
    assert result.exit_code == 2
    assert "holds no bias" in result.stderr


def test_certify_does_not_believe_the_file(data):
    solution = solve(WideLimit(np.load(data / "X.npy"), 0.4))
    out = write_arrays(data / "boast.npz", {**solution.arrays(), "value": solution.value / 2})
    result = run("certify", "wide", data / "X.npy", "--lam", 0.4, "--solution", out)
    assert result.exit_code == 0
    assert "the file claims value" in result.stdout
    out = write_arrays(data / "swapped.npz", {**solution.arrays(), "lam": 0.5, "value": np.nan})
    result = run("certify", "wide", data / "X.npy", "--lam", 0.4, "--solution", out)
    assert "the file claims lam 0.5, found 0.4" in result.stdout
    assert "the file claims value nan" in result.stdout
    out = write_arrays(data / "shapeless.npz", {**solution.arrays(), "value": np.ones(3)})
    result = run("certify", "wide", data / "X.npy", "--lam", 0.4, "--solution", out)
    assert result.exit_code == 2
    assert "'value' of shape (3,)" in result.stderr


def test_json_is_strict_where_there_are_no_numbers(data):
    out = write_arrays(data / "short.npz", {"bias": np.zeros(3)})
    result = run("certify", "wide", data / "X.npy", "--lam", 0.4, "--solution", out, "--json")
    assert result.exit_code == 1

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(result.stdout, parse_constant=refuse)["value"] is None


@pytest.mark.parametrize("verb", ["solve", "crosscheck"])
def test_an_interrupted_solve_is_exit_code_130(data, monkeypatch, verb):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("cvxsae.solvers.convex.wide_newton.WideLimitNewton.step", interrupted)
    result = run(verb, "wide", data / "X.npy", "--lam", 0.1)
    assert result.exit_code == 130
    assert "NOT certified" in result.stdout or result.stderr == "cvxsae: interrupted.\n"


def test_an_interrupted_demo_is_one_sentence(data, monkeypatch):
    problem = WideLimit(np.load(data / "X.npy"), 0.4)
    reached = dataclasses.replace(solve(problem), status=Status.INTERRUPTED)

    def interrupted(*arguments, **options):
        raise NotCertifiedError(reached)

    monkeypatch.setattr("cvxsae.cli.demo.run_demo", interrupted)
    result = run("demo", "--out", data / "demo")
    assert result.exit_code == 130
    assert is_one_sentence(result.stderr)


def test_unknown_problem_and_help_and_version():
    assert run("solve", "narrow", "X.npy", "--lam", 1).exit_code == 2
    assert "wide|codes|large|candidates" in run("solve", "--help").stdout
    assert run("--version").stdout.strip() == f"cvxsae {__version__}"


@pytest.mark.slow
def test_check_reports_a_dictionary_and_writes_its_tables(tmp_path):
    v1, v2 = np.eye(3)[:2]
    np.save(tmp_path / "X.npy", np.vstack([v1, v1 + v2]))
    np.save(tmp_path / "best.npy", np.vstack([v1, v1 + v2]))
    np.save(tmp_path / "truth.npy", np.vstack([v1, v2]))
    options = ["--lam", 0.1, "--second-order", "--noiseless", "--json"]
    best = run("check", tmp_path / "X.npy", "--dictionary", tmp_path / "best.npy", *options)
    assert best.exit_code == 0, best.output
    assert json.loads(best.stdout)["objections"] == []
    out = tmp_path / "report"
    truth = run("check", tmp_path / "X.npy", "--dictionary", tmp_path / "truth.npy", *options, "--out", out)
    assert truth.exit_code == 1
    report = json.loads(truth.stdout)
    assert len(report["objections"]) == 3
    assert (report["pairs"][0]["feature"], report["pairs"][0]["other"]) == (1, 0)
    assert json.loads((out / "report.json").read_text())["value"] == pytest.approx(0.1425)
    names = {
        "features.csv",
        "pairs.csv",
        "absorbed.csv",
        "antipodes.csv",
        "duplicates.csv",
        "report.json",
        "report.png",
    }
    assert {path.name for path in out.iterdir()} == names
    assert (out / "features.csv").read_text().startswith("feature,count,density,")
    text = run("check", tmp_path / "X.npy", "--dictionary", tmp_path / "truth.npy", "--lam", 0.1)
    assert "not stationary" in text.stdout


def test_check_refuses_what_it_cannot_use(data):
    for options, words in (
        (["--lam", 0.1], "check needs --dictionary"),
        (["--dictionary", data / "D.npy"], "--lam"),
        (["--dictionary", data / "D.npy", "--lam", 0.1, "--bias", "free"], "'free'"),
        (["--dictionary", data / "D.npy", "--lam", 0.1, "--tol", 0], "tol"),
    ):
        result = run("check", data / "X.npy", *options)
        assert result.exit_code == 2
        assert words in result.stderr
        assert "'codes'" not in result.stderr  # which is another verb's
    fixed = run(
        "check", data / "X.npy", "--dictionary", data / "D.npy", "--lam", 0.1, "--bias", data / "b.npy", "--json"
    )
    assert not json.loads(fixed.stdout)["bias_is_free"]
    arguments = ["--dictionary", data / "D.npy", "--lam", 0.1, "--bias", data / "b.npy", "--trained-bias", "--json"]
    assert json.loads(run("check", data / "X.npy", *arguments).stdout)["bias_is_free"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk at hand")
def test_a_full_disk_under_stdout_is_one_sentence(tmp_path):
    np.save(tmp_path / "X.npy", np.eye(3))
    line = [sys.executable, "-m", "cvxsae", "solve", "wide", "X.npy", "--lam", "0.1"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    said = "cvxsae: The answer cannot be written (No space left on device); make room for it.\n"
    assert done.stderr.startswith(said) and is_one_sentence(done.stderr)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are Unix's")
@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_a_quota_is_one_sentence_and_leaves_nothing(tmp_path, name):
    import resource

    np.save(tmp_path / "X.npy", np.random.default_rng(0).standard_normal((60, 8)))
    line = [sys.executable, "-m", "cvxsae", "solve", "wide", "X.npy", "--lam", "0.1", "--out", name]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1024, 1024))
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, preexec_fn=limit, check=False)
    assert done.returncode == 2
    said = f"cvxsae: --out '{name}' cannot be written (File too large); make room or pass another path.\n"
    assert done.stderr.startswith(said) and is_one_sentence(done.stderr)
    assert [file.name for file in tmp_path.iterdir()] == ["X.npy"]
