"""The site has every page in its navigation, its navigation has no other page, and its versions are pinned."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import cvxsae
from tests import site

ROOT = Path(__file__).parents[1]
NAVIGATION = re.findall(r"^ +- [^:\n]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)


def declared(name: str) -> dict[str, str]:
    """A table of ``docs/hooks.py``, which imports what only the site needs."""
    text = (ROOT / "docs/hooks.py").read_text(encoding="utf-8")
    found = re.search(rf"^{name} = (\{{.*?^\}})", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return dict(ast.literal_eval(found[1]))


def pages() -> set[str]:
    """Every page of the site, by its place there."""
    written = {page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")}
    measured = {page.relative_to(ROOT).as_posix() for page in ROOT.glob("benchmarks/results/*.md")}
    reference = {f"reference/{room}.md" for room in declared("ROOMS")}
    notebooks = {f"notebooks/{page.stem}.md" for page in ROOT.glob("docs/notebooks/*.py")}
    return written | measured | reference | notebooks | set(declared("ELSEWHERE").values())


def test_every_page_is_in_the_navigation_once():
    missing = pages() - set(NAVIGATION)
    assert missing == set(), "name them in the navigation of mkdocs.yml"
    assert [page for page, count in Counter(NAVIGATION).items() if count > 1] == []


def test_the_navigation_has_no_other_page():
    others = set(NAVIGATION) - pages()
    assert all(page.startswith("notebooks/") for page in others), others  # left out where there is no such notebook


def test_every_room_with_public_names_has_a_page():
    rooms = {f"cvxsae.{file.parent.name}" for file in Path(cvxsae.__file__).parent.glob("*/__init__.pyi")}
    rooms |= {f"cvxsae.{file.stem}" for file in Path(cvxsae.__file__).parent.glob("[a-z]*.py")}
    assert rooms == set(declared("ROOMS")) - {"cvxsae"}


def test_what_builds_the_site_is_pinned():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    names = {re.split(r"[<>=\[]", requirement)[0] for requirement in extra["docs"]}
    assert names - pinned == {"cvxsae"}
    assert not names - {"cvxsae"} & {re.split(r"[<>=\[]", requirement)[0] for requirement in extra["test"]}


def test_text_that_is_not_rendered_and_what_is_loaded_from_elsewhere_are_objected_to(tmp_path):
    (tmp_path / "good.html").write_text('<link rel="canonical" href="https://a.b"><p>A list:</p><ul><li>one</li></ul>')
    assert site.text_objections(tmp_path) == []
    (tmp_path / "list.html").write_text("<p>A list:\n- one\n- two</p>")
    (tmp_path / "table.html").write_text("<p>| a | b |\n|---|---|</p>")
    (tmp_path / "font.html").write_text('<link rel="stylesheet" href="https://fonts.example/css">')
    (tmp_path / "script.html").write_text('<script src="https://cdn.example/x.js"></script>')
    found = site.text_objections(tmp_path)
    assert [objection.partition(":")[0] for objection in found] == [
        "font.html",
        "list.html",
        "script.html",
        "table.html",
    ]


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium")
def test_a_page_that_lacks_a_file_or_is_too_wide_is_objected_to(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "PAGES", ("index.html",))
    monkeypatch.setattr(site, "WIDTHS", {"phone": (390, 844)})
    (tmp_path / "index.html").write_text('<img src="gone.png"><p style="width: 500px">x</p>')
    found = site.browser_objections(tmp_path, None)
    assert any("missing" in objection for objection in found) and any("is 5" in objection for objection in found), found


def test_a_reference_in_a_docstring_that_leads_nowhere_is_a_warning(tmp_path, monkeypatch):
    griffe = pytest.importorskip("griffe", reason="only the site needs griffe")
    pytest.importorskip("mkdocs", reason="only the site needs mkdocs")
    monkeypatch.syspath_prepend(ROOT / "docs")
    griffe_roles: Any = importlib.import_module("griffe_roles")

    said: list[str] = []
    monkeypatch.setattr(griffe_roles.logger, "warning", lambda text, *words: said.append(text % words))
    (tmp_path / "cvxsae").mkdir()
    text = '"""See :func:`known`, :func:`~cvxsae.known`, :func:`unknown` and :class:`joblib.Parallel`."""\n'
    (tmp_path / "cvxsae/__init__.py").write_text(text + "def known():\n    pass\n")
    roles = griffe.load_extensions(griffe_roles.Roles())
    package = griffe.load("cvxsae", search_paths=[tmp_path], try_relative_path=False, extensions=roles)
    assert said == ["cvxsae: its docstring refers to 'unknown', which does not exist"]
    assert ":func:" not in package.docstring.value and "`joblib.Parallel`" in package.docstring.value
    sys.modules.pop("hooks", None)
