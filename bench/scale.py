"""What more sites cost in the simulator: time until the first round, overhead of a round, memory; 3 to 300 sites.

Each site has some 25 small synthetic training images, so that little is trained and much is sent; 3 rounds of one
epoch.
`--out FILE` writes the table as JSON, from which scripts/make_scale_chart.py draws. Takes about a minute for up to
30 sites, and about ten for 300.
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.memory import Sampler, largest, total, waiting
from bench.options import Options
from bench.processes import CLI, cli, measured
from bench.rounds import later_overhead, rounds_of
from pneumonia_fl.files import write_atomic
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.machine import machine
from pneumonia_fl.runs.provenance import git_revision

SITES, QUICK_SITES = (3, 10, 30, 100, 300), (3, 5)
IMAGES, SIZE, ROUNDS = 40, 28, 3
"""Images of a site (two thirds for training) and their side in pixels."""
SITE_MEMORY, ROUND_SECONDS = 60, 5.0
"""What 100 sites may take: MB of a site that does not train, seconds of a round beside training."""


@dataclass(frozen=True)
class Row:
    """What one number of sites took: seconds, and MB of memory.

    Args:
        until_round: from the start of the command until the server sends the first model.
        overhead: of a round after the first, beside the training of `at_once` sites at a time.
        settling: exchange of batch norm's statistics, per round, which the first three rounds have.
        wall: of the whole command.
        cpu: of all processes.
        memory: of all processes at the peak (sum of PSS).
        site_pss: of a site's process that waits; None when none was seen waiting.
        site_uss: what of it is its own.
        server_rss: resident memory of the server's process.
    """

    sites: int
    at_once: int
    until_round: float
    first_overhead: float
    overhead: float
    settling: float
    wall: float
    cpu: float
    memory: float
    site_pss: float | None
    site_uss: float | None
    server_rss: float


def run(options: Options) -> None:
    """Print a row for each number of sites."""
    numbers = options.sites or (QUICK_SITES if options.quick else SITES)
    print(
        f"{IMAGES} synthetic images of {SIZE} px per site, {ROUNDS} rounds of one epoch; MB; wanted at 100 sites: "
        f"a site that waits {SITE_MEMORY} MB, a round's overhead {ROUND_SECONDS:.0f} s"
    )
    print(
        f"{'sites':>6}{'at once':>8}{'round 1':>9}{'its ovh':>9}{'overhead':>9}{'settling':>9}{'wall s':>8}{'CPU s':>8}"
        f"{'memory':>8}{'site PSS':>9}{'USS':>6}{'server':>8}"
    )
    rows = []
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(_measure(Path(folder), number))
        _print(rows[-1])
    if options.out:
        about = {
            "machine": machine(),
            "revision": git_revision(),
            "images": IMAGES,
            "size": SIZE,
            "rounds": ROUNDS,
        }
        text = json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=2)
        write_atomic(options.out, text.encode() + b"\n")


def _measure(folder: Path, number: int) -> Row:
    data, out = folder / "data", folder / "run"
    source = f"synthetic:images={IMAGES * number},size={SIZE},seed=7,sites={number}"
    words = ("--partition", "iid", "--sites", number, "--size", SIZE)
    cli("data", "prepare", "--source", source, "--out", data, *words)
    with Sampler(role) as sampler:
        command = [CLI, "run", "fedavg", "--data", data, "--out", out, "--rounds", ROUNDS, "--json"]
        cost, _ = measured([*command, "--set", "train.local_epochs=1"])
    rounds = rounds_of(RunFolder(out).events())
    pss, uss = waiting(sampler.samples, "site") or (None, None)
    return Row(
        sites=number,
        at_once=rounds[-1].at_once,
        until_round=rounds[0].begun - cost.begun,
        first_overhead=rounds[0].overhead,
        overhead=later_overhead(rounds),
        settling=sum(each.settling for each in rounds) / len(rounds),
        wall=cost.wall,
        cpu=cost.cpu,
        memory=total(sampler.peak),
        site_pss=pss,
        site_uss=uss,
        server_rss=largest(sampler.samples, "server"),
    )


def role(command: str) -> str | None:
    """Return what a process of a run is, by its command line."""
    if "--client" in command:
        return "site"
    return "server" if "pneumonia-fl simulator" in command or "simulator.worker" in command else "other"


def _print(row: Row) -> None:
    pss, uss = (f"{value:.0f}" if value is not None else "-" for value in (row.site_pss, row.site_uss))
    print(
        f"{row.sites:6}{row.at_once:8}{row.until_round:9.1f}{row.first_overhead:9.1f}{row.overhead:9.2f}"
        f"{row.settling:9.2f}{row.wall:8.1f}{row.cpu:8.1f}{row.memory:8.0f}{pss:>9}{uss:>6}{row.server_rss:8.0f}",
        flush=True,
    )
