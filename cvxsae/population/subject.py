"""The dictionary of a population gap, from a fit, an SAE or two arrays, and the rows it was learned on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp
import torch

from cvxsae.data import tensors
from cvxsae.data.activations import Activations
from cvxsae.data.arguments import Bias
from cvxsae.data.overlap import MOST_SEEN, shared_rows
from cvxsae.errors import InputError
from cvxsae.parallel.group import all_rows
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.evaluation import Evaluation
from cvxsae.solvers.dictionary.result import DictionaryFit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float, Float64, Int64

ENCODED_AT_ONCE = 4_096
"""Rows that an encoder is asked to encode at a time."""


@runtime_checkable
class Autoencoder(Protocol):
    """What is asked of an SAE: :class:`~cvxsae.SparseAutoencoder` has it, and any object with the same four members.

    It needs to be no subclass.
    """

    @property
    def dictionary(self) -> Any:
        """Unit-norm atoms as rows, (K, d); atoms of norm zero may be there, and never fire."""

    @property
    def b_dec(self) -> Any:
        """Decoder bias, (d,)."""

    def normalized(self, X: Any) -> Any:
        """The data that the dictionary is about, (N, d)."""

    def encode(self, X: Any) -> Any:
        """The encoder's codes for the unit-norm dictionary, sparse (N, K), of data as the model has them."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A dictionary with its bias, and what else is known of it.

    Attributes
    ----------
    dictionary
        Atoms of norm above zero as rows, (K, d).
    bias
        Decoder bias, (d,).
    width
        Its number of atoms, dead ones included.
    lam
        Its own penalty, if it has one.
    sae
        The SAE that it is of, or None.
    learned_on
        The rows it was learned on, or None if not known.
    watched_on
        The rows set aside by which the search for it was ended, or None.
    """

    dictionary: Float[np.ndarray, "K d"] = field(repr=False)
    bias: Float[np.ndarray, " d"] = field(repr=False)
    width: int
    lam: float | None = None
    sae: Autoencoder | None = field(default=None, repr=False)
    learned_on: Activations | None = field(default=None, repr=False)
    watched_on: Activations | None = field(default=None, repr=False)

    @classmethod
    def of(cls, what: Any, dim: int) -> Subject:
        """Read what a caller passed.

        Raises
        ------
        InputError
            If it is none of these, or of another dimension than the rows.
        """
        if isinstance(what, DictionaryFit):
            cls._require_dim(what.dictionary, dim)
            watched, parts = what.held_out, (what.dictionary, what.bias, what.n_atoms, what.lam)
            return cls(*parts, learned_on=what.problem.X, watched_on=None if watched is None else watched.X)
        if isinstance(what, Autoencoder):
            atoms, bias = _checked(what.dictionary, what.b_dec, dim)
            is_live = np.linalg.norm(atoms, axis=1) > 0
            if not is_live.any():
                raise InputError("dictionary has atoms of norm zero only; pass an SAE that has others.")
            return cls(atoms[is_live], bias, len(atoms), getattr(what, "lam", None), what)
        if isinstance(what, tuple) and len(what) == 2:
            atoms, bias = _checked(*what, dim)
            return cls(atoms, bias, len(atoms))
        raise InputError(
            f"dictionary is a {type(what).__name__}; pass a DictionaryFit, a SparseAutoencoder, or a pair (dictionary, "
            "bias)."
        )

    @staticmethod
    def _require_dim(atoms: Any, dim: int) -> None:
        if atoms.shape[1] != dim:
            raise InputError(f"dictionary has dimension {atoms.shape[1]} but X has {dim}; both must be the same.")

    def rows(self, X: Activations) -> Activations:
        """The rows that the dictionary is about: what the SAE makes of them first, if it is one of an SAE."""
        return X if self.sae is None else Activations(self.sae.normalized(X))

    def notes(self) -> Iterator[str]:
        """What has to be said of the rows."""
        normalization = getattr(self.sae, "normalization", None)
        if normalization is not None:
            yield str(normalization.sentence)

    # ------------------------------------------------------------------ rows it was learned on

    def seen(self, X: Activations) -> int:
        """How many of these rows are among those that it was learned on, as far as these are known."""
        return 0 if self.learned_on is None else shared_rows(self.learned_on, X)

    def require_unseen(self, X: Activations) -> str | None:
        """Refuse rows that it was learned on; what has to be said of the others, None where there is nothing.

        Raises
        ------
        InputError
            If half of them are, or more: values there are below those of the distribution by what memorizing saves.
        """
        if self.learned_on is None:
            return "which rows the dictionary was learned on is not known here: that X holds none of them is presumed"
        count, total = self.seen(X), len(X)
        if count >= MOST_SEEN * total:
            raise InputError(
                f"X holds {count:,} rows of {total:,} that the dictionary was learned on, where its value is below "
                "that of the distribution; pass rows that were held out."
            )
        if count == 0:
            return self._chosen_on(X)
        return (
            f"{count:,} of {total:,} rows are equal to rows that the dictionary was learned on, which biases the upper "
            "limit downwards unless the distribution itself repeats rows"
        )

    def _chosen_on(self, X: Activations) -> str | None:
        """What has to be said where the search for it was watched on some of these rows."""
        count = 0 if self.watched_on is None else shared_rows(self.watched_on, X)
        if count == 0:
            return None
        return (
            f"{count:,} of {len(X):,} rows are equal to rows by which the dictionary was chosen (validation), which "
            "biases the upper limit downwards a little"
        )

    # ------------------------------------------------------------------ codes of its encoder

    def encoder_value(
        self, X: Activations, lam: float, groups: Int64[np.ndarray, " N"] | None, confidence: float
    ) -> Evaluation:
        """What its encoder's codes cost, row by row: ``½‖x − b − zD‖² + λΣz``, attained, so exact without a bound.

        Raises
        ------
        InputError
            If there is no encoder.
        """
        sae = self.sae
        if sae is None:
            raise InputError("codes is 'encoder' but there is no encoder; pass an SAE, or codes='exact'.")
        D, b = torch.from_numpy(np.asarray(sae.dictionary, np.float64)), torch.from_numpy(self.bias)
        values, active = [], []
        for start in range(0, len(X), ENCODED_AT_ONCE):
            block = X[start : start + ENCODED_AT_ONCE]
            codes = sp.csr_array(sae.encode(block))
            x = Activations(sae.normalized(block)).to_tensor(device=torch.device("cpu"))
            residual = x - b - torch.from_numpy(np.asarray(codes @ D.numpy()))
            values.append(residual.square().sum(dim=1).numpy() / 2 + lam * codes.sum(axis=1))
            active.append(np.diff(codes.indptr).astype(np.int64))
        costs: Float64[np.ndarray, " N"] = np.concatenate(values)
        return Evaluation(
            values=costs,
            lower=costs,
            active=np.concatenate(active),
            groups=groups,
            confidence=confidence,
            status=Status.CERTIFIED,
        )


def held_out_rows(X: Any) -> Activations:
    """The rows that the dictionary is evaluated on: data with rows by number."""
    return all_rows(X)


def _checked(atoms: Any, bias: Any, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Atoms and bias as float64 arrays that fit the rows; None is a bias of zero."""
    rows = tensors.matrix(atoms, "dictionary", rows="atom").to("cpu", torch.float64).numpy()
    Subject._require_dim(rows, dim)
    vector = Bias.fixed(bias, dim, "pass the dictionary's own bias").vector_or_zeros(dim)
    return rows, vector.numpy()
