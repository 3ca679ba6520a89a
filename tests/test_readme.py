"""Every command of the pages is real: parsed as typed; README's and getting-started's run where they are quick."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from conftest import CLI
from pneumonia_fl.cli.main import app
from pneumonia_fl.config.job import load_job
from pneumonia_fl.config.job_files import find_job
from pneumonia_fl.data.prepare.partition import parse_partition, parse_sites

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "getting-started.md")
BLOCK = re.compile(r"^```(?:bash|sh|shell)[^\n]*\n(.*?)^```", flags=re.M | re.S)
# What these words start, said in our own command's words.
SCRIPTS = {"jobs/job.py": ["run"], "scripts/prepare_data.py": ["data", "prepare"]}
OWN_NETWORK = "model.name=tiny"  # docs/networks.md has the reader write it; test_model.py does
BUILTINS = {"cd", "source", "export", "git"}


@dataclass(frozen=True)
class Line:
    """One command of a page, without prompt, comment and environment."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"

    def own(self) -> list[str] | None:
        """The words after `pneumonia-fl`; None for any other program."""
        program = Path(self.words[0]).name
        if program == "pneumonia-fl":
            return list(self.words[1:])
        if program.startswith("python") and len(self.words) > 1 and self.words[1] in SCRIPTS:
            return [*SCRIPTS[self.words[1]], *self.words[2:]]
        return None


def lines_of(page: Path) -> Iterator[Line]:
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for text in block.replace("\\\n", " ").splitlines():
            yield from _commands(text, page.name)


def _commands(text: str, page: str) -> Iterator[Line]:
    lexer = shlex.shlex(text.strip().removeprefix("$ "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set(";|&()<>"):  # what stands behind < or > is no program, and so no line of ours
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words:
                yield Line(page, tuple(words))
            words = []
        else:
            words.append(word)


LINES = list(dict.fromkeys(line for page in PAGES for line in lines_of(page)))
EVERYWHERE = [ROOT / "README.md", ROOT / "provisioning" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN = [line for page in EVERYWHERE for line in dict.fromkeys(lines_of(page)) if line.own() is not None]


def parse_line(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Let the real command line read its words; return the command's name and its values, and run nothing."""
    command: Any = typer.main.get_command(app)
    name: list[str] = []
    only_help, words = "--help" in words, [word for word in words if word != "--help"]
    while hasattr(command, "commands"):
        while words and words[0].startswith("-"):
            assert words[0] in {option for parameter in command.params for option in parameter.opts}, words[0]
            words = words[1:]
        if not words:
            return " ".join(name), {}
        assert words[0] in command.commands, f"there is no command {words[0]}"
        command, name, words = command.commands[words[0]], [*name, words[0]], words[1:]
    if only_help:
        return " ".join(name), {}
    with command.make_context(" ".join(name), list(words)) as context:
        return " ".join(name), dict(context.params)


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
                [str(CLI), *words], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            assert done.stdout
