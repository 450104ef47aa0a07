"""The layouts that can be read, and which of them a path has."""

from __future__ import annotations

from pathlib import Path

from cvxsae.data import arguments
from cvxsae.data.atomic import shown
from cvxsae.errors import InputError, reason
from cvxsae.sae.formats import arrays, dictionary_learning, gemma_scope, openai, saelens, sparsify
from cvxsae.sae.formats.stored import Format, StoredAutoencoder

FORMATS: tuple[Format, ...] = (
    saelens.FORMAT,
    sparsify.FORMAT,
    gemma_scope.FORMAT,
    openai.FORMAT,
    dictionary_learning.FORMAT,
    arrays.FORMAT,
    *arrays.BY_LAYOUT,
)
"""In the order in which they are tried: the first that recognizes a path reads it."""


def read(path: Path, layout: str | None = None) -> StoredAutoencoder:
    """Read an SAE in whatever layout it has, or in the one that is named.

    Raises
    ------
    InputError
        If no layout fits, or nothing can be there.
    """
    try:
        path.exists()
    except (OSError, ValueError) as error:  # too long, or with characters that no name can have
        what = getattr(error, "strerror", None) or reason(error)
        raise InputError(f"path {shown(path)} cannot be opened ({what}); pass the folder or file of an SAE.") from None
    names = [form.name for form in FORMATS]
    wanted = None if layout is None else arguments.choice(layout, "layout", names)
    if wanted is None and path.is_dir():
        found = [form.name for form in FORMATS if form.recognizes(path)]
        if len(found) > 1:
            raise InputError(
                f"sae {shown(path)} holds an SAE in more than one layout ({', '.join(found)}); pass layout= to "
                "SparseAutoencoder.load, or move one of them to a folder of its own."
            )
    for form in FORMATS:
        if form.name == wanted or (wanted is None and form.recognizes(path)):
            return form.read(path)
    return saelens.read(path)  # whose messages say what is missing
