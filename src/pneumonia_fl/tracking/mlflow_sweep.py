"""A sweep in MLflow: one parent run, and a child run per point with its settings and the global model's series.

A tracking server that is away costs nothing but its records: the sweep goes on, and says so at its end.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pneumonia_fl import DISCLAIMER
from pneumonia_fl.config.environment import tracking_uri
from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.config.overrides import flatten
from pneumonia_fl.metrics.binary import ScoreHistogram, summarise
from pneumonia_fl.metrics.series import series
from pneumonia_fl.runs.folder import MLFLOW_ARTIFACTS, MLFLOW_DB
from pneumonia_fl.runs.journal import JOURNAL_NAME, read_journal
from pneumonia_fl.runs.mlflow_files import sqlite_uri
from pneumonia_fl.tracking.mlflow_queue import KIND, connect, explained

TIMEOUT_SECONDS = 10


class SweepRecords:
    """Writes a sweep to MLflow: a database file in its folder, or the tracking server of the job.

    Args:
        folder: the sweep's folder.
        job: the job before any point's settings.
        grid: values by setting.
        known: what `summary` said when the sweep stopped; those runs are used again.
    """

    def __init__(
        self, folder: Path, job: JobConfig, grid: Mapping[str, list[str]], known: Mapping[str, Any]
    ) -> None:
        self._folder, self._job, self._grid = folder, job, grid
        self._remote = tracking_uri() or job.mlflow.tracking_uri
        self.uri = self._remote or sqlite_uri(folder / MLFLOW_DB)
        self._parent: str | None = known.get("parent")
        self._children: dict[str, str] = dict(known.get("children", {}))
        self._error: str | None = None
        self._client: Any = None

    def summary(self) -> dict[str, Any]:
        """Where the records are: {"uri", "parent", "children": run ids by point, "error": None or one line}."""
        return {"uri": self.uri, "parent": self._parent, "children": self._children, "error": self._error}

    def add(self, job: JobConfig, row: Mapping[str, Any], run: Path) -> None:
        """Record a point once."""
        if row["name"] in self._children or self._error:
            return
        try:
            self._children[row["name"]] = self._child(job, row, run)
        except Exception as error:  # whatever MLflow or its transport raises: the sweep goes on
            self._error = explained(error)

    def close(self) -> None:
        """End the parent run."""
        if self._parent is None or self._error:
            return
        try:
            self._connected().set_terminated(self._parent, status="FINISHED")
        except Exception as error:  # as above
            self._error = explained(error)

    def _child(self, job: JobConfig, row: Mapping[str, Any], run: Path) -> str:
        from mlflow.entities import Metric, Param, RunTag

        client = self._connected()
        experiment = self._experiment(client)
        if self._parent is None:
            self._parent = self._create(client, experiment, f"sweep {self._job.name}", {})
            swept = [Param(f"grid.{key}", ",".join(values)) for key, values in self._grid.items()]
            client.log_batch(self._parent, params=swept)
        name = " ".join(f"{key}={value}" for key, value in row["settings"].items())
        child = self._create(client, experiment, name, {"mlflow.parentRunId": self._parent})
        params = [Param(*word.split("=", 1)) for word in flatten(job)]
        tags = {"point": row["name"], "state": row["state"], "reason": row["reason"][:500]}
        points = [Metric(*point) for point in _series(run)]
        client.log_batch(child, params=params, tags=[RunTag(*item) for item in tags.items()], metrics=points)
        client.set_terminated(child, status="FINISHED" if row["state"] == "finished" else "FAILED")
        return child

    def _connected(self) -> Any:
        self._client = self._client or connect(self.uri, TIMEOUT_SECONDS)
        return self._client

    def _experiment(self, client: Any) -> str:
        name = self._job.mlflow.experiment
        found = client.get_experiment_by_name(name)
        artifacts = None if self._remote else (self._folder / MLFLOW_ARTIFACTS).as_uri()
        return str(found.experiment_id if found else client.create_experiment(name, artifacts, tags=KIND))

    @staticmethod
    def _create(client: Any, experiment: str, name: str, tags: dict[str, str]) -> str:
        tags = {**tags, "mlflow.note.content": DISCLAIMER}
        return str(client.create_run(experiment, run_name=name, tags=tags).info.run_id)


def _series(run: Path) -> list[tuple[str, float, int, int]]:
    """The global model's metrics by round: tag, value, milliseconds, round."""
    return [
        (tag, value, int(event["time"] * 1000), event["round"])
        for event in read_journal(run / JOURNAL_NAME)
        if event["event"] == "global"
        for tag, value in series(summarise(ScoreHistogram.from_dict(event["histogram"]))).items()
    ]
