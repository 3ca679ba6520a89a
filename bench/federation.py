"""What federation costs: the whole `run` command against bare processes and stock NVFlare that do the same training.

Three equal sites, PneumoniaMNIST at 28 px, 5 rounds of one epoch, one thread each; the engines take turns. Every engine
counts from the start of its command to its end, and its CPU seconds are those of all its processes. On a machine that
does something else at the same time only the CPU seconds mean something. Takes about 6 minutes for each of three turns.
"""

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.engines.work import JOB, changes
from bench.options import Options
from bench.processes import CLI, Cost, cli, few_cores, measured
from bench.rounds import auroc_of, later_overhead, milestones, rounds_of
from pneumonia_fl.runs.folder import RunFolder

SITES, SIZE = 3, 28
CORES = 4
"""So many at most: three sites would have more than one thread each."""
IMAGES = 5232
"""As in PneumoniaMNIST."""
DATA = Path(os.environ.get("PNEUMONIA_FL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
QUIET = 0.02
"""Share of the machine's time that other programs may take in a measurement that is to be believed."""
BARE_RATIO, BESIDE_SECONDS, BESIDE_CPU, ROUND_SECONDS, SMOKE_SECONDS = 1.05, 8.0, 8.0, 0.3, 15.0


@dataclass(frozen=True)
class Bare:
    """One turn of the bare processes: see `bench.engines.bare`."""

    cost: Cost
    found: dict[str, Any]

    @property
    def training_cpu(self) -> float:
        """Return the CPU seconds of all training."""
        return float(sum(site["training_cpu"] for site in self.found["sites"]))


@dataclass(frozen=True)
class Ours:
    """One turn of `run`."""

    cost: Cost
    out: Path


@dataclass(frozen=True)
class Stock:
    """One turn of NVFlare's recipe; `sites` is what `Spent` holds of each."""

    cost: Cost
    sites: list[dict[str, Any]]


def run(options: Options) -> None:
    """Print wall and CPU seconds of the three engines, their ratios, and where the difference goes."""
    rounds, epochs = (2, 1) if options.quick else (5, 1)
    with tempfile.TemporaryDirectory() as temporary, few_cores(CORES):
        folder = Path(temporary)
        print(_prepare(folder / "data", options.quick) + f"; {rounds} rounds x {epochs} epoch", flush=True)
        torch = median(measured([sys.executable, "-c", "import torch"])[0].wall for _ in range(3))
        turns = [_turn(folder, number, rounds, epochs) for number in range(options.repeats)]
        bare, ours, stock = (
            [turn[0] for turn in turns],
            [turn[1] for turn in turns],
            [turn[2] for turn in turns],
        )
        _print_engines(bare, ours, stock)
        _print_beside(bare, ours, torch)
        _print_phases(bare, _middle(ours))
        _print_smoke(folder, options.repeats)


def _prepare(data: Path, quick: bool) -> str:
    """Prepare the data; return what it is."""
    real = DATA / "pneumoniamnist.npz"
    images = 300 if quick else IMAGES
    use_real = real.exists() and not quick
    source = real if use_real else f"synthetic:images={images},size={SIZE},seed=7,sites={SITES}"
    words = ("--partition", "iid", "--sites", SITES, "--size", SIZE, "--seed", 7)
    cli("data", "prepare", "--source", source, "--out", data, *words)
    name = "PneumoniaMNIST" if use_real else f"{images:,} SYNTHETIC images (not PneumoniaMNIST)"
    return f"{name}, {SIZE} px, {SITES} equal sites"


def _turn(folder: Path, number: int, rounds: int, epochs: int) -> tuple[Bare, Ours, Stock]:
    """Let each engine do the work once."""
    data, out, workspace = (folder / name for name in ("data", f"run-{number}", f"stock-{number}"))
    words = (data, SITES, rounds, epochs)
    bare_cost, text = measured([sys.executable, "-m", "bench.engines.bare", *words])
    command = [CLI, "run", JOB, "--data", data, "--out", out, "--rounds", rounds, "--json"]
    ours_cost, _ = measured([*command, *(word for change in changes(epochs) for word in ("--set", change))])
    stock_cost, _ = measured([sys.executable, "-m", "bench.engines.stock", *words, workspace])
    spent = [json.loads(file.read_text()) for file in sorted((workspace / "spent").glob("*.json"))]
    print(f"  turn {number + 1} done", flush=True)
    return Bare(bare_cost, json.loads(text)), Ours(ours_cost, out), Stock(stock_cost, spent)


def _middle(turns: list[Ours]) -> Ours:
    """Return the turn with the median wall time."""
    return sorted(turns, key=lambda turn: turn.cost.wall)[len(turns) // 2]


def _print_engines(bare: list[Bare], ours: list[Ours], stock: list[Stock]) -> None:
    print(f"{'engine':<44}{'wall s':>8}{'CPU s':>8}{'other':>8}   of {len(ours)} turns the median")
    walls = []
    for name, costs in (
        ("bare processes", [turn.cost for turn in bare]),
        ("pneumonia-fl run", [turn.cost for turn in ours]),
        ("stock NVFlare (no final evaluation, report)", [turn.cost for turn in stock]),
    ):
        wall, cpu, other = (
            median(values) for values in zip(*((c.wall, c.cpu, c.other) for c in costs), strict=True)
        )
        busy = other / (wall * (os.cpu_count() or 1))
        print(f"{name:<44}{wall:8.1f}{cpu:8.1f}{other:8.1f}" + ("   NOT QUIET" if busy > QUIET else ""))
        walls.append(wall)
    plain = median(turn.cost.wall - turn.found["settling"] for turn in bare)
    _line("run / bare", walls[1] / walls[0], f"at most {BARE_RATIO}")
    _line("run / bare without batch norm's exchange", walls[1] / plain, "that exchange is our extra")
    _line("run / stock NVFlare", walls[1] / walls[2], "below 1")
    areas = [
        median(turn.found["auroc"] or 0.0 for turn in bare),
        median(auroc_of(turn.out) or 0.0 for turn in ours),
    ]
    print(f"validation AUROC of the last model: bare {areas[0]:.4f}, run {areas[1]:.4f}")


def _print_beside(bare: list[Bare], ours: list[Ours], torch: float) -> None:
    """Print what `run` takes beside training."""
    training = median(turn.training_cpu for turn in bare)
    rounds = [rounds_of(RunFolder(turn.out).events()) for turn in ours]
    beside = median(
        turn.cost.wall - sum(each.training for each in found)
        for turn, found in zip(ours, rounds, strict=True)
    )
    cpu = median(turn.cost.cpu for turn in ours)
    _line(
        "wall seconds beside the slowest site's training",
        beside,
        f"at most {BESIDE_SECONDS + torch:.1f}: {BESIDE_SECONDS:.0f} and an import of torch, {torch:.1f}",
    )
    _line(
        "CPU seconds beside training",
        cpu - training,
        f"at most {BESIDE_CPU:.0f}; training as in the bare processes, {training:.1f}",
    )
    _line(
        "CPU seconds of bare processes beside training", median(turn.cost.cpu for turn in bare) - training, ""
    )
    _line(
        "overhead of a round",
        median(later_overhead(found) for found in rounds),
        f"at most {ROUND_SECONDS}; the sites' evaluation included",
    )


def _print_phases(bare: list[Bare], ours: Ours) -> None:
    events = RunFolder(ours.out).events()
    rounds = rounds_of(events)
    print("where the time of the middle turn of run went:")
    for name, seconds in milestones(ours.out, ours.cost.begun, ours.cost.ended):
        print(f"  {name:<55}{seconds:7.1f} s")
    evaluation = median(max(site["evaluation"] for site in turn.found["sites"]) for turn in bare)
    settling, bare_settling = sum(each.settling for each in rounds), median(t.found["settling"] for t in bare)
    print("in its rounds:")
    for name, seconds, note in (
        (f"training of the slowest site, {rounds[0].at_once} at once", sum(r.training for r in rounds), ""),
        ("batch norm's exchange", settling, f"in bare processes {bare_settling:.1f}"),
        ("overhead of the first round", rounds[0].overhead, "start-up of the sites"),
        (
            "overhead of the others",
            sum(each.overhead for each in rounds[1:]),
            f"of bare: evaluation {evaluation:.1f}",
        ),
    ):
        print(f"  {name:<55}{seconds:7.1f} s" + (f"   {note}" if note else ""))
    sent = [e["values"]["bytes"] for e in events if e["event"] == "site" and e["values"].get("bytes")]
    print(f"  bytes of a site's result: {max(sent):,}")


def _print_smoke(folder: Path, repeats: int) -> None:
    times = [
        measured([CLI, "run", "smoke", "--out", folder / f"smoke-{number}", "--json"])[0].wall
        for number in range(repeats)
    ]
    _line("run smoke, wall seconds", median(times), f"at most {SMOKE_SECONDS:.0f}")


def _line(name: str, value: float, wanted: str) -> None:
    print(f"{name:<50}{value:8.2f}" + (f"   ({wanted})" if wanted else ""))
