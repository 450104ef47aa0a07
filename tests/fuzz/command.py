"""The command with arguments of every wrong kind: exit code 2 and one sentence, or an answer; never a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import typer

from cvxsae import SparseAutoencoder
from tests.fuzz.attempts import Verdict
from tests.fuzz.calls import ATOMS, X, folder

CODES = (0, 1, 2)
"""Exit codes that a verb may have."""

TEXTS = (
    "", " ", "abc", "nan", "inf", "-inf", "-1", "0", "1", "1.5", "0.25", "1e400", "1e-400", "99999999999999999999",
    "18446744073709551616", "1_000", "0x10", "½", "λ", "\udcff", "a\nb. C", "-", "--", "::", "X.npy::", "X.npy::k",
    "/", "/dev/null", "/dev/full", "/proc/version", "/proc/version/x", "x" * 5000, "1,", ",", "1,,2", "1,nan", "a,b",
    "none", "free", "mean", "data", "cuda", "meta", "True",
)  # fmt: skip
"""What an option can be given."""


FILES = (
    "X.npy", "D.npy", "two.npz", "two.npz::a", "two.npz::c", "vector.npy", "zero.npy", "empty.npy", "text.npy",
    "complex.npy", "nan.npy", "foreign.npy", "objects.npy", "cut.npy", "cut.npz", "not.npy", "not.safetensors",
    "not.pt", "nothing.npy", "folder.npy", "grid.toml", "bad.toml", "solution.npz", "done", "sae", "X.npy/under",
    "X.npy/under.npz", "no/such.npz",
)  # fmt: skip
"""Files of :func:`place`, and some that are not there."""


@dataclass(frozen=True)
class Line:
    """A command line."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(ascii(word)[1:-1][:60] or "''" for word in self.words)


@cache
def place() -> Path:
    """A folder with files of every kind; commands run in it."""
    there = folder() / "command"
    there.mkdir()
    np.save(there / "X.npy", X)
    np.save(there / "D.npy", ATOMS)
    np.savez(there / "two.npz", a=X, b=ATOMS)
    np.save(there / "vector.npy", X[0])
    np.save(there / "zero.npy", np.array(1.0))
    np.save(there / "empty.npy", np.zeros((0, 3)))
    np.save(there / "text.npy", np.full((3, 3), "a"))
    np.save(there / "complex.npy", X * 1j)
    np.save(there / "nan.npy", np.where(X > 1, np.nan, X))
    np.save(there / "foreign.npy", X.astype(">f8"))
    np.save(there / "objects.npy", X.astype(object), allow_pickle=True)
    SparseAutoencoder.from_arrays(
        {"W_enc": ATOMS.T.copy(), "b_enc": np.zeros(len(ATOMS)), "W_dec": ATOMS, "b_dec": np.zeros(ATOMS.shape[1])}
    ).save(there / "sae")
    (there / "cut.npy").write_bytes((there / "X.npy").read_bytes()[:100])
    (there / "cut.npz").write_bytes((there / "two.npz").read_bytes()[:100])
    (there / "not.npy").write_text("hello", encoding="utf-8")
    (there / "not.safetensors").write_bytes(b"\xff" * 100)
    (there / "not.pt").write_bytes(b"\x80\x04K\x01.")
    (there / "nothing.npy").write_bytes(b"")
    (there / "folder.npy").mkdir()
    (there / "grid.toml").write_text(
        '[grid]\ndata = ["x"]\nlam = [0.25]\nmethods = ["wide_limit"]\n[data.x]\nsource = "X.npy"\n', encoding="utf-8"
    )
    (there / "bad.toml").write_text("[grid", encoding="utf-8")
    _run(("solve", "wide", "X.npy", "--lam", "0.25", "--out", "solution.npz"))
    _run(("study", "run", "grid.toml", "--folder", "done"))
    return there


def prepare_command() -> None:
    """Run every valid line once, so that what is compiled is compiled."""
    place()
    for verb, words in VERBS.items():
        _run((*verb.split(), *words))


VERBS: dict[str, tuple[str, ...]] = {
    "solve": ("wide", "X.npy", "--lam", "0.25", "--tol", "1e-6", "--max-steps", "50", "--out", "out.npz"),
    "crosscheck": ("wide", "X.npy", "--lam", "0.25", "--tol", "1e-6", "--max-seconds", "5"),
    "certify": ("wide", "X.npy", "--lam", "0.25", "--solution", "solution.npz", "--tol", "1e-6"),
    "path": ("X.npy", "--rows", "3", "--folder", "path", "--lam", "1.0", "--values", "1", "--tol", "0.1",
             "--max-seconds", "2"),
    "check": ("X.npy", "--dictionary", "D.npy", "--lam", "0.25", "--tol", "1e-4", "--bias", "none", "--out", "check"),
    "learn": ("X.npy", "--n-atoms", "2", "--lam", "0.25", "--seed", "0", "--max-steps", "5", "--stationarity", "1e-2",
              "--out", "learned.npz"),
    "floor": ("X.npy", "--widths", "1,2", "--lam", "0.25", "--max-points", "12"),
    "audit": ("X.npy", "--sae", "sae", "--lam", "0.25", "--report", "report.html"),
    "match": ("D.npy", "two.npz::b", "--data", "X.npy", "--lam", "0.25", "--points", "1", "--draws", "1", "--similar",
              "0.7", "--folder", "matched"),
    "compare": ("X.npy", "--widths", "2", "--lam", "0.25", "--steps", "2", "--folder", "compared", "--stationarity",
                "1e-2", "--max-seconds", "3"),
    "population-floor": ("X.npy", "--lam", "0.25", "--width", "2", "--batch", "4", "--batches", "2", "--confidence",
                         "0.9", "--seed", "0"),
    "population-gap": ("X.npy", "--dictionary", "D.npy", "--lam", "0.25", "--width", "2", "--batch", "4"),
    "population-dictionary": ("X.npy", "--lam", "0.25", "--atom-price", "0.25", "--max-seconds", "3"),
    "study run": ("grid.toml", "--folder", "again", "--n-jobs", "1", "--threads", "1"),
    "study status": ("done",),
    "study plot": ("done", "--out", "figures"),
}  # fmt: skip
"""A valid call of every verb but three that take a while and little more than a folder: demo, doctor and example."""


def draw_command(choose: Callable[[Sequence[Any]], Any]) -> Line:
    """A command line with one or two words spoiled, dropped or added; ``choose`` takes one of several things."""
    verb = choose(sorted(VERBS))
    words = list(VERBS[verb])
    for _ in range(choose((1, 1, 2))):
        how = choose(("spoil", "spoil", "spoil", "drop", "add", "flag"))
        at = choose(range(len(words))) if words else 0
        if how == "spoil" and words:
            words[at] = choose((*TEXTS, *FILES))
        elif how == "drop" and words:
            del words[at]
        elif how == "flag":
            words.append(choose(("--center", "--scale", "--json", "--noiseless", "--second-order", "--help")))
        else:
            options = ("--seed", "--rows", "--lam-ratio", "--bias", "--device", "--solver", "--no-such", "--init")
            words += [choose(options), choose((*TEXTS, *FILES))]
    return Line((*verb.split(), *words))


def judge_command(line: Line) -> Verdict:
    """Run a command line here and say how it ended."""
    try:
        code, out, err = _run(line.words)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Verdict("raw error", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    if code not in CODES:
        return Verdict("wrong code", f"{code}: {err[-200:]}")
    if "Traceback" in err or "Warning" in err:
        return Verdict("noise", err[-300:])
    if code == 2:
        complaint = command_complaint(err)
        return Verdict("bad sentence", f"{complaint}: {err[-400:]}") if complaint else Verdict("refused")
    left = [file.name for file in place().rglob("*.partial")]
    if left:
        return Verdict("left behind", ", ".join(left))
    return Verdict("accepted") if out.strip() else Verdict("silent", f"code {code} and no output; {err[-200:]}")


def command_complaint(err: str) -> str:
    """What is wrong with what a refusal prints."""
    said = err.strip().splitlines()
    if not said:
        return "nothing said"
    if len(said) > 2 or (len(said) == 2 and not said[1].startswith(("next: cvxsae ", "next: the same command with"))):
        return "more than a line and the next command"
    if not re.fullmatch(r"cvxsae: .*\.", said[0]):
        return "no sentence"
    return ""


def _run(words: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line, run in this process in the folder of files."""
    from cvxsae.cli.main import app

    there, before = folder() / "command", Path.cwd()
    out, err = io.StringIO(), io.StringIO()
    os.chdir(there)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            app(list(words), prog_name="cvxsae")
        code = 0
    except SystemExit as ended:
        code = 0 if ended.code is None else int(ended.code)
    finally:
        os.chdir(before)
    return code, out.getvalue(), err.getvalue()


def verbs() -> set[str]:
    """Every verb that the command has."""
    from cvxsae.cli.main import app

    group: Any = typer.main.get_command(app)
    found = set()
    for name, command in group.commands.items():
        found |= {f"{name} {inner}" for inner in getattr(command, "commands", {})} or {name}
    return found
