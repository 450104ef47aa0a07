"""Fill the tables of the pages from the files of results that scripts wrote.

    python docs/tables.py            # fill them
    python docs/tables.py --check    # say which pages differ from their files, and end with 1 if any does

A page shows a table between two comments::

    <!-- table examples/results/which_absorb.json#objectives -->
    <!-- end -->

The file has ``{"command", "date", "machine", "tables": {NAME: {"columns": [...], "rows": [[...]]}}}``.
Below the table stand the command, the machine and the day.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = re.compile(r"(?<=<!-- table )(\S+)#(\S+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)


def table(file: str, name: str) -> str:
    """A table of a file of results, in Markdown, with where it comes from."""
    made = json.loads((ROOT / file).read_text(encoding="utf-8"))
    found = made["tables"][name]
    lines = [found["columns"], ["---"] * len(found["columns"]), *found["rows"]]
    body = "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
    machine = made["machine"]
    where = f"{machine['processor']}, {machine['threads']} threads"
    return f"{body}\n\nMade by `{made['command']}` on {made['date']} ({where}).\n"


def filled(page: str) -> str:
    """A page with its tables as they are in their files now."""
    return TABLE.sub(lambda found: f"{found[1]}#{found[2]}{found[3]}{table(found[1], found[2])}", page)


def pages() -> list[Path]:
    """Every page that may show tables."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def main() -> int:
    """Fill the tables, or check that they are filled."""
    parser = argparse.ArgumentParser(description="Fill the tables of the pages from files of results.")
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
