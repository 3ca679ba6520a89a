"""What tests share: the real command line, and one federated run that many tests look at."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from once import made_once, shared_folder
from speed import scaled, share_measurement
from warm_commands import fork_server, surroundings

pytest_plugins = ["provisioning", "federation", "doctor_kits", "refusals", "tiny_runs"]

ROOT = Path(__file__).resolve().parents[1]
PUBLIC_DATA = Path(os.environ.get("PNEUMONIA_FL_TEST_DATA", ROOT.parent / "shared" / "data"))
"""Real X-rays, where a machine has them: `chest-xray-pneumonia-224.zip` and `pneumoniamnist.npz` of docs/results.md."""
CLI = Path(sys.executable).with_name("pneumonia-fl")
MAIN = "pneumonia_fl.cli.main:main"
"""What the script calls."""

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that run; one that has ended may wait for its parent to take note."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def pneumonia_fl(
    *words: object, cwd: Path | None = None, timeout: float = 300, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run the command line as a user does; `timeout` in seconds of the reference machine (speed.py).

    A command is forked from a process that has imported all of it (warm_commands.py), unless its environment is
    not that of the tests: libraries read theirs when they are imported.
    """
    server = fork_server() if env is None else None
    if server is not None and server.environment == surroundings():
        return server.run(MAIN, [str(CLI), *map(str, words)], cwd, scaled(timeout))
    return subprocess.run(
        [str(CLI), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=scaled(timeout),
        check=False,
        env=env,
    )


def prepare(out: Path, images: int, sites: int | str) -> None:
    """Synthetic X-rays of 32 px for three sites, prepared through the command line."""
    done = pneumonia_fl(
        "data", "prepare", "--source", f"synthetic:images={images},size=32,seed=7,sites=3", "--out", out,
        "--sites", sites, "--size", 32, "--seed", 7,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def read_json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Each tag's steps and values in a folder of TensorBoard events."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def texts(folder: Path) -> dict[str, list[str]]:
    """Each text tag's texts in a folder of TensorBoard events."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    found = {tag: events.Tensors(tag) for tag in events.Tags()["tensors"]}
    return {tag: [one.tensor_proto.string_val[0].decode() for one in all_] for tag, all_ in found.items()}


@pytest.fixture(scope="session", autouse=True)
def one_measurement(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All workers have the same deadlines."""
    share_measurement(shared_folder(tmp_path_factory))


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three synthetic hospitals at 32 px."""
    return made_once(tmp_path_factory, "data/demo", lambda out: prepare(out, 600, 3))


@pytest.fixture(scope="session")
def finished_run(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the main job on the synthetic hospitals; do not change it."""

    def train(out: Path) -> None:
        # float32: the same metrics with and without bfloat16 in the CPU.
        settings = ["--set", "train.local_epochs=4", "--set", "train.amp=false"]
        done = pneumonia_fl("run", "fedavg", "--data", demo_data, "--out", out, "--rounds", 4, *settings)
        assert done.returncode == 0, done.stderr
        (out / "stdout.txt").write_text(done.stdout)
        (out / "stderr.txt").write_text(done.stderr)

    return made_once(tmp_path_factory, "runs/fedavg", train)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As at a site in the simulator; small tensors on several threads also cost more than they gain."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
