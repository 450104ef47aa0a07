"""Where the loss of a trained sparse autoencoder goes, line by line, each with its certificate (theory §7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp
import torch

from cvxsae.data import arguments
from cvxsae.data.activations import Activations
from cvxsae.data.arguments import InputError
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.floors.floor import Floor
from cvxsae.relaxations.solution import GAP_SLACK, CertificateError, Solution
from cvxsae.sae.autoencoder import SparseAutoencoder
from cvxsae.solvers.codes.encode import encode
from cvxsae.solvers.codes.result import Codes
from cvxsae.solvers.convex.solve import solve
from cvxsae.solvers.dictionary.learn import learn_dictionary
from cvxsae.solvers.floors.search import width_floor
from cvxsae.validation.certify import certify

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float64

    from cvxsae.data.activations import ActivationsLike
    from cvxsae.data.arguments import BiasLike

SAELike = SparseAutoencoder | Mapping[str, Any] | str | Path
WIDE_TOL = 1e-9
_BIAS_TOLERANCE = 1e-5

GAPS: dict[str, tuple[str, str, str]] = {
    "amortisation_gap": ("loss", "exact", "the encoder against exact codes"),
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

    ``loss = amortisation_gap + dictionary_gap + local_gap + width_gap + wide``, and no line is negative: that is
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
    def amortisation_gap(self) -> float:
        """``F(D, b, E(X)) − F(D, b)``: the encoder's fault."""
        return self.loss - self.exact

    @property
    def dictionary_gap(self) -> float:
        """``F(D, b) − F(D', b')``: what training left on the table around its own dictionary."""
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
            "amortisation_gap": f"codes exact to {self.codes_gap:.1e}",
            "dictionary_gap": f"{found}{drift}, codes exact to {self.local_codes_gap:.1e}",
            "local_gap": f"floor by {self.floor_theorem}",
            "width_gap": f"wide limit (T9) to {self.wide_gap:.1e}",
        }

    def table(self) -> pd.DataFrame:
        """One row a line: amount, share of the loss, meaning, certificate; the last row is the floor of any width."""
        import pandas as pd

        certificates = self.certificates()
        rows = [
            {"line": name.replace("_", " "), "amount": getattr(self, name), "meaning": meaning,
             "certificate": certificates[name]}
            for name, (_, _, meaning) in GAPS.items()
        ]  # fmt: skip
        rows.append({"line": LEVELS["wide"], "amount": self.wide, "meaning": "no dictionary of any width is below",
                     "certificate": "T9"})  # fmt: skip
        table = pd.DataFrame(rows)
        table.insert(2, "share", table["amount"] / self.loss if self.loss > 0 else 0.0)
        return table

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: levels, lines and certificates, without the arrays."""
        levels = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("dictionary", "decoder_bias")}
        return {**levels, **{name: getattr(self, name) for name in GAPS}}

    @classmethod
    def from_dict(cls, report: Mapping[str, Any]) -> LossLedger:
        """The inverse of :meth:`to_dict`, checked again; without the arrays."""
        return cls(**{f.name: report[f.name] for f in fields(cls) if f.name in report})

    def __str__(self) -> str:
        ratio = f" = {self.lam / self.lambda_max:.4g} lambda_max" if self.lambda_max > 0 else ""
        lines = [
            f"loss ledger: {self.dim} -> {self.n_atoms}, {self.n_points:,} datapoints, lambda {self.lam:.6g}{ratio}, "
            f"{self.bias} bias",
            f"  {LEVELS['loss']:<22}{self.loss:>12.6f}          L0 {self.l0:.1f}, {self.dead} dead features",
        ]
        certificates = self.certificates()
        for name, (_, below, _) in GAPS.items():
            share = getattr(self, name) / self.loss if self.loss > 0 else 0.0
            lines.append(f"    - {name.replace('_', ' '):<18}{getattr(self, name):>12.6f}  {share:>6.1%}")
            lines.append(f"  {LEVELS[below]:<22}{getattr(self, below):>12.6f}          {certificates[name]}")
        return "\n".join(lines)


def audit(
    sae: SAELike,
    X: ActivationsLike,
    *,
    lam: float | None = None,
    bias: BiasLike = "free",
    tol: float = 1e-4,
    max_seconds: float | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> LossLedger:
    """Say where the loss of a trained SAE goes: encoder, dictionary, width, or nothing that anyone could gain (§7).

    Exact codes of its dictionary (:func:`~cvxsae.encode`); a search for a better dictionary that starts from its own
    (:func:`~cvxsae.learn_dictionary`); the floor for its width (:func:`~cvxsae.width_floor`) and for every width
    (:class:`~cvxsae.WideLimit`). All on the data given here, be it the training set or not: floors hold even for
    dictionaries that were fitted to these very datapoints.

    Parameters
    ----------
    sae
        A :class:`~cvxsae.SparseAutoencoder`; its arrays by name (``W_enc (d, K)``, ``b_enc (K,)``, ``W_dec (K, d)``,
        ``b_dec (d,)``; atoms of any norm); or a folder in the layout of SAELens.
    X
        Datapoints (N, d): anything :class:`~cvxsae.data.Activations` accepts.
    lam
        Penalty λ of (P): for SAELens half its ``l1_coefficient``. Not needed where the SAE knows its own.
    bias
        ``"free"``: D' may have a bias of its own, and the floors hold for every bias. None or an array: the bias is
        fixed, and must be the SAE's ``b_dec``; then the floors for this bias are higher.
    tol
        Relative duality gap of every datapoint's codes, and the stationarity that the search for D' aims at.
    max_seconds
        For the search, and again for the floor.
    seed
        Of the search.
    device, progress
        As elsewhere.

    Returns
    -------
    LossLedger
        Lines that add up to the loss, none of them negative, with what certifies each.

    Raises
    ------
    InputError
        For arguments that cannot be used, an unknown λ, or a fixed bias that is not the SAE's.
    CertificateError
        If a line is negative by more than rounding: then a floor, a code or this code is wrong.
    """
    model = as_autoencoder(sae)
    penalty = model.lam if lam is None else arguments.penalty(lam, "lam")
    if penalty is None:
        raise InputError("lam is None and the SAE does not know its own; pass lam (SAELens: half of l1_coefficient).")
    data = Activations(X)
    shift = _fixed_bias(model, data, bias)
    known: BiasLike = "free" if shift is None else shift
    floor = width_floor(data, penalty, model.n_atoms, bias=known, max_seconds=max_seconds, device=device)
    wide = solve(WideLimit(data, penalty, known), tol=WIDE_TOL, raise_on_failure=False, device=device)
    search = Search(tol=tol, max_seconds=max_seconds, seed=seed, device=device, progress=progress)
    return ledger(model, data, penalty, shift, floor, wide, search)


@dataclass(frozen=True)
class Search:
    """How hard to look for a better dictionary."""

    tol: float = 1e-4
    max_seconds: float | None = None
    seed: int = 0
    device: str | torch.device | None = None
    progress: bool = False


def ledger(
    model: SparseAutoencoder, data: Activations, lam: float, shift: np.ndarray | None, floor: Floor, wide: Solution,
    search: Search,
) -> LossLedger:  # fmt: skip
    """:func:`audit` where the floors are known already: ``shift`` is the fixed bias, None for a free one."""
    atoms, b = model.dictionary, np.asarray(model.b_dec if shift is None else shift, dtype=np.float64)
    live = model.atom_norms > 0
    if not live.any():
        raise InputError("W_dec has only rows of norm 0; there is no dictionary to audit.")
    by_encoder = model.encode(data)
    problem = SparseCodes(data, atoms[live], lam, b)
    codes = encode(data, atoms[live], lam, bias=b, tol=search.tol, warm_start=by_encoder[:, live], device=search.device,
                   progress=search.progress)  # fmt: skip
    loss = problem.primal_value(_candidate(problem, by_encoder[:, live]))
    exact = _candidate(problem, _better(codes, by_encoder[:, live], problem))
    certificate = certify(problem, exact, tol=1.0)
    start = atoms.copy()
    if not live.all():
        generator = np.random.default_rng(search.seed)
        start[~live] = generator.standard_normal((int((~live).sum()), model.dim))
    fit = learn_dictionary(
        data, model.n_atoms, lam, bias="free" if shift is None else shift, seed=search.seed, tol=search.tol,
        max_seconds=search.max_seconds, device=search.device, progress=search.progress, init=(start, b),
    )  # fmt: skip
    found = SparseCodes(data, fit.dictionary, lam, fit.bias)
    candidate = _candidate(found, fit.codes.codes)
    local = certify(found, candidate, tol=1.0)
    improved = local.value < certificate.value
    if not improved:
        found, candidate, local = problem, exact, certificate
    referee = certify(wide.problem, wide)
    stationarity, drift = stationarity_of(found, candidate)
    return LossLedger(
        loss=loss, exact=certificate.value, local=local.value, wide=referee.lower_bound,
        floor=max(floor.value, referee.lower_bound), codes_gap=certificate.gap, local_codes_gap=local.gap,
        stationarity=stationarity, bias_residual=drift if shift is None else None, wide_gap=referee.gap,
        floor_theorem=floor.theorem if floor.value > referee.lower_bound else "T9", improved=improved,
        bias="free" if shift is None else "fixed", n_points=len(data), dim=model.dim, n_atoms=model.n_atoms, lam=lam,
        lambda_max=referee.lambda_max, l0=by_encoder.nnz / len(data), exact_l0=_l0(exact), local_l0=_l0(candidate),
        dead=_dead(by_encoder), exact_dead=_dead(exact.codes) + int((~live).sum()),
        dictionary=np.asarray(candidate.dictionary), decoder_bias=np.asarray(candidate.bias),
    )  # fmt: skip


def as_autoencoder(sae: SAELike) -> SparseAutoencoder:
    """An SAE as it was passed, as arrays by name, or from a folder."""
    if isinstance(sae, SparseAutoencoder):
        return sae
    return SparseAutoencoder.load(sae) if isinstance(sae, str | Path) else SparseAutoencoder.from_arrays(sae)


def _fixed_bias(model: SparseAutoencoder, data: Activations, bias: BiasLike) -> np.ndarray | None:
    """The bias the ledger is for, None if it is free; a fixed one must be the SAE's own."""
    if data.shape[1] != model.dim:
        raise InputError(f"X has shape {data.shape} but the SAE is for dimension {model.dim}; pass its activations.")
    vector = arguments.bias_vector(bias, model.dim)
    if isinstance(vector, str):
        return None
    fixed = np.zeros(model.dim) if vector is None else vector.numpy()
    own = model.b_dec.astype(np.float64)
    off = float(np.linalg.norm(fixed - own))
    if off > _BIAS_TOLERANCE * float(np.linalg.norm(own)):
        raise InputError(f"bias is fixed but differs from the SAE's b_dec by {off:.3g}; pass bias=b_dec or 'free'.")
    return fixed


def _candidate(problem: SparseCodes, codes: sp.csr_array) -> Candidate:
    return Candidate(bias=problem.fixed_bias().numpy(), dictionary=problem.atoms.numpy(), codes=codes)


def _better(codes: Codes, others: sp.csr_array, problem: SparseCodes) -> sp.csr_array:
    """Exact codes, except where the encoder's own are better by a hair (exact means to a tolerance)."""
    values = _row_values(problem, others)
    worse = codes.values > values
    if bool((values < codes.values * (1 - codes.gaps) - GAP_SLACK * values).any()):
        row = int((values - codes.values * (1 - codes.gaps)).argmin())
        raise CertificateError(f"the encoder's codes of datapoint {row} are below the lower bound of all codes.")
    if not worse.any():
        return codes.codes
    parts: list[Any] = [sp.diags_array(mask.astype(np.float64)) for mask in (~worse, worse)]
    return sp.csr_array(parts[0] @ codes.codes + parts[1] @ others)


def _row_values(problem: SparseCodes, codes: sp.csr_array) -> Float64[np.ndarray, " N"]:
    """``½‖x_n − b − z_n D‖² + λ Σ_k z_nk`` of every datapoint."""
    mass = np.asarray(codes.sum(axis=1)).ravel()
    blocks = [block.square().sum(dim=1) / 2 for _, block in problem.residual_batches(_candidate(problem, codes))]
    return np.asarray(torch.cat(blocks).numpy() + problem.lam * mass)


def stationarity_of(problem: SparseCodes, candidate: Candidate) -> tuple[float, float]:
    """Largest ``‖E_k[r]/λ − d_k‖`` over live atoms, and ``‖mean_n r_n‖/λ``, from data and arrays alone (T3)."""
    codes: Any = candidate.codes
    weighted, total = np.zeros(problem.atoms.shape), np.zeros(problem.dim)
    for rows, block in problem.residual_batches(candidate):
        weighted += codes[rows].T @ block.numpy()
        total += block.sum(dim=0).numpy()
    mass = np.asarray(codes.sum(axis=0)).ravel()
    live = mass > 0
    means = weighted[live] / mass[live, None]
    off = np.linalg.norm(means / problem.lam - problem.atoms.numpy()[live], axis=1)
    return float(off.max(initial=0.0)), float(np.linalg.norm(total)) / (problem.n_points * problem.lam)


def _l0(candidate: Candidate) -> float:
    codes: Any = candidate.codes
    return float(codes.nnz / codes.shape[0])


def _dead(codes: Any) -> int:
    return int((np.asarray(codes.sum(axis=0)).ravel() == 0).sum())
