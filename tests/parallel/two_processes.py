"""What ``torchrun`` starts twice for :mod:`tests.solvers.test_distributed`: all that needs a second process.

    torchrun --standalone --nproc-per-node 2 -m tests.parallel.two_processes FOLDER

Arrays go to ``FOLDER/rank-R.npz`` and sentences to ``FOLDER/rank-R.json``; the tests judge them. At the very end
process 1 leaves without a word, as if it had been killed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cvxsae
from cvxsae import Activations, SparseCodes, WideLimit, certify, encode, learn_dictionary, process_group, solve
from cvxsae.data import storage
from cvxsae.parallel.group import ProcessGroup
from cvxsae.results import DictionaryFit, Record
from cvxsae.solvers.dictionary import checkpoint, sample

LAM = 0.1
PENALTY = 0.3
WIDTH = 24
START, HALF = 24, 12
FEW = 40
"""Datapoints of the smaller of two lopsided shares."""


def data() -> tuple[np.ndarray, np.ndarray]:
    """Sparse combinations of planted atoms off the origin, an odd number of them, and the atoms."""
    rng = np.random.default_rng(7)
    atoms = rng.standard_normal((WIDTH, 8))
    codes = rng.exponential(size=(1101, WIDTH)) * (rng.random((1101, WIDTH)) < 0.12)
    return codes @ atoms + 0.03 * rng.standard_normal((1101, 8)) + 0.5, atoms


def starts() -> np.ndarray:
    """Random atoms to start from."""
    return np.random.default_rng(1).standard_normal((START, 8))


def points(name: str) -> np.ndarray:
    """Datapoints of an example; those of two of them lie near the axes, half of which the start does not see."""
    if name not in ("idle", "sampled"):
        return data()[0]
    rng = np.random.default_rng(2)
    return rng.uniform(1, 2, (601, 1)) * np.eye(8)[rng.integers(8, size=601)] + 0.03 * rng.standard_normal((601, 8))


def idle_starts() -> np.ndarray:
    """They serve half of the axes: descent leaves them there, moves do not."""
    return np.abs(starts()) * (np.arange(8) < 4)


LEARNED: dict[str, dict[str, Any]] = {
    "scratch": {},
    "idle": {"bias": None, "init": idle_starts()},
    "sampled": {"bias": None, "init": idle_starts()},
    "lopsided": {},
    "resumed": {},
    "skewed": {},
}
"""Arguments of :func:`learn_dictionary` by name, for two processes and for one."""


def learn(name: str, X: Any, **more: Any) -> DictionaryFit:
    """One of them; of ``sampled``, moves are judged on some 300 datapoints."""
    entries = sample.SAMPLE_ENTRIES
    try:
        sample.SAMPLE_ENTRIES = 8 * 300 if name == "sampled" else entries
        return learn_dictionary(X, WIDTH, LAM, stationarity=1e-3, seed=3, **LEARNED[name], **more)
    finally:
        sample.SAMPLE_ENTRIES = entries


SPOILED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "nan": lambda found: {"dual": found.dual * np.nan},
    "missing": lambda _: {"dual": None},
    "short": lambda found: {"dual": found.dual[1:]},
    "negative": lambda found: {"codes": -found.codes},
    "bias": lambda found: {"bias": found.bias + 1e-12},
}
"""What happens to the arrays of process 1 before the referee sees them."""


class Report:
    """What one process found."""

    def __init__(self) -> None:
        self.arrays: dict[str, Any] = {}
        self.sentences: dict[str, str] = {}

    def codes(self, name, codes) -> None:
        self.arrays |= {f"{name}_codes": codes.codes.toarray(), f"{name}_gaps": codes.gaps}
        self.numbers(name, codes, "value", "lower_bound", "gap", "largest_gap", "l0", "n_points", "passes_max")
        self.sentences[f"{name}_status"] = codes.status.name

    def numbers(self, name, found, *names) -> None:
        for number in names:
            self.arrays[f"{name}_{number}"] = np.float64(getattr(found, number))

    def fit(self, name, fit) -> None:
        self.codes(name, fit.encoding)
        self.arrays |= {f"{name}_dictionary": fit.dictionary, f"{name}_bias": fit.bias}
        self.numbers(name, fit, "value", "lower_bound", "worst_stationarity", "dead_atoms")
        self.sentences |= {f"{name}_status": fit.status.name, f"{name}_summary": json.dumps(fit.to_dict())}

    def refusal(self, name, action) -> None:
        try:
            action()
        except (Exception, KeyboardInterrupt) as error:  # all kinds are reported
            self.sentences[name] = f"{type(error).__name__}: {error}"
        else:
            self.sentences[name] = "nothing was refused"


def codes(group: ProcessGroup, report: Report, folder: Path) -> None:
    X, atoms = data()
    mine = group.shard(X)
    report.arrays["rows"] = mine.to_numpy()
    report.codes("encode", encode(mine, atoms, LAM, bias=X[0], tol=1e-8))
    out = folder / "blocks"
    first = encode(mine, atoms, LAM, bias=X[0], tol=1e-8, folder=out)
    report.arrays["encode_out"] = first.codes.toarray()
    report.refusal("lambda_max", lambda: first.lambda_max)


def wide(group: ProcessGroup, report: Report) -> None:
    X, _ = data()
    for name, bias in (("free", "free"), ("zero", None)):
        solution = solve(WideLimit(group.shard(X), PENALTY, bias=bias), tol=1e-9)
        report.numbers(f"wide_{name}", solution, "value", "lower_bound")
        assert solution.codes is not None
        arrays = {"dictionary": solution.dictionary, "codes": solution.codes.diagonal(), "dual": solution.dual}
        report.arrays |= {f"wide_{name}_{key}": array for key, array in arrays.items()}
        report.arrays[f"wide_{name}_bias"] = solution.bias
        report.sentences[f"wide_{name}_objections"] = " ".join(certify(solution.problem, solution).objections)
        longer = solution.codes * (1 + 0.01 * group.rank)  # process 1's rows only
        spoiled = dataclasses.replace(solution, codes=longer)
        report.sentences[f"wide_{name}_spoiled"] = " ".join(certify(solution.problem, spoiled).objections)
        for how, array in SPOILED.items():
            worse = dataclasses.replace(solution, **array(solution)) if group.rank else solution
            report.sentences[f"wide_{name}_{how}"] = " ".join(certify(solution.problem, worse).objections)


def learned(group: ProcessGroup, report: Report, folder: Path) -> None:
    X, _ = data()
    mine = group.shard(X)
    for name in ("scratch", "idle", "sampled"):
        report.fit(name, learn(name, group.shard(points(name))))
    lopsided = X[: len(X) - FEW] if group.is_first else X[len(X) - FEW :]
    report.fit("lopsided", learn("lopsided", Activations(lopsided, group=group)))
    kept = folder / "fit"
    learn("resumed", mine, folder=kept, max_steps=12)
    report.fit("resumed", learn("resumed", mine, folder=kept))
    small = learn_dictionary(mine, HALF, LAM, init=starts()[:HALF], max_steps=3)
    report.fit("grown", cvxsae.grow(small, WIDTH))
    report.sentences["late"] = learn("scratch", mine, max_seconds=1e-3).status.name


def skewed(group: ProcessGroup, report: Report, folder: Path) -> None:
    """Process 1 was a state ahead when all were killed, and is killed again while the common one is taken up."""
    mine, kept = group.shard(data()[0]), folder / "skewed"
    part = kept / f"process-{group.rank}-of-{group.size}"
    learn("resumed", mine, folder=kept, max_steps=12)
    learn("resumed", mine, folder=kept, max_steps=1)
    if group.is_first:
        (part / f"{checkpoint.SLOTS[1]}.npz").unlink()

    def killed(*_: Any) -> None:
        raise OSError("killed")

    with pytest.MonkeyPatch.context() as patch:
        if group.rank:
            patch.setattr(storage.Folder, "write", killed)
        report.refusal("killed", lambda: learn("resumed", mine, folder=kept))
    report.fit("skewed", learn("resumed", mine, folder=kept))


def refused(group: ProcessGroup, report: Report, folder: Path) -> None:
    X, atoms = data()
    mine = group.shard(X)
    report.refusal("lam", lambda: encode(mine, atoms, LAM + group.rank))
    report.refusal("dictionary", lambda: encode(mine, atoms[group.rank :], LAM))
    report.refusal("d", lambda: solve(WideLimit(Activations(mine.to_numpy()[:, group.rank :], group=group), LAM)))
    mixed = Activations(mine.tensor.float() if group.rank else mine, group=group)
    report.refusal("dtype", lambda: solve(WideLimit(mixed, LAM)))
    report.refusal("seed", lambda: learn_dictionary(mine, 4, LAM, seed=group.rank))
    report.refusal("init", lambda: learn_dictionary(mine, 2, LAM, init=atoms[:2] * (1 - 2 * group.rank)))
    some = atoms[:2] if group.rank else None
    report.refusal("init_or_none", lambda: learn_dictionary(mine, 2, LAM, init=some))
    report.refusal("function", lambda: (encode if group.rank else _learn)(mine, atoms, LAM))
    report.refusal("problem", lambda: solve(SparseCodes(mine, atoms, LAM)))
    report.refusal("curvature", lambda: learn_dictionary(mine, 2, LAM, second_order=True))
    holed = mine.to_numpy().copy()
    holed[0, 0] = np.nan if group.rank else 0

    def holes() -> None:
        with group.guard():
            encode(Activations(holed, group=group), atoms, LAM)

    report.refusal("data", holes)

    def stumble(record: Record) -> None:
        if group.rank == 1 and record.iteration == 4:
            raise OSError("no space left")

    report.refusal("midway", lambda: learn_dictionary(mine, WIDTH, LAM, callback=stumble))

    def nested() -> None:
        with group.guard():
            holes()

    report.refusal("nested", nested)
    report.refusal("interrupted", lambda: interrupted(group))
    if group.rank:
        shutil.rmtree(folder / "fit" / "process-1-of-2")
    report.refusal("checkpoint", lambda: learn("resumed", mine, folder=folder / "fit"))
    report.refusal("few", lambda: group.shard(X[:1]))
    report.arrays["alive"] = np.float64(group.total(1.0))  # after all that, the processes still answer each other


def interrupted(group: ProcessGroup) -> None:
    """Process 1 hears Ctrl-C when the first of two sums is there and the second is not."""
    reduce, calls = torch.distributed.all_reduce, []

    def disturbed(*args: Any, **kwargs: Any) -> None:
        reduce(*args, **kwargs)
        calls.append(1)
        if len(calls) == 2 and group.rank:  # the first is the word with the others
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch, group.guard():
        patch.setattr(torch.distributed, "all_reduce", disturbed)
        group.sum(torch.zeros(3), torch.zeros(5))
        group.total(1.0)


def _learn(X, atoms, lam):
    return learn_dictionary(X, len(atoms), lam)


def main(folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher ends those who are left; this one has to write first
    report = Report()
    with process_group() as group:
        report.arrays["earlier"] = np.float64(group.total(1.0))
    with process_group() as group:  # a second time: the launcher's store still holds what the first left there
        codes(group, report, folder)
        wide(group, report)
        learned(group, report, folder)
        skewed(group, report, folder)
        refused(group, report, folder)
        if group.rank == 1:
            write(folder, group, report)
            os._exit(9)
        report.refusal("gone", lambda: group.sum(torch.zeros(10)))
        write(folder, group, report)


def write(folder: Path, group: ProcessGroup, report: Report) -> None:
    np.savez(folder / f"rank-{group.rank}.npz", **report.arrays)
    (folder / f"rank-{group.rank}.json").write_text(json.dumps(report.sentences))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
