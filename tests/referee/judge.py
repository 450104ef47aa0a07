"""Whether an answer claims anything that is not true, from its arrays and numbers alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from tests.referee.mathematics import EPS, Case, dual_excess, dual_value, objective, rounding

SLACK = 1e-12
"""Relative distance by which a float64 sum may differ from the exact one; what is beyond is a false claim."""

FEASIBLE = 1e-15
"""Relative excess of a dual constraint that may be the rounding of λ itself."""


@dataclass(frozen=True)
class Answer:
    """What a solver returned, in plain arrays, and the numbers it claims. ``codes`` are dense."""

    value: float
    lower_bound: float
    gap: float
    status: str
    tol: float
    bias: np.ndarray
    dictionary: np.ndarray
    codes: np.ndarray
    dual: np.ndarray | None
    proof: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What is false, one sentence each, with the exact value and how close the claims came to being false.

    Attributes
    ----------
    false
        Sentences; none if every claim is true.
    value
        The exact objective at the arrays.
    mismatch
        Claimed less exact value, relative.
    margin
        Claimed bound less what the dual point proves, relative to the value: rounding if near zero.
    """

    false: tuple[str, ...]
    value: Fraction
    mismatch: float = 0.0
    margin: float = 0.0


def judge(case: Case, answer: Answer) -> Verdict:
    """Check an answer of one of the four convex problems."""
    false = list(_malformed(case, answer))
    if false:
        return Verdict(tuple(false), Fraction(0))
    exact = objective(case.X, answer.bias, answer.dictionary, answer.codes, case.lam, case.tau)
    value, scale = float(exact), abs(float(exact)) or 1.0
    off = answer.value - value
    if abs(off) > SLACK * abs(value) + rounding(case.X, answer.bias, answer.dictionary, answer.codes, value):
        false.append(f"value {answer.value!r} is not the objective {value!r} at the arrays.")
    false += claims(answer)
    margin = 0.0
    if answer.dual is not None:
        excess = dual_excess(case, answer.dictionary, answer.dual, answer.proof)
        if excess > FEASIBLE:
            false.append(f"the dual point breaks its constraint by {excess:.1e} of lambda.")
        proved = dual_value(case, answer.dual, exact)
        margin = float(Fraction(answer.lower_bound) - proved) / scale
        at = np.zeros(case.X.shape[1]) if case.bias is None else case.X[0] if case.is_free else np.asarray(case.bias)
        noise = (
            EPS
            * sum(case.X.shape)
            * float(np.mean(np.linalg.norm(case.X - at, axis=1) * np.linalg.norm(answer.dual, axis=1)))
        )
        if margin * scale > SLACK * scale + noise:
            false.append(f"lower bound {answer.lower_bound!r} is above {float(proved)!r}, which the dual point proves.")
    if Fraction(answer.lower_bound) > exact * (1 + Fraction(SLACK)):
        false.append(f"lower bound {answer.lower_bound!r} is above the attained {value!r}.")
    return Verdict(tuple(false), exact, off / scale, margin)


def claims(answer: Answer) -> list[str]:
    """What is false of gap and status, whatever the arrays."""
    said = []
    gap = (answer.value - answer.lower_bound) / answer.value if answer.value > 0 else answer.value - answer.lower_bound
    if not abs(answer.gap - gap) <= 4 * EPS * (1 + abs(gap)):
        said.append(f"gap {answer.gap!r} is not that of value and bound, {gap!r}.")
    if answer.status == "CERTIFIED" and not gap <= answer.tol:
        said.append(f"CERTIFIED at gap {gap:.1e}, above tol {answer.tol:.1e}.")
    return said


def beaten(bound: float, attained: Fraction) -> list[str]:
    """A floor or bound above what somebody attained."""
    return [f"{bound!r} is above the attained {float(attained)!r}."] if bound > attained * (1 + Fraction(SLACK)) else []


def judge_rows(X: np.ndarray, lam: float, answer: Answer, gaps: np.ndarray, values: np.ndarray) -> list[str]:
    """Check codes datapoint by datapoint: the value of each, and its gap against the best codes found here."""
    false = []
    for n, x in enumerate(X):
        row = x[None]
        exact = objective(row, answer.bias, answer.dictionary, answer.codes[n : n + 1], lam)
        noise = rounding(row, answer.bias, answer.dictionary, answer.codes[n : n + 1], float(exact))
        if abs(Fraction(float(values[n])) - exact) > noise + SLACK * float(exact):
            false.append(f"value {values[n]!r} of datapoint {n} is {float(exact)!r}.")
        best = best_codes(x - answer.bias, answer.dictionary, lam, answer.codes[n])
        attained = min(exact, objective(row, answer.bias, answer.dictionary, best[None], lam))
        bound = Fraction(float(values[n])) * (1 - Fraction(float(gaps[n])))
        if bound > attained:
            false.append(f"datapoint {n} claims at least {float(bound)!r}, and {float(attained)!r} is attained.")
        if answer.status == "CERTIFIED" and not gaps[n] <= answer.tol:
            false.append(f"CERTIFIED, but the gap of datapoint {n} is {gaps[n]:.1e}.")
    return false


def best_codes(x: np.ndarray, D: np.ndarray, lam: float, start: np.ndarray, sweeps: int = 60) -> np.ndarray:
    """Codes of one datapoint by coordinate descent from those given, then exactly on the atoms in use."""
    z, gram, right = start.copy(), D @ D.T, D @ x - lam
    for _ in range(sweeps):
        for k in range(len(D)):
            z[k] = max(0.0, z[k] + (right[k] - gram[k] @ z) / gram[k, k])
    used = z > 0
    if used.any():
        solved = np.linalg.lstsq(gram[np.ix_(used, used)], right[used], rcond=None)[0]
        if (solved >= 0).all():
            exact = np.zeros_like(z)
            exact[used] = solved
            z = min(z, exact, key=lambda c: 0.5 * np.sum((x - c @ D) ** 2) + lam * c.sum())
    return z


def _malformed(case: Case, answer: Answer) -> list[str]:
    """What makes an answer no point of the problem at all."""
    said, (n, d) = [], case.X.shape
    shapes = {"bias": (d,), "dictionary": (len(answer.dictionary), d), "codes": (n, len(answer.dictionary))}
    for name, shape in shapes.items():
        array = getattr(answer, name)
        if array.shape != shape or not np.isfinite(array).all():
            said.append(f"{name} is not a finite array of shape {shape}.")
    if said:
        return said
    if not (answer.codes >= 0).all():
        said.append("codes are negative.")
    if not np.isfinite([answer.value, answer.lower_bound]).all():
        said.append("value or bound is not finite.")
    if case.bias is None and answer.bias.any():
        said.append("the bias is not zero.")
    if isinstance(case.bias, np.ndarray) and not np.array_equal(case.bias, answer.bias):
        said.append("the bias is not the one given.")
    norms = np.linalg.norm(answer.dictionary, axis=1)
    if (np.abs(norms - 1) > 8 * EPS * d).any():
        said.append("atoms are not of norm 1.")
    if case.atoms is not None and (
        answer.dictionary.shape != case.atoms.shape or np.abs(answer.dictionary - _unit(case.atoms)).max() > 8 * EPS
    ):
        said.append("the dictionary is not the one given.")
    return said


def _unit(rows: np.ndarray) -> np.ndarray:
    scaled = rows / np.abs(rows).max(axis=1, keepdims=True)
    return np.asarray(scaled / np.linalg.norm(scaled, axis=1, keepdims=True))
