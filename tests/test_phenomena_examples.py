"""The phenomena's scripts: their claims hold, and they notice when they do not."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from cvxsae import SparseAutoencoder, encode
from cvxsae.data import circle_feature
from cvxsae.population import PopulationDictionary
from tests.helpers.figures import faults

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unchecked")]

PHENOMENA = Path(__file__).parents[1] / "examples" / "phenomena"

SMALL = {
    "nested_pair": ["--small"],
    "four_features": ["--small"],
    "twenty_features": ["--small", "--points", "2000"],
    "dense_antipodal": ["--seeds", "1"],
    "circle_splitting": ["--widths", "3", "4", "5", "6"],
    "residual_structure": ["--seeds", "1", "--noises", "0", "0.05"],
    "wordllama_splits": ["--points", "400", "--width", "8"],
    "which_absorb": ["--small"],
    "two_feature_phases": ["--small"],
    "spiked": ["--small"],
    "synthsaebench": ["--small"],
    "sparse_but_wrong": ["--small"],
    "absorption_shares": ["--small"],
    "cures": ["--small"],
    "coherence_recovery": ["--small"],
    "stop_splitting": ["--small"],
    "stop_splitting_real": ["--small"],
}


@pytest.fixture
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PHENOMENA))
    return importlib.import_module(request.param)


def test_every_script_is_listed():
    helpers = {"correlated_toy", "reporting", "trees"}
    assert {path.stem for path in PHENOMENA.glob("*.py")} - helpers == set(SMALL)


@pytest.mark.parametrize(("script", "options"), SMALL.items(), ids=list(SMALL), indirect=["script"])
def test_claims_hold(script, options, tmp_path, capsys, monkeypatch):
    drawn: list[Figure] = []
    save = script.save

    def keep(figure: Figure, *where: Any) -> None:
        drawn.append(figure)
        save(figure, *where)

    monkeypatch.setattr(script, "save", keep)
    assert script.main([*options, "--out", str(tmp_path)]) == 0, capsys.readouterr().out
    printed = capsys.readouterr().out
    assert "holds" in printed
    assert "FAILS" not in printed
    assert [path.name for path in tmp_path.iterdir()] == [f"phenomena_{script.__name__}.png"]
    assert not [fault for figure in drawn for fault in faults(figure)]


def test_a_nameless_axis_and_text_on_text_are_noticed():
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    axes.plot([0, 1])
    axes.set(xlabel="width K", ylabel="F, mean per datapoint")
    assert not faults(figure)
    axes.set_ylabel("")
    axes.text(0.2, 0.5, "a longer text")
    axes.text(0.25, 0.5, "another text")
    assert faults(figure) == ["axes '': y has no name", "'a longer text' lies on 'another text'"]


def spoiled(learn: Any, angle: float) -> Any:
    """A learner whose first atom is turned a little towards a fixed direction."""

    def turned(X: Any, n_atoms: int, lam: float, **options: Any) -> Any:
        fit = learn(X, n_atoms, lam, **options)
        atoms = fit.dictionary.copy()
        atoms[0] += angle * np.random.default_rng(99).standard_normal(atoms.shape[1])
        atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
        encoding = encode(X, atoms, lam, bias=fit.bias, tol=1e-9)
        return replace(fit, dictionary=atoms, codes=encoding.codes, encoding=encoding, value=encoding.value)

    return turned


@pytest.mark.parametrize(
    ("script", "options", "claim"),
    [
        ("nested_pair", ["--small"], "C1: F is the closed form everywhere"),
        ("twenty_features", ["--small", "--points", "2000"], "absorption gaps are 1"),
        ("dense_antipodal", ["--seeds", "1"], "C8: the pair, b = 0"),
    ],
    indirect=["script"],
)
def test_a_worse_dictionary_fails(script, options, claim, monkeypatch, capsys):
    monkeypatch.setattr(script, "learn_dictionary", spoiled(script.learn_dictionary, 0.2))
    assert script.main(options) == 1
    assert any(line.startswith("FAILS") and claim in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("script", ["circle_splitting"], indirect=True)
def test_an_ellipse_is_not_a_circle(script, monkeypatch, capsys):
    def ellipse(*arguments: Any, **options: Any) -> Any:
        data = circle_feature(*arguments, **options)
        u = data.dictionary[0]
        return replace(data, X=data.X + 0.3 * np.outer(data.X @ u, u))

    monkeypatch.setattr(script, "circle_feature", ellipse)
    assert script.main(["--points", "120", "--widths", "3"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILS")]
    assert any("(M/π) tan(π/M)" in line for line in failed)
    assert any("regular polygon" in line for line in failed)


@pytest.mark.parametrize("script", ["spiked"], indirect=True)
def test_a_feature_that_never_fires_alone_breaks_the_spiked_truth(script, monkeypatch, capsys):
    draw = script.spiked

    def nested(*arguments: Any) -> Any:
        data = draw(*arguments)
        codes = data.codes.copy()
        codes[codes[:, 0] > 0, 1] = 2.0  # wherever the child fires, its parent does
        return replace(data, codes=codes, X=codes @ data.atoms)

    monkeypatch.setattr(script, "spiked", nested)
    claims = script.Claims()
    script.noiseless(script.Results(), claims)
    assert claims.exit_code == 1
    assert "FAILS  T6" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["spiked"], indirect=True)
def test_whose_an_error_is(script):
    assert script.verdict(found=1.0, truth_bound=2.0, near=1.0) == "objective"
    assert script.verdict(found=3.0, truth_bound=2.0, near=1.0) == "search"
    assert script.verdict(found=1.5, truth_bound=2.0, near=1.0) == "objective, search"
    assert script.verdict(found=2.0, truth_bound=2.0, near=2.0) == "neither"


@pytest.mark.parametrize("script", ["synthsaebench"], indirect=True)
def test_leave_one_out_scores_of_other_codes_are_not_lam_plus_z(script, rng):
    atoms = script.unit(rng.normal(size=(12, 6)))
    X = rng.normal(size=(20, 6))
    exact = encode(X, atoms, 0.3, bias=np.zeros(6), tol=1e-10)
    honest, dishonest = script.Claims(), script.Claims()
    script.identity(honest, "exact", X, exact)
    script.identity(dishonest, "refitted", X, replace(exact, codes=exact.refit().codes))
    assert (honest.exit_code, dishonest.exit_code) == (0, 1)


def failures(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("FAILS")]


@pytest.mark.parametrize("script", ["sparse_but_wrong"], indirect=True)
def test_a_feature_that_never_fires_alone_is_noticed(script, monkeypatch, capsys):
    draw = script.draw

    def nested(*arguments: Any) -> Any:
        toy = draw(*arguments)
        strengths = toy.strengths.copy()
        strengths[:, 1] *= strengths[:, 0] > 0
        return toy._replace(points=strengths @ toy.features, strengths=strengths)

    monkeypatch.setattr(script, "draw", nested)
    script.at_truth(script.Claims(), script.Results(), (0.4,), script.Size(1, 400, 2))
    assert any("T6: the cone condition" in line for line in failures(capsys.readouterr().out))


@pytest.mark.parametrize("script", ["absorption_shares"], indirect=True)
def test_an_encoder_that_is_to_blame_is_noticed(script, monkeypatch, capsys):
    (pair,) = script.problems(small=True)
    atoms = pair.tree.absorbed
    tied = SparseAutoencoder(W_enc=atoms.T, b_enc=np.full(2, -script.LAM), W_dec=atoms, b_dec=np.zeros(2))
    monkeypatch.setattr(script, "train_sae", lambda *_, **__: tied)
    assert script.main(["--small"]) == 1
    assert any("the prediction holds" in line for line in failures(capsys.readouterr().out))


@pytest.mark.parametrize("script", ["cures"], indirect=True)
def test_a_boundary_elsewhere_is_noticed(script):
    pair = script.Pair(90.0, 0.2)
    at = script.end_of_absorbed("Matryoshka, β", pair)
    right, wrong, missing = script.Claims(), script.Claims(), script.Claims()
    script.compare_ends(right, "", {pair: at}, {pair: 1.01 * at})
    script.compare_ends(wrong, "", {pair: at}, {pair: 1.2 * at})
    script.compare_ends(missing, "", {pair: at}, {})
    assert (right.exit_code, wrong.exit_code, missing.exit_code) == (0, 1, 1)


@pytest.mark.parametrize("script", ["coherence_recovery"], indirect=True)
def test_a_pair_that_is_not_antipodal_is_not_recovered(script, monkeypatch, capsys):
    columns_at = script.columns_at
    monkeypatch.setattr(script, "columns_at", lambda degrees: columns_at(min(degrees, 150.0)))
    claims = script.Claims()
    script.antipodal(claims, 0.1, 0.3, 4)
    assert claims.exit_code == 1
    assert "FAILS  S = 0.1, α = 0.6: W' is its own optimum" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["stop_splitting"], indirect=True)
def test_a_worse_dictionary_has_not_stopped_splitting(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "learn_dictionary", spoiled(script.learn_dictionary, 0.2))
    claims = script.Claims()
    script.noiseless(claims, script.Results(), (6, script.RAYS))
    assert claims.exit_code == 1
    assert "FAILS  σ = 0: from K = R on F is F_wide" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["stop_splitting_real"], indirect=True)
def test_a_cheaper_atom_than_was_paid_for_is_noticed(script, monkeypatch):
    monkeypatch.setattr(
        script, "PopulationDictionary", lambda lam, price, bias: PopulationDictionary(lam, price / 30, bias=bias)
    )
    assert script.measured(script.images()[:100], 0.2, 0.1)["identity"] > script.ROUGH


def test_as_a_reader_runs_them():
    command = [sys.executable, str(PHENOMENA / "nested_pair.py"), "--small"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PHENOMENA.parents[1]).stdout
    assert "0.11571068" in printed
    assert "FAILS" not in printed
