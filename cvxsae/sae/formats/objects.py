"""SAEs in memory, as other libraries have them: read by what they say of themselves, or by what their encoder does.

No library is imported: an SAE of one says which it is by its class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cvxsae.data import tensors
from cvxsae.errors import InputError, reason
from cvxsae.sae.architecture import ActivationFunction, JumpReLU, ReLU, TanhReLU, TopK
from cvxsae.sae.formats import dictionary_learning, openai, saelens, sparsify
from cvxsae.sae.formats.config import understood
from cvxsae.sae.formats.stored import StoredAutoencoder

PROBES = 64
"""Datapoints that an unknown encoder is tried on."""

_PROBE_SEED = 0

_AGREEMENT = {torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float32: 1e-4, torch.float64: 1e-9}
"""How far codes and reconstructions may be from ours, relative to the largest, in the precision of the object."""


def is_one(value: Any) -> bool:
    """Whether it looks like an SAE of some library."""
    return callable(getattr(value, "encode", None)) and (
        getattr(value, "W_dec", None) is not None or callable(getattr(value, "state_dict", None))
    )


def read(value: Any) -> StoredAutoencoder:
    """Read an SAE in memory.

    Raises
    ------
    InputError
        If it is none, or does what is not understood.
    """
    library = {kind.__module__.partition(".")[0] for kind in type(value).__mro__}
    where = f"the {type(value).__name__}"
    for name, reader in _READERS.items():
        if name in library:
            return reader(value, where)
    return _probed(value, where)


def _saelens(value: Any, where: str) -> StoredAutoencoder:
    config = understood(value.cfg.to_dict(), where)
    return saelens.interpret(config, _arrays(value), None)


def _dictionary_learning(value: Any, where: str) -> StoredAutoencoder:
    del where
    name = type(value).__name__
    found = dictionary_learning.interpret(Path(name), _arrays(value), {}, name)
    return replace(found, subtract_bias=bool(getattr(value, "apply_b_dec_to_input", found.subtract_bias)))


def _sparsify(value: Any, where: str) -> StoredAutoencoder:
    del where
    return sparsify.interpret({**value.cfg.to_dict(), "d_in": value.d_in}, _arrays(value), Path(type(value).__name__))


def _openai(value: Any, where: str) -> StoredAutoencoder:
    return openai.interpret(dict(value.state_dict()), where, normalize=bool(value.normalize))


_READERS = {
    "sae_lens": _saelens,
    "dictionary_learning": _dictionary_learning,
    "sparsify": _sparsify,
    "sparse_autoencoder": _openai,
}
"""By the package that a class, or one that it is derived from, is of."""


def _arrays(value: Any) -> dict[str, Any]:
    return {name: part.detach().cpu() for name, part in value.state_dict().items()}


# -------------------------------------------------------------------------- encoders that say nothing of themselves


@dataclass(frozen=True)
class _Guess:
    """What an encoder may be."""

    activation: ActivationFunction
    subtract_bias: bool
    W_enc: torch.Tensor

    def codes(self, x: torch.Tensor, b_enc: torch.Tensor, b_dec: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        """Its codes, (n, K)."""
        return self.activation((x - b_dec if self.subtract_bias else x) @ self.W_enc + b_enc, norms)


def _probed(value: Any, where: str) -> StoredAutoencoder:
    """Whatever has ``encode``, ``decode``, ``W_dec`` and biases: its encoder is tried on random datapoints."""
    decoder = tensors.matrix(_part(value, "W_dec", where), "W_dec", rows="atom")
    dtype, (K, d) = decoder.dtype, decoder.shape
    decoder = decoder.cpu().to(torch.float64)
    b_enc, b_dec = (_bias(value, name, size) for name, size in (("b_enc", K), ("b_dec", d)))
    x = torch.randn((PROBES, d), dtype=torch.float64, generator=torch.Generator().manual_seed(_PROBE_SEED))
    x = (x * (1 + 3 * torch.linspace(0, 1, PROBES, dtype=torch.float64)[:, None]) + b_dec).to(dtype)
    codes, back = _called(value, x, where)
    x, norms = x.to(torch.float64), torch.linalg.vector_norm(decoder, dim=1)
    if codes.shape != (PROBES, K) or back.shape != x.shape:
        raise InputError(
            f"{where} encodes {tuple(x.shape)} to {tuple(codes.shape)} and decodes it to {tuple(back.shape)}; with "
            f"W_dec of shape {(K, d)}, atoms as rows, codes must be (n, {K}) and reconstructions (n, {d})."
        )
    fitting = [
        guess for guess in _guesses(value, decoder, where) if _agree(guess.codes(x, b_enc, b_dec, norms), codes, dtype)
    ]
    if not fitting or not _agree(codes @ decoder + b_dec, back, dtype):
        what = "decodes other than codes times W_dec plus b_dec" if fitting else "encodes as no known architecture does"
        raise InputError(
            f"{where} {what}, on random datapoints; pass its arrays to SparseAutoencoder.from_arrays, with activation "
            "and subtract_bias, if they say what it is."
        )
    if not bool((codes > 0).any()):
        raise InputError(f"{where} has no active code on random datapoints, which tells nothing of its encoder.")
    best = fitting[0]
    return StoredAutoencoder(
        W_enc=best.W_enc.to(dtype),
        b_enc=b_enc.to(dtype),
        W_dec=decoder.to(dtype),
        b_dec=b_dec.to(dtype),
        activation=best.activation,
        subtract_bias=best.subtract_bias,
        lam_source="an object in memory tells no λ",
        source=f"{type(value).__name__}, {best.activation.name}",
    )


def _guesses(value: Any, decoder: torch.Tensor, where: str) -> Iterator[_Guess]:
    """The architectures that its attributes leave possible, the most special first."""
    K, d = decoder.shape
    own = getattr(value, "W_enc", None)
    encoder = decoder.T if own is None else tensors.matrix(own, "W_enc", rows="dimension").cpu().to(torch.float64)
    if tuple(encoder.shape) != (d, K):
        raise InputError(f"{where} has W_enc of shape {tuple(encoder.shape)}; with W_dec {(K, d)} it must be {(d, K)}.")
    kinds: list[ActivationFunction] = []
    threshold = getattr(value, "threshold", None)
    if threshold is not None and torch.as_tensor(threshold).numel() in (1, K):
        kinds.append(
            JumpReLU(torch.as_tensor(threshold).detach().cpu().reshape(-1).expand(K).to(torch.float64).numpy())
        )
    k = getattr(value, "k", None) or getattr(getattr(value, "cfg", None), "k", None)
    if k is not None and float(k) == int(k) > 0:
        kinds += [TopK(int(k)), TopK(int(k), by_norm=True)]
    for kind in (*kinds, ReLU(), TanhReLU()):
        for subtracts in (True, False):
            yield _Guess(kind, subtracts, encoder)


def _part(value: Any, name: str, where: str) -> Any:
    part = getattr(value, name, None)
    if part is None:
        raise InputError(f"{where} has no {name}; pass its arrays to SparseAutoencoder.from_arrays.")
    return part


def _bias(value: Any, name: str, size: int) -> torch.Tensor:
    """A bias, zero where it has none."""
    part = getattr(value, name, None)
    return torch.zeros(size, dtype=torch.float64) if part is None else tensors.vector(part, name)


def _called(value: Any, x: torch.Tensor, where: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and reconstructions of the object, float64."""
    device = getattr(value.W_dec, "device", "cpu")
    try:
        with torch.no_grad():
            codes = value.encode(x.to(device))
            back = value.decode(codes)
        return codes.detach().cpu().to(torch.float64), back.detach().cpu().to(torch.float64)
    except Exception as error:
        raise InputError(
            f"{where} cannot encode and decode {tuple(x.shape)} float tensors ({reason(error)}); pass its arrays "
            "to SparseAutoencoder.from_arrays."
        ) from None


def _agree(ours: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether two arrays are the same in this precision, except for a few codes at a threshold."""
    off = (ours - theirs).abs() > _AGREEMENT[dtype] * max(float(theirs.abs().max()), 1.0)
    return int(off.sum()) <= _AT_A_THRESHOLD * int(((ours != 0) | (theirs != 0)).sum())


_AT_A_THRESHOLD = 0.01
"""Part of the active codes that may differ: where an entry is at its threshold, or ranks are tied, rounding decides."""
