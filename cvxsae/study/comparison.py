"""What a comparison over widths found: ledgers, best dictionaries and floors, in a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.errors import CertificateError
from cvxsae.relaxations.solution import GAP_SLACK
from cvxsae.sae.audits.ledger import GAPS, LossLedger, stack_ledgers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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

    def __post_init__(self) -> None:
        if self.best < self.ledger.floor - GAP_SLACK * abs(self.best):
            raise CertificateError(
                f"a dictionary of {self.ledger.n_atoms} atoms attains {self.best!r}, below the floor "
                f"{self.ledger.floor!r} of that width; please report this."
            )

    def row(self) -> dict[str, Any]:
        """One row of the table."""
        names = ("n_atoms", "loss", "exact", "local")
        sparsity = ("l0", "exact_l0", "local_l0", "dead", "exact_dead")
        certificates = ("codes_gap", "local_codes_gap", "stationarity", "bias_residual", "wide_gap")
        tail = ("floor", "wide", *GAPS, "floor_theorem", *sparsity, *certificates)
        own = [f.name for f in fields(self) if f.name != "ledger"]
        return {
            **{name: getattr(self.ledger, name) for name in names},
            "best": self.best,
            **{name: getattr(self.ledger, name) for name in tail},
            "best_gap": self.best - self.ledger.floor,
            **{name: getattr(self, name) for name in own if name != "best"},
        }

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "ledger"}
        return {"ledger": self.ledger.to_dict(), **own}

    @classmethod
    def from_dict(cls, report: Mapping[str, Any]) -> WidthResult:
        """The inverse of :meth:`to_dict`."""
        parts = {f.name: report[f.name] for f in fields(cls)}
        return cls(**{**parts, "ledger": LossLedger.from_dict(report["ledger"])})


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
        axes.fill_between(table["n_atoms"], table["floor"], color="#4f81bd", alpha=0.12)
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.set(xlabel="width K", title="What is attained, and what cannot be")
        axes.legend(frameon=False, fontsize="small")
