"""Audits with held-out rows: what is said of which rows, intervals, memory that is no gain, and which rows they are."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import t

import cvxsae
from cvxsae import SparseAutoencoder, encode
from cvxsae.data import files
from cvxsae.data.activations import Activations
from cvxsae.data.splits import chosen_rows
from cvxsae.data.stored import StoredRows
from cvxsae.data.synthetic import sparse_features
from cvxsae.errors import CertificateError
from cvxsae.relaxations.solution import Status
from cvxsae.sae import Audit, LossLedger
from cvxsae.sae.audits.held_out import Drawn, estimates_of
from cvxsae.sae.audits.rows import rows_asked
from cvxsae.sae.audits.verdict import Verdict
from cvxsae.statistics.estimates import Estimate
from tests.helpers.problems import primal, unit
from tests.helpers.sentences import rejects
from tests.sae.audits.coverage import WAYS, Population
from tests.sae.audits.few_rows import LAM as FEW_LAM
from tests.sae.audits.few_rows import SMALL, drawn, trained, worth
from tests.sae.audits.test_verdict import ledger as plain_ledger

LAM, K, D = 0.2, 6, 5
audit: Any = cvxsae.audit


def data(n=60):
    return sparse_features(n, D, 6, seed=5, probability=0.3, bias_norm=0.5, noise=0.02).X


def autoencoder() -> SparseAutoencoder:
    """An untrained one: some sense in its encoder, none in its atoms."""
    rng = np.random.default_rng(0)
    atoms = unit(rng.normal(size=(K, D)))
    W = {"W_enc": atoms.T + 0.1 * rng.normal(size=(D, K)), "b_enc": np.full(K, -LAM), "W_dec": atoms}
    return SparseAutoencoder.from_arrays({**W, "b_dec": 0.1 * rng.normal(size=D)}, lam=LAM)


DOCUMENTS = np.repeat([f"text {number}" for number in range(12)], 5)


@functools.lru_cache(maxsize=1)
def by_document() -> Audit:
    """Of 12 texts of 5 rows, a third of them held out."""
    return audit(data(), autoencoder(), held_out=1 / 3, groups=DOCUMENTS, confidence=0.9, stationarity=1e-6)


def exact_values(rows, dictionary, bias):
    return encode(rows, dictionary, LAM, bias=bias, tol=1e-10).values


def by_hand(values, groups, confidence):
    """The mean and its interval, documents as units, as written in theory.md T17 d."""
    sums = np.array([(values[groups == one] - values.mean()).sum() for one in np.unique(groups)])
    m = len(sums)
    reach = t.ppf((1 + confidence) / 2, m - 1) * np.sqrt(m / (m - 1) * (sums**2).sum()) / len(values)
    return values.mean(), values.mean() - reach, values.mean() + reach


@pytest.mark.slow
def test_levels_lines_and_intervals_are_those_of_the_rows_held_out():
    X, sae, found = data(), autoencoder(), by_document()
    ledger, numbers = found.ledger, found.accounts.numbers
    rows, others = X[numbers], np.delete(X, numbers, axis=0)
    texts = DOCUMENTS[numbers]
    assert len(set(texts)) == 4
    assert not set(texts) & set(np.delete(DOCUMENTS, numbers))  # whole documents
    assert (ledger.rows, ledger.n_points, ledger.n_seen) == ("held out", 20, 40)
    codes = np.maximum((rows - sae.b_dec) @ sae.W_enc + sae.b_enc, 0)
    encoder = np.array(
        [primal(row[None], sae.b_dec, sae.W_dec, code[None], LAM) for row, code in zip(rows, codes, strict=True)]
    )
    exact, local = exact_values(rows, sae.W_dec, sae.b_dec), exact_values(rows, ledger.dictionary, ledger.decoder_bias)
    wanted = {
        "loss": encoder, "exact": exact, "local": local, "amortization_gap": encoder - exact,
        "dictionary_gap": exact - local, "memorization": found.sample.dictionary_gap - (exact - local),
    }  # fmt: skip
    assert set(ledger.estimates) == set(wanted)
    for name, values in wanted.items():
        one = ledger.estimates[name]
        mean, low, high = by_hand(values, texts, 0.9)
        assert getattr(ledger, name) == pytest.approx(mean, abs=1e-6), name
        assert one.value == pytest.approx(getattr(ledger, name), rel=1e-12), name
        assert (one.low, one.high) == pytest.approx((max(low, 0) if "amort" in name else low, high), abs=1e-5), name
        assert (one.unit, one.n_units, one.confidence) == ("document", 4, 0.9)
    seen = primal(others, sae.b_dec, sae.W_dec, np.maximum((others - sae.b_dec) @ sae.W_enc + sae.b_enc, 0), LAM)
    assert found.sample.loss == pytest.approx(seen, rel=1e-10)
    assert found.sample.rows == "given"
    assert found.sample.dictionary is ledger.dictionary
    assert ledger.floor <= min(ledger.exact, ledger.local)
    total = sum(getattr(ledger, f"{name}_gap") for name in ("amortization", "dictionary", "local", "width"))
    assert total + ledger.wide == pytest.approx(ledger.loss, rel=1e-12)
    assert any(note.startswith("20 of 60 rows are held out, by document with seed 0") for note in ledger.notes)


@pytest.mark.slow
def test_the_rows_learned_on_are_an_audit_of_their_own():
    X, found = data(), by_document()
    others = np.delete(X, found.accounts.numbers, axis=0)
    alone = audit(others, autoencoder(), held_out=None, stationarity=1e-6)
    for name in ("loss", "exact", "local", "floor", "wide"):
        assert getattr(found.sample, name) == pytest.approx(getattr(alone.ledger, name), rel=1e-12), name
    assert alone.sample is alone.ledger
    assert not alone.ledger.estimates
    assert alone.ledger.memorization is None
    told = audit(others, autoencoder(), held_out=X[found.accounts.numbers], confidence=0.9, stationarity=1e-6)
    assert told.ledger.dictionary_gap == pytest.approx(found.ledger.dictionary_gap, rel=1e-12)
    assert told.ledger.estimates["dictionary_gap"].unit == "row"
    np.testing.assert_array_equal(told.accounts.numbers, np.arange(20))


@pytest.mark.slow
def test_memory_is_not_a_better_dictionary():
    """Seen: a dictionary that gains 8.9 of 34.5 on the rows it was learned on, and costs 4.4 more on others."""
    many, few, others = drawn(SMALL)
    sae = trained(many, SMALL)
    own = (sae.dictionary, sae.b_dec)
    old, new = (audit(few, sae, held_out=share, stationarity=1e-3) for share in (None, 0.25))
    assert old.verdict.dictionary.sure > 0.05 * old.ledger.loss
    assert "learned on these rows" in " ".join(old.sentences)
    assert worth(others, *own) < worth(others, old.ledger.dictionary, old.ledger.decoder_bias)  # it was memory
    ledger = new.ledger
    assert new.sample.dictionary_gap > 0.05 * new.sample.loss
    assert ledger.dictionary_gap < 0
    assert worth(others, *own) < worth(others, ledger.dictionary, ledger.decoder_bias)
    assert ledger.memorization == new.sample.dictionary_gap - ledger.dictionary_gap
    assert ledger.estimates["memorization"].low > 0
    assert not ledger.shows_better
    assert new.verdict.first != "dictionary"
    said = next(one for one in new.sentences if one.startswith("A better dictionary of the same width: none shown."))
    assert "memorization" in said
    line = next(line for line in str(ledger).splitlines() if "dictionary gap" in line)
    assert line.endswith("none shown")
    table = ledger.table().set_index("line")
    assert table.loc["dictionary gap", "meaning"].startswith("none shown: ")
    assert table.loc["memorization", "amount"] == ledger.memorization
    report = new.to_dict()
    assert any("memorization" in sentence for sentence in report["sentences"])
    lines = report["tables"]["lines"]
    names = [column["name"] for column in lines["columns"]]
    rows = {row[0]: dict(zip(names, row, strict=True)) for row in lines["rows"]}
    assert rows["dictionary gap"]["seen"] == new.sample.dictionary_gap
    assert rows["dictionary gap"]["amount"] == ledger.dictionary_gap
    assert (rows["memorization"]["low"], rows["memorization"]["high"]) == (
        ledger.estimates["memorization"].low, ledger.estimates["memorization"].high
    )  # fmt: skip
    assert ledger.lam == FEW_LAM


@pytest.mark.slow
def test_intervals_hold_as_often_as_they_say_and_those_of_the_wrong_unit_do_not():
    population = Population.made(2000)
    assert min(population.correlation.values()) > 0.2
    gaps = ("amortization_gap", "dictionary_gap")
    right, documents, wrong = (population.coverage(600, draw=draw, unit=unit) for draw, unit in WAYS)
    for name in gaps:
        assert min(right[name], documents[name]) >= 0.93, name
        assert wrong[name] < 0.8, name


# ------------------------------------------------------------------------------------------------ words


def told(levels=(1.0, 0.8, 0.7, 0.4, 0.3), seen=0.2, **intervals):
    """A ledger of held-out rows with these levels, and intervals of its gaps."""
    loss, exact, local, *_ = levels
    values = {"amortization_gap": loss - exact, "dictionary_gap": exact - local}
    made = {
        name: Estimate(values[name], ends[0], ends[1], method="t", confidence=0.95, unit="row", n_units=10)
        for name, ends in {"amortization_gap": (0.1, 0.3), "dictionary_gap": (0.05, 0.15), **intervals}.items()
    }
    gap = made["dictionary_gap"]
    memorized = replace(gap, value=seen - gap.value, low=seen - gap.high, high=seen - gap.low)
    estimates = {**made, "memorization": memorized, "loss": replace(gap, value=loss, low=0.9 + 0 * gap.low, high=1.1)}
    return plain_ledger(*levels, rows="held out", n_seen=30, seen_gap=seen, estimates=estimates, codes_gap=1e-6)


def test_what_comes_first_is_what_is_sure_of_the_distribution():
    verdict = Verdict.of(told())
    assert (verdict.first, verdict.encoder.sure, verdict.dictionary.sure) == ("encoder", 0.1, 0.05)
    assert verdict.sentences[0].startswith(
        "Change the encoder first. Exact codes of the same dictionary lower the loss by 20.0% on the 10 held-out rows, "
        "and by at least 10.0% for the distribution (95% confidence). No codes of this dictionary lower it by more than"
    )
    assert "at least 0.05 (5.0% of the loss) for the distribution, with 95% confidence" in verdict.sentences[1]
    better = Verdict.of(told(amortization_gap=(0.0, 0.4)))
    assert better.first == "dictionary"
    assert "learned on 30 other rows" in better.sentences[0]
    assert better.sentences[1].startswith(
        "Compared with exact codes of its own dictionary, the encoder loses at least 0 "
    )
    assert json.dumps(better.to_dict(), allow_nan=False)


def test_rows_that_are_too_few_leave_it_open():
    wide = {"amortization_gap": (0.0, 0.4), "dictionary_gap": (-0.1, 0.3)}
    verdict = Verdict.of(told(**wide))
    assert verdict.first == "open"
    assert verdict.sentences[0] == (
        "What to change first is open: exact codes of the same dictionary lower the loss by 0.2 (20.0% of the loss) on "
        "the 10 held-out rows, but the gain for the distribution is between 0 and 0.4, with 95% confidence; hold out "
        "more rows."
    )
    assert verdict.sentences[1].startswith("A better dictionary of the same width: none shown.")
    assert "whether its gain on the rows it was learned on is memorization" in verdict.sentences[1]
    nan = (float("nan"), float("nan"))
    one = Verdict.of(told(amortization_gap=nan, dictionary_gap=nan))
    assert one.first == "open"
    assert "too few for an interval" in one.sentences[0]
    assert "nan" not in " ".join(one.sentences)
    assert "too few for intervals" in str(told(amortization_gap=nan, dictionary_gap=nan))


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((-0.3, -0.1), ": its gain on the rows it was learned on is memorization;"),
        (
            (-0.3, 0.05),
            ": of its gain on the rows it was learned on, at least 0.15 (15.0% of the loss) is",
        ),
        ((-0.3, 0.3), ": these rows do not show whether its gain on the rows it was learned on is memorization;"),
    ],
)
def test_none_shown_says_how_much_was_memory(ends, words):
    """Widths are counted from the better of the two dictionaries."""
    ledger = told((1.0, 0.995, 1.15, 0.4, 0.3), amortization_gap=(0.0, 0.009), dictionary_gap=ends)
    verdict = Verdict.of(ledger)
    assert verdict.first == "width"
    assert verdict.width.most == pytest.approx(0.995 - 0.3)
    said = verdict.sentences[2 if len(verdict.sentences) > 2 else 1]
    assert said.startswith("A better dictionary of the same width: none shown. The one found gains 0.2 on the 30 rows")
    assert words in said
    assert "none shown" in str(ledger)


def test_a_ledger_of_rows_held_out_may_lose_by_its_dictionary_and_by_nothing_else():
    levels = (1.0, 0.8, 0.9, 0.4, 0.3)
    with pytest.raises(CertificateError, match="dictionary gap is negative"):
        plain_ledger(*levels)
    ledger = told(levels, dictionary_gap=(-0.2, 0.0))
    for broken in ({"exact": 0.39}, {"local": 0.39}, {"wide": 0.41}, {"loss": 0.79}):
        with pytest.raises(CertificateError):
            replace(ledger, **broken)
    again = LossLedger.from_dict(json.loads(json.dumps(ledger.to_dict(), allow_nan=False)))
    assert str(again) == str(ledger)
    assert again.estimates == dict(ledger.estimates)
    old = {name: value for name, value in plain_ledger(1.0, 0.8, 0.7, 0.4, 0.3).to_dict().items() if name not in (
        "rows", "n_seen", "seen_gap", "estimates", "memorization"
    )}  # fmt: skip
    read = LossLedger.from_dict(old)
    assert (read.rows, read.estimates, read.memorization) == ("given", {}, None)


def test_where_nothing_better_was_found_the_gap_is_zero_for_certain():
    population = Population.made(200)
    exact = population.exact
    found = estimates_of(population.by_encoder, exact, exact, 0.0)
    assert (found["dictionary_gap"].value, found["dictionary_gap"].low, found["dictionary_gap"].high) == (0, 0, 0)
    assert found["amortization_gap"].low >= 0


def test_levels_of_the_distribution_are_not_negative():
    """Seen: an interval of the loss from -7.7e8 to 1.2e9 of a few rows, whose numbers ran into each other."""
    values = np.array([1e9, 0.0, 2e7])
    nothing = sp.csr_array((3, 2))
    rows = Drawn(numbers=np.arange(3), groups=None, confidence=0.95)
    one = rows.evaluation(values, values, nothing, Status.CERTIFIED)
    assert one.mean.low < 0
    found = estimates_of(one, one, one, 0.0)
    assert [found[name].low for name in ("loss", "exact", "local")] == [0, 0, 0]
    assert found["loss"].high == one.mean.high
    printed = str(plain_ledger(2.2e8, 2e8, 1e8, 1.0, 0.5)).splitlines()
    assert printed[1].split("F(D, b, E(X))")[1].split()[0] == "2.2e+08"


# -------------------------------------------------------------------------------------------------- rows


def asked(X=None, **options):
    return rows_asked(data(20) if X is None else X, D, options, 0)


def test_rows_that_cannot_be_held_out_are_one_sentence():
    X, labels = data(20), np.arange(20)
    for options, sentence in (
        ({"X": X[:1]}, "X has 1 row, of which none can be held out; pass more, or other data as held_out, or None"),
        ({"groups": np.zeros(20)}, "groups holds float64"),
        ({"groups": [0, "a"] * 10 + [[1]]}, "groups cannot be read as an array"),
        ({"groups": np.array([0, "a"] * 10, dtype=object)}, "groups holds object entries"),
        ({"groups": np.zeros(20, int)}, "X has 1 document, of which none"),
        ({"groups": labels[:3]}, "groups has shape"),
        ({"held_out": 0}, "held_out is 0"),
        ({"held_out": 1.0}, "held_out is 1; as a share"),
        ({"held_out": True}, "held_out is True"),
        ({"held_out": X}, "held_out is X itself"),
        ({"X": "X.npy", "held_out": "X.npy"}, "held_out is X itself"),
        ({"held_out": X[:, :3].copy()}, "held_out has 3 columns, but the SAE reads 5"),
        ({"held_out": "nowhere.npy"}, "held_out"),
        ({"held_out": None, "groups": labels}, "groups was passed, but no rows are held out"),
        ({"held_out": X.copy(), "groups": labels}, "groups was passed, but only held-out rows"),
        ({"held_out_groups": labels}, "held_out_groups was passed, but held_out is a share"),
        ({"held_out": X.copy(), "held_out_groups": labels[:2]}, "held_out_groups has shape"),
        ({"confidence": 1.0}, "confidence is 1"),
        ({"drop_outliers": 0.5}, "drop_outliers is 0.5; pass True, False, or more than 1"),
        ({"drop_outliers": "all"}, "drop_outliers is 'all'"),
    ):
        with rejects(sentence):
            asked(**{"X": X, **options})


def test_outliers_are_named_and_left_out_where_that_is_asked_for():
    X, labels = data(40), np.arange(40) // 4
    X[[3, 17]] *= 1000
    kept = asked(X, groups=labels)
    assert len(kept.given) == 40
    assert any("2 of 40 rows (0.05) have a norm" in note and "drop_outliers=True" in note for note in kept.notes)
    for ratio in (True, 50.0):
        dropped = asked(X, groups=labels, drop_outliers=ratio)
        assert len(dropped.given) == 38
        assert any("they were left out" in note for note in dropped.notes)
        numbers = dropped.drawn.numbers
        np.testing.assert_array_equal(dropped.judged.to_numpy(), X[numbers])
        assert not {3, 17} & set(numbers.tolist())
        learned = np.setdiff1d(np.arange(40), [3, 17, *numbers])
        np.testing.assert_array_equal(dropped.learned_on.to_numpy(), X[learned])
        assert not set(labels[numbers]) & set(labels[learned])
    other = data(30)
    other[7] *= 1000
    apart = asked(data(20), held_out=other, held_out_groups=np.arange(30) // 3, drop_outliers=True)
    np.testing.assert_array_equal(apart.judged.to_numpy(), np.delete(other, 7, axis=0))
    assert apart.drawn.groups is not None
    np.testing.assert_array_equal(np.bincount(apart.drawn.groups), [3, 3, 2, 3, 3, 3, 3, 3, 3, 3])
    assert not asked(data(20)).notes[1:]


def test_rows_of_a_file_do_not_come_into_memory(tmp_path, monkeypatch):
    X = data(64).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    monkeypatch.setattr(files, "MEMORY_LIMIT", 100)
    mask = np.arange(64) % 3 == 0
    chosen = chosen_rows(Activations(tmp_path / "X.npy"), mask)
    np.testing.assert_array_equal(chosen.to_numpy(), X[mask])
    assert chosen.dtype == Activations(X).dtype
    assert isinstance(chosen._held, StoredRows)  # an unnamed file, read block by block


@pytest.mark.slow
def test_the_rows_are_announced_before_the_work(capsys):
    audit(data(24), autoencoder(), progress=True, stationarity=1e-2)
    said = capsys.readouterr().err
    assert "audit: 6 of 24 rows are held out, by row with seed 0; nothing was learned from them" in said
    assert said.index("are held out") < said.index("exact codes, held out")


@pytest.mark.slow
def test_metrics_and_frontier_have_the_units_and_the_confidence_of_the_audit():
    X = np.asarray(sparse_features(60, 4, 8, seed=0, noise=0.1).X)
    sae = cvxsae.sae.train_sae(X, 5, lam=0.1, steps=20)
    found = cvxsae.audit(X, sae, groups=np.repeat(np.arange(12), 5), confidence=0.8, metrics=True, frontier=True)
    assert found.metrics is not None and found.frontier is not None
    numbers = found.metrics["exact"].numbers
    assert {(n.unit, n.n_units, n.confidence) for name, n in numbers.items() if np.isfinite(n.low)} == {
        ("document", 3, 0.8)
    }
    assert found.metrics.features()["exact: density, low"].isna().all()
    np.testing.assert_allclose(numbers["value"].low, found.ledger.estimates["exact"].low, rtol=1e-4)
    assert found.frontier.confidence == 0.8
    own = found.frontier.curve("encoder")[0]
    known = found.metrics["encoder"].numbers["fvu"]
    np.testing.assert_allclose([own.fvu_low, own.fvu_high], [known.low, known.high])
    few = cvxsae.audit(X[:2], sae)
    assert "hold out more rows" in few.sentences[0] or "one row is too few" in " ".join(few.sentences)
    assert "1 rows" not in " ".join(few.sentences)
    two = cvxsae.audit(X, sae, groups=np.repeat([0, 1], 30))
    assert "one document is too few" in " ".join(two.sentences)
