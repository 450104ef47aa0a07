"""What a ledger says in words: the parts in the right order, and no gain that the ledger does not prove."""

from __future__ import annotations

import pytest

from cvxsae.sae import LossLedger
from cvxsae.sae.audits.verdict import WORTHWHILE, Verdict


def ledger(loss, exact, local, floor, wide, **more):
    """A ledger with these levels and nothing else of interest."""
    plain = {
        "codes_gap": 1e-3, "local_codes_gap": 0.0, "stationarity": 0.0, "bias_residual": None, "wide_gap": 0.0,
        "floor_theorem": "T14", "improved": True, "bias": "fixed", "n_points": 10, "dim": 2, "n_atoms": 3, "lam": 0.1,
        "lambda_max": 1.0, "l0": 1.0, "exact_l0": 1.0, "local_l0": 1.0, "dead": 0, "exact_dead": 0,
        "exact_l0_range": (1.0, 1.0), "local_l0_range": (1.0, 1.0), "exact_dead_range": (0, 0),
    }  # fmt: skip
    return LossLedger(loss=loss, exact=exact, local=local, floor=floor, wide=wide, **{**plain, **more})


@pytest.mark.parametrize(
    ("levels", "first"),
    [
        ((1.0, 0.8, 0.7, 0.4, 0.3), "encoder"),
        ((1.0, 0.95, 0.7, 0.4, 0.3), "dictionary"),
        ((1.0, 0.999, 0.998, 0.4, 0.3), "width"),
        ((1.0, 0.999, 0.998, 0.997, 0.996), "nothing"),
        ((0.0, 0.0, 0.0, 0.0, 0.0), "nothing"),
    ],
)
def test_what_gains_most_for_certain_comes_first(levels, first):
    verdict = Verdict.of(ledger(*levels))
    assert verdict.first == first
    assert verdict.sentences[0].startswith(
        "On the 10 given rows (none are held out, so nothing is said about others), "
    )
    assert f"change {'nothing' if first == 'nothing' else f'the {first} first'}" in verdict.sentences[0]
    assert len(verdict.sentences) == (1 if first == "nothing" else 3)
    assert verdict.to_dict()["sentences"] == list(verdict.sentences)


def test_gains_are_differences_of_levels_and_certain_on_the_right_side():
    found = ledger(1.0, 0.8, 0.7, 0.4, 0.3, wide_gap=0.1)
    verdict = Verdict.of(found)
    assert verdict.encoder.least == pytest.approx(0.2)
    assert verdict.encoder.most == pytest.approx(1 - 0.8 * (1 - 1e-3))  # exact codes are exact to a gap
    assert verdict.dictionary.least == pytest.approx(0.1)
    assert verdict.dictionary.most == pytest.approx(0.4)
    assert verdict.width.least == pytest.approx(0.4 - 0.3 / 0.9)  # what is attained by an atom per datapoint
    assert verdict.width.most == pytest.approx(0.4)
    assert verdict.everything == pytest.approx(0.7)
    assert "0.2 (20.0% of the loss)" in verdict.sentences[0]


def test_a_gain_below_a_percent_is_nothing():
    just = WORTHWHILE * 1.0001
    assert Verdict.of(ledger(1.0, 1 - just, 1 - just, 1 - just, 1 - just)).first == "encoder"
    less = WORTHWHILE * 0.9
    assert Verdict.of(ledger(1.0, 1 - less, 1 - less, 1 - less, 1 - less)).first == "nothing"


def test_codes_that_were_cut_off_leave_it_open():
    """The width was to be changed first although exact codes, cut off, might have gained half of the loss."""
    cut_off = ledger(1.0, 1.0, 1.0, 0.4, 0.3, codes_gap=0.55, codes_ended="time_limit")
    verdict = Verdict.of(cut_off)
    assert verdict.first == "open"
    assert verdict.sentences == (
        "On the 10 given rows (none are held out, so nothing is said about others), what to change first is open: "
        "the time limit came before exact codes were done. So far, codes are exact only to 0.55, and exact ones could "
        "still lower the loss by up to 0.55 (55.0% of the loss) on the 10 given rows; allow more time.",
    )
    assert Verdict.of(ledger(1.0, 1.0, 1.0, 0.995, 0.994, codes_gap=0.55)).first == "nothing"  # the floor says so
    assert Verdict.of(ledger(1.0, 1.0, 0.9, 0.4, 0.3, codes_gap=0.55)).first == "dictionary"


def test_codes_of_a_loose_tolerance_are_not_a_lack_of_time():
    """Seen: "there was not enough time for exact codes" where no limit was set, but a tolerance of 0.1."""
    (said,) = Verdict.of(ledger(1.0, 1.0, 1.0, 0.4, 0.3, codes_gap=0.05, codes_ended="certified")).sentences
    assert "at this stationarity (--stationarity), codes are exact only to 0.05, and exact ones could still" in said
    assert said.endswith("by up to 0.05 (5.0% of the loss) on the 10 given rows; pass a smaller one.")
    assert "time" not in said
    (unknown,) = Verdict.of(ledger(1.0, 1.0, 1.0, 0.4, 0.3, codes_gap=0.05)).sentences
    assert unknown.endswith("pass a smaller stationarity (--stationarity), or allow more time.")


def test_the_width_is_not_first_where_nothing_proves_that_atoms_are_needed():
    """Seen: "Change the width first … of which at least 0 (0.0% of the loss) is out of reach at this width"."""
    unproved = Verdict.of(ledger(1.0, 0.999, 0.998, 0.3, 0.3, wide_gap=1e-9))
    assert (unproved.first, unproved.width.least) == ("open", 0.0)
    assert unproved.sentences[0].endswith(
        "nothing is shown to help: neither encoder nor dictionary has a sure gain of 1%, and it is not proved that "
        "more atoms are needed; on the 10 given rows, another dictionary and more atoms could gain at most 0.698 "
        "(69.8% of the loss)."
    )
    assert len(unproved.sentences) == 3
    little = Verdict.of(ledger(1.0, 0.999, 0.998, 0.305, 0.3))
    assert little.first == "open"
    assert "only 0.005 (0.5% of the loss) is proved to need more atoms" in little.sentences[0]
    assert Verdict.of(ledger(1.0, 0.999, 0.998, 0.311, 0.3)).first == "width"


def test_what_atoms_gain_is_said_of_enough_of_them():
    """Seen: "more atoms gain at least X", which only as many atoms as datapoints are sure to gain."""
    said = Verdict.of(ledger(1.0, 0.8, 0.7, 0.4, 0.3)).sentences[-1]
    assert said == (
        "Beyond the best dictionary of this width, enough additional atoms (up to one per datapoint) would gain "
        "between 0.1 (10.0% of the loss) and 0.4 (40.0% of the loss) on these rows; how many are needed is not known."
    )
    first = Verdict.of(ledger(1.0, 0.999, 0.998, 0.4, 0.3)).sentences[0]
    assert "up to one per datapoint; how many are needed is not known" in first
    assert "at least 0.1 (10.0% of the loss) is proved to be impossible at this width" in first


def test_above_lambda_max_nothing_is_said_of_the_sae():
    """Seen: "Change the encoder first" at 74 λ_max, where the best codes of every dictionary are zero."""
    verdict = Verdict.of(ledger(1.0, 0.5, 0.5, 0.5, 0.5, lam=2.0))
    assert verdict.first == "open"
    (said,) = verdict.sentences
    assert "λ = 2 is not below λ_max = 1, so the best codes of the 10 given rows are all zero for every dict" in said
    assert "says nothing about the SAE; pass a smaller lam (--lam), or match-l0." in said
    assert Verdict.of(ledger(1.0, 0.5, 0.5, 0.5, 0.5, lam=0.99)).first == "encoder"
    assert "at the best bias" in Verdict.of(ledger(1.0, 0.5, 0.5, 0.5, 0.5, lam=2.0, bias="free")).sentences[0]


def test_a_ledger_with_a_source_and_notes_prints_them():
    told = ledger(1.0, 0.8, 0.7, 0.4, 0.3, lam_source="as given", notes=("a note of its own",))
    assert "lambda 0.1 (as given) = 0.1 lambda_max" in str(told)
    assert str(told).endswith("note: a note of its own")
    assert LossLedger.from_dict(told.to_dict()).notes == told.notes
