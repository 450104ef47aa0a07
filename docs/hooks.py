"""What the site is built from besides ``docs/*.md``: pages elsewhere in the repository, the API, and notebooks.

Pages link to each other by their place in the repository, as GitHub shows them; here links are led to the site.
"""

from __future__ import annotations

import ast
import hashlib
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]

ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
}
"""Pages outside ``docs/`` and what they are on the site; those of ``benchmarks/results`` keep their path."""

ROOMS = {
    "cvxsae": "The main functions and the problems that they solve.",
    "cvxsae.results": "The results that functions return.",
    "cvxsae.data": "Activations from any source, transforms, synthetic and built-in data.",
    "cvxsae.relaxations": "Problems, candidates and penalties.",
    "cvxsae.penalties": "Penalties of codes.",
    "cvxsae.solvers": "Codes with at most k active atoms, and the names of the solvers.",
    "cvxsae.floors": "Closed forms and kernels of the floors.",
    "cvxsae.population": "From rows to the distribution they come from.",
    "cvxsae.diagnostics": "The conditions of any optimum, and measures of phenomena.",
    "cvxsae.sae": "SAEs: reading from disk, audits, metrics, training, export.",
    "cvxsae.study": "Grids of certified cells.",
    "cvxsae.validation": "The referee, the cross-check and the doctor.",
    "cvxsae.parallel": "Process groups.",
    "cvxsae.errors": "Every exception that is raised on purpose.",
}
"""Packages with public names, and their content."""

LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s]+)\)")
FENCED = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)

NOTEBOOK_SECONDS = 1800
"""The longest that one cell of a notebook may take on a slow machine."""


def public_names(room: str) -> list[str]:
    """The public names of a room, from its stub or its ``__all__``."""
    folder = ROOT.joinpath(*room.split("."))
    files = [folder / "__init__.pyi", folder.with_suffix(".py")]
    file = next(file for file in files if file.exists())
    tree = ast.parse(file.read_text(encoding="utf-8"))
    if file.suffix == ".pyi":
        imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        return sorted({alias.asname or alias.name for node in imports for alias in node.names}, key=str.lower)
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return sorted(ast.literal_eval(node.value), key=str.lower)
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def reference(room: str) -> str:
    """The page of a room."""
    entries = "\n\n".join(f"::: {room}.{name}" for name in public_names(room))
    return f"# {room}\n\n{ROOMS[room]}\n\n{entries}\n"


def on_config(config: Any) -> Any:
    """Leave out of the navigation the notebooks that this checkout does not have."""

    def present(entry: Any) -> bool:
        (target,) = entry.values() if isinstance(entry, dict) else (entry,)
        if isinstance(target, list):
            target[:] = [inner for inner in target if present(inner)]
            return bool(target)
        return not target.startswith("notebooks/") or (ROOT / "docs" / target).with_suffix(".py").exists()

    config.nav[:] = [entry for entry in config.nav if present(entry)]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made or lie elsewhere, and the files that pages link to."""
    for path, uri in ELSEWHERE.items():
        if uri != "index.md":
            files.append(File.generated(config, uri, content=(ROOT / path).read_text(encoding="utf-8")))
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        files.append(File.generated(config, str(path.relative_to(ROOT)), content=path.read_text(encoding="utf-8")))
    for room in ROOMS:
        files.append(File.generated(config, f"reference/{room}.md", content=reference(room)))
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.py")):
        for uri, content in notebook(path).items():
            files.append(File.generated(config, uri, content=content))
    for file in list(files.documentation_pages()):
        for target in _targets(file.content_string, _repository_path(file.src_uri)):
            outside = not target.startswith("docs/") and (ROOT / target).is_file()
            if outside and not target.endswith(".md") and files.get_file_from_path(target) is None:
                source = str(ROOT / target)
                files.append(File.generated(config, target, abs_src_path=source, inclusion=InclusionLevel.INCLUDED))
    return files


def notebook(path: Path) -> dict[str, str | bytes]:
    """A notebook as a page, and its figures; executed, or as it was kept beside it if ``CVXSAE_SITE_EXECUTE`` is 0.

    Finished notebooks are kept in ``.cache`` by their source and that of the package.
    """
    import jupytext
    import nbformat
    from nbclient import NotebookClient
    from nbconvert import MarkdownExporter

    book = jupytext.read(path)
    if os.environ.get("CVXSAE_SITE_EXECUTE") != "0":
        sources = sorted([path, *ROOT.glob("cvxsae/**/*.py")])
        key = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
        kept = ROOT / ".cache" / "notebooks" / f"{path.stem}-{key}.ipynb"
        if kept.exists():
            book = nbformat.read(kept, as_version=4)
        else:
            kept.parent.mkdir(parents=True, exist_ok=True)
            NotebookClient(book, timeout=NOTEBOOK_SECONDS, resources={"metadata": {"path": str(kept.parent)}}).execute()
            nbformat.write(book, kept)
    elif path.with_suffix(".ipynb").exists():
        book = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    places = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    body, extra = MarkdownExporter().from_notebook_node(_quiet(book), places)
    body = re.sub(r"<style[^>]*>.*?</style>\n?", "", body, flags=re.DOTALL)
    found: dict[str, str | bytes] = {f"notebooks/{path.stem}.md": body}
    return found | {f"notebooks/{name}": data for name, data in extra["outputs"].items()}


def _quiet(book: Any) -> Any:
    """A notebook without what libraries say of a terminal."""
    for cell in book.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return book


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links to where things are on the site."""
    here = page.file.src_uri
    return _outside_code(markdown, lambda text: LINK.sub(lambda found: _led(found, here), text))


def _led(found: re.Match[str], here: str) -> str:
    text, target = found[1], found[2]
    if re.match(r"[a-z]+:|#", target):
        return found[0]
    file, _, anchor = target.partition("#")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(_repository_path(here)), file))
    if (ROOT / path).is_dir():
        return text[1:-1]  # a folder of the repository is not on the site
    site = ELSEWHERE.get(path, re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/")))
    if not (ROOT / path).exists() and not path.startswith("docs/"):
        site = target
    led = posixpath.relpath(site, posixpath.dirname(here) or ".")
    return f"{text}({led}{'#' + anchor if anchor else ''})"


def _repository_path(uri: str) -> str:
    """Where a page of the site lies in the repository."""
    for path, site in ELSEWHERE.items():
        if site == uri and site != "index.md":
            return path
    return uri if uri.startswith("benchmarks/") else f"docs/{uri}"


def _targets(text: str, place: str) -> list[str]:
    """Where the links of a page lead, in the repository."""
    prose = "".join(part for part in FENCED.split(text) if not part.startswith("```"))
    found = [target.partition("#")[0] for _, target in LINK.findall(prose) if not re.match(r"[a-z]+:|#", target)]
    return [posixpath.normpath(posixpath.join(posixpath.dirname(place), target)) for target in found if target]


def _outside_code(text: str, change: Any) -> str:
    """A page changed everywhere but in code blocks."""
    return "".join(part if part.startswith("```") else change(part) for part in FENCED.split(text))
