"""The pages for researchers, from their first command to their last, in a running federation."""

import shutil
from pathlib import Path

import pytest
from pages import run, typed

from federation import SITES, Federation

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def desk(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages expect it: the kits, and the hospitals' prepared images."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "kits").symlink_to(federation.kits, target_is_directory=True)
    shutil.copytree(federation.data, folder / "data" / "demo")
    return folder


def follow(page: str, folder: Path) -> str:
    """Run every command of a page in one shell that stops at the first failure; returns what was printed."""
    return run("".join(typed(f"docs/{page}")), folder)


@pytest.fixture(scope="module")
def lead_page(desk: Path) -> str:
    """What the lead researcher's page prints."""
    return follow("quickstart-lead-researcher.md", desk)


def test_lead_researcher(desk: Path, lead_page: str) -> None:
    assert "is complete" in lead_page
    for name in ("at-home", "first", "second"):
        assert (desk / "runs" / name / "model" / "model.safetensors").is_file()


@pytest.mark.usefixtures("lead_page")
def test_site_researcher(desk: Path) -> None:
    shutil.copytree(desk / "runs" / "first" / "model", desk / "model")
    text = follow("quickstart-site-researcher.md", desk)
    assert "AUROC" in text


def test_console(desk: Path, federation: Federation) -> None:
    text = follow("console.md", desk)
    assert "Submitted job: " in text
    assert all(site in text for site in SITES)
    shutil.rmtree(federation.kit("lead@consortium.org") / "transfer" / "smoke")
