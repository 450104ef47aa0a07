"""What a comparison over widths found: ledgers, best dictionaries and floors, in a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.errors import CertificateError
from cvxsae.relaxations.solution import GAP_SLACK
from cvxsae.sae.audits.ledger import GAPS, LossLedger, stack_ledgers
from cvxsae.statistics.estimates import Estimate

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutWidth:
    """One width on rows that nothing was learned from, for the distribution they come from (T17 b).

    Attributes
    ----------
    loss
        Of the SAE by its own encoder.
    exact
        Of its dictionary with exact codes.
    grown
        Of the dictionary learned at this width, or grown to it.
    dictionary_gap
        exact − local: what the best dictionary found from the SAE's own gains, paired row by row.
    sae_gap
        exact − grown: what the one learned without the SAE gains, paired.
    fall
        What the grown one gains over that of the next narrower width, paired; None at the narrowest.
    wide
        Lower bound of every dictionary of any width on these rows (T9).
    """

    loss: float
    exact: Estimate
    grown: Estimate
    dictionary_gap: Estimate
    sae_gap: Estimate
    fall: Estimate | None
    wide: float

    def row(self) -> dict[str, Any]:
        """Columns of the table: each number, and where it has an interval the ends of it."""
        columns: dict[str, Any] = {"held_out_loss": self.loss}
        for name in ("exact", "grown", "dictionary_gap", "sae_gap", "fall"):
            estimate = getattr(self, name)
            nothing = float("nan")
            ends = (nothing,) * 3 if estimate is None else (estimate.value, estimate.low, estimate.high)
            columns |= {f"held_out_{name}{end}": value for end, value in zip(("", "_low", "_high"), ends, strict=True)}
        return {**columns, "held_out_wide": self.wide}

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value.to_dict() if isinstance(value, Estimate) else value for name, value in held.items()}

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> HeldOutWidth:
        """The inverse of :meth:`to_dict`."""
        held: dict[str, Any] = {n: Estimate.from_dict(v) if isinstance(v, Mapping) else v for n, v in known.items()}
        return cls(**held)


@dataclass(frozen=True, kw_only=True, eq=False)
class WidthResult:
    """One width of a comparison. Values are in units of (P): mean per datapoint.

    Attributes
    ----------
    ledger
        That of the trained SAE.
    best
        Lowest F(D, b) found at this width with exact codes: by growing from narrower widths, from the SAE, or (a
        dictionary may leave atoms unused) at a narrower width.
    best_from
        Which of these: ``"grown"``, ``"sae"`` or ``"narrower"``.
    best_codes_gap, best_stationarity
        Certificates of the grown dictionary: relative duality gap of the mean, and largest residual of T3.
    grown
        What the grown dictionary itself attains.
    train_seconds, learn_seconds, floor_seconds, seconds
        Wall-clock time: training, growing, the floor, all for this width.
    held_out
        The same width on rows that nothing was learned from; None without any. All else here is of the rows learned
        from.
    """

    ledger: LossLedger
    best: float
    best_from: str
    grown: float
    best_codes_gap: float
    best_stationarity: float
    train_seconds: float
    learn_seconds: float
    floor_seconds: float
    seconds: float
    held_out: HeldOutWidth | None = None

    def __post_init__(self) -> None:
        if self.best < self.ledger.floor - GAP_SLACK * abs(self.best):
            raise CertificateError(
                f"a dictionary of {self.ledger.n_atoms} atoms attains {self.best!r}, below the floor "
                f"{self.ledger.floor!r} of that width; please report this."
            )

    def row(self) -> dict[str, Any]:
        """One row of the table."""
        names = ("loss", "exact", "local")
        sparsity = ("l0", "exact_l0", "local_l0", "dead", "exact_dead")
        certificates = ("codes_gap", "local_codes_gap", "stationarity", "bias_residual", "wide_gap")
        tail = ("floor", "wide", *GAPS, "floor_theorem", *sparsity, *certificates)
        own = [f.name for f in fields(self) if f.name not in ("ledger", "held_out")]
        held_out = {} if self.held_out is None else self.held_out.row()
        return {
            "n_atoms": self.ledger.n_atoms,
            **held_out,
            **{name: getattr(self.ledger, name) for name in names},
            "best": self.best,
            **{name: getattr(self.ledger, name) for name in tail},
            "best_gap": self.best - self.ledger.floor,
            **{name: getattr(self, name) for name in own if name != "best"},
        }

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("ledger", "held_out")}
        held_out = {} if self.held_out is None else {"held_out": self.held_out.to_dict()}
        return {**held_out, "ledger": self.ledger.to_dict(), **own}

    @classmethod
    def from_dict(cls, report: Mapping[str, Any]) -> WidthResult:
        """The inverse of :meth:`to_dict`."""
        parts = {f.name: report[f.name] for f in fields(cls) if f.name != "held_out"}
        held_out = HeldOutWidth.from_dict(report["held_out"]) if "held_out" in report else None
        return cls(**{**parts, "ledger": LossLedger.from_dict(report["ledger"]), "held_out": held_out})


_HELD_OUT = (
    ("held_out_exact", "SAE's dictionary, rows held out", "#e8a33d"),
    ("held_out_grown", "learned dictionary, rows held out", "#2c7a3f"),
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Ledgers, best dictionaries and floors by width.

    Attributes
    ----------
    results
        One for each width, in increasing order.
    settings
        What was asked for.
    dictionaries
        The grown dictionary (K, d) and bias (d,) of each width.
    """

    results: tuple[WidthResult, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    dictionaries: tuple[tuple[np.ndarray, np.ndarray], ...] = field(default=(), repr=False)

    def table(self) -> pd.DataFrame:
        """One row a width."""
        import pandas as pd

        return pd.DataFrame([result.row() for result in self.results])

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"settings": self.settings, "results": [result.to_dict() for result in self.results]}

    def figure(self) -> Figure:
        """Left: the ledgers, stacked by width. Right: what is attained and what cannot be, against width."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 4.5), layout="constrained")
        stacked, lines = figure.subplots(1, 2)
        self.draw_ledgers(stacked)
        self.draw_levels(lines)
        return figure

    def draw_ledgers(self, axes: Axes) -> None:
        """The ledgers of the trained SAEs, stacked, one bar a width."""
        stack_ledgers(axes, self.table())
        axes.set_title("Where the loss of a trained SAE goes")

    def draw_levels(self, axes: Axes) -> None:
        """What is attained, and the floors, against width."""
        table = self.table()
        lines: tuple[tuple[str, str, dict[str, Any]], ...] = (
            ("loss", "trained SAE", {"color": "#c0504d", "marker": "o"}),
            ("exact", "its dictionary, exact codes", {"color": "#e8a33d", "marker": "s"}),
            ("best", "best dictionary found", {"color": "#2c7a3f", "marker": "D"}),
            ("floor", "no dictionary of that width is below", {"color": "#4f81bd", "marker": "_"}),
            ("wide", "no dictionary of any width is below", {"color": "#1f4e79", "linestyle": "--"}),
        )
        for column, label, style in lines:
            axes.plot(table["n_atoms"], table[column], label=label, **style)
        for column, label, color in _HELD_OUT if "held_out_exact" in table else ():
            axes.plot(table["n_atoms"], table[column], label=label, color=color, marker="x", linestyle="-.")
            low, high = (table[f"{column}{end}"] for end in ("_low", "_high"))
            axes.fill_between(table["n_atoms"], low, high, color=color, alpha=0.15, linewidth=0)
        axes.fill_between(table["n_atoms"], table["floor"], color="#4f81bd", alpha=0.12)
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.set(xlabel="width K", title="What is attained, and what cannot be")
        axes.legend(frameon=False, fontsize="small")
