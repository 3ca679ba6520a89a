"""The pages of docs/ are true to the program, lead somewhere, and name no machine."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import typer
from speed import scaled

from pneumonia_fl.cli.main import app
from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.config.overrides import flatten
from pneumonia_fl.metrics.binary import ScoreHistogram, summarise
from pneumonia_fl.metrics.series import series

ROOT = Path(__file__).parents[1]
GENERATOR = Path("docs/reference/generate.py")
pages = runpy.run_path(str(ROOT / GENERATOR))["pages"]
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "provisioning/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
ABSOLUTE = re.compile(r"(?<![\w.~:/-])/(?:home|root|work|tmp|Users|mnt|opt|var|usr)/")
REGISTRY = re.compile(r"pypi\.org|pythonhosted|index-url|artifactory|nexus|devpi|conda\.anaconda", re.I)


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, made as forges make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", pages())
def test_generated_pages_are_up_to_date(name: str) -> None:
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == pages()[name], "run `make docs`"


def test_the_command_reference_calls_every_command_by_its_name() -> None:
    text = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    command: Any = typer.main.get_command(app)
    assert set(command.commands) <= {
        match[1] for match in re.finditer(r"^## `pneumonia-fl ([\w-]+)", text, re.M)
    }


def test_the_script_writes_every_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "scripts" / "make_docs.py"
    for name in (script.relative_to(tmp_path), GENERATOR):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    runpy.run_path(str(script), run_name="__main__")
    written = {str(path.relative_to(tmp_path / "docs")) for path in (tmp_path / "docs").rglob("*.md")}
    assert written == set(pages())
    assert len(capsys.readouterr().out.splitlines()) == len(written)


def test_generated_pages_do_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    before = pages()
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("TERM", "dumb")
    assert pages() == before


@pytest.mark.parametrize("word", flatten(JobConfig(name="job")))
def test_every_key_stands_in_the_reference(word: str) -> None:
    text = (ROOT / "docs/reference/config.md").read_text(encoding="utf-8")
    section, _, key = word.rpartition(".")
    part = text.partition(f"## `{section}`\n")[2] if section else text
    assert f"| `{key}` |" in part.partition("\n## ")[0]


@pytest.mark.parametrize("tag", series(summarise(ScoreHistogram.from_scores([-1.0, 1.0], [0, 1]))))
def test_every_series_stands_in_the_reference(tag: str) -> None:
    assert f"`{tag}`" in (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8")


@each_page
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.exists(), f"{page.name} links to {target}"
        assert goal.is_relative_to(ROOT), f"{target} leaves the repository"
        assert not anchor or anchor in anchors(goal), f"{page.name} links to {target}"


@each_page
def test_no_page_names_a_machine_or_a_registry(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not ABSOLUTE.search(text)
    assert not REGISTRY.search(text)


@pytest.mark.parametrize(
    "name", ["getting-started.md", "data.md", "jobs.md", "reference/cli.md", "reference/config.md"]
)
def test_a_page_says_that_this_is_no_medical_device(name: str) -> None:
    assert "Not a medical device; not for diagnosis." in (ROOT / "docs" / name).read_text(encoding="utf-8")


@each_page
def test_a_test_that_a_page_names_is_there(page: Path) -> None:
    for folder, name in re.findall(r"`(tests/(?:\w+/)*)?(test_\w+\.py)`", prose(page)):
        found = list((ROOT / (folder or "tests")).glob(name if folder else f"**/{name}"))
        assert found, f"{page.name} names {folder}{name}"


def test_the_held_out_patients_of_the_results_make_the_split(tmp_path: Path) -> None:
    """The commands of the page on an archive with one image of each of its patients, and of one more."""
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    commands = re.findall(r"^```bash\n(.*?)^```", text, flags=re.M | re.S)[0]
    (tmp_path / "docs").mkdir()
    listed = Path(shutil.copy(ROOT / "docs/held_out_patients.txt", tmp_path / "docs"))
    held_out = [line.split() for line in listed.read_text(encoding="utf-8").splitlines()]
    with zipfile.ZipFile(tmp_path / "chest-xray-pneumonia.zip", "w") as archive:
        for name in [*(f"{kind}/{patient}-1" for _, kind, patient in held_out), "NORMAL/IM-9-1"]:
            for folder in ("chest_xray", "chest_xray/chest_xray"):
                archive.writestr(f"{folder}/train/{name}.jpeg", name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-euc", commands], cwd=tmp_path, env={"PATH": path}, check=True, timeout=scaled(120)
    )
    found = [path.relative_to(tmp_path / "chest_xray") for path in (tmp_path / "chest_xray").rglob("*.jpeg")]
    expected = [f"{split}/{kind}/{patient}-1.jpeg" for split, kind, patient in held_out]
    assert sorted(map(str, found)) == sorted([*expected, "train/NORMAL/IM-9-1.jpeg"])
    assert [split for split, _, _ in held_out].count("test") == 325


def test_no_text_names_a_folder_outside_the_repository() -> None:
    texts = [*PAGES, *sorted(ROOT.glob("jobs/*.yml")), *sorted((ROOT / "src").rglob("*.py"))]
    assert not [path for path in texts if "../shared" in path.read_text(encoding="utf-8")]
