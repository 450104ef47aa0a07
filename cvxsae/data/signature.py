"""Options declared once, in a typed dictionary (PEP 692), and shown flat wherever a function is shown."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def show_flat(function: Callable[..., Any], kind: type, defaults: Mapping[str, Any]) -> None:
    """Give a function that takes ``**options: Unpack[kind]`` the signature that lists each of them."""
    signature = inspect.signature(function)
    named = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    flat = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name), annotation=annotation)
        for name, annotation in kind.__annotations__.items()
    ]
    function.__signature__ = signature.replace(parameters=[*named, *flat])  # type: ignore[attr-defined]
