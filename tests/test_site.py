"""The site has every page in its navigation, its navigation has no other page, and its versions are pinned."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from pathlib import Path

import cvxsae

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
