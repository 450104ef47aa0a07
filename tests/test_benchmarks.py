"""The harness of the benchmarks: machines side by side, whole files, one sentence for what is no file of results."""

from __future__ import annotations

import importlib
import json
import sys
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch

from benchmarks import codes_gpu, gpu, harness
from benchmarks.harness import Store, between, interleaved, key_of, kind_of, parser, run, table
from cvxsae.errors import InputError
from cvxsae.parallel.machine import LIMITING

HERE = {"device": "a processor", "kind": harness.PLAIN, "processor": "a processor", "threads": 1}
THERE = {"device": "another", "kind": harness.MATRIX_UNITS, "processor": "another", "threads": 2}


def tables(cells, machine):
    rows = [[name, f"{cell['passes']:.1f}", machine["kind"]] for name, cell in cells.items()]
    return {"problems": table(["problem", "passes", "kind"], rows)}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "codes.json"


def test_a_run_replaces_its_own_cells_and_keeps_other_machines(file):
    for machine, name, passes in (
        (THERE, "large", 3.0), (HERE, "large", 5.0), (HERE, "small", 4.0), (HERE, "large", 6.0),
    ):  # fmt: skip
        Store(file, tables, machine).add(name, {"passes": passes}, order=["small", "large"])
    machines = json.loads(file.read_text())["machines"]
    assert list(machines) == ["another (AMX), 2 threads", "a processor (no bf16 products), 1 thread"]
    other, own = machines.values()
    assert other["tables"]["problems"]["rows"] == [["large", "3.0", "AMX"]]
    assert own["tables"]["problems"]["rows"] == [
        ["small", "4.0", "no bf16 products"],
        ["large", "6.0", "no bf16 products"],
    ]
    assert set(own["cells"]["large"]["made"]) == {"command", "date", "commit", "load", "torch"}
    assert [path.name for path in file.parent.iterdir()] == ["codes.json"]  # nothing half written is left


def test_a_cell_written_meanwhile_by_another_process_stays(file):
    first, second = Store(file, tables, HERE), Store(file, tables, HERE)
    first.add("large", {"passes": 1.0})
    second.add("small", {"passes": 2.0})
    assert set(first.cells) == {"large", "small"}


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"machines": [1]}', '{"machines": {"a": {"cells": {}}}}', "{"])
def test_a_foreign_or_broken_file_gives_a_sentence_and_stays(file, content, capsys):
    file.write_text(content)
    with pytest.raises(InputError, match=r"is not a file of benchmark results .* --results\.$"):
        Store(file, tables, HERE)
    given = parser("").parse_args(["--results", str(file.parent)])
    assert run("codes", {"large": lambda: {"passes": 1.0}}, tables, given) == 2
    told = capsys.readouterr()
    assert told.err.startswith("codes: ")
    assert told.err.count("\n") == 1
    assert file.read_text() == content


def test_only_chooses_cells_and_a_wrong_one_names_the_closest(tmp_path, capsys):
    done: list[str] = []

    def measure(name):
        done.append(name)
        return {"passes": 1.0}

    cells = {name: partial(measure, name) for name in ("256 x 4096", "256 x 16384")}
    folder = ["--results", str(tmp_path)]
    assert run("codes", cells, tables, parser("").parse_args([*folder, "--only", "x 4096"])) == 0
    assert run("codes", cells, tables, parser("").parse_args([*folder, "--resume"])) == 0
    assert done == ["256 x 4096", "256 x 16384"]
    assert run("codes", cells, tables, parser("").parse_args([*folder, "--only", "768"])) == 2
    assert "no cell contains '768'; --list names all 2, of which the closest are" in capsys.readouterr().err


def test_a_wrong_text_among_many_cells_is_answered_with_three_of_them(capsys):
    parts, kinds, sizes = ("few", "many"), ("random", "wordllama"), (250, 500, 1000, 2000)
    names = [f"{part}: data {kind}, n {n}" for part, kind, n in product(parts, kinds, sizes)]
    cells = dict.fromkeys(names, lambda: pytest.fail("no cell is to be measured"))
    assert run("codes", cells, tables, parser("").parse_args(["--quick", "--only", "wordlama, n 500"])) == 2
    told = capsys.readouterr().err
    named = [name for name in names if repr(name) in told]
    assert len(named) == 3
    assert {"few: data wordllama, n 500", "many: data wordllama, n 500"} < set(named)
    assert "--list names all 16" in told
    assert run("codes", cells, tables, parser("").parse_args(["--quick", "--list"])) == 0
    assert capsys.readouterr().out.splitlines() == names
    assert run("codes", cells, tables, parser("").parse_args(["--quick", "--list", "--only", "many"])) == 0
    assert capsys.readouterr().out.splitlines() == [name for name in names if "many" in name]


def test_quick_keeps_nothing_unless_told_where(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "kept")
    cells = {"tiny": lambda: {"passes": 1.0}}
    assert run("codes", cells, tables, parser("").parse_args(["--quick"])) == 0
    assert not (tmp_path / "kept").exists()
    assert "tiny     1.0" in capsys.readouterr().out
    assert run("codes", cells, tables, parser("").parse_args(["--quick", "--results", str(tmp_path / "there")])) == 0
    assert (tmp_path / "there" / "codes.json").exists()


def test_tables_are_made_again_from_what_is_on_file(tmp_path, file):
    for machine in (HERE, THERE):
        Store(file, tables, machine).add("large", {"passes": 3.0})

    def others(cells, machine):
        return {"few": table(["problem"], [[name] for name in cells])}

    given = parser("").parse_args(["--results", str(tmp_path), "--tables"])
    assert run("codes", {}, others, given) == 0
    assert [list(entry["tables"]) for entry in json.loads(file.read_text())["machines"].values()] == [["few"]] * 2


def test_a_limited_processor_is_named_as_one(monkeypatch):
    """Libraries that are kept from instruction sets say nothing about the processor that has them."""
    for name in LIMITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_features", lambda: {"avx2": True, "avx512bf16": True})
    whole = harness.this_machine()
    assert whole["kind"] == harness.DOT_PRODUCTS
    for name, value in harness.AVX2.items():
        monkeypatch.setenv(name, value)
    found = harness.this_machine()
    assert found["kind"] == harness.PLAIN
    assert found["instruction_sets"] == ["avx2"]
    assert key_of(found) == key_of(whole).replace(f" ({whole['kind']})", f", limited to AVX2 ({found['kind']})")
    monkeypatch.delenv("NUMBA_CPU_FEATURES")
    with pytest.raises(InputError, match="limit instruction sets"):
        harness.this_machine()


def test_machines_are_named_by_device_kind_and_threads():
    assert kind_of(["avx512f", "avx512bf16", "amx-bf16"]) == harness.MATRIX_UNITS
    assert kind_of(["avx512f", "avx512bf16"]) == kind_of(["neon", "bf16"]) == harness.DOT_PRODUCTS
    assert kind_of(["avx2"]) == harness.PLAIN
    assert key_of({"device": "A GPU", "kind": "GPU", "threads": 16}) == "A GPU"
    machine = harness.this_machine()
    assert machine["processor"] in key_of(machine)
    assert {"instruction_sets", "versions", "threads", "memory_gib"} <= set(machine)


def test_methods_take_turns():
    order: list[str] = []

    def call(name):
        order.append(name)
        return len(order)

    turns = interleaved({"a": partial(call, "a"), "b": partial(call, "b")}, 3)
    assert order == ["a", "b"] * 3
    assert turns["b"].results == [2, 4, 6]
    assert turns["a"].seconds == sorted(turns["a"].wall)[1]
    assert between([3.24, 12.06]) == "3.2 to 12.1"
    assert between([2.0, 2.01]) == "2.0"


def test_a_command_is_kept_without_what_chooses_cells(monkeypatch):
    words = ["benchmarks/codes.py", "--only", "256 x 4096", "large", "--repeats", "5", "--results=there", "--resume"]
    monkeypatch.setattr(sys, "argv", words)
    assert harness.command() == "python -m benchmarks.codes --repeats 5"


@pytest.mark.slow
def test_everything_for_a_gpu_runs_on_a_cpu(tmp_path):
    assert gpu.main(["--quick", "--device", "cpu", "--results", str(tmp_path)]) == 0
    (entry,) = json.loads((tmp_path / "gpu.json").read_text())["machines"].values()
    assert set(entry["tables"]) == {"codes", "dictionary", "large", "floor"}
    methods = next(iter(entry["cells"].values()))["result"]["methods"]
    assert methods["encode, torch"]["gap"] <= 1e-6
    assert {"encoder pass, tf32", "encoder pass, bf16", "FISTA, torch", "coordinate descent, torch"} <= set(methods)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_a_sentence(capsys):
    with pytest.raises(SystemExit):
        gpu.main([])
    assert capsys.readouterr().err.endswith(
        "error: no CUDA device was found; --device cpu --quick shows that this program runs\n"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_measures_nothing_needs_no_gpu(tmp_path, capsys):
    assert gpu.main(["--list", "--results", str(tmp_path)]) == 0
    assert "codes" in capsys.readouterr().out
    assert gpu.main(["--tables", "--results", str(tmp_path)]) == 0


def test_peers_in_plain_torch_find_the_codes():
    X, D = codes_gpu.problem(8, 20, 40, torch.device("cpu"))
    for make in codes_gpu.PEERS.values():
        gap = codes_gpu.until(make(X, D, 0.3), partial(codes_gpu.dense_gap, X, D, 0.3), 60.0)
        assert gap <= codes_gpu.PEER_TOL
    assert codes_gpu.dense_gap(X, D, 0.3, torch.zeros(40, 20)) > 0.1


def test_a_cell_that_fails_costs_the_others_nothing(tmp_path, capsys):
    def fail():
        raise MemoryError("no memory left")

    cells = {"large": fail, "small": lambda: {"passes": 1.0}}
    assert run("codes", cells, tables, parser("").parse_args(["--results", str(tmp_path)])) == 1
    assert list(json.loads((tmp_path / "codes.json").read_text())["machines"].popitem()[1]["cells"]) == ["small"]
    assert "large: failed" in capsys.readouterr().out


OTHERS = {"__init__", "codes_gpu", "data", "harness", "large_dictionary_table", "population_upper"}
SCRIPTS = sorted({file.stem for file in Path(harness.__file__).parent.glob("*.py")} - OTHERS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_have_the_same_options_and_their_files_have_the_tables_they_make(name, capsys, monkeypatch):
    script = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit):
        script.main()
    said = capsys.readouterr().out
    assert all(option in said for option in ("--quick", "--only", "--results", "--resume", "--tables"))
    for entry in harness.read(harness.RESULTS / f"{name}.json").values():
        made = script.tables(harness.results_of(entry), entry["machine"])
        assert json.loads(json.dumps(made)) == entry["tables"], f"run python -m benchmarks.{name} --tables"
