"""Nobody replaces a folder in which another process works; a dead process holds nothing."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pneumonia_fl.errors import OutputError
from pneumonia_fl.inputs.folder_locks import MARK, in_use, is_in_use, refuse_in_use
from pneumonia_fl.runs.cleanup import runs_below
from pneumonia_fl.runs.folder import RunFolder

WORKER = """
import sys
from pathlib import Path
from pneumonia_fl.inputs.folder_locks import in_use
with in_use(Path(sys.argv[1])):
    print("there", flush=True)
    sys.stdin.read()
"""
Worker = Callable[[Path], "subprocess.Popen[str]"]


@pytest.fixture
def works_in() -> Iterator[Worker]:
    """Starts a process that works in a folder until its input ends."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path) -> "subprocess.Popen[str]":
        words = [sys.executable, "-c", WORKER, str(folder)]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def run_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    return folder


@pytest.mark.parametrize("where", [".", "arms/fedavg/seed-7"])
def test_force_does_not_remove_a_folder_under_a_live_run(
    where: str, works_in: Worker, tmp_path: Path
) -> None:
    run = run_in(tmp_path / "run [a]")
    (run / where).mkdir(parents=True, exist_ok=True)
    process = works_in(run / where)
    with pytest.raises(OutputError, match=rf"process {process.pid} \(.* works in .*run \[a\]"):
        RunFolder.create(run, force=True)
    assert (run / "run.json").is_file()
    assert list(runs_below(tmp_path)) == [], "clean leaves it alone"
    process.communicate("")
    assert not is_in_use(run)
    RunFolder.create(run, force=True)
    assert list(run.iterdir()) == []


def test_a_process_that_was_killed_holds_nothing(works_in: Worker, tmp_path: Path) -> None:
    run = run_in(tmp_path / "run")
    process = works_in(run)
    process.kill()
    process.wait()
    assert (run / MARK).read_text() == str(process.pid)
    refuse_in_use(run)
    with in_use(run):
        assert (run / MARK).read_text() == str(os.getpid())
    assert not (run / MARK).exists()


def test_two_do_not_work_in_one_folder(works_in: Worker, tmp_path: Path) -> None:
    process = works_in(tmp_path)
    with pytest.raises(OutputError, match=f"process {process.pid}"), in_use(tmp_path):
        raise AssertionError
    refuse_in_use(tmp_path / "elsewhere")
