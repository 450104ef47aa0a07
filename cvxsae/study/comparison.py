"""The result of a comparison over widths: ledgers, best dictionaries and floors, in a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.errors import CertificateError
from cvxsae.relaxations.solution import GAP_SLACK
from cvxsae.sae.audits.ledger import GAPS, LossLedger, stack_ledgers
from cvxsae.sae.styles import EXACT, FLOOR, LEARNED, SAE, WIDE
from cvxsae.statistics.estimates import Estimate

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutWidth:
    """The results of one width on held-out rows, with intervals for the distribution they come from (T17 b).

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
        sure = self.exact
        how = {"confidence": sure.confidence, "method": sure.method, "unit": sure.unit, "n_units": sure.n_units}
        return {**columns, "held_out_wide": self.wide, **{f"held_out_{name}": value for name, value in how.items()}}

    @property
    def has_intervals(self) -> bool:
        """Whether there are intervals: of one row or document there are none."""
        return not np.isnan(self.exact.low)

    @property
    def said(self) -> str:
        """What the intervals are: confidence, unit and method."""
        one = self.exact
        if not self.has_intervals:
            return f"there are no intervals of one {one.unit}"
        return f"intervals: {100 * one.confidence:.4g} %, {one.method}, {one.n_units:,} {one.unit}s"

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
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

    What is held out is in ``ledger`` and ``held_out``; all else is of the rows learned from.

    Attributes
    ----------
    ledger
        That of the trained SAE, on the held-out rows, with intervals for the distribution; without any, ``sample``.
    sample
        The same on the rows that were learned from.
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
        The same width on rows that nothing was learned from; None without any.
    """

    ledger: LossLedger
    sample: LossLedger
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
        if self.best < self.sample.floor - GAP_SLACK * abs(self.best):
            raise CertificateError(
                f"a dictionary of {self.sample.n_atoms} atoms attains {self.best!r}, below the floor "
                f"{self.sample.floor!r} of that width; please report this."
            )

    def row(self) -> dict[str, Any]:
        """One row of the table."""
        names = ("loss", "exact", "local")
        sparsity = ("l0", "exact_l0", "local_l0", "dead", "exact_dead")
        certificates = ("codes_gap", "local_codes_gap", "stationarity", "bias_residual", "wide_gap")
        tail = ("floor", "wide", *GAPS, "floor_theorem", *sparsity, *certificates)
        own = [f.name for f in fields(self) if f.name not in _PARTS]
        held_out = {} if self.held_out is None else {**self.held_out.row(), **self._lines_held_out()}
        return {
            "n_atoms": self.sample.n_atoms,
            **held_out,
            **{name: getattr(self.sample, name) for name in names},
            "best": self.best,
            **{name: getattr(self.sample, name) for name in tail},
            "best_gap": self.best - self.sample.floor,
            **{name: getattr(self, name) for name in own if name != "best"},
        }

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _PARTS}
        held_out = {} if self.held_out is None else {"held_out": self.held_out.to_dict()}
        return {**held_out, "ledger": self.ledger.to_dict(), "sample": self.sample.to_dict(), **own}

    def _lines_held_out(self) -> dict[str, Any]:
        """The ledger of the held-out rows, but for what :class:`HeldOutWidth` has of it."""
        lost = self.ledger.estimates["amortization_gap"]
        names = ("local", "floor", "local_gap", "width_gap", "memorization", "floor_theorem")
        ends = {"": lost.value, "_low": lost.low, "_high": lost.high}
        return {
            **{f"held_out_amortization_gap{end}": value for end, value in ends.items()},
            **{f"held_out_{name}": getattr(self.ledger, name) for name in names},
        }

    @classmethod
    def from_dict(cls, report: Mapping[str, Any]) -> WidthResult:
        """The inverse of :meth:`to_dict`."""
        own = {f.name: report[f.name] for f in fields(cls) if f.name not in _PARTS}
        held_out = HeldOutWidth.from_dict(report["held_out"]) if "held_out" in report else None
        ledger = LossLedger.from_dict(report["ledger"])
        sample = LossLedger.from_dict(report["sample"]) if ledger.is_held_out else ledger
        return cls(**own, ledger=ledger, sample=sample, held_out=held_out)


_PARTS = ("ledger", "sample", "held_out")
"""What a width has beside numbers of its own."""

_HELD_OUT = (
    ("held_out_exact", "SAE's dictionary, held-out rows", EXACT),
    ("held_out_grown", "learned dictionary, held-out rows", LEARNED),
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Ledgers, best dictionaries and floors by width.

    Attributes
    ----------
    results
        One for each width, in increasing order.
    settings
        The arguments of the call.
    dictionaries
        The grown dictionary (K, d) and bias (d,) of each width.
    notes
        What has to be said of the rows, a sentence each, without a period.
    """

    results: tuple[WidthResult, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    dictionaries: tuple[tuple[np.ndarray, np.ndarray], ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """One row per width; what is held out begins with ``held_out_``, all else is of the rows learned from."""
        import pandas as pd

        return pd.DataFrame([result.row() for result in self.results])

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        results = [result.to_dict() for result in self.results]
        return {"settings": self.settings, "notes": list(self.notes), "results": results}

    def figure(self) -> Figure:
        """Left: the ledgers, stacked by width. Right: what is attained and what cannot be, against width."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 4.5), layout="constrained")
        stacked, lines = figure.subplots(1, 2)
        self.draw_ledgers(stacked)
        self.draw_levels(lines)
        return figure

    def draw_ledgers(self, axes: Axes) -> None:
        """The ledgers of the trained SAEs, stacked, one bar per width: of the held-out rows, if there are any."""
        import pandas as pd

        names = ("n_atoms", "wide", *GAPS)
        lines = [{name: getattr(result.ledger, name) for name in names} for result in self.results]
        stack_ledgers(axes, pd.DataFrame(lines, columns=names))
        where = ", held-out rows" if any(result.ledger.is_held_out for result in self.results) else ""
        axes.set_title(f"Where the loss of a trained SAE goes{where}")

    def draw_levels(self, axes: Axes) -> None:
        """What is attained, and the floors, against width."""
        table = self.table()
        lines: tuple[tuple[str, str, dict[str, Any]], ...] = (
            ("loss", "trained SAE", {"color": SAE, "marker": "o"}),
            ("exact", "its dictionary, exact codes", {"color": EXACT, "marker": "s"}),
            ("best", "best dictionary found", {"color": LEARNED, "marker": "D"}),
            ("floor", "no dictionary of that width is below", {"color": FLOOR, "marker": "_"}),
            ("wide", "no dictionary of any width is below", {"color": WIDE, "linestyle": "--"}),
        )
        for column, label, style in lines:
            axes.plot(table["n_atoms"], table[column], label=label, **style)
        for column, label, color in _HELD_OUT if "held_out_exact" in table else ():
            axes.plot(table["n_atoms"], table[column], label=label, color=color, marker="x", linestyle="-.")
            low, high = (table[f"{column}{end}"] for end in ("_low", "_high"))
            axes.fill_between(table["n_atoms"], low, high, color=color, alpha=0.15, linewidth=0)
        axes.fill_between(table["n_atoms"], table["floor"], color=FLOOR, alpha=0.12)
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.set(xlabel="width K", ylabel="loss per datapoint", title="What is attained, and what cannot be")
        seen = [result.held_out for result in self.results if result.held_out is not None]
        title = f"{'shaded ' if seen[0].has_intervals else ''}{seen[0].said}" if seen else None
        axes.legend(framealpha=0.9, fontsize="small", title=title, title_fontsize="x-small")
