"""A certified lower bound for every dictionary of a given width, and its proof."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64

from cvxsae.data import arguments
from cvxsae.data.files import read_arrays, write_arrays
from cvxsae.data.storage import fingerprint
from cvxsae.errors import InputError
from cvxsae.relaxations.floors.kernels import ZonalKernel
from cvxsae.relaxations.joint.joint import JointProblem

THEOREMS = ("T9", "T10", "T14", "T15")
"""Where a floor may come from."""


@dataclass(frozen=True, eq=False)
class FloorPart:
    """The bound for one part of the datapoints, and all that is needed to compute it again.

    Its points are ``u = x_n − b`` for the rows n; with a free bias ``u = (x_n − x_m)/2`` for rows n and partners m.

    Attributes
    ----------
    rows
        Indices of the datapoints of this part, (n,).
    partners
        With a free bias, the datapoint each of ``rows`` is paired with, (n,); else None.
    value
        The bound, mean per point of the part.
    theorem
        T9, T10, T14 or T15.
    kernel
        For T14 and T15: k.
    weights
        For T14 and T15: w_n ≥ 0, (n,), with the multiplier μ of (6c) in them. The directions are ``v = u/‖u‖``.
    share_limit
        For T14 and T15: the upper bound Λ_K of ``Σ_n w_n q_n`` that was used.
    failure_probability
        The probability, over a random start that does not depend on the data, that this bound is too low: zero unless
        it is made of products with the kernel matrix alone, in parts that are too large for all its eigenvalues.
    projection
        Orthonormal columns (d, r) that the points are projected on first (``docs/floors_proofs.md``, Lemma 5); None
        for none.
    """

    rows: np.ndarray = field(repr=False)
    partners: np.ndarray | None = field(repr=False)
    value: float
    theorem: str
    kernel: ZonalKernel | None = None
    weights: np.ndarray | None = field(default=None, repr=False)
    share_limit: float | None = None
    failure_probability: float = 0.0
    projection: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Floor:
    """A number that F(D, b) cannot go below, whatever the dictionary D of ``n_atoms`` unit-norm atoms.

    Attributes
    ----------
    problem
        The joint problem it bounds from below: data, width K, λ and bias (for ``"free"`` it holds for every bias). It
        holds for every smaller width too.
    value
        The bound, mean per datapoint as in (P).
    theorem
        Where it comes from; of several parts, that of the first.
    parts
        How it was found, part by part; empty for :func:`cvxsae.floors.spectral_floor` and where the wide limit is the
        best.
    fingerprint
        Of the data it was computed for (:func:`cvxsae.data.storage.fingerprint`): data that change later are noticed.
    """

    problem: JointProblem = field(repr=False)
    value: float
    theorem: str
    parts: tuple[FloorPart, ...] = field(default=(), repr=False)
    fingerprint: str = field(default="", repr=False)

    @property
    def n_atoms(self) -> int:
        """The width K."""
        return self.problem.n_atoms

    @property
    def failure_probability(self) -> float:
        """The probability, over the seed, that the floor is wrong; zero unless a part was too large to be exact."""
        return min(1.0, math.fsum(part.failure_probability for part in self.parts))

    @property
    def lam(self) -> float:
        """Penalty λ."""
        return self.problem.lam

    @property
    def bias(self) -> Float64[np.ndarray, " d"] | Literal["free"] | None:
        """The bias it holds for: None (zero), an array (d,), or ``"free"`` (every bias)."""
        bias = self.problem.bias
        return bias.numpy().copy() if isinstance(bias, torch.Tensor) else bias

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON: the number and what it is about, without the parts that prove it."""
        return {
            "value": self.value,
            "theorem": self.theorem,
            "kernel": str(self.parts[0].kernel) if self.parts and self.parts[0].kernel is not None else None,
            "n_parts": len(self.parts),
            "failure_probability": self.failure_probability,
            "n_points": self.problem.n_points,
            "dim": self.problem.dim,
            "n_atoms": self.n_atoms,
            "lam": self.lam,
            "bias": "free" if self.problem.bias_is_free else "fixed",
        }

    def save(self, path: str | Path) -> Path:
        """Write value, width, λ, bias and the parts that prove it to a ``.npz`` or ``.safetensors`` file.

        The numbers are what was claimed when the file was written: ``certify(Floor.load(path, problem))`` computes them
        again from the data.
        """
        claims: dict[str, Any] = {
            "value": self.value,
            "theorem": int(self.theorem[1:]),
            "n_atoms": self.n_atoms,
            "lam": self.lam,
            "part_values": np.array([part.value for part in self.parts], dtype=np.float64),
            "part_theorems": np.array([int(part.theorem[1:]) for part in self.parts], dtype=np.int64),
            "fingerprint": np.frombuffer(fingerprint(self.problem.X).encode(), dtype=np.uint8),
        }
        if not self.problem.bias_is_free:
            claims["bias"] = self.problem.fixed_bias().numpy()
        return write_arrays(path, {**part_arrays(self.parts), **claims})

    @classmethod
    def load(cls, path: str | Path, problem: JointProblem) -> Floor:
        """Read what :meth:`save` wrote, for the problem that it is about.

        Its numbers are those that the file claims, and no more than claims until :func:`cvxsae.certify` has computed
        them again.

        Raises
        ------
        InputError
            For a file that cannot be read or holds no floor, or one of other data, another width, λ or bias.
        """
        arguments.instance(problem, "problem", JointProblem, "the JointProblem that the floor is about")
        held: dict[str, Any] = dict(read_arrays(path))
        where = f"path {str(path)!r}"
        try:
            claimed = _claims(held)
            theorem, value = f"T{int(held['theorem'])}", float(held["value"])
            heads = zip(held["part_values"].tolist(), held["part_theorems"].tolist(), strict=True)
            parts = tuple(part_from(held, place, v, f"T{t}") for place, (v, t) in enumerate(heads))
            if not {theorem, *(part.theorem for part in parts)} <= set(THEOREMS):
                raise ValueError("theorem")
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{where} holds no floor; pass a file that Floor.save wrote.") from error
        wanted = _claims(
            {
                "n_atoms": problem.n_atoms,
                "lam": problem.lam,
                "fingerprint": np.frombuffer(fingerprint(problem.X).encode(), dtype=np.uint8),
                **({} if problem.bias_is_free else {"bias": problem.fixed_bias().numpy()}),
            }
        )
        for name, found, asked in zip(("width", "lam", "bias", "data"), claimed, wanted, strict=True):
            if found != asked:
                raise InputError(f"{where} is a floor of another {name}; pass the problem that it was computed for.")
        return cls(problem, value, theorem, parts, fingerprint(problem.X))

    def __repr__(self) -> str:
        bias = "every bias" if self.problem.bias_is_free else "this bias"
        doubt = f", wrong with probability {self.failure_probability:.1g}" if self.failure_probability else ""
        return f"Floor({self.value:.9g} for {self.n_atoms} atoms and {bias}, λ {self.lam:.4g}, {self.theorem}{doubt})"


def part_arrays(parts: Sequence[FloorPart]) -> dict[str, np.ndarray]:
    """The arrays of parts by name and place, ``rows-0``, ...; values and theorems are left to the caller."""
    arrays: dict[str, np.ndarray] = {}
    for place, part in enumerate(parts):
        held = {
            "rows": part.rows,
            "partners": part.partners,
            "weights": part.weights,
            "powers": None if part.kernel is None else part.kernel.powers,
            "coefficients": None if part.kernel is None else part.kernel.coefficients,
            "share_limit": part.share_limit,
            "failure_probability": part.failure_probability or None,
            "projection": part.projection,
        }
        arrays |= {f"{name}-{place}": np.asarray(array) for name, array in held.items() if array is not None}
    return arrays


def part_from(arrays: Mapping[str, Any], place: int, value: float, theorem: str) -> FloorPart:
    """The inverse of :func:`part_arrays`, of one part.

    Raises
    ------
    ValueError
        If it has no rows.
    """

    def held(name: str) -> Any:
        return arrays.get(f"{name}-{place}")

    if held("rows") is None:
        raise ValueError("a part of its floor has no rows")
    kernel, limit = None, held("share_limit")
    if held("powers") is not None and held("coefficients") is not None:
        powers, coefficients = (np.asarray(held(name)).tolist() for name in ("powers", "coefficients"))
        kernel = ZonalKernel(tuple(map(int, powers)), tuple(map(float, coefficients)))
    return FloorPart(
        rows=held("rows"),
        partners=held("partners"),
        value=float(value),
        theorem=theorem,
        kernel=kernel,
        weights=held("weights"),
        share_limit=None if limit is None else float(limit),
        failure_probability=float(0.0 if held("failure_probability") is None else held("failure_probability")),
        projection=held("projection"),
    )


def _claims(held: Mapping[str, Any]) -> tuple[int, float, bytes, bytes]:
    """Width, λ, bias (none where it is free) and data, to be compared."""
    bias = held.get("bias")
    vector = b"free" if bias is None else np.asarray(bias, dtype=np.float64).tobytes()
    return int(held["n_atoms"]), float(held["lam"]), vector, np.asarray(held["fingerprint"]).tobytes()
