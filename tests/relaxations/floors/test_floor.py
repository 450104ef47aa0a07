"""Floors in files: what is read is what was written, only for the same question, and the referee has the last word."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cvxsae import InputError, JointProblem, certify, width_floor
from cvxsae.data.files import read_arrays, write_arrays
from cvxsae.floors import spectral_floor
from cvxsae.results import Floor
from tests.helpers import problems

LAM = 0.2


@pytest.fixture(scope="module")
def rows():
    return problems.gaussian(np.random.default_rng(5), 30, 4) * [1, 1, 1, 0.01]


def fields_of(floor):
    """Everything but the problem, arrays as bytes."""
    parts = [
        [value.tobytes() if isinstance(value, np.ndarray) else value for value in dataclasses.astuple(part)]
        for part in floor.parts
    ]
    return floor.value, floor.theorem, floor.fingerprint, floor.failure_probability, parts


ASKED = [
    (3, {"bias": None}, "T15"),
    (3, {"bias": "free"}, "T15"),
    (3, {"bias": None, "max_dim": 3}, "T15"),
    (5, {"bias": None}, "T14"),
    (2, {"bias": "free", "max_points": 10}, "T10"),
]
"""Width, options, and where the floor comes from."""


@pytest.mark.slow
@pytest.mark.parametrize(("width", "options", "theorem"), ASKED, ids=str)
def test_a_round_trip_keeps_every_number_and_the_referee_is_content(rows, tmp_path, width, options, theorem):
    floor = width_floor(rows, width, LAM, **options)
    assert floor.parts[0].theorem == theorem
    assert ("max_dim" in options) == (floor.parts[0].projection is not None)
    problem = JointProblem(rows, width, LAM, bias=options["bias"])
    back = Floor.load(floor.save(tmp_path / ("floor.npz" if width == 3 else "floor.safetensors")), problem)
    assert fields_of(back) == fields_of(floor)
    assert certify(back).objections == ()


def test_of_a_floor_without_kernels_or_parts(rows, tmp_path):
    bias = rows.mean(axis=0)
    floors = (
        spectral_floor(rows, 2, LAM, bias=bias),
        width_floor(rows, 2, LAM, bias=bias),
        width_floor(rows, 25, LAM, bias=bias),
    )
    assert [floor.theorem for floor in floors] == ["T10", "T10", "T9"] and not floors[0].parts
    for floor in floors:
        back = Floor.load(floor.save(tmp_path / "floor.npz"), floor.problem)
        assert back.fingerprint and floor.fingerprint in ("", back.fingerprint)
        assert fields_of(back) == fields_of(dataclasses.replace(floor, fingerprint=back.fingerprint))
        assert np.array_equal(np.asarray(back.bias), bias)
        assert certify(back).objections == ()


def test_more_than_is_proved_is_only_a_claim(rows, tmp_path):
    floor = width_floor(rows, 3, LAM, bias=None)
    path = floor.save(tmp_path / "floor.npz")
    held = dict(read_arrays(path))
    for change in ({"value": 1.01 * floor.value}, {"weights-0": 2 * held["weights-0"]}):
        write_arrays(path, {**held, **change})
        assert certify(Floor.load(path, floor.problem)).objections


def test_it_is_about_one_question(rows, tmp_path):
    path = width_floor(rows, 3, LAM, bias=None).save(tmp_path / "floor.npz")
    others = {
        "width": JointProblem(rows, 4, LAM, bias=None),
        "lam": JointProblem(rows, 3, 2 * LAM, bias=None),
        "bias": JointProblem(rows, 3, LAM, bias="free"),
        "data": JointProblem(2 * rows, 3, LAM, bias=None),
    }
    for word, problem in others.items():
        with pytest.raises(InputError, match=f"is a floor of another {word}"):
            Floor.load(path, problem)
    held = dict(read_arrays(path))
    for missing in ("value", "part_values", "rows-0", "fingerprint"):
        write_arrays(path, {name: array for name, array in held.items() if name != missing})
        with pytest.raises(InputError, match=r"holds no floor; pass a file that Floor\.save wrote"):
            Floor.load(path, others["width"])
