"""The verbs about the nonconvex optimum: same numbers as the API, every exit code, bad input in one sentence."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cvxsae import Status, audit, encode, learn_dictionary, width_floor
from cvxsae.cli.main import app
from cvxsae.data.files import read_arrays
from cvxsae.data.synthetic import sparse_features
from cvxsae.sae import train_sae
from tests.helpers.sentences import is_one_sentence

runner = CliRunner()
LAM = 0.2


def run(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module", name="folder")
def made(tmp_path_factory):
    """Activations, a dictionary and an SAE on disk."""
    folder = tmp_path_factory.mktemp("learning")
    X = sparse_features(80, 5, 6, seed=5, probability=0.3, bias_norm=0.5, noise=0.02).X
    np.save(folder / "X.npy", X)
    np.save(folder / "D.npy", X[:4])
    train_sae(X, 4, LAM, steps=50, batch_size=32).save(folder / "sae")
    return folder


@pytest.mark.slow
def test_learn_gives_what_the_api_gives(folder):
    out = folder / "fit.npz"
    result = run("learn", folder / "X.npy", "--n-atoms", 4, "--lam", LAM, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    expected = learn_dictionary(np.load(folder / "X.npy"), 4, LAM)
    assert report["value"] == pytest.approx(expected.value, rel=1e-6)
    assert report["lower_bound"] <= report["value"]
    arrays: dict[str, Any] = dict(read_arrays(out))
    again = encode(np.load(folder / "X.npy"), arrays["dictionary"], LAM, bias=arrays["bias"], tol=1e-9)
    assert again.value == pytest.approx(report["value"], rel=1e-8)
    text = run("learn", folder / "X.npy", "--n-atoms", 4, "--lam", LAM, "--init", folder / "D.npy").stdout
    assert "no dictionary of any width is below" in text


@pytest.mark.slow
def test_learn_that_ran_out_of_time_is_exit_code_1(folder):
    result = run("learn", folder / "X.npy", "--n-atoms", 6, "--lam-ratio", 0.05, "--max-seconds", 1e-3)
    assert result.exit_code == 1
    assert "TIME_LIMIT" in result.stdout


@pytest.mark.slow
def test_an_interrupted_learn_is_exit_code_130(folder, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("cvxsae.solvers.dictionary.learner.Learner.step", interrupted)
    assert run("learn", folder / "X.npy", "--n-atoms", 4, "--lam", LAM).exit_code == 130
    assert Status.INTERRUPTED.remedy


@pytest.mark.slow
def test_floor_gives_what_the_api_gives(folder):
    result = run("floor", folder / "X.npy", "--widths", "2,4", "--lam", LAM, "--json")
    assert result.exit_code == 0, result.output
    floors = json.loads(result.stdout)["floors"]
    assert [floor["n_atoms"] for floor in floors] == [2, 4]
    assert floors[0]["value"] >= floors[1]["value"]
    expected = width_floor(np.load(folder / "X.npy"), 4, LAM).value
    assert floors[1]["value"] == pytest.approx(expected, rel=1e-2)
    shown = run("floor", folder / "X.npy", "--widths", "2", "--lam-ratio", 0.1).stdout
    assert "no dictionary has a loss below" in shown


@pytest.mark.slow
def test_floor_projects_first_if_asked(folder):
    asked = ("floor", folder / "X.npy", "--widths", 4, "--lam", LAM, "--bias", "none", "--json")
    whole, projected = (json.loads(run(*asked, *more).stdout)["floors"][0] for more in ((), ("--max-dim", 2)))
    expected = width_floor(np.load(folder / "X.npy"), 4, LAM, bias=None, max_dim=2)
    assert projected["value"] == pytest.approx(expected.value, rel=1e-2)
    assert projected["value"] < whole["value"] * 0.99
    assert projected["failure_probability"] == 0


def test_a_floor_that_could_be_wrong_says_so(folder, monkeypatch):
    monkeypatch.setattr("cvxsae.relaxations.floors.floor.Floor.failure_probability", 2e-12)
    assert (
        "wrong with a probability of at most 2e-12"
        in run("floor", folder / "X.npy", "--widths", 4, "--lam", LAM).output
    )


@pytest.mark.slow
def test_audit_gives_what_the_api_gives(folder):
    result = run("audit", folder / "X.npy", "--sae", folder / "sae", "--json")
    assert result.exit_code == 0, result.output
    expected = audit(np.load(folder / "X.npy"), folder / "sae")
    report = json.loads(result.stdout)
    assert report["ledger"]["loss"] == pytest.approx(expected.ledger.loss, rel=1e-12)
    assert report["sentences"] == list(expected.sentences)
    stages = result.stderr.splitlines()  # no terminal: a line for each stage instead of a bar
    assert stages[0] == "audit: self-test"
    assert {"audit: exact codes", "audit: exact codes, held out", "audit: width floor"} <= set(stages)
    assert not logging.getLogger("cvxsae.sae.audits.stages").handlers
    text = run("audit", folder / "X.npy", "--sae", folder / "sae", "--lam", LAM, "--rows", 40).stdout
    assert text.startswith("Change")
    assert "loss ledger" in text
    assert "40 rows drawn" in text
    refused = run("audit", folder / "X.npy", "--sae", folder / "sae", "--lam", "match-l0", "--rows", 40)
    assert refused.exit_code == 2  # four atoms are never as active at an optimum as they are by this encoder
    assert "\ncvxsae: lam is not known (No λ matches the SAE's L0" in refused.stderr


@pytest.mark.slow
def test_audit_holds_out_what_it_was_told_to(folder):
    X, sae = np.load(folder / "X.npy"), folder / "sae"
    labels = [f"text {n // 4}" for n in range(len(X))]
    (folder / "texts.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    np.save(folder / "others.npy", 1.01 * X[::-1][:12])
    some = ["--stationarity", 1e-2, "--json", "--no-progress"]
    words = ["--groups", folder / "texts.txt", "--rows", 40, "--confidence", 0.9, "--drop-outliers", 10, "--center"]
    silent = run("audit", folder / "X.npy", "--sae", sae, *words, *some)
    assert "audit:" not in silent.stderr
    report = json.loads(silent.stdout)
    chosen = np.sort(np.random.default_rng(0).choice(len(X), size=40, replace=False))
    rows = X[chosen] - X[chosen].mean(axis=0)
    groups = [labels[n] for n in chosen]
    expected = audit(rows, sae, groups=groups, confidence=0.9, drop_outliers=True, stationarity=1e-2)
    for name in ("loss", "exact", "dictionary_gap", "memorization"):
        assert report["ledger"][name] == pytest.approx(getattr(expected.ledger, name), rel=1e-9), name
    assert (report["rows"]["unit"], report["rows"]["confidence"]) == ("document", 0.9)
    report = json.loads(run("audit", folder / "X.npy", "--sae", sae, "--held-out", "none", *some).stdout)
    assert (report["rows"]["kind"], report["ledger"]["n_points"]) == ("given", len(X))
    np.save(folder / "twelve.npy", np.arange(12) // 3)
    words = ["--held-out", folder / "others.npy", "--held-out-groups", folder / "twelve.npy"]
    report = json.loads(run("audit", folder / "X.npy", "--sae", sae, *words, *some).stdout)
    assert (report["rows"]["learned_on"], report["rows"]["n_points"], report["rows"]["n_units"]) == (len(X), 12, 4)


@pytest.mark.slow
def test_audit_writes_a_page_and_its_json(folder, tmp_path):
    pytest.importorskip("jinja2", reason="reports need the extra cvxsae[report]")
    pytest.importorskip("plotly", reason="reports need the extra cvxsae[report]")
    page = tmp_path / "report.html"
    options = ["--sae", folder / "sae", "--rows", 30, "--stationarity", 1e-2, "--report", page]
    result = run("audit", folder / "X.npy", *options)
    assert result.exit_code == 0, result.output
    assert f"report written to {page}" in result.stdout
    report = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert (report["ledger"]["n_points"], report["rows"]["learned_on"]) == (8, 22)
    assert report["sentences"][0] in result.stdout
    assert "worst_features" in report["tables"]
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.slow
def test_compare_writes_table_figure_and_json(folder, tmp_path):
    options = ["--widths", "4,2", "--lam", LAM, "--steps", 30, "--stationarity", 1e-3, "--folder", tmp_path / "out"]
    result = run("compare", folder / "X.npy", *options)
    assert result.exit_code == 0, result.output
    assert "n_atoms" in result.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    written = {"compare.json", "compare.csv", "compare.png", "dictionary_2.npz", "dictionary_4.npz"}
    assert names == {*written, "manifest.json", "study"}
    again = run("compare", folder / "X.npy", *options, "--json")  # resumed: nothing is left to compute
    assert [r["ledger"]["n_atoms"] for r in json.loads(again.stdout)["results"]] == [2, 4]
    other = run("compare", folder / "X.npy", *options[:3], 0.3, *options[4:])
    assert other.exit_code == 2
    assert "holds a comparison of another call, which differs in lam" in other.stderr


BAD: dict[str, tuple[list, str]] = {
    "no penalty": (["learn", "X.npy", "--n-atoms", 3], "λ is missing"),
    "no atoms": (["learn", "X.npy", "--n-atoms", 0, "--lam", 1], "n_atoms is 0"),
    "negative penalty": (["learn", "X.npy", "--n-atoms", 3, "--lam", -1], "--lam is -1"),
    "missing data": (["learn", "nothing.npy", "--n-atoms", 3, "--lam", 1], "does not exist"),
    "bad init": (["learn", "X.npy", "--n-atoms", 3, "--lam", 1, "--init", "nothing.npy"], "--init"),
    "bad out": (["learn", "X.npy", "--n-atoms", 3, "--lam", 1, "--out", "fit.txt"], "--out"),
    "bad seed": (["learn", "X.npy", "--n-atoms", 3, "--lam", 1, "--seed", -1], "--seed is -1"),
    "widths in words": (["floor", "X.npy", "--widths", "two", "--lam", 1], "--widths is 'two'"),
    "no directions": (["floor", "X.npy", "--widths", 4, "--lam", 1, "--max-dim", 0], "max_dim is 0"),
    "width of nothing": (["floor", "X.npy", "--widths", "0", "--lam", 1], "--widths is 0"),
    "half a width": (["compare", "X.npy", "--widths", "2.5", "--lam", 1, "--folder", "out"], "--widths is 2.5"),
    "share of everything": (["audit", "X.npy", "--sae", "sae", "--held-out", 2], "a file with rows, or none"),
    "no held-out rows": (["audit", "X.npy", "--sae", "sae", "--held-out", "no.npy"], "--held-out 'no.npy'"),
    "labels nowhere": (["audit", "X.npy", "--sae", "sae", "--groups", "no.txt"], "--groups"),
    "labels of others": (["audit", "X.npy", "--sae", "sae", "--groups", "X.npy"], "--groups has labels of shape"),
    "too sure": (["audit", "X.npy", "--sae", "sae", "--confidence", 1], "confidence is 1"),
    "no sae": (["audit", "X.npy", "--sae", "nowhere", "--lam", 1], "--sae 'nowhere' does not exist"),
    "array of an sae": (
        ["audit", "X.npy", "--sae", "sae/sae_weights.safetensors::W_dec", "--lam", 1],
        "next: cvxsae check DATA --dictionary sae/sae_weights.safetensors::W_dec --lam-ratio 0.1\n",
    ),
    "sae not passed": (["audit", "X.npy"], "audit needs --sae: folder or file of an SAE"),
    "width not passed": (["learn", "X.npy"], "next: the same command with --n-atoms 512\n"),
    "data not passed": (["learn", "--n-atoms", 3], "learn needs DATA: datapoints as rows.\n"),
    "a word for a number": (["learn", "X.npy", "--n-atoms", "many"], "cvxsae: --n-atoms: "),
    "no such option": (["learn", "X.npy", "--n-atom", 3], "learn has no option --n-atom; the nearest are --n-atoms"),
    "no such verb": (["lean", "X.npy"], "no such command 'lean'"),
    "no such device": (["learn", "X.npy", "--n-atoms", 3, "--lam", 1, "--device", "abacus"], "--device is 'abacus'"),
    "penalty in words": (["audit", "X.npy", "--sae", "sae", "--lam", "much"], "--lam is 'much'"),
    "no penalty at all": (["audit", "X.npy", "--sae", "sae", "--lam", 0], "--lam is 0"),
    "report elsewhere": (["audit", "X.npy", "--sae", "sae", "--report", "no/report.html"], "--report"),
    "report of another type": (["audit", "X.npy", "--sae", "sae", "--report", "r.pdf"], "type '.pdf'"),
    "another bias": (["audit", "X.npy", "--sae", "sae", "--bias", "none"], "b_dec"),
    "unknown trainer": (
        ["compare", "X.npy", "--widths", 2, "--lam", 1, "--trainer", "x", "--folder", "out"],
        "trainer",
    ),
    "file for a folder": (["compare", "X.npy", "--widths", 2, "--lam", 1, "--folder", "D.npy"], "pass a folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_exit_code_2_and_nothing_written(folder, monkeypatch, case):
    options, sentence = BAD[case]
    monkeypatch.chdir(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    result = run(*options)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr
    assert result.stdout == ""
    assert is_one_sentence(result.stderr)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.slow
def test_learn_holds_out_a_share_or_a_file(folder):
    np.save(folder / "other.npy", np.load(folder / "X.npy")[::2] + 0.1)
    common = ("learn", folder / "X.npy", "--n-atoms", 4, "--lam", LAM, "--max-steps", 4, "--scale")
    share = run(*common, "--validation", 0.25, "--seed", 3)
    assert "held-out F" in share.stdout and "20 of 80 rows are held out, by row" in share.stdout
    given = json.loads(run(*common, "--validation", folder / "other.npy", "--patience", 2, "--json").stdout)
    assert given["validation"]["n_units"] == 40 and any("held out" in note for note in given["notes"])
    X = np.load(folder / "X.npy")
    scale = 1 / np.sqrt(np.square(X).sum(axis=1).mean())
    fit = learn_dictionary(X * scale, 4, LAM, max_steps=4, validation=np.load(folder / "other.npy") * scale)
    assert fit.validation is not None and given["validation"]["value"] == pytest.approx(fit.validation.value, rel=1e-6)
    for wrong, said in (("1.5", "--validation is 1.5"), ("-1", "--validation is -1"), ("no.npy", "--validation")):
        refused = run(*common, f"--validation={wrong}")
        assert refused.exit_code == 2 and said in refused.stderr and "Traceback" not in refused.stderr
