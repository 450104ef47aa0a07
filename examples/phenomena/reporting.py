"""What every script of this folder shares: options, a table, claims that are checked, figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from cvxsae.data.storage import json_text, write_atomically
from cvxsae.parallel.machine import describe


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Options of a script: ``--out FOLDER`` for its figure; the first paragraph of its docstring as help."""
    options = argparse.ArgumentParser(description=(doc or "").partition("\n\n")[0])
    options.add_argument("--out", type=Path, help="folder to write the figure into; none is written without")
    options.add_argument("--results", type=Path, help="folder to write NAME.json into, for the tables of the pages")
    return options


def shown(value: object) -> str:
    """A cell as it is printed: text as it is, numbers to six digits."""
    return value if isinstance(value, str) else f"{value:.6g}"


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under headers, aligned."""
    cells = [list(headers)] + [[shown(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    for row in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    print()


class Results:
    """Tables and numbers of a script, printed as they come and kept with the command, machine and day that made them.

    The pages of ``docs`` show tables between ``<!-- table FILE#TABLE -->`` and ``<!-- end -->``, and quote numbers
    between ``<!-- value FILE#NAME -->`` and ``<!-- end -->`` (``docs/tables.py``).
    """

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, object]] = {}
        self.values: dict[str, str] = {}

    def table(self, name: str, headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table, and keep it under this name with its cells as they were printed."""
        cells = [[shown(value) for value in row] for row in rows]
        table(headers, cells)
        self.tables[name] = {"columns": list(headers), "rows": cells}

    def value(self, name: str, found: float | str, form: str = ".6g") -> None:
        """Keep a single number under this name, as a page quotes it."""
        self.values[name] = found if isinstance(found, str) else format(found, form)

    def save(self, folder: Path | None, name: str, suffix: str = "") -> None:
        """Write ``NAME.json`` of the script NAME, or ``NAME_SUFFIX.json``; nothing without a folder."""
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        made = {
            "command": " ".join(["python", f"examples/phenomena/{name}.py", *sys.argv[1:]]),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": describe(),
            "tables": self.tables,
            "values": self.values,
        }
        path = folder / f"{name}{'_' if suffix else ''}{suffix}.json"
        write_atomically(path, json_text(made))
        print(f"results: {path}")


class Claims:
    """Claims as they are checked; ``exit_code`` is 1 once one has failed."""

    def __init__(self) -> None:
        self.exit_code = 0

    def check(self, claim: str, holds: object) -> None:
        """Print the claim with its verdict."""
        print(f"{'holds ' if holds else 'FAILS '} {claim}")
        if not holds:
            self.exit_code = 1

    def close(self, claim: str, measured: float, expected: float, tol: float) -> None:
        """Claim that two numbers agree to within ``tol``, absolute."""
        difference = abs(measured - expected)
        detail = f"{measured:.8g}, expected {expected:.8g}, difference {difference:.1e} ≤ {tol:.0e}"
        self.check(f"{claim}: {detail}", difference <= tol)


MARKERS = "os^D"
"""A marker for each line of a panel, so that lines differ by more than their color."""

COLORS = ("#0072b2", "#e69f00", "#444444", "#cc79a7")
"""Colors that a color-blind reader can tell apart (Okabe and Ito), with a dark gray in the place of green."""


def plain_ticks(axis: Axis, ticks: Sequence[float]) -> None:
    """Label a logarithmic axis at these numbers only, as they are written."""
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def cosine_map(axes: Axes, cosines: np.ndarray) -> None:
    """Cosines as colors from −1 to 1, blue to red through white, with their bar."""
    image = axes.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.figure.colorbar(image, ax=axes, label="cosine", ticks=[-1, -0.5, 0, 0.5, 1])


def best_match(atoms: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each wanted unit vector the index of the atom with the largest cosine, and 1 − that cosine."""
    cosines = wanted @ atoms.T
    return cosines.argmax(axis=1), 1 - cosines.max(axis=1)


def save(figure: Figure, folder: Path | None, name: str) -> None:
    """Write ``phenomena_NAME.png``, small enough for a repository; nothing without a folder."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"phenomena_{name}.png"
        figure.savefig(path, dpi=80)
        print(f"figure: {path}")
