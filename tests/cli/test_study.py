"""``cvxsae study``: exit codes, one sentence for what is wrong, and the same numbers as the API."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cvxsae import ScaleStudy
from cvxsae.cli.main import app
from cvxsae.study import registry
from cvxsae.study import run as runner
from cvxsae.study.store import Store
from tests.helpers.sentences import is_one_sentence

STUDY = """
name = "toys"

[grid]
data = ["toy"]
n_points = [40]
n_atoms = [2, 4]
lam = [0.2]
bias = ["none"]
methods = ["wide_limit", "learned"]

[data.toy]
source = "sparse_features"
dim = 4
n_features = 6

[learned]
max_steps = 20
"""


def run(*arguments):
    return CliRunner().invoke(app, ["study", *(str(argument) for argument in arguments)])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "toys.toml"
    path.write_text(STUDY)
    return path


@pytest.mark.slow
def test_run_status_and_plot_end_with_zero_and_say_what_was_found(tmp_path, file):
    out = tmp_path / "out"
    ran = run("run", file, "--folder", out)
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.startswith("study toys: 3 cells done, 0 failed, 0 missing.")
    table = ScaleStudy.from_toml(file, folder=out).table()
    assert len(table) == 3 and (out / "table.csv").exists() and (out / "table.parquet").exists()
    status = run("status", out, "--json")
    assert status.exit_code == 0
    assert json.loads(status.stdout)["done"] == 3
    plotted = run("plot", out, "--out", tmp_path / "figures", "--json")
    assert plotted.exit_code == 0, plotted.output
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert drawn == {"objective", "sparsity", "time"} and len(json.loads(plotted.stdout)["figures"]) == 3
    again = json.loads(run("run", file, "--folder", out, "--json").stdout)
    assert again["missing"] == 0 and again["summary"][0] == ran.stdout.splitlines()[0]


@pytest.mark.slow
def test_failures_and_violations_end_with_one(tmp_path, file, monkeypatch):
    def compute(cell):
        if cell.n_atoms == 4:
            raise MemoryError
        return registry.compute(cell)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(runner, "compute", compute)
        failed = run("run", file, "--folder", out, "--progress")
    assert failed.exit_code == 1
    assert "First failure: learned: MemoryError" in failed.stdout
    assert "failed: learned (toy, N = 40, K = 4," in failed.stderr
    status = run("status", out)
    assert status.exit_code == 1 and "MemoryError" in status.stdout
    assert run("run", file, "--folder", out, "--retry-failed").exit_code == 0
    store = Store(out)
    wide = next(cell for cell in store.cells.keys() if (store.record(cell) or {}).get("method") == "wide_limit")  # noqa: SIM118
    found = store.cells.read(wide)
    assert found is not None
    record, arrays = found
    store.cells.write(wide, {**record, "numbers": {**record["numbers"], "lower_bound": 1e6}}, arrays)
    violated = run("run", file, "--folder", out)
    assert violated.exit_code == 1
    assert "VIOLATION of theory in" in violated.stdout


def test_bad_input_ends_with_two_and_one_sentence(tmp_path, file):
    broken = tmp_path / "broken.toml"
    broken.write_text(STUDY.replace("n_atoms", "n_atom"))
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    for arguments, said in (
        (("run", broken), "[grid] has the unknown key 'n_atom' (did you mean 'n_atoms'?); its keys are"),
        (("run", tmp_path / "gone.toml"), "STUDY"),
        (("run", file, "--folder", taken), "holds 'notes.txt' and no study"),
        (("run", file, "--folder", tmp_path / "out", "--n-jobs", 0), "--n-jobs is 0"),
        (("run", file, "--folder", tmp_path / "out", "--threads", 0), "threads is 0"),
        (("status", tmp_path), "holds no study"),
        (("plot", tmp_path), "holds no study"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stdout == "" and result.stderr.startswith("cvxsae: ") and said in result.stderr
        assert is_one_sentence(result.stderr)
    assert not (tmp_path / "broken").exists()


def test_a_study_without_a_cell_that_is_done_has_no_figures(tmp_path, file):
    out = tmp_path / "out"
    assert run("run", file, "--folder", out).exit_code == 0
    for path in (out / "cells").glob("*.npz"):
        path.unlink()
    result = run("plot", out)
    assert result.exit_code == 2 and "has no finished cell" in result.stderr
    assert run("status", out).exit_code == 1
