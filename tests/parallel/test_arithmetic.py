"""The caller's torch settings neither change an answer nor break a call, and are as they were afterwards."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

import cvxsae
from cvxsae.parallel.arithmetic import own_arithmetic

rng = np.random.default_rng(0)
X, D = rng.standard_normal((40, 6)), rng.standard_normal((12, 6))

SETTINGS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "default device": lambda: torch.device("meta"),
    "no gradients": torch.no_grad,
}

CALLS = {
    "encode": lambda: cvxsae.encode(X, D, 0.2, tol=1e-9).value,
    "torch engine": lambda: cvxsae.encode(X, D, 0.2, tol=1e-9, engine="torch").value,
    "code_path": lambda: cvxsae.code_path(X, D, 3)[-1].value,
    "lambda_max": lambda: cvxsae.lambda_max(X, D),
    "lambda_for_l0": lambda: cvxsae.lambda_for_l0(X, D, 3.0),
    "learn_dictionary": lambda: cvxsae.learn_dictionary(X, 5, 0.2, max_steps=10).value,
    "solve": lambda: cvxsae.solve(cvxsae.WideLimit(X, 0.2)).value,
}


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("call", CALLS)
def test_settings_do_not_reach_the_arithmetic(call, setting):
    if (call, setting) == ("solve", "default device"):
        pytest.skip("the problem itself is made outside of a verb")
    with nullcontext():
        expected = CALLS[call]()
    with SETTINGS[setting]():  # type: ignore[operator]
        found = CALLS[call]()
    assert found == pytest.approx(expected, rel=1e-12)


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
