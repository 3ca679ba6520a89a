"""MLflow as in a study: a real tracking server, and a tracking server that is down."""

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from speed import scaled

from conftest import CLI, alive, pneumonia_fl, read_json
from pneumonia_fl.config.environment import QUIET

pytestmark = pytest.mark.e2e
SHORT = ("--rounds", 1, "--set", "train.local_epochs=1")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}",
        "--artifacts-destination", str(tmp_path / "artifacts"),
    ]  # fmt: skip
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    fetch_when_up(f"{uri}/health", server)
    yield uri
    stop_tree(server)


def fetch_when_up(address: str, server: "subprocess.Popen[bytes]", deadline: float = 90) -> str:
    """Ask until the server answers."""
    end = time.monotonic() + scaled(deadline)
    while time.monotonic() < end:
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no answer after {deadline:.0f} s")


def stop_tree(server: "subprocess.Popen[bytes]") -> None:
    """End a server that was started here, and what it started."""
    children = psutil.Process(server.pid).children(recursive=True)
    for process in (server, *children):
        process.kill()
    server.wait()
    psutil.wait_procs(children)


def test_a_tracking_server_gets_series_parameters_and_model(
    mlflow_server: str, demo_data: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    run = tmp_path / "run"
    done = pneumonia_fl("run", "fedprox", "--data", demo_data, "--out", run, *SHORT, "-t", mlflow_server)
    assert done.returncode == 0, done.stderr
    client = MlflowClient(mlflow_server)
    parent = client.get_run(read_json(run / "run.json")["mlflow"]["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.params["algorithm.mu"] == "0.01"
    steps = [metric.step for metric in client.get_metric_history(parent.info.run_id, "validation_auc")]
    assert steps == [0, 1]
    local = client.download_artifacts(parent.info.run_id, "model/model.safetensors", str(tmp_path))
    assert Path(local).read_bytes() == (run / "model/model.safetensors").read_bytes()
    assert read_json(run / "run.json")["mlflow"]["undelivered"] == 0


def test_a_dead_tracking_server_neither_stops_nor_delays_training(demo_data: Path, tmp_path: Path) -> None:
    run, uri = tmp_path / "run", f"http://127.0.0.1:{free_port()}"
    done = pneumonia_fl("run", "fedavg", "--data", demo_data, "--out", run, *SHORT, "-t", uri, timeout=180)
    assert done.returncode == 0, done.stderr
    assert f"MLflow at {uri} did not take everything" in done.stdout
    state = read_json(run / "run.json")
    assert state["mlflow"]["undelivered"] > 0
    assert len(read_json(run / "metrics.json")["rounds"]) == 2
    assert state["finished"] - state["started"] < scaled(150)


@pytest.fixture
def viewing() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts `ui`, waits for the address that it prints, and ends it."""
    started: list[subprocess.Popen[str]] = []

    def view(tool: str, run: Path) -> "subprocess.Popen[str]":
        command = [str(CLI), "ui", tool, str(run), "--port", "0"]
        # Without the mark by which MLflow knows a test, where it is quiet by itself.
        environment = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        return process

    yield view
    for process in started:
        process.terminate()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def address_of(process: "subprocess.Popen[str]") -> str:
    """What `ui` prints when the tool answers, and not before."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("http"):
            return line.split()[0]
    raise AssertionError(f"no address: {lines}")


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize("tool", ["tensorboard", "mlflow"])
def test_ui_prints_the_address_of_a_moved_run_when_it_answers(
    finished_run: Path, tmp_path: Path, viewing: Callable[..., "subprocess.Popen[str]"], tool: str
) -> None:
    moved = tmp_path / "moved 50%?"
    shutil.copytree(finished_run, moved)
    process = viewing(tool, moved)
    address = address_of(process)
    base = address.split("#")[0]
    if tool == "tensorboard":
        assert "global" in get(f"{base}data/runs")
    else:
        run_id = read_json(moved / "mlflow.json")["runs"]["global"]
        assert address.startswith(f"{base}#/experiments/1/runs/{run_id}?")
        assert run_id in get(f"{base}api/2.0/mlflow/runs/get?run_id={run_id}")
        with contextlib.closing(sqlite3.connect(moved / "mlflow.db")) as database:
            uris = [row[0] for row in database.execute("SELECT artifact_uri FROM runs")]
        assert all(uri.startswith((moved / "mlflow_artifacts").as_uri()) for uri in uris)
    children = psutil.Process(process.pid).children(recursive=True)
    assert all(QUIET.items() <= child.environ().items() for child in children)
    process.terminate()
    process.wait()
    assert not alive(children), "a server's helper stays behind"


def test_ui_opens_a_read_only_run_and_leaves_it_as_it_is(
    finished_run: Path, tmp_path: Path, viewing: Callable[..., "subprocess.Popen[str]"]
) -> None:
    run = tmp_path / "read-only"
    shutil.copytree(finished_run, run)
    (run / "mlflow.db").chmod(0o400)
    run.chmod(0o500)
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    try:
        base, place = address_of(viewing("mlflow", run)).split("#")
        run_id = place.partition("?")[0].rsplit("/", 1)[1]
        found = json.loads(get(f"{base}api/2.0/mlflow/runs/get?run_id={run_id}"))["run"]
        assert found["info"]["artifact_uri"].startswith((run / "mlflow_artifacts").as_uri())
        assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before
    finally:
        run.chmod(0o700)
