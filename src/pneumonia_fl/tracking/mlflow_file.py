"""A run's own MLflow database, written as the SQLite file that it is.

MLflow's library takes three seconds of a core until it has added the first point to a file: two processes of each run
would pay for that while the sites want the cores. So its tables are filled here. The library itself makes the empty
database, once for each of its versions; a copy is kept in the user's cache folder.
"""

import contextlib
import math
import posixpath
import re
import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from pneumonia_fl.config.environment import cache_folder
from pneumonia_fl.errors import OutputError, RunError
from pneumonia_fl.files import private_folder, write_atomic
from pneumonia_fl.runs.mlflow_files import artifacts_of_run
from pneumonia_fl.tracking.mlflow_client import empty_database
from pneumonia_fl.tracking.records import KIND, Point

NAME_LENGTH, PARAMETER_LENGTH, TAG_LENGTH = 250, 6000, 8000
"""MLflow's own limits, in characters."""
LOCKED_SECONDS = 10.0
"""How long a reader, such as MLflow's pages, may keep the file."""

_NAME = re.compile(r"[/\w.\- :]+")
_MAGIC = b"SQLite format 3\0"
_EXPERIMENT = """
INSERT INTO experiments (name, artifact_location, lifecycle_stage, creation_time, last_update_time)
VALUES (?, ?, 'active', ?, ?)
"""
_METRIC = """
INSERT OR IGNORE INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, ?, ?)
"""
_LATEST = """
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key, run_uuid) DO UPDATE
SET value = excluded.value, timestamp = excluded.timestamp, step = excluded.step, is_nan = excluded.is_nan
WHERE (excluded.step, excluded.timestamp, excluded.value) > (step, timestamp, value)
"""
_RUN = """
INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,
    source_version, lifecycle_stage, artifact_uri, experiment_id)
VALUES (?, ?, 'UNKNOWN', '', '', 'unknown', 'RUNNING', ?, '', 'active', ?, ?)
"""


class FileRecords:
    """Writes MLflow's tables in a database file, which is made when it is not there."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def experiment(self, name: str, artifacts: str | None) -> str:
        """Return the id of an experiment; a missing one is made, with its artifacts in the folder `artifacts`."""
        if not self._file.exists():
            _make(self._file)
        with self._database() as database:
            found = database.execute(
                "SELECT experiment_id FROM experiments WHERE name = ?", (name,)
            ).fetchone()
            if found:
                return str(found[0])
            made = database.execute(_EXPERIMENT, (name, artifacts, _now(), _now()))
            tags = [(key, value, made.lastrowid) for key, value in KIND.items()]
            database.executemany(
                "INSERT INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, ?)", tags
            )
            return str(made.lastrowid)

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        """Add a run and return its id.

        Raises:
            RunError: somebody has deleted the experiment.
        """
        run = uuid.uuid4().hex
        with self._database() as database:
            query = "SELECT artifact_location FROM experiments WHERE experiment_id = ? AND lifecycle_stage = 'active'"
            found = database.execute(query, (experiment,)).fetchone()
            if found is None:
                raise RunError(f"The experiment {experiment} must be in the 'active' state")
            place = f"{found[0]}/{run}/artifacts"
            database.execute(_RUN, (run, name[:NAME_LENGTH], _now(), place, int(experiment)))
            _tag(database, run, {**tags, "mlflow.runName": name})
        return run

    def log_points(self, run: str, points: Sequence[Point]) -> int:
        """Add points and return how many: those that MLflow calls invalid are dropped."""
        rows = [_row(run, point) for point in points if _is_valid(point.tag)]
        with self._changing(run) as database:
            database.executemany(_METRIC, rows)
            database.executemany(_LATEST, rows)
        return len(rows)

    def log_settings(self, run: str, settings: Mapping[str, str], tags: Mapping[str, object]) -> None:
        """Set a run's parameters and tags."""
        rows = [(key, value[:PARAMETER_LENGTH], run) for key, value in settings.items()]
        with self._changing(run) as database:
            database.executemany("INSERT OR IGNORE INTO params (key, value, run_uuid) VALUES (?, ?, ?)", rows)
            _tag(database, run, tags)

    def add_file(self, run: str, file: Path, folder: str = "") -> None:
        """Copy a file to the run's artifacts, or to a folder of them; a link there is replaced, not followed."""
        place = artifacts_of_run(self._file, run) / folder
        place.mkdir(parents=True, exist_ok=True)
        write_atomic(place / file.name, file.read_bytes())

    def end(self, run: str, status: str) -> None:
        """Set a run's status: FINISHED, FAILED or KILLED."""
        with self._changing(run) as database:
            query = "UPDATE runs SET status = ?, end_time = ? WHERE run_uuid = ?"
            database.execute(query, (status, _now(), run))

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one change; what is written survives this process, and not always a power cut."""
        with contextlib.closing(sqlite3.connect(self._file, LOCKED_SECONDS)) as database:
            database.execute("PRAGMA synchronous = OFF")  # the journal has it all
            with database:
                yield database

    @contextlib.contextmanager
    def _changing(self, run: str) -> Iterator[sqlite3.Connection]:
        """Open the file to change a run that nobody has deleted."""
        with self._database() as database:
            query = "SELECT 1 FROM runs WHERE run_uuid = ? AND lifecycle_stage = 'active'"
            if database.execute(query, (run,)).fetchone() is None:
                raise RunError(f"The run {run} must be in the 'active' state")
            yield database


def _make(file: Path) -> None:
    """Write MLflow's empty database; its experiment `Default` has its artifacts beside the file."""
    write_atomic(file, _empty())
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        query = "UPDATE experiments SET artifact_location = ?, creation_time = ?, last_update_time = ?"
        database.execute(query, (str(file.parent / "mlruns" / "0"), _now(), _now()))


def _empty() -> bytes:
    """Return an empty database of the installed MLflow, from the cache folder where it is there."""
    kept = cache_folder() / f"mlflow-{version('mlflow')}.db"
    content = kept.read_bytes() if kept.is_file() else b""
    if content.startswith(_MAGIC):
        return content
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / kept.name
        empty_database(made)
        content = made.read_bytes()
    with contextlib.suppress(OutputError):  # a home that is read-only: the next run makes it again
        private_folder(kept.parent)
        write_atomic(kept, content)
    return content


def _tag(database: sqlite3.Connection, run: str, tags: Mapping[str, object]) -> None:
    rows = [(key, str(value)[:TAG_LENGTH], run) for key, value in tags.items()]
    database.executemany("INSERT OR REPLACE INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", rows)


def _row(run: str, point: Point) -> tuple[str, float, int, int, bool, str]:
    """Return a point as MLflow keeps it, which has no infinite numbers."""
    unknown, most = math.isnan(point.value), sys.float_info.max
    value = 0.0 if unknown else max(-most, min(most, point.value))
    return point.tag, value, point.milliseconds, point.step, unknown, run


def _is_valid(name: str) -> bool:
    """Return True for what MLflow calls a valid name of a metric: it may become a path."""
    plain = len(name) <= NAME_LENGTH and _NAME.fullmatch(name) is not None
    return plain and posixpath.normpath(name) == name and name != "." and not name.startswith(("..", "/"))


def _now() -> int:
    return int(time.time() * 1000)
