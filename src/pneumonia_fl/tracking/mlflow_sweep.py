"""A sweep in MLflow: one parent run, and a child run per point with its settings and the global model's series.

Without its tracking server a sweep loses only the records there: it continues, and says so at its end.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pneumonia_fl import DISCLAIMER
from pneumonia_fl.config.environment import tracking_uri
from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.config.overrides import flatten
from pneumonia_fl.metrics.binary import Metrics
from pneumonia_fl.metrics.series import series
from pneumonia_fl.runs.folder import GLOBAL, MLFLOW_ARTIFACTS, MLFLOW_DB, RunFolder
from pneumonia_fl.runs.mlflow_files import sqlite_uri
from pneumonia_fl.runs.record import RunRecord
from pneumonia_fl.tracking.mlflow_queue import explained, open_records
from pneumonia_fl.tracking.records import Point, Records

TIMEOUT_SECONDS = 10
NOTE = {"mlflow.note.content": DISCLAIMER}


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
        self._records: Records | None = None

    def summary(self) -> dict[str, Any]:
        """Return {"uri", "parent", "children": run ids by point, "error": None or one line}."""
        return {"uri": self.uri, "parent": self._parent, "children": self._children, "error": self._error}

    def add(self, job: JobConfig, row: Mapping[str, Any], run: RunFolder) -> None:
        """Record a point once."""
        if row["name"] in self._children or self._error:
            return
        try:
            self._children[row["name"]] = self._child(job, row, run)
        except Exception as error:  # whatever MLflow or its transport raises: the sweep continues
            self._error = explained(error)

    def close(self) -> None:
        """End the parent run."""
        if self._parent is None or self._error:
            return
        try:
            self._connected().end(self._parent, "FINISHED")
        except Exception as error:  # as above
            self._error = explained(error)

    def _child(self, job: JobConfig, row: Mapping[str, Any], run: RunFolder) -> str:
        records = self._connected()
        artifacts = None if self._remote else (self._folder / MLFLOW_ARTIFACTS).as_uri()
        experiment = records.experiment(self._job.mlflow.experiment, artifacts)
        if self._parent is None:
            self._parent = records.create_run(experiment, f"sweep {self._job.name}", NOTE)
            swept = {f"grid.{key}": ",".join(values) for key, values in self._grid.items()}
            records.log_settings(self._parent, swept, {})
        name = " ".join(f"{key}={value}" for key, value in row["settings"].items())
        child = records.create_run(experiment, name, {"mlflow.parentRunId": self._parent, **NOTE})
        tags = {"point": row["name"], "state": row["state"], "reason": row["reason"][:500]}
        records.log_settings(child, flatten(job), tags)
        records.log_points(child, _series(run))
        records.end(child, "FINISHED" if row["state"] == "finished" else "FAILED")
        return child

    def _connected(self) -> Records:
        self._records = self._records or open_records(self.uri, self._remote is None, TIMEOUT_SECONDS)
        return self._records


def _series(run: RunFolder) -> list[Point]:
    """Return the global model's metrics by round."""
    return [
        Point(GLOBAL, tag, value, event["round"], int(event["time"] * 1000))
        for event in RunRecord.of_events(run.events()).of_kind("global")
        for tag, value in series(Metrics(**event["values"])).items()
    ]
