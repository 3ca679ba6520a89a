"""What a simulated run leaves behind when things go wrong: nothing running, the reason in one line, all it had."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from speed import scaled

from conftest import CLI, alive, pneumonia_fl, read_json
from pneumonia_fl.inputs.folder_locks import MARK, is_in_use

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
DEADLINE = 120.0


def family(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """All processes that a command line has started, so far."""
    return psutil.Process(process.pid).children(recursive=True)


def wait_for(condition: Callable[[], object], what: str, deadline: float = DEADLINE) -> None:
    end = time.monotonic() + scaled(deadline)
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {deadline:.0f} s"
        time.sleep(0.1)


def started_training(out: Path) -> bool:
    journals = list(out.rglob("journal.jsonl"))
    return any('"loss"' in path.read_text() for path in journals)


def start_run(data: Path, out: Path) -> "subprocess.Popen[str]":
    """A run that would take far longer than the test."""
    words = ["run", "fedavg", "--data", data, "--out", out, "--rounds", "200"]
    return subprocess.Popen(
        [str(CLI), *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def long_run(demo_data: Path, tmp_path: Path) -> Iterator[tuple[Path, "subprocess.Popen[str]"]]:
    """A run in a folder with a space in its name that is in the middle of training."""
    out = tmp_path / "my runs" / "long"
    process = start_run(demo_data, out)
    wait_for(lambda: started_training(out) or process.poll() is not None, "training")
    yield out, process
    process.kill()
    process.communicate()


def test_a_killed_site_ends_the_run_and_is_named(long_run: tuple[Path, "subprocess.Popen[str]"]) -> None:
    out, process = long_run
    processes = family(process)
    next(p for p in processes if "site-2" in p.cmdline()).kill()
    _, stderr = process.communicate(timeout=scaled(60))
    assert process.returncode == 1
    assert stderr.splitlines()[-1].startswith("error: site site-2: its process")
    assert "Traceback" not in stderr
    assert alive(processes) == []
    assert read_json(out / "run.json")["state"] == "failed"
    assert read_json(out / "metrics.json")["sites"], "what was measured is kept"


def test_ctrl_c_leaves_no_process_and_keeps_what_there_is(
    long_run: tuple[Path, "subprocess.Popen[str]"],
) -> None:
    out, process = long_run
    processes = family(process)
    again = pneumonia_fl("run", "smoke", "--out", out, "--force")
    assert again.returncode == 1
    assert f"process {process.pid} (" in again.stderr
    assert f"works in {out};" in again.stderr
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=scaled(60))
    assert process.returncode == 130
    assert stderr.endswith("interrupted\n")
    assert not (out / MARK).exists()
    assert "Traceback" not in stderr
    assert alive(processes) == []
    assert read_json(out / "run.json")["state"] == "interrupted"
    assert (out / "journal.jsonl").is_file()


def test_a_killed_command_line_takes_its_processes_along(
    long_run: tuple[Path, "subprocess.Popen[str]"],
) -> None:
    out, process = long_run
    processes = family(process)
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not alive(processes), "the end of all processes", deadline=30)
    assert (out / MARK).read_text() == str(process.pid)
    assert not is_in_use(out), "a dead process holds nothing"


def test_what_a_killed_run_left_does_not_write_into_the_next_one(tmp_path: Path) -> None:
    """The first is killed while its simulator is still being loaded, which then takes its time."""
    out = tmp_path / "run"
    words = ["run", "smoke", "--out", out, "--rounds", 3, "--force", "--set", "synthetic.images=90"]
    command = [str(CLI), *map(str, words), "--set", "tracking=[]"]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    simulators: list[psutil.Process] = []
    wait_for(
        lambda: simulators.extend(p for p in family(first) if "--mark" in p.cmdline()) or simulators,
        "the start",
    )
    simulators[0].suspend()
    first.kill()
    first.wait()
    second = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(out.rglob("journal.jsonl")) or second.poll() is not None, "the second run")
    with contextlib.suppress(psutil.NoSuchProcess):
        simulators[0].resume()
    _, said = second.communicate(timeout=scaled(DEADLINE))
    assert second.returncode == 0, said
    events = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events].count("started") == 1
    assert alive(simulators) == []


def test_a_site_with_broken_data_stops_the_run_with_its_own_error(demo_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(demo_data, data)
    with (data / "site-3" / "images.npy").open("r+b") as file:
        file.truncate(5000)
    done = pneumonia_fl("run", "fedavg", "--data", data, "--out", tmp_path / "run", timeout=120)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: site site-3: DataError:")
    assert "damaged" in last
    assert "Traceback" not in done.stderr


def test_two_runs_side_by_side_do_not_collide(demo_data: Path, tmp_path: Path) -> None:
    words = [
        "run",
        "fedavg",
        "--data",
        demo_data,
        "--rounds",
        "1",
        "--workspace",
        tmp_path / "runs",
        "--json",
    ]
    runs = [
        subprocess.Popen(
            [str(CLI), *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=scaled(300)) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    folders = sorted((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    first, second = (read_json(folder / "metrics.json")["rounds"] for folder in folders)
    assert [r["global"]["auroc"] for r in first] == [r["global"]["auroc"] for r in second], (
        "same seed, same result"
    )
