"""The second-order test through the public function (T5); test_curvature.py has the derivatives."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest

import cvxsae
from cvxsae import InputError, encode
from cvxsae.data import sparse_features
from cvxsae.diagnostics import second_order
from tests.helpers.interrupts import interrupt_codes


def test_a_saddle_is_left_and_a_learned_dictionary_is_a_minimum(device):
    X = np.vstack([np.eye(3)[:2], 0.5 * np.eye(3)[:2]])
    saddle = np.array([[1.0, 1.0, 0.0]])  # between two directions: a maximum along the turn
    found = second_order(X, saddle, 0.1, device=device)
    assert found.is_regular
    assert found.gradient_norm < 1e-12
    assert not found.is_positive
    assert found.least.eigenvalue < -found.least.residual
    move = found.least.direction.cpu().numpy()
    unit = saddle / np.linalg.norm(saddle)
    assert encode(X, unit + 0.1 * move, 0.1).value < found.value - 1e-4
    assert encode(X, unit - 0.1 * move, 0.1).value < found.value - 1e-4

    synthetic = sparse_features(200, 6, 8, seed=1)
    fit = cvxsae.learn_dictionary(synthetic.X, 6, 0.2, bias=None, stationarity=1e-7)
    minimum = second_order(synthetic.X, fit.dictionary, 0.2, device=device)
    assert minimum.gradient_norm < 1e-6
    assert minimum.is_positive
    assert json.dumps(minimum.to_dict())
    assert minimum.value == pytest.approx(fit.value)


def test_rows_of_any_norm_and_a_bias(rng):
    X, D, b = rng.normal(size=(40, 5)), rng.normal(size=(6, 5)), rng.normal(size=5)
    free = second_order(X, D, 0.2, bias=b, trained_bias=True, tol=1e-6)
    fixed = second_order(X - b, 3 * D, 0.2, tol=1e-6)
    assert fixed.value == pytest.approx(free.value)
    assert free.least.eigenvalue <= fixed.least.eigenvalue + 1e-6  # one more variable
    assert free.least.bias_direction is not None
    assert fixed.least.bias_direction is None
    with pytest.raises(InputError, match="trained_bias"):
        second_order(X, D, 0.2, bias="free")


def test_an_interrupt_is_not_a_curvature(rng, monkeypatch):
    """Seen: F = 2.310 where it is 1.980, because the zero codes of an interrupted encoding were believed."""
    X, D = rng.normal(size=(40, 5)), rng.normal(size=(6, 5))
    interrupt_codes(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        second_order(X, D, 0.3)


def test_limits_and_directions(rng):
    X, D = rng.normal(size=(40, 5)), rng.normal(size=(6, 5))
    short, long = second_order(X, D, 0.2, max_steps=2, tol=1e-9), second_order(X, D, 0.2, tol=1e-9)
    assert short.least.eigenvalue >= long.least.eigenvalue
    assert long.direction.shape == D.shape
    assert isinstance(long.direction, np.ndarray)
    assert long.bias_direction is None


def test_unfinished_codes_have_no_curvature(rng, monkeypatch):
    """Where time ran out before all codes were exact, F is not known: that is said, and nothing is returned."""
    module = sys.modules["cvxsae.diagnostics.second_order"]
    honest = module.exact_codes

    def unfinished(*arguments):
        codes = honest(*arguments)
        return dataclasses.replace(codes, done=np.zeros_like(codes.done))

    monkeypatch.setattr(module, "exact_codes", unfinished)
    with pytest.raises(InputError, match="max_seconds passed before 40 datapoints"):
        second_order(rng.normal(size=(40, 5)), rng.normal(size=(6, 5)), 0.2, max_seconds=1e-6)
