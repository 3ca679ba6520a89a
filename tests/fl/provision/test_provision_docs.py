"""The commands of the Lead IT's pages, and of the page in every kit, are real; those of provisioning are run."""

import shlex
import shutil
from pathlib import Path

import pytest
from page_commands import Line, lines_of, parse_line
from provisioning import SERVER, SITES, Kits

from conftest import ROOT, pneumonia_fl

PAGES = (ROOT / "docs" / "provisioning.md", ROOT / "docs" / "quickstart-lead-it.md")
LINES = list(dict.fromkeys(line for page in PAGES for line in lines_of(page)))
OWN = [line for line in LINES if line.own() is not None]
OTHERS = {"nvflare", "cd", "./install.sh", "tail", "tar", "umask"}


@pytest.mark.parametrize("line", OWN, ids=str)
def test_a_command_is_read_by_the_real_command_line(line: Line) -> None:
    parse_line(line.own() or [])


def test_other_programs_are_known() -> None:
    assert {line.words[0] for line in LINES if line not in OWN} == OTHERS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_provisioning_run_in_the_order_of_the_page(
    page: Path, tmp_path: Path, original_kits: Kits
) -> None:
    shutil.copy(ROOT / "project.yml", tmp_path / "project.yml")
    ran = 0
    for line in dict.fromkeys(lines_of(page)):
        words = line.own() or [""]
        if words[0] not in ("provision", "authz") or {"--approve", "--finish"} & set(words):
            continue
        wheel = ["--wheel", original_kits.wheel] if words[0] == "provision" else []
        done = pneumonia_fl(*words, *wheel, cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        ran += 1
    assert ran > 4
    assert (tmp_path / "kits" / "africa-hospital" / "startup").is_dir()


@pytest.mark.parametrize(
    "name", [SERVER, SITES[0], "lead-it@consortium.org", "it@us-hospital.org", "lead@consortium.org",
             "researcher@europe-hospital.org"],
)  # fmt: skip
def test_the_commands_of_a_kits_page_are_real(original_kits: Kits, name: str) -> None:
    page = (original_kits.out / name / "README.md").read_text()
    typed = [line.strip() for line in page.splitlines() if line.startswith("    ")]
    own = [shlex.split(line)[1:] for line in typed if line.startswith("venv/bin/pneumonia-fl ")]
    assert len(own) == len(typed) - 1, "everything but ./install.sh"
    assert len(own) > 2
    for words in own:
        parse_line(words)
