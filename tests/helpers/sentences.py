"""What every rejection has in common."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cvxsae import InputError


@contextmanager
def rejects(message: str) -> Iterator[None]:
    """Expect an InputError whose message starts with this pattern, is one sentence and drags no other error along."""
    with pytest.raises(InputError) as caught:
        yield
    said = str(caught.value)
    assert re.match(message, said), said
    assert said.endswith("."), said
    assert "\n" not in said
    assert not re.search(r"[.!?] [A-Z]", said), f"more than one sentence: {said}"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def is_one_sentence(stderr: str) -> bool:
    """Whether a command said one sentence and the next command to try, and nothing else."""
    lines = stderr.splitlines()
    return len(lines) == 2 and lines[0].startswith("cvxsae: ") and lines[1].startswith("next: ")
