"""The caller's torch settings neither change an answer nor break a call, and are as they were afterwards."""

import numpy as np
import pytest
import torch

import cvxsae
from cvxsae.data.arithmetic import computes, own_arithmetic

SETTINGS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "default device": lambda: torch.device("meta"),
    "no gradients": torch.no_grad,
}

X, D = np.array([[0.5, 0.5, 1.0], [1.0, 0.0, -0.5]]), np.array([[0.6, 0.8, 0.0], [0.0, 0.6, 0.8]])


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_do_not_reach_the_torch_engine(setting):
    expected = cvxsae.encode(X, D, 0.2, tol=1e-9, engine="torch").value
    with SETTINGS[setting]():  # type: ignore[operator]
        assert cvxsae.encode(X, D, 0.2, tol=1e-9, engine="torch").value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("raised", ["under", "over", "divide", "invalid"])
def test_numpy_raises_nothing_that_is_expected(raised):
    with np.errstate(**{raised: "raise"}):  # type: ignore[arg-type]
        before = np.geterr()
        with own_arithmetic():
            assert np.array([1e-300]) ** 2 == 0
            assert np.geterr() != before
        assert np.geterr() == before


def test_methods_compute_by_themselves():
    transform = cvxsae.data.Affine(np.zeros(3), 2.0)
    problem = cvxsae.SparseCodes(X, D, 0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        assert transform.apply(X).to_numpy() == pytest.approx(2 * X)
        assert problem.lambda_max() == pytest.approx(1.1)


def test_class_methods_compute_by_themselves_too():
    """``SparseAutoencoder.from_fit`` ran under the caller's autocast."""

    @computes
    class Made:
        @classmethod
        def of(cls, value: int) -> tuple[type, bool, int]:
            return cls, torch.is_autocast_enabled("cpu"), value

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Made.of(3) == Made().of(3) == (Made, False, 3)


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_are_back_afterwards(setting):
    with SETTINGS[setting]():  # type: ignore[operator]
        before = states()
        with own_arithmetic():
            assert not torch.is_autocast_enabled("cpu")
            assert not torch.is_inference_mode_enabled()
            assert torch.empty(1).device.type == "cpu"
        with pytest.raises(ZeroDivisionError), own_arithmetic():
            _ = 1 / 0
        assert states() == before


def states():
    return (torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled(), torch.get_default_device().type)
