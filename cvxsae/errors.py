"""Every exception that is raised on purpose; each message is one sentence for the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cvxsae.relaxations.solution import Solution


class Error(Exception):
    """Anything this package raises on purpose."""


class InputError(Error, ValueError):
    """An argument cannot be used; the message is one sentence that names it, what was found, and what to do."""


class CertificateError(Error, ArithmeticError):
    """A lower bound above a value: something is wrong with the mathematics, the data or the code, never with luck."""


class GroupError(Error, RuntimeError):
    """Another process failed, or can no longer be reached. The message says which and why."""


class NotCertifiedError(Error, RuntimeError):
    """A solve ended without closing the gap to ``tol``. The attribute ``solution`` is the solution reached."""

    def __init__(self, solution: Solution) -> None:
        status = solution.status
        super().__init__(
            f"{solution.problem.name} is not certified: {status.message} "
            f"(relative gap {solution.gap:.2e}, tol {solution.tol:.2e}); {status.remedy}."
        )
        self.solution = solution

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.solution,)


def reason(error: Exception) -> str:
    """Return the first sentence of what a library says, to quote inside a sentence of ours."""
    return " ".join(str(error).split(". ")[0].split()).rstrip(".:;")[:200] or type(error).__name__


LONGEST_VALUE = 60
"""Characters of a value that a message repeats."""


def in_short(value: Any) -> str:
    """A value as messages show it: never longer than a line, whatever it is."""
    if getattr(value, "ndim", 0):
        return f"a {type(value).__name__} with {value.ndim} axes" if value.ndim > 1 else f"a {type(value).__name__}"
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list that holds itself
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
