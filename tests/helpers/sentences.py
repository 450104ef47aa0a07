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
