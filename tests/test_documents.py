"""The pages are about this package: links lead somewhere, commands parse, names and files exist."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

import cvxsae
from cvxsae.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/results/*.md")])

pytestmark = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, *languages: str) -> list[str]:
    """The code blocks of a page in one of these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [code for language, code in found if language in languages]


def anchors(page: Path) -> set[str]:
    """What headings can be linked to, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file) if file else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_commands_parse(page):
    joined = "\n".join(blocks(page, "sh", "bash", "console")).replace("\\\n", " ")
    for line in joined.splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] != "cvxsae" or "..." in line:
            continue
        found, names = get_command(app), words[1:]
        if names[0].startswith("--"):
            assert names[0] in {flag for parameter in found.params for flag in parameter.opts} | {"--help"}
            continue
        while hasattr(found, "commands"):
            found, names = found.commands[names[0]], names[1:]
        if names != ["--help"]:
            found.make_context("cvxsae", names)


def test_names_exist(page):
    text = page.read_text(encoding="utf-8")
    for code in blocks(page, "python"):
        for room, names in re.findall(r"^from (cvxsae[\w.]*) import \(?([\w, \n]+?)\)?$", code, re.MULTILINE):
            for name in re.findall(r"\w+", names):
                assert hasattr(importlib.import_module(room), name), f"{room}.{name}"
    if page.name == "CHANGELOG.md":
        return  # it names what is gone
    for dotted in set(re.findall(r"`(cvxsae(?:\.\w+)+)", text)):
        found: object = cvxsae
        for name in dotted.split(".")[1:]:
            try:
                found = getattr(found, name)
            except AttributeError:
                found = importlib.import_module(f"{found.__name__}.{name}")  # type: ignore[attr-defined]


def test_files_exist(page):
    if page.name == "CHANGELOG.md":
        return
    text = page.read_text(encoding="utf-8")
    for file in set(re.findall(r"`([\w/.]+\.(?:py|md))`", text)):
        rooms = [ROOT / name for name in ("cvxsae", "examples")]
        assert (ROOT / file).exists() or any(list(room.rglob(file)) for room in rooms), file
