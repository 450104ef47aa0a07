"""The field's metrics of an SAE, for its own codes, for exact codes, and for exact codes refitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import scipy.sparse as sp
from tqdm import tqdm

from cvxsae.data import arguments
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Run, Seeded, keywords
from cvxsae.parallel.group import all_rows
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.solution import Status, relative_gap
from cvxsae.sae.chosen_lambda import ChosenLambda, choose_lambda
from cvxsae.sae.formats.stored import require_columns
from cvxsae.sae.given import as_autoencoder
from cvxsae.sae.measures.definitions import DEFINITIONS
from cvxsae.sae.measures.measuring import Decoder, Measuring, mean_row
from cvxsae.sae.measures.result import ENCODER, EXACT, REFITTED, Metrics
from cvxsae.solvers.codes.activity import certain_activity
from cvxsae.solvers.codes.encode import encode_rows, relative_gap_asked
from cvxsae.solvers.codes.refit import refit_codes
from cvxsae.solvers.codes.result import Codes
from cvxsae.validation.claims import row_bounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Int64

    from cvxsae.data.activations import Activations, ActivationsLike
    from cvxsae.sae.autoencoder import SparseAutoencoder
    from cvxsae.sae.given import SAELike

_CHUNK_ENTRIES = 2**24
"""Entries of the rows that are coded and measured at a time: 128 MB in float64."""

_INTERVALS = (
    "Numbers are those of the rows given; intervals are for the distribution they were drawn from, if rows are "
    "independent draws."
)

_OVER_DOCUMENTS = (
    "Numbers are those of the rows given; intervals are for the distribution they were drawn from, over documents, if "
    "these are independent draws; densities of single features have none."
)


class MetricsOptions(Compute, Seeded, total=False):
    """How :func:`metrics` runs."""


@keywords(MetricsOptions)
def metrics(
    X: ActivationsLike,
    sae: SAELike | Codes,
    *,
    lam: float | str | None = None,
    compat: str | None = None,
    loss: Callable[[np.ndarray], float] | None = None,
    tol: float = 1e-6,
    confidence: float = 0.95,
    **options: Unpack[MetricsOptions],
) -> Metrics:
    """Compute the field's metrics for an SAE, side by side for three kinds of codes.

    ``"encoder"``: the SAE's own codes. ``"exact"``: exact codes of its dictionary at λ, certified (T1). ``"exact,
    refitted"``: least squares, nonnegative, on the support of each of these: λ chose the support and shrinks nothing.

    With errors ``e = x − x̂`` and x̄ the mean of the given rows: ``l0`` and ``l1`` (of unit-norm atoms) are means over
    rows, ``mse = (1/N) Σ‖e‖²`` (summed over dimensions), ``fvu = Σ‖e‖²/Σ‖x − x̄‖²``, ``explained_variance = 1 − fvu``
    (R²), ``cosine`` and ``l2_ratio`` the means of ``x·x̂/(‖x‖‖x̂‖)`` and ``‖x̂‖/‖x‖`` (zero where a norm is),
    ``relative_reconstruction_bias = Σ‖x̂‖²/Σ x·x̂`` (1 where nothing is shrunk), ``value`` that of (P), ``dead``
    features are active on no row, ``dense`` ones on more than a tenth.

    Parameters
    ----------
    X
        Datapoints (N, d), as the model has them: anything :class:`~cvxsae.Activations` accepts.
    sae
        As in :func:`cvxsae.audit`; or the :class:`~cvxsae.results.Codes` of these datapoints, which bring their own λ.
    lam
        Penalty λ of the exact codes: a number, ``"match-l0"`` (:func:`~cvxsae.sae.lambda_matching_l0`), or None: the
        SAE's own, or else the matching one. ``lam`` of the result says where it came from; where no λ is to be had,
        there are only the SAE's own codes.
    compat
        A library whose own numbers are given too, what is wrong with them included: ``"saelens-legacy"``,
        ``"saebench"``, ``"dictionary-learning"`` or ``"overcomplete"`` (:mod:`cvxsae.sae.measures.definitions`).
    loss
        Called with reconstructions of all rows, an array (N, d), and returns a number: what a language model loses
        when they take the place of its activations. Also called with X itself and with zeros, for the share recovered.
    tol
        Relative duality gap of every datapoint's exact codes.
    confidence
        Of the intervals, above 0 and below 1.
    options
        ``device``, ``max_seconds`` (where exact codes are not done by then, they are left out, and ``notes`` says so),
        ``progress`` and ``seed`` (of the datapoints that λ is searched on).

    Returns
    -------
    Metrics
        Numbers are exact statements about the given rows; intervals are for the distribution that they were drawn
        from, if they are independent draws, as tokens of one text are not quite. Computed in blocks of rows: memory
        does not grow with N, except for what ``loss`` is called with. For an SAE that normalizes its data, ``l1``,
        ``value`` and exact codes are those of the normalized data, and reconstructions, mapped back, are compared with
        X in the units of X.

    Raises
    ------
    InputError
        For arguments that cannot be used.
    KeyboardInterrupt
        On Ctrl-C.
    """
    run = Run.start(options, MetricsOptions)
    data = all_rows(X)
    asked = Asked(
        compat=None if compat is None else arguments.choice(compat, "compat", tuple(DEFINITIONS)),
        loss=arguments.function_or_none(loss, "loss"),
        tol=relative_gap_asked(tol),
        confidence=_share(confidence, "confidence"),
    )
    if isinstance(sae, Codes):
        return _of_codes(data, sae, lam, asked, run)
    model = as_autoencoder(sae, "metrics")
    require_columns(data.shape, model.dim)
    return metrics_of(data, model, choose_lambda(model, data, lam, run), asked, run)


@dataclass(frozen=True)
class Asked:
    """The checked arguments: what is to be measured."""

    compat: str | None
    loss: Callable[..., Any] | None
    tol: float
    confidence: float
    groups: Int64[np.ndarray, " N"] | None = None
    """Which document each row is of; None if rows are independent."""


def _share(value: float, name: str) -> float:
    number = arguments.positive(value, name)
    if number >= 1:
        raise InputError(f"{name} is {number:g}; pass a number above 0 and below 1.")
    return number


class _Exact:
    """Exact codes at λ, chunk by chunk, with what certifies them."""

    def __init__(self, lam: float, atoms: np.ndarray, bias: np.ndarray, tol: float) -> None:
        self.lam, self.live, self.bias, self.tol = lam, np.linalg.norm(atoms, axis=1) > 0, bias, tol
        self.atoms = atoms[self.live]
        self.values, self.bounds, self.least, self.most = 0.0, 0.0, 0, 0

    def of(self, data: Activations, warm: sp.csr_array, run: Run) -> dict[str, sp.csr_array] | None:
        """Exact codes of some datapoints and these refitted, (n, K); None where time ran out."""
        problem = SparseCodes(data, self.atoms, self.lam, bias=self.bias)
        found = encode_rows(problem, run.inner(), tol=self.tol, warm=sp.csr_array(warm[:, self.live]))
        if found.status is Status.TIME_LIMIT:
            return None
        return self.judged(problem, found.codes, run)

    def judged(self, problem: SparseCodes, codes: sp.csr_array, run: Run) -> dict[str, sp.csr_array]:
        """Codes as they are and refitted, (n, K); what the referee says of them is added up."""
        frame = Candidate(bias=problem.fixed_bias().numpy(), dictionary=problem.atoms.numpy(), codes=codes)
        values, bounds = row_bounds(problem, frame)
        activity = certain_activity(problem, codes, run)
        self.values, self.bounds = self.values + float(values.sum()), self.bounds + float(bounds.sum())
        self.least += int(activity.active_per_point.sum())
        self.most += int((activity.active_per_point + activity.undecided_per_point).sum())
        return {EXACT: self._all_atoms(codes), REFITTED: self._all_atoms(refit_codes(problem, codes).codes)}

    def _all_atoms(self, codes: sp.csr_array) -> sp.csr_array:
        """Columns for the atoms of norm zero too, which are never used."""
        columns = np.flatnonzero(self.live)[codes.indices]
        return sp.csr_array((codes.data, columns, codes.indptr), shape=(codes.shape[0], len(self.live)))

    def proof(self, n: int) -> dict[str, Any]:
        """Relative gap of the mean value, and between what L0 is at every optimum."""
        return {"gap": relative_gap(self.values, self.bounds), "l0_range": (self.least / n, self.most / n)}


def metrics_of(data: Activations, model: SparseAutoencoder, lam: ChosenLambda, asked: Asked, run: Run) -> Metrics:
    """:func:`metrics` for arguments that have been checked. An interrupt passes through."""
    decoder = Decoder.of(model)
    kinds = {ENCODER: _measuring(decoder, data, asked)}
    exact, notes = None, []
    if lam.lam is not None and (model.atom_norms > 0).any():
        exact = _Exact(lam.lam, decoder.atoms, decoder.bias, asked.tol)
        kinds |= {kind: _measuring(decoder, data, asked) for kind in (EXACT, REFITTED)}
    for rows in tqdm(_chunks(data), disable=not run.progress, desc="metrics"):
        own = model.encode(rows)
        kinds[ENCODER].add(rows, own)
        if exact is None:
            continue
        found = exact.of(model.normalized(rows), own, run)
        if found is None:
            exact, kinds = None, {ENCODER: kinds[ENCODER]}
            notes.append("Exact codes were not done within max_seconds, and are left out.")
            continue
        for kind, codes in found.items():
            kinds[kind].add(rows, codes)
    if model.normalization is not None:
        notes.append(
            f"For this SAE {model.normalization.sentence}; what compares reconstructions with X is in its units."
        )
    return _finished(data, kinds, exact, lam, asked, notes)


def _of_codes(data: Activations, codes: Codes, lam: Any, asked: Asked, run: Run) -> Metrics:
    """Exact codes as they were handed in, and these refitted."""
    problem = codes.problem
    if lam is not None:
        raise InputError(f"lam is {lam!r} but the codes were made at {problem.lam:g}; leave it out, or pass the SAE.")
    if problem.has_prices:
        raise InputError("codes have weights or a ridge, which no measure here takes; pass codes of the plain penalty.")
    if data.shape != problem.X.shape:
        raise InputError(f"X has shape {data.shape} but the codes are of {problem.X.shape}; pass the data they code.")
    at = SparseCodes.of_unit_rows(data, problem.atoms, problem.lam, problem.fixed_bias())
    decoder = Decoder(problem.atoms.numpy(), problem.fixed_bias().numpy(), codes.atom_norms)
    exact = _Exact(problem.lam, decoder.atoms, decoder.bias, asked.tol)
    kinds = {kind: _measuring(decoder, data, asked) for kind in (EXACT, REFITTED)}
    for kind, found in exact.judged(at, codes.codes, run).items():
        kinds[kind].add(data, found)
    chosen = ChosenLambda(problem.lam, "given", f"λ = {problem.lam:.6g} is that of the codes.")
    return _finished(data, kinds, exact, chosen, asked, [])


def _chunks(data: Activations) -> list[Activations]:
    """Consecutive rows, as many at a time as are measured together."""
    step = max(1, _CHUNK_ENTRIES // data.shape[1])
    return [data[start : start + step] for start in range(0, len(data), step)]


def _measuring(decoder: Decoder, data: Activations, asked: Asked) -> Measuring:
    definition = None if asked.compat is None else DEFINITIONS[asked.compat]
    return Measuring(decoder, mean_row(data), definition, keep=asked.loss is not None, groups=asked.groups)


def _finished(
    data: Activations,
    kinds: dict[str, Measuring],
    exact: _Exact | None,
    lam: ChosenLambda,
    asked: Asked,
    notes: list[str],
) -> Metrics:
    """All numbers, once all rows have been seen."""
    proofs: dict[str, dict[str, Any]] = {EXACT: {} if exact is None else exact.proof(len(data))}
    losses: dict[str, dict[str, Any]] = {} if asked.loss is None else _losses(data, kinds, asked.loss)
    some = next(iter(kinds.values())).decoder
    return Metrics(
        kinds={
            kind: found.finish(asked.confidence, lam.lam, **proofs.get(kind, {}), **losses.get(kind, {}))
            for kind, found in kinds.items()
        },
        lam=lam,
        n_points=len(data),
        dim=data.shape[1],
        n_atoms=len(some.atoms),
        confidence=asked.confidence,
        compat=asked.compat,
        by_document=asked.groups is not None,
        notes=(*notes, _INTERVALS if asked.groups is None else _OVER_DOCUMENTS),
    )


def _losses(
    data: Activations, kinds: dict[str, Measuring], loss: Callable[[np.ndarray], float]
) -> dict[str, dict[str, Any]]:
    """Apply the caller's function to the reconstructions of each kind of codes, to X itself, and to zeros."""

    def of(rows: np.ndarray) -> float:
        return arguments.real(loss(rows), "what loss returned")

    best, worst = of(data.to_numpy().copy()), of(np.zeros(data.shape))
    found = {kind: of(measuring.reconstructions()) for kind, measuring in kinds.items()}
    span = worst - best
    return {
        kind: {"loss": number, "loss_recovered": (worst - number) / span if span else float("nan")}
        for kind, number in found.items()
    }
