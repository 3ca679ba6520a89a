"""One damaged run hides no other, whatever its files hold."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from run_folders import add_cross_site, add_evaluation, write_run
from typer.testing import CliRunner, Result

from pneumonia_fl.cli.main import app
from pneumonia_fl.errors import PneumoniaFLError, RunError
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.record import RunRecord

CONTENTS = {
    "empty": b"",
    "cut": b'{"job": "fedavg", "rou',
    "foreign": b'{"hello": 1}',
    "list": b"[]",
    "text": b'"x"',
    "null": b"null",
    "latin-1": b'{"job": "M\xfcller"}',
    "zeros": bytes(64),
    "no time": b'{"job": "a", "state": "finished", "rounds": 1, "sites": [], "started": NaN}',
}
OTHER_TYPES: tuple[Any, ...] = ("x", [1], {"a": 1}, None, -1e308)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("whole") / "run", sites=("a", "b"), rounds=1, images=20)
    add_cross_site(run, ("a", "b", "c"))
    add_evaluation(run, images=20)
    return run


@pytest.fixture
def runs(whole: Path, tmp_path: Path) -> Path:
    """A folder with two runs, `good` and `bad`."""
    for name in ("good", "bad"):
        shutil.copytree(whole, tmp_path / name)
    return tmp_path


def cli(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def listed(root: Path) -> dict[str, dict[str, Any]]:
    """What `runs --json` says of each run."""
    done = cli("runs", "--root", root, "--json")
    assert done.exit_code == 0, done.output
    return {line["name"]: line for line in json.loads(done.output)}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
@pytest.mark.parametrize("file", ["run.json", "metrics.json"])
def test_a_damaged_run_is_a_line_and_the_others_are_listed(file: str, content: bytes, runs: Path) -> None:
    (runs / "bad" / file).write_bytes(content)
    found = listed(runs)
    assert found["good"]["state"] == "finished"
    assert found["bad"]["state"] == "damaged"
    assert f"bad/{file} is damaged (" in found["bad"]["reason"]
    shown = cli("runs", "--root", runs)
    assert shown.exit_code == 0
    assert "bad damaged: " in shown.output
    assert any("good" in line and "finished" in line for line in shown.output.splitlines())


@pytest.mark.parametrize("key", ["job", "state", "started", "rounds", "sites"])
def test_values_of_another_type_are_damage(key: str, runs: Path) -> None:
    state = json.loads((runs / "bad/run.json").read_text())
    right = {"job": "x", "state": "x", "sites": [1]}
    for value in OTHER_TYPES:
        (runs / "bad/run.json").write_text(json.dumps({**state, key: value}))
        found = listed(runs)
        assert found["good"]["state"] == "finished"
        assert (found["bad"]["state"] == "damaged") == (right.get(key, ...) != value)


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
@pytest.mark.parametrize("file", ["config.yml", "cross_site.json", "evaluations/test-01.json"])
def test_files_that_the_list_does_not_need_change_nothing(file: str, content: bytes, runs: Path) -> None:
    (runs / "bad" / file).write_bytes(content)
    assert [line["state"] for line in listed(runs).values()] == ["finished", "finished"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        *[
            (file, b"{")
            for file in ("run.json", "metrics.json", "config.yml", "cross_site.json", "journal.jsonl")
        ],
        ("run.json", b'{"started": -1e308, "sites": []}'),
        ("cross_site.json", b'{"models": [1], "sites": ["a"], "cells": {}, "split": "val"}'),
    ],
)
def test_a_report_says_what_is_damaged_and_never_stops_without_a_word(
    file: str, content: bytes, runs: Path
) -> None:
    (runs / "bad" / file).write_bytes(content)
    done = cli("report", runs / "bad")
    assert done.exit_code == 0 or isinstance(done.exception, PneumoniaFLError), done.exception


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]"])
def test_a_report_of_a_damaged_run_names_the_file(content: bytes, runs: Path) -> None:
    (runs / "bad" / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=r"bad/run\.json is damaged"):
        RunRecord.read(RunFolder(runs / "bad"))


def test_a_folder_that_is_not_there_is_an_error_with_the_one_that_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = cli("runs")
    assert first.exit_code == 0
    assert "no runs in" in first.output
    (tmp_path / "experiments").mkdir()
    done = cli("runs", "--root", "experimnets")
    assert done.exit_code == 1
    assert str(done.exception) == "experimnets does not exist; did you mean experiments?"
    (tmp_path / "a-file").touch()
    assert str(cli("runs", "--root", "a-file").exception) == "a-file is no folder"
