"""A sparse autoencoder as it is trained and stored in the field: its arrays, its architecture, its codes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch

from cvxsae.data import arguments
from cvxsae.data.activations import Activations
from cvxsae.data.arithmetic import computes
from cvxsae.errors import InputError, reason
from cvxsae.sae.architecture import ActivationFunction, ReLU
from cvxsae.sae.export import ENCODER, regressed
from cvxsae.sae.formats import dictionary_learning, objects, registry, saelens
from cvxsae.sae.formats.arrays import Asked, named
from cvxsae.sae.formats.config import LAYOUT
from cvxsae.sae.formats.stored import StoredAutoencoder, checked, require_columns, scale_of, scaled_by
from cvxsae.sae.normalization import as_it_is
from cvxsae.sae.self_test import SelfTest, self_test
from cvxsae.solvers.dictionary.result import DictionaryFit

if TYPE_CHECKING:
    from jaxtyping import Float

    from cvxsae.data.activations import ActivationsLike
    from cvxsae.sae.normalization import Normalization, Undo
    from cvxsae.sae.record import TrainingRecord

_BLOCK_ENTRIES = 2**22
"""Most entries of a dense block of activations: 32 MB in float64."""


@computes
@dataclass(frozen=True, kw_only=True, eq=False)
class SparseAutoencoder:
    """A trained SAE, ``z = activation((x − b_dec) W_enc + b_enc)`` and ``x̂ = z W_dec + b_dec``.

    The atoms are the rows of ``W_dec``, of any norm.

    Its loss in units of (P) is ``(1/N) Σ_n [ ½‖x_n − x̂_n‖² + λ Σ_k z_nk ‖W_dec,k‖ ]``: that of the unit-norm
    dictionary with codes ``z_k ‖W_dec,k‖`` (theory.md §0).

    Attributes
    ----------
    W_enc, b_enc
        Encoder, (d, K) and (K,).
    W_dec, b_dec
        Decoder, (K, d) and (d,).
    subtract_bias
        Whether ``b_dec`` is subtracted at the input (``apply_b_dec_to_input`` in SAELens).
    activation
        Its architecture (:mod:`cvxsae.sae.architecture`): ReLU, or one that is trained for another objective.
    normalization
        What it does to every datapoint first (:mod:`cvxsae.sae.normalization`); ``x`` above is then the normalized
        datapoint, and what is said of the dictionary is about normalized data. None: the data as they are.
    lam
        The penalty λ it was trained with, in the units of its data; None if that is not known.
    lam_source
        Where λ came from, or why it is not known.
    history
        Records of training; empty for one that was loaded.
    seconds
        Wall-clock time of training.
    trainer
        The trainer that was used.
    metadata
        What else its file said (hook, model, how it was trained); kept under ``metadata`` when it is saved again.
    """

    W_enc: Float[np.ndarray, "d K"]
    b_enc: Float[np.ndarray, " K"]
    W_dec: Float[np.ndarray, "K d"]
    b_dec: Float[np.ndarray, " d"]
    subtract_bias: bool = True
    activation: ActivationFunction = field(default_factory=ReLU)
    normalization: Normalization | None = None
    lam: float | None = None
    lam_source: str = ""
    history: tuple[TrainingRecord, ...] = ()
    seconds: float = 0.0
    trainer: str = ""
    metadata: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.activation.require_width(self.n_atoms)
        if self.normalization is not None:
            self.normalization.require_dim(self.dim)

    @property
    def n_atoms(self) -> int:
        """Width K."""
        return self.W_dec.shape[0]

    @property
    def dim(self) -> int:
        """Dimension d of the data."""
        return self.W_dec.shape[1]

    @property
    def dictionary(self) -> Float[np.ndarray, "K d"]:
        """The atoms scaled to norm 1, float64; an atom of norm zero stays zero."""
        rows = self.W_dec.astype(np.float64)
        norms = self.atom_norms[:, None]
        return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)

    @property
    def atom_norms(self) -> Float[np.ndarray, " K"]:
        """Norms of the rows of ``W_dec``, float64."""
        rows = self.W_dec.astype(np.float64)
        powers = np.ldexp(1.0, np.frexp(np.abs(rows).max(axis=1, initial=0))[1] - 1)  # of two: nothing is rounded
        return powers * np.linalg.norm(rows / powers[:, None], axis=1)  # squares could overflow or vanish otherwise

    def encode(self, X: ActivationsLike, *, unit_norm: bool = True) -> sp.csr_array:
        """Activations of every datapoint by the encoder, one pass over the data in float64.

        Parameters
        ----------
        X
            Datapoints (N, d), as the model has them: not yet normalized.
        unit_norm
            Whether they belong to the unit-norm dictionary (times the norm of the atom) or to ``W_dec``.

        Returns
        -------
        scipy.sparse.csr_array
            (N, K), float64, positive where stored. They are what the encoder says, and no optimum of anything.

        Raises
        ------
        InputError
            For data that cannot be used or of another dimension.
        """
        data, unit_norm = self._accepted(X), arguments.flag(unit_norm, "unit_norm")
        scale = torch.from_numpy(self.atom_norms if unit_norm else np.ones(self.n_atoms))
        blocks = [sp.csr_array((codes * scale).numpy()) for codes, _ in self._encoded(data)]
        return sp.csr_array(sp.vstack(blocks, format="csr"))

    def reconstruct(self, X: ActivationsLike) -> Float[np.ndarray, "N d"]:
        """Reconstruct every datapoint from its own codes, in the units of ``X``, float64.

        Raises
        ------
        InputError
            For data that cannot be used or of another dimension.
        """
        decoder, b = (torch.from_numpy(part.astype(np.float64)) for part in (self.W_dec, self.b_dec))
        return torch.cat([undo(codes @ decoder + b) for codes, undo in self._encoded(self._accepted(X))]).numpy()

    def self_test(self, X: ActivationsLike) -> SelfTest:
        """Try whether it reconstructs some of these datapoints, and if not, what is likely wrong.

        It fails where the fraction of variance unexplained is above 1 (their mean is better), or no code or every code
        is active. Then the usual causes are tried one by one and together: ``b_dec`` applied twice or not at all, a
        transposed decoder where K = d, a missing scale, a missing normalization; that with the lowest FVU is named.

        Parameters
        ----------
        X
            Datapoints (N, d), as the model has them: at most 512 of them, evenly spaced, are tried.

        Raises
        ------
        InputError
            For data that cannot be used or of another dimension.
        """
        return self_test(self, self._accepted(X))

    def normalized(self, X: ActivationsLike) -> Activations:
        """The data that its dictionary is about, (N, d): ``X`` itself unless the SAE normalizes it first.

        Raises
        ------
        InputError
            For data that cannot be used or of another dimension.
        """
        data = self._accepted(X)
        return data if self.normalization is None else self.normalization.apply(data)

    def _accepted(self, X: ActivationsLike) -> Activations:
        data = Activations(X)
        require_columns(data.shape, self.dim)
        return data

    def _encoded(self, data: Activations) -> Iterator[tuple[torch.Tensor, Undo]]:
        """Codes for ``W_dec`` as it is, block by block, and what undoes the normalization of that block."""
        W, c = torch.from_numpy(self.W_enc.astype(np.float64)), torch.from_numpy(self.b_enc.astype(np.float64))
        if self.subtract_bias:
            c = c - torch.from_numpy(self.b_dec.astype(np.float64)) @ W
        norms = torch.from_numpy(self.atom_norms)
        for block in data.batches(rows=max(1, _BLOCK_ENTRIES // self.n_atoms)):
            x = block.cpu()
            x, undo = (x, as_it_is) if self.normalization is None else self.normalization.forward(x)
            yield self.activation(x @ W + c, norms), undo

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, Any],
        *,
        lam: float | None = None,
        subtract_bias: bool | None = None,
        layout: str | None = None,
        activation: ActivationFunction | None = None,
    ) -> SparseAutoencoder:
        """Wrap the arrays of a trained SAE: ``W_enc (d, K)``, ``b_enc (K,)``, ``W_dec (K, d)``, ``b_dec (d,)``.

        They may also have the names and shapes of other libraries (``encoder.weight (K, d)`` and so on), and be
        transposed where shapes tell. With ``threshold``, ``k``, or ``b_gate``, ``r_mag`` and ``b_mag`` it is a
        JumpReLU, TopK or gated SAE, without them a ReLU one.

        Parameters
        ----------
        arrays
            numpy arrays or tensors by name; atoms may have any norm.
        lam
            The penalty λ of (P) it was trained with, if known: half of SAELens's ``l1_coefficient``.
        subtract_bias
            Whether the encoder subtracts ``b_dec`` first; None if names tell, as those of ReLU SAEs do.
        layout
            ``"rows"`` if rows of the decoder are atoms, ``"columns"`` if its columns are, as in torch's linear layers;
            None if names or shapes tell, as they do unless K = d.
        activation
            The activation function (:mod:`cvxsae.sae.architecture`); None if the arrays tell.

        Raises
        ------
        InputError
            If an array is missing, is of the wrong shape or is not finite, if there are others than these, or
            something is neither told nor said.
        """
        if not isinstance(arrays, Mapping):
            raise InputError(f"the arrays of the SAE are a {type(arrays).__name__}; {LAYOUT}.")
        stored = named(arrays, Asked(layout, activation, subtract_bias))
        return cls.from_stored(replace(stored, lam=lam, source=""))

    @classmethod
    def from_stored(cls, stored: StoredAutoencoder, scale: float | None = None) -> SparseAutoencoder:
        """Check what a layout was read into, and fold a scale of the inputs into the weights and λ.

        Raises
        ------
        InputError
            If an array is of the wrong shape or is not finite, λ is no penalty, or the scale is not known.
        """
        factor = scale_of(stored, scale)
        parts: dict[str, Any] = {**checked(stored, factor)}
        return cls(
            **parts,
            subtract_bias=stored.subtract_bias,
            activation=stored.activation,
            normalization=stored.normalization,
            lam=None if stored.lam is None else arguments.penalty(stored.lam, "lam") / factor,
            lam_source=stored.lam_source if stored.lam is None else stored.lam_source + scaled_by(factor),
            trainer=stored.source,
            metadata=dict(stored.metadata),
        )

    @classmethod
    def from_object(cls, value: Any, *, scale: float | None = None) -> SparseAutoencoder:
        """Read an SAE in memory: of sae_lens, dictionary_learning, sparsify, or anything with encode, decode, W_dec.

        What one of these libraries says of itself is read as from its files. Of others, the encoder is called with
        random datapoints, and the SAE is accepted if it does what a known architecture does with its arrays.

        Parameters
        ----------
        value
            The SAE; it is not changed.
        scale
            As for :meth:`load`.

        Raises
        ------
        InputError
            If it is none, or does what is not understood.
        """
        if not objects.is_one(value):
            raise InputError(f"value is a {type(value).__name__}; pass an object with encode, decode and W_dec.")
        return cls.from_stored(objects.read(value), scale)

    @classmethod
    def from_fit(
        cls,
        fit: DictionaryFit,
        encoder: str = "one-step",
        *,
        X: ActivationsLike | None = None,
    ) -> SparseAutoencoder:
        """An SAE with a learned dictionary and bias as its decoder, and an encoder that approximates its exact codes.

        Parameters
        ----------
        fit
            What :func:`~cvxsae.learn_dictionary` returned.
        encoder
            ``"one-step"``: ``ReLU(D(x − b) − λ)``, exact where active atoms are orthogonal and a start elsewhere.
            ``"regressed"``: the ReLU layer that is regressed on exact codes (:func:`~cvxsae.sae.export.regressed`, a
            convex problem). Its loss on the datapoints it was fitted on, the certified lower bound of all codes there,
            and the amortization gap between them are kept in ``metadata["cvxsae_encoder"]``.
        X
            Other datapoints (N, d) to regress on, for example more; their exact codes are computed first. None: those
            of the fit.

        Returns
        -------
        SparseAutoencoder
            :func:`cvxsae.audit` says what its encoder loses on any data.

        Raises
        ------
        InputError
            For arguments that cannot be used.
        """
        arguments.instance(fit, "fit", DictionaryFit, "what learn_dictionary returned")
        arguments.choice(encoder, "encoder", ("one-step", "regressed"))
        if encoder == "one-step" and X is not None:
            raise InputError("X is given but the encoder is 'one-step', which has no use for data; leave it out.")
        one_step = cls(
            W_enc=np.ascontiguousarray(fit.dictionary.T),
            b_enc=np.full(fit.n_atoms, -fit.lam),
            W_dec=np.array(fit.dictionary),
            b_dec=np.array(fit.bias),
            lam=fit.lam,
            lam_source="the λ that the dictionary was learned with",
            seconds=fit.seconds,
            trainer="cvxsae.learn_dictionary",
        )
        if encoder == "one-step":
            return one_step
        found = regressed(fit, X)
        return replace(one_step, W_enc=found.W_enc, b_enc=found.b_enc, metadata={ENCODER: found.facts})

    def save(self, folder: str | Path, format: str = "saelens") -> Path:  # noqa: A002
        """Write it as a library does; :meth:`load` reads it again.

        ``"saelens"``: ``cfg.json`` and ``sae_weights.safetensors``, from which :meth:`load` reads the same SAE.
        Every array comes back as it was, to the last bit: they are float32 where that holds them all, else float64.
        SAELens (6 and later) reads it too, and encodes the same, except for what it has no name for and so refuses
        (``tanh-relu``, a layer norm with settings of its own), and that it leaves the whitening of data to its caller.

        ``"dictionary-learning"``: ``ae.pt`` and ``config.json``, with the class whose forward pass is that of this SAE.
        Its codes for unit-norm atoms are the same to the precision of float32, in which that library works; what it has
        no class for (``tanh-relu``, normalizations of datapoints) is refused.

        Records and time of training are not kept.

        Raises
        ------
        InputError
            If the folder cannot be made, the library has no such SAE, or ``metadata`` cannot be written as JSON.
        """
        arguments.choice(format, "format", ("saelens", "dictionary-learning"))
        try:
            json.dumps(self.metadata)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"metadata holds what JSON cannot ({reason(error)}); keep texts, numbers, lists and dicts in it."
            ) from None
        if format == "dictionary-learning":
            return dictionary_learning.write(self, folder)
        return saelens.write(self, folder)

    @classmethod
    def load(cls, path: str | Path, layout: str | None = None, *, scale: float | None = None) -> SparseAutoencoder:
        """Read an SAE from disk, in the layout of any of the libraries that the documentation lists.

        The content of a file determines its layout, and is completely understood or refused: nothing is assumed.

        Parameters
        ----------
        path
            A folder or a file.
        layout
            Which layout it is, where that cannot be told.
        scale
            What activations are multiplied by first, for files that say that they are but not by what (checkpoints of
            SAELens with ``expected_average_only_in``: √d over the mean norm). It is folded into the weights and λ.

        Raises
        ------
        InputError
            If a file is missing, is not what it should be, or holds what is not understood: an architecture, a
            normalization, an activation function or an array without a name here; or if a folder holds more than one
            layout and ``layout`` does not say which.
        """
        return cls.from_stored(registry.read(arguments.path(path, "path"), layout), scale)

    def __repr__(self) -> str:
        trained = f", λ {self.lam:.4g}" if self.lam is not None else ""
        return f"SparseAutoencoder({self.dim} -> {self.n_atoms}{trained})"
