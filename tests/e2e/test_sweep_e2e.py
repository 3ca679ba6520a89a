"""A sweep that is killed and goes on, and one of its runs repeated: real NVFlare processes, a real database."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from speed import scaled

from conftest import CLI, pneumonia_fl, read_json
from pneumonia_fl.runs.processes.process_group import MARK_WORD

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
GRID = ("--grid", "train.lr=0.002", "--grid", "rounds=1", "--grid", "synthetic.images=90",
        "--grid", "train.local_epochs=2,100")  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of one run that works and one of which a site is killed; itself killed during the first."""
    out = tmp_path_factory.mktemp("sweeps") / "smoke"
    words = ("sweep", "smoke", *GRID, "--out", out)
    first = subprocess.Popen([str(CLI), *map(str, words)], start_new_session=True)
    _wait_for(out / "point-01" / "logs")
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert read_json(out / "point-01/run.json")["state"] == "running"
    with (out / "stdout.txt").open("wb") as stdout, (out / "stderr.txt").open("wb") as stderr:
        second = subprocess.Popen([str(CLI), *map(str, words)], stdout=stdout, stderr=stderr)
    _kill_site(out / "point-02")
    assert second.wait(scaled(120)) == 1, (out / "stderr.txt").read_text()  # a point has failed
    return out


def _kill_site(run: Path) -> None:
    deadline = time.monotonic() + scaled(240)
    words = ["--client", "site-1", MARK_WORD, f"run:{run.resolve()}"]
    while True:
        assert time.monotonic() < deadline, f"no site of {run.name}"
        for process in psutil.process_iter(["cmdline"]):
            if " ".join(words) in " ".join(process.info["cmdline"] or []):
                process.kill()
                return
        time.sleep(0.1)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + scaled(120)
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.1)


def test_the_table_ranks_on_validation_and_names_what_failed(sweep: Path) -> None:
    text = (sweep / "stdout.txt").read_text()
    assert "the test split was not read" in text
    assert "point-02 failed:" in text
    assert f"best point:  {sweep / 'point-01'}" in text
    assert "pneumonia-fl ui mlflow " in text
    assert "point 1 of 2: train.lr=0.002 rounds=1" in (sweep / "stderr.txt").read_text()


def test_a_point_is_judged_by_its_best_round_on_pooled_validation(sweep: Path) -> None:
    row = read_json(sweep / "sweep.json")["points"][0]
    rounds = read_json(sweep / "point-01/metrics.json")["rounds"]
    assert row["validation"]["auroc"] == max(entry["global"]["auroc"] for entry in rounds[1:])
    assert row["state"] == "finished"


def test_mlflow_has_a_parent_with_a_child_per_point(sweep: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{sweep / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("pneumonia-fl")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [(run.info.run_name, run.info.status) for run in parents] == [("sweep smoke", "FINISHED")]
    assert parents[0].data.params["grid.train.local_epochs"] == "2,100"
    children = {run.data.tags["point"]: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parents[0].info.run_id}
    assert {name: run.info.status for name, run in children.items()} == {
        "point-01": "FINISHED",
        "point-02": "FAILED",
    }
    first = children["point-01"]
    assert first.data.params["train.lr"] == "0.002"
    series = client.get_metric_history(first.info.run_id, "validation_auc")
    rounds = read_json(sweep / "point-01/metrics.json")["rounds"]
    assert [(point.step, point.value) for point in series] == [
        (entry["round"], pytest.approx(entry["global"]["auroc"])) for entry in rounds
    ]


def test_a_sweep_that_is_done_runs_nothing_again(sweep: Path) -> None:
    before = (sweep / "point-01/run.json").stat().st_mtime_ns
    done = pneumonia_fl("sweep", "smoke", *GRID, "--out", sweep, "--json")
    assert done.returncode == 1, done.stderr
    answer = json.loads(done.stdout)
    assert answer["best"] == "point-01"
    assert (sweep / "point-01/run.json").stat().st_mtime_ns == before
    assert len(answer["mlflow"]["children"]) == 2


@pytest.fixture(scope="module")
def repeated(sweep: Path) -> tuple[Path, dict[str, Any]]:
    """The sweep's run, repeated from its folder with the X-rays that it makes itself."""
    out = sweep.parent / "again"
    done = pneumonia_fl("run", "--from", sweep / "point-01", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_a_repeated_run_gives_the_same_numbers_bit_by_bit(
    sweep: Path, repeated: tuple[Path, dict[str, Any]]
) -> None:
    out, answer = repeated
    assert answer["repeat"]["of"] == "point-01"
    assert answer["repeat"]["difference"]["largest"] == 0
    assert (answer["repeat"]["same_machine"], answer["repeat"]["within"]) == (True, True)
    for model in ("model", "model_last"):
        name = f"{model}/model.safetensors"
        assert (out / name).read_bytes() == (sweep / "point-01" / name).read_bytes()
    assert (out / "config.yml").read_bytes() == (sweep / "point-01/config.yml").read_bytes()


def test_a_run_says_on_which_machine_it_was(repeated: tuple[Path, dict[str, Any]]) -> None:
    state = repeated[1]
    assert {"device", "cpu", "cores", "capability", "torch", "numpy"} <= state["machine"].keys()
    assert sorted(state["threads"]) == state["sites"]
