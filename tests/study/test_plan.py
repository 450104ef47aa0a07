"""The cells of a study: no two alike, none before what it starts from, and what changes them."""

from __future__ import annotations

import dataclasses
import json

import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import given, settings

from cvxsae import ScaleStudy
from cvxsae.study.plan import Cell
from cvxsae.study.registry import METHODS, depending_on
from cvxsae.study.rows import datapoints
from tests.helpers.sentences import rejects

BY_WIDTH = depending_on("n_atoms")
TOY = {"toy": {"source": "sparse_features", "dim": 4, "n_features": 6}}


def some(values, largest=3):
    return st.lists(st.sampled_from(values), min_size=1, max_size=largest)


@st.composite
def studies(draw):
    methods = draw(some([m for m in METHODS if m not in ("check", "spectral_floor")], 5))
    if "learned" in methods and draw(st.booleans()):
        methods.append("check")
    by_width = any(method in BY_WIDTH for method in methods)
    calibrated = draw(st.booleans())
    axes = {
        "methods": methods,
        "n_points": draw(some([8, 12, 16])),
        "n_atoms": draw(some([1, 2, 3, 5])) if by_width or calibrated else (),
        "atom_cost": draw(some([0.0, 0.5, 1.0])) if "large_dictionary" in methods else (),
        "bias": draw(some(["none", "free", "mean"])),
        "seeds": draw(some([0, 1])),
        "target_l0" if calibrated else "lam": draw(some([0.1, 0.5, 2.0])),
    }
    warm = draw(st.sampled_from([["n_atoms", "lam"], ["lam"], ["none"]]))
    return {"options": {"learned": {"warm": warm}}, **axes}


@settings(max_examples=60, deadline=None)
@given(axes=studies())
def test_no_cell_twice_and_none_before_what_it_starts_from(axes):
    study = base(**{"lam": (), "n_atoms": (), **axes})
    cells = study.plan()
    position = {cell.id: index for index, cell in enumerate(cells)}
    assert len(position) == len(cells)
    levels = {cell.id: cell.level for cell in cells}
    for cell in cells:
        before = [*cell.needs, *([cell.warm] if cell.warm else [])]
        assert all(one in position for one in before)
        assert all(position[one] < position[cell.id] and levels[one] < cell.level for one in before)
        assert Cell.from_dict(cell.to_dict()) == cell and Cell.from_dict(cell.to_dict()).id == cell.id
    # Axes that a method does not depend on are collapsed.
    places = len(study.n_points) * len(study.bias) * max(len(study.lam), len(study.target_l0))
    counts = {method: sum(cell.method == method for cell in cells) for method in METHODS}
    assert counts["wide_limit"] == places * ("wide_limit" in study.methods)
    assert counts["width_floor"] == places * len(study.n_atoms) * ("width_floor" in study.methods)
    assert counts["large_dictionary"] == places * len(study.atom_cost) * ("large_dictionary" in study.methods)
    assert counts["learned"] == places * len(study.n_atoms) * len(study.seeds) * ("learned" in study.methods)


def base(**changes):
    axes = {
        "folder": "unused", "data": ["toy"], "sources": TOY, "n_points": [20], "n_atoms": [2, 4], "lam": [0.2, 0.4],
        "bias": ["none"], "methods": ["wide_limit", "learned"],
    }  # fmt: skip
    return ScaleStudy(**{**axes, **changes})


def ids(study, method="learned"):
    return {cell.id for cell in study.plan() if cell.method == method}


def test_a_cell_is_what_decides_its_answer_and_nothing_else():
    first = ids(base())
    assert len(first) == 4
    assert first < ids(base(n_atoms=[2, 3, 4, 8], lam=[0.1, 0.2, 0.4], seeds=[0, 1]))  # a wider grid keeps its cells
    assert ids(base(folder="elsewhere", name="other")) == first
    assert ids(base(options={"trained_sae": {"steps": 3}})) == first  # another method's options
    for change in (
        {"options": {"learned": {"stationarity": 1e-2}}},
        {"bias": ["free"]},
        {"seeds": [1]},
        {"n_points": [21]},
        {"sources": {"toy": {**TOY["toy"], "seed": 1}}},
        {"sources": {"toy": {**TOY["toy"], "center": True}}},
    ):
        assert not ids(base(**change)) & first, change


def test_what_a_cell_needs_is_part_of_its_identity():
    """Another dictionary to check, or λ calibrated elsewhere, must not be answered by an old cell."""
    checked = {"methods": ["learned", "check"]}
    assert not ids(base(**checked), "check") & ids(
        base(**checked, options={"learned": {"stationarity": 1e-2}}), "check"
    )
    assert ids(base(**checked), "check") < ids(base(**checked, lam=[0.1, 0.2, 0.4]), "check")
    sparse = {"lam": (), "target_l0": [1.0, 2.0]}
    first = base(**sparse)
    assert all(cell.needs == () for cell in first.plan() if cell.method == "calibrate")
    for change in ({"n_atoms": [1, 2, 4]}, {"options": {"calibrate": {"rtol": 0.2}}}):
        other = base(**{**sparse, **change})
        assert not {cell.id for cell in first.plan()} & {cell.id for cell in other.plan()}, change
    wider = base(**sparse, n_atoms=[2, 4, 8])  # calibrated at the same width: all cells still apply
    assert {cell.id for cell in first.plan()} < {cell.id for cell in wider.plan()}
    start = {(c.n_atoms, c.target_l0): c for c in first.plan() if c.method == "learned"}
    assert start[2, 2.0].warm == start[2, 1.0].id


def test_chains_run_along_widths_then_penalties_and_large_penalties_first():
    cells = {(cell.n_atoms, cell.lam): cell for cell in base().plan() if cell.method == "learned"}
    assert cells[2, 0.4].warm is None
    assert cells[2, 0.2].warm == cells[2, 0.4].id
    assert cells[4, 0.4].warm == cells[2, 0.4].id
    assert cells[4, 0.2].warm == cells[2, 0.2].id
    cold = base(options={"learned": {"warm": ["none"]}})
    assert all(cell.warm is None and cell.level == 0 for cell in cold.plan())


def rows_of(source, n_points):
    data, digest = datapoints(source, n_points)
    return data.to_numpy(), digest


def test_datapoints_are_nested_centered_and_scaled_as_said():
    source = {**base().sources["toy"], "source": "digits", "center": True, "scale": "mean_norm"}
    del source["dim"], source["n_features"]
    X, digest = rows_of(source, 50)
    assert np.abs(X.mean(axis=0)).max() < 1e-12
    assert abs(np.linalg.norm(X, axis=1).mean() - 1) < 1e-12
    raw = {**source, "center": False, "scale": "none"}
    few, other = rows_of(raw, 50)
    more, _ = rows_of(raw, 80)
    assert np.array_equal(more[:50], few)
    assert digest != other
    square, _ = rows_of({**raw, "scale": "mean_square"}, 50)
    assert abs(np.square(square).sum(axis=1).mean() - 1) < 1e-12


def test_arrays_are_data_and_are_known_by_their_content(tmp_path, rng):
    """By name or alone, in a table or bare, of any container: the same rows make the same cells."""
    X = rng.normal(size=(20, 3)).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    axes = {"sources": {}, "n_points": [], "n_atoms": [2]}
    first = base(data={"mine": X}, **axes)
    assert {(cell.data, cell.n_points, cell.dim) for cell in first.plan()} == {("mine", 20, 3)}
    for other in (
        {"data": X.astype(np.float64)},
        {"data": torch.from_numpy(X)},
        {"data": np.asfortranarray(X)},
        {"data": ["it"], "sources": {"it": X}},
        {"data": ["it"], "sources": {"it": {"source": X}}},
        {"data": [str(tmp_path / "X.npy")]},
    ):
        assert ids(base(**{**axes, **other})) == ids(first)
    changed = X.copy()
    changed[3, 1] += 1
    assert not ids(base(**{**axes, "data": {"mine": changed}})) & ids(first)
    centered = base(**{**axes, "data": {"mine": {"source": X, "center": True}}})
    assert not ids(centered) & ids(first)
    again = dataclasses.replace(centered, name="again")
    assert ids(again) == ids(centered) and again == dataclasses.replace(centered, name="again")
    json.dumps(first.to_dict())
    with rejects("data 'mine' has shape .*two-dimensional"):
        base(**{**axes, "data": {"mine": X[0]}})
    with rejects("data and sources both describe one data set"):
        base(**{**axes, "data": {"mine": X}, "sources": {"mine": X}})


def test_identity_survives_a_new_schema_only_by_name():
    cell = base().plan()[0]
    assert dataclasses.replace(cell, data="renamed", level=7).id == cell.id
    assert dataclasses.replace(cell, lam=0.3).id != cell.id
