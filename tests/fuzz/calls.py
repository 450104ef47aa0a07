"""A valid, small call of everything public that can be called, so that one argument at a time can be spoiled."""

from __future__ import annotations

import atexit
import importlib
import inspect
import pickle
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import cvxsae
from cvxsae import data, diagnostics, floors, parallel, penalties, population, relaxations, sae, solvers, validation

ROOMS = (
    "sae", "diagnostics", "validation", "relaxations", "floors", "results", "parallel", "data", "study", "solvers",
    "population", "penalties",
)  # fmt: skip

NOT_CALLED = {
    "ActivationsLike": "a type",
    "BiasLike": "a type",
    "EMBEDDED_NAMES": "a constant",
    "FOUR_FEATURES": "a constant",
    "SOLVERS": "a constant",
    "TWENTY_FEATURES": "a constant",
    "Problem": "abstract: its kinds are called",
    "RowPenalty": "abstract: its kinds are called",
    "Status": "an enumeration",
    "InputError": "an exception",
    "NotCertifiedError": "an exception",
    "digits": "takes nothing",
    "wordllama": "takes nothing",
    "wordllama_tokens": "takes nothing",
    **dict.fromkeys(("ReLU", "TanhReLU", "TokenNorm"), "takes nothing"),
    **dict.fromkeys(
        (
            "Audit", "Candidate", "Certificate", "ChosenLambda", "Codes", "Comparison", "ConeCondition", "Conditions",
            "CrossCheck", "DictionaryFit", "Estimate", "FeatureStatistics", "Floor", "Frontier", "FrontierPoint",
            "KSparseCodes", "KindMetrics", "LossLedger", "Metrics", "OptimalityReport", "PairScan", "Penalty",
            "PolarBounds", "Record", "ResidualStructure", "SecondOrder", "SelfTest", "Solution", "Synthetic",
            "TrainingRecord", "Violation", "WidthResult", "HeldOutWidth", "Outliers", "RowBatches", "Evaluation",
            "PopulationFloor", "PopulationGap", "LargeFloor", "PopulationDictionaryFit",
            "Example",
        ),
        "an answer: verbs make it",
    ),
    "Matching": "an answer: match makes it",
    "NonnegativeProof": "a proof: solvers make it",
    "SliceProof": "a proof: solvers make it",
    "ProcessGroup": "made by process_group",
    "identity_score": "called by scan_pairs",
}  # fmt: skip
"""Public names without a call of their own, and why."""

X = np.array(
    [[2.0, 0.5, 0.0], [1.5, 0.25, -0.5], [0.0, 1.0, 0.25], [-0.5, 2.0, 0.0], [0.25, 1.5, 0.5], [0.0, 0.25, -1.5],
     [0.5, 0.0, -2.0], [-1.0, -1.5, 0.25], [-1.75, 0.5, 0.5], [1.0, 1.0, 1.0], [0.75, -0.5, 1.25], [-0.25, -1.0, -1.0]]
)  # fmt: skip
"""Datapoints that every float type holds exactly."""

ATOMS = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.5, 0.5, 1.0], [0.0, -0.5, -1.0]])

CODES = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.0], [0.0, 0.25]])


@dataclass(frozen=True)
class Call:
    """One valid call.

    Attributes
    ----------
    name
        Of what is called, as messages of the fuzzer say it.
    function
        What is called.
    arguments
        By name; each is made anew for every call.
    """

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def parameters(self) -> dict[str, Any]:
        """Every parameter that can be spoiled, with its valid value: the one here, or its default."""
        found = {}
        for name, parameter in inspect.signature(self.function).parameters.items():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            default = None if parameter.default is parameter.empty else parameter.default
            found[name] = self.arguments.get(name, default)
        return found

    def fresh(self) -> dict[str, Any]:
        """The valid arguments, as copies that nobody else holds."""
        return {name: copy_of(value) for name, value in self.arguments.items()}


def copy_of(value: Any) -> Any:
    """A copy of an argument, where it is one that could be changed."""
    return pickle.loads(pickle.dumps(value)) if isinstance(value, np.ndarray | dict | list) else value


@cache
def folder() -> Path:
    """Where calls write."""
    made = tempfile.mkdtemp(prefix="fuzz-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


@cache
def calls() -> dict[str, Call]:
    """All of them by name."""
    return {one.name: one for one in (*_top(), *_rooms(), *_methods(), *_population())}


def _size_of_a_group(device: Any, timeout: Any = 10.0) -> int:
    with cvxsae.process_group(device, timeout=timeout) as group:
        return group.size


def _call(function: Callable[..., Any], name: str = "", /, **arguments: Any) -> Call:
    return Call(name or function.__name__, function, arguments)


def _top() -> list[Call]:
    given = {"X": X, "dictionary": ATOMS, "lam": 0.25}
    codes = {"X": X, "dictionary": ATOMS, "bias": np.array([0.25, 0.0, 0.5])}
    return [
        _call(cvxsae.Activations, X=X),
        _call(cvxsae.SparseCodes, **codes, lam=0.25),
        _call(cvxsae.PenalizedCodes, **codes, lam=0.25, penalty=penalties.Group([0, 0, 1, 1])),
        _call(penalties.Group, groups=[0, 1, 0, 2], weights=[1.0, 0.5, 2.0]),
        _call(penalties.Tree, groups=[[0, 1, 2], [1, 2], [2]], weights=[1.0, 0.5, 2.0]),
        _call(penalties.Tree.of_parents, "Tree.of_parents", parents=[-1, 0, 0, 1], weights=[1.0, 0.5, 2.0, 1.0]),
        _call(penalties.Slope, weights=[2.0, 1.0, 0.5]),
        _call(penalties.Exclusive, groups=[0, 1, 0, 2]),
        _call(penalties.Simplex, total=0.5, exactly=True),
        _call(penalties.Prefixes, sizes=[2, 4], betas=[0.5, 1.0]),
        _call(penalties.Prefixes([2, 4]).stack, "Prefixes.stack", X=X, dictionary=ATOMS, bias=codes["bias"]),
        _call(cvxsae.WideLimit, X=X, lam=0.25),
        _call(cvxsae.CandidateDictionary, X=X, atoms=ATOMS, lam=0.25, atom_cost=0.5),
        _call(cvxsae.LargeDictionary, X=X, lam=0.25, atom_cost=0.5),
        _call(cvxsae.JointProblem, X=X, n_atoms=2, lam=0.25),
        _call(cvxsae.ScaleStudy, folder=folder() / "study", data={"x": X}, methods=("wide_limit",), lam=(0.25,)),
        _call(cvxsae.SparseAutoencoder.from_arrays, "SparseAutoencoder", arrays=_weights(), lam=0.25),
        _call(cvxsae.audit, X=X, sae=_autoencoder(), lam=0.25, stationarity=1e-2),
        _call(sae.metrics, X=X, sae=_autoencoder(), lam=0.25, compat="saebench", tol=1e-4, confidence=0.9),
        _call(sae.frontier, X=X, sae=_autoencoder(), lams=[0.5, 0.25], ks=[1], max_points=8, tol=1e-4),
        _call(solvers.k_sparse_codes, X=X, dictionary=ATOMS, k=2, bias=np.array([0.5, 0.0, 0.25]), start=_codes()),
        _call(sae.lambda_matching_l0, X=X, sae=_autoencoder(), rtol=0.5, max_points=8),
        _call(cvxsae.certify, answer=_solution().problem, candidate=_solution(), tol=1e-6),
        _call(cvxsae.check_optimality, **given, new_atoms=2, pairs=3),
        _call(cvxsae.code_path, X=X, dictionary=ATOMS, lams=2),
        _call(cvxsae.compare, X=X, widths=(2,), lam=0.25, training={"steps": 2}, stationarity=1e-2),
        _call(cvxsae.dictionary_path, X=X, n_atoms=2, lams=(0.5, 0.25), stationarity=1e-2),
        _call(cvxsae.encode, **codes, lam=0.25, tol=1e-6),
        _call(cvxsae.grow, fit=_fit(), n_atoms=3, max_steps=3),
        _call(cvxsae.lambda_for_l0, X=X, dictionary=ATOMS, l0=1.5),
        _call(cvxsae.lambda_max, **codes),
        _call(cvxsae.large_path, problem=cvxsae.LargeDictionary(X[:3], 0.25, 1.0), atom_costs=(1.0,), tol=0.1),
        _call(cvxsae.learn_dictionary, X=X, n_atoms=2, lam=0.25, init=ATOMS[:2], max_steps=5),
        _call(cvxsae.match, A=ATOMS, B=X[:3], X=X, lam=0.25, held_out=X[:4], units=(0, 0, 1, 2), points=1, draws=2),
        _call(_size_of_a_group, "process_group", device="cpu", timeout=10.0),
        _call(cvxsae.shrink, fit=_fit(), n_atoms=1, max_steps=3),
        _call(cvxsae.solve, problem=_solution().problem, tol=1e-6),
        _call(cvxsae.train_sae, X=X, n_atoms=3, lam=0.25, init=ATOMS[:3], steps=3, batch_size=4),
        _call(cvxsae.width_floor, X=X, widths=(1, 2), lam=0.25, kernels=(2,), tol=0.05),
    ]


def _rooms() -> list[Call]:
    residuals, statistics = X, _statistics()
    ones = np.array([0.5, 0.25, 0.0, 1.0])
    return [
        _call(sae.TopK, k=2, by_norm=True),
        _call(sae.JumpReLU, threshold=ones),
        _call(sae.Gated, b_gate=ones, r_mag=ones, b_mag=ones),
        _call(sae.LayerNorm, eps=1e-5, ddof=1),
        _call(sae.Whitening, mean=X[0], matrix=np.eye(3), inverse=np.eye(3)),
        _call(sae.write_example, folder=folder() / "example", n_atoms=2, rows=16, seed=1),
        _call(sae.lambda_from, config={"penalty": 0.25}, library="overcomplete", batch=4, dim=3, scale=2.0),
        _call(validation.crosscheck, problem=_solution().problem),
        _call(diagnostics.absorption, statistics=statistics, count=3),
        _call(
            diagnostics.absorption_gap,
            codes=CODES,
            atom=0,
            parent=np.array([True, True, True, True, False]),
            child=np.array([False, True, True, False, False]),
        ),
        _call(diagnostics.antipodal_gain, values=X[:, 0], lam=0.25),
        _call(diagnostics.antipodal_pairs, statistics=statistics, cosine=-0.25, density=0.1, count=3),
        _call(diagnostics.best_new_atoms, residuals=residuals, lam=0.25, starts=ATOMS),
        _call(diagnostics.duplicates, statistics=statistics, cosine=0.5, count=3),
        _call(diagnostics.feature_densities, statistics=statistics, dense=0.1),
        _call(diagnostics.feature_statistics, X=X, dictionary=ATOMS, lam=0.25),
        _call(diagnostics.refinement_gain, residuals=residuals, lam=0.25, atoms=ATOMS),
        _call(diagnostics.residual_structure, statistics=statistics),
        _call(diagnostics.scan_pairs, statistics=statistics, scores={"a": diagnostics.identity_score}, count=3),
        _call(diagnostics.second_order, X=X, dictionary=ATOMS, lam=0.25),
        _call(diagnostics.split_atom, dictionary=ATOMS, atom=1, direction=np.array([1.0, 0.0, 0.0]), step=0.25),
        _call(diagnostics.split_scores, residuals=X[:5], codes=CODES, dictionary=ATOMS[:2], atoms=np.array([0, 1])),
        _call(relaxations.AtomPenalty, atom_cost=0.5),
        _call(relaxations.cone_condition, codes=CODES, dictionary=ATOMS[:2], features=np.array([0, 1]), tol=1e-6),
        _call(relaxations.datapoint_atoms, X=X, bias=np.array([0.25, 0.0, 0.5])),
        _call(floors.ZonalKernel, powers=(1, 3), coefficients=(0.5, 0.5)),
        _call(floors.exponential_kernel, rate=0.5, degree=4),
        _call(floors.spectral_floor, X=X, n_atoms=2, lam=0.25),
        _call(data.Affine, shift=np.array([0.5, 0.0, 0.25]), scale=2.0),
        _call(data.Feature, probability=0.5, children=(data.Feature(0.25),)),
        _call(data.center, X=X),
        _call(data.center_and_scale, X=X),
        _call(data.scale_to_unit_mean_square, X=X),
        _call(data.circle_feature, n_points=6, dim=3, seed=0, radius=1.0),
        _call(data.clustered, n_points=6, dim=3, n_clusters=2, seed=0, strength=(1.0, 2.0)),
        _call(data.dense_signed_feature, n_points=6, dim=3, seed=0, levels=(-1.0, 1.0), n_sparse=1, probability=0.5),
        _call(data.duplicated_rows, n_unique=3, dim=3, copies=2, seed=0),
        _call(data.embedded, name="digits"),
        _call(data.gather_batches, batches=[X[:5], X[5:]], name="batches"),
        _call(data.hierarchy, n_points=6, dim=4, features=data.FOUR_FEATURES, seed=0),
        _call(data.read_array, path=_file("one.npy"), name="path"),
        _call(data.read_arrays, path=_file("several.npz"), name="path"),
        _call(data.sparse_features, n_points=6, dim=3, n_features=2, seed=0, probability=0.5, noise=0.1),
        _call(data.write_arrays, path=folder() / "written.npz", mapping={"X": X}, name="path"),
    ]


def _population() -> list[Call]:
    rows, problem = np.concatenate([X, X + 0.25]), population.PopulationDictionary(0.25, 0.25)
    return [
        _call(population.PopulationDictionary, lam=0.25, atom_price=0.25),
        _call(population.evaluate, X=X, dictionary=ATOMS, lam=0.25, confidence=0.9),
        _call(population.population_floor, X=rows, n_atoms=2, lam=0.25, batch=8, n_batches=2, confidence=0.9),
        _call(population.population_gap, X=rows, dictionary=(ATOMS, None), lam=0.25, n_atoms=2, confidence=0.9),
        _call(population.large_floor, X=rows, problem=problem, batch=6, n_batches=2, confidence=0.9, tol=0.1),
        _call(population.solve_population, X=rows, problem=problem, sample_rows=12, confidence=0.9, tol=0.1),
        _call(data.find_outliers, X=X, ratio=1.5),
        _call(data.without_outliers, X=X, ratio=1.5),
        _call(data.outlier_note, X=X, ratio=1.5),
        _call(data.row_batches, source=X, size=4, skip=2),
        _call(cvxsae.solve_globally, X=X[:3, :2], n_atoms=1, lam=0.25, tol=1e-3, weights=np.array([0.5, 0.25, 0.25])),
        *(_call(kind) for kind in (penalties.L1, penalties.Signed, penalties.L0, penalties.TopOne)),
        _call(penalties.SquaredSum),
        _call(penalties.ElasticNet, ridge=0.25),
        _call(penalties.TopK, k=2),
        _call(penalties.Log, epsilon=0.25),
        _call(penalties.Orthogonality, gamma=0.25),
        _call(penalties.Matryoshka, beta=0.25),
        _call(penalties.radial_bound, X=X, lam=0.25, penalty=penalties.L1()),
    ]


def _methods() -> list[Call]:
    transform, solution, codes, fit = data.Affine(np.array([0.5, 0.0, 0.25]), 2.0), _solution(), _codes(), _fit()
    saved = folder() / "solution.npz"
    solution.save(saved)
    _autoencoder().save(folder() / "sae")
    group = parallel.ProcessGroup()
    return [
        _call(transform.apply, "Affine.apply", X=X),
        _call(transform.invert, "Affine.invert", X=X),
        _call(transform.bias, "Affine.bias", bias=np.array([0.25, 0.0, 0.5])),
        _call(transform.lam, "Affine.lam", lam=0.25),
        _call(transform.value, "Affine.value", value=0.25),
        _call(transform.codes, "Affine.codes", codes=CODES),
        _call(transform.then, "Affine.then", after=transform),
        _call(_autoencoder().encode, "SparseAutoencoder.encode", X=X),
        _call(_autoencoder().reconstruct, "SparseAutoencoder.reconstruct", X=X),
        _call(_autoencoder().normalized, "SparseAutoencoder.normalized", X=X),
        _call(_autoencoder().self_test, "SparseAutoencoder.self_test", X=X),
        _call(_autoencoder().save, "SparseAutoencoder.save", folder=folder() / "again", format="saelens"),
        _call(cvxsae.SparseAutoencoder.load, "SparseAutoencoder.load", path=folder() / "sae"),
        _call(cvxsae.SparseAutoencoder.from_fit, "SparseAutoencoder.from_fit", fit=fit, encoder="regressed", X=X),
        _call(solution.save, "Solution.save", path=folder() / "saved.npz"),
        _call(type(solution).load, "Solution.load", path=saved, problem=solution.problem),
        _call(codes.save, "Codes.save", path=folder() / "codes.npz"),
        _call(fit.save, "DictionaryFit.save", path=folder() / "fit.npz"),
        _call(_statistics().activations, "FeatureStatistics.activations", feature=1),
        _call(cvxsae.ScaleStudy.from_toml, "ScaleStudy.from_toml", path=_file("study.toml"), folder=folder() / "toml"),
        _call(_study().run, "ScaleStudy.run", n_jobs=1, threads=1),
        _call(group.shard, "ProcessGroup.shard", X=X),
    ]


@cache
def _solution() -> Any:
    return cvxsae.solve(cvxsae.WideLimit(X, 0.25))


@cache
def _codes() -> Any:
    return cvxsae.encode(X, ATOMS, 0.25)


@cache
def _fit() -> Any:
    return cvxsae.learn_dictionary(X, 2, 0.25, init=ATOMS[:2], max_steps=5)


@cache
def _statistics() -> Any:
    return diagnostics.feature_statistics(X, ATOMS, 0.25)


@cache
def _autoencoder() -> Any:
    return sae.train_sae(X, 3, 0.25, init=ATOMS[:3], steps=3)


def _study() -> Any:
    return cvxsae.ScaleStudy(folder=folder() / "ran", data={"x": X}, methods=("wide_limit",), lam=(0.25,))


def _weights() -> dict[str, np.ndarray]:
    return {"W_enc": ATOMS.T.copy(), "b_enc": np.zeros(4), "W_dec": ATOMS, "b_dec": np.zeros(3)}


def _file(name: str) -> Path:
    path = folder() / name
    if name.endswith(".npy"):
        np.save(path, X)
    elif name.endswith(".npz"):
        data.write_arrays(path, {"X": X, "atoms": ATOMS})
    else:
        path.write_text(
            '[grid]\ndata = ["x"]\nlam = [0.25]\nmethods = ["wide_limit"]\n[data.x]\nsource = "one.npy"\n',
            encoding="utf-8",
        )
        _file("one.npy")
    return path


def public_names() -> set[str]:
    """All names of the package and its rooms."""
    rooms = [cvxsae, *(importlib.import_module(f"cvxsae.{room}") for room in ROOMS)]
    return {name for room in rooms for name in room.__all__ if not name.startswith("_")}
