"""Type the commands of README.md and docs/results.md up to the real servers, and of docs/getting-started.md.

The rest of the first two, and the pages of those who run the federation, are in test_walkthrough_e2e.py, the
researchers' in test_admin_docs_e2e.py.
"""

from pathlib import Path

import pytest
from pages import NOT_TYPED, demo, look, run, typed

from conftest import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def follow(page: str, folder: Path, first: str = "", last: str = "") -> str:
    """Type a page's commands, one after another; return what was printed."""
    for name in ("jobs", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    said = ""
    for line in "".join(typed(page, first, last)).splitlines():
        if line == "make demo":
            said += run("\n".join(demo()), folder)
        elif line.startswith("pneumonia-fl ui "):
            said += look(line, folder)
        elif line not in NOT_TYPED:
            said += run(line, folder)
    return said


def test_readme_on_a_laptop(tmp_path: Path) -> None:
    said = follow("README.md", tmp_path, last="## Real servers")
    assert said.count("best global model") == 2  # demo, xrays
    assert (tmp_path / "runs" / "demo" / "report.html").is_file()


def test_results_on_a_laptop(tmp_path: Path) -> None:
    said = follow("docs/results.md", tmp_path, "## FedAvg on three sites", "## PneumoniaMNIST through")
    assert said.count("best global model") == 2  # zip, npz
    assert (tmp_path / "comparisons" / "zip" / "report.html").is_file()


def test_getting_started(tmp_path: Path) -> None:
    said = follow("docs/getting-started.md", tmp_path)
    assert said.count("best global model") == 5  # demo, smoke, first, kaggle, own
    assert (tmp_path / "fl_job" / "fedavg" / "meta.json").is_file()


@pytest.mark.parametrize("command", NOT_TYPED)
def test_what_is_not_typed_stands_on_the_pages(command: str) -> None:
    lines = "".join([*typed("README.md"), *typed("docs/getting-started.md")]).splitlines()
    assert command in lines, NOT_TYPED[command]
