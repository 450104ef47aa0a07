"""The notebooks: they run, what they claim holds, and what is shown of them is what they are."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from cvxsae.penalties import L0, L1, Matryoshka

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"

SMALL: dict[str, dict[str, Any]] = {
    "quickstart": {"N_ATOMS": 8, "ROWS": 300},
    "audit_an_sae": {"N_ATOMS": 8, "ROWS": 200, "STEPS": 20, "STATIONARITY": 0.1},
    "how_wide": {
        "LEARNED": 300,
        "HELD_OUT": 500,
        "WIDTHS": (2, 4, 16),
        "BATCH": 250,
        "PRICES": (0.5, 0.3),
        "PRICED": 100,
        "STATIONARITY": 0.1,
    },
    "what_the_optimum_does": {
        "SOLOS": (0.0, 0.1),
        "PENALTIES": (L1(), L0(), Matryoshka(0.25)),
        "POLYGONS": (3, 4),
        "POINTS": 120,
    },
}
"""Sizes at which every cell runs and nothing takes long; they take the place of those in the cell of parameters."""

LARGEST_IMAGE = 100_000
"""Bytes of a figure: what is committed stays small."""

Cell = tuple[str, str, bool]
"""Kind (``code`` or ``markdown``), source, and whether it holds the parameters."""


def cells(notebook: str) -> list[Cell]:
    """The cells of a notebook as it is written."""
    found: list[Cell] = []
    text = (FOLDER / f"{notebook}.py").read_text(encoding="utf-8")
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        source = body.strip("\n")
        if "[markdown]" in head:
            found.append(("markdown", re.sub(r"^# ?", "", source, flags=re.MULTILINE), False))
        else:
            found.append(("code", source, '"parameters"' in head))
    return found


def shown(notebook: str) -> list[dict[str, Any]]:
    """The cells of a notebook as it is shown, with outputs."""
    return json.loads((FOLDER / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]


def test_every_notebook_is_listed():
    assert {path.stem for path in FOLDER.glob("*.py")} == {path.stem for path in FOLDER.glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("notebook", SMALL)
def test_what_is_shown_is_what_is_written(notebook):
    found = [(cell["cell_type"], "".join(cell["source"])) for cell in shown(notebook)]
    assert found == [(kind, source) for kind, source, _ in cells(notebook)], "run `make notebooks`"


@pytest.mark.parametrize("notebook", SMALL)
def test_what_is_shown_ran_from_top_to_bottom(notebook):
    code = [cell for cell in shown(notebook) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert all(output["output_type"] != "error" and output.get("name") != "stderr" for output in outputs)
    images = [
        base64.b64decode(output["data"]["image/png"]) for output in outputs if "image/png" in output.get("data", {})
    ]
    assert images
    assert max(map(len, images)) <= LARGEST_IMAGE
    assert not re.search(r"/(tmp|home|root|work|Users)/", json.dumps(outputs)), "paths of a machine"


@pytest.mark.parametrize("notebook", SMALL)
def test_every_axis_has_a_name(notebook):
    """A figure is made with ``subplots``, and each of its cells names what its axes show."""
    drawing = [source for kind, source, _ in cells(notebook) if kind == "code" and "plt.subplots" in source]
    assert drawing
    everywhere = "\n".join(source for kind, source, _ in cells(notebook) if kind == "code")
    for source in drawing:
        assert "xlabel" in source or "draw_pair" in source
        assert 'layout="constrained"' in source, "text does not overlap"
    assert 'style.use("tableau-colorblind10")' in everywhere


def run(notebook: str, parameters: dict[str, Any]) -> list[Any]:
    """Run the code of a notebook with other parameters, in this process; the figures that it draws."""
    drawn: list[Any] = []

    def keep() -> None:
        drawn.extend(map(plt.figure, plt.get_fignums()))
        plt.close("all")

    plt.switch_backend("agg")
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plt, "show", keep)
        for place, (kind, source, is_parameters) in enumerate(cells(notebook)):
            if kind == "code":
                exec(compile(source, f"{notebook}.py, cell {place}", "exec"), names)
            if is_parameters:
                assert parameters.keys() <= names.keys()
                names.update(parameters)
    return drawn


def run_all() -> None:
    """Run every notebook, and one with a setting at which its claim is false; a line for each."""
    for notebook, parameters in SMALL.items():
        axes = [axis for figure in run(notebook, parameters) for axis in figure.axes]
        assert axes
        assert all(axis.get_xlabel() or axis.get_ylabel() for axis in axes), "an axis without a name"
        print(f"holds: {notebook}")
    with pytest.raises(AssertionError):
        run("what_the_optimum_does", {"SOLOS": (0.2,)})  # where nothing is absorbed
    print("noticed: a false claim")


@pytest.mark.slow
def test_they_run_and_their_claims_hold(tmp_path):
    """In a process without the checks of annotations, which would take most of the time."""
    here = {**os.environ, "PYTHONPATH": str(FOLDER.parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_notebooks"], cwd=tmp_path, env=here, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith(("holds", "noticed"))] == [
        *(f"holds: {notebook}" for notebook in SMALL),
        "noticed: a false claim",
    ]


if __name__ == "__main__":
    run_all()
