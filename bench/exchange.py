"""What fewer bytes cost: AUROC on the test split and bytes of a round for each format of exchange, over several seeds.

PneumoniaMNIST where the machine has it (`PNEUMONIA_FL_TEST_DATA`, or `../shared/data`), else synthetic X-rays. Three
sites of 28 px, one epoch a round; all formats of a seed train on the same images in the same order. Training amplifies
any difference, so two formats differ about as much as two seeds; the mean over the seeds is what to look at.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.options import Options

CLI = Path(sys.executable).with_name("pneumonia-fl")
FORMATS = ("float32", "float16", "int8")
SEEDS, ROUNDS, SITES, SIZE = (1, 2, 3), 5, 3, 28
TARGET = 0.001
"""Largest AUROC difference to float32, mean over the seeds."""
TARGET_BYTES = {"float32": 1.0, "float16": 0.5, "int8": 0.25}
ROOT = Path(__file__).resolve().parents[1]
ARCHIVE = (
    Path(os.environ.get("PNEUMONIA_FL_TEST_DATA", ROOT.parent / "shared" / "data")) / "pneumoniamnist.npz"
)
SYNTHETIC = f"synthetic:images=2400,size={SIZE},seed=7,sites={SITES}"


def run(options: Options) -> None:
    """Print AUROC by format and seed, the differences to float32, and the bytes of a round in each direction."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = str(ARCHIVE) if ARCHIVE.is_file() else SYNTHETIC
        print(f"{ARCHIVE.name if ARCHIVE.is_file() else f'NO {ARCHIVE.name} HERE, SYNTHETIC IMAGES INSTEAD'}")
        print(f"{SITES} sites x {ROUNDS} rounds x 1 epoch, {SIZE} px, seeds {SEEDS}", flush=True)
        _command(
            "data", "prepare", "--source", source, "--out", folder / "data", "--sites", SITES, "--size", SIZE
        )
        areas = {form: [_area(folder, form, seed) for seed in SEEDS] for form in FORMATS}
        for form in FORMATS:
            _print_areas(form, areas)
        for form in FORMATS:
            _print_bytes(form, folder)


def _area(folder: Path, form: str, seed: int) -> float:
    """Train with one format and seed; return the test AUROC of the best model."""
    out = folder / f"{form}-{seed}"
    settings = {
        "exchange": form,
        "train.seed": seed,
        "train.local_epochs": 1,
        "rounds": ROUNDS,
        "tracking": "[tensorboard]",
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    _command("run", "fedavg", "--data", folder / "data", "--out", out, "--json", *words)
    found = json.loads(
        _command("evaluate", out, "--source", folder / "data", "--split", "test", "--json").stdout
    )
    return float(found["metrics"]["auroc"])


def _print_areas(form: str, areas: dict[str, list[float]]) -> None:
    pairs = zip(areas[form], areas["float32"], strict=True)
    differences = [area - usual for area, usual in pairs]
    shown = "  ".join(
        f"{area:.4f} ({less:+.4f})" for area, less in zip(areas[form], differences, strict=True)
    )
    mean = statistics.mean(differences)
    print(f"AUROC {form:<8} {shown}   mean difference {mean:+.4f} (wanted: within {TARGET})")


def _print_bytes(form: str, folder: Path) -> None:
    """Print what one site sends and receives in each round of the first seed."""
    up, down = _bytes(folder / f"{form}-{SEEDS[0]}")
    whole, received = _bytes(folder / f"float32-{SEEDS[0]}")
    print(f"bytes of a round at a site, {form}: up {up[-1]:,}, down {[f'{one:,}' for one in down]}")
    print(
        f"  up {up[-1] / whole[-1]:.4f} of float32 (wanted: {TARGET_BYTES[form]}), down {down[-1] / received[-1]:.4f} "
        f"in the last round, {sum(down) / sum(received):.4f} in all {ROUNDS}"
    )


def _bytes(out: Path) -> tuple[list[int], list[int]]:
    rounds: list[dict[str, Any]] = json.loads((out / "metrics.json").read_text())["rounds"][:ROUNDS]
    values = [one["sites"][min(one["sites"])] for one in rounds]
    return [one["bytes"] for one in values], [one["received_bytes"] for one in values]


def _command(*words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([CLI, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True)
