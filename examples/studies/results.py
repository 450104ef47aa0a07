"""What the studies of this folder found, for the page about them: from their tables to its tables, numbers and figures.

    cvxsae study run examples/studies/width.toml --folder FOLDER
    python examples/studies/results.py FOLDER --out docs --results examples/results

The table of the study is kept as ``examples/studies/NAME.csv``. ``--out`` takes the figures, ``--results`` a file like
those of ``examples/phenomena``, on the machine that ran the study. Without FOLDER the tables that are kept are read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cvxsae.data.storage import json_text, write_atomically
from cvxsae.parallel.machine import describe
from cvxsae.study.figures import DPI, figures

HERE = Path(__file__).parent


def spoken(value: float, low: float, high: float) -> str:
    """A mean with its interval."""
    return f"{value:.4f} [{low:.4f}, {high:.4f}]".replace("-", "−")


def width(table: pd.DataFrame) -> dict[str, Any]:
    """F against width on rows learned from and held out, and what the trained SAEs lose."""
    rows = table[table["method"] == "learned"].sort_values("n_atoms")
    lines = []
    for _, row in rows.iterrows():
        fell = row["held_out_fall"] == row["held_out_fall"]
        lines.append(
            [
                f"{row['n_atoms']:.0f}",
                spoken(*row[["held_out", "held_out_low", "held_out_high"]]),
                spoken(*row[["held_out_fall", "held_out_fall_low", "held_out_fall_high"]]) if fell else "",
                *(f"{row[name]:.4f}" for name in ("value", "memorization", "floor")),
                f"{row['l0']:.1f}",
                f"{row['fvu']:.2f}",
            ]
        )
    first, last = rows.iloc[0], rows.iloc[-1]
    wide = table[table["method"] == "wide_limit"].iloc[0]
    seen, unseen = first["value"] - last["value"], first["held_out"] - last["held_out"]
    values = {
        "cpu_seconds": f"{table['cpu_seconds'].sum():.0f}",
        "penalty": f"{first['lam'] / wide['lambda_max']:.4f}",
        "fall": f"{seen:.3f}",
        "fall_held_out": f"{unseen:.3f}",
        "memorized": f"{1 - unseen / seen:.0%}",
        "wide": f"{wide['value']:.4f}",
        "wide_held_out": f"{wide['held_out_wide']:.4f}",
        "above_first": f"{first['excess']:.3f}",
        "above_last": f"{last['excess']:.3f}",
        "above_first_held_out": f"{first['held_out'] - wide['held_out_wide']:.3f}",
        "above_last_held_out": f"{last['held_out'] - wide['held_out_wide']:.3f}",
        "floor_64": f"{rows.set_index('n_atoms').loc[64, 'floor']:.4f}",
    }
    for _, row in table[table["method"] == "trained_sae"].iterrows():
        K = f"{row['n_atoms']:.0f}"
        values |= {
            f"sae_{K}": spoken(*row[["held_out", "held_out_low", "held_out_high"]]),
            f"encoder_{K}": f"{row['held_out_loss'] - row['held_out']:.4f}",
            f"gain_{K}": f"{row['dictionary_gap']:.4f}",
            f"gain_held_out_{K}": spoken(*row[["held_out_gap", "held_out_gap_low", "held_out_gap_high"]]),
        }
    columns = ["K", "F on held-out rows, 95 %", "gain over half the width, paired", "F on the training rows"]
    columns += ["memorization", "floor of the training rows", "L0", "FVU"]
    return {"tables": {"widths": {"columns": columns, "rows": lines}}, "values": values}


def penalty(table: pd.DataFrame) -> dict[str, Any]:
    """Live atoms and active atoms against λ and τ."""
    rows = table[table["method"] == "large_dictionary"]
    costs = sorted(rows["atom_cost"].unique())
    columns = ["λ", *(f"τ = {cost:g}" for cost in costs)]
    tables = {}
    for name, form in (("live_atoms", ".0f"), ("l0", ".1f")):
        found = rows.pivot(index="lam", columns="atom_cost", values=name).sort_index()
        cells = [[f"{lam:g}", *(f"{found.loc[lam, cost]:{form}}" for cost in costs)] for lam in found.index]
        tables[name] = {"columns": columns, "rows": cells}
    values = {
        "cpu_seconds": f"{table['cpu_seconds'].sum():.0f}",
        "largest_gap": f"{rows['gap'].max():.1%}",
        "largest_solver_gap": f"{rows['solver_gap'].max():.1%}",
    }
    return {"tables": tables, "values": values}


FOUND = {"width": width, "penalty": penalty}


def results(name: str) -> dict[str, Any]:
    """What the page quotes of a study, from the table that is kept."""
    table = pd.read_csv(HERE / f"{name}.csv")
    made = {"command": f"cvxsae study run examples/studies/{name}.toml", "date": str(table["ended"].max())[:10]}
    return {**made, **FOUND[name](table)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("folders", type=Path, nargs="*", help="folders of the studies, named as they are")
    parser.add_argument("--out", type=Path, help="folder to write the figures into")
    parser.add_argument("--results", type=Path, help="folder to write NAME.json into, for the tables of the page")
    options = parser.parse_args(arguments)
    for folder in options.folders:
        pd.read_csv(folder / "table.csv").drop(columns="platform").to_csv(HERE / f"{folder.name}.csv", index=False)
    for name in FOUND if not options.folders else [folder.name for folder in options.folders]:
        if options.results is not None:
            made = {**results(name), "machine": describe()}
            write_atomically(options.results / f"{name}.json", json_text(made))
        if options.out is not None:
            for kind, figure in figures(pd.read_csv(HERE / f"{name}.csv").convert_dtypes(), name).items():
                if kind != "time":
                    figure.savefig(options.out / f"studies_{kind}.png", dpi=DPI)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
