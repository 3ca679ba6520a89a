import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pneumonia_fl.cli.main import app
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.runs.cleanup import parse_age, parse_size

JOB = "0a1b2c3d-0000-4000-8000-00000000000"
DAY = 86400


def clean(*words: object, answer: str = "") -> Result:
    return CliRunner().invoke(app, ["clean", *map(str, words)], input=answer)


def aged(folder: Path, days: float, size: int = 1000, record: str = "") -> Path:
    """A folder with one deep file and perhaps a record, written `days` ago."""
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "weights").write_bytes(b"0" * size)
    if record:
        (folder / record).write_text('{"state": "finished"}')
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (time.time() - days * DAY,) * 2)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    aged(root / "old", 40, record="run.json")
    aged(root / "old large", 40, size=3_000_000, record="comparison.json")
    aged(root / "new", 1, record="run.json")
    aged(root / "mine", 400)  # no record: not made by this program
    return root


def left(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def test_a_dry_run_shows_and_removes_nothing(runs: Path) -> None:
    shown = clean(runs, "--dry-run")
    assert shown.exit_code == 0
    assert "2 folders, 3.0 MB" in shown.stdout
    assert "old large" in shown.stdout
    assert left(runs) == {"old", "old large", "new", "mine"}


def test_it_asks_first(runs: Path) -> None:
    assert clean(runs, answer="n\n").exit_code == 0
    assert left(runs) == {"old", "old large", "new", "mine"}
    clean(runs, answer="y\n")
    assert left(runs) == {"new", "mine"}


def test_age_and_size_choose_together(runs: Path) -> None:
    clean(runs, "--older-than", "2w", "--larger-than", "1MB", "--yes")
    assert left(runs) == {"old", "new", "mine"}
    clean(runs, "--older-than", 0, "--yes")
    assert left(runs) == {"mine"}


def test_json_says_what_was_found_and_asks_nothing(runs: Path) -> None:
    found = json.loads(clean(runs, "--json").stdout)
    assert found["removed"] is False
    assert [Path(one["path"]).name for one in found["found"]] == ["old large", "old"]
    assert json.loads(clean(runs, "--json", "--yes").stdout)["removed"] is True
    assert left(runs) == {"new", "mine"}


def test_links_are_neither_followed_nor_removed(runs: Path, tmp_path: Path) -> None:
    elsewhere = aged(tmp_path / "elsewhere", 90, record="run.json")
    (runs / "link").symlink_to(elsewhere)
    (runs / "old" / "link").symlink_to(elsewhere)
    os.utime(runs / "old", (time.time() - 40 * DAY,) * 2)
    os.utime(runs / "old" / "link", (time.time() - 40 * DAY,) * 2, follow_symlinks=False)
    clean(runs, "--yes")
    assert left(runs) == {"new", "mine", "link"}
    assert (elsewhere / "deep" / "weights").is_file()


def test_a_removal_that_was_cut_off_can_go_on(runs: Path) -> None:
    (runs / "old" / "deep" / "weights").unlink()
    clean(runs, "--older-than", 0, "--yes")
    assert "old" not in left(runs)


def test_before_the_first_run_there_is_nothing_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "nothing to remove" in clean().output


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    result = clean(tmp_path / "rnus")
    assert result.exit_code == 1
    assert "does not exist" in str(result.exception)


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    folder = tmp_path / "us-hospital"
    (folder / "startup").mkdir(parents=True)
    settings = {
        "servers": [{"name": "pneumonia_fl", "service": {"target": "localhost:8002"}}],
        "client": {"fqsn": "us-hospital"},
    }
    (folder / "startup" / "fed_client.json").write_text(json.dumps(settings))
    aged(folder / f"{JOB}1", 40)
    aged(folder / f"{JOB}2", 1)
    aged(folder / "pneumonia_fl_site_state" / f"{JOB}1", 40)
    aged(folder / "tensorboard" / f"{JOB}1", 40)
    return folder


def test_of_a_kit_only_the_folders_of_past_jobs_go(kit: Path) -> None:
    clean(kit, "--yes")
    assert left(kit) == {"startup", f"{JOB}2", "pneumonia_fl_site_state", "tensorboard"}
    assert left(kit / "pneumonia_fl_site_state") == {f"{JOB}1"}
    assert not left(kit / "tensorboard")


def test_a_folder_of_kits_is_searched_kit_by_kit(kit: Path) -> None:
    assert f"{JOB}1" in clean(kit.parent, "--json", "--yes").stdout
    assert not (kit / f"{JOB}1").exists()


def test_a_running_job_keeps_its_folder_whoever_started_it(kit: Path) -> None:
    words = [sys.executable, "-c", "import sys; sys.stdin.read()", "-n", f"{JOB}1"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as job:
        clean(kit, "--older-than", 0, "--yes")
        assert job.stdin is not None
        job.stdin.close()
    assert (kit / f"{JOB}1").is_dir()
    assert not (kit / f"{JOB}2").exists()


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("500MB", 500_000_000), ("1.5 GiB", 1_500_000_000), ("2k", 2000)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(("text", "days"), [("30", 30), ("12h", 0.5), ("2w", 14), ("0", 0)])
def test_ages(text: str, days: float) -> None:
    assert parse_age(text) == days * DAY


@pytest.mark.parametrize("text", ["", "-1", "soon", "1y"])
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no age"):
        parse_age(text)
