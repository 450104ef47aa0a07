"""The package as a whole: what an import loads, what a name is called, that no files import each other in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import cvxsae

ROOT = Path(cvxsae.__file__).parent
HEAVY = ("clarabel", "cvxpy", "joblib", "llvmlite", "matplotlib", "numba", "pandas", "pyarrow", "typer")


def loaded_by(code: str) -> set[str]:
    """Which of the heavy libraries a fresh interpreter has loaded after this code."""
    report = f"{code}\nimport sys\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_not_even_torch():
    assert loaded_by("import cvxsae") == set()
    done = subprocess.run(
        [sys.executable, "-c", "import cvxsae, sys; print('torch' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_public_names_load_torch_and_scipy_and_nothing_heavier():
    assert loaded_by("from cvxsae import *") == set()


@pytest.mark.slow
def test_rooms_load_nothing_heavier():
    rooms = sorted({path.parent.name for path in ROOT.glob("*/__init__.pyi")} | {"floors", "results"})
    assert len(rooms) > 7
    assert loaded_by("\n".join(f"from cvxsae.{room} import *" for room in rooms)) == set()


def test_every_public_name_is_there_and_documented():
    for name in dir(cvxsae):
        assert getattr(cvxsae, name).__doc__, name


def test_no_files_import_each_other_in_a_circle():
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("cvxsae", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_version_is_what_the_package_says():
    from importlib.metadata import version

    assert cvxsae.__version__ == version("cvxsae")


SOURCES = sorted(path for path in ROOT.rglob("*.py"))

LARGEST_FILE, MOST_PARAMETERS = 400, 8
"""Lines of a file and parameters of a function: what fits into a head."""


def is_kernel(path: Path) -> bool:
    return "engines" in path.parts or path.name.endswith("kernels.py")


def test_files_are_short():
    long = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: length for name, length in long.items() if length > LARGEST_FILE} == {}


def test_functions_take_few_parameters():
    found = []
    for path in SOURCES:
        if is_kernel(path):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = sum(argument.arg not in ("self", "cls") for argument in given)
                if count > MOST_PARAMETERS:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} takes {count}")
    assert found == []


def test_the_formatter_formats():
    marked = [str(path) for path in SOURCES if not is_kernel(path) and "fmt: skip" in path.read_text(encoding="utf-8")]
    assert marked == []
