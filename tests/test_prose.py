"""The pages and docstrings are in plain English, as far as a program can tell: one sentence a line, and known words.

The list has words that only this project used, and what to write instead; ``typos`` checks the spelling. A page may
still be hard to read.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("docs/notebooks/*.py"),
    ]
)
FILES = sorted(ROOT.glob("cvxsae/**/*.py"))

PLAIN = {
    r"promise[ds]?": "target, or measured",
    r"what (?:it|that) costs to": "the cost of",
    r"(?:dear|dearer)": "expensive",
    r"by heart": "memorized",
    r"as (?:it lies|they lie) on disk": "on disk, from disk",
    r"believe[ds]?": "trust",
    r"whose is": "what causes",
    r"rows held out": "held-out rows",
    r"in the place of": "instead of",
    r"if asked for": "on request, or if requested",
    r"where (?:that|it) is asked for": "if requested",
    r"goes? on from (?:there|here|it|them)": "resume from",
    r"stay(?:ing|s)? put": "stay fixed",
    r"without end": "endless",
    r"taken apart": "in parts",
    r"(?:one|two) [a-z-]+ an? (?:row|datapoint|feature|width|cell|atom|token|step|line|batch)": "one ... per ...",
    r"victims?": "the atom that is removed",
    r"hops?": "moves",
    r"earns?": "gain",
}
"""Phrases that only this project used, as regular expressions, and what to write in their place."""

SENTENCES = re.compile(r"(?<![.…])[a-zé)`\]’%][.?!][)”]?\s+(?=[A-Z`*\[(])(?!P\b)")
"""The end of a sentence with another one behind it."""

ABBREVIATIONS = re.compile(r"\b(?:e\.g|i\.e|et al|cf|vs|Fig|No)\.\s")


def prose(page: Path) -> list[str]:
    """The lines of a page that are running text or items of a list: no code, tables, titles, comments or formulas."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".py":
        cells = re.split(r"^# %%", text, flags=re.MULTILINE)[1:]
        text = "\n\n".join(re.sub(r"^# ?", "", cell, flags=re.MULTILINE) for cell in cells if "[markdown]" in cell[:12])
    text = re.sub(r"^(```|~~~).*?^\1\n", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!-- (?:include|schemas|table|made) .*?<!-- end -->", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return [line for line in text.splitlines() if line.strip() and not re.match(r"\s*[|#>]|    |!\[|Made by", line)]


def strings(file: Path) -> list[str]:
    """The docstrings of a Python file, with those of its constants, without their examples."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found.append(re.sub(r"^\s*(?:>>>|\.\.\.).*$", "", node.value.value, flags=re.MULTILINE))
    return found


def words_to_avoid(text: str) -> list[str]:
    """Every phrase of the list in a text, with what to write in its place; code in backticks does not count."""
    plain = re.sub(r"`[^`]*`", "", text)
    found = ((re.search(rf"\b(?:{phrase})\b", plain, re.IGNORECASE), better) for phrase, better in PLAIN.items())
    return [f"{match[0]!r}: write {better!r}" for match, better in found if match]


def crowded(lines: list[str]) -> list[str]:
    """The lines with more than one sentence; a bold or italic title before the first one is none."""
    found = []
    for line in lines:
        text = re.sub(r"`[^`]*`", "`x`", ABBREVIATIONS.sub("", line))
        text = re.sub(r"^\s*(?:- |\d+\. )?(\*{1,2})[^*]+[.:?]?\1[.:]?\s", "", text)
        if SENTENCES.search(text):
            found.append(line)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_one_sentence_a_line_and_no_word_of_the_list(page):
    lines = prose(page)
    assert crowded(lines) == []
    assert [(line, found) for line in lines if (found := words_to_avoid(line))] == []


def test_docstrings_have_no_word_of_the_list():
    found = {
        f"{file.relative_to(ROOT)}: {' '.join(text.split())[:80]}": words
        for file in FILES
        for text in strings(file)
        if (words := words_to_avoid(text))
    }
    assert found == {}


def test_messages_say_held_out_rows_too():
    """They are no docstrings, and quote names and code: of the list only this phrase is looked for in them."""
    assert [str(file.relative_to(ROOT)) for file in FILES if "rows held out" in file.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize(
    "text",
    [
        "The rows held out are others.",
        "It is faster than promised.",
        "There is one row a feature.",
    ],
)
def test_words_of_the_list_are_found(text):
    assert len(words_to_avoid(text)) == 1
    assert words_to_avoid(f"`{text}`") == []


def test_two_sentences_on_a_line_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A title. With two.\n\nOne sentence, e.g. this, with `code. In it`.\nTwo of them. On a line.\n"
        "- **Title.** A sentence.\n- An item. And another sentence.\n\n| A cell. | Another. |\n\n"
        "```python\nx = 1  # A comment. Another.\n```\n<!-- table a.json#b -->\nOne. Two.\n<!-- end -->\n"
    )
    assert crowded(prose(page)) == ["Two of them. On a line.", "- An item. And another sentence."]
