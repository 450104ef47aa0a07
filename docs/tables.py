"""Fill the tables and the numbers of the pages from the files of results that scripts wrote.

    python docs/tables.py            # fill them
    python docs/tables.py --check    # say which pages differ from their files, and end with 1 if any does

A page shows a table between two comments::

    <!-- table examples/results/which_absorb.json#objectives -->
    <!-- end -->

The file has ``{"command", "date", "machine", "tables": {NAME: {"columns": [...], "rows": [[...]]}}, "values": {NAME:
TEXT}}``. Below the table stand the command, the machine and the day.

A sentence quotes a single number, never at the start of a line, where Markdown would end the paragraph. It is one of
the values, or lies anywhere in the file, by its path and the format it is shown in::

    The pair costs <!-- value examples/results/dense_antipodal.json#ratio -->0.529<!-- end --> of one atom,
    and the codes <!-- value benchmarks/results/codes.json#results/0/0/passes:.1f -->3.2<!-- end --> passes.

A page shows a file of Markdown that a script wrote::

    <!-- include benchmarks/results/population.md -->
    <!-- end -->

and a page that shows no table of that file says once where its numbers come from::

    <!-- made examples/results/dense_antipodal.json -->
    <!-- end -->
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TABLE = re.compile(r"(?<=<!-- table )(\S+)#(\S+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)

VALUE = re.compile(r"(?<=<!-- value )([^\s#]+)#(.+?)( -->)(.*?)(?=<!-- end -->)")
INCLUDED = re.compile(r"(?<=<!-- include )(\S+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)
MADE = re.compile(r"(?<=<!-- made )(\S+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)


def results(file: str) -> Any:
    """A file of results."""
    return json.loads((ROOT / file).read_text(encoding="utf-8"))


def value(file: str, name: str) -> str:
    """A number of a file of results: one of its values, or what is at ``path/to/it:format``."""
    path, _, form = name.partition(":")
    found = results(file)
    if not form:
        return as_written(str(found["values"][name]))
    for key in path.split("/"):
        found = found[int(key) if isinstance(found, list) else key]
    return as_written(format(found, form))


def as_written(text: str) -> str:
    """A number as pages write it: 2e-7 for 2e-07, 5 % for 5%, and a minus sign for a hyphen in front."""
    text = re.sub(r"e([-+])0*(?=\d)", lambda found: "e" + found[1].strip("+"), text)
    return re.sub("^-", "−", text.replace("%", " %"))


def origin(made: Any) -> str:
    """The command, the day and the machine, as a sentence."""
    where = f"{made['machine']['processor']}, {made['machine']['threads']} threads"
    return f"Made by `{made['command']}` on {made['date']} ({where}).\n"


def table(file: str, name: str) -> str:
    """A table of a file of results, in Markdown, with where it comes from."""
    made = results(file)
    found = made["tables"][name]
    lines = [found["columns"], ["---"] * len(found["columns"]), *found["rows"]]
    body = "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"{body}\n\n{origin(made)}"


def filled(page: str) -> str:
    """A page with its tables and numbers as they are in their files now."""
    page = TABLE.sub(lambda found: f"{found[1]}#{found[2]}{found[3]}{table(found[1], found[2])}", page)
    page = MADE.sub(lambda found: f"{found[1]}{found[2]}{origin(results(found[1]))}", page)
    page = INCLUDED.sub(lambda found: f"{found[1]}{found[2]}{(ROOT / found[1]).read_text(encoding='utf-8')}", page)
    return VALUE.sub(lambda found: f"{found[1]}#{found[2]}{found[3]}{value(found[1], found[2])}", page)


def pages() -> list[Path]:
    """Every page that may show tables and numbers of results."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def main() -> int:
    """Fill the pages, or check that they are filled."""
    parser = argparse.ArgumentParser(description="Fill the tables and numbers of the pages from files of results.")
    parser.add_argument("--check", action="store_true", help="change nothing, and say what differs")
    check = parser.parse_args().check
    changed = [page for page in pages() if filled(text := page.read_text(encoding="utf-8")) != text]
    for page in changed:
        print(f"{page.relative_to(ROOT)}: {'differs from' if check else 'filled from'} its results")
        if not check:
            page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
