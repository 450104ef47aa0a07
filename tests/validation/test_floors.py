"""The referee of width floors: it certifies what the search finds, and objects to all that claims more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cvxsae import InputError, JointProblem, WideLimit, certify, width_floor
from cvxsae.relaxations.floors import kernels as bound
from cvxsae.relaxations.floors.floor import Floor, FloorPart
from cvxsae.relaxations.floors.spectral import spectral_floor
from cvxsae.validation import floors as referee
from tests.helpers.problems import huber, solve, unit


def objections_to(floor):
    """What the referee says about a floor."""
    return certify(floor).objections


@pytest.fixture
def points(rng):
    """Data for which the kernel bound is the best one."""
    return unit(rng.normal(size=(60, 6)))


@pytest.mark.slow
def test_eigenvalues_left_out_are_noticed(points, monkeypatch):
    honest = bound.share_limit
    monkeypatch.setattr(bound, "share_limit", lambda V, w, k, width: honest(V, w, k, max(1, width - 1)))
    floor = width_floor(points, 8, 0.05, bias=None)
    assert any("largest eigenvalues sum to" in said for said in objections_to(floor))
    assert any("prove at most" in said for said in objections_to(floor))


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "cells"), [(3, 1), (2, 12)])
def test_an_interval_end_swapped_is_noticed(kernel, cells, points, monkeypatch):
    """T15 is bounded on cells of three quantities at once, so one end counts for less: there the interval is wider."""
    honest = bound.shares
    assert objections_to(width_floor(points, 8, 0.05, bias=None, kernels=(kernel,))) == ()

    def swapped(k, resolution=bound.SEARCH):
        moved = cells * resolution.cells // bound.CELLS
        return torch.cat([honest(k, resolution)[moved:], torch.ones(moved).double()])

    monkeypatch.setattr(bound, "shares", swapped)
    floor = width_floor(points, 8, 0.05, bias=None, kernels=(kernel,))
    assert any("prove at most" in said for said in objections_to(floor))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "theorem", "width", "lam", "spread"),
    [(3, "T14", 8, 0.05, 0), (2, "T15", 8, 0.05, 0), (2, "T15", 8, 0.3, 0), (2, "T15", 15, 0.1, 1)],
)
def test_a_claim_half_a_percent_too_high_is_noticed(kernel, theorem, width, lam, spread, points, rng):
    """Claims are computed again almost exactly: what weights prove is 0.1 to 0.4 % above what cells let through."""
    points *= np.exp(spread * rng.normal(size=(len(points), 1)))
    floor = width_floor(points, width, lam, bias=None, kernels=(kernel,))
    part: Any = floor.parts[0]
    assert part.theorem == theorem
    assert objections_to(floor) == ()
    boast = replace(floor, parts=(replace(part, value=part.value * 1.005),))
    assert "prove at most" in " ".join(objections_to(boast))


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.03, 0.1, 0.3])
def test_costs_of_the_cone_are_sampled_at_their_ends_too(ratio):
    """Where the cone does not limit an atom (γ = 0, q = 1) costs are lowest: they are within two cells of the bound."""
    resolution = bound.Resolution(cells=1000, tilts=256)
    q, sampled = referee._sampled(200), referee._cone_costs(referee._cone_table(100), ratio)
    bounded = bound._cone_costs(ratio, resolution).numpy()
    cell = np.minimum((q * resolution.cells).astype(int), resolution.cells - 1)
    assert (sampled >= bounded[cell] * (1 - 1e-12)).all()
    assert (sampled <= bounded[np.maximum(cell - 2, 0)] * 1.02).all()
    assert sampled[-1] == pytest.approx(huber(1.0, ratio), rel=1e-12)


@pytest.mark.slow
def test_claims_without_proof_are_noticed(points):
    floor = width_floor(points, 8, 0.05, bias=None)
    part: Any = floor.parts[0]

    def objections(**changes):
        return " ".join(objections_to(replace(floor, parts=(replace(part, **changes),))))

    assert "prove at most" in objections(value=part.value * 1.02)
    assert "zero or more" in objections(weights=-part.weights)
    assert "largest eigenvalues" in objections(share_limit=part.share_limit * 0.99)
    assert "twice" in objections(rows=np.zeros(60, dtype=int))
    assert "needs a kernel" in objections(kernel=None)
    assert "its parts give" in " ".join(objections_to(replace(floor, value=floor.value * 1.02)))
    free = JointProblem(points, 8, 0.05, bias="free")
    assert "no pairs" in " ".join(objections_to(replace(floor, problem=free)))


def test_floors_without_parts_are_computed_again(points):
    wide, spectral = width_floor(points, 99, 0.05, bias=None), spectral_floor(points, 2, 0.05, bias=np.ones(6))
    free = width_floor(points + 3, 99, 0.05, bias="free")
    assert (wide.theorem, spectral.theorem, free.theorem) == ("T9", "T10", "T9")
    for found in (wide, spectral, free):
        floor = replace(found, parts=())
        assert certify(floor).is_certified
        assert len(objections_to(replace(floor, value=floor.value * (1 + 1e-6)))) == 1
    assert "needs parts" in " ".join(objections_to(replace(free, theorem="T10", parts=())))
    assert objections_to(spectral_floor(np.eye(3)[[0, 0]], 1, 1e-9)) == ()  # zero but for rounding


@pytest.mark.slow
def test_a_floor_for_something_else_is_noticed(points):
    floor = width_floor(points, 8, 0.05, bias=None)
    assert certify(floor.problem, floor).is_certified
    for other, said in (
        (JointProblem(points, 9, 0.05, bias=None), "more can go below it"),
        (JointProblem(points, 8, 0.06, bias=None), "the problem has λ = 0.06"),
        (JointProblem(points, 8, 0.05, bias=np.ones(6)), "another bias"),
        (JointProblem(points, 8, 0.05, bias="free"), "another bias"),
        (JointProblem(points + 1e-9, 8, 0.05, bias=None), "fingerprints differ"),
    ):
        assert said in " ".join(certify(other, floor).objections)
    assert certify(JointProblem(points, 7, 0.05, bias=None), floor).is_certified  # it holds for fewer atoms
    free = width_floor(points, 8, 0.05)
    assert certify(JointProblem(points, 8, 0.05, bias=np.ones(6)), free).is_certified  # and for every bias
    with pytest.raises(InputError, match="a floor is about a JointProblem"):
        certify(WideLimit(points, 0.05), floor)


def test_data_that_changed_since_are_noticed(points):
    floor = width_floor(points, 8, 0.05, bias=None)
    others = points.copy()
    others[0] += 1e-6
    told = replace(floor, problem=JointProblem(others, 8, 0.05, bias=None))
    assert "fingerprints differ" in " ".join(objections_to(told))


@pytest.mark.slow
def test_the_certificate_of_a_floor(points):
    floor = width_floor(points, 8, 0.05, bias=None)
    certificate = certify(floor)
    assert floor.value <= certificate.lower_bound <= floor.value * 1.02
    assert np.isnan(certificate.value)
    assert "floor of 8 atoms: certified" in str(certificate)


def test_one_partner_for_all_is_noticed():
    """One far point paired with twenty would charge its distance twenty times; the best bias charges it once."""
    X = np.zeros((21, 6))
    X[0] = 10
    value = float(huber(np.linalg.norm(X[:1] / 2, axis=1), 0.05)[0])
    part = FloorPart(np.arange(1, 21), np.array([0]), value, "T9")
    floor = Floor(JointProblem(X, 8, 0.05), value * 40 / 21, "T9", (part,))
    assert floor.value > 1.5 * solve(WideLimit(X, 0.05, bias="free")).value
    assert "as many partners" in " ".join(objections_to(floor))
    honest = replace(part, rows=np.array([1]))
    assert objections_to(replace(floor, value=value * 2 / 21, parts=(honest,))) == ()


@pytest.mark.slow
def test_rows_and_kernels_that_prove_nothing(points):
    floor = width_floor(points, 8, 0.05, bias=None)
    part: Any = floor.parts[0]

    def objections(**changes):
        return " ".join(objections_to(replace(floor, parts=(replace(part, **changes),))))

    for rows in (np.arange(60.0), np.arange(60)[:, None], np.ones(60, dtype=bool)):
        assert "whole numbers" in objections(rows=rows)
    assert "no datapoints" in objections(rows=np.zeros(0, dtype=int))
    assert "one a point" in objections(weights=part.weights[:, None])
    assert "is claimed to be nan" in objections(share_limit=np.nan)
    assert "T15 holds for the kernel t²" in objections(kernel=bound.kernel(3))
    for terms in (((2,), (0.01,)), ((2, 4), (2.0, -1.0)), ((0,), (1.0,)), ((2.5,), (1.0,))):
        kernel = bound.kernel(2)
        for name, value in zip(("powers", "coefficients"), terms, strict=True):
            object.__setattr__(kernel, name, value)  # what no kernel that was made can be
        assert "sum to 1" in " ".join(objections_to(replace(floor, parts=(replace(part, kernel=kernel),))))
    points[3] = 0  # a weight where there is no direction is ignored, not an error
    again = replace(floor, problem=JointProblem(points, 8, 0.05, bias=None), fingerprint="")
    assert "Λ_K" not in " ".join(objections_to(again))


@pytest.mark.slow
@pytest.mark.parametrize(("dense", "said"), [(20, "largest eigenvalues sum to at least"), (21, "sum to")])
def test_large_parts_are_checked_too(points, dense, said, monkeypatch):
    """As if 60 points were too many for all eigenvalues: 21 features are few, or too many."""
    floor = width_floor(points, 8, 0.05, bias=None, kernels=(2,))
    monkeypatch.setattr("cvxsae.validation.floors.DENSE", dense)
    assert objections_to(floor) == ()
    part: Any = floor.parts[0]
    low = replace(floor, parts=(replace(part, share_limit=part.share_limit * 0.99),))
    assert said in " ".join(objections_to(low))
    high = replace(floor, value=floor.value * 1.03, parts=(replace(part, value=part.value * 1.03),))
    assert "prove at most" in " ".join(objections_to(high))


@pytest.mark.slow
def test_a_claim_within_the_enclosure_is_not_believed(points, monkeypatch):
    floor = width_floor(points, 8, 0.05, bias=None, kernels=(2,))
    monkeypatch.setattr("cvxsae.validation.floors.DENSE", 20)
    limit: Any = floor.parts[0].share_limit
    monkeypatch.setattr("cvxsae.validation.floors._enclosed_limit", lambda *_: (0.9 * limit, 1.1 * limit))
    assert "could only be confirmed to be below" in " ".join(objections_to(floor))
