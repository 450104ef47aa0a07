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
    and the codes <!-- value examples/results/made.json#runs/0/passes:.1f -->3.2<!-- end --> passes.

A file of ``benchmarks/harness.py`` has such tables for every machine: they are shown as one table with a column that
names the machine, rows with the same first cell next to each other. A sentence quotes a column's least and most over
all machines, or over the rows that start with one cell, ``[column|cell]``::

    in <!-- range benchmarks/results/codes.json#problems[encoder passes] -->3.2 to 12.1<!-- end --> passes

A page shows a file of Markdown that a script wrote::

    <!-- include examples/results/made.md -->
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
RANGE = re.compile(r"(?<=<!-- range )(\S+)#(\w+)\[([^]|]+)(\|[^]]+)?\]( -->)(.*?)(?=<!-- end -->)", re.DOTALL)
INCLUDED = re.compile(r"(?<=<!-- include )(\S+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)
MADE = re.compile(r"(?<=<!-- made )(\S+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)


NOT_MEASURED = "Not measured on any machine yet.\n"


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
    """The command, the day and the machine, as a sentence; one for each machine of a file that has several."""
    if "machines" in made:
        return "\n".join(made_on(key, entry) for key, entry in made["machines"].items()) + "\n"
    where = f"{made['machine']['processor']}, {made['machine']['threads']} threads"
    return f"Made by `{made['command']}` on {made['date']} ({where}).\n"


def made_on(key: str, entry: Any) -> str:
    """The commands, days, commits and versions of one machine's cells, as a sentence."""
    machine, made = entry["machine"], [cell["made"] for cell in entry["cells"].values()]
    days = sorted({one["date"] for one in made if one.get("date")})
    when = f" from {days[0]} to {days[-1]}" if len(days) > 1 else f" on {days[0]}" if days else " on a day not recorded"
    commands, commits, versions = (
        list(dict.fromkeys(one[what] for one in made if one.get(what))) for what in ("command", "commit", "torch")
    )
    sets = [] if machine["kind"] == "GPU" else machine["instruction_sets"]
    facts = [" ".join(sets), " and ".join(f"torch {one}" for one in versions), "commit " * bool(commits)]
    facts[-1] += " and ".join(commits)
    told = "; ".join(filter(None, [*facts, machine.get("remark", "")]))
    return f"Made by {' and '.join(f'`{one}`' for one in commands)}{when} on {key}{f' ({told})' if told else ''}."


def entries(made: Any, name: str) -> dict[str, Any]:
    """What holds a table of a file: the entry of each machine that has it, or the file itself, by no name."""
    if "machines" not in made:
        return {"": made}
    return {key: entry for key, entry in made["machines"].items() if name in entry["tables"]}


def table(file: str, name: str) -> str:
    """A table of a file of results, in Markdown, with where it comes from."""
    made = results(file)
    found = entries(made, name)
    if not found:
        return NOT_MEASURED
    tables = {key: entry["tables"][name] for key, entry in found.items()}
    columns = next(iter(tables.values()))["columns"]
    if any(one["columns"] != columns for one in tables.values()):
        sys.exit(f"{file}#{name} has other columns on one machine than on another: run its script with --tables.")
    named = [(key, row) for key, one in tables.items() for row in one["rows"]]
    if len(tables) > 1:
        places = {row[0]: place for place, (_, row) in reversed(list(enumerate(named)))}
        named = [(key, [row[0], key, *row[1:]]) for key, row in sorted(named, key=lambda pair: places[pair[1][0]])]
        columns = [columns[0], "machine", *columns[1:]]
    lines = [columns, ["---"] * len(columns), *(row for _, row in named)]
    body = "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
    notes = {key: one["note"] for key, one in tables.items() if one.get("note")}
    return f"{body}\n\n{noted(notes, len(tables))}{origin({'machines': found} if 'machines' in made else made)}"


def noted(notes: dict[str, str], n_machines: int) -> str:
    """The notes below a table, each with the machines that it is about, unless it is about all of them."""
    found: dict[str, list[str]] = {}
    for key, note in notes.items():
        found.setdefault(note, []).append(key)
    return "".join(
        f"{note}\n" if len(keys) == n_machines else f"On {' and '.join(keys)}: {note}\n" for note, keys in found.items()
    )


def between(file: str, name: str, column: str, first: str) -> str:
    """Least to most of a column's numbers over all machines, as they stand in the tables."""
    numbers = {}
    for entry in entries(results(file), name).values():
        place = entry["tables"][name]["columns"].index(column)
        cells = [row[place] for row in entry["tables"][name]["rows"] if not first or row[0] == first]
        numbers.update({float(cell): cell for cell in cells if re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", cell)})
    least, most = numbers[min(numbers)], numbers[max(numbers)]
    return as_written(least) if least == most else f"{as_written(least)} to {as_written(most)}"


def filled(page: str) -> str:
    """A page with its tables and numbers as they are in their files now."""
    page = TABLE.sub(lambda found: f"{found[1]}#{found[2]}{found[3]}{table(found[1], found[2])}", page)
    page = MADE.sub(lambda found: f"{found[1]}{found[2]}{origin(results(found[1]))}", page)
    page = INCLUDED.sub(lambda found: f"{found[1]}{found[2]}{(ROOT / found[1]).read_text(encoding='utf-8')}", page)
    page = RANGE.sub(ranged, page)
    return VALUE.sub(lambda found: f"{found[1]}#{found[2]}{found[3]}{value(found[1], found[2])}", page)


def ranged(found: re.Match[str]) -> str:
    """The same range, as its file has it now."""
    file, name, column, first, end = found.group(1, 2, 3, 4, 5)
    return f"{file}#{name}[{column}{first or ''}]{end}{between(file, name, column, (first or '')[1:])}"


def pages() -> list[Path]:
    """Every page that may show tables and numbers of results."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/results/*.md")])


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
