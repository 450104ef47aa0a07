"""The arrays that a solver returns and nothing else: values, bounds and certificates are computed from these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse

from cvxsae.data import tensors
from cvxsae.errors import InputError
from cvxsae.relaxations.proofs import PROOFS, CopositivityProof, proof_of

Codes: TypeAlias = "np.ndarray | scipy.sparse.csr_array"

_PROOF = "proof."
"""What the names of a proof's arrays begin with, in a file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A primal point and, where a solver has one, a dual point of one of the convex problems.

    Attributes
    ----------
    bias
        Decoder bias, (d,).
    dictionary
        Unit-norm atoms as rows, (K, d); None where a problem defines them through the bias and they would not
        fit in memory (the wide limit of a very large data set).
    codes
        Nonnegative codes, (N, K), dense or ``scipy.sparse.csr_array``; None together with ``dictionary``.
    dual
        Dual point Y, (N, d), in the units of a residual; None: to be built from the residual.
    similarity
        Q, (N, N), where the solver has one.
    proof
        That the dual point of a large dictionary is feasible, where it takes one (T11).
    """

    bias: np.ndarray
    dictionary: np.ndarray | None = None
    codes: Codes | None = None
    dual: np.ndarray | None = None
    similarity: np.ndarray | None = None
    proof: CopositivityProof | None = None

    def arrays(self) -> dict[str, Any]:
        """The arrays by name, without those it lacks; of a proof with ``proof.`` before the name."""
        named = {field.name: getattr(self, field.name) for field in fields(Candidate) if field.name != "proof"}
        proof = {} if self.proof is None else self.proof.arrays()
        return {
            **{name: array for name, array in named.items() if array is not None},
            **{_PROOF + name: array for name, array in proof.items()},
        }


def candidate_from(held: Mapping[str, Any], source: str) -> Candidate:
    """The candidate whose :meth:`~Candidate.arrays` were kept; what else is there is left alone.

    Raises
    ------
    InputError
        If there is no bias, or a proof of no known kind; ``source`` says in the message where the arrays are from.
    """
    if "bias" not in held:
        raise InputError(f"{source} holds no bias; pass a file that Solution.save or 'cvxsae solve --out' wrote.")
    names = {field.name for field in fields(Candidate)} - {"proof"}
    parts = {name.removeprefix(_PROOF): array for name, array in held.items() if name.startswith(_PROOF)}
    try:
        proof = proof_of(parts)
    except ValueError as error:
        raise InputError(f"{source} holds a proof that cannot be read ({error}); solve again.") from None
    return Candidate(**{name: array for name, array in held.items() if name in names}, proof=proof)


def shape_objections(candidate: Candidate, n_points: int, dim: int) -> list[str]:
    """Why a candidate cannot be computed with at all, one sentence each: kinds, shapes and sizes of its arrays."""
    dictionary, proof = candidate.dictionary, candidate.proof
    if proof is not None and type(proof) not in PROOFS:  # a class of someone else's could prove anything
        kinds = " or a ".join(kind.__name__ for kind in PROOFS)
        return [f"proof is a {type(proof).__name__}; it must be a {kinds}."]
    atoms = dictionary.shape[0] if getattr(dictionary, "ndim", 0) == 2 else None  # type: ignore[union-attr]
    expected: dict[str, tuple[int | None, ...]] = {
        "bias": (dim,),
        "dictionary": (atoms, dim),
        "codes": (n_points, atoms),
        "dual": (n_points, dim),
        "similarity": (n_points, n_points),
    }
    if proof is not None:
        expected |= {_PROOF + name: (n_points,) * proof.axes for name in proof.arrays()}
    objections = []
    for name, array in candidate.arrays().items():
        malformed = _malformed(array, name)
        if malformed is not None:
            objections.append(malformed)
        elif tuple(array.shape) != expected[name]:
            objections.append(f"{name} has shape {tuple(array.shape)}; it must be {expected[name]}.")
        elif not _moderate(array.data if isinstance(array, scipy.sparse.csr_array) else array):
            objections.append(f"{name} holds NaN or infinite values, or some beyond {tensors.LARGEST:.0e}.")
    if (candidate.codes is None) != (dictionary is None):
        objections.append("Only one of codes and dictionary is there; they come together.")
    return objections


def _moderate(entries: np.ndarray) -> bool:
    """Whether all entries are finite and their squares are too."""
    extremes = float(entries.min(initial=0)), float(entries.max(initial=0))  # NaN is passed on
    return all(abs(extreme) <= tensors.LARGEST for extreme in extremes)


def _malformed(array: Any, name: str) -> str | None:
    """Why an array cannot be computed with at all, if it cannot."""
    sparse = name == "codes" and isinstance(array, scipy.sparse.csr_array)
    if not sparse and not isinstance(array, np.ndarray):
        return f"{name} is a {type(array).__name__}; it must be a numpy array{' or a csr_array' * (name == 'codes')}."
    if array.dtype.kind not in "fiu":
        return f"{name} has dtype {array.dtype}; it must hold real numbers."
    if sparse:
        try:
            array.check_format(full_check=True)
        except ValueError as error:
            return f"{name} is a broken sparse array: {error}."
    return None
