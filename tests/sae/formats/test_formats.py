"""Every layout in the list of cases, read and set against a forward pass in numpy; and what a round trip keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cvxsae import SparseAutoencoder
from tests.helpers.sentences import rejects
from tests.sae.formats.cases import BEGIN, CASES, DTYPES, END, Case, flat, saelens, table
from tests.sae.formats.reference import SCALE, Arrays, data, forward, weights

X = data()


def loaded(case: Case, folder: Path, dtype: str) -> tuple[SparseAutoencoder, Arrays]:
    a = weights(DTYPES[dtype])
    return SparseAutoencoder.load(case.write(folder, a, DTYPES[dtype])), {**a, **case.spec.extra}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_encodes_and_reconstructs_as_numpy_does(case: Case, dtype: str, tmp_path: Path):
    if dtype not in case.dtypes:
        pytest.skip(f"{case.layout} has no {dtype}")
    sae, a = loaded(case, tmp_path, dtype)
    codes, back = forward(a, case.spec, X)
    assert 0 < np.count_nonzero(codes) < codes.size
    np.testing.assert_allclose(sae.encode(X, unit_norm=False).toarray(), codes, atol=1e-10, rtol=1e-10)
    np.testing.assert_allclose(sae.reconstruct(X), back, atol=1e-10, rtol=1e-10)
    assert sae.trainer == case.source


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and one == other


ROUND_TRIPS = {
    (case.spec.kind, case.spec.by_norm, case.spec.normalize): case
    for case in CASES
    if case.spec.normalize == "none" or case.spec.kind == "relu"
}
"""Every architecture, and every normalization, once."""


@pytest.mark.parametrize("case", ROUND_TRIPS.values(), ids=lambda case: case.name)
def test_a_round_trip_keeps_every_bit(case: Case, tmp_path: Path):
    (tmp_path / "first").mkdir()
    sae, _ = loaded(case, tmp_path / "first", case.dtypes[-1])
    back = SparseAutoencoder.load(sae.save(tmp_path / "second"))
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        np.testing.assert_array_equal(getattr(back, name), getattr(sae, name))
    for name in ("subtract_bias", "lam", "lam_source", "trainer", "metadata"):
        assert same(getattr(back, name), getattr(sae, name)), name
    assert type(back.activation) is type(sae.activation)
    assert back.activation.settings() == sae.activation.settings()
    for name, array in sae.activation.arrays().items():
        np.testing.assert_array_equal(back.activation.arrays()[name], array)
    assert type(back.normalization) is type(sae.normalization)
    np.testing.assert_array_equal(back.reconstruct(X), sae.reconstruct(X))


def test_the_penalty_of_saelens_is_half_its_coefficient_in_the_units_of_the_data(tmp_path: Path):
    details = {"metadata": {"sae_lens_version": "6.54.12", "training_architecture_details": {"l1_coefficient": 5.0}}}
    found = {}
    for normalize in ("none", "expected_average_only_in"):
        folder = tmp_path / normalize
        folder.mkdir()
        write = saelens("standard", normalize, **details)
        found[normalize] = SparseAutoencoder.load(write(folder, weights(), torch.float32))
    assert found["none"].lam == 2.5
    assert "if data were not scaled in training" in found["none"].lam_source
    assert found["expected_average_only_in"].lam == pytest.approx(2.5 / SCALE)
    assert "over the scale 2.3 of the data" in found["expected_average_only_in"].lam_source
    runner = {"sae": {"l1_coefficient": 5.0, "normalize_activations": "expected_average_only_in"}}
    (tmp_path / "none" / "runner_cfg.json").write_text(json.dumps(runner))
    folded = SparseAutoencoder.load(tmp_path / "none")  # its scale is in the weights, and in no file
    assert folded.lam is None
    assert "over a scale of the data that was folded" in folded.lam_source
    old = flat("standard", l1_coefficient=0.6, normalize_sae_decoder=True, lp_norm=1.0)
    assert SparseAutoencoder.load(old(tmp_path, weights(), torch.float32)).lam == pytest.approx(0.3)
    lp = flat("standard", l1_coefficient=0.6, normalize_sae_decoder=True, lp_norm=0.5)
    assert SparseAutoencoder.load(lp(tmp_path, weights(), torch.float32)).lam is None


def test_a_scale_that_no_file_tells_is_asked_for(tmp_path: Path):
    case = next(one for one in CASES if one.spec.normalize == "expected_average_only_in")
    path = case.write(tmp_path, weights(), torch.float32)
    (path / "activation_scaler.json").unlink()
    with rejects("scale is None but the SAE is for activations that are multiplied by a number"):
        SparseAutoencoder.load(path)
    with rejects("scale is -1"):
        SparseAutoencoder.load(path, scale=-1)
    sae = SparseAutoencoder.load(path, scale=SCALE)
    np.testing.assert_allclose(sae.reconstruct(X), forward(weights(torch.float32), case.spec, X)[1], atol=1e-10)


def test_the_table_in_the_documentation_is_that_of_these_cases():
    page = Path(__file__).parents[3] / "docs" / "formats.md"
    assert page.read_text().split(BEGIN)[1].split(END)[0] == table(), "run python -m tests.sae.formats.cases"
