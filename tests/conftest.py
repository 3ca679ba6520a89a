"""What tests share: the real command line, and one federated run that many tests look at."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["federation", "provisioning"]

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
CLI = Path(sys.executable).with_name("pneumonia-fl")

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def pneumonia_fl(
    *words: object, cwd: Path | None = None, timeout: float = 300, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run the installed command as a user does."""
    return subprocess.run(
        [str(CLI), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        check=False,
        env=env,
    )


def read_json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Each tag's steps and values in a folder of TensorBoard events."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three synthetic hospitals at 32 px, prepared through the command line."""
    out = tmp_path_factory.mktemp("data") / "demo"
    done = pneumonia_fl(
        "data", "prepare", "--source", "synthetic:images=600,size=32,seed=7,sites=3", "--out", out,
        "--sites", 3, "--size", 32, "--seed", 7,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def finished_run(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the main job on the synthetic hospitals; do not change it."""
    out = tmp_path_factory.mktemp("runs") / "fedavg"
    done = pneumonia_fl(
        "run",
        "fedavg",
        "--data",
        demo_data,
        "--out",
        out,
        "--rounds",
        4,
        # float32: the same metrics with and without bfloat16 in the CPU.
        "--set",
        "train.local_epochs=4",
        "--set",
        "train.amp=false",
    )
    assert done.returncode == 0, done.stderr
    (out / "stdout.txt").write_text(done.stdout)
    (out / "stderr.txt").write_text(done.stderr)
    return out


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As at a site in the simulator; small tensors on several threads also cost more than they gain."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
