"""Reconstruction against sparsity: an SAE, its dictionary with better codes, and a better dictionary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np
import scipy.sparse as sp

from cvxsae.data import arguments, tensors
from cvxsae.data.arguments import Bias
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Run, Seeded, keywords
from cvxsae.parallel.group import all_rows
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.solution import Status, relative_gap
from cvxsae.sae.chosen_lambda import ChosenLambda, choose_lambda, numbers_sampled, sampled
from cvxsae.sae.formats.stored import require_columns
from cvxsae.sae.frontiers.curves import (
    K_SPARSE,
    LEARNED,
    LEARNED_REFITTED,
    LEVEL,
    Frontier,
    FrontierPoint,
)
from cvxsae.sae.given import as_autoencoder
from cvxsae.sae.measures.measuring import Decoder, Measuring, mean_row
from cvxsae.sae.measures.result import ENCODER, EXACT, REFITTED
from cvxsae.solvers.codes.correlation import largest_correlation
from cvxsae.solvers.codes.encode import encode_rows, relative_gap_asked
from cvxsae.solvers.codes.k_sparse import search
from cvxsae.solvers.codes.refit import refit_codes
from cvxsae.solvers.dictionary.learn import Settings, learn
from cvxsae.solvers.dictionary.result import DictionaryFit
from cvxsae.solvers.dictionary.start import Given
from cvxsae.validation.claims import row_bounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int64

    from cvxsae.data.activations import Activations, ActivationsLike
    from cvxsae.sae.autoencoder import SparseAutoencoder
    from cvxsae.sae.given import SAELike

POINTS = 1024
"""Most datapoints that a frontier is drawn from, unless told otherwise: FVU is then known to a few percent."""

PATH_REACH, PATH_POINTS = 4.0, 9
"""How far from the SAE's own λ its exact codes are followed, as a factor both ways, and how many λ are tried."""

PATH_TOP, PATH_BOTTOM = 0.5, 0.01
"""The same in units of λ_max, where no λ of its own is known."""

K_FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Numbers of active atoms that are tried, in units of the SAE's L0."""

LAMBDA_SHARE, EXACT_SHARE, K_SPARSE_SHARE, LEARN_SHARE = 0.2, 0.4, 0.5, 0.7
"""Parts of the time left: for finding λ, for the exact codes, for k-sparse ones, for learning; the rest codes again."""


class FrontierOptions(Compute, Seeded, total=False):
    """How :func:`frontier` runs."""


@keywords(FrontierOptions)
def frontier(
    X: ActivationsLike,
    sae: SAELike,
    *,
    lams: Sequence[float] | None = None,
    ks: Sequence[int] | None = None,
    learned: Any = False,
    max_points: int | None = POINTS,
    tol: float = 1e-6,
    **options: Unpack[FrontierOptions],
) -> Frontier:
    """Compute the fraction of variance unexplained against L0, for an SAE and for better codes and dictionaries.

    ``"encoder"``: the SAE as it is. ``"exact"``: its decoder with exact codes along λ, certified (T1). ``"exact,
    refitted"``: these without the shrinkage of λ. ``"k-sparse"``: its decoder with the best codes found of at most k
    active atoms (:func:`cvxsae.solvers.k_sparse_codes`), also of as many for every datapoint as its encoder has: these
    are attained, so what they gain over the SAE's own codes is at least what these are short of optimal. ``"learned"``
    and ``"learned, refitted"``: exact codes of a dictionary of that width.

    Parameters
    ----------
    X
        Datapoints (N, d), as the model has them.
    sae
        As in :func:`cvxsae.audit`.
    lams
        Penalties of the exact codes. None: nine around the SAE's own λ, or else the one at which exact codes have its
        L0, up to a factor of 4 both ways.
    ks
        Numbers of active atoms. None: a quarter, a half, one and two times the SAE's L0.
    learned
        A dictionary to compare with: False for none, True to learn one of that width at the middle λ (slow), or a
        :class:`~cvxsae.results.DictionaryFit`, a dictionary or a pair of dictionary and bias (the SAE's where there is
        none), in the units of the normalized data where the SAE normalizes them.
    max_points
        Most datapoints, drawn at random; None for all. FVU of a dictionary that was learned from these very datapoints
        is lower than on others.
    tol
        Relative duality gap of every datapoint's exact codes.
    options
        ``device``, ``max_seconds``, ``progress`` and ``seed`` (of datapoints drawn and of learning). What is not done
        in time is missing from the table, and ``notes`` says so.

    Returns
    -------
    Frontier
        One table and one figure.

    Raises
    ------
    InputError
        For arguments that cannot be used.
    KeyboardInterrupt
        On Ctrl-C.
    """
    run = Run.start(options, FrontierOptions)
    model, data = as_autoencoder(sae, "frontier"), all_rows(X)
    require_columns(data.shape, model.dim)
    if not (model.atom_norms > 0).any():
        raise InputError("W_dec has only rows of norm 0; there is no dictionary to draw a frontier of.")
    penalties = None if lams is None else arguments.each(lams, "lams", arguments.penalty)
    counts = None if ks is None else arguments.each(ks, "ks", lambda value, name: arguments.count(value, name))
    most = len(data) if max_points is None else arguments.count(max_points, "max_points")
    drawing = _Drawing(model, sampled(data, most, run.seed), relative_gap_asked(tol), run)
    start = drawing.given(learned)
    chosen = choose_lambda(model, drawing.data, None, run.inner(share=LAMBDA_SHARE))
    return drawing.drawn(chosen, penalties, counts, start)


class Around(NamedTuple):
    """The rows of a frontier, and how its intervals are made: at which confidence, over rows or documents."""

    data: Activations
    confidence: float = LEVEL
    groups: Int64[np.ndarray, " N"] | None = None


def frontier_around(
    model: SparseAutoencoder, asked: Around, chosen: ChosenLambda, learned: Any, tol: float, run: Run
) -> Frontier:
    """:func:`frontier` around a λ that is known, for arguments that have been checked. An interrupt passes through."""
    drawing = _Drawing(model, sampled(asked.data, POINTS, run.seed), tol, run)
    drawing.confidence = asked.confidence
    if asked.groups is not None:
        labels = asked.groups[numbers_sampled(len(asked.data), POINTS, run.seed)]
        drawing.groups = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return drawing.drawn(chosen, None, None, drawing.given(learned))


class _Drawing:
    """The points of a frontier, while they are found."""

    def __init__(self, model: SparseAutoencoder, data: Activations, tol: float, run: Run) -> None:
        self.model, self.data, self.tol, self.run = model, data, tol, run
        self.inner = model.normalized(data)
        self.live = model.atom_norms > 0
        self.decoder = Decoder.of(model)
        self.center = mean_row(data)
        self.own = model.encode(data)
        self.confidence: float = LEVEL
        self.groups: Int64[np.ndarray, " N"] | None = None
        self.points: list[FrontierPoint] = []
        self.notes: list[str] = []

    def drawn(
        self,
        chosen: ChosenLambda,
        lams: Sequence[float] | None,
        ks: Sequence[int] | None,
        start: Given | bool,
    ) -> Frontier:
        """All curves."""
        path = self.path(chosen, lams)
        self.encoder()
        self.exact(path)
        self.k_sparse(ks)
        self.learned(start, chosen, path)
        return self.finished(chosen)

    def given(self, learned: Any) -> Given | bool:
        """Check the dictionary to compare with."""
        if isinstance(learned, bool | np.bool_):
            return bool(learned)
        atoms, bias = learned if isinstance(learned, tuple) and len(learned) == 2 else (learned, None)
        if isinstance(learned, DictionaryFit):
            atoms, bias = learned.dictionary, learned.bias
        rows = tensors.unit_rows(atoms, "learned", self.model.dim)[0].cpu().numpy()
        remedy = "pass learned=(dictionary, bias) with an array"
        vector = None if bias is None else Bias.fixed(bias, self.model.dim, remedy).vector
        return Given(rows, None if vector is None else vector.numpy())

    def path(self, chosen: ChosenLambda, lams: Sequence[float] | None) -> list[float]:
        """The λ to code at, largest first."""
        if lams is not None:
            return sorted(set(lams), reverse=True)
        top = max(0.0, largest_correlation(self._problem(1.0)))
        if not top:
            self.notes.append("No atom has a positive correlation with any datapoint: exact codes are zero.")
            return []
        ends = (top * PATH_TOP, top * PATH_BOTTOM)
        if chosen.lam is not None and chosen.lam < top:
            ends = (min(chosen.lam * PATH_REACH, top * PATH_TOP), chosen.lam / PATH_REACH)
            upper = np.geomspace(max(ends[0], chosen.lam), chosen.lam, PATH_POINTS // 2 + 1)
            lower = np.geomspace(chosen.lam, ends[1], PATH_POINTS // 2 + 1)
            return sorted({float(lam) for lam in (*upper, *lower[1:])}, reverse=True)
        return [float(lam) for lam in np.geomspace(*ends, PATH_POINTS)]

    def encoder(self) -> None:
        """The SAE as it is."""
        k = self.model.activation.settings().get("k")
        self._add(ENCODER, self.decoder, self.own, k=None if k is None else int(k))

    def exact(self, path: Sequence[float]) -> None:
        """Exact codes of its dictionary along λ, and these refitted."""
        atoms, bias = self.decoder.atoms[self.live], self.decoder.bias
        live = Decoder(atoms, bias, self.decoder.norms[self.live], self.decoder.normalization)
        self._along(path, live, (EXACT, REFITTED), self._part(EXACT_SHARE))

    def k_sparse(self, ks: Sequence[int] | None) -> None:
        """The best codes found of at most k atoms, and of as many as the encoder has."""
        run = self._part(K_SPARSE_SHARE)
        problem, own = self._problem(1.0), sp.csr_array(self.own[:, self.live])
        each = np.diff(own.indptr).astype(np.int64)
        l0, most = float(each.mean()), min(self.model.dim, int(self.live.sum()))
        counts = {min(most, max(1, round(l0 * factor))) for factor in K_FACTORS} if ks is None else set(ks)
        same = int(each[0]) if (each == each[0]).all() else None
        tries: list[tuple[int | None, np.ndarray]] = [(same, each)] if each.any() else []
        tries += [(k, np.full(len(each), k, dtype=np.int64)) for k in sorted(counts - {same})]
        for k, many in tries:
            which = "as many atoms as the encoder" if k is None else f"k = {k}"
            if run.is_late:
                self.notes.append(f"k-sparse codes with {which} are missing: out of time.")
                continue
            found = search(problem, many, own, run)
            if left := int((~found.done).sum()):
                self.notes.append(f"k-sparse codes with {which} were not searched to the end on {left} rows.")
            gap = found.gap if found.lower_bound > 0 else None
            self._add(K_SPARSE, self.decoder, self._all_atoms(found.codes), k=k, value=found.value, gap=gap)

    def learned(self, start: Given | bool, chosen: ChosenLambda, path: Sequence[float]) -> None:
        """Exact codes of another dictionary along the same λ."""
        if start is False or not len(path):
            return
        if isinstance(start, bool):
            if self.run.is_late:
                self.notes.append("No dictionary was learned: out of time.")
                return
            lam = chosen.lam if chosen.lam is not None else path[len(path) // 2]
            problem = JointProblem(self.inner, self.model.n_atoms, lam)
            fit = learn(problem, Settings(), self.run.inner(share=LEARN_SHARE))
            start = Given(fit.dictionary, fit.bias)
            self.notes.append(f"A dictionary was learned at λ = {lam:.6g} ({fit.status.message}).")
        bias = self.decoder.bias if start.bias is None else start.bias
        other = Decoder(start.dictionary, bias, np.ones(len(start.dictionary)), self.decoder.normalization)
        self._along(path, other, (LEARNED, LEARNED_REFITTED), self.run.inner())

    def finished(self, chosen: ChosenLambda) -> Frontier:
        """All of it."""
        if self.model.normalization is not None:
            self.notes.append(f"For this SAE {self.model.normalization.sentence}; FVU is in the units of X.")
        return Frontier(
            points=tuple(self.points),
            lam=chosen,
            n_points=len(self.data),
            dim=self.model.dim,
            n_atoms=self.model.n_atoms,
            notes=tuple(self.notes),
            confidence=self.confidence,
        )

    def _part(self, share: float) -> Run:
        """A part of the time left; none where there is none, though a part of a run is never shorter than a moment."""
        return self.run.inner() if self.run.is_late else self.run.inner(share=share)

    def _all_atoms(self, codes: sp.csr_array) -> sp.csr_array:
        """Columns for the atoms of norm zero too, which are never used."""
        columns = np.flatnonzero(self.live)[codes.indices]
        return sp.csr_array((codes.data, columns, codes.indptr), shape=self.own.shape)

    def _problem(self, lam: float) -> SparseCodes:
        return SparseCodes(self.inner, self.decoder.atoms[self.live], lam, bias=self.decoder.bias)

    def _along(self, path: Sequence[float], decoder: Decoder, curves: tuple[str, str], run: Run) -> None:
        """Exact codes at each λ, started from those before, and these refitted."""
        warm = None
        for lam in path:
            problem = SparseCodes(self.inner, decoder.atoms, lam, bias=decoder.bias)
            found = None if run.is_late else encode_rows(problem, run, tol=self.tol, warm=warm)
            if found is None or found.status is Status.TIME_LIMIT:
                self.notes.append(f"The curve {curves[0]!r} ends above λ = {lam:.4g}: out of time.")
                return
            warm = found.codes
            frame = Candidate(bias=decoder.bias, dictionary=problem.atoms.numpy(), codes=warm)
            values, bounds = row_bounds(problem, frame)
            value, bound = float(values.mean()), float(bounds.mean())
            self._add(curves[0], decoder, warm, lam=lam, value=value, gap=relative_gap(value, bound))
            self._add(curves[1], decoder, refit_codes(problem, warm).codes, lam=lam)

    def _add(
        self,
        curve: str,
        decoder: Decoder,
        codes: sp.csr_array,
        *,
        lam: float | None = None,
        k: int | None = None,
        value: float | None = None,
        gap: float | None = None,
    ) -> None:
        """Measure codes and add the point."""
        measuring = Measuring(decoder, self.center, None, groups=self.groups)
        measuring.add(self.data, codes)
        numbers = measuring.finish(self.confidence, lam).numbers
        if value is None:
            value = measuring.moments.average("half", self.confidence).value if lam is None else numbers["value"].value
        fvu = numbers["fvu"]
        self.points.append(FrontierPoint(curve, lam, k, numbers["l0"].value, fvu.value, fvu.low, fvu.high, value, gap))
