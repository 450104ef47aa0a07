"""Ask the package for an answer to a drawn problem and let the referee judge it; the only file here that knows both."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.sparse
import torch

import cvxsae
from cvxsae.floors import spectral_floor
from tests.referee.draw import Drawn, draw
from tests.referee.judge import Answer, beaten, best_codes, claims, judge, judge_rows
from tests.referee.mathematics import objective, rounding

SECONDS = 2.0
"""Limit of one solve: an answer that stopped there is fine as long as what it claims is true."""


@dataclass
class Outcome:
    """What became of one problem: how it ended, what is false, how near claims came to it, and how long it took."""

    kind: str
    index: int
    story: str
    ended: str = ""
    false: list[str] = field(default_factory=list)
    mismatch: float = 0.0
    margin: float = -np.inf
    seconds: float = 0.0


def alone() -> None:
    """Begin a process: one thread, warnings are errors, and what is compiled on first use is compiled."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    cvxsae.encode(np.eye(2), np.eye(2), 0.5, engine="fused")


def referee(seed: int, index: int) -> Outcome:
    """Draw, ask, judge. An ``InputError`` is an answer; any other exception is not."""
    drawn = draw(seed, index)
    outcome = Outcome(drawn.kind, index, drawn.story)
    start = time.process_time()
    try:
        _ASK[drawn.kind](drawn, outcome)
    except cvxsae.InputError as error:
        outcome.ended = f"refused: {' '.join(str(error).split()[:4])}"
    except Exception as error:  # what the package lets through is what is looked for
        outcome.ended = "exception"
        outcome.false.append(f"{type(error).__name__}: {error}")
    outcome.seconds = time.process_time() - start
    return outcome


def answer_of(solution: Any) -> Answer:
    """A solution of the package in plain arrays."""
    codes: Any = solution.codes
    proof = {} if solution.proof is None else solution.proof.arrays()
    return Answer(
        value=solution.value,
        lower_bound=solution.lower_bound,
        gap=solution.gap,
        status=solution.status.name,
        tol=solution.tol,
        bias=solution.bias,
        dictionary=solution.dictionary,
        codes=codes.toarray() if isinstance(codes, scipy.sparse.csr_array) else codes,
        dual=solution.dual,
        proof=proof,
    )


def _solver(drawn: Drawn) -> str:
    """Mostly what auto picks; sometimes the reference, or the same without the conic solver."""
    if drawn.choice < 0.1 and drawn.kind != "large":
        return "reference"
    return "torch" if drawn.choice < 0.2 else "auto"


def _problem(drawn: Drawn) -> Any:
    case = drawn.case
    if case.kind == "wide":
        return cvxsae.WideLimit(drawn.given, case.lam, bias=case.bias)
    if case.kind == "large":
        return cvxsae.LargeDictionary(drawn.given, case.lam, case.tau, bias=case.bias)
    if case.kind == "codes":
        return cvxsae.SparseCodes(drawn.given, case.atoms, case.lam, bias=case.bias)
    return cvxsae.CandidateDictionary(drawn.given, case.atoms, case.lam, case.tau, bias=case.bias)


def _convex(drawn: Drawn, outcome: Outcome) -> None:
    """The four convex problems."""
    options: dict[str, Any] = {"tol": drawn.tol, "max_seconds": SECONDS, "raise_on_failure": False}
    solution = cvxsae.solve(_problem(drawn), solver=_solver(drawn), **options)
    verdict = judge(drawn.case, answer_of(solution))
    outcome.ended = solution.status.name
    outcome.false += verdict.false
    outcome.mismatch, outcome.margin = verdict.mismatch, verdict.margin
    if not verdict.false and 0.5 < drawn.choice < 0.6:  # two roads to one optimum: neither bound is above either value
        other = cvxsae.solve(_problem(drawn), solver="reference", **options)
        second = judge(drawn.case, answer_of(other))
        outcome.false += [f"reference: {sentence}" for sentence in second.false]
        outcome.false += beaten(solution.lower_bound, second.value) + beaten(other.lower_bound, verdict.value)


def _encode(drawn: Drawn, outcome: Outcome) -> None:
    """Codes of every datapoint, by either engine."""
    atoms: Any = drawn.case.atoms
    case, engine = drawn.case, "fused" if drawn.choice < 0.6 else "torch"
    bias: Any = case.bias
    codes = cvxsae.encode(drawn.given, atoms, case.lam, bias=bias, tol=drawn.tol, engine=engine, max_seconds=SECONDS)
    answer = answer_of(codes)
    outcome.ended = f"{engine} {answer.status}"
    exact = objective(case.X, answer.bias, answer.dictionary, answer.codes, case.lam)
    noise = rounding(case.X, answer.bias, answer.dictionary, answer.codes, float(exact)) + 1e-12 * float(exact)
    if abs(answer.value - float(exact)) > noise:
        outcome.false.append(f"value {answer.value!r} is not the objective {float(exact)!r}.")
    outcome.mismatch = (answer.value - float(exact)) / (float(exact) or 1.0)
    outcome.false += claims(answer) + judge_rows(case.X, case.lam, answer, codes.gaps, codes.values)


def _attained(drawn: Drawn, width: int) -> Fraction:
    """The least of a few dictionaries of that width, at the fixed bias or at the best known: anybody's answer."""
    X, case = drawn.case.X, drawn.case
    rng, best = np.random.default_rng(drawn.width), Fraction(10) ** 400
    at = np.zeros(X.shape[1]) if case.bias is None else X.mean(axis=0) if case.is_free else np.asarray(case.bias)
    for _ in range(3):
        offsets = X - at
        far = offsets[np.linalg.norm(offsets, axis=1) > 0]
        D = far[rng.permutation(len(far))[:width]] if len(far) else np.eye(X.shape[1])[:1]
        D = D / np.abs(D).max(axis=1, keepdims=True)
        D = D / np.linalg.norm(D, axis=1, keepdims=True)
        size = float(np.abs(offsets).max()) or 1.0
        for _ in range(4):
            Z = np.array([best_codes(x / size, D, case.lam / size, np.zeros(len(D)), sweeps=10) for x in offsets])
            best = min(best, objective(X, at, D, Z * size, case.lam))
            moved = np.linalg.lstsq(Z, offsets / size, rcond=None)[0]
            norms = np.linalg.norm(moved, axis=1, keepdims=True)
            D = np.where(norms > 0, moved / np.where(norms > 0, norms, 1), D)
            at = (X - Z @ D * size).mean(axis=0) if case.is_free else at
            offsets = X - at
    return best


def _floor(drawn: Drawn, outcome: Outcome) -> None:
    """Floors are below what any dictionary of their width attains, wider floors below narrower ones."""
    case, width = drawn.case, min(drawn.width, 6)
    if drawn.choice < 0.3 and not case.is_free:
        floor = spectral_floor(drawn.given, width, case.lam, bias=case.bias)
    else:
        floor, wider = cvxsae.width_floor(
            drawn.given, (width, width + 40), case.lam, bias=case.bias, max_seconds=SECONDS
        )
        outcome.false += [f"a wider floor is {wider.value!r}."] if wider.value > floor.value else []
        outcome.false += beaten(wider.value, _attained(drawn, len(case.X)))
    attained = _attained(drawn, width)
    outcome.ended = floor.theorem
    outcome.false += beaten(floor.value, attained)
    outcome.margin = float((Fraction(floor.value) - attained) / attained) if attained else 0.0


def _learned(drawn: Drawn, outcome: Outcome) -> None:
    """A learned dictionary and the floor of its width, paired."""
    case, width = drawn.case, min(drawn.width, 4)
    fit = cvxsae.learn_dictionary(drawn.given, width, case.lam, bias=case.bias, max_seconds=SECONDS / 2, seed=0)
    answer = answer_of(fit)
    outcome.ended = answer.status
    exact = objective(case.X, answer.bias, answer.dictionary, answer.codes, case.lam)
    noise = rounding(case.X, answer.bias, answer.dictionary, answer.codes, float(exact)) + 1e-12 * float(exact)
    if abs(answer.value - float(exact)) > noise:
        outcome.false.append(f"value {answer.value!r} is not the objective {float(exact)!r}.")
    floor = cvxsae.width_floor(drawn.given, width, case.lam, bias=case.bias, max_seconds=SECONDS)
    others = min(exact, _attained(drawn, width))
    outcome.false += beaten(fit.lower_bound, others) + beaten(floor.value, others)
    outcome.mismatch = (answer.value - float(exact)) / (float(exact) or 1.0)


_ASK = {
    **dict.fromkeys(("wide", "codes", "candidates", "large"), _convex),
    "encode": _encode,
    "floor": _floor,
    "learned": _learned,
}
