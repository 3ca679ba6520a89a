"""Reports of 3 to 300 sites: every site up to thirty, then how the sites are distributed, and the whole list folded."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from chromium import CHROMIUM, Browser
from PIL import Image
from run_folders import write_json, write_run
from speed import scaled

from pneumonia_fl.evaluation.cross_site_matrix import matrix
from pneumonia_fl.report.build import build_report
from pneumonia_fl.report.figures.heat_map import heat_map, pixels
from pneumonia_fl.results.cross_site_files import draw_matrix

MOST_BYTES = 3_000_000
SECONDS = 3.0


def _names(count: int) -> list[str]:
    return [f"hospital-{number:03d}" for number in range(count)]


def _matrix(count: int) -> dict[str, object]:
    """Every site's own model on every site's images; a site does not share its model, a cell has one class."""
    names, rng = _names(count), np.random.default_rng(3)
    cell = {"sensitivity": 0.9, "specificity": 0.8, "brier": 0.1, "ece": 0.05, "n": 40}
    models = ["best", "last", *names[1:]]
    areas = rng.uniform(0.7, 0.99, (len(models), count))
    cells = {
        model: {
            name: {**cell, "auroc": float(areas[x, y]) if (x, y) != (2, 0) else None}
            for y, name in enumerate(names)
        }
        for x, model in enumerate(models)
    }
    return matrix("val", models, names, cells, {names[0]: "does not share its model"})


def _large(folder: Path, count: int, rounds: int = 4) -> Path:
    run = write_run(folder, sites=_names(count), rounds=rounds, images=20)
    write_json(run / "cross_site.json", _matrix(count))
    return run


def _visible(page: str) -> str:
    """The text of a page without what is folded, its charts and its style."""
    for part in ("details", "style", "svg"):
        page = re.sub(rf"<{part}\b.*?</{part}>", " ", page, flags=re.DOTALL)
    return re.sub(r"<[^>]+>", " ", page)


@pytest.mark.parametrize("count", [100, 300])
def test_a_page_of_many_sites_is_bounded_and_quick(tmp_path: Path, count: int) -> None:
    run = _large(tmp_path / "run", count, rounds=10)
    build_report(run)  # imports
    begun = time.process_time()
    page = build_report(run).read_text()
    assert time.process_time() - begun < scaled(SECONDS)
    assert len(page) < MOST_BYTES
    shown = _visible(page)
    assert len(set(re.findall(r"hospital-\d+", shown))) < 30
    assert "Lower quarter" in shown
    assert f"<summary>All {count} sites</summary>" in page
    assert f"median of the {count} sites" in shown
    assert all(page.count(name) >= 3 for name in _names(count))  # results, images, cost
    assert len((run / "model_card.md").read_text().splitlines()) < 250


def test_up_to_thirty_sites_all_are_shown(tmp_path: Path) -> None:
    page = build_report(write_run(tmp_path / "run", sites=_names(30), rounds=1, images=20)).read_text()
    assert set(_names(30)) <= set(re.findall(r"hospital-\d+", _visible(page)))
    assert "Lower quarter" not in page
    assert "<summary>All 30 sites" not in page


def test_the_distribution_and_the_extremes_are_those_of_the_sites(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sites=_names(31), rounds=2, images=40)
    metrics = json.loads((run / "metrics.json").read_text())
    entry = next(one for one in metrics["rounds"] if one["round"] == metrics["best_round"])
    areas = {site: values["auroc"] for site, values in entry["sites"].items()}
    page = build_report(run).read_text()
    section = page[page.index('<section id="sites">') :]
    table = section[: section.index("<details>")]
    ordered = sorted(areas, key=lambda site: (areas[site], site))
    for site in (*ordered[:3], *ordered[-3:]):
        assert re.search(rf">{site}<.*?>{areas[site]:.3f}<", table)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        assert f"{np.quantile(list(areas.values()), share):.3f}" in table


def test_a_matrix_of_many_sites_is_one_pixel_a_cell(tmp_path: Path) -> None:
    found = _matrix(100)
    draw_matrix(tmp_path, found)
    assert (tmp_path / "cross_site.csv").read_text().count("\n") == 1 + 101 * 100
    with Image.open(tmp_path / "figures" / "cross_site.png") as picture:
        assert picture.width < 2000
    axes = heat_map(found).axes[0]
    assert (len(axes.texts), axes.get_xlabel(), axes.get_ylabel()) == (0, "Data of 100 sites", "101 models")
    png, low = pixels(found)
    (tmp_path / "pixels.png").write_bytes(png)
    with Image.open(tmp_path / "pixels.png") as picture:
        assert (picture.size, low) == ((100, 101), 0.7)
        assert picture.convert("RGB").getpixel((0, 2)) == (0xAA, 0xAA, 0xAA)  # of one class


def test_warnings_about_many_sites_are_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sites=_names(100), rounds=1, images=2, ill=(1.0,))
    page = build_report(run).read_text()
    assert "With one class only in a split:" in page
    assert page.count("has one class only in its") == 5


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is missing: `apt-get install chromium`")
def test_nothing_of_three_hundred_sites_sticks_out(tmp_path: Path) -> None:
    page = build_report(_large(tmp_path / "run", 300, rounds=2))
    with Browser(tmp_path / "profile") as browser:
        for width in (360, 1280):
            browser.open(page, width)
            assert browser.evaluate("document.documentElement.scrollWidth") == width
            assert browser.evaluate("document.documentElement.scrollHeight") < (
                30_000 if width == 360 else 15_000
            )
            browser.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
            assert browser.evaluate("document.documentElement.scrollWidth") == width
        assert browser.complaints == []
