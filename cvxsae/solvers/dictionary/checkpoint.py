"""The state of dictionary learning on disk: written atomically, taken up again by a call with the same arguments."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cvxsae.data.arguments import InputError
from cvxsae.data.files import read_arrays, write_arrays
from cvxsae.errors import reason
from cvxsae.solvers.dictionary.state import CurvaturePair, Exact, Moments, Polish, RoundStart, Stochastic

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvxsae.parallel.group import ProcessGroup
    from cvxsae.relaxations.joint.joint import JointProblem
    from cvxsae.solvers.dictionary.evaluator import Evaluator
    from cvxsae.solvers.dictionary.state import State

SECONDS = 10.0
"""Least time between two checkpoints."""

_FORMAT = 3


class Checkpoint:
    """A file that holds the last state offered, and which problem it belongs to.

    Parameters
    ----------
    path
        A ``.npz`` file.
    fingerprint
        What the arguments of the call hash to.
    seconds
        Time that earlier runs took.
    every
        Least seconds between two writes.
    """

    def __init__(self, path: str | Path, fingerprint: str, *, seconds: float = 0.0, every: float = SECONDS) -> None:
        self.path = Path(path)
        if self.path.suffix != ".npz":
            raise InputError(f"checkpoint {str(path)!r} has another suffix than .npz; pass the path of a .npz file.")
        if not self.path.parent.is_dir():
            raise InputError(f"checkpoint {str(path)!r} is in a folder that does not exist; create it first.")
        self.fingerprint, self.every, self.before = fingerprint, every, seconds
        self.started = self.written = time.perf_counter()

    def offer(self, state: State, group: ProcessGroup) -> None:
        """Keep a state if the last one is old enough: of several processes, each its part of the same state."""
        if group.any(time.perf_counter() - self.written >= self.every):
            self.write(state, keep_last=not group.is_alone)

    @property
    def last_but_one(self) -> Path:
        """The state before the last: if a process ends while the others write, it is what all of them still have."""
        return self.path.with_suffix(".before.npz")

    def write(self, state: State, *, keep_last: bool = False) -> None:
        """Keep a state now; the one before as well if asked to."""
        if keep_last and self.path.exists():
            self.path.replace(self.last_but_one)
        write_arrays(self.path, _pack(state, self.fingerprint, self.seconds), "checkpoint")
        self.written = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time spent so far, earlier runs included."""
        return self.before + time.perf_counter() - self.started


def fingerprint(problem: JointProblem, **options: Any) -> str:
    """Hash of data, λ, bias, width and options: two calls with the same one do the same."""
    digest = hashlib.sha256(json.dumps({"lam": problem.lam, "K": problem.n_atoms, **options}, sort_keys=True).encode())
    if not problem.bias_is_free:
        digest.update(problem.fixed_bias().numpy().tobytes())
    for batch in problem.X.batches():
        digest.update(batch.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read(path: Path, expected: str) -> tuple[dict[str, Any], float]:
    """The arrays of a checkpoint and the seconds it took.

    Raises
    ------
    InputError
        If the file is no checkpoint, or one of other data or options.
    """
    arrays: dict[str, Any] = dict(read_arrays(path, "checkpoint"))
    if "fingerprint" not in arrays or not np.array_equal(arrays.get("format", 0), _FORMAT):
        raise InputError(f"checkpoint {str(path)!r} is not a checkpoint of learn_dictionary; pass another path.")
    if not np.array_equal(arrays["fingerprint"], np.frombuffer(expected.encode(), dtype=np.uint8)):
        raise InputError(
            f"checkpoint {str(path)!r} belongs to other data or other options; pass another path, or the arguments "
            "it was made with."
        )
    return arrays, float(arrays.get("seconds", 0.0))


def _pack(state: State, fingerprint: str, seconds: float) -> dict[str, Any]:
    packed: dict[str, Any] = {
        "format": np.int64(_FORMAT),
        "fingerprint": np.frombuffer(fingerprint.encode(), dtype=np.uint8).astype(np.int64),
        "seconds": np.float64(seconds),
        "dictionary": state.dictionary,
        "offset": state.offset,
        "value": np.float64(state.value),
        "step": np.int64(state.step),
    }
    for name in sorted(state.counts):
        packed[f"count_{name}"] = np.int64(state.counts[name])
    if isinstance(state, Polish):
        _pack_polish(packed, state)
        return packed
    packed["round"], packed["parts"] = np.int64(state.round), np.int64(len(state.codes))
    for part, codes in enumerate(state.codes):
        if codes is not None:
            packed[f"codes_{part}"] = codes
    if isinstance(state, Exact):
        packed["part"] = np.int64(state.part)
        return packed
    packed["first"], packed["second"] = state.moments.first, state.moments.second
    packed["taken"] = np.int64(state.moments.taken)
    if state.start is not None:
        packed["start_dictionary"], packed["start_offset"] = state.start.dictionary, state.start.offset
        packed["start_value"], packed["start_codes"] = np.float64(state.start.value), state.start.codes
    return packed


def _pack_polish(packed: dict[str, Any], state: Polish) -> None:
    packed["ended"] = np.int64(2 * state.is_stuck + state.is_settled)
    packed["last_moves"], packed["value_at_moves"] = np.int64(state.last_moves), np.float64(state.value_at_moves)
    packed["least_curvature"] = np.float64(np.nan if state.least_curvature is None else state.least_curvature)
    if state.warm is not None:
        packed["warm"] = state.warm
    if state.evaluation is not None:
        packed["codes"], packed["tol"] = state.evaluation.codes.codes, np.float64(state.evaluation.codes.tol)
    for number, pair in enumerate(state.pairs):
        packed[f"step_{number}"], packed[f"change_{number}"] = pair.step, pair.change


def unpack(arrays: dict[str, Any], evaluator: Evaluator) -> State:
    """Rebuild the state: sums and residuals are computed again from the codes.

    Raises
    ------
    InputError
        If arrays are missing, or are not those of a state.
    """
    try:
        _check(arrays, evaluator.problem)
        return _unpack(arrays, evaluator)
    except (KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
        raise InputError(
            f"checkpoint is damaged ({type(error).__name__}: {reason(error)}); remove the file and start again."
        ) from None


def _check(arrays: dict[str, Any], problem: JointProblem) -> None:
    """Refuse arrays that no run wrote: a broken dictionary would be certified as stationary."""
    dictionary, offset = arrays["dictionary"], arrays["offset"]
    if dictionary.shape != (problem.n_atoms, problem.dim) or offset.shape != (problem.dim,):
        raise ValueError("dictionary or offset has another shape")
    if not (np.abs(np.linalg.norm(dictionary, axis=1) - 1) < 1e-9).all() or not np.isfinite(offset).all():
        raise ValueError("its atoms are not of norm 1, or its offset is not finite")
    if "codes" in arrays and arrays["codes"].shape != (problem.n_points, problem.n_atoms):
        raise ValueError("codes have another shape")


def _unpack(arrays: dict[str, Any], evaluator: Evaluator) -> State:
    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(arrays[name]).to(evaluator.device)

    at_hand: dict[str, Any] = {
        "dictionary": tensor("dictionary"),
        "offset": tensor("offset"),
        "value": float(arrays["value"]),
        "step": int(arrays["step"]),
        "counts": {name.removeprefix("count_"): int(arrays[name]) for name in arrays if name.startswith("count_")},
    }
    if "ended" in arrays:
        return _unpack_polish(arrays, evaluator, at_hand, tensor)
    codes = tuple(arrays.get(f"codes_{part}") for part in range(int(arrays["parts"])))
    minibatches, number = evaluator.deal(len(codes)), int(arrays["round"])
    if "taken" in arrays:
        moments = Moments(tensor("first"), tensor("second"), int(arrays["taken"]))
        start = None
        if "start_value" in arrays:
            start = RoundStart(
                tensor("start_dictionary"), tensor("start_offset"), float(arrays["start_value"]), arrays["start_codes"]
            )
        return Stochastic(**at_hand, round=number, minibatches=minibatches, codes=codes, moments=moments, start=start)
    held = tuple(arrays[f"codes_{part}"] for part in range(len(codes)))
    sums = evaluator.no_sums(len(at_hand["dictionary"]))
    for rows, part_codes in zip(minibatches, held, strict=True):
        if len(rows):
            sums.add(part_codes, evaluator.measured(evaluator.problem.X[rows].to_tensor()))
    return Exact(**at_hand, round=number, part=int(arrays["part"]), minibatches=minibatches, codes=held, sums=sums)


def _unpack_polish(
    arrays: dict[str, Any], evaluator: Evaluator, at_hand: dict[str, Any], tensor: Callable[[str], torch.Tensor]
) -> Polish:
    curvature, evaluation = float(arrays["least_curvature"]), None
    if "codes" in arrays:
        evaluation = evaluator.evaluate(at_hand["dictionary"], at_hand["offset"], arrays["codes"], float(arrays["tol"]))
    return Polish(
        **at_hand,
        evaluation=evaluation,
        warm=arrays.get("warm"),
        pairs=tuple(
            CurvaturePair(tensor(f"step_{number}"), tensor(f"change_{number}"))
            for number in range(sum(name.startswith("change_") for name in arrays))
        ),
        least_curvature=None if np.isnan(curvature) else curvature,
        last_moves=int(arrays["last_moves"]),
        value_at_moves=float(arrays["value_at_moves"]),
        is_settled=int(arrays["ended"]) == 1,
        is_stuck=int(arrays["ended"]) == 2,
    )
