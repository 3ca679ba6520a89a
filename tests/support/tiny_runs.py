"""Runs of two rounds on a few synthetic X-rays: each job once for all tests of a session."""

from collections.abc import Callable
from pathlib import Path

import pytest
from once import made_once

from conftest import pneumonia_fl

ROUNDS = 2
SOURCE = ("--source", "synthetic:images=90,size=32,seed=7,sites=2", "--sites", 2, "--size", 32, "--seed", 7)
# float32: the same metrics with and without bfloat16 in the CPU.
WORDS = (f"rounds={ROUNDS}", "train.local_epochs=1", "train.amp=false", "tracking=[tensorboard]")
SETTINGS = {
    "fedavgm": (
        "rounds=5",
        "early_stopping.patience=1",
        "early_stopping.min_delta=0.99",
        "algorithm.average_last=2",
    ),
    "cyclic": ("train.seed=11",),
    "fedprox": ("train.batch_size=8",),  # its first step of a round is FedAvg's: this makes several
}


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hospitals at 32 px."""

    def prepare(out: Path) -> None:
        done = pneumonia_fl("data", "prepare", *SOURCE, "--out", out)
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "data/tiny", prepare)


@pytest.fixture(scope="session")
def tiny_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The finished run of a job by the job's name; nobody may change it."""

    def train(job: str, out: Path) -> None:
        words = [word for setting in (*WORDS, *SETTINGS.get(job, ())) for word in ("--set", setting)]
        done = pneumonia_fl("run", job, "--data", tiny_data, "--out", out, *words)
        assert done.returncode == 0, done.stderr
        (out / "stdout.txt").write_text(done.stdout)

    return lambda job: made_once(tmp_path_factory, f"tiny/{job}", lambda out: train(job, out))
