"""Type the commands of README.md and docs/results.md up to the real servers, and of docs/getting-started.md.

The rest of the first two, and the pages of those who run the federation, are in test_walkthrough_e2e.py, the
researchers' in test_admin_docs_e2e.py.
"""

from pathlib import Path

import pytest
from pages import NOT_TYPED, Desk, demo, look, run, typed

from conftest import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def desk() -> Desk:
    """What was typed on the pages so far."""
    return Desk()


def follow(page: str, folder: Path, desk: Desk, first: str = "", last: str = "") -> None:
    """Type a page's commands, one after another."""
    for name in ("jobs", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    for line in "".join(typed(page, first, last)).splitlines():
        for command in demo() if line == "make demo" else [line]:
            if command not in NOT_TYPED and not desk.knows(command, folder):
                (look if command.startswith("pneumonia-fl ui ") else run)(command, folder)


def runs_in(folder: Path) -> set[str]:
    """Names of the runs that have a model."""
    return {model.parents[1].name for model in folder.glob("runs/*/model/model.safetensors")}


def test_readme_on_a_laptop(desk: Desk, tmp_path: Path) -> None:
    follow("README.md", tmp_path, desk, last="## Real servers")
    assert runs_in(tmp_path) == {"demo", "xrays"}
    assert (tmp_path / "runs" / "demo" / "report.html").is_file()


def test_results_on_a_laptop(desk: Desk, tmp_path: Path) -> None:
    follow("docs/results.md", tmp_path, desk, "## FedAvg on three sites", "## PneumoniaMNIST through")
    assert runs_in(tmp_path) == {"zip", "npz"}
    assert (tmp_path / "comparisons" / "zip" / "report.html").is_file()


def test_getting_started(desk: Desk, tmp_path: Path) -> None:
    follow("docs/getting-started.md", tmp_path, desk)
    assert {"demo", "first", "kaggle"} < runs_in(tmp_path)
    assert len(runs_in(tmp_path)) == 5, "smoke and own have names of their own"
    assert (tmp_path / "fl_job" / "fedavg" / "meta.json").is_file()


@pytest.mark.parametrize("command", NOT_TYPED)
def test_what_is_not_typed_stands_on_the_pages(command: str) -> None:
    lines = "".join([*typed("README.md"), *typed("docs/getting-started.md")]).splitlines()
    assert command in lines, NOT_TYPED[command]
