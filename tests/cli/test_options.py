"""Groups of options, and what no verb may do: load libraries for its help, or stop at a letter a terminal lacks."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from cvxsae.cli import learning, problems, study
from cvxsae.cli.main import app
from cvxsae.cli.options import EMBEDDED, Answer, command
from cvxsae.data import EMBEDDED_NAMES
from cvxsae.solvers.convex.solve import SOLVERS

VERBS = [
    function
    for module in (problems, learning, study)
    for name, function in vars(module).items()
    if name.endswith("_command")
]


@dataclass(frozen=True, kw_only=True)
class Inner:
    number: Annotated[int, typer.Option("--number")] = 3


@dataclass(frozen=True, kw_only=True)
class Outer:
    word: Annotated[str, typer.Argument()]
    inner: Inner


def made(function):
    """A command of two verbs, of which this is one."""
    app = typer.Typer()
    command(app, "verb")(function)
    command(app, "other")(lambda: Answer("", {}))
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_groups_are_built_from_flat_options_and_nest():
    def verb(outer: Outer, flag: Annotated[bool, typer.Option("--flag")] = False) -> Answer:
        return Answer(f"{outer.word} {outer.inner.number} {flag}", {"word": outer.word}, code=1, notes=["said"])

    run = made(verb)
    found = run("verb", "hello", "--number", "4", "--flag")
    assert (found.stdout, found.exit_code) == ("hello 4 True\n  note: said\n", 1)
    assert run("verb", "hello").stdout.startswith("hello 3 False")
    assert run("verb", "hello", "--json").stdout == '{\n  "word": "hello",\n  "notes": [\n    "said"\n  ]\n}\n'
    assert run("verb").exit_code == 2
    assert run("verb", "hello", "--number", "x").exit_code == 2


def test_an_interrupt_is_one_sentence():
    def verb() -> Answer:
        raise KeyboardInterrupt

    found = made(verb)("verb")
    assert (found.exit_code, found.stdout, found.stderr) == (130, "", "cvxsae: interrupted.\n")


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_verbs_have_few_parameters(verb):
    assert len(inspect.signature(verb).parameters) <= 8


def test_help_names_what_there_is():
    assert ", ".join(EMBEDDED_NAMES) == EMBEDDED
    assert sorted(SOLVERS) == sorted(problems.SOLVERS.split(", "))


def _verbs(group, prefix=()):
    for name, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from _verbs(found, (*prefix, name))
        else:
            yield (*prefix, name), found


def test_every_verb_has_help_and_json():
    found = dict(_verbs(get_command(app)))
    assert len(found) == 19
    for verb, it in found.items():
        assert it.help, verb
        assert "--json" in {flag for parameter in it.params for flag in parameter.opts}, verb
        flags = [flag for parameter in it.params for flag in (*parameter.opts, *parameter.secondary_opts)]
        assert len(flags) == len(set(flags)), verb


def test_help_loads_neither_torch_nor_scipy():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom cvxsae.cli.main import app\n"
        "assert CliRunner().invoke(app, ['solve', '--help']).exit_code == 0\n"
        "print([name for name in ('torch', 'scipy', 'numpy', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["--help", "solve --help", "learn --help", "check X.npy --dictionary D.npy --lam 0.1"])
def test_output_that_is_not_utf8_gets_replacements(tmp_path, verb):
    np.save(tmp_path / "X.npy", np.random.default_rng(0).normal(size=(60, 4)))
    np.save(tmp_path / "D.npy", np.eye(4))
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(
        [sys.executable, "-m", "cvxsae", *verb.split()], cwd=tmp_path, env=environment, capture_output=True
    )
    assert done.returncode == (1 if verb.startswith("check") else 0), done.stderr
    assert done.stderr == b""
    assert done.stdout.decode("cp1252")
