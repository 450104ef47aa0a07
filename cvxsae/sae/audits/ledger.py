"""Where the loss of a trained sparse autoencoder goes, line by line, each with its certificate (theory §7)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cvxsae.errors import CertificateError
from cvxsae.relaxations.solution import GAP_SLACK
from cvxsae.solvers.codes.activity import show_dead, show_l0

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from jaxtyping import Float64
    from matplotlib.axes import Axes

GAPS: dict[str, tuple[str, str, str]] = {
    "amortization_gap": ("loss", "exact", "the encoder against exact codes"),
    "dictionary_gap": ("exact", "local", "the dictionary against the best found from it, at exact codes"),
    "local_gap": ("local", "floor", "all that a better dictionary of this width could gain, at most"),
    "width_gap": ("floor", "wide", "what is left to wider dictionaries, at least"),
}
"""The lines of a ledger: between which two levels, and what they mean."""

LEVELS = {
    "loss": "F(D, b, E(X))",
    "exact": "F(D, b)",
    "local": "F(D', b')",
    "floor": "floor of this width",
    "wide": "floor of any width",
}
"""The levels of a ledger, from the top down."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LossLedger:
    """The loss of a trained SAE, taken apart. Values are in units of (P): mean per datapoint.

    ``loss = amortization_gap + dictionary_gap + local_gap + width_gap + wide``, and no line is negative: that is
    checked when a ledger is made, and never clipped.

    Attributes
    ----------
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
    stationarity
        Largest ``‖E_k[r]/λ − d_k‖`` over live atoms of D' (T3), recomputed: zero at a local minimum.
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
    lam_source: str = ""
    notes: tuple[str, ...] = ()
    dictionary: Float64[np.ndarray, "K d"] | None = field(default=None, repr=False)
    decoder_bias: Float64[np.ndarray, " d"] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, (above, below, _) in GAPS.items():
            size = getattr(self, above) - getattr(self, below)
            if not size >= -GAP_SLACK * abs(self.loss):
                raise CertificateError(
                    f"the {name.replace('_', ' ')} is negative ({size:.3e}): {LEVELS[above]} is "
                    f"{getattr(self, above)!r}, {LEVELS[below]} is {getattr(self, below)!r}; please report this."
                )

    @property
    def amortization_gap(self) -> float:
        """``F(D, b, E(X)) − F(D, b)``: what the encoder loses."""
        return self.loss - self.exact

    @property
    def dictionary_gap(self) -> float:
        """``F(D, b) − F(D', b')``: what training left to be gained around its own dictionary."""
        return self.exact - self.local

    @property
    def local_gap(self) -> float:
        """``F(D', b') − floor``: at most this is to be gained from a better dictionary of this width."""
        return self.local - self.floor

    @property
    def width_gap(self) -> float:
        """``floor − wide``: at least this is left to wider dictionaries."""
        return self.floor - self.wide

    def certificates(self) -> dict[str, str]:
        """What stands behind each line, in words."""
        found = f"{'' if self.improved else 'nothing better found, '}stationary to {self.stationarity:.1e}"
        drift = "" if self.bias_residual is None else f", bias to {self.bias_residual:.1e}"
        return {
            "amortization_gap": f"codes exact to {self.codes_gap:.1e}",
            "dictionary_gap": f"{found}{drift}, codes exact to {self.local_codes_gap:.1e}",
            "local_gap": f"floor by {self.floor_theorem}",
            "width_gap": f"wide limit (T9) to {self.wide_gap:.1e}",
        }

    def table(self) -> pd.DataFrame:
        """One row a line: amount, share of the loss, meaning, certificate; the last row is the floor of any width."""
        import pandas as pd

        certificates = self.certificates()
        names = [*(name.replace("_", " ") for name in GAPS), LEVELS["wide"]]
        meanings = [*(meaning for _, _, meaning in GAPS.values()), "no dictionary of any width is below"]
        amounts = [*(getattr(self, name) for name in GAPS), self.wide]
        proofs = [*(certificates[name] for name in GAPS), "T9"]
        table = pd.DataFrame({"line": names, "amount": amounts, "meaning": meanings, "certificate": proofs})
        table.insert(2, "share", table["amount"] / self.loss if self.loss > 0 else 0.0)
        return table

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: levels, lines and certificates, without the arrays."""
        levels = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("dictionary", "decoder_bias")}
        return {**levels, **{name: getattr(self, name) for name in GAPS}}

    @classmethod
    def from_dict(cls, report: Mapping[str, Any]) -> LossLedger:
        """The inverse of :meth:`to_dict`, checked again; without the arrays."""
        known = {f.name: report[f.name] for f in fields(cls) if f.name in report}
        parts: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in known.items()}
        return cls(**parts)

    def __str__(self) -> str:
        ratio = f" = {self.lam / self.lambda_max:.4g} lambda_max" if self.lambda_max > 0 else ""
        source = f" ({self.lam_source})" if self.lam_source else ""
        lines = [
            f"loss ledger: {self.dim} -> {self.n_atoms}, {self.n_points:,} datapoints, "
            f"lambda {self.lam:.6g}{source}{ratio}, {self.bias} bias",
            f"  {LEVELS['loss']:<22}{self.loss:>12.6f}          L0 {self.l0:.1f}, {self.dead} dead features",
        ]
        certificates = self.certificates()
        exact = f"L0 {show_l0(self.exact_l0, self.exact_l0_range)}, dead: {show_dead(self.exact_dead_range)}"
        features = {"exact": f"; {exact}", "local": f"; L0 {show_l0(self.local_l0, self.local_l0_range)}"}
        for name, (_, below, _) in GAPS.items():
            share = getattr(self, name) / self.loss if self.loss > 0 else 0.0
            proof = certificates[name] + features.get(below, "")
            lines.append(f"    - {name.replace('_', ' '):<18}{getattr(self, name):>12.6f}  {share:>6.1%}")
            lines.append(f"  {LEVELS[below]:<22}{getattr(self, below):>12.6f}          {proof}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


_COLORS = {
    "amortization_gap": "#c0504d",
    "dictionary_gap": "#e8a33d",
    "local_gap": "#8fb4d8",
    "width_gap": "#4f81bd",
    "wide": "#1f4e79",
}
"""One color a line of the ledger, in :func:`stack_ledgers`."""


def stack_ledgers(axes: Axes, table: pd.DataFrame) -> None:
    """The ledgers of trained SAEs, stacked, one bar a width: the lines of a ledger are columns of the table."""
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
