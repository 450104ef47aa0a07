"""The example SAE: written as SAELens writes, with rows it has not seen, and the same from the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from cvxsae import InputError, SparseAutoencoder, train_sae
from cvxsae.cli.main import app
from cvxsae.data import center_and_scale, wordllama
from cvxsae.sae import example, write_example


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(example, "STEPS", 20)


def test_what_is_written_is_read_again(tmp_path):
    made = write_example(tmp_path / "new" / "example", n_atoms=4, rows=300)
    read = SparseAutoencoder.load(made.folder)
    assert read.W_dec.shape == (4, 256)
    assert read.lam == pytest.approx(example.LAM)
    X = np.load(made.activations)
    assert (X.shape, X.dtype) == ((300, 256), np.float32)
    np.testing.assert_array_equal(read.encode(X).toarray(), made.sae.encode(X).toarray())


@pytest.mark.slow
def test_rows_are_embeddings_that_trained_nothing(tmp_path, monkeypatch):
    seen = []

    def watched(X, *arguments, **options):
        seen.append(X.to_numpy())
        return train_sae(X, *arguments, **options)

    monkeypatch.setattr(example, "train_sae", watched)
    made = write_example(tmp_path, n_atoms=2, rows=200)
    raw = wordllama()
    every = {row.tobytes() for row in center_and_scale(raw).apply(raw).to_numpy().astype(np.float32)}
    trained, others = ({row.tobytes() for row in X.astype(np.float32)} for X in (seen[0], np.load(made.activations)))
    assert trained <= every and others <= every
    assert len(trained) == len(others) == 200
    assert not trained & others


@pytest.mark.slow
def test_a_seed_gives_the_same_files(tmp_path):
    first, again, other = (
        write_example(tmp_path / name, n_atoms=2, rows=50, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.activations.read_bytes() == again.activations.read_bytes() != other.activations.read_bytes()
    np.testing.assert_array_equal(first.sae.W_dec, again.sae.W_dec)


def test_bad_arguments_write_nothing(tmp_path):
    for options, words in (
        ({"rows": 20_000}, "rows is 20000; it must be a whole number of at most 16000"),
        ({"n_atoms": 0}, "n_atoms is 0"),
        ({"seed": -1}, "seed is -1"),
    ):
        with pytest.raises(InputError, match=words):
            write_example(tmp_path / "example", **options)
    assert not (tmp_path / "example").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="is a file"):
        write_example(tmp_path / "file" / "example")


def test_the_command_names_the_next_one(tmp_path, monkeypatch):
    small = write_example
    monkeypatch.setattr(example, "write_example", lambda folder, *, seed: small(folder, n_atoms=2, rows=50, seed=seed))
    done = CliRunner().invoke(app, ["example", str(tmp_path / "example")])
    assert done.exit_code == 0, done.output
    words = done.output.partition("Next: cvxsae audit ")[2].split()
    asked = get_command(app).commands["audit"].make_context("audit", words).params  # type: ignore[attr-defined]
    assert Path(asked["data"][0]).is_file()
    assert SparseAutoencoder.load(asked["sae"]).n_atoms == 2


def test_the_command_says_what_is_in_the_way(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = CliRunner().invoke(app, ["example", str(tmp_path / "file" / "example")])
    assert done.exit_code == 2
    assert "is a file" in done.output
