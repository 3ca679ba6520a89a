"""More simulated sites than the machine has room for take turns: the same bits, little memory, nothing left behind."""

import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from speed import scaled

from conftest import CLI, alive, pneumonia_fl, read_json
from pneumonia_fl.runs.processes.process_group import marked_processes

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
FEW, MANY = 8, 100
MEGABYTE = 2**20
WAITING_MEGABYTES = 60
ONE_CORE = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]


def prepared(out: Path, sites: int) -> Path:
    source = f"synthetic:images={20 * sites},size=28,seed=1,sites={sites}"
    done = pneumonia_fl("data", "prepare", "--source", source, "--out", out, "--sites", sites, "--size", 28)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many sites as work at once on two cores; on one core they take turns."""
    return prepared(tmp_path_factory.mktemp("few") / "data", FEW)


def start(data: Path, out: Path, rounds: int, *before: str) -> "subprocess.Popen[str]":
    words = [
        "run",
        "fedavg",
        "--data",
        data,
        "--out",
        out,
        "--rounds",
        rounds,
        "--set",
        "train.local_epochs=1",
    ]
    command = [*before, str(CLI), *map(str, words), "--set", "tracking=[]"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def sites_of(out: Path) -> dict[str, psutil.Process]:
    found = [(process, process.cmdline()) for process in marked_processes(f"run:{out.resolve()}")]
    return {words[words.index("--client") + 1]: process for process, words in found if "--client" in words}


def until(condition: Callable[[], object], process: "subprocess.Popen[str]", seconds: float = 180) -> None:
    end = time.monotonic() + scaled(seconds)
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="on one core they take turns in any case")
def test_turns_change_no_bit(few: Path, tmp_path: Path) -> None:
    runs = {
        "together": start(few, tmp_path / "together", 2),
        "turns": start(few, tmp_path / "turns", 2, *ONE_CORE),
    }
    for run in runs.values():
        _, said = run.communicate(timeout=scaled(300))
        assert run.returncode == 0, said
    for model in ("model", "model_last"):
        (first,), (second,) = ((tmp_path / run / model).glob("*.safetensors") for run in runs)
        assert first.read_bytes() == second.read_bytes()
    together, turns = (read_json(tmp_path / run / "metrics.json")["rounds"] for run in runs)
    assert [entry["global"] for entry in together] == [entry["global"] for entry in turns]


def test_a_site_that_is_killed_while_it_waits_ends_the_run_and_is_named(few: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(few, out, 200, *ONE_CORE)
    until(lambda: len(sites_of(out)) == FEW and list(out.rglob("journal.jsonl")), process)
    processes = [*psutil.Process(process.pid).children(recursive=True)]
    sites_of(out)[f"site-{FEW}"].kill()
    _, said = process.communicate(timeout=scaled(90))
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith(f"error: site site-{FEW}: its process")
    assert alive(processes) == []


def test_a_hundred_sites_fit_on_a_laptop(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(prepared(tmp_path / "data", MANY), out, 2)
    memory: list[float] = []

    def second_round() -> bool:
        return any('"settled"' in path.read_text() for path in out.rglob("journal.jsonl"))

    until(second_round, process, 300)
    sites = sites_of(out)
    memory = [site.memory_full_info().uss / MEGABYTE for site in sites.values()]
    _, said = process.communicate(timeout=scaled(300))
    assert process.returncode == 0, said
    assert len(memory) == MANY
    assert statistics.median(memory) <= WAITING_MEGABYTES, "most of them wait"
    rounds = read_json(out / "metrics.json")["rounds"]
    assert [len(entry["sites"]) for entry in rounds] == [MANY] * 3
    assert alive(list(sites.values())) == []
