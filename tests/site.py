"""The site as a reader opens it: from files, without a network.

    python -m tests.site site                       # every page by its text, a few in Chromium
    python -m tests.site site --screenshots FOLDER  # and pictures of them

Ends with 1 if a page asks for anything that is not a file of the site, if something is missing or the console has an
error, if the search finds nothing, if a page is wider than the screen, or if Markdown is left in the text.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

PAGES = (
    "index.html",
    "dictionary.html",
    "reference/cvxsae.html",
    "theory.html",
    "how-to/json.html",
    "notebooks/audit_an_sae.html",
)
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
LEFT = re.compile(r"<p>(?:(?!</p>).)*?(?:\n[-*] \S|\n\d\. \S|\n?\|[ -]*-{3}|\*\*\S)", re.DOTALL)
"""A paragraph with a list, a table or bold that did not become one."""

LOADED = re.compile(r"<((?:script|link|img)[^>]+)(?:src|href)=\"(https?://[^\"]+)")
"""What a page would ask a network for."""


def text_objections(site: Path) -> list[str]:
    """What is wrong with pages by their text alone."""
    found = []
    for file in sorted(site.rglob("*.html")):
        whole, name = file.read_text(encoding="utf-8"), file.relative_to(site)
        text = re.sub(r"<(pre|code|script)\b.*?</\1>", "", whole, flags=re.DOTALL)
        if left := LEFT.search(text):
            found.append(f"{name}: Markdown is left: {left[0][-120:]!r}")
        found += [f"{name}: loads {url}" for tag, url in LOADED.findall(whole) if "canonical" not in tag]
    return found


def browser_objections(site: Path, screenshots: Path | None) -> list[str]:
    """What is wrong when a browser opens pages from files."""
    found: list[str] = []
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for size, (width, height) in WIDTHS.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            _listen(page, site, found)
            for name in filter(lambda name: (site / name).exists(), PAGES):
                page.goto((site / name).resolve().as_uri())
                page.wait_for_timeout(500)
                wide = page.evaluate("document.documentElement.scrollWidth")
                if wide > width:
                    found.append(f"{name} is {wide} wide at {width}")
                if screenshots is not None:
                    screenshots.mkdir(parents=True, exist_ok=True)
                    page.screenshot(path=screenshots / f"{name.replace('/', '_')}-{size}.png")
            if size == "desktop":
                page.goto((site / "index.html").resolve().as_uri())
                page.locator("input[name=query]").fill("absorption")
                try:
                    page.wait_for_selector(".md-search-result__item", timeout=20_000, state="attached")
                except Exception as error:
                    found.append(f"the search finds nothing: {str(error).splitlines()[0]}")
                if screenshots is not None:
                    page.screenshot(path=screenshots / "search.png")
        browser.close()
    return found


def _listen(page: Page, site: Path, found: list[str]) -> None:
    def requested(request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            found.append(f"asks for {request.url}")

    def said(message: Any) -> None:
        if message.type == "error":
            found.append(f"console: {message.text}")

    page.on("request", requested)
    page.on("requestfailed", lambda request: found.append(f"missing: {request.url}"))
    page.on("console", said)
    page.on("pageerror", lambda error: found.append(f"error: {error}"))


def main() -> int:
    """Check a site that is built."""
    parser = argparse.ArgumentParser(description="Check a site that is built.")
    parser.add_argument("site", type=Path)
    parser.add_argument("--screenshots", type=Path)
    asked = parser.parse_args()
    found = text_objections(asked.site) + browser_objections(asked.site, asked.screenshots)
    print("\n".join(found) or "no objections")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
