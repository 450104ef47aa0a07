"""Every layout in the list of cases, read and set against a forward pass in numpy; and what a round trip keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvxsae import SparseAutoencoder
from tests.sae.formats.cases import BEGIN, CASES, DTYPES, END, Case, table
from tests.sae.formats.reference import Arrays, data, forward, weights

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


def test_the_table_in_the_documentation_is_that_of_these_cases():
    page = Path(__file__).parents[3] / "docs" / "formats.md"
    assert page.read_text().split(BEGIN)[1].split(END)[0] == table(), "run python -m tests.sae.formats.cases"
