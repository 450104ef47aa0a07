"""The page of a report in headless Chromium: it loads without a word on the console, its tables sort, nothing runs."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.sae.audits.report.audited import audited

pytest.importorskip("jinja2", reason="reports need the extra cvxsae[report]")
pytest.importorskip("plotly", reason="reports need the extra cvxsae[report]")
api = pytest.importorskip("playwright.sync_api", reason="driving a browser needs playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (1280, 390)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@pytest.fixture(scope="module", name="report")
def written(tmp_path_factory):
    """A page and its JSON on disk."""
    return audited().write_report(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module", name="browser")
def started():
    """One browser for all tests of this file."""
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module", name="opened", params=WIDTHS)
def opened_page(request, browser, report):
    """The page at one width, with whatever it says and asks for."""
    said, asked = [], []

    def shut(dialog):
        said.append(dialog.message)
        dialog.dismiss()

    page = browser.new_page(viewport={"width": request.param, "height": 900})
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", shut)
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto(report.as_uri())
    page.wait_for_function("document.querySelectorAll('[data-figure] .main-svg').length > 0")
    yield page, said, asked
    page.close()


def test_it_loads_in_silence_and_asks_for_nothing(opened, report):
    page, said, asked = opened
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [report.as_uri()]
    assert page.title().startswith("Audit of a sparse autoencoder")


@pytest.mark.parametrize("width", [1440, 800])
def test_tables_are_no_wider_than_the_page(width, browser, report):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(report.as_uri())
    excess = "all => all.map(one => [one.getAttribute('aria-label'), one.scrollWidth - one.clientWidth])"
    found = dict(page.eval_on_selector_all(".scroll", excess))
    assert len(found) > 10
    assert {name: more for name, more in found.items() if more > 0} == {}
    page.set_viewport_size({"width": 300, "height": 900})  # some are, where it is narrow: they are measured
    assert any(more > 0 for _, more in page.eval_on_selector_all(".scroll", excess))
    page.close()


def test_what_a_file_says_does_nothing(opened):
    page, said, _ = opened
    assert "hacked" not in page.title()
    assert page.locator("section#metadata td", has_text="</script>").count() > 0
    assert page.locator("section#metadata img").count() == 0
    assert said == []


def test_every_number_is_that_of_the_json(opened, report):
    page, _, _ = opened
    held = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    cells = page.evaluate("Array.from(document.querySelectorAll('[data-key]'), e => [e.dataset.key, e.dataset.value])")
    assert len(cells) > 100
    for key, value in cells:
        found = held
        for part in key.split("."):
            found = found[int(part)] if isinstance(found, list) else found[part]
        assert json.loads(value) == found, key


def test_figures_hold_the_numbers_of_the_json(opened, report):
    page, _, _ = opened
    levels = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))["tables"]["levels"]["rows"]
    drawn = page.evaluate(
        "document.querySelector('[data-figure=levels]').data.map(t => t.y.map((y, i) => [y, t.x[i]]))"
    )
    assert dict(point for trace in drawn for point in trace) == {row[0]: row[1] for row in levels}


@pytest.mark.parametrize("name", ["worst_points", "levels"])
def test_a_click_on_a_header_sorts(opened, name):
    page, _, _ = opened
    table = page.locator(f"table[data-table={name}]")
    columns = table.locator("thead th").count()
    for place in range(columns):
        button = table.locator("thead th button").nth(place)
        for _ in range(2):
            button.click()
            values = [
                json.loads(value)
                for value in page.evaluate(
                    "([name, place]) => Array.from(document.querySelectorAll(`table[data-table=${name}] tbody tr`), "
                    "row => row.cells[place].dataset.value)",
                    [name, place],
                )
            ]
            way = table.locator("thead th").nth(place).get_attribute("aria-sort")
            known = [value for value in values if value is not None]
            assert values == known + [None] * (len(values) - len(known))
            assert way in ("ascending", "descending")
            if all(isinstance(value, int | float) for value in known):
                assert known == sorted(known, reverse=way == "descending")
        others = [table.locator("thead th").nth(other).get_attribute("aria-sort") for other in range(columns)]
        assert sum(other != "none" for other in others) == 1


def test_nothing_is_wider_than_the_screen(opened):
    page, _, _ = opened
    wide, screen = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= screen


OVERLAPPING = """() => {
  const boxes = [];
  for (const one of document.querySelectorAll("h1, h2, h3, p, dt, dd, th, td, svg text")) {
    const box = one.getBoundingClientRect();
    if (box.width > 0 && box.height > 0 && one.textContent.trim()) boxes.push([one, box]);
  }
  const slack = 2, found = [];
  boxes.forEach(([one, a], place) => {
    for (const [other, b] of boxes.slice(place + 1)) {
      if (one.contains(other) || other.contains(one)) continue;
      const scrolls = [one, other].map(e => e.closest(".scroll"));
      if (scrolls[0] !== scrolls[1]) continue;
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > slack && down > slack) found.push([one.textContent, other.textContent]);
    }
  });
  return found;
}"""
"""Pairs of texts whose boxes overlap, but for those of which one holds the other or scrolls away under it."""


def test_no_text_lies_on_other_text(opened):
    page, _, _ = opened
    assert page.evaluate(OVERLAPPING) == []
    page.evaluate("document.querySelector('h1').style.transform = 'translateY(2.5rem)'")
    assert page.evaluate(OVERLAPPING) != []  # the check sees what it should
    page.evaluate("document.querySelector('h1').style.transform = ''")
