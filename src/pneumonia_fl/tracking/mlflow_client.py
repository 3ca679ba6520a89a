"""MLflow's own library: to a tracking server, and to a database that is not a run's own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pneumonia_fl.config.environment import report_nothing
from pneumonia_fl.runs.mlflow_files import sqlite_uri
from pneumonia_fl.tracking.records import KIND, Point

FETCH_SECONDS = 60


class ClientRecords:
    """Writes through an MLflow client: see `Records`."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def experiment(self, name: str, artifacts: str | None) -> str:
        """Return the id of an experiment; a missing one is made, with its artifacts in the folder `artifacts`."""
        found = self._client.get_experiment_by_name(name)
        return str(
            found.experiment_id if found else self._client.create_experiment(name, artifacts, tags=KIND)
        )

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        """Add a run and return its id."""
        return str(self._client.create_run(experiment, run_name=name, tags=dict(tags)).info.run_id)

    def log_points(self, run: str, points: Sequence[Point]) -> int:
        """Add points and return how many: those that MLflow calls invalid are dropped, they would always fail."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        metrics = [Metric(point.tag, point.value, point.milliseconds, point.step) for point in points]
        try:
            self._client.log_batch(run, metrics=metrics)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE" or "'active' state" in str(error):
                raise
            if len(points) == 1:
                return 0
            half = len(points) // 2
            return self.log_points(run, points[:half]) + self.log_points(run, points[half:])
        return len(points)

    def log_settings(self, run: str, settings: Mapping[str, str], tags: Mapping[str, object]) -> None:
        """Set a run's parameters and tags."""
        from mlflow.entities import Param, RunTag

        params = [Param(*setting) for setting in settings.items()]
        self._client.log_batch(
            run, params=params, tags=[RunTag(key, str(value)) for key, value in tags.items()]
        )

    def add_file(self, run: str, file: Path, folder: str = "") -> None:
        """Copy a file to the run's artifacts, or to a folder of them."""
        self._client.log_artifact(run, str(file), artifact_path=folder or None)

    def end(self, run: str, status: str) -> None:
        """Set a run's status: FINISHED, FAILED or KILLED."""
        self._client.set_terminated(run, status=status)


def connect(uri: str, timeout_seconds: int) -> Any:
    """Create an MLflow client that fails fast: one retry, short timeouts."""
    report_nothing()
    from mlflow import MlflowClient
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(1)
    MLFLOW_HTTP_REQUEST_TIMEOUT.set(timeout_seconds)
    return MlflowClient(tracking_uri=uri)


def download_artifact(server: str, uri: str, folder: str) -> Path:
    """Fetch a logged or registered model from a tracking server; raises whatever MLflow or its transport raises."""
    connect(server, FETCH_SECONDS)  # with its time-outs
    from mlflow.artifacts import download_artifacts
    from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR

    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    return Path(download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=server))


def empty_database(file: Path) -> None:
    """Have MLflow make a database of its present schema, with the experiment `Default`."""
    connect(sqlite_uri(file), 0).search_experiments()


def register_model(client: Any, name: str, run_id: str, description: str) -> None:
    """Make the `model` in a run's artifacts the next version of a registered model."""
    if not client.search_registered_models(filter_string=f"name = '{name}'"):
        client.create_registered_model(name, description=description)
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    client.create_model_version(name, source=source, run_id=run_id, description=description)
