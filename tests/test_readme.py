"""Every command of the pages is real: parsed as typed; README's and getting-started's run where they are quick."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from page_commands import Line, lines_of, parse_line
from speed import scaled

from conftest import CLI
from pneumonia_fl.config.job import load_job
from pneumonia_fl.config.job_files import find_job
from pneumonia_fl.data.prepare.partition import parse_partition, parse_sites

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "getting-started.md")
OWN_NETWORK = "model.name=tiny"  # docs/networks.md has the reader write it; test_architectures.py does
BUILTINS = {"cd", "source", "export", "git"}


LINES = list(dict.fromkeys(line for page in PAGES for line in lines_of(page)))
EVERYWHERE = [ROOT / "README.md", ROOT / "provisioning" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN = [line for page in EVERYWHERE for line in dict.fromkeys(lines_of(page)) if line.own() is not None]


def test_the_pages_have_commands() -> None:
    assert any(line.page == "getting-started.md" for line in OWN)


@pytest.mark.parametrize("line", OWN, ids=str)
def test_a_command_is_read_by_the_real_command_line(line: Line) -> None:
    name, values = parse_line(line.own() or [])
    if name == "run" and Path(values["job"] or "-.yml").suffix not in (".yml", ".yaml"):
        rounds = [] if values["rounds"] is None else [f"rounds={values['rounds']}"]
        overrides = [word for word in values["overrides"] if word != OWN_NETWORK]
        load_job(find_job(values["job"]), [*overrides, *rounds])
    if name == "data prepare":
        sites = parse_sites(values["sites"])
        partition = parse_partition(values["partition"] or "iid")
        assert partition.kind != "quantity" or len(partition.values) == len(sites)


@pytest.mark.parametrize("line", [line for line in LINES if line.own() is None], ids=str)
def test_another_program_is_there(line: Line) -> None:
    program, *words = line.words
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
        assert set(words) <= set(targets)
    elif Path(program).name.startswith("python"):
        module = words[1] if words[0] == "-m" else ""
        assert (ROOT / words[0]).is_file() or (ROOT / module).is_dir() or importlib.util.find_spec(module)
    elif program not in BUILTINS:
        beside = Path(sys.executable).with_name(Path(program).name)
        assert beside.exists() or shutil.which(program), f"no such program: {program}"


def quick(name: str, values: dict[str, Any], folder: Path) -> bool:
    """Whether a command takes seconds, and needs nothing that is not in `folder`."""
    if not values:
        return True
    if name == "data prepare":
        return str(values["source"]).startswith("synthetic")
    if name in ("data check", "data show"):
        return (folder / values["folder"]).is_dir()
    if name == "run":
        return bool(values["export"]) and (values["data"] is None or (folder / values["data"]).is_dir())
    if name == "evaluate":
        return (folder / values["model"]).exists() and (folder / values["source"]).is_dir()
    return name == "runs"


def stand_in(name: str, values: dict[str, Any], folder: Path, run: Path, data: Path) -> None:
    """Put the finished run, and the data it was trained on, where a command of the page expects its own."""
    if name == "run" and not values["export"]:
        target = folder / (values["out"] or f"runs/{values['job']}")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(run, target)
        if values["data"] is not None and (folder / values["data"]).is_dir():
            shutil.rmtree(folder / values["data"])
            shutil.copytree(data, folder / values["data"])


@pytest.mark.e2e
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_quick_commands_run_in_the_order_of_the_page(
    page: Path, tmp_path: Path, finished_run: Path, demo_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PNEUMONIA_FL_DATA", raising=False)
    for line in dict.fromkeys(lines_of(page)):
        words = line.own()
        if words is None:
            continue
        name, values = parse_line(words)
        stand_in(name, values, tmp_path, finished_run, demo_data)
        if quick(name, values, tmp_path):
            done = subprocess.run(
                [str(CLI), *words],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                timeout=scaled(120),
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            assert done.stdout
