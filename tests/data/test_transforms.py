"""The algebra of transforms, and their effect on λ checked through the objective itself."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cvxsae import Activations
from cvxsae.data import Affine, center, center_and_scale, files, scale_to_unit_mean_square
from cvxsae.data.stored import StoredRows
from tests.helpers.sentences import rejects

DIM = 3
numbers = st.floats(-100, 100, allow_nan=False, width=32)
vectors = hnp.arrays(np.float64, DIM, elements=numbers)
matrices = hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.just(DIM)), elements=numbers)
transforms = st.builds(Affine, shift=vectors, scale=st.floats(0.01, 100))


def objective(X, dictionary, bias, codes, lam):
    """(P), written out."""
    residual = X - bias - codes @ dictionary
    return np.mean([0.5 * r @ r + lam * z.sum() for r, z in zip(residual, codes, strict=True)])


def close(found, wanted):
    scale = 1 + float(np.abs(wanted).max())
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9 * scale)


@given(transforms, matrices)
def test_definition_and_round_trip(transform, X):
    there = transform.apply(X, dtype=torch.float64)
    close(there.to_numpy(), transform.scale * (X - transform.shift))
    size = 1e-12 * (np.abs(X).max() + np.abs(transform.shift).max() + 1)
    np.testing.assert_allclose(transform.invert(there, dtype=torch.float64).to_numpy(), X, rtol=0, atol=size)


@pytest.mark.slow
@given(transforms, transforms, matrices)
def test_composition(first, second, X):
    both = first.then(second)
    close(both.apply(X).to_numpy(), second.apply(first.apply(X)).to_numpy())
    assert both.lam(0.3) == pytest.approx(second.lam(first.lam(0.3)))
    assert both.value(0.3) == pytest.approx(second.value(first.value(0.3)))
    close(both.bias(np.ones(DIM)), second.bias(first.bias(np.ones(DIM))))


@given(transforms, transforms, transforms)
def test_composition_is_associative_and_has_inverses(a, b, c):
    left, right = a.then(b).then(c), a.then(b.then(c))
    close(left.shift, right.shift)
    assert left.scale == pytest.approx(right.scale)
    nothing = a.then(a.inverse)
    close(nothing.shift, np.zeros(DIM))
    assert nothing.scale == pytest.approx(1)


@pytest.mark.slow
@given(
    transforms,
    matrices,
    vectors,
    st.floats(0.001, 100),
    st.integers(0, 2**32 - 1),
)
def test_effect_on_the_objective(transform, X, bias, lam, seed):
    """The same model of the transformed data costs s² times as much at s λ, whatever the model; and back."""
    rng = np.random.default_rng(seed)
    dictionary = rng.standard_normal((4, DIM))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    codes = rng.exponential(size=(len(X), 4)) * (rng.random((len(X), 4)) < 0.5)
    before = objective(X, dictionary, bias, codes, lam)
    moved = transform.apply(X, dtype=torch.float64).to_numpy()
    model = transform.dictionary(dictionary), transform.bias(bias), transform.codes(codes), transform.lam(lam)
    after = objective(moved, *model)
    noise = 1e-12 * transform.scale**2 * (np.abs(X).max() + np.abs(transform.shift).max() + np.abs(bias).max()) ** 2
    assert after == pytest.approx(transform.value(before), rel=1e-9, abs=noise)
    back = transform.inverse
    assert back.value(after) == pytest.approx(before, rel=1e-9, abs=noise / transform.scale**2)
    assert back.lam(transform.lam(lam)) == pytest.approx(lam)
    close(back.codes(transform.codes(codes)), codes)
    close(back.bias(transform.bias(bias)), bias + 0 * transform.shift)


@given(transforms, matrices, st.floats(0.001, 100))
def test_effect_without_a_bias(transform, X, lam):
    """No bias becomes a fixed one: with all codes zero F is half the mean square, before and after."""
    bias = transform.bias(None)
    fixed = np.zeros(DIM) if bias is None else bias
    moved = transform.apply(X, dtype=torch.float64).to_numpy()
    before, after = 0.5 * np.mean((X**2).sum(1)), 0.5 * np.mean(((moved - fixed) ** 2).sum(1))
    noise = 1e-12 * transform.scale**2 * (np.abs(X).max() + np.abs(transform.shift).max()) ** 2
    assert after == pytest.approx(transform.value(before), rel=1e-9, abs=noise)


def test_effect_on_sparse_codes():
    from scipy import sparse

    codes = Affine(shift=np.ones(2), scale=2.0).codes(sparse.csr_array(np.eye(2)))
    assert isinstance(codes, sparse.csr_array)
    np.testing.assert_array_equal(codes.toarray(), 2 * np.eye(2))


def test_effect_on_the_bias():
    shifted, scaled = Affine(shift=np.ones(2)), Affine(shift=np.zeros(2), scale=2.0)
    assert shifted.bias("free") == "free"
    assert scaled.bias(None) is None
    np.testing.assert_array_equal(shifted.bias(None), [-1, -1])
    np.testing.assert_array_equal(scaled.bias([1.0, 2.0]), [2, 4])
    with rejects(r"bias has shape \(3,\) but the data has dimension 2"):
        shifted.bias(np.zeros(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_statistics(rng, device, dtype):
    given_X = torch.from_numpy(rng.standard_normal((500, DIM)) * 3 + 5).to(dtype=dtype, device=device)
    before = given_X.clone()
    X = given_X.cpu().double().numpy()
    np.testing.assert_allclose(center(given_X).shift, X.mean(0), rtol=1e-13)
    assert scale_to_unit_mean_square(given_X).scale == pytest.approx(1 / np.sqrt((X**2).sum(1).mean()), rel=1e-13)
    transform = center_and_scale(given_X)
    moved = transform.apply(given_X)
    assert moved.tensor.device.type == device.type
    assert moved.tensor.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact = transform.apply(given_X, dtype=torch.float64).to_numpy()
    np.testing.assert_allclose(exact.mean(0), 0, atol=1e-14)
    assert (exact**2).sum(1).mean() == pytest.approx(1, rel=1e-13)
    separate = center(given_X)
    stepwise = separate.then(scale_to_unit_mean_square(separate.apply(given_X, dtype=torch.float64)))
    np.testing.assert_allclose(stepwise.shift, transform.shift, atol=1e-12)
    assert stepwise.scale == pytest.approx(transform.scale, rel=1e-12)
    assert torch.equal(given_X, before)


def test_statistics_of_many_float32_rows_do_not_drift():
    X = np.full((300_000, 2), 0.1, dtype=np.float32)
    np.testing.assert_allclose(center(X).shift, np.float64(np.float32(0.1)), rtol=1e-12)


def test_memory_map_is_transformed_in_a_temporary_file(tmp_path, monkeypatch, rng):
    monkeypatch.setattr(files, "MEMORY_LIMIT", 1000)
    np.save(tmp_path / "X.npy", rng.standard_normal((2000, DIM)))
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    moved = center(X).apply(X)
    assert isinstance(moved._held, StoredRows)
    np.testing.assert_allclose(moved.to_numpy(), X - X.mean(0), atol=1e-14)


def test_transform_is_frozen_and_owns_its_shift():
    shift = np.ones(2)
    transform = Affine(shift=shift)
    shift[:] = 7
    np.testing.assert_array_equal(transform.shift, [1, 1])
    with pytest.raises(ValueError, match="read-only"):
        transform.shift[0] = 2
    with pytest.raises(AttributeError):
        transform.scale = 2.0  # type: ignore[misc]


def test_description():
    both = Affine(shift=np.array([3.0, 4.0]), scale=0.5)
    assert both.describe() == (
        "The transform subtracts a vector of norm 5 and multiplies by 0.5: λ becomes 0.5 λ and F becomes 0.25 F, "
        "a fixed bias b becomes 0.5 (b − shift), a free bias stays free."
    )
    assert Affine(shift=both.shift).describe() == (
        "The transform subtracts a vector of norm 5: λ and F stay as they are, "
        "a fixed bias b becomes b − shift, a free bias stays free."
    )
    assert Affine(shift=np.zeros(2), scale=2.0).describe() == (
        "The transform multiplies by 2: λ becomes 2 λ and F becomes 4 F, "
        "a fixed bias b becomes 2 b, a free bias stays free."
    )
    assert Affine(shift=np.zeros(2)).describe().startswith("The identity")


def test_bad_transforms():
    with rejects("scale is 0; it must be above zero"):
        Affine(shift=np.ones(2), scale=0.0)
    with rejects("scale is inf; it must be finite"):
        Affine(shift=np.ones(2), scale=np.inf)
    with rejects("shift holds 1 NaN"):
        Affine(shift=np.array([np.nan, 1.0]))
    transform = Affine(shift=np.ones(2))
    with rejects("X has dimension 3 but the transform has 2"):
        transform.apply(np.ones((2, 3)))
    with rejects("after has dimension 3 but the transform has 2"):
        transform.then(Affine(shift=np.ones(3)))
    with rejects("lam is 0; it must be above zero"):
        transform.lam(0)
    with rejects("X is zero everywhere"):
        scale_to_unit_mean_square(np.zeros((3, 2)))
    with rejects("X is zero everywhere after the shift"):
        center_and_scale(np.ones((3, 2)))
    with rejects(r"X holds 1 NaN"):
        center([[np.nan, 1.0]])


def test_result_is_accepted_like_any_data():
    moved = Affine(shift=np.ones(2)).apply([[1.0, 2.0]])
    assert isinstance(moved, Activations)
    np.testing.assert_array_equal(Activations(moved).to_numpy(), [[0, 1]])
