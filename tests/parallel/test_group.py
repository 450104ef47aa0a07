"""Two processes against one: the same numbers, through the same referee; what differs or fails is said in both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from filelock import FileLock

from cvxsae import InputError, SparseCodes, WideLimit, certify, encode, grow, learn_dictionary, process_group
from cvxsae import solve as solve_typed
from cvxsae.parallel.group import ProcessGroup
from cvxsae.results import Candidate
from tests.helpers.problems import primal, solve, unit
from tests.parallel.two_processes import HALF, LAM, LEARNED, PENALTY, WIDTH, data, learn, points, starts

pytestmark = pytest.mark.slow

X, ATOMS = data()


class Launch:
    """What both processes reported; they are started once, however many workers of pytest-xdist ask for it."""

    def __init__(self, folder: Path) -> None:
        self.folder, ended = folder, folder / "ended.json"
        with FileLock(f"{folder}.lock"):
            if not ended.exists():
                ended.parent.mkdir(exist_ok=True)
                ended.write_text(json.dumps(self._ended(folder)))
        self.code, self.errors = json.loads(ended.read_text())
        try:
            self.arrays = [dict(np.load(folder / f"rank-{rank}.npz")) for rank in range(2)]
            self.sentences = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
        except OSError:
            pytest.fail(f"the processes did not get to their end:\n{self.errors[-4000:]}")

    @staticmethod
    def _ended(folder: Path) -> tuple[int, str]:
        program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        done = subprocess.run(
            [*program, "-m", "tests.parallel.two_processes", str(folder)],
            timeout=1800,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
        )
        return done.returncode, done.stderr

    def same(self, name):
        """A number or array that both hold, exactly."""
        first, second = (arrays[name] for arrays in self.arrays)
        np.testing.assert_array_equal(first, second)
        return first if first.ndim else float(first)

    def rows(self, name):
        """Rows of the whole, by rank."""
        return np.concatenate([arrays[name] for arrays in self.arrays])

    def said(self, name):
        return [sentences[name] for sentences in self.sentences]


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    own = tmp_path_factory.getbasetemp()
    return Launch((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "two-processes")


# ---------------------------------------------------------------- codes


def test_codes_of_two_processes_are_those_of_one_and_the_referee_agrees(launch):
    one = encode(X, ATOMS, LAM, bias=X[0], tol=1e-8)
    np.testing.assert_array_equal(launch.rows("rows"), X)
    np.testing.assert_allclose(launch.rows("encode_codes"), one.codes.toarray(), atol=1e-6)
    assert launch.same("encode_value") == pytest.approx(one.value, rel=1e-12)
    assert launch.same("encode_lower_bound") == pytest.approx(one.lower_bound, rel=1e-9)
    assert launch.same("encode_largest_gap") == launch.rows("encode_gaps").max() <= 1e-8
    assert (launch.same("encode_n_points"), launch.same("encode_l0")) == (len(X), pytest.approx(one.l0))
    assert launch.said("encode_status") == ["CERTIFIED"] * 2
    problem = SparseCodes(X, ATOMS, LAM, bias=X[0])
    found = Candidate(bias=X[0], dictionary=unit(ATOMS), codes=sp.csr_array(launch.rows("encode_codes")))
    certificate = certify(problem, found, tol=1e-8)
    assert certificate.objections == ()
    assert certificate.value == pytest.approx(launch.same("encode_value"), rel=1e-12)


def test_the_referee_objects_to_one_spoiled_row_of_one_process(launch):
    codes = launch.rows("encode_codes")
    codes[-1] *= 2
    found = Candidate(bias=X[0], dictionary=unit(ATOMS), codes=sp.csr_array(codes))
    assert certify(SparseCodes(X, ATOMS, LAM, bias=X[0]), found, tol=1e-8).objections


def test_each_process_writes_its_blocks_to_a_folder_of_its_own(launch):
    np.testing.assert_array_equal(launch.rows("encode_out"), launch.rows("encode_codes"))
    folders = sorted(path.name for path in (launch.folder / "blocks").iterdir())
    assert folders == ["process-0-of-2", "process-1-of-2"]


# ---------------------------------------------------------------- the wide limit


@pytest.mark.parametrize(("name", "bias"), [("free", "free"), ("zero", None)])
def test_the_wide_limit_of_two_processes_is_certified_for_all_rows(launch, name, bias):
    problem = WideLimit(X, PENALTY, bias=bias)
    one = solve(problem, tol=1e-9)
    assert launch.same(f"wide_{name}_value") == pytest.approx(one.value, rel=1e-9)
    found = Candidate(
        bias=launch.same(f"wide_{name}_bias"),
        dictionary=launch.rows(f"wide_{name}_dictionary"),
        codes=sp.csr_array(sp.diags_array(launch.rows(f"wide_{name}_codes"))),
        dual=launch.rows(f"wide_{name}_dual"),
    )
    certificate = certify(problem, found, tol=1e-9)
    assert certificate.objections == ()
    assert certificate.value == pytest.approx(launch.same(f"wide_{name}_value"), rel=1e-12)
    assert certificate.lower_bound == pytest.approx(launch.same(f"wide_{name}_lower_bound"), rel=1e-9)


@pytest.mark.parametrize("name", ["free", "zero"])
def test_the_referee_runs_on_two_processes_as_well_and_both_see_what_one_spoiled(launch, name):
    assert launch.said(f"wide_{name}_objections") == ["", ""]
    first, second = launch.said(f"wide_{name}_spoiled")
    assert first == second
    assert "claims the value" in first


@pytest.mark.parametrize("name", ["free", "zero"])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("nan", "dual holds NaN"),
        ("missing", "the set of arrays is not the same"),
        ("short", "dual has shape"),
        ("negative", "A code is negative"),
        ("bias", "bias is not the same in all processes"),
    ],
)
def test_what_the_referee_finds_in_one_process_it_says_in_both(launch, name, how, words):
    """The processes fell out of step: one returned with its objection while the other waited for it to add up."""
    first, second = launch.said(f"wide_{name}_{how}")
    assert first == second
    assert words in first


# ---------------------------------------------------------------- dictionaries


@pytest.mark.parametrize("name", [*LEARNED, "grown"])
def test_a_dictionary_of_two_processes_is_certified_for_all_rows(launch, name):
    """Value, exactness of codes and stationarity (T3), from the data and the arrays of both alone."""
    dictionary, bias = launch.same(f"{name}_dictionary"), launch.same(f"{name}_bias")
    value, codes, rows = launch.same(f"{name}_value"), launch.rows(f"{name}_codes"), points(name)
    assert primal(rows, bias, dictionary, codes, LAM) == pytest.approx(value, rel=1e-11)
    assert encode(rows, dictionary, LAM, bias=bias, tol=1e-10).value == pytest.approx(value, rel=1e-9)
    assert launch.same(f"{name}_largest_gap") <= 1e-9
    residuals = rows - bias - codes @ dictionary
    off = np.linalg.norm(codes.T @ residuals / codes.sum(axis=0)[:, None] / LAM - dictionary, axis=1)
    drift = 0 if LEARNED.get(name, {}).get("bias", "free") is None else np.linalg.norm(residuals.mean(axis=0)) / LAM
    assert max(off.max(), drift) == pytest.approx(launch.same(f"{name}_worst_stationarity"), rel=1e-3)
    assert max(off.max(), drift) <= 1e-3
    assert launch.said(f"{name}_status") == ["STATIONARY"] * 2


@pytest.mark.parametrize("name", LEARNED)
def test_two_processes_learn_what_one_learns(launch, name):
    one = learn(name, points(name))
    assert launch.same(f"{name}_value") == pytest.approx(one.value, rel=1e-5)
    assert launch.same(f"{name}_lower_bound") == pytest.approx(one.lower_bound, rel=1e-9)
    ours, theirs = json.loads(launch.said(f"{name}_summary")[0]), one.to_dict()
    assert ours["n_points"] == one.problem.n_points
    assert ours["lam_over_lambda_max"] == pytest.approx(theirs["lam_over_lambda_max"])
    if name in ("idle", "sampled"):  # so that moves are judged over both processes' datapoints
        assert min(ours["renewed"], theirs["renewed"]) >= 1


def test_two_processes_grow_what_one_grows(launch):
    small = learn_dictionary(X, HALF, LAM, init=starts()[:HALF], max_steps=3)
    assert launch.same("grown_value") == pytest.approx(grow(small, WIDTH).value, rel=1e-6)


def test_time_is_up_for_both(launch):
    assert launch.said("late") == ["TIME_LIMIT"] * 2


# ---------------------------------------------------------------- refusals and failures


@pytest.mark.parametrize("name", ["lam", "dictionary", "d", "dtype", "seed", "init"])
def test_arguments_that_differ_are_refused_in_both_by_name(launch, name):
    first, second = launch.said(name)
    assert first == second
    assert first.startswith(f"InputError: {name} is not the same in all processes (")


def test_different_calls_are_refused_instead_of_waiting_for_each_other(launch):
    assert all("'JointProblem' in process 0, 'SparseCodes' in process 1" in said for said in launch.said("function"))


@pytest.mark.parametrize(
    ("name", "words"), [("problem", "WideLimit"), ("curvature", "second_order"), ("few", "1 row(s)")]
)
def test_what_several_processes_cannot_do_is_refused_in_both(launch, name, words):
    first, second = launch.said(name)
    assert first == second
    assert first.startswith("InputError: ")
    assert words in first


def test_a_start_in_one_process_alone_is_refused_by_name(launch):
    first, second = launch.said("init_or_none")
    assert first == second
    assert first.startswith("InputError: init is not the same in all processes ('absent' in process 0, 'given' in")


def test_killed_while_a_common_state_is_taken_up_it_is_still_there(launch):
    assert launch.said("killed")[1] == "OSError: killed"


def test_a_group_can_be_made_again(launch):
    assert launch.same("earlier") == 2


def test_a_lost_part_of_a_checkpoint_is_refused_in_both(launch):
    first, second = launch.said("checkpoint")
    assert first == second
    assert first.startswith("InputError: the state in the folder is not the same in all processes")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("data", "InputError: X holds 1 NaN"), ("nested", "InputError: X holds"), ("midway", "OSError: no space left")],
)
def test_a_failure_in_one_ends_the_other_with_its_reason(launch, name, reason):
    first, second = launch.said(name)
    assert first.startswith(f"GroupError: process 1 of 2 failed ({reason}")
    assert second.startswith(reason)
    assert launch.same("alive") == 2


def test_ctrl_c_waits_for_the_end_of_an_exchange(launch):
    first, second = launch.said("interrupted")
    assert first == "GroupError: process 1 of 2 failed (KeyboardInterrupt: ), so this one stopped as well."
    assert second.startswith("KeyboardInterrupt")
    assert launch.same("alive") == 2


def test_a_process_that_is_gone_is_an_error_in_the_other(launch):
    assert launch.code != 0
    assert launch.sentences[0]["gone"].startswith("GroupError: process 0 of 2 lost the others (")


def test_what_a_process_cannot_know_alone_is_said(launch):
    assert all("over 2 processes is not known to one" in said for said in launch.said("lambda_max"))


# ---------------------------------------------------------------- one process


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", ["array", "tensor", "file", "map", "list", "batches"])
def test_shards_are_contiguous_near_equal_and_complete(tmp_path, size, kind):
    whole = np.arange(46.0).reshape(23, 2)
    np.save(tmp_path / "X.npy", whole)

    def given():
        forms = {
            "array": whole,
            "tensor": torch.from_numpy(whole),
            "file": tmp_path / "X.npy",
            "list": whole.tolist(),
            "map": np.load(tmp_path / "X.npy", mmap_mode="r"),
            "batches": iter([whole[:20], whole[20:]]),
        }
        return forms[kind]

    parts = [ProcessGroup(rank, size).shard(given()).to_numpy() for rank in range(size)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_only_the_rows_of_a_shard_are_looked_at():
    whole = np.full((10, 2), np.nan)
    whole[:5] = 1
    assert len(ProcessGroup(0, 2).shard(whole)) == 5
    with pytest.raises(InputError, match="NaN"):
        ProcessGroup(1, 2).shard(whole)


def test_without_torchrun_a_group_is_one_process_and_changes_nothing():
    with process_group() as group:
        assert (group.size, group.is_alone, group.is_first) == (1, True, True)
        shared = encode(group.shard(X), ATOMS, LAM)
        wide = solve_typed(WideLimit(group.shard(X), PENALTY))
    np.testing.assert_array_equal(shared.codes.toarray(), encode(X, ATOMS, LAM).codes.toarray())
    assert wide.value == solve_typed(WideLimit(X, PENALTY)).value


def test_bad_arguments_of_a_group_are_one_sentence():
    with pytest.raises(InputError, match="timeout is -1"), process_group(timeout=-1):
        pass
    with pytest.raises(InputError, match="device is 'abacus'"), process_group("abacus"):
        pass


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 1, reason="no CUDA device")
def test_gpus_share_a_solve_through_nccl(tmp_path):
    """As many processes as there are GPUs; with two or more the collectives run on the memory of each."""
    size = torch.cuda.device_count()
    script = tmp_path / "gpus.py"
    script.write_text(
        "import json, sys, torch\n"
        "from cvxsae import WideLimit, learn_dictionary, process_group, solve\n"
        "from tests.parallel.two_processes import data\n"
        "X, _ = data()\n"
        "with process_group('cuda') as group:\n"
        "    fit = learn_dictionary(group.shard(X), 24, 0.1, seed=3)\n"
        "    wide = solve(WideLimit(group.shard(X), 0.3))\n"
        "    total = float(group.sum(torch.ones(3, device=group.device))[0].sum())\n"
        "    if group.is_first:\n"
        "        print(json.dumps([group.device.type, fit.value, fit.status.name, wide.value, total]))\n"
    )
    program = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(size),
        str(script),
    ]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        program, timeout=1800, capture_output=True, text=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert done.returncode == 0, done.stderr[-4000:]
    device, value, status, wide, total = json.loads(done.stdout.splitlines()[-1])
    assert (device, status, total) == ("cuda", "STATIONARY", 3 * size)
    assert value == pytest.approx(learn("scratch", X).value, rel=1e-3)
    assert wide == pytest.approx(solve(WideLimit(X, PENALTY)).value, rel=1e-6)
