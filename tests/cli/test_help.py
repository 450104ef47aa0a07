"""``cvxsae --help``, completion, errors and reports: what people and programs meet first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from cvxsae import Status, WideLimit, solve
from cvxsae.cli.errors import next_command
from cvxsae.cli.help import JOBS
from cvxsae.cli.main import app
from cvxsae.cli.schemas import COMMON, SCHEMAS, Schema
from cvxsae.errors import CertificateError, InputError, NotCertifiedError

ROOT = Path(__file__).parents[2]
runner = CliRunner()


def verbs(group, prefix=""):
    for name, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from verbs(found, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"


def test_help_fits_a_screen_and_groups_every_verb_by_job():
    shown = runner.invoke(app, ["--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).stdout.splitlines()
    assert len(shown) <= 40 and max(map(len, shown)) <= 80
    for job, lines in JOBS.items():
        assert f"{job}:" in shown
        for verb, line in lines.items():
            assert any(row.split(maxsplit=1) == [verb, line] for row in shown), verb
    assert sorted(verb for lines in JOBS.values() for verb in lines) == sorted(
        {verb.split()[0] for verb in verbs(get_command(app))}
    )
    assert "Other:" not in shown


def test_a_verb_without_a_job_is_still_shown(monkeypatch):
    monkeypatch.delitem(JOBS, "First steps")
    assert "Other:\n  doctor " in runner.invoke(app, ["--help"]).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_verbs(shell):
    words = {"COMP_WORDS": "cvxsae popu", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "cvxsae popu"}
    found = runner.invoke(
        app,
        [],
        prog_name="cvxsae",
        env={"_CVXSAE_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args", **words},
    )
    for verb in ("population-floor", "population-gap", "population-dictionary"):
        assert verb in found.stdout, found.output
    assert "solve" not in found.stdout
    assert "--install-completion" in runner.invoke(app, ["--help"]).stdout


def test_errors_name_the_next_command(tmp_path):
    solution = solve(WideLimit([[3.0, 4.0]], 1.0))
    late = NotCertifiedError(solution)
    object.__setattr__(late.solution, "status", Status.TIME_LIMIT)
    assert next_command(late, "demo") == "the same command with a larger --max-seconds"
    assert next_command(CertificateError("x"), "solve") == "cvxsae doctor"
    assert next_command(ImportError("no numba"), "solve") == "cvxsae doctor"
    missing = InputError("the data set 'digits' is not installed; `pip install cvxsae[data]` brings it.")
    assert next_command(missing, "solve") == "pip install 'cvxsae[data]'"
    assert next_command(InputError("lam is 0."), "study run") == "cvxsae study run --help"
    plot = runner.invoke(app, ["study", "plot", str(tmp_path)])
    assert plot.stderr.splitlines()[1] == "next: cvxsae study run STUDY.toml"
    slip = runner.invoke(app, ["slove"], prog_name="cvxsae")
    assert slip.exit_code == 2 and "solve" in slip.stderr and "cvxsae --help" in slip.stderr


@pytest.mark.parametrize(
    ("words", "said", "following"),
    [
        ("study run", "study run needs STUDY.toml: the TOML file of a study.", "cvxsae study run --help"),
        ("study walk", "no such command 'walk'.", "cvxsae study --help"),
        ("--qqq", "the command has no option --qqq.", "cvxsae --help"),
        ("floor X.npy --widths", "option '--widths' requires an argument.", "cvxsae floor --help"),
        ("audit X.npy", "audit needs --sae: folder or file of an SAE", "cvxsae example example"),
        ("solve wide", "solve needs DATA: datapoints as rows.", "the same command with wordllama for DATA"),
    ],
)
def test_what_the_parser_refuses_is_one_sentence(words, said, following):
    found = runner.invoke(app, words.split(), prog_name="cvxsae")
    assert (found.exit_code, found.stdout) == (2, "")
    sentence, then = found.stderr.splitlines()
    assert sentence.startswith(f"cvxsae: {said}")
    assert then == f"next: {following}"


def test_a_command_without_a_verb_shows_help():
    for words in ([], ["study"]):
        found = runner.invoke(app, words, prog_name="cvxsae")
        assert "Usage: cvxsae" in found.output and "next:" not in found.output


def test_a_library_that_cannot_be_imported_is_one_sentence(monkeypatch):
    def broken():
        raise ImportError("DLL load failed")

    monkeypatch.setattr("cvxsae.validation.doctor.examine", broken)
    found = runner.invoke(app, ["doctor", "--json"])
    assert (found.exit_code, found.stdout) == (2, "")
    assert found.stderr == "cvxsae: a library cannot be imported (DLL load failed).\nnext: cvxsae doctor\n"


def test_every_verb_has_a_schema_and_its_page_shows_it():
    assert set(SCHEMAS) == set(verbs(get_command(app)))
    assert len({schema.name for schema in SCHEMAS.values()}) == len(SCHEMAS)
    done = subprocess.run([sys.executable, ROOT / "docs/schemas.py", "--check"], check=False)
    assert done.returncode == 0, "run python docs/schemas.py"


def test_a_report_that_is_not_as_documented_is_objected_to():
    schema = Schema("toy", 3, {"value: number?": "", "good: boolean": ""}, {"steps: integer": ""})
    report: dict[str, Any] = {"schema": "cvxsae/toy/3", "notes": [], "value": None, "good": True}
    assert schema.objections(report) == []
    assert schema.objections(report | {"steps": 2}) == []
    assert schema.objections(report | {"steps": True}) == ["steps is True, not integer"]
    assert schema.objections(report | {"good": None}) == ["good is None, not boolean"]
    assert schema.objections(report | {"more": 1}) == ["more is not documented"]
    del report["value"]
    assert schema.objections(report) == ["value is missing"]
    assert set(COMMON) == {"schema: string", "notes: array"}


def test_the_schema_is_printed():
    found = runner.invoke(app, ["solve", "wide", "digits", "--rows", "5", "--lam-ratio", "0.5", "--json"])
    assert json.loads(found.stdout)["schema"] == "cvxsae/solve/1"
