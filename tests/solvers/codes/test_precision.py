"""Screening products in int8 and the choice of a precision: bounds that hold, and measurements that are kept."""

import json
import math
import os
import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from cvxsae import InputError, encode
from cvxsae.parallel.machine import LIMITING
from cvxsae.solvers.codes.engines import calibration, make_engine
from cvxsae.solvers.codes.engines.calibration import Rung, ladder
from cvxsae.solvers.codes.engines.prices import Prices
from cvxsae.solvers.codes.engines.products import PRECISIONS, product
from cvxsae.solvers.codes.engines.screening import LARGEST_INT8, WIDEST_INT8, PreparedDictionary
from cvxsae.solvers.codes.engines.state import Tuning
from cvxsae.solvers.codes.rounds import solve_block
from tests.helpers.precisions import NEEDS_INT8
from tests.solvers.codes.test_encode import check, unit

ENGINES = ["fused", "torch"]
COARSE = [name for name in ("int8", "bfloat16") if calibration.is_usable(name, 64, "cpu")]


def atoms(seed=0, K=200, d=24):
    """Unit rows, some of them spikes, some with entries over many orders of magnitude."""
    rng = np.random.default_rng(seed)
    D = rng.standard_normal((K, d))
    D[:d] = np.eye(d)
    D[d : d + 40] *= 10.0 ** rng.uniform(-12, 0, (40, d))
    return D / np.linalg.norm(D, axis=1, keepdims=True)


def rows(d=24):
    """Residuals that are hard to shorten: huge range, zeros, denormals, one spike, all entries alike, large, tiny."""
    rng = np.random.default_rng(1)
    plain = rng.standard_normal((20, d))
    spike = 1e-3 * plain
    spike[:, 3] = 50.0
    alike = np.sign(plain)
    return np.vstack([
        plain, 30 * plain, spike, alike, plain * 10.0 ** rng.uniform(-18, 2, plain.shape), np.zeros((2, d)),
        1e-310 * plain, 1e-160 * plain, 1e-25 * plain, 1e12 * plain, 1e25 * plain, np.round(plain * 4) / 4,
    ])  # fmt: skip


def screened(name, precision, x, D):
    """What an engine's products prove of rows: computed correlations, margins, thresholds and the least share."""
    tuning = Tuning(1e-9, precision=precision, widest_margin=np.inf)
    engine: Any = make_engine(name, PreparedDictionary(torch.from_numpy(D)), tuning)
    if name == "torch":
        computed, margin, threshold, share = engine.correlate(torch.from_numpy(x))
        return computed.to(torch.float64).numpy(), margin.numpy(), threshold.numpy(), share
    state, every = engine.begin(torch.from_numpy(x), None), np.arange(len(x))
    found = engine._correlate(engine._shorten(state, every, precision), engine.ladder[0])
    bits = found.bits.reshape(len(x), len(D))
    if precision == "int8":
        computed = bits * found.unit[:, None]
    else:
        computed = (bits.astype(np.int32) << found.shift).view(np.float32).astype(np.float64)
    return computed, found.margin, found.threshold, found.least_share


def breaks(exact, computed, margin, threshold, share):
    """Whether some correlation is not what the bound says of it, with the rounding of float64 in ``exact`` allowed."""
    blur = 1e-13 * (1 + np.abs(exact))
    above = (computed <= threshold[:, None]) & (exact > 1 + blur)
    below = (computed > 0) & (exact < share * computed - margin[:, None] - blur)
    return bool((above | below).any())


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("precision", COARSE)
def test_the_bound_holds_for_the_worst_rows(name, precision):
    D, x = atoms(), rows()
    # of each row, the scale at which some atom is as near to the threshold as can be
    for level in (1.0, 0.999, 1.01, 0.9):
        top = np.maximum((x @ D.T).max(axis=1, keepdims=True), 1e-300)
        for scaled in (x, np.where(top > 1e-200, x / top * level, x)):
            assert not breaks(scaled @ D.T, *screened(name, precision, scaled, D))


@NEEDS_INT8
@pytest.mark.parametrize("name", ENGINES)
def test_a_bound_that_is_too_small_is_caught(name):
    """The negative control: a tenth of the margin is not a bound."""
    D, x = atoms(), rows()
    x = x[np.abs(x).max(axis=1) > 1e-20]
    x = x / np.maximum((x @ D.T).max(axis=1, keepdims=True), 1e-300)
    computed, margin, _, share = screened(name, "int8", x, D)
    exact = x @ D.T
    assert not breaks(exact, computed, margin, (1 - margin) * share, share)
    assert breaks(exact, computed, margin / 10, (1 - margin / 10) * share, share)


@pytest.mark.parametrize("size", [1.0, 1e12, 1e-12])
def test_the_nearest_float32_is_as_near_as_it_is_said_to_be(size):
    """Weights of all sizes; a row along an axis is rounded not at all, and one of equal entries as all others."""
    D = np.concatenate([unit(np.random.default_rng(2), 50, 64), np.eye(1, 64), np.full((1, 64), 1 / 8)])
    ones, reach = torch.ones(len(D), dtype=torch.float64), torch.full((len(D),), size, dtype=torch.float64)
    prepared = PreparedDictionary(torch.from_numpy(D), prices=Prices(ones, 0 * ones, 1 / reach, reach))
    lost = (prepared.single.double() - torch.from_numpy(D) * size).norm(dim=1).max() / size
    assert 0.1 * prepared.single_precision.atom_error < lost <= prepared.single_precision.atom_error


def test_whole_numbers_are_exact_and_cannot_overflow():
    assert WIDEST_INT8 * LARGEST_INT8**2 < 2**31 <= (WIDEST_INT8 + 1) * LARGEST_INT8**2
    D = torch.from_numpy(unit(np.random.default_rng(2), 50, 64))
    prepared = PreparedDictionary(D)
    assert prepared.whole.abs().max() == LARGEST_INT8
    assert (prepared.whole_scale * prepared.whole.double() - D).norm(dim=1).max() <= prepared.whole_precision.atom_error
    prepared.dim = WIDEST_INT8 + 1
    del prepared.__dict__["whole_precision"]
    with pytest.raises(InputError, match="dimensions"):
        _ = prepared.whole_precision


@pytest.mark.slow
def test_products_that_saturate_or_sum_in_bfloat16_are_not_used(monkeypatch):
    """As vector units without 32-bit sums, and matrix units that round on the way, would have it."""
    cpu = torch.device("cpu")
    for precision in COARSE:
        assert calibration.keeps_its_bound(precision, 64, cpu)

    def saturating(precision, a, b, out=None):
        pairs = (a.double()[:, None] * b.double()[None]).unflatten(-1, (-1, 2)).sum(-1).clamp(-(2**14), 2**14)
        return pairs.sum(-1)

    def short_sums(precision, a, b, out=None):
        total = torch.zeros(len(a), len(b), dtype=torch.bfloat16)
        for j in range(a.shape[1]):
            total = (total.float() + a[:, j, None].float() * b[None, :, j].float()).to(torch.bfloat16)
        return total

    def missing(precision, a, b, out=None):
        raise RuntimeError("not implemented")

    for wrong, precision in ((saturating, "int8"), (short_sums, "bfloat16"), (missing, "int8")):
        monkeypatch.setattr(calibration, "product", wrong)
        assert not calibration.keeps_its_bound(precision, 64, cpu)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_a_product_that_is_too_coarse_is_followed_by_a_finer_one(name):
    """At a small λ int8 and bfloat16 can place almost no atom: the answer is the same, and so is the certificate."""
    rng = np.random.default_rng(3)
    X, D = rng.standard_normal((40, 12)), unit(rng, 300, 12)
    exact = encode(X, D, 1e-3, tol=1e-9, engine=name, precision="float32")
    for precision in COARSE:
        codes = encode(X, D, 1e-3, tol=1e-9, engine=name, precision=precision)
        check(X, D, 1e-3, codes, 1e-9)
        np.testing.assert_allclose(codes.values, exact.values, rtol=2e-9)


@NEEDS_INT8
def test_datapoints_with_too_many_candidates_are_left_to_the_finer_product():
    rng = np.random.default_rng(4)
    D = torch.from_numpy(unit(rng, 400, 32))
    x = torch.from_numpy(rng.standard_normal((50, 32)) / 0.3)
    strict = (Rung("int8", 0.0, 0.0), Rung("bfloat16", 0.0, 0.0), Rung("float32"))
    engine: Any = make_engine("fused", PreparedDictionary(D), Tuning(1e-8, ladder=strict))
    state, every = engine.begin(x, None), np.arange(50)
    engine.certify(state, every)
    assert np.isfinite(state.too_coarse[:2]).any(axis=1).all()
    assert np.isinf(state.too_coarse[2]).all()
    loose = replace(engine.tuning, ladder=tuple(replace(rung, rechecks=math.inf) for rung in strict))
    values = [solve_block(make_engine("fused", PreparedDictionary(D), t), x).values for t in (engine.tuning, loose)]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-7)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """An empty cache folder, and a process that has measured nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calibration.measured.cache_clear()
    yield tmp_path / "cvxsae"
    calibration.measured.cache_clear()


@pytest.mark.slow
def test_measurements_are_kept_and_believed_only_if_they_are_of_this_machine(kept, monkeypatch):
    counted = []
    measure = calibration._measure

    def counting(*args):
        counted.append(args)
        return measure(*args)

    monkeypatch.setattr(calibration, "_measure", counting)

    def again():
        calibration.measured.cache_clear()
        return calibration.measured(16, 256, "cpu", 1)

    first = again()
    assert set(first) <= set(PRECISIONS)
    assert again() == first
    assert len(counted) == 1
    (file,) = kept.iterdir()
    text = file.read_text()
    right = json.loads(text)
    foreign = right | {"key": right["key"] | {"processor": "another"}}
    for damaged in (
        "", text[: len(text) // 2], "[]", "null", json.dumps(foreign), json.dumps(right | {"seconds": {}}),
        json.dumps(right | {"seconds": {"float32": -1.0}}), json.dumps(right | {"seconds": {"float32": "x"}}),
        json.dumps(right | {"seconds": {"float32": 1.0, "int4": 1.0}}), json.dumps(right | {"seconds": [1.0]}),
        json.dumps(right | {"seconds": {"float32": 10**400}}), "[" * 100_000,
    ):  # fmt: skip
        before = len(counted)
        file.write_text(damaged)
        again()
        assert len(counted) == before + 1
        assert json.loads(file.read_text())["key"] == right["key"]
    file.write_bytes(b"\xff\xfe\x00")
    assert set(again()) == set(first)
    if hasattr(os, "mkfifo"):
        file.unlink()
        os.mkfifo(file)  # which nobody writes to: it is not waited for
        assert set(again()) == set(first)


def test_a_measurement_is_of_the_instructions_that_are_used(kept, monkeypatch):
    monkeypatch.setattr(calibration, "_measure", lambda *arguments: {"float32": 1.0})
    for name in LIMITING:
        monkeypatch.delenv(name, raising=False)
    names = ["ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"]
    for name in names:
        monkeypatch.setenv(name, "avx2")
        calibration.measured.cache_clear()
        calibration.measured(16, 256, "cpu", 1)
    found = [json.loads(file.read_text())["key"]["limits"] for file in kept.iterdir()]
    assert sorted(map(len, found)) == [1, 2, 3, 4, 5]


def test_another_version_or_instruction_set_is_measured_again(kept, monkeypatch):
    monkeypatch.setattr(calibration, "_measure", lambda *args: {"float32": 2.0, "bfloat16": 1.0})
    counted = []
    for change in (
        lambda: None,
        lambda: monkeypatch.setattr(torch, "__version__", "9.9"),
        lambda: monkeypatch.setattr(calibration, "instruction_sets", lambda: ["avx2"]),
        lambda: monkeypatch.setattr(calibration, "processor", lambda: "another"),
    ):
        change()
        calibration.measured.cache_clear()
        calibration.measured(16, 256, "cpu", 1)
        counted.append(len(list(kept.iterdir())))
    assert counted == [1, 2, 3, 4]
    found, others = calibration.kept()
    assert [(key["processor"], seconds) for key, seconds in found] == [("another", {"float32": 2.0, "bfloat16": 1.0})]
    assert others == 3
    held = json.loads(max(kept.iterdir(), key=lambda file: b"another" in file.read_bytes()).read_bytes())
    keys = [{**held["key"], "dim": value} for value in ("16", None, True, 16.0)]
    keys += [{name: value for name, value in held["key"].items() if name != "threads"}]
    altered = [json.dumps({**held, "key": key}).encode() for key in keys]
    rest = (b"", b"[]", b"{}", b'{"key": 1}', b'{"key": {"device": "cuda:99"}}', b"\xff", b"[" * 100_000)
    for damage in (*altered, *rest):
        (kept / "products-damaged.json").write_bytes(damage)
        assert calibration.kept() == (found, 4)


class Loaded:
    """A clock by which each product takes its time, and longer in the turns in which other work is in its way."""

    def __init__(self, monkeypatch, seconds, delays) -> None:
        self.now, self.turns, self.seconds, self.delays = 0.0, dict.fromkeys(seconds, -1), seconds, delays
        monkeypatch.setattr(calibration, "is_usable", lambda name, *_: name in seconds)
        monkeypatch.setattr(calibration, "product", self.product)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def product(self, precision, rows, atoms, out=None):
        turn = self.turns[precision]  # the first is not measured
        if turn >= 0:
            self.now += self.seconds[precision] * self.delays(precision, turn)
        self.turns[precision] += 1
        return rows


def test_other_work_in_the_way_of_most_turns_is_measured_away(monkeypatch):
    """Three turns, as there were, may all be disturbed; each product counts as it is alone."""
    times = {"int8": 1.0, "bfloat16": 2.0, "float32": 8.0}

    def busy(precision, turn):
        free = {"int8": 6, "bfloat16": 9, "float32": 12}[precision]  # turns get less disturbed until they are free
        return 1.0 if turn == free else 1.0 + 10 * 0.7 ** min(turn, free)

    clock = Loaded(monkeypatch, times, busy)
    found = calibration._measure(16, 256, torch.device("cpu"), 1)
    assert {name: value / found["int8"] for name, value in found.items()} == pytest.approx(times)
    assert clock.turns["float32"] == 12 + calibration.REPEATS + 1
    idle = Loaded(monkeypatch, times, lambda precision, turn: 1.0)
    assert calibration._measure(16, 256, torch.device("cpu"), 1) == pytest.approx(found)
    assert idle.turns["float32"] == calibration.REPEATS + 1
    endless = Loaded(monkeypatch, times, lambda precision, turn: 0.9**turn)
    calibration._measure(16, 256, torch.device("cpu"), 1)
    assert endless.turns["float32"] == calibration.MOST_REPEATS
    emulated = Loaded(monkeypatch, {"bfloat16": 6.0, "float32": 1.0}, lambda precision, turn: 1.0)
    calibration._measure(16, 256, torch.device("cpu"), 1)
    assert emulated.turns["bfloat16"] == 2 < emulated.turns["float32"]

    def held_up(precision, turn):
        return 10.0 if (precision, turn) == ("bfloat16", 0) else 1.0

    once = Loaded(monkeypatch, {"bfloat16": 0.5, "float32": 1.0}, held_up)
    found = calibration._measure(16, 256, torch.device("cpu"), 1)
    assert found["bfloat16"] / found["float32"] == pytest.approx(0.5)
    assert once.turns["bfloat16"] > 2


def test_a_cache_folder_has_an_absolute_path(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert calibration.folder().is_absolute()


def test_a_folder_that_cannot_be_written_is_no_error(kept, monkeypatch):
    kept.parent.joinpath("file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept.parent / "file"))
    assert "float32" in calibration.measured(16, 256, "cpu", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    calibration.measured.cache_clear()
    assert "float32" in calibration.measured(16, 256, "cpu", 1)


def test_the_ladder_has_what_is_faster_than_anything_finer(monkeypatch):
    prepared = PreparedDictionary(torch.from_numpy(unit(np.random.default_rng(5), 300, 64)))

    monkeypatch.setattr(calibration, "is_usable", lambda *key: True)

    def at(**seconds):
        monkeypatch.setattr(calibration, "measured", lambda *key: seconds)
        return [rung.precision for rung in ladder(prepared)]

    assert at(float32=4.0, bfloat16=2.0, int8=1.0) == ["int8", "bfloat16", "float32"]
    assert at(float32=4.0, bfloat16=1.0, int8=1.0) == ["bfloat16", "float32"]
    assert at(float32=4.0, bfloat16=9.0, int8=1.0) == ["int8", "float32"]
    assert at(float32=4.0, bfloat16=9.0, int8=4.0) == ["float32"]
    assert at(float32=4.0, bfloat16=3.3) == ["float32"]  # faster, but not by what its wider margin costs
    assert at(float32=4.0) == ["float32"]
    assert at(float32=4.0, tf32=3.0, bfloat16=2.0, int8=1.0) == ["int8", "bfloat16", "tf32", "float32"]
    assert at(float32=1e-6, bfloat16=8e-7, int8=1e-7) == ["int8", "float32"]
    assert at(float32=4e-7, int8=1e-7) == ["float32"]  # what it saves is less than what it costs

    def only_float32(*arguments):
        raise AssertionError("nothing is to be measured")

    monkeypatch.setattr(calibration, "measured", only_float32)
    few, small = PreparedDictionary(prepared.exact, uses=10), PreparedDictionary(prepared.exact[:200])
    assert all([rung.precision for rung in ladder(dictionary)] == ["float32"] for dictionary in (few, small))


def test_a_kept_measurement_says_what_is_fast_not_what_is_right(monkeypatch):
    """It may be of the same processor with other instructions: int8 may saturate here."""
    prepared = PreparedDictionary(torch.from_numpy(unit(np.random.default_rng(5), 300, 64)))
    monkeypatch.setattr(calibration, "measured", lambda *key: {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0})

    def chosen():
        calibration.is_usable.cache_clear()
        return [rung.precision for rung in ladder(prepared)]

    def exact(precision, a, b, out=None):
        return (a.double() @ b.double().T).to(torch.bfloat16 if precision == "bfloat16" else torch.float64)

    try:
        monkeypatch.setattr(calibration, "product", exact)
        assert chosen() == ["int8", "bfloat16", "float32"]
        for sizes in ((1, 64), (64, 64), (1, calibration.MANY_PROBES), (64, calibration.MANY_PROBES)):
            saturating = partial(_wrong_at, exact, sizes)
            monkeypatch.setattr(calibration, "product", saturating)
            assert chosen() == ["bfloat16", "float32"]
    finally:
        calibration.is_usable.cache_clear()


def _wrong_at(exact, sizes, precision, a, b, out=None):
    """A product that saturates in int8 at one shape."""
    found = exact(precision, a, b)
    return found.clamp(max=2**15 - 1) if precision == "int8" and (len(a), len(b)) == sizes else found


@NEEDS_INT8
def test_a_precision_can_be_asked_for(monkeypatch):
    X, D = np.random.default_rng(6).standard_normal((20, 8)), np.eye(8)
    assert encode(X, D, 0.3, precision="int8").info["precisions"] == "int8, float32"
    assert encode(X, D, 0.3, precision="float32").info["precisions"] == "float32"
    with pytest.raises(InputError, match="precision"):
        encode(X, D, 0.3, precision="int4")
    with pytest.raises(InputError, match="tf32"):
        encode(X, D, 0.3, precision="tf32")


@pytest.mark.skipif(len(COARSE) < 2, reason="the products of a coarse precision are missing or wrong here")
def test_what_a_second_product_decides_is_not_asked_of_a_third(monkeypatch):
    """In bfloat16 atoms that enter are certain, which in int8 were not: nothing is left to a float32 product."""
    D = unit(np.random.default_rng(0), 300, 64)
    x = torch.from_numpy(np.linspace(1.0, 1.1, 101)[:, None] * D[:1])
    every, counted = np.arange(len(x)), dict.fromkeys(PRECISIONS, 0)

    def counts(*precisions):
        rungs = tuple(Rung(name, rechecks=0.0) for name in precisions)
        engine: Any = make_engine("fused", PreparedDictionary(torch.from_numpy(D)), Tuning(1e-9, ladder=rungs))
        plain = engine._correlate
        counted.update(dict.fromkeys(PRECISIONS, 0))

        def counting(short, rung):
            counted[rung.precision] += len(short.margin)
            return plain(short, rung)

        monkeypatch.setattr(engine, "_correlate", counting)
        engine.advance(engine.begin(x, None), every, first=True, double=False)
        return dict(counted)

    alone, after = counts("bfloat16", "float32"), counts("int8", "bfloat16", "float32")
    assert after["bfloat16"] > alone["float32"]  # some are certain in bfloat16 only
    assert after["float32"] <= alone["float32"]


@NEEDS_INT8
def test_int8_products_are_what_they_say():
    assert not calibration.is_usable("int8", 1, "cpu")  # torch._int_mm leaves them as the memory was
    a = torch.randint(-127, 128, (5, 16), dtype=torch.int8)
    assert torch.equal(product("int8", a, a).to(torch.float64), a.to(torch.float64) @ a.to(torch.float64).T)
