"""Ctrl-C at a chosen moment: once, in the n-th call of a function, as a user's would come."""

from __future__ import annotations

from typing import Any


class InterruptOnce:
    """Call through to a function, but raise ``KeyboardInterrupt`` in one of the calls."""

    def __init__(self, honest: Any, *, call: int = 1) -> None:
        self.honest, self.call, self.calls = honest, call, 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls == self.call:
            raise KeyboardInterrupt
        return self.honest(*arguments, **options)


def interrupt_newton(monkeypatch: Any, *, call: int = 2) -> None:
    """Interrupt the Newton iteration of the wide limit: inside its loop, where it used to become a status."""
    from cvxsae.relaxations.convex.wide_limit import WideLimit

    interrupted = InterruptOnce(WideLimit.scan, call=call)
    monkeypatch.setattr(WideLimit, "scan", lambda *arguments, **options: interrupted(*arguments, **options))


def interrupt_codes(monkeypatch: Any) -> None:
    """Interrupt the first block of codes."""
    from cvxsae.solvers.codes import plan

    monkeypatch.setattr(plan, "solve_block", InterruptOnce(plan.solve_block))  # type: ignore[attr-defined]
