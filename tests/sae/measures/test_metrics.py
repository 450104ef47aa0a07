"""Metrics against the formulas of the page in plain numpy, and against the libraries' own functions."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cvxsae import SparseAutoencoder, encode
from cvxsae.data import wordllama
from cvxsae.sae import LayerNorm, TopK, metrics
from cvxsae.sae.measures.definitions import DEFINITIONS, Rows
from cvxsae.statistics.estimates import Means, Moments, shares
from tests.helpers.sentences import rejects

RNG = np.random.default_rng(0)
N, D, K, LAM = 60, 5, 9, 0.3
X = RNG.normal(size=(N, D)) + 0.5
SAE = SparseAutoencoder(
    W_enc=RNG.normal(size=(D, K)) / 2,
    b_enc=RNG.normal(size=K) / 4,
    W_dec=RNG.normal(size=(K, D)) * RNG.uniform(0.5, 2, (K, 1)),
    b_dec=RNG.normal(size=D) / 4,
    lam=LAM,
)
Z = np.maximum((X - SAE.b_dec) @ SAE.W_enc + SAE.b_enc, 0)
NORMS = np.linalg.norm(SAE.W_dec, axis=1)


def by_hand(X: np.ndarray, R: np.ndarray, Z: np.ndarray) -> dict[str, float]:
    """The formulas of docs/metrics.md; Z belongs to atoms of norm 1."""
    e, t = np.sum((X - R) ** 2, axis=1), np.sum((X - X.mean(axis=0)) ** 2, axis=1)
    size, length = np.linalg.norm(X, axis=1), np.linalg.norm(R, axis=1)
    return {
        "l0": np.mean(np.sum(Z != 0, axis=1)),
        "l1": np.mean(np.sum(Z, axis=1)),
        "mse": np.mean(e),
        "explained_variance": 1 - e.sum() / t.sum(),
        "fvu": e.sum() / t.sum(),
        "cosine": np.mean(np.sum(X * R, axis=1) / (size * length)),
        "l2_ratio": np.mean(length / size),
        "relative_reconstruction_bias": np.sum(R**2) / np.sum(X * R),
        "dead": np.sum(~(Z != 0).any(axis=0)),
        "dense": np.sum((Z != 0).mean(axis=0) > 0.1),
    }


def test_every_number_is_its_formula_for_all_three_codes():
    found = metrics(X, SAE, tol=1e-9)
    exact = encode(X, SAE.dictionary, LAM, bias=SAE.b_dec, tol=1e-9)
    kinds = {"encoder": Z * NORMS, "exact": exact.codes.toarray(), "exact, refitted": exact.refit().codes.toarray()}
    assert list(found.kinds) == list(kinds)
    for kind, codes in kinds.items():
        R = codes @ SAE.dictionary + SAE.b_dec
        expected = by_hand(X, R, codes)
        expected["value"] = np.mean(np.sum((X - R) ** 2, axis=1) / 2 + LAM * codes.sum(axis=1))
        assert set(found[kind].numbers) == set(expected)
        for name, number in expected.items():
            np.testing.assert_allclose(found[kind][name], number, rtol=1e-6, err_msg=f"{kind}: {name}")
    assert found["encoder"].gap is None
    assert 0 <= (found["exact"].gap or 0) < 1e-8
    assert found["exact"].l0_range is not None
    assert found["exact"].l0_range[0] <= found["exact"]["l0"] <= found["exact"].l0_range[1]
    assert found["exact"]["value"] < found["encoder"]["value"]
    assert found["exact, refitted"]["fvu"] < found["exact"]["fvu"]
    assert found.lam.source == "own"


@pytest.mark.parametrize("normalization", [None, LayerNorm()], ids=["plain", "layer norm"])
def test_reconstructions_are_compared_in_the_units_of_the_data(normalization: Any):
    sae = replace(SAE, normalization=normalization, activation=TopK(3))
    found = metrics(X, sae, lam=LAM)
    expected = by_hand(X, sae.reconstruct(X), sae.encode(X).toarray())
    for name, number in expected.items():
        np.testing.assert_allclose(found["encoder"][name], number, err_msg=name)
    inner = sae.normalized(X).to_numpy()
    codes = encode(inner, sae.dictionary, LAM, bias=sae.b_dec, tol=1e-6)
    np.testing.assert_allclose(found["exact"]["value"], codes.value, rtol=1e-6)
    decoded = torch.from_numpy(codes.codes @ sae.dictionary + sae.b_dec)
    raw = decoded if normalization is None else normalization.forward(torch.from_numpy(X))[1](decoded)
    np.testing.assert_allclose(found["exact"]["mse"], np.mean(np.sum((X - raw.numpy()) ** 2, axis=1)), rtol=1e-4)
    assert any("normalized" in note for note in found.notes) is (normalization is not None)


def test_intervals_are_those_of_the_formulas_and_cover_the_truth():
    found = metrics(X, SAE, confidence=0.9)["encoder"]
    l0 = np.sum(Z != 0, axis=1)
    from scipy import stats

    low, high = stats.t.interval(0.9, N - 1, l0.mean(), stats.sem(l0))
    np.testing.assert_allclose([found.numbers["l0"].low, found.numbers["l0"].high], [low, high])
    R = Z @ SAE.W_dec + SAE.b_dec
    e, t = np.sum((X - R) ** 2, axis=1), np.sum((X - X.mean(axis=0)) ** 2, axis=1)
    fvu = e.sum() / t.sum()
    error = stats.sem(e - fvu * t) / t.mean()
    reach = stats.t.ppf(0.95, N - 1) * error
    for name, middle in (("fvu", fvu), ("explained_variance", 1 - fvu)):
        np.testing.assert_allclose(found.numbers[name].low, middle - reach)
        np.testing.assert_allclose(found.numbers[name].high, middle + reach)


def test_intervals_of_a_ratio_cover_at_their_level():
    """FVU of Gaussian data of a known ratio: 400 samples, coverage of a 90 % interval within four standard errors."""
    hits = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        error, spread = rng.chisquare(4, 80), rng.chisquare(8, 80)
        moments = Moments(("error", "spread"))
        moments.add({"error": error, "spread": spread})
        estimate = moments.ratio("error", "spread", 0.9)
        hits += estimate.low <= 0.5 <= estimate.high
    assert abs(hits / 400 - 0.9) < 4 * np.sqrt(0.09 / 400)


def test_moments_of_blocks_are_those_of_all_rows_far_from_zero():
    rows = RNG.normal(size=(90, 2)) + 1e6
    moments, means = Moments(("a", "b")), Means()
    for part in np.split(rows, [7, 8, 50]):
        moments.add({"a": part[:, 0], "b": part[:, 1]})
        means.add({"rows": part})
    np.testing.assert_allclose(moments.scatter, 89 * np.cov(rows.T), rtol=1e-6)
    np.testing.assert_allclose(means.mean["rows"], rows.mean(axis=0), rtol=1e-14)


def test_densities_have_exact_intervals():
    from scipy.stats import binomtest

    counts = np.array([0, 1, 30, 59, 60])
    low, high = shares(counts.astype(float), 60, 0.95)
    for k, least, most in zip(counts, low, high, strict=True):
        expected = binomtest(int(k), 60).proportion_ci(0.95, method="exact")
        np.testing.assert_allclose([least, most], [expected.low, expected.high], atol=1e-12)


def test_features_are_keyed_by_their_index_and_dead_atoms_stay():
    decoder = SAE.W_dec.copy()
    decoder[2] = 0
    encoder = SAE.b_enc.copy()
    encoder[4] = -1e3
    sae = replace(SAE, W_dec=decoder, b_enc=encoder)
    table: Any = metrics(X, sae).features()
    assert table.index.name == "feature" and len(table) == K
    assert table.loc[4, "encoder: dead"] and table.loc[2, "exact: dead"] and not table.loc[2, "exact: density"]
    np.testing.assert_allclose(table.loc[0, "encoder: density"], np.mean(Z[:, 0] > 0))
    np.testing.assert_allclose(table.loc[0, "encoder: largest code"], Z[:, 0].max() * NORMS[0])
    mean = Z[Z[:, 0] > 0, 0].mean() * NORMS[0]
    np.testing.assert_allclose(table.loc[0, "encoder: mean code"], mean)


def test_codes_are_measured_as_they_are():
    codes = encode(X, SAE.W_dec, LAM, bias=SAE.b_dec)
    found, whole = metrics(X, codes, compat="saelens-legacy"), metrics(X, SAE, compat="saelens-legacy", tol=1e-4)
    assert list(found.kinds) == ["exact", "exact, refitted"]
    for kind in found.kinds:
        np.testing.assert_allclose(found[kind]["fvu"], whole[kind]["fvu"], rtol=1e-2)
        np.testing.assert_allclose(found[kind].compat["l1"], whole[kind].compat["l1"], rtol=1e-2)
    np.testing.assert_allclose(found["exact"]["value"], codes.value, rtol=1e-12)
    with rejects("lam is 0.2 but the codes were made at 0.3"):
        metrics(X, codes, lam=0.2)
    with rejects(r"X has shape \(59, 5\) but the codes are of \(60, 5\)"):
        metrics(X[1:], codes)
    other = metrics(X + 1, codes)  # of other data the codes are not optimal, and the gap says so
    assert (other["exact"].gap or 0) > 0.1


def test_a_loss_function_gets_reconstructions_of_all_rows():
    seen: list[np.ndarray] = []

    def loss(rows: np.ndarray) -> float:
        seen.append(rows.copy())
        rows[:] = 7.0  # what is done to them changes nothing
        return float(np.abs(seen[-1] - X).sum())

    before = X.copy()
    found = metrics(X, SAE, loss=loss)
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(seen[0], X)
    np.testing.assert_array_equal(seen[1], np.zeros_like(X))
    np.testing.assert_allclose(seen[2], SAE.reconstruct(X))
    assert found["encoder"]["loss"] == float(np.abs(seen[2] - X).sum())
    np.testing.assert_allclose(found["encoder"]["loss_recovered"], 1 - found["encoder"]["loss"] / np.abs(X).sum())
    with rejects("what loss returned is 'much'; it must be a number"):
        metrics(X, SAE, loss=lambda rows: "much")  # type: ignore[arg-type, return-value]


def test_tables_and_dictionaries_hold_the_numbers():
    found = metrics(X, SAE, compat="overcomplete")
    table: Any = found.table()
    assert table.index.name == "metric"
    assert table.loc["fvu", "exact"] == found["exact"]["fvu"]
    assert table.loc["fvu", "exact, low"] < table.loc["fvu", "exact"] < table.loc["fvu", "exact, high"]
    assert table.loc["overcomplete/r2_score", "encoder"] == found["encoder"].compat["r2_score"]
    assert table.loc["codes_gap", "exact"] == found["exact"].gap
    said = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert said["kinds"]["exact"]["numbers"]["fvu"]["value"] == found["exact"]["fvu"]
    assert "independent draws" in said["notes"][-1]
    assert "fvu" in str(found) and "FVU encoder" in repr(found)


def test_results_have_the_nesting_of_saebench_and_its_numbers():
    found = metrics(X, SAE, compat="saebench")
    told = json.loads(json.dumps(found.to_saebench("exact")))
    assert told["eval_type_id"] == "core"
    parts, own = told["eval_result_metrics"], found["exact"].compat
    given = {**parts["reconstruction_quality"], **parts["shrinkage"], **parts["sparsity"]}
    assert given == {name: pytest.approx(number) for name, number in own.items()}
    codes = encode(X, SAE.dictionary, LAM, bias=SAE.b_dec, tol=1e-6).codes.toarray()
    density = (codes > 0).mean(axis=0)
    assert [row["index"] for row in told["eval_result_details"]] == list(range(K))
    assert [row["feature_density"] for row in told["eval_result_details"]] == pytest.approx(list(density))
    misc = parts["misc_metrics"]
    assert misc["freq_over_10_percent"] == pytest.approx(np.mean(density > 0.1))
    assert misc["normalized_freq_over_10_percent"] == pytest.approx(density[density > 0.1].sum() / density.sum())
    assert misc["frac_alive"] == pytest.approx(np.mean(density > 0))
    assert parts["convex"]["gap"] == found["exact"].gap
    assert parts["convex"]["fvu"]["value"] == found["exact"]["fvu"]
    assert "gap" not in found.to_saebench()["eval_result_metrics"]["convex"]
    with rejects("compat is None in these metrics; call metrics with"):
        metrics(X, SAE).to_saebench()
    with rejects("kind is 'best'; choose one of encoder, exact, exact, refitted"):
        found.to_saebench("best")


def test_without_time_there_are_only_the_encoders_numbers():
    found = metrics(X, SAE, max_seconds=1e-9)
    assert list(found.kinds) == ["encoder"]
    assert any("not done within max_seconds" in note for note in found.notes)
    np.testing.assert_allclose(found["encoder"]["fvu"], metrics(X, SAE)["encoder"]["fvu"])


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    whole = metrics(X, SAE, compat="dictionary-learning", tol=1e-9)
    monkeypatch.setattr("cvxsae.sae.measures.metrics._CHUNK_ENTRIES", 7 * D)
    monkeypatch.setattr("cvxsae.sae.measures.measuring._BLOCK_ENTRIES", 3 * D)
    parts = metrics(X, SAE, compat="dictionary-learning", tol=1e-9)
    for kind in whole.kinds:
        for name, estimate in whole[kind].numbers.items():
            other = parts[kind].numbers[name]
            np.testing.assert_allclose([other.value, other.low], [estimate.value, estimate.low], rtol=1e-6)
        for name, number in whole[kind].compat.items():
            np.testing.assert_allclose(parts[kind].compat[name], number, rtol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"compat": "sparsify"}, "compat is 'sparsify'; choose one of saelens-legacy, saebench, dictionary-learning"),
        ({"confidence": 1.5}, "confidence is 1.5; pass a number above 0 and below 1"),
        ({"confidence": 0}, "confidence is 0; it must be above zero"),
        ({"lam": "best"}, "lam is 'best'; choose one of match-l0"),
        ({"lam": -1}, "lam is -1; it must be above zero"),
        ({"loss": 3}, "loss is a int; pass a function"),
        ({"tol": 2}, "tol is 2; it is a relative gap"),
        ({"steps": 2}, "'steps' is not an option here"),
    ],
)
def test_bad_arguments_are_one_sentence(options: dict[str, Any], message: str):
    with rejects(message):
        metrics(X, SAE, **options)


def test_data_of_another_dimension_are_rejected():
    with rejects(r"X has 4 columns, but the SAE reads 5; pass activations of the layer"):
        metrics(X[:, :4], SAE)
    with rejects("sae is a int; the data come first, metrics"):
        metrics(X, 3)


def as_rows(codes: np.ndarray, R: np.ndarray, of: np.ndarray = X) -> Rows:
    return Rows(of, R, of.mean(axis=0), sp.csr_array(codes))


def compat_numbers(name: str, rows: Rows) -> dict[str, float]:
    definition = DEFINITIONS[name]
    means = {key: column.mean(axis=0) for key, column in definition.columns(rows).items()}
    dead = float((np.asarray(rows.codes.sum(axis=0)).ravel() == 0).mean())
    return definition.finish(means, len(rows.x), dead)


def test_definitions_of_saelens_and_saebench_by_hand():
    R = Z @ SAE.W_dec + SAE.b_dec
    e = np.sum((X - R) ** 2, axis=1)
    legacy = np.mean(1 - e / np.sum((X - X.mean(axis=0)) ** 2, axis=1))
    saelens, saebench = metrics(X, SAE, compat="saelens-legacy"), metrics(X, SAE, compat="saebench")
    np.testing.assert_allclose(saelens["encoder"].compat["explained_variance"], legacy)
    np.testing.assert_allclose(saelens["encoder"].compat["l1"], Z.sum(axis=1).mean())
    spread = np.mean(np.sum(X**2, axis=1)) - np.mean(np.mean(X**2, axis=0)) ** 2
    np.testing.assert_allclose(saebench["encoder"].compat["explained_variance"], 1 - e.mean() / spread)
    np.testing.assert_allclose(saebench["encoder"].compat["mse"], e.mean() / N)


def test_an_offset_of_all_reconstructions_shows_in_fvu_and_not_in_dictionary_learnings():
    R = Z @ SAE.W_dec + SAE.b_dec
    there, moved = (compat_numbers("dictionary-learning", as_rows(Z, made)) for made in (R, R + 10))
    np.testing.assert_allclose(there["frac_variance_explained"], moved["frac_variance_explained"])
    shifted = replace(SAE, b_dec=SAE.b_dec + 10, b_enc=SAE.b_enc + 10 * SAE.W_enc.sum(axis=0))
    assert metrics(X, shifted)["encoder"]["fvu"] > metrics(X, SAE)["encoder"]["fvu"] + 1


def test_dictionary_learning_says_the_same():
    evaluation = pytest.importorskip("dictionary_learning.evaluation", reason="compares with dictionary_learning")

    class Dictionary:
        dict_size, activation_dim = K, D

        def __call__(self, x: torch.Tensor, output_features: bool) -> tuple[torch.Tensor, torch.Tensor]:
            codes = torch.from_numpy(Z)
            return codes @ torch.from_numpy(SAE.W_dec) + torch.from_numpy(SAE.b_dec), codes

    numbers = evaluation.evaluate(Dictionary(), iter([torch.from_numpy(X)]))
    ours = metrics(X, SAE, compat="dictionary-learning")["encoder"].compat
    for name, number in numbers.items():
        np.testing.assert_allclose(ours[name], number, rtol=1e-6, err_msg=name)


def theirs(module: Any, **more: Any) -> tuple[dict[str, float], dict[str, list[float]]]:
    """What the evaluation of SAELens, or of SAEBench, says of the SAE's codes, in a language model that is none."""
    codes, data = torch.from_numpy(Z)[None], torch.from_numpy(X)[None]
    metadata = SimpleNamespace(hook_name="hook", hook_head_index=None, hook_layer=0)
    numbers: tuple[dict[str, float], dict[str, list[float]]] = module.get_sparsity_and_variance_metrics(
        sae=SimpleNamespace(
            cfg=SimpleNamespace(**vars(metadata), metadata=metadata, d_sae=K),
            device="cpu",
            encode=lambda x: codes,
            decode=lambda z: z @ torch.from_numpy(SAE.W_dec) + torch.from_numpy(SAE.b_dec),
        ),
        model=SimpleNamespace(run_with_cache=lambda *a, **k: (None, {"hook": data})),
        activation_store=SimpleNamespace(
            get_batch_tokens=lambda n=1: torch.zeros((1, N), dtype=torch.long),
            apply_norm_scaling_factor=lambda x: x,
            unscale=lambda x: x,
            normalize_activations="none",
        ),
        n_batches=1,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        eval_batch_size_prompts=1,
        model_kwargs={},
        **more,
    )
    return numbers


SHARED = ("mse", "cossim", "l2_ratio", "relative_reconstruction_bias", "l0", "l1")


def test_saelens_says_the_same():
    evals = pytest.importorskip("sae_lens.evals", reason="compares with sae-lens")
    numbers, per_feature = theirs(evals, activation_scaler=SimpleNamespace(scale=lambda x: x, unscale=lambda x: x))
    found = metrics(X, SAE, compat="saelens-legacy")
    ours, right = found["encoder"].compat, found["encoder"]
    np.testing.assert_allclose(ours["explained_variance"], numbers["explained_variance_legacy"], rtol=1e-6)
    for name in SHARED:
        np.testing.assert_allclose(ours[name], numbers[name], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(right["explained_variance"], numbers["explained_variance"], rtol=1e-6)
    np.testing.assert_allclose(right["mse"], numbers["mse"], rtol=1e-6)
    densities = found.features()["encoder: density"]
    np.testing.assert_allclose(densities, per_feature["feature_density"], rtol=1e-6)


def test_saebench_says_the_same():
    core = pytest.importorskip("sae_bench.evals.core.main", reason="compares with sae-bench")
    numbers, _ = theirs(core, ignore_tokens=set())
    ours = metrics(X, SAE, compat="saebench")["encoder"].compat
    for name in (*SHARED, "explained_variance", "explained_variance_legacy"):
        np.testing.assert_allclose(ours[name], numbers[name], rtol=1e-6, err_msg=name)


def test_overcomplete_says_the_same():
    library = pytest.importorskip("overcomplete.metrics", reason="compares with overcomplete")
    R, codes = torch.from_numpy(Z @ SAE.W_dec + SAE.b_dec), torch.from_numpy(Z)
    ours = metrics(X, SAE, compat="overcomplete")["encoder"].compat
    expected = {
        "r2_score": library.r2_score(torch.from_numpy(X), R),
        "avg_l2_loss": library.avg_l2_loss(torch.from_numpy(X), R),
        "relative_avg_l2_loss": library.relative_avg_l2_loss(torch.from_numpy(X), R),
        "l0": library.l0(codes),
        "l0_eps": library.l0_eps(codes),
        "dead_codes": library.dead_codes(codes).mean(),
    }
    for name, number in expected.items():
        np.testing.assert_allclose(ours[name], float(number), rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_one_reconstruction_has_as_many_explained_variances_as_there_are_libraries():
    """Token embeddings as they are in the file, and their projection on eight principal components."""
    pytest.importorskip("wordllama", reason="measures embeddings that ship with wordllama")
    data = wordllama().astype(np.float64)
    center = data.mean(axis=0)
    _, vectors = np.linalg.eigh((data - center).T @ (data - center))
    top = vectors[:, -8:]
    R = center + (data - center) @ top @ top.T
    none = np.zeros((len(data), 1))
    found = {name: compat_numbers(name, as_rows(none, R, data)) for name in ("saebench", "overcomplete")}
    right = by_hand(data, R, none)["explained_variance"]
    assert round(right, 4) == 0.0745
    assert round(found["saebench"]["explained_variance_legacy"], 3) == 0.078
    assert round(found["saebench"]["explained_variance"], 3) == 0.079
    assert round(found["overcomplete"]["r2_score"], 3) == 0.082
    assert round(np.mean(1 - np.sum((data - R) ** 2, axis=1) / np.sum(data**2, axis=1)), 3) == 0.083
