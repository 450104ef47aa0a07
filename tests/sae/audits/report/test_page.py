"""The page of a report: its numbers, what it needs, what it escapes, and that it is written whole."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from cvxsae import audit
from cvxsae.sae.audits.report.figures import column, figures
from cvxsae.sae.audits.report.page import FOLDED, render, require_report
from cvxsae.sae.audits.report.tables import merged, shown
from tests.helpers.sentences import rejects
from tests.sae.audits.report.audited import HOSTILE, audited, data

pytest.importorskip("jinja2", reason="reports need the extra cvxsae[report]")
pytest.importorskip("plotly", reason="reports need the extra cvxsae[report]")


class Page(HTMLParser):
    """What is on a page: text by key, tags, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.keyed: dict[str, tuple[str, str]] = {}
        self.tags: list[tuple[str, dict]] = []
        self._key = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        held = dict(attrs)
        self.tags.append((tag, held))
        if "data-key" in held:
            self._key = held["data-key"]
            self.keyed[self._key] = (held["data-value"], "")

    def handle_data(self, data):
        if self._key:
            value, text = self.keyed[self._key]
            self.keyed[self._key] = (value, text + data)

    def handle_endtag(self, tag):
        self._key = ""


def at(contents, key):
    """What the report has under a key."""
    for part in key.split("."):
        contents = contents[int(part)] if isinstance(contents, list) else contents[part]
    return contents


@pytest.fixture(scope="module", name="written")
def written_report(tmp_path_factory):
    """A page and its JSON."""
    file = audited().write_report(tmp_path_factory.mktemp("report") / "report.html")
    return file.read_text(encoding="utf-8"), json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_every_number_on_the_page_is_that_of_the_json(written):
    page, report = written
    keyed = Page(page).keyed
    for key, (value, _) in keyed.items():
        assert json.loads(value) == at(report, key), key
    cells = {
        f"tables.{name}.rows.{row}.{place}"
        for name, table in report["tables"].items()
        for row in range(len(table["rows"]))
        for place in range(len(table["columns"]))
    }
    assert cells <= set(keyed)
    assert {"sentences.0", "lam.value", "lam.ratio", "lam.source", "rows.words", "rows.learned_on"} <= set(keyed)
    kinds = {name: [one["kind"] for one in table["columns"]] for name, table in report["tables"].items()}
    for key in cells:
        _, name, _, _, place = key.split(".")
        assert keyed[key][1] == shown(at(report, key), kinds[name][int(place)]), key


@pytest.mark.slow
def test_the_numbers_are_those_of_the_audit(written):
    _, report = written
    audited_sae = audited()
    assert report["ledger"]["loss"] == audited_sae.ledger.loss
    assert column(report["tables"]["levels"], "value") == [
        getattr(audited_sae.ledger, name) for name in ("loss", "exact", "local", "floor", "wide")
    ]
    worst = report["tables"]["worst_points"]
    lost = audited_sae.accounts.encoder_values - audited_sae.accounts.exact_values
    assert column(worst, "row")[0] == audited_sae.accounts.numbers[lost.argmax()]
    assert column(worst, "lost") == sorted(column(worst, "lost"), reverse=True)
    assert np.mean(audited_sae.accounts.encoder_values) == pytest.approx(audited_sae.ledger.loss, rel=1e-12)
    features = column(report["tables"]["worst_features"], "feature")
    assert 1 not in features  # the atom without a norm; the others keep their indices
    assert set(features) <= {0, 2, 3, 4}
    assert audited_sae.diagnostics is not None
    table = audited_sae.diagnostics.features
    for feature, residual in zip(features, column(report["tables"]["worst_features"], "stationarity"), strict=True):
        expected = table["stationarity"][[0, 2, 3, 4].index(feature)]
        assert residual == (None if np.isnan(expected) else expected)


@pytest.mark.slow
def test_a_loss_and_an_error_are_not_in_one_column():
    """Seen: half a squared error beside losses at λ, so that the encoder seemed better than exact codes."""
    found = audited()
    table = found.to_dict()["tables"]["frontier"]
    curves, lams, losses, errors = (column(table, name) for name in ("curve", "lam", "loss", "half_error"))
    for lam, loss, error in zip(lams, losses, errors, strict=True):
        assert (lam is None, loss is None, error is None) in ((True, True, False), (False, False, True))
    assert found.frontier is not None
    (encoder,) = found.frontier.curve("encoder")
    assert errors[curves.index("encoder")] == encoder.value
    assert "k-sparse" in curves
    assert losses[curves.index("k-sparse")] is None


@pytest.mark.slow
def test_strings_of_files_are_text_and_nothing_is_fetched(written):
    page, report = written
    assert dict(report["tables"]["metadata"]["rows"]) == {str(name): str(value) for name, value in HOSTILE.items()}
    tags = Page(page).tags
    assert [tag for tag, _ in tags].count("script") == 3
    assert all(tag != "img" for tag, _ in tags)
    for tag, held in tags:
        for name in ("src", "href", "data-src", "action"):
            assert held.get(name, "#").startswith(("#", "data:")), (tag, held)
        assert not any(name.startswith("on") for name in held), (tag, held)
    policy = next(held["content"] for _, held in tags if held.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    nonce = re.search(r"nonce-([\w-]+)", policy)
    assert nonce is not None
    running = [held for tag, held in tags if tag == "script" and held.get("type") != "application/json"]
    assert [held["nonce"] for held in running] == [nonce.group(1)] * 2


@pytest.mark.slow
def test_figures_show_the_tables(written):
    _, report = written
    found = figures(report)
    levels = found["levels"]["data"]
    assert sorted(x for bar in levels for x in bar["x"]) == sorted(column(report["tables"]["levels"], "value"))
    for figure in found.values():
        for axis in ("xaxis", "yaxis"):
            assert axis in figure["layout"]
        assert figure["layout"]["xaxis"]["title"]["text"]


@pytest.mark.slow
def test_json_inside_the_page_cannot_end_its_script():
    contents = json.loads(json.dumps(audited().to_dict()))
    contents["tables"]["levels"]["rows"][0][0] = "</script><script>alert(1)</script>"
    assert "</script><script>alert" not in render(contents)


def test_intervals_stand_beside_their_numbers_and_long_tables_are_folded(written):
    """Seen: tables cut off at 1400 px, with columns for both ends of every interval."""
    page, report = written
    names = ["part", "least", "low", "high", "share"]
    assert merged({"columns": [{"name": name} for name in names]}) == [(0, ()), (1, (2, 3)), (4, ())]
    assert merged({"columns": [{"name": name} for name in ("low", "share")]}) == [(0, ()), (1, ())]
    for name in ("levels", "lines", "gains", "frontier", "metrics"):
        found = merged(report["tables"][name])
        assert sum(len(ends) for _, ends in found) + len(found) == len(report["tables"][name]["columns"]), name
        assert any(ends for _, ends in found), name
        headers = re.search(rf'data-table="{name}".*?</thead>', page, re.DOTALL)
        assert headers is not None and headers.group().count("<th ") == len(found)
    folded = {name for name, table in report["tables"].items() if len(table["rows"]) > FOLDED}
    assert set(re.findall(r'data-table="(\w+)" class="folded"', page)) == folded
    assert page.count('class="unfold"') == len(folded) > 0


def test_a_formula_is_not_broken_into_lines():
    assert shown("the SAE, F(D, b, E(X))", "text") == "the SAE, F(D,\u00a0b,\u00a0E(X))"
    assert shown("exact codes, F(D, b) here", "text") == "exact codes, F(D,\u00a0b) here"


def test_cells_are_shown_in_a_few_digits():
    assert shown(None) == "–"
    assert shown(0.123456789) == "0.123457"
    assert shown(12345, "count") == "12,345"
    assert shown(0.5, "share") == "50.00%"
    assert shown("<b>", "text") == "<b>"


def test_a_report_that_cannot_be_written_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "taken.html").mkdir()
    (tmp_path / "other.json").mkdir()
    for path, sentence in (
        (3, "report is a int; pass a path"),
        (tmp_path / "report.pdf", "report .* has type '.pdf'"),
        (tmp_path / "nowhere" / "report.html", "report .* is in a folder that does not exist"),
        (tmp_path / "taken.html", "report needs the file .* which is a folder"),
        (tmp_path / "other.html", "report needs the file .*other.json"),
        ("a\0.html", "report .* cannot be the name of a file"),
    ):
        with rejects(sentence):
            require_report(path, "report")
    monkeypatch.setitem(sys.modules, "plotly", None)
    with rejects(r"report needs plotly; pip install 'cvxsae\[report\]'"):
        require_report(tmp_path / "report.html", "report")


def test_the_verb_asks_for_libraries_first(tmp_path, monkeypatch):
    def work(*_, **__):
        raise AssertionError("something was computed")

    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setattr("cvxsae.sae.audits.audit.solved_wide_limit", work)
    with rejects("report needs jinja2"):
        audit(data(), {}, report=tmp_path / "report.html")


@pytest.mark.slow
def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "report.html"
    file.write_text("what was there")

    def broken(*_, **__):
        raise RuntimeError("no page")

    monkeypatch.setattr("cvxsae.sae.audits.report.page.figures", broken)
    with pytest.raises(RuntimeError, match="no page"):
        audited().write_report(file)
    assert file.read_text() == "what was there"
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]


def test_half_a_character_in_a_file_does_not_keep_the_page_from_being_written(tmp_path):
    """JSON can hold a lone surrogate, which UTF-8 cannot."""
    found = audited()
    found = replace(found, sae=replace(found.sae, metadata={"hook": "half \ud800 of one"}))
    page = found.write_report(tmp_path / "report.html")
    assert "half ? of one" in page.read_text(encoding="utf-8")
    assert "half ? of one" in page.with_suffix(".json").read_text(encoding="utf-8")
