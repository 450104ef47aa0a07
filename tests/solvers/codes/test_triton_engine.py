"""The Triton engine: on a CUDA device where there is one, otherwise in Triton's interpreter, on few points."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cvxsae.errors import InputError
from cvxsae.solvers.codes.encode import encode
from cvxsae.solvers.codes.engines import engine_name, make_engine
from cvxsae.solvers.codes.engines.screening import Precision, PreparedDictionary
from cvxsae.solvers.codes.engines.state import Tuning, Warm
from cvxsae.solvers.codes.rounds import solve_block
from tests.solvers.codes.test_encode import check, referee, unit

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
ROOT = Path(__file__).parents[3]
LAM = 0.6

if not CUDA:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported

needs_triton = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")


@pytest.fixture
def kernels(monkeypatch):
    from cvxsae.solvers.codes.engines import triton_kernels

    if CUDA:
        return triton_kernels
    if not triton_kernels.INTERPRETED:
        pytest.skip("triton was imported before this test could ask for its interpreter")
    from triton.runtime import interpreter

    patched = set()

    def call(self, *args, **kwargs):  # the interpreter wraps its language anew at every nested call: once will do
        if id(self.fn.__globals__) not in patched:
            patched.add(id(self.fn.__globals__))
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call)
    return triton_kernels


def problem(seed=0, n=6, d=48, K=150):
    rng = np.random.default_rng(seed)
    D = unit(rng, K, d)
    codes = np.where(rng.uniform(size=(n, K)) < 4 / K, rng.uniform(2, 6, (n, K)), 0)
    return codes @ D + 0.1 * rng.standard_normal((n, d)), D


def engine_for(D, tol=1e-6, name="triton", **tuning):
    dictionary = PreparedDictionary(torch.from_numpy(D), DEVICE)
    return make_engine(name, dictionary, Tuning(tol, precision="bfloat16", widest_margin=np.inf, **tuning))


def codes_of(block, D):
    return sp.csr_array((block.codes * LAM, block.indices, block.indptr), shape=(len(block.values), len(D)))


def certified(X, D, block, tol):
    value, bound = referee(X, D, LAM, codes_of(block, D))
    assert block.done.all()
    assert (block.gaps <= tol).all()
    np.testing.assert_allclose(block.values * LAM**2, value, rtol=1e-10)
    assert (block.values * LAM**2 * (1 - block.gaps) <= bound + 1e-12 * value).all()
    assert (value - bound <= tol * value * (1 + 1e-6)).all()


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize(("n", "d", "K"), [(5, 20, 40), (3, 64, 1000), (130, 16, 129)])
def test_fused_product_keeps_what_the_whole_product_holds(kernels, n, d, K):
    from cvxsae.solvers.codes.engines.triton_engine import set_bits

    rng = np.random.default_rng(0)
    short = torch.from_numpy(rng.standard_normal((n, d))).to(torch.bfloat16).to(DEVICE)
    atoms = torch.from_numpy(unit(rng, K, d)).to(torch.bfloat16).to(DEVICE)
    threshold = torch.from_numpy(rng.uniform(-1, 2, n)).to(torch.float32).to(DEVICE)
    found = kernels.screen(short, atoms, threshold)
    product = short.to(torch.float64) @ atoms.to(torch.float64).T
    above = torch.zeros(n, K, dtype=torch.bool, device=DEVICE)
    above[set_bits(found.words)] = True
    unclear = (product - threshold[:, None]).abs() < 1e-5
    assert ((product > threshold[:, None]) == above)[~unclear].all()
    groups = found.values.shape[1]
    for g in range(groups):
        largest = product[:, g::groups].amax(dim=1) if g < K else torch.full_like(product[:, 0], -torch.inf)
        positive = largest > 1e-4
        torch.testing.assert_close(found.values[positive, g].double(), largest[positive], rtol=2e-3, atol=1e-5)
        assert (found.values[positive, g] <= largest[positive] + 1e-5).all()
        assert (found.atoms[positive, g] % groups == g).all()
        assert (found.values[largest <= 0, g] <= 1e-5).all()


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-11])
def test_agrees_with_the_torch_engine(kernels, tol):
    X, D = problem()
    block = solve_block(engine_for(D, tol), torch.from_numpy(X / LAM))
    certified(X, D, block, tol)
    other = solve_block(engine_for(D, tol, "torch"), torch.from_numpy(X / LAM))
    np.testing.assert_allclose(block.values, other.values, rtol=2 * tol)


@pytest.mark.slow
@needs_triton
def test_the_kernels_solve_what_they_are_for(kernels, monkeypatch):
    """Nothing of an ordinary problem is left to the torch engine."""
    from cvxsae.solvers.codes.engines.batched import BatchedEngine

    def refuse(*args, **kwargs):
        raise AssertionError("left to the torch engine")

    X, D = problem(1)
    engine = engine_for(D)
    monkeypatch.setattr(BatchedEngine, "_solve", refuse)
    monkeypatch.setattr(BatchedEngine, "_screen", refuse)
    certified(X, D, solve_block(engine, torch.from_numpy(X / LAM)), 1e-6)


@pytest.mark.slow
@needs_triton
def test_what_descent_does_not_finish_goes_to_the_torch_engine(kernels, monkeypatch):
    monkeypatch.setattr(kernels, "STEPS", 0)
    X, D = problem(2, n=40)
    certified(X, D, solve_block(engine_for(D), torch.from_numpy(X / LAM)), 1e-6)


@pytest.mark.slow
@needs_triton
def test_hard_dictionaries_wide_sets_and_coarse_margins(kernels, monkeypatch):
    monkeypatch.setattr(kernels, "STEPS", 0)
    rng = np.random.default_rng(5)
    base = unit(rng, 40, 10)
    near = base + 1e-7 * rng.standard_normal(base.shape)
    D = np.vstack([base, base, near / np.linalg.norm(near, axis=1, keepdims=True), -base])
    X = rng.standard_normal((8, 10)) * 5
    X[0] = 0
    for tuning in ({"first": 200, "later": 200}, {"rows": 3}):
        certified(X, D, solve_block(engine_for(D, 1e-6, **tuning), torch.from_numpy(X / LAM)), 1e-6)
    dictionary = PreparedDictionary(torch.from_numpy(D), DEVICE)
    for dense in (Tuning(1e-6, precision="float32"), Tuning(1e-6, precision="bfloat16", widest_margin=0.0, rows=3)):
        certified(X, D, solve_block(make_engine("triton", dictionary, dense), torch.from_numpy(X / LAM)), 1e-6)


@pytest.mark.slow
@needs_triton
def test_a_wrong_error_bound_is_caught(kernels, monkeypatch):
    """The negative control: with a bound far too small the engine certifies falsely, and the referee sees it."""
    monkeypatch.setattr(kernels, "STEPS", 0)
    rng = np.random.default_rng(3)
    X, D = rng.standard_normal((150, 16)), unit(rng, 500, 16)
    engine = engine_for(D, 1e-9)
    monkeypatch.setattr(Precision, "margins", lambda *norms: (0 * norms[1], torch.full_like(norms[1], 1.02)))
    wrong = solve_block(engine, torch.from_numpy(X / LAM))
    monkeypatch.undo()
    _, bound = referee(X, D, LAM, codes_of(wrong, D))
    assert (wrong.values * LAM**2 * (1 - wrong.gaps) > bound * (1 + 1e-9)).any()


@pytest.mark.slow
@needs_triton
def test_warm_start_and_padding(kernels):
    """Atom 0 is where a padding index would land: make it the best atom of every datapoint."""
    rng = np.random.default_rng(4)
    D = unit(rng, 40, 24)
    X = 3 * D[0] + 0.3 * rng.standard_normal((6, 24))
    engine, x = engine_for(D, 1e-8), torch.from_numpy(X / LAM)
    cold = solve_block(engine, x)
    certified(X, D, cold, 1e-8)
    for row in range(6):
        indices = cold.indices[cold.indptr[row] : cold.indptr[row + 1]]
        assert 0 in indices
        assert (np.diff(indices) > 0).all()
    again = solve_block(engine, x, Warm(cold.indptr, cold.indices, cold.codes))
    assert again.passes.max() == 1
    wild = Warm(np.arange(7) * 40, np.tile(np.arange(40), 6), rng.uniform(-1, 2, 240))
    certified(X, D, solve_block(engine, x, wild), 1e-8)


@pytest.mark.slow
@needs_triton
def test_by_name(kernels):
    X, D = problem(6)
    check(X, D, LAM, encode(X, D, LAM, tol=1e-6, engine="triton", device=DEVICE), 1e-6)


def test_names(monkeypatch):
    assert engine_name("auto", "cpu") in ("fused", "torch")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="not installed"):
        engine_name("triton", "cpu")
    assert engine_name("auto", "cuda") == "torch"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InputError, match="device is 'cpu'"):
        engine_name("triton", "cpu")


COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import triton
from cvxsae.solvers.codes.engines.triton_kernels import kernels

POINTERS = {"rows": "*i64", "members": "*i64", "words": "*i32", "best": "*i32", "solved": "*i32", "threshold": "*fp32",
            "gram": "*fp32", "gradient": "*fp32"}
CONSTANTS = {
    "screen": dict(TILE_N=128, TILE_K=128, TILE_D=64, EVEN=False, UPCAST=False),
    "gram": dict(M=64, TILE_D=32, PRECISION="tf32x3"),
    "descend": dict(M=64),
    "refresh": dict(M=64, TILE_D=16, EVERY=True),
}
for name, kernel in kernels().items():
    other = {"screen": "*bf16"}.get(name, "*fp64")
    signature = {}
    for argument in kernel.arg_names:
        if argument in CONSTANTS[name]:
            signature[argument] = "constexpr"
        elif argument.endswith("_ptr"):
            signature[argument] = POINTERS.get(argument[:-4], other)
        else:
            signature[argument] = "fp32" if argument in ("tol", "floor", "share") else "i32"
    if name == "gram":
        signature["atoms_ptr"] = "*fp32"
    constants = {(kernel.arg_names.index(argument),): value for argument, value in CONSTANTS[name].items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    assert "ptx" in compiled.asm
print("compiled")
"""


@pytest.mark.slow
@needs_triton
def test_kernels_compile_for_a_device_that_is_not_here(tmp_path):
    """The interpreter runs what a compiler may refuse: compile every kernel for compute capability 9.0."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE], capture_output=True, text=True, env=environment, cwd=ROOT,
        check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "compiled", done.stderr


@pytest.mark.cuda
@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_cuda_at_size():
    rng = np.random.default_rng(7)
    D = unit(rng, 5000, 96)
    X = rng.standard_normal((3000, 96))
    name = engine_name("auto", "cuda")
    check(X, D, 1.5, encode(X, D, 1.5, tol=1e-6, device="cuda", engine=name), 1e-6)
    check(X[:200], D, 0.8, encode(X[:200], D, 0.8, tol=1e-11, device="cuda", engine=name), 1e-11)
