"""An SAE to try things on: trained in a second on real embeddings, and written with rows that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cvxsae.data import arguments, transforms
from cvxsae.data.atomic import make_folder, write_atomically
from cvxsae.data.embedded import wordllama
from cvxsae.sae.autoencoder import SparseAutoencoder
from cvxsae.sae.train import train_sae

LAM = 0.08
"""Penalty of the example: about ten active atoms a token."""

STEPS, BATCH = 150, 512
"""Steps of training and rows in each. More steps would make it better; this one is to be found wanting."""

ACTIVATIONS = "activations.npy"
"""The file of rows that the example SAE has not seen."""


@dataclass(frozen=True)
class Example:
    """An example SAE and its data, as they were written.

    Attributes
    ----------
    folder
        The SAE in SAELens's layout: ``cfg.json`` and ``sae_weights.safetensors``.
    activations
        A ``.npy`` file with rows (n, 256) that the SAE was not trained on, float32.
    sae
        The same SAE in memory; ``sae.lam`` is the λ that it was trained with.
    """

    folder: Path
    activations: Path
    sae: SparseAutoencoder

    @property
    def command(self) -> str:
        """The command that audits it and writes a report, ``report.html`` where it is run."""
        return f"cvxsae audit {self.activations} --sae {self.folder} --stationarity 0.01 --report report.html"


def write_example(folder: str | Path, *, n_atoms: int = 64, rows: int = 8000, seed: int = 0) -> Example:
    """Train a small SAE on token embeddings, and write it to a folder with rows that it was not trained on.

    The embeddings are those of :func:`cvxsae.data.wordllama`, centered and scaled to mean squared norm 1. As many of
    them train the SAE as are written for its audit; which ones is drawn with ``seed``. Training is short on purpose, so
    that an audit has something to find.

    Parameters
    ----------
    folder
        Where to write; created if needed. Files of an earlier example are replaced.
    n_atoms
        Width K of the SAE.
    rows
        How many rows train it, and how many others are written.
    seed
        Of the rows and of the training.

    Returns
    -------
    Example
        The folder, the file of rows and the SAE. Nothing certifies the SAE: :func:`cvxsae.audit` says how far from
        optimal it is.

    Raises
    ------
    InputError
        If the ``wordllama`` wheel is missing (``pip install cvxsae[data]``), there are too few embeddings for so many
        rows, or the folder cannot be written to.
    """
    where = arguments.path(folder, "folder")
    raw = wordllama()
    count = arguments.count(rows, "rows", most=len(raw) // 2)
    arguments.count(n_atoms, "n_atoms")
    arguments.seed(seed)
    make_folder(where, "folder")
    order = np.random.default_rng(seed).permutation(len(raw))
    X = transforms.center_and_scale(raw).apply(raw)
    seen, others = (X[np.sort(part)] for part in (order[:count], order[count : 2 * count]))
    sae = train_sae(seen, n_atoms, LAM, steps=STEPS, batch_size=BATCH, seed=seed)
    sae.save(where)
    values = others.to_numpy().astype(np.float32)
    file = write_atomically(where / ACTIVATIONS, partial(np.save, arr=values), "folder")
    return Example(where, file, sae)
