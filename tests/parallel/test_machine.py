"""What is said of the machine is plain, complete, and does not change what runs."""

from __future__ import annotations

import json
import os

import torch

from cvxsae.parallel.machine import INSTRUCTION_SETS, describe, in_words, instruction_sets, processor


def test_a_machine_is_described_in_plain_values():
    found = describe()
    assert json.loads(json.dumps(found)) == found
    assert found["processor"]
    assert found["cores"] == (os.cpu_count() or 1)
    assert found["threads"] == torch.get_num_threads()
    assert found["versions"]["torch"] == torch.__version__


def test_only_instruction_sets_that_matter_are_named(monkeypatch):
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_features", lambda: {"avx2": True, "sse": True, "sve": False})
    assert instruction_sets() == ["avx2"]
    assert "avx512bf16" in INSTRUCTION_SETS


def test_a_machine_in_words():
    words = in_words()
    assert processor() in words
    assert f"torch {torch.__version__}" in words
    assert all(name in words for name in instruction_sets())
