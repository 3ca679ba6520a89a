import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from xrays import content

from pneumonia_fl.config.job import JobConfig, load_job
from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.errors import OutputError, RunError
from pneumonia_fl.runs.folder import (
    RunFolder,
    new_run_path,
    start_run,
    ui_command,
)
from pneumonia_fl.runs.listing import describe, list_runs

ORIGIN = {"source": "synthetic", "manifest_sha256": "0" * 64}


def started(path: Path, **state: object) -> RunFolder:
    run = RunFolder.create(path)
    start_run(run, JobConfig(name="job", preprocess=Preprocess(size=64)), ("a", "b"), ORIGIN)
    run.update_state(**state)
    return run


def test_a_run_begins_with_its_job_and_its_origin(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    assert load_job(run.config) == JobConfig(name="job", preprocess=Preprocess(size=64))
    state = run.state()
    assert (state["state"], state["job"], state["sites"]) == ("running", "job", ["a", "b"])
    assert state["data"] == ORIGIN
    assert str(tmp_path) not in run.config.read_text() + run.state_file.read_text()


def test_the_config_of_a_run_is_plain_yaml(tmp_path: Path) -> None:
    values = yaml.safe_load(started(tmp_path / "run").config.read_text())
    assert values["tracking"] == ["tensorboard", "mlflow"]
    assert "synthetic" not in values


def test_a_folder_in_use_is_refused_with_the_way_out(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    before = content(run.path)
    with pytest.raises(OutputError, match=r"exists already; .*--out.*--force"):
        RunFolder.create(run.path)
    assert content(run.path) == before


def test_force_replaces_an_earlier_run(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    (run.path / "leftover.txt").write_text("old")
    RunFolder.create(run.path, force=True)
    assert content(run.path) == {}


def test_force_does_not_remove_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(OutputError, match="not a run folder"):
        RunFolder.create(tmp_path / "thesis", force=True)
    assert content(tmp_path / "thesis") == {"chapter1.txt": b"years of work"}


def test_an_empty_folder_may_become_a_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert RunFolder.create(tmp_path / "run").path == tmp_path / "run"


@pytest.mark.parametrize("force", [False, True])
def test_a_file_in_the_way_is_kept(tmp_path: Path, force: bool) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OutputError):
        RunFolder.create(tmp_path / "run", force)
    assert (tmp_path / "run").read_text() == "a file"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to"):
        RunFolder.create(tmp_path / "file" / "run")
    with pytest.raises(OutputError, match="cannot write to"):
        new_run_path(tmp_path / "file" / "runs", "job")


def test_a_folder_without_state_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="`pneumonia-fl runs`"):
        RunFolder.open(tmp_path)
    run = started(tmp_path / "run")
    assert RunFolder.open(run.path).path == run.path


def test_state_is_merged(tmp_path: Path) -> None:
    run = started(tmp_path / "run", state="failed", error="site a: gone")
    assert run.state()["job"] == "job"
    assert run.state()["error"] == "site a: gone"


def test_metrics_that_are_not_there_yet_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no metrics yet"):
        started(tmp_path / "run").metrics()


def test_runs_are_listed_oldest_first_whatever_their_names(tmp_path: Path) -> None:
    for name, time in (("b", 30.0), ("a", 10.0), ("c", 20.0)):
        started(tmp_path / name, started=time)
    (tmp_path / "no-run").mkdir()
    assert [run["name"] for run in list_runs(tmp_path)] == ["a", "c", "b"]
    assert list_runs(tmp_path / "none") == []


def test_runs_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: new_run_path(tmp_path / "runs", "job"), range(24)))
    assert len(set(paths)) == 24
    assert all(path.is_dir() and path.name.startswith("job-") for path in paths)


def test_a_run_is_described_by_its_best_round(tmp_path: Path) -> None:
    run = started(tmp_path / "run", state="finished")
    assert describe(run)["best_auroc"] is None
    rounds: list[dict[str, Any]] = [
        {"round": number, "global": {"auroc": value}, "sites": {}}
        for number, value in enumerate((0.5, 0.9, 0.8))
    ]
    run.metrics_file.write_text(json.dumps({"rounds": rounds, "best_round": 1, "sites": ["a", "b"]}))
    line = describe(run)
    assert (line["state"], line["best_round"], line["best_auroc"], line["sites"]) == ("finished", 1, 0.9, 2)


def test_a_mistyped_run_is_answered_with_the_one_that_is_there(tmp_path: Path) -> None:
    started(tmp_path / "fedavg-20261122-140000")
    with pytest.raises(RunError, match="/fedavg-20261122-140000"):
        RunFolder.open(tmp_path / "fedavg-20261122-14000")


def test_tensorboard_opens_on_this_machine_only(tmp_path: Path) -> None:
    run = started(tmp_path / "my run")
    run.tb_events.mkdir()
    command = ui_command(run, "tensorboard", 6006)
    assert Path(command[0]).name == "tensorboard"
    assert command[1:] == ["--logdir", str(run.tb_events), "--host", "127.0.0.1", "--port", "6006"]


def test_mlflow_opens_the_database_of_the_run(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    run.mlflow_db.touch()
    command = ui_command(run, "mlflow", 5001, host="0.0.0.0")
    assert Path(command[0]).name == "mlflow"
    assert f"sqlite:///{run.mlflow_db}" in command
    assert command[-4:] == ["--host", "0.0.0.0", "--port", "5001"]


@pytest.mark.parametrize(
    ("kind", "message"), [("tensorboard", "no TensorBoard records"), ("mlflow", "no MLflow")]
)
def test_what_a_run_did_not_record_cannot_be_opened(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        ui_command(started(tmp_path / "run"), kind, 6006)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose MLflow database was made elsewhere, as NVFlare's workspace is, and then moved here."""
    from mlflow import MlflowClient

    root = tmp_path_factory.mktemp("mlflow")
    workspace, run = root / "work space" / "simulate_job", started(root / "run 1")
    workspace.mkdir(parents=True)
    artifacts = workspace / "mlflow_artifacts"
    client = MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    experiment = client.create_experiment("pneumonia-fl", artifact_location=artifacts.as_uri())
    for site in ("global", "site-1"):
        made = client.create_run(experiment, run_name=site)
        client.log_text(made.info.run_id, f"of {site}", "notes/who.txt")
        client.log_metric(made.info.run_id, "loss", 0.5)
    shutil.move(workspace / "mlflow.db", run.mlflow_db)
    shutil.move(artifacts, run.mlflow_artifacts)
    shutil.rmtree(workspace)
    return run


def artifacts_of(run: RunFolder) -> dict[str, str]:
    from mlflow import MlflowClient
    from mlflow.artifacts import load_text

    client = MlflowClient(f"sqlite:///{run.mlflow_db}")
    experiment = client.get_experiment_by_name("pneumonia-fl")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    return {str(r.info.run_name): str(load_text(f"{r.info.artifact_uri}/notes/who.txt")) for r in runs}


@pytest.mark.parametrize("times", [1, 2])
def test_artifacts_are_found_where_the_run_folder_is_now(recorded: RunFolder, times: int) -> None:
    for _ in range(times):
        recorded.relocate_artifacts()
    assert artifacts_of(recorded) == {"global": "of global", "site-1": "of site-1"}


def test_artifacts_are_found_after_a_run_folder_was_moved(recorded: RunFolder, tmp_path: Path) -> None:
    recorded.relocate_artifacts()
    moved = RunFolder(tmp_path / "moved_100%")
    shutil.copytree(recorded.path, moved.path)
    moved.relocate_artifacts()
    shutil.move(recorded.mlflow_artifacts, tmp_path / "gone")
    try:
        assert artifacts_of(moved) == {"global": "of global", "site-1": "of site-1"}
    finally:
        shutil.move(tmp_path / "gone", recorded.mlflow_artifacts)
