"""What a person waits for at each command: wall and CPU seconds, medians of five.

On loopback with a real server and three sites that do nothing meanwhile. CPU seconds are the command's own; on a busy
machine they say more than the wall time. The targets are for wall time on a quiet machine.
"""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from bench.options import Options

ROOT = Path(__file__).parents[1]
CLI = Path(sys.executable).with_name("pneumonia-fl")
LEAD = "lead@consortium.org"
SITES = ("europe-hospital", "asia-hospital", "us-hospital")
TIMES = 5
LOCAL_TARGET, SERVER_TARGET, REPORT_TARGET = 0.4, 1.5, 3.0
# Python's cache of our own modules is there wherever the package was installed.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
Words = tuple[object, ...]
SHORT: Words = ("--rounds", 1, "--set", "preprocess.size=32", "--set", "train.local_epochs=1")


def run(options: Options) -> None:
    """Print each command with its seconds and its target."""
    print(f"{'command':<24}{'wall':>8}{'CPU':>8}{'target':>8}")
    with tempfile.TemporaryDirectory() as temporary, _federation(Path(temporary)) as (kits, data):
        made, simulated = kits.with_name("runs") / "one", kits.with_name("simulated")
        job = _submit(kits)
        _cli("watch", job, "--kit", kits / LEAD)
        _cli("download", job, "--kit", kits / LEAD, "--out", made)
        _cli("run", "smoke", "--data", data, "--out", simulated, *SHORT)
        local: dict[str, Words] = {
            "--version": ("--version",),
            "--help": ("--help",),
            "run --help": ("run", "--help"),
            "runs": ("runs", "--root", made.parent),
            "status KITS": ("status", kits),
        }
        _table(local, LOCAL_TARGET)
        _table({"report": ("report", made)}, REPORT_TARGET)
        _table(_of_server(kits / LEAD, job, made.with_name("again")), SERVER_TARGET)
        for tool in ("tensorboard", "mlflow"):
            _row(f"ui {tool}: address", [_until_address(tool, simulated) for _ in range(TIMES)], None)


def _of_server(kit: Path, job: str, out: Path) -> dict[str, Words]:
    who = ("--kit", kit)
    return {
        "jobs": ("jobs", *who),
        "status KIT": ("status", kit),
        "logs": ("logs", job, *who),
        "watch (ended job)": ("watch", job, *who),
        "abort (ended job)": ("abort", job, *who),
        "download": ("download", job, *who, "--out", out, "--force"),
        "submit": ("submit", "smoke", *who, "--min-sites", 9),
    }


@contextlib.contextmanager
def _federation(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the kits of a running federation, and its data."""
    kits, data = _prepare(folder)
    _cli("up", kits, "--data", data)
    try:
        yield kits, data
    finally:
        _cli("down", kits, "--yes")


def _prepare(folder: Path) -> tuple[Path, Path]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    project, kits, data = folder / "project.yml", folder / "kits", folder / "data"
    text = (ROOT / "project.yml").read_text(encoding="utf-8")
    project.write_text(text.replace("fed_learn_port: 8002", f"fed_learn_port: {port}"), encoding="utf-8")
    _cli("provision", project, "--out", kits)
    source = f"synthetic:images=90,size=32,seed=7,sites={len(SITES)}"
    _cli("data", "prepare", "--source", source, "--out", data, "--sites", ",".join(SITES), "--size", 32)
    return kits, data


def _submit(kits: Path) -> str:
    return str(json.loads(_cli("submit", "smoke", "--kit", kits / LEAD, *SHORT, "--json"))["id"])


def _table(commands: dict[str, Words], target: float) -> None:
    for name, words in commands.items():
        _row(name, [_timed(words) for _ in range(TIMES)], target)


def _row(name: str, found: list[tuple[float, float]], target: float | None) -> None:
    wall, cpu = (median(each) for each in zip(*found, strict=True))
    print(f"{name:<24}{wall:8.2f}{cpu:8.2f}{f'{target:8.1f}' if target else ''}", flush=True)


def _cli(*words: object) -> str:
    done = subprocess.run(
        [CLI, *map(str, words)], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    if done.returncode:
        sys.exit(f"pneumonia-fl {words[0]} failed: {done.stderr.strip()}")
    return done.stdout


def _timed(words: Words) -> tuple[float, float]:
    """Run a command to its end; its wall and CPU seconds."""
    before, begun = _children(), time.perf_counter()
    _cli(*words)
    return time.perf_counter() - begun, _children() - before


def _until_address(tool: str, run_folder: Path) -> tuple[float, float]:
    """Seconds until `ui` has printed an address that answers, and the CPU seconds of it all."""
    before, begun = _children(), time.perf_counter()
    command = [str(CLI), "ui", tool, str(run_folder), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as shown:
        assert shown.stderr is not None
        said = next((line for line in shown.stderr if "Ctrl-C" in line), "")
        wall = time.perf_counter() - begun
        shown.send_signal(signal.SIGINT)
    if not said:
        sys.exit(f"ui {tool} ended without an address")
    return wall, _children() - before


def _children() -> float:
    """CPU seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
