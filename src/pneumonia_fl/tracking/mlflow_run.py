"""Complete a run's MLflow records: parameters, tags, job file, model and figures."""

import logging
from typing import Any

from pneumonia_fl import DISCLAIMER, __version__
from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.config.overrides import flatten
from pneumonia_fl.errors import OutputError, RunError
from pneumonia_fl.files import write_atomic
from pneumonia_fl.runs.folder import GLOBAL, RunFolder
from pneumonia_fl.runs.mlflow_files import (
    MLflowStatus,
    artifacts_of_run,
    is_read_only,
    read_status,
    sqlite_uri,
)
from pneumonia_fl.tracking.mlflow_client import connect, register_model
from pneumonia_fl.tracking.mlflow_queue import explained, open_records
from pneumonia_fl.tracking.records import Records

log = logging.getLogger(__name__)
TIMEOUT_SECONDS = 10
STATUS = {"finished": "FINISHED", "incomplete": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


def complete_mlflow(run: RunFolder, job: JobConfig, state: str, register: bool = False) -> dict[str, Any]:
    """Complete the run's MLflow records and return what the summary says about them.

    With `register` the best model also becomes a version of the registered model `pneumonia-fl-<job>`.

    Returns:
        {"uri": …, "run_id": …, "undelivered": points that did not arrive, "error": None or one line}
    """
    problem = None
    try:
        status = read_status(run.mlflow_status)
    except RunError as error:
        status, problem = MLflowStatus(), str(error)
    # The server chooses the destination of the points; it is in the status.
    remote = status.uri or job.mlflow.tracking_uri
    uri = remote or sqlite_uri(run.mlflow_db)
    summary: dict[str, Any] = {
        "uri": uri,
        "run_id": status.runs.get(GLOBAL),
        "undelivered": status.undelivered,
        "error": problem or status.error,
    }
    if summary["run_id"] is None:
        return {**summary, "error": summary["error"] or "MLflow took no run"}
    try:
        if remote is None:
            run.relocate_artifacts()
        _log(open_records(uri, remote is None, TIMEOUT_SECONDS), run, job, status.runs, state)
        if register and run.model.is_dir():
            client = connect(uri, TIMEOUT_SECONDS)
            register_model(client, f"pneumonia-fl-{job.name}", summary["run_id"], DISCLAIMER)
    except Exception as error:  # whatever MLflow raises: the run itself is fine and stays so
        summary["error"] = explained(error)
    return summary


def log_report(run: RunFolder) -> bool:
    """Add the run's report to its own MLflow run's artifacts; False when it has none that accepts it.

    Only `report.html` and `model_card.md`: a page with patients' images has another name. An artifact of a database
    file is a file in a folder, so this needs no MLflow, which takes seconds to import.
    """
    if not run.mlflow_db.is_file():
        return False
    try:
        status = read_status(run.mlflow_status)
        run_id = status.runs.get(GLOBAL)
        if run_id is None or status.uri or is_read_only(run.mlflow_db):
            return False
        run.relocate_artifacts()
        folder = artifacts_of_run(run.mlflow_db, run_id)
        if not folder.resolve().is_relative_to(run.mlflow_artifacts.resolve()):
            return False  # the database is somebody else's, and says so
        folder.mkdir(parents=True, exist_ok=True)
        for file in run.report_files:
            write_atomic(folder / file.name, file.read_bytes())
    except (RunError, OutputError, OSError) as error:
        log.warning("MLflow did not take the report: %s", explained(error))
        return False
    return True


def _log(records: Records, run: RunFolder, job: JobConfig, runs: dict[str, str], state: str) -> None:
    records.log_settings(runs[GLOBAL], flatten(job), _tags(run))
    matrix = (run.cross_site, run.cross_site.with_suffix(".csv"))
    for file in (run.config, run.metrics_file, *matrix, *run.report_files):
        if file.is_file():
            records.add_file(runs[GLOBAL], file)
    for folder in (run.model, run.figures):
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                records.add_file(runs[GLOBAL], file, file.parent.relative_to(run.path).as_posix())
    for run_id in runs.values():
        records.end(run_id, STATUS[state])


def _tags(run: RunFolder) -> dict[str, object]:
    state = run.state()
    return {
        "manifest_sha256": state["data"]["manifest_sha256"],
        "data_source": state["data"]["source"],
        "git_revision": state["revision"] or "none",
        "pneumonia_fl_version": __version__,
        "mlflow.note.content": DISCLAIMER,
    }
