"""Delivery to MLflow: a real SQLite store, and a server that is not there."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from speed import scaled

from pneumonia_fl.tracking import mlflow_queue as mlflow_sink
from pneumonia_fl.tracking.mlflow_queue import MLflowSink


def sink(folder: Path, uri: str) -> MLflowSink:
    artifacts = (folder / "artifacts").as_uri()
    return MLflowSink(uri, "test", artifacts, "job", ["site-1", "site-2"], folder / "mlflow.json")


def status(folder: Path) -> dict[str, object]:
    values: dict[str, object] = json.loads((folder / "mlflow.json").read_text())
    return values


def test_points_arrive_under_a_parent_run_and_a_run_per_site(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    receiver = sink(tmp_path, uri)
    receiver.start()
    for step in range(3):
        receiver.put("global", "global/validation_auc", step / 10, step)
        receiver.put("site-1", "train_loss", 1.0 - step / 10, step)
    receiver.close()
    assert status(tmp_path)["undelivered"] == 0
    client, runs = MlflowClient(uri), status(tmp_path)["runs"]
    assert isinstance(runs, dict)
    history = client.get_metric_history(runs["global"], "global/validation_auc")
    assert [(point.step, point.value) for point in history] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert client.get_run(runs["site-1"]).data.tags["mlflow.parentRunId"] == runs["global"]
    assert client.get_run(runs["site-2"]).data.metrics == {}


def test_a_site_that_joins_late_gets_a_run_too(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    receiver = sink(tmp_path, uri)
    receiver.start()
    receiver.put("site-9", "train_loss", 0.5, 4)
    receiver.put("site-1", "train_loss", 0.6, 4)
    receiver.close()
    runs = status(tmp_path)["runs"]
    assert isinstance(runs, dict)
    assert status(tmp_path)["undelivered"] == 0
    assert MlflowClient(uri).get_run(runs["site-9"]).data.metrics == {"train_loss": 0.5}


def test_a_dead_server_blocks_nobody_and_is_named(tmp_path: Path) -> None:
    receiver = sink(tmp_path, "http://127.0.0.1:9")
    receiver.start()
    begun = time.monotonic()
    receiver.put("global", "global/validation_auc", 0.5, 0)
    assert time.monotonic() - begun < scaled(0.5)
    receiver.close()
    assert time.monotonic() - begun < mlflow_sink.CLOSE_SECONDS + scaled(5)
    assert status(tmp_path)["undelivered"] == 1
    assert "127.0.0.1" in str(status(tmp_path)["error"])


def test_a_deleted_experiment_is_named_once_with_the_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_sink, "RETRY_SECONDS", 0.05)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("test")
    client.delete_experiment(experiment)
    receiver = sink(tmp_path, uri)
    receiver.start()
    receiver.put("global", "global/validation_auc", 0.5, 0)
    deadline = time.monotonic() + scaled(60)
    while "mlflow experiments restore" not in caplog.text and time.monotonic() < deadline:
        receiver._closing.wait(0.05)
    receiver._closing.wait(0.5)
    assert caplog.text.count("mlflow experiments restore") == 1
    client.restore_experiment(experiment)
    receiver.close()
    assert (status(tmp_path)["undelivered"], status(tmp_path)["error"]) == (0, None)


def test_points_of_a_deleted_run_are_kept_and_not_called_invalid(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("test")).info.run_id
    client.delete_run(run)
    receiver = MLflowSink(uri, "test", None, "job", [], tmp_path / "mlflow.json", {"global": run})
    receiver.start()
    receiver.put("global", "global/validation_auc", 0.5, 0)
    receiver.close()
    found = status(tmp_path)
    assert (found["undelivered"], found["dropped"]) == (1, {})
    assert "mlflow runs restore" in str(found["error"])


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("API request failed with error code 401", "MLFLOW_TRACKING_USERNAME"),
        ("Max retries exceeded with url: /api", "see that MLflow runs there"),
        ("(sqlite3.OperationalError) unable to open database file", "rights"),
        ("Detected out-of-date database schema", "mlflow db upgrade"),
        ("something else", "Exception: something else"),
    ],
)
def test_an_error_is_told_with_its_remedy(said: str, remedy: str) -> None:
    assert remedy in mlflow_sink.explained(Exception(said))


def test_the_client_reports_its_use_to_nobody_whatever_its_environment_says() -> None:
    code = (
        "from pneumonia_fl.tracking.mlflow_client import connect; connect('sqlite://', 1);"
        "from mlflow.telemetry.client import get_telemetry_client;"
        "from mlflow.telemetry.utils import is_telemetry_disabled;"
        "print(get_telemetry_client(), is_telemetry_disabled())"
    )
    # Without the marks by which MLflow knows a test or a build machine, where it is quiet by itself.
    environment = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME")}
    environment["MLFLOW_DISABLE_TELEMETRY"] = "false"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split() == ["None", "True"]


def test_an_error_without_words_is_still_one_line() -> None:
    assert mlflow_sink.one_line(TimeoutError()) == "TimeoutError: "
    assert mlflow_sink.one_line(ValueError("first\nsecond")) == "ValueError: first"


def test_a_point_that_mlflow_calls_invalid_is_dropped_and_counted_and_holds_nobody_up(tmp_path: Path) -> None:
    receiver = sink(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    receiver.start()
    for step in range(9):
        receiver.put("site-1", "../../../../x" if step == 4 else "train_loss", 0.5, step)
        receiver.put("site-2", "train_loss", 0.5, step)
    receiver.close()
    found = status(tmp_path)
    assert (found["delivered"], found["undelivered"], found["dropped"]) == (17, 0, {"site-1": 1})
    assert found["error"] is None


def test_a_queue_is_bounded_for_each_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_sink, "QUEUE_LIMIT", 3)
    receiver = sink(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    for step in range(5):
        receiver.put("site-1", "train_loss", 0.5, step)
    receiver.put("site-2", "train_loss", 0.5, 0)
    receiver.start()
    receiver.close()
    found = status(tmp_path)
    assert (found["delivered"], found["undelivered"], found["dropped"]) == (4, 0, {"site-1": 2})


def test_what_was_delivered_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_sink, "QUEUE_LIMIT", 3)
    receiver = sink(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    receiver.start()
    deadline = time.monotonic() + scaled(60)
    for step in range(6):
        while receiver._pending["site-1"] == 3 and time.monotonic() < deadline:
            receiver._closing.wait(0.05)
        receiver.put("site-1", "train_loss", 0.5, step)
    receiver.close()
    assert (status(tmp_path)["delivered"], status(tmp_path)["dropped"]) == (6, {})
