"""A broken study is refused in one sentence that names the key and what is allowed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cvxsae import ScaleStudy
from cvxsae.study import keys, registry
from tests.helpers.sentences import rejects

GOOD = """
[grid]
data = ["toy"]
n_points = [40]
n_atoms = [2, 4]
lam = [0.2]
bias = ["none"]
methods = ["wide_limit", "learned"]

[data.toy]
source = "sparse_features"
dim = 5
n_features = 7

[learned]
stationarity = 1e-3
"""

BROKEN = {
    "unknown axis": (
        "n_atoms = [2, 4]",
        "n_atom = [2, 4]",
        r"\[grid\] has the unknown key 'n_atom' \(did you mean 'n_atoms'\?\); its keys are atom_cost, bias,",
    ),
    "unknown table": (
        "[learned]",
        "[lerned]",
        r"STUDY .* has the unknown table \[lerned\] \(did you mean 'learned'\?\); its tables are \[grid\],",
    ),
    "unknown option": (
        "stationarity = 1e-3",
        "stationary = 1e-3",
        r"\[learned\] has the unknown key 'stationary'.*; its keys are max_seconds,",
    ),
    "unknown number of a generator": (
        "dim = 5",
        "dims = 5",
        r"\[data\.toy\] has the unknown key 'dims' \(did you mean 'dim'\?\)",
    ),
    "missing number of a generator": (
        "dim = 5",
        "",
        r"\[data\.toy\] lacks the key 'dim', which the generator sparse_features needs",
    ),
    "text for a number": ("lam = [0.2]", 'lam = ["0.2"]', r"\[grid\] lam is '0\.2'; it must be numbers above zero"),
    "true for a number": ("lam = [0.2]", "lam = [true]", r"\[grid\] lam is True; it must be numbers above zero"),
    "number for a text": ('data = ["toy"]', "data = [3]", r"\[grid\] data is 3; it must be names: wordllama, digits,"),
    "table for a list": ("lam = [0.2]", "lam = {a = 1}", r"\[grid\] lam is \{'a': 1\}; it must be numbers above zero"),
    "list for a table": (
        "[learned]\nstationarity = 1e-3",
        "[[learned]]\nstationarity = 1e-3",
        r"\[learned\] is \[\{'stationarity': 0\.001\}\]; it must be a table of max_seconds,",
    ),
    "empty list": (
        "n_atoms = [2, 4]",
        "n_atoms = []",
        r"\[grid\] n_atoms is \[\]; it must be a list with at least one entry: whole numbers",
    ),
    "empty methods": (
        'methods = ["wide_limit", "learned"]',
        "methods = []",
        r"\[grid\] methods is \[\]; it must be a list with at least one entry: one of wide_limit,",
    ),
    "bad method": (
        '"learned"]',
        '"learnd"]',
        r"\[grid\] methods is 'learnd'; it must be one of wide_limit, .*check \(did you mean 'learned'\?\)",
    ),
    "negative λ": ("lam = [0.2]", "lam = [0.2, -1.0]", r"\[grid\] lam is -1\.0; it must be numbers above zero"),
    "infinite λ": ("lam = [0.2]", "lam = [inf]", r"\[grid\] lam is inf; it must be numbers above zero"),
    "astronomical λ": (
        "lam = [0.2]",
        f"lam = [1{'0' * 400}]",
        r"\[grid\] lam is 10+\.\.\.; it must be numbers above zero",
    ),
    "astronomical width": (
        "n_atoms = [2, 4]",
        f"n_atoms = [1{'0' * 400}]",
        r"\[grid\] n_atoms is 10+\.\.\.; it must be whole numbers of at least 1",
    ),
    "seed that no column holds": (
        "lam = [0.2]",
        "lam = [0.2]\nseeds = [9223372036854775808]",
        r"\[grid\] seeds is 9223372036854775808; it must be whole numbers of at least 0",
    ),
    "half a width": (
        "n_atoms = [2, 4]",
        "n_atoms = [2.5]",
        r"\[grid\] n_atoms is 2\.5; it must be whole numbers of at least 1",
    ),
    "no width": ("n_atoms = [2, 4]", "n_atoms = [0]", r"\[grid\] n_atoms is 0; it must be whole numbers of at least 1"),
    "both penalties": (
        "lam = [0.2]",
        "lam = [0.2]\ntarget_l0 = [3]",
        r"\[grid\] has both of lam and target_l0; give exactly one",
    ),
    "no penalty": ("lam = [0.2]", "", r"\[grid\] has neither of lam and target_l0; give exactly one"),
    "missing axis": ("n_atoms = [2, 4]", "", r"\[grid\] lacks n_atoms, which the method learned needs"),
    "useless axis": (
        "lam = [0.2]",
        "lam = [0.2]\natom_cost = [1.0]",
        r"\[grid\] has atom_cost but none of its methods depends on it; .*large_dictionary",
    ),
    "no methods": ('methods = ["wide_limit", "learned"]', "", r"\[grid\] lacks methods; it must be one of wide_limit,"),
    "no grid": ("[grid]", "[data.other]", r"STUDY .* lacks the table \[grid\]; its keys are atom_cost,"),
    "missing data file": (
        'data = ["toy"]',
        'data = ["gone.npy"]',
        r"\[grid\] data is the file '.*gone\.npy', which does not exist",
    ),
    "unknown data": (
        'data = ["toy"]',
        'data = ["wordlama"]',
        r"\[grid\] data is 'wordlama'; it must be names: .*\(did you mean 'wordllama'\?\)",
    ),
    "unknown source": (
        '"sparse_features"',
        '"sparse_feature"',
        r"\[data\.toy\] source is 'sparse_feature' \(did you mean 'sparse_features'\?\); it must be one of",
    ),
    "bad scale": (
        "dim = 5",
        'dim = 5\nscale = "mean"',
        r"\[data\.toy\] scale is 'mean'; it must be one of none, mean_norm, mean_square",
    ),
    "bad flag": (
        "dim = 5",
        'dim = 5\northogonal = "yes"',
        r"\[data\.toy\] orthogonal is 'yes'; it must be true or false",
    ),
    "bad pair": ("dim = 5", "dim = 5\nstrength = [1.0]", r"\[data\.toy\] strength is \[1\.0\]; it must be two numbers"),
    "bad bias": ('bias = ["none"]', 'bias = ["zero"]', r"\[grid\] bias is 'zero'; it must be one of none, free, mean"),
    "stray width": (
        "stationarity = 1e-3",
        "stationarity = 1e-3\nn_atoms = [3]",
        r"\[learned\] n_atoms is 3; it must be among \[grid\] n_atoms, 2, 4",
    ),
    "bad start": (
        "stationarity = 1e-3",
        'warm = ["none", "lam"]',
        r"\[learned\] warm is \['none', 'lam'\]; it must be 'none' alone",
    ),
    "a file name without end": (
        'data = ["toy"]',
        f'data = ["{"x" * 300}.npy"]',
        r"\[grid\] data is the file '.*x\.npy', which cannot be read \(File name too long\)",
    ),
    "nested without end": ("lam = [0.2]", "lam = " + "[" * 5000 + "]" * 5000, "STUDY .* is not TOML .*; correct it"),
    "check of nothing": (
        '"learned"]',
        '"check"]',
        r"\[grid\] methods has 'check', which checks what is learned; add 'learned'",
    ),
    "spectral floor of every bias": ('"wide_limit", "learned"]\n', '"spectral_floor"]\n', None),
    "generator without N": ("n_points = [40]", "", r"\[grid\] lacks n_points, which the generator of data 'toy' needs"),
    "data set that is no table": (
        "[data.toy]",
        "[data]\ntoy = 3\n[calibrate]",
        r"\[data\.toy\] is 3; it must be a table of source",
    ),
    "not TOML": ("[grid]", "[grid", r"STUDY .* is not TOML \(Expected ']' .*\); correct it"),
}


def study(tmp_path, text):
    file = tmp_path / "study.toml"
    file.write_text(text, encoding="utf-8")
    return ScaleStudy.from_toml(file, folder=tmp_path / "out")


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_study_gets_one_sentence_with_key_and_allowed_values(tmp_path, kind):
    old, new, message = BROKEN[kind]
    assert old in GOOD
    text = GOOD.replace(old, new)
    if message is None:
        text, message = (
            text.replace('"none"', '"free"'),
            r"\[grid\] methods has 'spectral_floor', which holds at one bias",
        )
    with rejects(message):
        study(tmp_path, text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "STUDY .* cannot be read"),
        (b"\xff\xfe\x00[grid]", "STUDY .* is not TOML"),
        (b"", r"STUDY .* lacks the table"),
    ],
)
def test_what_is_no_study_at_all_is_refused_likewise(tmp_path, content, message):
    file = tmp_path / "study.toml"
    if content is not None:
        file.write_bytes(content)
    with rejects(message):
        ScaleStudy.from_toml(file)


def test_the_same_study_from_toml_and_from_python(tmp_path):
    from_file = study(tmp_path, GOOD)
    in_python = ScaleStudy(
        folder=tmp_path / "out", name="study", data=["toy"], n_points=[40], n_atoms=(4, 2, 4), lam=[0.2], bias=["none"],
        methods=["wide_limit", "learned"], options={"learned": {"stationarity": 1e-3}},
        sources={"toy": {"source": "sparse_features", "dim": 5, "n_features": 7}},
    )  # fmt: skip
    assert in_python == from_file == study(tmp_path, GOOD.replace("[0.2]", "0.2"))  # one value for a list of one
    assert in_python.n_atoms == (2, 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        in_python.lam = (1.0,)  # type: ignore[misc]
    assert [cell.id for cell in in_python.plan()] == [cell.id for cell in from_file.plan()]


def test_what_is_checked_has_to_be_learned(tmp_path):
    text = GOOD.replace('"learned"]', '"learned", "check"]').replace(
        "stationarity = 1e-3", "n_atoms = [2]\n[check]\nn_atoms = [4]"
    )
    with rejects(r"\[check\] n_atoms is 4; it must be among the widths that are learned, 2"):
        study(tmp_path, text)


def test_numbers_a_generator_refuses_are_named_with_their_table_and_leave_no_folder(tmp_path):
    for wrong, message in (
        ("probability = 7.0", "probability is 7; it must be at most 1"),
        ("orthogonal = true", "7 orth"),
    ):
        with rejects(rf"\[data\.toy\] {message}"):
            study(tmp_path, GOOD.replace("dim = 5", f"dim = 5\n{wrong}")).run()
    with rejects(r"\[grid\] n_points is 1000000000000000: data 'toy' do not fit in memory"):
        study(tmp_path, GOOD.replace("n_points = [40]", "n_points = [1000000000000000]")).run()
    assert not (tmp_path / "out").exists()


def test_a_number_is_the_same_however_it_is_written(tmp_path):
    """Whole or not, of numpy or not: the same cells, ready for JSON."""
    toy = {"toy": {"source": "sparse_features", "dim": 5, "n_features": 7}}
    axes = {
        "folder": tmp_path, "data": ["toy"], "sources": toy, "bias": ["none"],
        "methods": ["learned", "large_dictionary"],
    }  # fmt: skip
    plain = ScaleStudy(
        **axes, n_points=[20], n_atoms=[2, 3], lam=[1.0], atom_cost=[1.0], options={"learned": {"max_seconds": 3.0}}
    )
    other = ScaleStudy(
        **axes, n_points=[20], n_atoms=range(2, 4), lam=[1], atom_cost=[1],
        options={"learned": {"max_seconds": np.int32(3)}},
    )  # fmt: skip
    assert other == plain
    assert [type(n) for n in keys.COUNTS.read([np.int64(2), 3.0], "K")] == [int, int]
    assert [type(x) for x in keys.POSITIVES.read((np.float32(0.5), 1), "λ")] == [float, float]
    assert [cell.id for cell in other.plan()] == [cell.id for cell in plain.plan()]


def test_a_study_can_be_made_from_another(tmp_path):
    cold = study(tmp_path, GOOD.replace("stationarity = 1e-3", 'warm = "none"'))
    assert cold.options["learned"]["warm"] == ()
    again = dataclasses.replace(cold, name="again")
    assert again.options == cold.options and again.sources == cold.sources


def test_a_data_file_is_found_beside_the_study_and_has_to_have_the_rows(tmp_path, rng):
    np.save(tmp_path / "X.npy", rng.normal(size=(30, 4)))
    text = GOOD.replace('"toy"', '"X.npy"').split("[data.toy]")[0]
    cells = study(tmp_path, text.replace("[40]", "[30]")).plan()
    assert {(cell.n_points, cell.dim) for cell in cells} == {(30, 4)}
    with rejects(r"\[grid\] n_points has 40 but the data '.*X\.npy' have 30 rows"):
        study(tmp_path, text).plan()
    assert study(tmp_path, text.replace("n_points = [40]", "")).plan()[0].n_points == 30


def test_every_default_is_a_value_its_key_takes():
    for name, method in registry.EVERY_METHOD.items():
        assert set(method.defaults) <= set(registry.OPTIONS[name])
        for key, value in method.defaults.items():
            assert registry.OPTIONS[name][key].read(value, key) == value
