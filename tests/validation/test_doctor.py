"""The doctor finds nothing wrong where nothing is, and names what is broken where something is."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cvxsae.cli.main import app
from cvxsae.validation import doctor
from cvxsae.validation.doctor import PURPOSES, Check, State, examine

ROOT = Path(__file__).parents[2]


@pytest.fixture
def few(monkeypatch):
    """Only the first row of the table of solvers, and the engine for any device."""
    from cvxsae.solvers.convex import solve

    monkeypatch.setattr("cvxsae.solvers.codes.engines.ENGINES", ("auto", "torch"))
    monkeypatch.setattr(solve, "METHODS", solve.METHODS[:1])
    monkeypatch.setattr(doctor, "_learned", lambda: "left out")
    monkeypatch.setattr(doctor, "_floor", lambda: "left out")


@pytest.mark.slow
def test_everything_that_should_work_here_does():
    seen: list[Check] = []
    found = examine(seen.append)
    assert found.objections == ()
    assert tuple(seen) == found.checks
    names = [check.name for check in found.checks]
    assert len(names) == len(set(names)) and {"codes: torch", "reference: Problem", "learn_dictionary"} <= set(names)
    assert found.machine["versions"]["cvxsae"]
    assert "sound: everything that should work here works" in str(found)


def test_the_verb_prints_each_check_and_ends_with_zero(few):
    text = CliRunner().invoke(app, ["doctor"])
    assert text.exit_code == 0, text.output
    for part in (
        "works   codes: torch",
        "works   newton: WideLimit",
        "extra: report",
        "processor",
        "versions",
        "sound:",
    ):
        assert part in text.stdout, part
    report = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert report["sound"] and report["objections"] == [] and report["schema"] == "cvxsae/doctor/1"


def test_measurements_are_shown_with_what_to_delete(few, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert doctor._measurements() == f"none yet; they will be kept in {tmp_path / 'cvxsae'}"
    key = {"dim": 256, "atoms": 512, "device": "cpu", "threads": 2}
    found = [(key | {"atoms": 512 * n}, {"int8": 1e-6, "float32": 8e-6}) for n in range(1, 7)]
    monkeypatch.setattr("cvxsae.solvers.codes.engines.calibration.kept", lambda: (found, 3))
    said = doctor._measurements()
    assert said.startswith("256 × 512 on cpu, 2 threads: int8 1, float32 8; 256 × 1024 on cpu")
    assert "; 2 more of this machine; 3 of another machine or version (µs a row); " in said
    assert said.endswith(f"delete {tmp_path / 'cvxsae' / 'products-*.json'} to have them measured again")
    assert "measured products" in CliRunner().invoke(app, ["doctor"]).stdout


def test_a_broken_engine_is_named(few, monkeypatch):
    def broken(self, *arguments, **options):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr("cvxsae.solvers.codes.engines.batched.BatchedEngine.__init__", broken)
    found = CliRunner().invoke(app, ["doctor", "--json"])
    report = json.loads(found.stdout)
    assert found.exit_code == 1 and not report["sound"]
    assert report["objections"] == ["codes: torch: RuntimeError: no such instruction"]
    assert [check["state"] for check in report["checks"] if check["name"].startswith("newton")] == ["works"]


def test_an_engine_that_is_wrong_is_named(few, monkeypatch):
    from cvxsae.solvers.convex.wide_newton import WideLimitNewton

    finish = WideLimitNewton.finish

    def wrong(self, problem, state):
        found = finish(self, problem, state)
        object.__setattr__(found, "bias", found.bias + 1)
        return found

    monkeypatch.setattr(WideLimitNewton, "finish", wrong)
    (objection,) = examine().objections
    assert objection.startswith("newton: WideLimit: ")


def test_what_a_machine_does_not_have_is_absent_and_no_fault(few, monkeypatch):
    import torch

    monkeypatch.setattr("cvxsae.solvers.codes.engines.ENGINES", ("auto", "triton"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for version, said in (("3.9", "triton 3.9 runs with TRITON_INTERPRET=1"), (None, "triton is not installed")):
        monkeypatch.setattr(doctor, "_version", lambda package, version=version: version)
        found = examine()
        absent = {check.name: check.detail for check in found.checks if check.state is State.absent}
        assert set(absent) == {"codes: torch on CUDA", "codes: triton"} and said in absent["codes: triton"]
        assert found.objections == ()


def test_a_package_that_cannot_be_imported_is_named(few, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cvxsae.solvers.convex.solve", None)
    monkeypatch.setitem(sys.modules, "cvxsae.parallel.machine", None)
    found = examine()
    assert [check.name for check in found.checks if check.state is State.fails] == ["import"]
    assert "unknown" in found.machine and "NOT sound" in str(found)


def test_extras_are_those_of_the_package(monkeypatch):
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(PURPOSES) == set(declared) - {"test", "dev", "docs"}
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    extras = list(doctor._extras())
    assert {extra.name: len(extra.packages) for extra in extras} == {name: len(declared[name]) for name in PURPOSES}
    assert not any(extra.is_complete for extra in extras)
    assert str(extras[0]).startswith("  absent")
