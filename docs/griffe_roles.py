"""References in docstrings (``:func:`cvxsae.encode```) as links, and as errors where what they name does not exist."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))
from hooks import ROOMS, public_names

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod|py:\w+):`(~?)([^`]+)`")

TITLED = re.compile(r"(.*?)\s*<([^>]+)>", re.DOTALL)

OTHERS = ("joblib", "numpy", "pandas", "scipy", "torch")
"""Packages that docstrings refer to, which have pages of their own elsewhere."""

logger = griffe.get_logger("cvxsae.docstrings")


class Roles(griffe.Extension):
    """Rewrite the references of every docstring."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Do so once the whole package is known."""
        loader.resolve_aliases(implicit=True, external=False)
        self.package = pkg
        public = [self._find(f"{room}.{name}") for room in ROOMS for name in public_names(room)]
        self.shown = {found.canonical_path for found in public if found is not None}
        self._walk(pkg)

    def _walk(self, thing: griffe.Object) -> None:
        if thing.docstring is not None:
            thing.docstring.value = ROLE.sub(lambda found: self._link(found, thing), thing.docstring.value)
        for member in list(thing.members.values()):
            if not member.is_alias:
                self._walk(member)  # type: ignore[arg-type]

    def _link(self, found: re.Match[str], thing: griffe.Object) -> str:
        titled = TITLED.fullmatch(found[2])
        text = (titled[2] if titled else found[2]).lstrip(".")
        shown = titled[1] if titled else text.rpartition(".")[2] if found[1] else text
        if text.partition(".")[0] in OTHERS:
            return f"`{shown}`"
        target = self._resolved(text, thing)
        if target is None:
            logger.warning("%s: its docstring refers to %r, which does not exist", thing.path, text)
        return f"[`{shown}`][{target}]" if target and self._is_shown(target) else f"`{shown}`"

    def _resolved(self, text: str, thing: griffe.Object) -> str | None:
        """The canonical path of what a docstring refers to: a path of the package, or seen from where it stands."""
        if text.partition(".")[0] == self.package.name:
            found = self._find(text)
            return None if found is None else str(found.canonical_path)
        scope: Any = thing
        while scope is not None:
            if (found := self._find(f"{scope.path}.{text}")) is not None:
                return str(found.canonical_path)
            scope = scope.parent
        return None

    def _find(self, path: str) -> Any:
        found: Any = self.package
        for part in path.split(".")[1:]:
            try:
                found = found.all_members[part] if hasattr(found, "all_members") else found.members[part]
                if found.is_alias:
                    found = found.final_target
            except (KeyError, griffe.AliasResolutionError, griffe.CyclicAliasError):
                return None
        return found

    def _is_shown(self, path: str) -> bool:
        if path in self.shown:
            return True
        parent, _, name = path.rpartition(".")
        found = self._find(path)
        return parent in self.shown and not name.startswith("_") and found is not None and bool(found.docstring)
