"""Where the loss of a trained sparse autoencoder goes, line by line, each with its certificate (theory §7)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cvxsae.errors import CertificateError
from cvxsae.relaxations.solution import GAP_SLACK
from cvxsae.sae.styles import EXACT, FLOOR, LOCAL, SAE, WIDE
from cvxsae.solvers.codes.activity import show_dead, show_l0
from cvxsae.statistics.estimates import Estimate

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from jaxtyping import Float64
    from matplotlib.axes import Axes

GAPS: dict[str, tuple[str, str, str]] = {
    "amortization_gap": ("loss", "exact", "loss due to the encoder, against exact codes"),
    "dictionary_gap": ("exact", "local", "gain of the best dictionary found from the SAE's own, with exact codes"),
    "local_gap": ("local", "floor", "the most that any other dictionary of this width could gain"),
    "width_gap": ("floor", "wide", "a gain that is impossible at this width, and possible with enough atoms"),
}
"""The lines of a ledger: between which two levels, and what they mean."""

LEVELS = {
    "loss": "the SAE, F(D, b, E(X))",
    "exact": "exact codes, F(D, b)",
    "local": "best found, F(D', b')",
    "floor": "floor of this width",
    "wide": "floor of any width",
}
"""The levels of a ledger, from the top down."""

MEMORIZATION = "gain of D' on the rows it was learned on, minus its gain on the held-out rows"
"""The meaning of the last line of a ledger of held-out rows."""

NONE_SHOWN = "none shown"
"""The phrase for a dictionary gap with an interval that contains zero or is below it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LossLedger:
    """The loss of a trained SAE in parts that add up. Values are in units of (P): mean per datapoint.

    ``loss = amortization_gap + dictionary_gap + local_gap + width_gap + wide``. On the rows that D' was learned on no
    line is negative. On held-out rows the dictionary gap can be: D' has not seen them. The other lines, and the levels
    above the floors, are checked when a ledger is made; nothing is clipped.

    Every number is about the rows of the ledger, exactly. ``estimates`` say of some what they are for the distribution
    that the rows were drawn from, with a confidence. The floors are about these rows: in expectation they are below
    those of the distribution (T17 a).

    Attributes
    ----------
    rows
        ``"held out"`` if D' was learned on others, ``"given"`` if on these.
    n_seen
        How many rows D' was learned on, where these are held out; else 0.
    seen_gap
        The dictionary gap on the rows D' was learned on, where these are held out; else None.
    estimates
        On held-out rows, by name: ``loss``, ``exact``, ``local``, ``amortization_gap``, ``dictionary_gap`` (the gaps
        paired row by row or document by document) and ``memorization``, each with an interval for the distribution, at
        the D' that was found; what exact codes leave open is inside the interval. Empty for the given rows.
    loss
        ``F(D, b, E(X))``: the decoder with the encoder's own codes, what training reports; by the referee.
    exact
        ``F(D, b)``: the same decoder with exact codes.
    local
        ``F(D', b')``: the best dictionary found from D, with exact codes.
    floor
        No dictionary of this width has a value below it (T9, T10, T14), with the same freedom of the bias.
    wide
        No dictionary of any width has (T9).
    codes_gap, local_codes_gap
        Certified relative duality gaps of the means ``exact`` and ``local``, recomputed by the referee: the true
        F(D, b) is between ``exact · (1 − codes_gap)`` and ``exact`` (T1).
    codes_ended
        How the search for exact codes of D ended: ``"certified"`` (every row within its tolerance), ``"time_limit"``,
        or another status; empty where that is not known.
    stationarity
        Largest ``‖E_k[r]/λ − d_k‖`` over live atoms of D' (T3), recomputed: zero at a local minimum. Like the next two
        on the rows that D' was learned on.
    bias_residual
        ``‖mean_n r_n‖/λ`` at D' for a free bias (T3); None for a fixed one.
    wide_gap
        Relative gap of the wide limit by the referee.
    floor_theorem
        What proves ``floor``.
    improved
        Whether the search from D found anything better; if not, D' is D.
    bias
        ``"free"`` (D' has its own bias, and the floors hold for every bias) or ``"fixed"`` (at the SAE's).
    n_points, dim, n_atoms, lam, lambda_max
        N, d, K, the penalty, and the smallest one at which the wide limit has no codes.
    l0, exact_l0, local_l0
        Active features per datapoint: by the encoder, at exact codes of D, at exact codes of D'.
    dead, exact_dead
        Features that no datapoint uses: by the encoder, at exact codes of D.
    exact_l0_range, local_l0_range, exact_dead_range
        Between what these are certain to be (:class:`~cvxsae.solvers.codes.activity.Activity`), whatever the tolerance.
    lam_source
        Where λ came from, in words; empty where that is not known.
    notes
        Sentences on what the numbers are about where that is not the plain case: another objective than (P), data that
        are normalized first.
    dictionary, decoder_bias
        D' and b'; None in a ledger read from JSON.
    """

    loss: float
    exact: float
    local: float
    floor: float
    wide: float
    codes_gap: float
    local_codes_gap: float
    stationarity: float
    bias_residual: float | None
    wide_gap: float
    floor_theorem: str
    improved: bool
    bias: Literal["free", "fixed"]
    n_points: int
    dim: int
    n_atoms: int
    lam: float
    lambda_max: float
    l0: float
    exact_l0: float
    local_l0: float
    dead: int
    exact_dead: int
    exact_l0_range: tuple[float, float]
    local_l0_range: tuple[float, float]
    exact_dead_range: tuple[int, int]
    codes_ended: str = ""
    lam_source: str = ""
    notes: tuple[str, ...] = ()
    rows: Literal["given", "held out"] = "given"
    n_seen: int = 0
    seen_gap: float | None = None
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    dictionary: Float64[np.ndarray, "K d"] | None = field(default=None, repr=False)
    decoder_bias: Float64[np.ndarray, " d"] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        checked = {name: (above, below) for name, (above, below, _) in GAPS.items()}
        if self.is_held_out:  # where D' may be worse than D, and both are above the floor
            checked["dictionary_gap"] = ("exact", "floor")
        for name, (above, below) in checked.items():
            size = getattr(self, above) - getattr(self, below)
            if not size >= -GAP_SLACK * abs(self.loss):
                raise CertificateError(
                    f"the {name.replace('_', ' ')} is negative ({size:.3e}): {LEVELS[above]} is "
                    f"{getattr(self, above)!r}, {LEVELS[below]} is {getattr(self, below)!r}; please report this."
                )

    @property
    def is_held_out(self) -> bool:
        """Whether D' was learned on other rows than these."""
        return self.rows == "held out"

    @property
    def shows_better(self) -> bool:
        """Whether D' is better than D: for these rows if D' was learned on them, else for the distribution."""
        gap = self.estimates.get("dictionary_gap")
        return self.dictionary_gap > 0 if gap is None else gap.low > 0

    @property
    def memorization(self) -> float | None:
        """What D' gains on the rows it was learned on less what it gains here; None where these are the same."""
        return None if self.seen_gap is None else self.seen_gap - self.dictionary_gap

    @property
    def amortization_gap(self) -> float:
        """``F(D, b, E(X)) − F(D, b)``: the loss due to the encoder."""
        return self.loss - self.exact

    @property
    def dictionary_gap(self) -> float:
        """``F(D, b) − F(D', b')``: what the better dictionary, found from the SAE's own, gains."""
        return self.exact - self.local

    @property
    def local_gap(self) -> float:
        """``F(D', b') − floor``: the most that any other dictionary of this width could gain."""
        return self.local - self.floor

    @property
    def width_gap(self) -> float:
        """``floor − wide``: what enough atoms, up to one per datapoint, gain over any dictionary of this width."""
        return self.floor - self.wide

    def certificates(self) -> dict[str, str]:
        """What certifies each line, in words."""
        found = f"{'' if self.improved else 'nothing better found, '}stationary to {self.stationarity:.1e}"
        drift = "" if self.bias_residual is None else f", bias to {self.bias_residual:.1e}"
        seen = f" on the {self.n_seen:,} rows it was learned on" if self.is_held_out else ""
        return {
            "amortization_gap": f"codes exact to {self.codes_gap:.1e}",
            "dictionary_gap": f"{found}{drift}{seen}, codes exact to {self.local_codes_gap:.1e}",
            "local_gap": f"floor by {self.floor_theorem}",
            "width_gap": f"wide limit (T9) to {self.wide_gap:.1e}",
        }

    def meanings(self) -> dict[str, str]:
        """What each line means, in words; a dictionary gap whose interval holds zero says that none is shown."""
        said = {name: meaning for name, (_, _, meaning) in GAPS.items()}
        if self.is_held_out:
            none = "" if self.shows_better else f"{NONE_SHOWN}: "
            said["dictionary_gap"] = f"{none}gain of a dictionary learned from it on other rows, with exact codes"
            said["memorization"] = MEMORIZATION
        return said

    def table(self) -> pd.DataFrame:
        """One row per line: amount, share of the loss, interval for the distribution, meaning, certificate.

        The lines and the floor of any width, which comes after them, add up to the loss. Of held-out rows the last row
        is the memorization, which is part of no sum. ``low`` and ``high`` are NaN where there is no interval.
        """
        import pandas as pd

        certificates, meanings = self.certificates(), self.meanings()
        names = [*GAPS, "wide", *(["memorization"] if self.is_held_out else [])]
        said = {**meanings, "wide": "no dictionary of any width is below this"}
        proofs = {**certificates, "wide": "T9", "memorization": certificates["dictionary_gap"]}
        intervals = [self.estimates.get(name, Estimate(float("nan"))) for name in names]
        table = pd.DataFrame(
            {
                "line": [LEVELS.get(name, name.replace("_", " ")) for name in names],
                "amount": [getattr(self, name) for name in names],
                "low": [one.low for one in intervals],
                "high": [one.high for one in intervals],
                "meaning": [said[name] for name in names],
                "certificate": [proofs[name] for name in names],
            }
        )
        table.insert(2, "share", table["amount"] / self.loss if self.loss > 0 else 0.0)
        return table

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON: levels, lines and certificates, without the arrays."""
        arrays = ("dictionary", "decoder_bias")
        levels = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in arrays}
        levels["estimates"] = {name: one.to_dict() for name, one in self.estimates.items()}
        return {**levels, **{name: getattr(self, name) for name in GAPS}, "memorization": self.memorization}

    @classmethod
    def from_dict(cls, report: Mapping[str, Any]) -> LossLedger:
        """The inverse of :meth:`to_dict`, checked again; without the arrays. Reads what older versions wrote too."""
        known = {f.name: report[f.name] for f in fields(cls) if f.name in report}
        parts: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in known.items()}
        estimates = {name: Estimate.from_dict(one) for name, one in report.get("estimates", {}).items()}
        return cls(**{**parts, "estimates": estimates})

    def __str__(self) -> str:
        ratio = f" = {self.lam / self.lambda_max:.4g} lambda_max" if self.lambda_max > 0 else ""
        source = f" ({self.lam_source})" if self.lam_source else ""
        points = f"{self.n_points:,} {'held-out rows' if self.is_held_out else 'datapoints'}"
        lines = [
            f"loss ledger: {self.dim} -> {self.n_atoms}, {points}, "
            f"lambda {self.lam:.6g}{source}{ratio}, {self.bias} bias",
            f"  {LEVELS['loss']:<22}{self.loss:>14.6g}          {self._interval('loss')}"
            f"L0 {self.l0:.1f}, {self.dead} dead features",
        ]
        certificates = self.certificates()
        exact = f"L0 {show_l0(self.exact_l0, self.exact_l0_range)}, dead: {show_dead(self.exact_dead_range)}"
        features = {"exact": f"; {exact}", "local": f"; L0 {show_l0(self.local_l0, self.local_l0_range)}"}
        for name, (_, below, _) in GAPS.items():
            proof = certificates[name] + features.get(below, "")
            lines.append(self._line(name))
            lines.append(f"  {LEVELS[below]:<22}{getattr(self, below):>14.6g}          {self._interval(below)}{proof}")
        if self.is_held_out:
            lines.append(self._line("memorization").replace("- ", "  ", 1))
            lines.append(self._about_intervals())
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _line(self, name: str) -> str:
        """A line, with its share of the loss, its interval, and whether it is one at all."""
        amount = getattr(self, name)
        share = amount / self.loss if self.loss > 0 else 0.0
        none = NONE_SHOWN if name == "dictionary_gap" and self.is_held_out and not self.shows_better else ""
        words = f"    - {name.replace('_', ' '):<18}{amount:>14.6g}  {share:>6.1%}  {self._interval(name)}{none}"
        return words.rstrip()

    def _interval(self, name: str) -> str:
        """The interval of a number, if it has one."""
        found = self.estimates.get(name)
        return "" if found is None or np.isnan(found.low) else f"[{found.low:.6g}, {found.high:.6g}]  "

    def _about_intervals(self) -> str:
        """What the intervals are."""
        one = self.estimates.get("loss")
        if one is None or np.isnan(one.low):
            return "  one row or document is too few for intervals: nothing is said of the distribution"
        units = f"{one.n_units:,} {one.unit}s"
        return f"  [...]: of the distribution, with {100 * one.confidence:.4g}% confidence ({one.method}; {units})"


_COLORS = {
    "amortization_gap": SAE,
    "dictionary_gap": EXACT,
    "local_gap": LOCAL,
    "width_gap": FLOOR,
    "wide": WIDE,
}
"""One color per line of the ledger, in :func:`stack_ledgers`."""


def stack_ledgers(axes: Axes, table: pd.DataFrame) -> None:
    """The ledgers of trained SAEs, stacked, one bar per width: the lines of a ledger are columns of the table."""
    ticks, bottom = np.arange(len(table)), np.zeros(len(table))
    for name in ("wide", *reversed(GAPS)):
        label = "floor of any width" if name == "wide" else name.replace("_", " ")
        heights = table[name].to_numpy(dtype=np.float64)
        axes.bar(ticks, heights, bottom=bottom, color=_COLORS[name], label=label, width=0.7)
        bottom = bottom + heights
    axes.set_xticks(ticks, [str(width) for width in table["n_atoms"]])
    axes.set(xlabel="width K", ylabel="loss per datapoint")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], frameon=False, fontsize="small", bbox_to_anchor=(1, 1), loc="upper left")
