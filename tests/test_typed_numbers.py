"""No measurement is typed into a page by hand: numbers come from files of results, but for those listed here.

A page may type what is defined or chosen (a tolerance, a limit, a threshold): those are in ``typed_numbers.toml``, page
by page, as they are written. Numbers that no script can repeat stand under a heading that says so.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
ALLOWED = tomllib.loads((Path(__file__).parent / "typed_numbers.toml").read_text(encoding="utf-8"))

GENERATED = re.compile(r"<!-- (table|value|range|made|include) .*?<!-- end -->", re.DOTALL)
CODE = re.compile(r"^( *)(```|~~~)(?s:.*?)^\1\2|^\n(?: {4,}.*\n)+|`[^`\n]*`", re.MULTILINE)
ELSEWHERE = re.compile(r"\]\([^)]*\)|arXiv:? ?\d+\.\d+|https?://\S+")
BY_HAND = re.compile(r"^(#+) Measured once, by hand\b.*?(?=^\1 |\Z)", re.DOTALL | re.MULTILINE)
CHOSEN = re.compile(
    r"(?<![\w/])(?:λ|τ̄?|p|ρ|c|σ|S|α|β|γ|ε|k|K|N|d|n|tol|θ)(?:/\w+)? [=≤≥<>] "  # what a setting is set to
    r"[−\d](?:[\d.e−-]|,(?=\d))*(?:, [\d.]+)*(?: (?:and|or|to) [\d.]+)?"
)
UNIT = r"(?:%|×(?! *\d)|(?:CPU seconds|s|ms|µs|GiB|MiB|kB|GB|MB|KB|seconds?|minutes?|hours?|times|percent)\b)"
NUMBER = re.compile(rf"(?<![\w.#/])[−-]?\d[\d,]*(?:(?:\.\d+)?(?:e[-−]?\d+)? ?{UNIT}|(?:\.\d+)?e[-−]?\d+|\.\d+)")


def typed(page: str) -> list[str]:
    """Numbers of a page that look measured: with a unit, a percent sign, decimals or a power of ten."""
    for left_out in (BY_HAND, GENERATED, CODE, ELSEWHERE, CHOSEN):
        page = left_out.sub("", page)
    return [found[0] for found in NUMBER.finditer(page)]


def test_every_measurement_comes_from_a_file_of_results():
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        unknown = set(typed(page.read_text(encoding="utf-8"))) - {*ALLOWED["every page"], *ALLOWED.get(name, ())}
        assert not unknown, (
            f"{name}: {sorted(unknown)}. A measurement is written into a file by a script and quoted from there "
            "(docs/tables.py); what is defined or chosen goes on the list of tests/typed_numbers.toml."
        )


def test_the_list_has_no_page_that_is_gone():
    assert set(ALLOWED) <= {"every page", *(str(page.relative_to(ROOT)) for page in PAGES)}


def test_a_typed_measurement_is_noticed():
    assert typed("It takes 162 CPU seconds, 3.5 GB and 12 % of it; 39 times as fast, to 4e-7, or 0.387.") == [
        "162 CPU seconds", "3.5 GB", "12 %", "39 times", "4e-7", "0.387",
    ]  # fmt: skip
    assert typed("| K | F |\n|--|--|\n| 2 | −0.5 |\n") == ["−0.5"]
    quoted = "A <!-- value made.json#share -->92 %<!-- end -->.\n<!-- table a.json#b -->\n| 0.5 |\n<!-- end -->\n"
    code = "`tol=1e-6` and\n\n```sh\ntime 3 s\n```\n\n    F = 0.25\n\n"
    chosen = "At λ = 0.08, p = 0.1, 0.2 and 0.35, with 4 atoms and T10 of arXiv 2508.16560.\n"
    by_hand = "## Measured once, by hand, on 2026-11-22\n\n0.5 s\n\n### More\n\n0.25\n"
    assert not typed(quoted + code + chosen + by_hand)
    assert typed(f"{code}It is 0.5.\n\n{code}") == ["0.5"]
    assert typed(f"{by_hand}\n## Now\n\n0.75\n") == ["0.75"]
