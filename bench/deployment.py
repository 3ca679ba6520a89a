"""What real kits cost beside training: `up` to all sites, `submit` to the first round, a round, memory.

Server and sites with mTLS on loopback: three sites with the default model at 128 px, then 20 with small images. In the
second round one trainer is killed. The server's own journal says when a round began and how long a site trained in it;
the rest of a round is overhead, the evaluation of the received model included. Takes about three minutes for three
sites and ten for 20.
"""

import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil

from bench.memory import Sample, Sampler, total
from bench.options import Options
from bench.processes import adopt, cli
from bench.rounds import Round, later_overhead, rounds_of
from pneumonia_fl.runs.journal import Event, read_journal

SITES = (3, 20)
LEAD = "lead@example.org"
KILLED = "site-1"
ROUNDS = 5
READY_TARGET, FIRST_ROUND_TARGET, ROUND_TARGET, BACK_TARGET = 20.0, 3.0, 2.0, 2.0
UP_SECONDS, FIND_SECONDS = 600, 600.0
TRAINER = "pneumonia_fl.fl.site.client"
ROLES = {
    TRAINER: "trainer",
    "app.server.server_train": "server, parent",
    "app.server.runner_process": "server, job process",
    "app.client.client_train": "site, parent",
    "app.client.worker_process": "site, job process",
    "fork": "fork server",
    "mlflow": "MLflow",
    "uvicorn": "MLflow",
}
"""What a process is, by a word of its command line; a module name of a job process comes before its kit's path."""


def run(options: Options) -> None:
    """Print times and memory for each number of sites."""
    adopt()
    for number in options.sites or (SITES[:1] if options.quick else SITES):
        with tempfile.TemporaryDirectory() as folder:
            _measure(Path(folder), number, quick=options.quick)


def _measure(folder: Path, number: int, quick: bool) -> None:
    images, size = (300, 128) if number <= 3 and not quick else (60, 28)
    kits, data = _prepare(folder, number, images, size)
    start = time.perf_counter()
    cli("up", kits, "--data", data, "--timeout", UP_SECONDS)
    ready, killed = time.perf_counter() - start, [0.0]
    killer = threading.Thread(target=_kill_trainer, args=(kits, killed), daemon=True)
    try:
        killer.start()
        submitted, words = time.time(), ["--kit", kits / LEAD, "--rounds", ROUNDS]
        with Sampler(role) as sampler:
            job = ["run", "fedavg", "--env", "prod", *words, "--set", "train.local_epochs=1"]
            answer = json.loads(cli(*job, "--out", folder / "run", "--json"))
    finally:
        cli("down", kits)
    events = read_journal(folder / "run" / "journal.jsonl")
    rounds = rounds_of(events)
    print(f"{number} sites, {images} synthetic images of {size} px each, {ROUNDS} rounds, {answer['job']}")
    _line("up to all sites ready", ready, READY_TARGET)
    _line("submit to first round", rounds[0].begun - submitted, FIRST_ROUND_TARGET)
    _line("round beyond training", later_overhead(rounds[1:]), ROUND_TARGET)
    _line("killed trainer trains again", _back(rounds, killed[0]), BACK_TARGET)
    print(f"  first round beyond training: {rounds[0].overhead:.1f} s; {_settling(rounds)}")
    _print_memory(sampler.samples)


def _prepare(folder: Path, number: int, images: int, size: int) -> tuple[Path, Path]:
    """Make kits for a server, sites and a lead, and the sites' data."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    project, kits, data = folder / "project.yml", folder / "kits", folder / "data"
    sites = ",".join(f"site-{index}" for index in range(1, number + 1))
    answers = {"name": "bench", "server": "localhost", "port": port, "sites": sites, "lead": LEAD}
    cli(
        "init",
        project,
        "--yes",
        *(word for item in answers.items() for word in ("--set", f"{item[0]}={item[1]}")),
    )
    cli("provision", project, "--out", kits)
    source = f"synthetic:images={images * number},size={size},seed=7,sites={number}"
    words = ("--partition", "iid", "--sites", sites, "--size", size)
    cli("data", "prepare", "--source", source, "--out", data, *words)
    return kits, data


def _kill_trainer(kits: Path, killed: list[float]) -> None:
    """Kill one site's trainer when the second round has begun; `killed[0]` gets the clock."""
    site = kits / KILLED
    _until(lambda: any(event["event"] == "round_started" and event["round"] == 1 for event in _events(kits)))
    for process in psutil.Process().children(recursive=True):
        try:
            found = TRAINER in " ".join(process.cmdline()) and site in Path(process.cwd()).parents
        except psutil.Error:
            continue
        if found:
            process.kill()
            killed[0] = time.time()


def _events(kits: Path) -> list[Event]:
    """Return what the server of these kits has written of its job so far."""
    return [event for file in kits.glob("localhost/*/journal.jsonl") for event in read_journal(file)]


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + FIND_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            sys.exit("the second round did not begin")
        time.sleep(0.02)


def _back(rounds: list[Round], killed: float) -> float | None:
    """Return the seconds from the trainer's end until the site trains again; None when none was killed."""
    begins = [
        arrived - seconds for each in rounds for arrived, seconds in [each.trained.get(KILLED, (0.0, 0.0))]
    ]
    return next((begun - killed for begun in begins if begun > killed > 0), None)


def _settling(rounds: list[Round]) -> str:
    return f"batch norm's exchange: {sum(each.settling for each in rounds):.1f} s in all rounds"


def role(command: str) -> str | None:
    """Return what a process of a kit is, by its command line."""
    return next((name for word, name in ROLES.items() if word in command), "other")


def _print_memory(samples: list[Sample]) -> None:
    """Print what each kind of process takes at the peak, the median of its kind."""
    peak = max(samples, key=total)
    print(
        f"  memory at the peak: {total(peak):,.0f} MB of PSS in {len(peak)} processes; MB of one, the median:"
    )
    for name in sorted({reading.role for reading in peak}):
        kind = [reading for reading in peak if reading.role == name]
        pss, uss, rss = (median(getattr(one, key) for one in kind) for key in ("pss", "uss", "rss"))
        print(f"    {name:<22}{len(kind):4} of PSS {pss:6.0f}, USS {uss:6.0f}, RSS {rss:6.0f}")


def _line(name: str, seconds: float | None, target: float) -> None:
    said = "     -" if seconds is None else f"{seconds:6.1f}"
    print(f"  {name:<28}{said} s (wanted: at most {target:.0f})")
