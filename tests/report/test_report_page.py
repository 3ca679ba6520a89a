"""The report as people see it: in Chromium, on a desk, on a phone and on paper."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import CHROMIUM, Browser
from PIL import Image
from run_folders import add_cross_site, add_evaluation, write_comparison, write_run

from pneumonia_fl.report.build import build_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is missing: `apt-get install chromium`")
PHONE, DESK = 360, 1280
LEFT_OF_PAGE = """[...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.tagName + ' ' + e.className)"""
FIGURES = """[...document.querySelectorAll('figure svg')].map(e => {
  const r = e.getBoundingClientRect(); return [r.x, r.y + scrollY, r.width, r.height]})"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with all there can be, a run of twenty sites with long names, and a comparison."""
    root = tmp_path_factory.mktemp("pages")
    run = write_run(root / "run")
    add_evaluation(run, shift=0.9)
    add_cross_site(run)
    sites = [f"university-hospital-{number:02d}" for number in range(20)]
    large = write_run(root / "large", sites=sites, rounds=1, images=20)
    add_cross_site(large, sites)
    compared = write_comparison(root / "compared")
    return {"run": build_report(run), "large": build_report(large), "compared": build_report(compared)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("name", ["run", "large", "compared"])
def test_nothing_sticks_out_and_nothing_is_asked_for(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    browser.requests.clear()
    browser.open(pages[name], width)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate(LEFT_OF_PAGE) == []
    assert set(browser.requests) == {pages[name].as_uri()}
    assert browser.complaints == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(PHONE, 100), (DESK, 70)], ids=["phone", "desk"])
def test_every_figure_shows_something(
    browser: Browser, pages: dict[str, Path], tmp_path: Path, width: int, height: int, dark: bool
) -> None:
    browser.open(pages["run"], width, dark=dark)
    with Image.open(io.BytesIO(browser.screenshot(tmp_path / "page.png").read_bytes())) as picture:
        pixels = np.asarray(picture.convert("L")).astype(float)
    assert (pixels[5, 5] < 60) == dark
    found = browser.evaluate(FIGURES)
    assert len(found) >= 11
    for x, y, wide, tall in found:
        assert wide > 240
        assert tall > height
        drawn = pixels[int(y) : int(y + tall), int(x) : int(x + wide)]
        assert drawn.std() > 4
        assert np.ptp(drawn) > 100


def test_on_paper_no_text_is_lost(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    browser.open(pages["run"], DESK)
    content = browser.print_pdf(tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    assert 4 <= content.count(b"/Type /Page\n") <= 14
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.call("Emulation.setEmulatedMedia", media="")


def test_the_page_may_load_nothing_even_if_it_wanted(
    browser: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    text = (
        pages["run"]
        .read_text()
        .replace("<main>", '<main><img src="http://127.0.0.1:9/x.png"><script>x()</script>')
    )
    (tmp_path / "changed.html").write_text(text)
    browser.open(tmp_path / "changed.html", DESK)
    refused = [
        line for line in browser.complaints if "violates the following Content Security Policy" in line
    ]
    assert {line.split()[0] for line in refused} >= {"Loading", "Executing"}
    browser.complaints.clear()
