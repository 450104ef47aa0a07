"""What :func:`cvxsae.audit` returns: a verdict in words, the ledger, and the parts that were asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cvxsae.sae.audits.verdict import WORTHWHILE, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cvxsae.diagnostics.report import OptimalityReport
    from cvxsae.sae.audits.account import Accounts
    from cvxsae.sae.audits.ledger import LossLedger
    from cvxsae.sae.autoencoder import SparseAutoencoder
    from cvxsae.sae.frontiers.curves import Frontier
    from cvxsae.sae.measures.result import Metrics
    from cvxsae.sae.self_test import SelfTest

PARTS = ("metrics", "frontier", "diagnostics")
"""What an audit can hold beside its ledger, in the order in which it is computed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """An audited SAE. Everything is about the held-out rows, and about normalized rows if the SAE normalizes.

    Attributes
    ----------
    ledger
        The parts of the loss on the held-out rows, with intervals for the distribution that they were drawn from; if
        none are held out, on the given rows.
    sample
        The same on the rows that the better dictionary was learned on; ``ledger`` itself if none are held out.
    sae
        The SAE that was audited.
    self_test
        Whether it reconstructs these data at all, and if not, what is likely wrong.
    accounts
        The codes behind the ledger, and which rows it is about.
    metrics
        The field's metrics for the encoder's codes, exact codes, and exact codes refitted; None if not there.
    frontier
        Error against L0: the SAE as it is, its dictionary with exact and with k-sparse codes, and the dictionary found;
        None if not there.
    diagnostics
        The conditions of any optimum, measured on the SAE's dictionary with exact codes; None if not requested. Its
        features are the atoms of ``sae`` with the same indices.
    missing
        Parts that were not started before ``max_seconds`` had passed: the search for a better dictionary, the floor of
        the width, requested parts.
    seconds
        Wall-clock time of every stage, by name.
    """

    ledger: LossLedger
    sample: LossLedger
    sae: SparseAutoencoder
    self_test: SelfTest
    accounts: Accounts = field(repr=False)
    metrics: Metrics | None = field(default=None, repr=False)
    frontier: Frontier | None = field(default=None, repr=False)
    diagnostics: OptimalityReport | None = field(default=None, repr=False)
    missing: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict, repr=False)

    @cached_property
    def verdict(self) -> Verdict:
        """What to change first, and the least and the most that it would gain."""
        return Verdict.of(self.ledger)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The audit in words, the most important sentence first."""
        said = list(self.verdict.sentences)
        if not self.sae.activation.is_trained_with_l1:
            said[0] = f"By the ledger, which charges its codes by (P): {said[0][0].lower()}{said[0][1:]}"
            said[:0] = self._at_its_sparsity()
        if not self.self_test.passed:
            test = str(self.self_test)
            said.insert(0, f"{test[0].upper()}{test[1:]}{'' if test.endswith('?') else '.'}")
        if self.missing:
            said.append(f"max_seconds left no time for some of it; missing: {', '.join(self.missing)}.")
        return tuple(said)

    def _at_its_sparsity(self) -> list[str]:
        """What the frontier says of the encoder of an SAE that was not trained for (P)."""
        short = None if self.frontier is None else self.frontier.least_suboptimality
        if self.frontier is None or short is None:
            return []
        which = "held-out" if self.ledger.is_held_out else "given"
        found = (
            f"codes of its own dictionary were found that have {max(short, 0.0):.1%} less squared error with no more "
            f"atoms on any row ({self.frontier.n_points:,} {which} rows)"
        )
        if short >= WORTHWHILE:
            return [f"Change the encoder first: {found}, so the encoder loses at least that much."]
        return [f"Nothing is known to be wrong with the encoder: {found}, and no better ones were found."]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON: what :meth:`write_report` puts into ``report.json`` and on its page."""
        from cvxsae.sae.audits.report.contents import contents

        return contents(self)

    def write_report(self, path: str | Path) -> Path:
        """Write one page with everything in it, and the same as JSON beside it (``.json`` in place of the suffix).

        The page needs no network and no other file. Needs the extra: ``pip install cvxsae[report]``.

        Returns
        -------
        Path
            The page.

        Raises
        ------
        InputError
            If it cannot be written, or a library is missing.
        """
        from cvxsae.sae.audits.report.page import require_report, write_page

        return write_page(self.to_dict(), require_report(path, "path"))

    def __str__(self) -> str:
        parts = [*self.sentences, str(self.ledger)]
        parts += [str(part) for part in (self.metrics, self.frontier, self.diagnostics) if part is not None]
        return "\n".join(parts)
