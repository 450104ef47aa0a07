"""A few of the faults that ``python -m tests.faults`` tries by the hundred, and that it would see what must not be."""

import subprocess
import sys

import numpy as np
import pytest

from tests.faults.stores import differences

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")


def tried(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.faults", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_sample_of_faults():
    done = tried("--count", "16", "--seed", "3", "--stores", "encode,large_path")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 fine, 0 wrong" in done.stdout


@pytest.mark.slow
def test_a_store_that_believes_what_it_finds_is_caught():
    done = tried("--count", "22", "--seed", "3", "--stores", "gullible")
    assert done.returncode == 1
    assert "WRONG" in done.stdout


@pytest.mark.slow
def test_nothing_tried_is_no_success():
    assert tried("--stores", "none").returncode == 1


def test_differences():
    numbers = {"ended": "CERTIFIED", "value": 1.0, "values": np.arange(4.0), "codes": np.eye(3), "nothing": np.nan}
    assert differences(numbers, dict(numbers), 1e-6) == []
    for name, other in (
        ("ended", "STALLED"),
        ("value", 1.0 + 1e-5),
        ("values", np.arange(5.0)),
        ("values", np.array([0.0, 1.0, 2.0, np.nan])),
        ("codes", 1.01 * np.eye(3)),
        ("nothing", 0.0),
    ):
        assert len(differences(numbers, {**numbers, name: other}, 1e-6)) == 1, name
