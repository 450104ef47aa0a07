"""Fill the tables of ``docs/how-to/json.md`` from what ``--json`` is declared to print.

python docs/schemas.py            # fill them
python docs/schemas.py --check    # change nothing, and end with 1 if the page differs
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cvxsae.cli.schemas import COMMON, SCHEMAS

PAGE = Path(__file__).parent / "how-to" / "json.md"
BEGIN = "<!-- schemas -->\n"


def tables() -> str:
    """Every report in Markdown."""
    lines = ["In every report:", "", *rows(COMMON)]
    for schema in SCHEMAS.values():
        lines += ["", f"### cvxsae {schema.verb}", "", f"`{schema.name}`", "", *rows(schema.fields, schema.sometimes)]
        if schema.is_open:
            lines += ["", "The solver may add numbers of its own."]
    return "\n".join(lines) + "\n"


def rows(fields: dict[str, str], sometimes: dict[str, str] | None = None) -> list[str]:
    """A table of fields."""
    found = [(*field.split(": "), meaning) for field, meaning in fields.items()]
    found += [(*field.split(": "), f"{meaning} (not in every call)") for field, meaning in (sometimes or {}).items()]
    return ["| field | type | meaning |", "|---|---|---|", *(f"| `{n}` | {kind} | {m} |" for n, kind, m in found)]


def filled(page: str) -> str:
    """The page with the tables as they are declared now."""
    return page.partition(BEGIN)[0] + BEGIN + tables()


def main() -> int:
    """Fill the page, or check that it is filled."""
    parser = argparse.ArgumentParser(description="Fill the tables of docs/how-to/json.md.")
    parser.add_argument("--check", action="store_true", help="change nothing, and say whether it differs")
    check = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    if not check:
        PAGE.write_text(filled(text), encoding="utf-8")
    return 1 if check and filled(text) != text else 0


if __name__ == "__main__":
    sys.exit(main())
