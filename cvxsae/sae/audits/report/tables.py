"""Tables as plain data: columns with titles, units and kinds, and rows of what JSON can hold."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

Kind = Literal["number", "count", "share", "text", "sentence"]
"""How a cell is shown: six digits, a whole number, a percentage, or as it is, in a narrow column or in a wide one."""

WORDS = ("text", "sentence")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    name
        Its name in the source of the table.
    title
        What stands above it.
    kind
        How it is shown.
    unit
        In what units; empty for none.
    """

    name: str
    title: str
    kind: Kind = "number"
    unit: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return a dictionary for JSON."""
        return {"name": self.name, "title": self.title, "kind": self.kind, "unit": self.unit}


def table(title: str, about: str, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """A table, ready for JSON: its title, a sentence on what it holds, columns and rows."""
    return {
        "title": title,
        "about": about,
        "columns": [column.to_dict() for column in columns],
        "rows": [[_cell(value, column.kind) for value, column in zip(row, columns, strict=True)] for row in rows],
    }


def from_frame(title: str, about: str, columns: Sequence[Column], frame: pd.DataFrame) -> dict[str, Any]:
    """The same from the columns of a data frame, or from its index where that has the name."""
    held = frame.reset_index() if frame.index.name in {column.name for column in columns} else frame
    names = [column.name for column in columns]
    return table(title, about, columns, held[names].astype(object).itertuples(index=False, name=None))


def _cell(value: Any, kind: Kind) -> Any:
    from cvxsae.data.storage import strict_json

    number = strict_json(value)
    if number is None or kind in WORDS:
        return None if number is None else str(number)
    return int(number) if kind == "count" and float(number).is_integer() else number


def merged(table: dict[str, Any]) -> list[tuple[int, tuple[int, ...]]]:
    """The columns that the page shows, each with those of the ends of its intervals, which it shows beside it."""
    names = [column["name"] for column in table["columns"]]
    lows = {place for place, (low, high) in enumerate(pairwise(names)) if low.endswith("low") and high.endswith("high")}
    ends = lows | {place + 1 for place in lows}
    own = [place for place in range(len(names)) if place not in ends]
    return [(place, (place + 1, place + 2) if place + 1 in lows else ()) for place in own]


DIGITS = 6
"""Significant digits that the page shows; ``report.json`` has all."""

NOTHING = "–"
"""What the page shows where there is no number."""


_FORMULA = re.compile(r"F\([^;]*?\)+")
"""A loss with its arguments, which the page does not break into lines."""


def shown(value: Any, kind: Kind = "number") -> str:
    """A cell as the page shows it."""
    if value is None:
        return NOTHING
    if kind in WORDS or isinstance(value, str | bool):
        return _FORMULA.sub(lambda found: found[0].replace(" ", "\u00a0"), str(value))
    if kind == "share":
        return f"{value:.2%}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{DIGITS}g}"
