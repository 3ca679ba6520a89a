"""A run's own MLflow database and `mlflow.json`: read as files, without MLflow, so that looking changes nothing."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import Field, ValidationError

from pneumonia_fl.config.strict import Strict
from pneumonia_fl.errors import RunError
from pneumonia_fl.inputs.json_files import read_json
from pneumonia_fl.inputs.text import printable

WRITE_BITS = 0o222
TRAINING_PAGES = "?workflowType=machine_learning"
"""After the place of a page: MLflow's pages for training, and not those for language models, which are its first."""


class MLflowStatus(Strict):
    """`mlflow.json`: what became of a job's points."""

    uri: str | None = None
    """The tracking server that has the runs; None: the database file beside it."""
    runs: dict[str, str] = Field(default_factory=dict)
    """Run ids by origin: each site and `global`."""
    delivered: int = 0
    undelivered: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)
    error: str | None = None


def read_status(file: Path) -> MLflowStatus:
    """Return what `mlflow.json` says; the defaults when there is none.

    Raises:
        RunError: it is damaged.
    """
    try:
        return MLflowStatus.model_validate(read_json(file)) if file.is_file() else MLflowStatus()
    except (OSError, ValueError) as error:  # pydantic's is a ValueError too
        what = "not of this version" if isinstance(error, ValidationError) else str(error)
        raise RunError(
            f"{file} is damaged ({what}); the run's records in MLflow are left as they are"
        ) from None


def sqlite_uri(file: Path) -> str:
    """Return the address of a database file for MLflow.

    In a URI, `?` begins the options and `%41` is an A. MLflow makes a folder of the characters as they stand after
    `sqlite:///`, so an address with escaped ones begins in another way.
    """
    path = str(file)
    if "%" not in path and "?" not in path:
        return f"sqlite:///{path}"
    return f"sqlite+pysqlite:///{path.replace('%', '%25').replace('?', '%3F')}"


def file_of(uri: str) -> Path | None:
    """Return the database file of an address that `sqlite_uri` made; None for another one."""
    scheme, separator, path = uri.partition(":///")
    if scheme not in ("sqlite", "sqlite+pysqlite") or not separator:
        return None
    return Path(path if scheme == "sqlite" else unquote(path))


def is_read_only(file: Path) -> bool:
    """Return True when a file or its folder is read-only by its mode; also root should not write there."""
    return any(
        not path.stat().st_mode & WRITE_BITS or not os.access(path, os.W_OK) for path in (file, file.parent)
    )


@contextlib.contextmanager
def open_database(file: Path, mode: str = "ro") -> Iterator[sqlite3.Connection]:
    """Open a run's database, "ro" or "rw", and commit; a file that is missing is never made.

    Raises:
        RunError: it is no MLflow database.
    """
    try:
        with contextlib.closing(_connect(file, mode)) as database, database:
            yield database
    except (sqlite3.Error, OSError) as error:
        raise RunError(
            f"{file} is not an MLflow database ({error}); move it away, or get the run folder again"
        ) from None


def point_artifacts(file: Path, folder: Path) -> None:
    """Set the artifact URIs of a run's database to `folder`.

    MLflow pins an experiment's artifact folder when it makes it, which was inside NVFlare's workspace; without
    this the URIs dangle as soon as the folder moves.

    Raises:
        RunError: it is no MLflow database.
    """
    here = folder.as_uri()
    with open_database(file, "rw") as database:
        old = database.execute(
            "SELECT DISTINCT artifact_location FROM experiments WHERE artifact_location LIKE '%/mlflow_artifacts'"
        ).fetchall()
        for (location,) in old:
            if location != here:
                database.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?",
                    (here, location),
                )
                database.execute(
                    "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) WHERE artifact_uri LIKE ? || '/%'",
                    (here, len(location) + 1, location),
                )


def place_of_run(file: Path, run_id: str | None) -> str:
    """Return where MLflow's pages show a run; without one, the experiment that was used last."""
    with open_database(file) as database:
        found: Any = database.execute(
            "SELECT experiment_id, run_uuid FROM runs WHERE run_uuid = ?", (run_id,)
        ).fetchone()
        if found:
            return f"#/experiments/{found[0]}/runs/{found[1]}{TRAINING_PAGES}"
        found = database.execute("SELECT experiment_id FROM runs ORDER BY start_time DESC").fetchone()
    return f"#/experiments/{found[0]}/runs{TRAINING_PAGES}" if found else f"#/experiments{TRAINING_PAGES}"


def artifacts_of_run(file: Path, run_id: str) -> Path:
    """Return the folder with a run's artifacts.

    Raises:
        RunError: there is no such run, or its artifacts are in no folder.
    """
    with open_database(file) as database:
        found = database.execute("SELECT artifact_uri FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
    where = urlsplit(str(found[0])) if found else None
    if where is None or where.scheme != "file":
        raise RunError(f"{file} has no artifact folder of the run {printable(run_id, 40)}")
    return Path(unquote(where.path))


def _connect(file: Path, mode: str) -> sqlite3.Connection:
    # `immutable`: SQLite's own lock files must not appear beside a file that is only read.
    options = "mode=ro&immutable=1" if mode == "ro" and is_read_only(file) else f"mode={mode}"
    return sqlite3.connect(f"file:{quote(str(file))}?{options}", uri=True)
