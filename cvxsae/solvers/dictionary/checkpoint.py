"""The state of dictionary learning on disk, from which a call with the same arguments resumes.

Only arrays and counters are kept. Sums, values, gradients and verdicts are computed again from them, so that no file
can make a search end as stationary that is not.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch

from cvxsae.data.storage import Folder, fingerprint
from cvxsae.errors import InputError, reason
from cvxsae.parallel.group import ProcessGroup
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.solvers.dictionary.evaluator import Evaluator
from cvxsae.solvers.dictionary.held_out import Watched
from cvxsae.solvers.dictionary.state import CurvaturePair, Exact, Moments, Polish, RoundStart, State, Stochastic

if TYPE_CHECKING:
    from cvxsae.solvers.dictionary.watching import Watch

SECONDS = 10.0
"""Least time between two states that are kept."""

SLOTS = ("state", "state-before")
"""Records of the last two states. If a process ends while the others write, the older one is what all still have."""

NORM_TOLERANCE = 1e-9
"""How far an atom's norm may be from 1 in a state that is gone on from."""

KIND = "a search for a dictionary"
"""What the folder holds, in words."""

_OF_POLISH = ("idle", "least_residual", "least_curvature", "last_moves", "value_at_moves", "is_settled", "is_stuck")


class Checkpoint:
    """The states of one search: of several processes, each keeps its part of the same ones.

    Parameters
    ----------
    path
        The folder that was asked for; each of several processes has one of its own in it.
    problem
        Data, width, λ and bias.
    options
        What else decides the answer, ready for JSON.

    Attributes
    ----------
    before
        Seconds that earlier runs took.
    """

    def __init__(self, path: Path, problem: JointProblem, options: Mapping[str, Any]) -> None:
        self.group: ProcessGroup = problem.group
        asked: dict[str, Any] = {
            "X": fingerprint(problem.X),
            "n_atoms": problem.n_atoms,
            "lam": problem.lam,
            "bias": "free" if problem.bias_is_free else _digest(problem.fixed_bias().numpy()),
            **options,
        }
        if not self.group.is_alone:
            asked["process"] = [self.group.rank, self.group.size]
            path = path / f"process-{self.group.rank}-of-{self.group.size}"
        self.folder = Folder(path, KIND, asked)
        self.before, self.turn = 0.0, 0
        self.started = self.written = time.perf_counter()

    def resume(self, evaluator: Evaluator, target: float, watch: Watch | None = None) -> State | None:
        """The last state that all processes have, None if there is none; ``target`` is the stationarity asked for.

        Raises
        ------
        InputError
            If processes have states, but none in common, or one that no search wrote.
        """
        found = {}
        for turn, slot in enumerate(SLOTS):
            kept = self.folder.read(slot)
            if kept is not None:
                found[int(kept.record["step"])] = (turn, kept)
        everywhere = set.intersection(*(set(steps) for steps in self.group.gather(list(found))))
        if not everywhere:
            self.group.agree(**{"the state in the folder": sorted(found)})
            return None
        turn, kept = found[max(everywhere)]
        self.turn = 1 - turn  # the next state goes where the one that all have is not
        self.before = float(kept.record["seconds"])
        try:
            state = _unpack(kept.record, kept.arrays, evaluator)
            if watch is not None:
                state = replace(state, watched=_unpack_watched(kept.record, kept.arrays, evaluator, watch))
        except (KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
            raise InputError(
                f"folder {str(self.folder.path)!r} holds a state that cannot be gone on from "
                f"({type(error).__name__}: {reason(error)}); pass another folder."
            ) from None
        if isinstance(state, Polish) and state.is_settled:  # only if it is: no record is trusted
            assert state.evaluation is not None
            state = replace(state, is_settled=evaluator.worst_residual(state.evaluation) <= target)
        return state

    def offer(self, state: State, evaluator: Evaluator) -> None:
        """Keep a state if the last one is old enough, in all processes at once."""
        if self.group.any(time.perf_counter() - self.written >= SECONDS):
            self.write(state, evaluator)

    def write(self, state: State, evaluator: Evaluator) -> None:
        """Keep a state now, in place of the one before the last."""
        record, arrays = _pack(state)
        _pack_watched(state, record, arrays, evaluator)
        arrays["bias"] = evaluator.bias(state.offset)
        self.folder.write(SLOTS[self.turn], {**record, "seconds": self.seconds}, arrays)
        self.turn = 1 - self.turn
        self.written = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time spent so far, earlier runs included."""
        return self.before + time.perf_counter() - self.started


def _digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def digest_of(dictionary: np.ndarray, bias: np.ndarray | None) -> str:
    """What identifies a start that was given."""
    return _digest(dictionary) if bias is None else _digest(dictionary, bias)


# ---------------------------------------------------------------------- states as records


def _pack(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    """Numbers and arrays."""
    record: dict[str, Any] = {"stage": type(state).__name__, "step": state.step, "counts": state.counts}
    arrays: dict[str, Any] = {"dictionary": state.dictionary, "offset": state.offset}
    record["value"] = state.value
    if isinstance(state, Polish):
        record.update({name: getattr(state, name) for name in _OF_POLISH})
        if state.warm is not None:
            arrays["warm"] = state.warm
        if state.evaluation is not None:
            arrays["codes"], record["code_tol"] = state.evaluation.codes.codes, state.evaluation.codes.tol
        for number, pair in enumerate(state.pairs):
            arrays[f"step_{number}"], arrays[f"change_{number}"] = pair.step, pair.change
        record["pairs"] = len(state.pairs)
        return record, arrays
    record["round"], record["parts"] = state.round, len(state.codes)
    arrays.update({f"codes_{part}": codes for part, codes in enumerate(state.codes) if codes is not None})
    if isinstance(state, Exact):
        record["part"] = state.part
        return record, arrays
    record["taken"] = state.moments.taken
    arrays["first"], arrays["second"] = state.moments.first, state.moments.second
    if state.start is not None:
        record["start_value"], arrays["start_codes"] = state.start.value, state.start.codes
        arrays["start_dictionary"], arrays["start_offset"] = state.start.dictionary, state.start.offset
    return record, arrays


def _unpack(record: dict[str, Any], arrays: dict[str, Any], evaluator: Evaluator) -> State:
    problem = evaluator.problem
    # Where the time of an earlier run ended the wide limit, its origin was another one.
    shift = arrays["bias"] - evaluator.bias(tensor_of(arrays["offset"], evaluator)).numpy()
    moved = float(np.abs(shift).max()) > 0

    def tensor(name: str) -> torch.Tensor:
        found = arrays[name] + shift if moved and name.endswith("offset") else arrays[name]
        return tensor_of(found, evaluator)

    for name, array in arrays.items():
        if not np.isfinite(array.data if isinstance(array, sp.csr_array) else array).all():
            raise ValueError(f"its {name} are not all finite")
    for name in ("dictionary", "start_dictionary"):
        if name in arrays:
            _check_atoms(arrays[name], (problem.n_atoms, problem.dim))
    at_hand: dict[str, Any] = {
        "dictionary": tensor("dictionary"),
        "offset": tensor("offset"),
        "value": float(record["value"]),
        "step": int(record["step"]),
        "counts": dict(record["counts"]),
    }
    if record["stage"] == Polish.__name__:
        return _unpack_polish(record, arrays, evaluator, at_hand)
    minibatches, number = evaluator.deal(int(record["parts"])), int(record["round"])
    codes = tuple(arrays.get(f"codes_{part}") for part in range(len(minibatches)))
    if record["stage"] == Stochastic.__name__:
        start = None
        if "start_value" in record:
            start = RoundStart(
                tensor("start_dictionary"), tensor("start_offset"), float(record["start_value"]), arrays["start_codes"]
            )
        moments = Moments(tensor("first"), tensor("second"), int(record["taken"]))
        return Stochastic(**at_hand, round=number, minibatches=minibatches, codes=codes, moments=moments, start=start)
    held = tuple(arrays[f"codes_{part}"] for part in range(len(codes)))
    sums = evaluator.no_sums(problem.n_atoms)
    for rows, part_codes in zip(minibatches, held, strict=True):
        if len(rows):
            sums.add(part_codes, evaluator.measured(problem.X[rows].to_tensor()))
    return Exact(**at_hand, round=number, part=int(record["part"]), minibatches=minibatches, codes=held, sums=sums)


def _pack_watched(state: State, record: dict[str, Any], arrays: dict[str, Any], evaluator: Evaluator) -> None:
    """What rows set aside have said; their values are computed again from these codes."""
    seen = state.watched
    if seen is None:
        return
    record["watched"] = {"step": seen.step, "last": seen.last, "value": seen.value, "idle": seen.idle}
    arrays["watched_dictionary"], arrays["watched_offset"] = seen.dictionary, seen.offset
    arrays["watched_bias"] = evaluator.bias(seen.offset)
    arrays["watched_codes"], arrays["watched_warm"] = seen.codes, seen.warm
    arrays["watched_reference"] = seen.reference


def _unpack_watched(
    record: dict[str, Any], arrays: dict[str, Any], evaluator: Evaluator, watch: Watch
) -> Watched | None:
    """The best point on rows set aside, evaluated again; only what decides when the search ends is trusted."""
    if "watched" not in record:
        return None
    problem, rows = evaluator.problem, len(watch.rows.X)
    _check_atoms(arrays["watched_dictionary"], (problem.n_atoms, problem.dim))
    if any(arrays[f"watched_{name}"].shape != (rows, problem.n_atoms) for name in ("codes", "warm")):
        raise ValueError("its codes of the rows set aside have another shape")
    if arrays["watched_reference"].shape != (2, rows):
        raise ValueError("its values of the rows set aside have another shape")
    dictionary, offset = (tensor_of(arrays[f"watched_{name}"], evaluator) for name in ("dictionary", "offset"))
    shift = torch.from_numpy(arrays["watched_bias"]) - evaluator.bias(offset)
    if bool(shift.any()):
        offset = offset + shift.to(offset.device)
    codes = watch.codes(evaluator.until(np.inf), dictionary, offset, arrays["watched_codes"])
    return Watched(
        dictionary=dictionary,
        offset=offset,
        found=watch.evaluation(codes),
        codes=codes.codes,
        warm=arrays["watched_warm"],
        reference=arrays["watched_reference"],
        step=int(record["watched"]["step"]),
        last=int(record["watched"]["last"]),
        value=float(record["watched"]["value"]),
        idle=int(record["watched"]["idle"]),
    )


def _unpack_polish(
    record: dict[str, Any], arrays: dict[str, Any], evaluator: Evaluator, at_hand: dict[str, Any]
) -> Polish:
    """Polishing goes on from codes, value and gradient that are computed again."""
    evaluation = None
    if "codes" in arrays:
        tol = float(record["code_tol"])
        again = evaluator.until(np.inf)  # an evaluation that was there is there again, whatever the deadline
        evaluation = again.evaluate(at_hand["dictionary"], at_hand["offset"], _checked(arrays, evaluator), tol)
        at_hand["value"] = evaluation.value
    pairs = [(arrays[f"step_{number}"], arrays[f"change_{number}"]) for number in range(int(record["pairs"]))]
    return Polish(
        **at_hand,
        evaluation=evaluation,
        warm=arrays.get("warm"),
        pairs=tuple(CurvaturePair(*(tensor_of(part, evaluator) for part in pair)) for pair in pairs),
        **{name: record[name] for name in _OF_POLISH},
    )


def tensor_of(array: np.ndarray, evaluator: Evaluator) -> torch.Tensor:
    """An array on the device of the search."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(evaluator.device)


def _check_atoms(atoms: np.ndarray, shape: tuple[int, int]) -> None:
    if atoms.shape != shape or not (np.abs(np.linalg.norm(atoms, axis=1) - 1) < NORM_TOLERANCE).all():
        raise ValueError("its atoms have another shape, or not norm 1")


def _checked(arrays: dict[str, Any], evaluator: Evaluator) -> sp.csr_array:
    codes: sp.csr_array = arrays["codes"]
    if codes.shape != (evaluator.problem.n_points, evaluator.problem.n_atoms):
        raise ValueError("its codes have another shape")
    return codes
