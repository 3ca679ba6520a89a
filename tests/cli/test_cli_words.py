"""What a person types: `~`, names with brackets, typing errors; Ctrl-C; and terminals that know few characters."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from run_folders import write_run
from speed import scaled
from typer.testing import CliRunner

from conftest import CLI, pneumonia_fl
from pneumonia_fl.cli.app import Command
from pneumonia_fl.cli.kit_commands.jobs import _show_submitted
from pneumonia_fl.cli.main import app
from pneumonia_fl.cli.views.job_view import JobView
from pneumonia_fl.config.environment import (
    DATA_VARIABLE,
    KIT_VARIABLE,
    SITE_STATE_VARIABLE,
    admin_kit,
    data_root,
    site_state,
)
from pneumonia_fl.config.job_files import find_job
from pneumonia_fl.errors import ConfigError, PneumoniaFLError
from pneumonia_fl.fl.admin.submit import Submitted
from pneumonia_fl.fl.kit.startup_kit import LocalSettings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def error_of(*words: object) -> str:
    """The one line with which a command ends."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(done.exception, PneumoniaFLError), done.exception or done.output
    return str(done.exception)


def commands() -> dict[str, Any]:
    top: Any = typer.main.get_command(app)
    return {**top.commands, **top.commands["data"].commands} | {"data": None}


def test_every_command_expands_its_paths() -> None:
    assert {name for name, one in commands().items() if not isinstance(one, Command)} == {"data"}


@pytest.mark.parametrize(
    "words",
    [
        ["runs", "--root={}"],
        ["run", "fedavg", "--data={}"],
        ["run", "{}.yml"],
        ["sweep", "{}.yml", "--grid", "rounds=1,2"],
        ["compare", "--data={}"],
        ["report", "{}"],
        ["ui", "tensorboard", "{}"],
        ["evaluate", "{}", "--source", "synthetic"],
        ["predict", "{}", "x.png"],
        ["data", "check", "{}"],
        ["data", "show", "{}"],
        ["data", "prepare", "--source={}", "--out=out"],
        ["status", "{}"],
        ["doctor", "{}"],
        ["authz", "--kit={}"],
        ["jobs", "--kit={}"],
    ],
    ids=lambda words: words[0],
)
def test_a_tilde_is_home_in_every_command(words: list[str], home: Path) -> None:
    assert f"{home}/x" in error_of(*(word.format("~/x") for word in words))
    assert "no home folder is known for ~nosuch" in error_of(*(word.format("~nosuch/x") for word in words))
    assert not list(home.parent.glob("~*"))


def test_results_go_where_a_tilde_says(home: Path) -> None:
    run = write_run(home / "run", rounds=1, images=20)
    done = CliRunner().invoke(app, ["report", "~/run", "--out=~/page.html"])
    assert done.exit_code == 0, done.output
    assert (home / "page.html").is_file()
    assert run.is_dir()


def test_a_tilde_is_home_in_variables_and_settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (DATA_VARIABLE, KIT_VARIABLE):
        monkeypatch.setenv(variable, "~/p")
    monkeypatch.setenv(SITE_STATE_VARIABLE, "~/state/{site}/{job}")
    assert data_root() == admin_kit() == home / "p"
    assert site_state("a", "b") == home / "state/a/b"
    assert LocalSettings.model_validate({"data": "~/p"}).data == home / "p"
    with pytest.raises(ConfigError, match="~nosuch"):
        LocalSettings.model_validate({"data": "~nosuch/p"})


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["run", "fedavg", "--data", "data/xray"], "data/xrays?"),
        (["run", "fedavg", "--data", "dta/xrays"], "data/xrays?"),
        (["report", "rns/fedavg-1"], "runs/fedavg-1?"),
        (["evaluate", "runs/fedavg1", "--source", "synthetic"], "runs/fedavg-1?"),
        (["ui", "mlflow", "runs/fedvag-1"], "runs/fedavg-1?"),
        (["run", "--from", "runs/fedvag-1"], "runs/fedavg-1?"),
        (["data", "check", "data/xray"], "data/xrays?"),
        (["data", "prepare", "--source", "data/xray", "--out", "o"], "data/xrays?"),
        (["run", "fedagv"], "did you mean fedavg?"),
        (["run", "runs/fedavg-1/confg.yml"], "config.yml?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_typing_error_is_answered_with_what_was_meant(words: list[str], meant: str, home: Path) -> None:
    (home.parent / "data/xrays").mkdir(parents=True)
    (home.parent / "runs/fedavg-1").mkdir(parents=True)
    (home.parent / "runs/fedavg-1/config.yml").touch()
    said = error_of(*words)
    assert "did you mean " in said
    assert said.endswith(meant)


def test_a_job_that_is_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(ConfigError, match="there are: azure_pneumonia_network, cyclic"):
        find_job("xyzzy")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["ui", "tensorbord", "x"], "'tool': 'tensorbord' is not one of 'tensorboard', 'mlflow'."),
        (["run", "--env", "prodd"], "'--env': 'prodd' is not one of 'sim', 'prod'."),
    ],
)
def test_a_word_that_is_no_choice_is_answered_in_one_plain_sentence(words: list[str], problem: str) -> None:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, words)
    assert done.exit_code == 2
    assert f"Invalid value for {problem}" in done.stderr
    assert "Value error" not in done.stderr


@pytest.mark.parametrize(
    ("sites", "said"),
    [
        ((), "job 0123 (no) submitted"),
        (("a",), "job 0123 (no) submitted to 1 site (a)"),
        (("a", "b"), "job 0123 (no) submitted to 2 sites (a, b)"),
    ],
)
def test_a_submitted_job_is_told_with_the_sites_that_are_known(
    sites: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with JobView() as view:
        view.on_submitted(Submitted("0123", "no", sites, ""))
    assert capsys.readouterr().err.strip() == said


def test_commands_to_paste_are_quoted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kit = tmp_path / "my [kits]" / "lead@consortium.org"
    _show_submitted(Submitted("0123456789", "job", (), ""), kit, as_json=False)
    assert f"pneumonia-fl watch 01234567 --kit '{kit}'" in capsys.readouterr().err


ENCODINGS = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "iso-8859-1"},
    {"PYTHONIOENCODING": "cp1252:strict"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda values: "-".join(values.values()))
def test_a_terminal_that_lacks_characters_shows_others(encoding: dict[str, str], tmp_path: Path) -> None:
    run = write_run(tmp_path / "R [b] 胸部" / "run", rounds=1, images=20)
    env = {"PATH": os.environ["PATH"], **encoding}
    command = [str(CLI), "runs", "--root", str(run.parent)]
    done = subprocess.run(command, capture_output=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert b"finished" in done.stdout
    (run / "run.json").write_text("{")
    done = subprocess.run(command, capture_output=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert b"R [b] " in done.stdout
    assert b"damaged" in done.stdout


def test_errors_show_on_such_a_terminal_too(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONIOENCODING": "ascii"}
    done = pneumonia_fl("report", tmp_path / "胸 [x]", env=env)
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path}/? [x] does not exist\n"


def test_a_missing_right_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pneumonia_fl.cli.main import _said

    assert _said(PermissionError(13, "Permission denied", "/x [y]")) == (
        "/x [y]: Permission denied; its owner can change that with chmod"
    )


def test_an_interrupted_command_says_so(tmp_path: Path) -> None:
    """A command that waits: for the content of a pipe that nobody writes to."""
    pipe = tmp_path / "run.json"
    os.mkfifo(pipe)
    process = subprocess.Popen([str(CLI), "report", str(tmp_path)], stderr=subprocess.PIPE, text=True)
    writer = opened_by_a_reader(pipe)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=scaled(60))
    os.close(writer)
    assert (process.returncode, stderr) == (130, "interrupted\n")


def opened_by_a_reader(pipe: Path) -> int:
    end = time.monotonic() + scaled(60)
    while time.monotonic() < end:
        with contextlib.suppress(OSError):  # nobody reads yet
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.05)
    raise AssertionError("nobody opened the pipe")
