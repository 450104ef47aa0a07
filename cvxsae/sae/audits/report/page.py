"""A report as one page without a network: plain data in, HTML out, written whole or not at all."""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from functools import partial
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cvxsae.data import arguments
from cvxsae.data.atomic import one_sentence, write_atomically
from cvxsae.data.atomic import shown as shown_path
from cvxsae.data.storage import strict_json
from cvxsae.errors import InputError
from cvxsae.sae.audits.report.figures import figures
from cvxsae.sae.audits.report.tables import merged, shown

TEMPLATE = "page.html.jinja"

FOLDED = 12
"""Rows of a table that the page shows before all are asked for."""

NEEDED = ("jinja2", "plotly")
"""Libraries of the extra ``report``."""


def require_report(path: Any, name: str) -> Path:
    """Refuse a page that could not be written, before anything is computed.

    Raises
    ------
    InputError
        If a library is missing, or for a path whose suffix is not ``.html``, whose folder does not exist or that is a
        folder itself.
    """
    page = arguments.path(path, name)
    missing = [library for library in NEEDED if find_spec(library) is None]
    if missing:
        raise InputError(f"{name} needs {' and '.join(missing)}; pip install 'cvxsae[report]' brings what is missing.")
    if page.suffix not in (".html", ".htm"):
        raise InputError(f"{name} {shown_path(page)} has type {page.suffix!r}; write to a .html file.")
    with one_sentence(path, name), suppress(FileNotFoundError):
        page.stat()  # a name that no file can have is an error that is_dir keeps for itself
    taken = [one for one in (page, json_beside(page)) if one.is_dir()]
    if not page.parent.is_dir():
        raise InputError(f"{name} {shown_path(page)} is in a folder that does not exist; create it first.")
    if taken:
        raise InputError(f"{name} needs the file {shown_path(taken[0])}, which is a folder; pass another path.")
    return page


def json_beside(page: Path) -> Path:
    """Where the same is written as JSON."""
    return page.with_suffix(".json")


def write_page(contents: dict[str, Any], page: Path) -> Path:
    """Write the page of a report, and its JSON beside it."""
    text = json.dumps(strict_json(contents), indent=1, ensure_ascii=False, allow_nan=False)
    text = text.encode(errors="replace").decode()  # JSON files can hold halves of characters, which UTF-8 cannot
    html = render(json.loads(text))
    write_atomically(json_beside(page), text)
    return write_atomically(page, html)


def render(contents: dict[str, Any]) -> str:
    """The page. Whatever comes from a file is escaped, and no script runs but those that are part of the page."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["shown"] = shown
    environment.globals |= {"cell": partial(_cell, contents), "merged": merged, "folded": FOLDED}
    template = environment.from_string((resources.files(__package__) / TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        report=contents,
        figures=figures(contents),
        plotly=Markup(get_plotlyjs()),  # noqa: S704 (the library itself)
        nonce=secrets.token_urlsafe(16),
    )


def _cell(contents: dict[str, Any], key: str, kind: str = "number") -> dict[str, Any]:
    """The value of the report under a key, and how the page shows it."""
    value: Any = contents
    for part in key.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return {"key": key, "value": json.dumps(value), "text": shown(value, kind)}  # type: ignore[arg-type]
