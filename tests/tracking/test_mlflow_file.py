"""A run's own MLflow database, filled without MLflow: MLflow reads what it would have written itself."""

import math
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pneumonia_fl.config.environment import cache_folder
from pneumonia_fl.runs.mlflow_files import sqlite_uri
from pneumonia_fl.tracking.mlflow_client import ClientRecords, connect
from pneumonia_fl.tracking.mlflow_file import FileRecords
from pneumonia_fl.tracking.records import Point, Records

POINTS = [
    Point("site-1", "train_loss", 0.7, 0, 1_795_000_000_000),
    Point("site-1", "train_loss", 0.5, 2, 1_795_000_002_000),
    Point("site-1", "train_loss", 0.6, 1, 1_795_000_003_000),  # late: not the latest
    Point("site-1", "global/validation_auc", math.nan, 0, 1_795_000_000_000),
    Point("site-1", "loss", math.inf, 0, 1_795_000_000_000),
    Point("site-1", "loss", -math.inf, 1, 1_795_000_000_000),
    Point("site-1", "train_loss", 0.7, 0, 1_795_000_000_000),  # once more
]
INVALID = ["../x", "/x", "a//b", ".", "", "a\nb", "a{b", "x" * 251, "a/../b"]


def _fill(records: Records, folder: Path) -> str:
    experiment = records.experiment("study", (folder / "mlflow_artifacts").as_uri())
    assert records.experiment("study", None) == experiment
    run = records.create_run(experiment, "a job", {"site": "site-1"})
    assert records.log_points(run, POINTS) == len(POINTS)
    records.log_settings(run, {"train.lr": "0.1", "long": "x" * 9000}, {"note": "y" * 9000, "seed": 7})
    (folder / "file.txt").write_text("content")
    records.add_file(run, folder / "file.txt")
    records.add_file(run, folder / "file.txt", "model")
    records.end(run, "FINISHED")
    return run


def _told(file: Path, run: str) -> Any:
    """All that MLflow says of a run and its experiment, without ids and times."""
    client = MlflowClient(sqlite_uri(file))
    found = client.get_run(run)
    info = {
        key: str(value).replace(run, "RUN").replace(file.parent.as_uri(), "HERE")
        for key, value in dict(found.info).items()
        if key not in ("end_time", "start_time")
    }
    assert found.info.start_time <= found.info.end_time
    histories = {
        key: [(m.step, m.timestamp, str(m.value)) for m in client.get_metric_history(run, key)]
        for key in found.data.metrics
    }
    latest = {key: str(value) for key, value in found.data.metrics.items()}
    artifacts = [one.path for folder in (None, "model") for one in client.list_artifacts(run, folder)]
    experiments = [(e.name, dict(e.tags), e.lifecycle_stage) for e in client.search_experiments()]
    return info, histories, latest, found.data.params, found.data.tags, artifacts, experiments


def test_mlflow_reads_what_it_would_have_written_itself(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    mine = _told(ours / "mlflow.db", _fill(FileRecords(ours / "mlflow.db"), ours))
    client = ClientRecords(connect(sqlite_uri(theirs / "mlflow.db"), 5))
    assert mine == _told(theirs / "mlflow.db", _fill(client, theirs))


@pytest.mark.parametrize("name", INVALID)
def test_a_name_that_mlflow_refuses_is_refused(tmp_path: Path, name: str) -> None:
    point = Point("site-1", name, 0.5, 0, 1_795_000_000_000)
    for records in (FileRecords(tmp_path / "a.db"), ClientRecords(connect(sqlite_uri(tmp_path / "b.db"), 5))):
        run = records.create_run(records.experiment("study", None), "a job", {})
        assert records.log_points(run, [point, POINTS[0]]) == 1


def test_no_run_of_the_command_line_imports_mlflow_for_its_own_file(tmp_path: Path) -> None:
    """As the server's process of a run does, once a first run has left MLflow's empty database in the cache."""
    FileRecords(tmp_path / "first.db").experiment("study", None)
    code = (
        "import sys; from pathlib import Path; from pneumonia_fl.tracking.mlflow_queue import open_records;"
        f"records = open_records({sqlite_uri(tmp_path / 'mlflow.db')!r}, True, 5);"
        "run = records.create_run(records.experiment('study', None), 'job', {}); records.end(run, 'FINISHED');"
        "print(sorted({'mlflow', 'sqlalchemy', 'pandas'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("content", [b"", b"torn"])
def test_a_damaged_or_missing_copy_in_the_cache_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    FileRecords(tmp_path / "first.db").experiment("study", None)
    (kept,) = cache_folder().iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.write_bytes(content)
    FileRecords(tmp_path / "second.db").experiment("study", None)
    assert kept.read_bytes().startswith(b"SQLite format 3")


def test_without_a_place_for_the_cache_it_works_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file, where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    FileRecords(tmp_path / "mlflow.db").experiment("study", None)
    assert [e.name for e in MlflowClient(sqlite_uri(tmp_path / "mlflow.db")).search_experiments()] == [
        "study",
        "Default",
    ]


def test_a_database_that_is_none_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes(b"no database at all, but long enough to be read as one" * 30)
    before = file.read_bytes()
    with pytest.raises(sqlite3.DatabaseError):
        FileRecords(file).experiment("study", None)
    assert file.read_bytes() == before
