import os
import subprocess
import sys
from pathlib import Path

import pytest
from speed import scaled
from typer.testing import CliRunner, Result

from conftest import ROOT
from pneumonia_fl.cli.main import app
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.fl.provision.project_file.project import load_project


def init(*words: object, answers: str = "") -> Result:
    result = CliRunner().invoke(app, ["init", *map(str, words)], input=answers)
    if isinstance(result.exception, ConfigError):
        raise result.exception
    return result


def test_six_answers_make_a_project_that_can_be_provisioned(tmp_path: Path) -> None:
    file = tmp_path / "project.yml"
    answers = ["chest", "fl.example.org", "9000", "north, south-2", "it@example.org", "lead@example.org"]
    result = init(file, answers="\n".join(answers) + "\n")
    assert result.exit_code == 0, result.output
    project = load_project(file)
    assert (project.name, project.server.hosts, project.server.port) == ("chest", ("fl.example.org",), 9000)
    assert [(one.name, one.org) for one in project.of_type("client")] == [
        ("north", "north"),
        ("south-2", "south_2"),
    ]
    assert {(one.name, one.role) for one in project.of_type("admin")} == {
        ("it@example.org", "project_admin"),
        ("lead@example.org", "lead"),
    }
    assert f"pneumonia-fl provision {file}" in result.stdout


def test_return_takes_the_default_and_a_wrong_answer_is_asked_for_again(tmp_path: Path) -> None:
    result = init(tmp_path / "p.yml", answers="\n\n99999\n8003\nglobal\nnorth\n\n\n")
    assert "must be a port from 1 to 65535" in result.output
    assert "reserved" in result.output
    project = load_project(tmp_path / "p.yml")
    assert (project.server.port, [one.name for one in project.of_type("client")]) == (8003, ["north"])


def test_without_questions_the_defaults_are_those_of_the_shipped_project(tmp_path: Path) -> None:
    init(tmp_path / "p.yml", "--yes")
    made, shipped = load_project(tmp_path / "p.yml"), load_project(ROOT / "project.yml")
    assert made.values["builders"] == shipped.values["builders"]
    assert (made.name, made.server.port, made.server.hosts[0]) == (
        shipped.name,
        shipped.server.port,
        shipped.server.hosts[0],
    )
    assert [one.name for one in made.of_type("client")] == [one.name for one in shipped.of_type("client")]


@pytest.mark.parametrize("word", ["no", "on", "null", "007", "0x1f", "1e3", "2026-01-01", "12_3"])
def test_a_name_that_yaml_takes_for_something_else_stays_a_name(tmp_path: Path, word: str) -> None:
    init(tmp_path / "p.yml", "--yes", "--set", f"sites={word}", "--set", f"name={word}")
    project = load_project(tmp_path / "p.yml")
    assert (project.name, project.of_type("client")[0].name) == (word, word)


@pytest.mark.parametrize("given", ["colour=red", "server"])
def test_an_unknown_key_names_the_known_ones(tmp_path: Path, given: str) -> None:
    with pytest.raises(ConfigError, match="name, server, port, sites, lead_it, lead"):
        init(tmp_path / "p.yml", "--set", given)


@pytest.mark.parametrize("given", ["sites=", "server=a b", "port=x", "lead=nobody", "name=a\nb: c"])
def test_an_answer_that_will_not_do_writes_nothing(tmp_path: Path, given: str) -> None:
    with pytest.raises(ConfigError):
        init(tmp_path / "p.yml", "--yes", "--set", given)
    assert not list(tmp_path.iterdir())


def test_a_project_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "p.yml").write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        init(tmp_path / "p.yml", "--yes")
    assert (tmp_path / "p.yml").read_text() == "mine"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_can_complete_commands(shell: str) -> None:
    program = str(Path(sys.executable).with_name("pneumonia-fl"))
    words = {"COMP_WORDS": "pneumonia-fl cl", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "pneumonia-fl cl"}
    environment = {**os.environ, **words, "_PNEUMONIA_FL_COMPLETE": f"complete_{shell}"}
    if shell == "fish":
        environment["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    found = subprocess.run(
        [program], env=environment, capture_output=True, text=True, timeout=scaled(60), check=False
    )
    assert "clean" in found.stdout
    assert "clone" in found.stdout
    assert "compare" not in found.stdout
