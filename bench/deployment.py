"""What a real federation costs beside training: from `up` to all sites, from `submit` to the first round, per round.

Real kits, one server and three sites with mTLS on loopback, the default model at 128 px. The server's own journal
says when a round began and how long the slowest site trained in it; the rest of a round is overhead, the evaluation
of the received model included.
"""

import json
import socket
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.options import Options
from bench.processes import ROOT, cli
from pneumonia_fl.runs.journal import Event, read_journal

SITES = ("europe-hospital", "asia-hospital", "us-hospital")
LEAD = "lead@consortium.org"
IMAGES, SIZE, ROUNDS = 900, 128, 5
READY_TARGET, FIRST_ROUND_TARGET, ROUND_TARGET = 20.0, 15.0, 2.0


def run(options: Options) -> None:
    """Print the three times beside what they may be."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kits, data = _prepare(folder)
        start = time.perf_counter()
        cli("up", kits, "--data", data)
        ready = time.perf_counter() - start
        try:
            submitted = time.time()
            words = ["--kit", kits / LEAD, "--rounds", ROUNDS, "--set", "train.local_epochs=1"]
            answer = cli("run", "fedavg", "--env", "prod", *words, "--out", folder / "run", "--json")
        finally:
            cli("down", kits)
        events = read_journal(folder / "run" / "journal.jsonl")
        _print(ready, events, submitted, json.loads(answer))


def _prepare(folder: Path) -> tuple[Path, Path]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    project, kits, data = folder / "project.yml", folder / "kits", folder / "data"
    text = (ROOT / "project.yml").read_text(encoding="utf-8")
    project.write_text(text.replace("fed_learn_port: 8002", f"fed_learn_port: {port}"), encoding="utf-8")
    cli("provision", project, "--out", kits)
    source = f"synthetic:images={IMAGES},size={SIZE},seed=7,sites={len(SITES)}"
    cli("data", "prepare", "--source", source, "--out", data, "--sites", ",".join(SITES), "--size", SIZE)
    return kits, data


def _print(ready: float, events: list[Event], submitted: float, answer: dict[str, Any]) -> None:
    started = [event for event in events if event["event"] == "round_started"]
    overheads = [_overhead(events, number) for number in range(1, ROUNDS)]
    print(f"{len(SITES)} sites, {IMAGES} synthetic images of {SIZE} px, {ROUNDS} rounds, {answer['job']}")
    _line("up to all sites ready", ready, READY_TARGET)
    _line("submit to first round", started[0]["time"] - submitted, FIRST_ROUND_TARGET)
    _line("round beyond training", median(overheads), ROUND_TARGET)
    print("  first round (trainers start up in it)", f"{_overhead(events, 0):.1f} s")


def _overhead(events: list[Event], number: int) -> float:
    """Seconds of a round in which the slowest site did not train."""
    begins = {event["round"]: event["time"] for event in events if event["event"] == "round_started"}
    trained = [
        event["values"]["seconds"]
        for event in events
        if event["event"] == "site" and event["round"] == number
    ]
    return float(begins[number + 1] - begins[number] - max(trained))


def _line(name: str, seconds: float, target: float) -> None:
    print(f"{name:<24}{seconds:6.1f} s (wanted: at most {target:.0f})")
