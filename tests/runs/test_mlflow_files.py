"""A run's own MLflow database and `mlflow.json`, whatever became of them and of the folder's name."""

import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pneumonia_fl.errors import RunError
from pneumonia_fl.runs.mlflow_files import (
    TRAINING_PAGES,
    is_read_only,
    open_database,
    place_of_run,
    point_artifacts,
    read_status,
    sqlite_uri,
)


@pytest.mark.parametrize("name", ["a%41?b c#d&e=f", "50%", "plain", "[x] é"])
def test_a_database_lies_where_its_folder_is_whatever_the_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / name / "mlflow.db"
    file.parent.mkdir()
    client = MlflowClient(sqlite_uri(file))
    experiment = client.create_experiment(
        "study", artifact_location=(file.parent / "mlflow_artifacts").as_uri()
    )
    run = client.create_run(experiment).info.run_id
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert file.is_file()
    assert place_of_run(file, run) == f"#/experiments/{experiment}/runs/{run}{TRAINING_PAGES}"
    assert place_of_run(file, None) == f"#/experiments/{experiment}/runs{TRAINING_PAGES}"


@pytest.mark.parametrize("content", [None, b"", b"no database at all, but long enough to be read as one"])
def test_what_is_no_database_is_named_and_nothing_is_made(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "mlflow.db"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RunError, match="is not an MLflow database"):
        point_artifacts(file, tmp_path / "mlflow_artifacts")
    with pytest.raises(RunError, match="is not an MLflow database"):
        place_of_run(file, None)
    assert (file.read_bytes() if file.exists() else None) == content


@pytest.mark.parametrize("locked", ["mlflow.db", "."])
def test_a_file_without_the_right_to_write_is_read_only_even_for_root(tmp_path: Path, locked: str) -> None:
    file = tmp_path / "run" / "mlflow.db"
    file.parent.mkdir()
    sqlite3.connect(file).execute(
        "CREATE TABLE runs (experiment_id, run_uuid, start_time)"
    ).connection.close()
    assert not is_read_only(file)
    place = file.parent / locked
    place.chmod(place.stat().st_mode & ~0o222)
    assert is_read_only(file)
    with open_database(file) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (0,)
    assert [path.name for path in file.parent.iterdir()] == ["mlflow.db"]
    place.chmod(0o700)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"runs": 3}', '{"runs": {"global": null}}', '"x"'])
def test_a_damaged_status_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "mlflow.json"
    assert read_status(file).runs == {}
    file.write_text(content)
    with pytest.raises(RunError, match=r"mlflow.json is damaged"):
        read_status(file)
