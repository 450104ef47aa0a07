"""Running a study: resumed where it was, whoever killed it; nothing computed twice or lost, nobody else let in."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import joblib
import numpy as np
import pandas as pd
import pytest

from cvxsae import ScaleStudy
from cvxsae.data.storage import Folder
from cvxsae.errors import InputError
from cvxsae.study import registry
from cvxsae.study import run as runner
from cvxsae.study.store import Store
from tests.helpers.sentences import rejects

STABLE = [
    "cell",
    "method",
    "n_atoms",
    "lam",
    "status",
    "value",
    "lower_bound",
    "floor",
    "l0",
    "live_atoms",
    "warm_from",
]


def toy(folder, **changes):
    axes = {
        "data": ["toy"], "n_points": [60], "n_atoms": [2, 4], "lam": [0.2, 0.4], "bias": ["none"],
        "methods": ["wide_limit", "spectral_floor", "learned"],
        "sources": {"toy": {"source": "sparse_features", "dim": 5, "n_features": 7}},
        "options": {"learned": {"max_steps": 40}},
    }  # fmt: skip
    return ScaleStudy(folder=folder, **{**axes, **changes})


def same(one, other):
    pd.testing.assert_frame_equal(one[STABLE], other[STABLE], rtol=1e-8)


@pytest.fixture
def solves(monkeypatch):
    """The cells that are really computed, in order."""
    computed = []

    def counted(cell):
        computed.append(cell)
        return registry.compute(cell)

    monkeypatch.setattr(runner, "compute", counted)
    return computed


@pytest.mark.slow
def test_nothing_is_computed_twice_and_a_changed_grid_uses_what_applies(tmp_path, solves):
    study = toy(tmp_path / "out")
    table = study.run()
    assert len(solves) == len(study.plan()) == len(table) == 2 + 4 + 4
    same(study.run(), table)
    assert len(solves) == 10
    wider = toy(tmp_path / "out", n_atoms=[2, 4, 8], lam=[0.2], methods=["wide_limit", "learned"])
    found = wider.run()
    assert [(cell.method, cell.n_atoms) for cell in solves[10:]] == [("learned", 8)]
    assert (
        found.set_index("n_atoms").loc[8, "warm_from"]
        == table[(table["n_atoms"] == 4) & (table["lam"] == 0.2) & (table["method"] == "learned")]["cell"].item()
    )
    toy(tmp_path / "out", options={"learned": {"max_steps": 41}}).run()
    assert len(solves) == 15  # other options: the dictionaries again, the floors not
    same(study.run(), table)
    assert len(solves) == 15


@pytest.mark.slow
def test_warm_starts_are_recorded_and_never_end_above_where_they_began(tmp_path):
    table = toy(tmp_path / "out").run()
    learned = table[table["method"] == "learned"].set_index(["n_atoms", "lam"])
    assert pd.isna(learned.loc[(2, 0.4), "warm_from"])
    assert learned.loc[(2, 0.2), "warm_from"] == learned.loc[(2, 0.4), "cell"]
    assert learned.loc[(4, 0.2), "warm_from"] == learned.loc[(2, 0.2), "cell"]
    assert learned.loc[(4, 0.2), "value"] <= learned.loc[(2, 0.2), "value"] * (1 + 1e-9)
    cold = toy(tmp_path / "cold", options={"learned": {"max_steps": 40, "warm": ["none"]}}).run()
    assert cold["warm_from"].isna().all()


def failing(monkeypatch, wrong):
    def compute(cell):
        if wrong(cell):
            raise RuntimeError("the disk caught fire. And more.")
        return registry.compute(cell)

    monkeypatch.setattr(runner, "compute", compute)


@pytest.mark.slow
def test_a_failed_cell_is_recorded_stops_nothing_and_is_tried_again_on_request(tmp_path, monkeypatch, solves):
    study = toy(tmp_path / "out", lam=[0.2], n_atoms=[2, 4, 8], methods=["wide_limit", "learned", "check"])
    with monkeypatch.context() as patch:
        failing(patch, lambda cell: cell.method == "learned" and cell.n_atoms == 4)
        table = study.run()
    failed = table[table["status"] == "failed"].set_index("method")
    assert failed.loc["learned", "reason"] == "RuntimeError: the disk caught fire"
    assert "the cell it needs failed (RuntimeError: the disk caught fire)" in failed.loc["check", "reason"]
    assert len(failed) == 2 and not failed["certified"].any()
    child = table[(table["method"] == "learned") & (table["n_atoms"] == 8)].iloc[0]
    assert child["status"] == "done" and pd.isna(child["warm_from"])
    assert child["note"].startswith("cold start, as cell")
    status = study.status()
    assert (status.total("done"), status.total("failed"), status.total("missing")) == (5, 2, 0)
    assert "the disk caught fire" in str(status) and "2 failed" in study.summary()
    same(study.run(), table)  # without being asked to, nothing is tried again
    assert not solves
    again = study.run(retry_failed=True)
    assert (again["status"] == "done").all() and again["reason"].isna().all()
    assert [(cell.method, cell.n_atoms) for cell in solves] == [("learned", 4), ("check", 4)]


@pytest.mark.slow
def test_a_target_l0_is_met_where_learning_and_solving_in_turns_runs_away(tmp_path):
    """On these digits each λ solved for overshot the one before (L0 of 1 and less), six times over."""
    study = toy(
        tmp_path / "out", lam=(), target_l0=[2.0], n_atoms=[4], n_points=[150], methods=["wide_limit"],
        options={"calibrate": {"max_steps": 60}},
        sources={"toy": {"source": "digits", "center": True, "scale": "mean_norm"}},
    )  # fmt: skip
    found = study.run().set_index("method").loc["calibrate"]
    assert found["status"] == "done"
    assert found["l0"] == pytest.approx(2.0, rel=0.05)


@pytest.mark.slow
def test_a_target_l0_is_met_at_the_width_of_calibration_and_what_cannot_be_met_fails_alone(tmp_path):
    study = toy(
        tmp_path / "out", lam=(), target_l0=[1.0, 50.0], n_atoms=[8], methods=["wide_limit", "learned", "check"],
        options={"learned": {"max_steps": 40}, "calibrate": {"max_steps": 40}},
        sources={"toy": {"source": "sparse_features", "dim": 5, "n_features": 7, "probability": 0.4}},
    )  # fmt: skip
    table = study.run()
    met = table[table["target_l0"] == 1.0].set_index("method")
    assert (met["status"] == "done").all()
    assert met.loc["calibrate", "l0"] == pytest.approx(1.0, rel=0.05)
    assert met["lam"].nunique() == 1 and met["lam"].iloc[0] > 0
    assert met.loc["learned", "floor"] == met.loc["wide_limit", "lower_bound"]
    unmet = table[table["target_l0"] == 50.0].set_index("method")
    assert (unmet["status"] == "failed").all()
    assert unmet.loc["calibrate", "reason"].startswith("InputError: l0 is 50 active atoms")
    assert "the cell it needs failed" in unmet.loc["learned", "reason"] and unmet["warm_from"].isna().all()
    assert unmet.loc["check", "reason"] == unmet.loc["learned", "reason"]  # said once, not once for each step


def test_a_worker_that_dies_takes_nobody_along(tmp_path, monkeypatch):
    """The engine gives up the whole batch: its cells are tried one by one, and only the one that kills fails."""
    parallel = runner._parallel

    def deadly(tasks, n_jobs):
        if any(task.cell.n_atoms == 2 and task.cell.method == "learned" for task in tasks):
            yield from parallel(tasks[:1] if len(tasks) > 1 else [], 1)
            raise RuntimeError("A worker process was killed. Perhaps memory.")
        yield from parallel(tasks, 1)

    monkeypatch.setattr(runner, "_parallel", deadly)
    study = toy(tmp_path / "out", lam=[0.2])
    table = study.run()
    failed = table[table["status"] == "failed"]
    assert list(failed["method"]) == ["learned"] and list(failed["n_atoms"]) == [2]
    assert failed["reason"].item() == "RuntimeError: A worker process was killed (also when tried alone)."
    assert len(table) == len(study.plan()) == 5
    assert table["note"].notna().sum() == 1  # the wider dictionary had to start cold


@pytest.mark.slow
def test_an_interrupted_cell_is_not_kept_and_the_table_is_written(tmp_path, monkeypatch):
    study = toy(tmp_path / "out")

    def interrupted(cell):
        if cell.method == "learned":
            raise KeyboardInterrupt
        return registry.compute(cell)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "compute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            study.run()
    status = study.status()
    assert (
        status.counts["learned"] == {"done": 0, "failed": 0, "missing": 4} and status.counts["wide_limit"]["done"] >= 1
    )
    assert status.seconds_left is not None and "time left" in str(status)
    assert len(pd.read_parquet(study.folder / "table.parquet")) == status.total("done")
    assert study.run()["status"].eq("done").all()
    assert study.status().seconds_left == 0


@pytest.mark.slow
def test_a_second_process_is_refused_and_a_dead_one_is_not_waited_for(tmp_path):
    study = toy(tmp_path / "out", methods=["wide_limit"], n_atoms=[])
    script = (
        "import sys, time\nfrom cvxsae.study.store import Store\n"
        "with Store(sys.argv[1]).locked():\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(study.folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with rejects(rf"folder '.*cells' is in use by process {holder.pid} on .* since .*; wait for it or stop it"):
            study.run()
        assert not (study.folder / "study.json").exists()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    (study.folder / "cells" / ".0123456789abcdef.partial").write_text("{")
    assert len(study.run()) == 2
    assert not list(study.folder.rglob("*.partial"))
    with Store(study.folder).locked(), rejects(rf"folder '.*cells' is in use by process {os.getpid()} on"):
        study.run()


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with rejects(r"folder '.*' holds 'thesis\.tex' and no study; pass another"):
        toy(tmp_path).run()
    with rejects(r"folder '.*thesis\.tex' is a file; pass a folder"):
        toy(tmp_path / "thesis.tex").run()
    with rejects(r"folder '.*' cannot be made, as '.*thesis\.tex' is a file"):
        toy(tmp_path / "thesis.tex" / "below").run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.tex"]
    with rejects("folder '.*' holds no study"):
        Store(tmp_path).read_plan()
    (tmp_path / "other").mkdir()
    for content in ("not JSON", "[]", '{"study": "of spiders"}'):
        (tmp_path / "other" / "study.json").write_text(content)
        with rejects(r"folder '.*other' holds a 'study\.json' that no study wrote; pass another"):
            toy(tmp_path / "other").run()
        assert (tmp_path / "other" / "study.json").read_text() == content
    with rejects("folder '.*' cannot be written .*; make room or pass another"):
        toy(tmp_path / ("long" * 100)).run()
    with rejects("n_jobs is 0; pass a number of cells"):
        toy(tmp_path / "new").run(n_jobs=0)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_what_had_ended_is_kept(tmp_path, monkeypatch):
    study = toy(tmp_path / "out", lam=[0.2])

    def full(self, key, record, arrays):
        if len(self.keys()) >= 2:
            raise InputError(
                f"folder '{self.file(key)}' cannot be written (No space left on device); make room."
            ) from None
        write(self, key, record, arrays)

    write = Folder.write
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", full)
        patch.setattr(runner, "_parallel", lambda tasks, _: (runner.run_cell(task) for task in tasks))
        with rejects(r"folder '.*\.npz' cannot be written \(No space left on device\); make room"):
            study.run()
    assert study.status().total("done") == 2 and study.status().total("failed") == 0
    assert study.run()["status"].eq("done").all()


@pytest.mark.slow
def test_a_dictionary_that_cannot_be_read_is_learned_again_before_a_wider_one_starts_from_it(tmp_path):
    study = toy(tmp_path / "out", lam=[0.2], methods=["learned"])
    table = study.run()
    narrow, wide = table["cell"]
    (study.folder / "cells" / f"{narrow}.npz").write_bytes(b"PK half of it")
    (study.folder / "cells" / f"{wide}.npz").unlink()
    again = study.run().set_index("cell").loc[wide]
    assert again["status"] == "done" and again["warm_from"] == narrow
    same(study.table(), table)


def test_data_that_differ_where_a_cell_runs_are_refused(tmp_path):
    np.save(tmp_path / "X.npy", np.random.default_rng(0).normal(size=(60, 5)))
    study = toy(
        tmp_path / "out",
        data=["X"],
        sources={"X": {"source": str(tmp_path / "X.npy")}},
        methods=["wide_limit"],
        n_atoms=[],
    )
    cell = study.plan()[0]
    with Store(study.folder).locked() as token:
        task = runner.Task(cell, str(study.folder), token, 1, lam=0.2)
        good = runner.run_cell(task)
        wrong = runner.run_cell(
            runner.Task(dataclasses.replace(cell, data_hash="0" * 64), str(study.folder), token, 1, lam=0.2)
        )
    assert good["status"] == "done" and "arrays" not in good
    assert wrong["status"] == "failed" and "differ here from those" in wrong["reason"]


def test_a_file_that_changes_or_is_renamed_is_known_by_its_rows(tmp_path, solves):
    file = tmp_path / "X.npy"

    def run(source):
        return toy(
            tmp_path / "out", data=["X"], n_points=[], n_atoms=[], lam=[0.2], methods=["wide_limit"],
            sources={"X": {"source": str(source)}},
        ).run()  # fmt: skip

    np.save(file, np.random.default_rng(0).normal(size=(20, 3)))
    first = run(file)
    np.save(file, np.random.default_rng(1).normal(size=(20, 3)))  # by the same process, which has read it before
    changed = run(file)
    assert len(solves) == 2 and changed["data_hash"].item() != first["data_hash"].item()
    np.save(tmp_path / "renamed.npy", np.random.default_rng(0).normal(size=(20, 3)))
    assert run(tmp_path / "renamed.npy")["value"].item() == first["value"].item()
    assert len(solves) == 2


@pytest.mark.slow
def test_where_the_folder_is_not_seen_the_driver_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "is_held_with", lambda *_: False)
    study = toy(tmp_path / "out")
    table = study.run()
    assert (table["status"] == "done").all() and table["warm_from"].notna().sum() == 3
    same(study.table(), table)


@pytest.mark.slow
def test_what_is_written_is_strict_json_and_atomic(tmp_path):
    study = toy(tmp_path / "out")
    study.run()
    for file in study.folder.rglob("*.json"):
        json.loads(file.read_text(), parse_constant=pytest.fail)
    assert not list(study.folder.rglob("*.partial"))


@pytest.mark.slow
def test_processes_and_dask_give_the_table_of_one_process(tmp_path):
    """Two local processes; then the same study on a cluster of two workers."""
    pytest.importorskip("distributed")
    from distributed import Client, LocalCluster

    expected = toy(tmp_path / "one").run()
    same(toy(tmp_path / "two").run(n_jobs=2), expected)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
        joblib.parallel_config("dask"),
    ):
        found = toy(tmp_path / "dask").run()
    same(found, expected)


@pytest.mark.slow
def test_kill_9_at_random_moments_loses_at_most_the_cells_in_flight(tmp_path):
    """Five times over; each run is forked from a server that has imported the package."""
    axes = {"n_points": [200], "n_atoms": [2, 3, 4, 6], "lam": [0.1, 0.2, 0.3], "methods": ["wide_limit", "learned"]}
    study, undisturbed = toy(tmp_path / "killed", **axes), toy(tmp_path / "whole", **axes).run()
    assert len(undisturbed) == 3 + 12
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cvxsae.study.run", "cvxsae"])
    rng = np.random.default_rng()  # random moments are the point
    ended: set[str] = set()
    cells = study.folder / "cells"
    for _ in range(5):
        process = context.Process(target=study.run)
        process.start()
        deadline = time.monotonic() + 60
        before = len(ended)
        while process.is_alive() and len(list(cells.glob("*.npz"))) <= before and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        process.join()
        now = {file.stem for file in cells.glob("*.npz")}
        assert ended <= now, "a cell that had ended is gone"
        assert all(Store(study.folder).record(cell) is not None for cell in now), "a record is half written"
        ended = now
    assert len(ended) >= 5
    kept = {cell: (cells / f"{cell}.npz").stat().st_mtime_ns for cell in ended}
    same(study.run(), undisturbed)
    assert kept == {cell: (cells / f"{cell}.npz").stat().st_mtime_ns for cell in ended}, "a cell was computed again"


@pytest.mark.slow
def test_nothing_of_the_caller_is_changed(tmp_path):
    """A study left torch with two threads where one was set."""
    script = (
        "import sys\nimport numpy as np\nimport torch\nfrom cvxsae import ScaleStudy\n"
        "torch.set_num_threads(1)\n"
        "X = np.random.default_rng(0).normal(size=(40, 3))\n"
        "before = X.copy()\n"
        "torch.manual_seed(7)\nstate = torch.random.get_rng_state().tolist()\n"
        "methods = ['wide_limit', 'width_floor', 'learned', 'trained_sae', 'check']\n"
        "study = ScaleStudy(folder=sys.argv[1], data=X, n_atoms=[2], lam=[0.4], methods=methods,"
        " options={'trained_sae': {'steps': 5}, 'learned': {'max_steps': 5}})\n"
        "assert (study.run(threads=2)['status'] == 'done').all()\n"
        "assert torch.get_num_threads() == 1, torch.get_num_threads()\n"
        "assert torch.random.get_rng_state().tolist() == state\n"
        "assert np.array_equal(X, before) and torch.get_default_dtype() == torch.float32\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], check=True)


@pytest.mark.slow
def test_a_damaged_cell_is_computed_again_and_a_foreign_one_never_believed(tmp_path, solves):
    study = toy(tmp_path / "out", lam=[0.2])
    table = study.run()
    first, second = (study.folder / "cells" / f"{cell}.npz" for cell in table["cell"].iloc[1:3])
    other = toy(tmp_path / "other", lam=[0.2], options={"learned": {"max_steps": 1}}).run()
    assert len(solves) == 5 + 5
    whole = first.read_bytes()
    for content in (
        b"",
        whole[: len(whole) // 2],
        second.read_bytes(),
        (tmp_path / "other" / "cells" / f"{other['cell'].iloc[-1]}.npz").read_bytes(),
    ):
        before = len(solves)
        first.write_bytes(content)
        assert study.status().total("missing") == 1
        same(study.run(), table)
        assert len(solves) == before + 1


@pytest.mark.slow
def test_an_array_reaches_the_cells_and_one_that_changes_is_noticed(tmp_path, rng):
    X = rng.normal(size=(40, 3))
    axes = {"sources": {}, "n_points": [], "lam": [0.4]}
    table = toy(tmp_path / "out", data={"mine": X}, **axes).run(n_jobs=2)
    assert (table["status"] == "done").all() and set(table["data"]) == {"mine"}
    np.save(tmp_path / "X.npy", X)
    same(toy(tmp_path / "file", data=[str(tmp_path / "X.npy")], **axes).run(), table)
    study = toy(tmp_path / "changed", data={"mine": X}, **axes)
    cell = study.plan()[0]
    X[0, 0] += 1
    with Store(study.folder).locked() as token:
        record = runner.run_cell(runner.Task(cell, str(study.folder), token, 1, lam=0.4, arrays=study.arrays))
    assert record["status"] == "failed" and "changed in place" in record["reason"]
