"""What a run leaves in MLflow besides its series: parameters, tags, job file, model and figures."""

import json
from typing import Any

from pneumonia_fl import DISCLAIMER, __version__
from pneumonia_fl.config import JobConfig, flatten
from pneumonia_fl.fl.mlflow_sink import connect, one_line
from pneumonia_fl.runs import GLOBAL, RunFolder, relocate_artifacts

STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


def complete_mlflow(run: RunFolder, job: JobConfig, state: str) -> dict[str, Any]:
    """Complete the run's MLflow records and return what the summary says about them.

    Returns:
        {"uri": …, "run_id": …, "undelivered": points that did not arrive, "error": None or one line}
    """
    status = json.loads(run.mlflow_status.read_text()) if run.mlflow_status.is_file() else {}
    local = job.mlflow.tracking_uri is None
    uri = f"sqlite:///{run.mlflow_db}" if local else job.mlflow.tracking_uri
    summary = {
        "uri": uri,
        "run_id": status.get("runs", {}).get(GLOBAL),
        "undelivered": status.get("undelivered", 0),
        "error": status.get("error"),
    }
    if summary["run_id"] is None:
        return {**summary, "error": summary["error"] or "MLflow took no run"}
    try:
        if local:
            relocate_artifacts(run)
        _log(run, job, str(uri), status["runs"], state)
    except Exception as error:  # whatever MLflow raises: the run itself is fine and stays so
        summary["error"] = one_line(error)
    return summary


def _log(run: RunFolder, job: JobConfig, uri: str, runs: dict[str, str], state: str) -> None:
    from mlflow.entities import Param, RunTag

    client = connect(uri, timeout_seconds=10)
    params = [Param(*word.split("=", 1)) for word in flatten(job)]
    tags = [RunTag(key, str(value)) for key, value in _tags(run).items()]
    client.log_batch(runs[GLOBAL], params=params, tags=tags)
    client.log_artifact(runs[GLOBAL], str(run.config))
    client.log_artifact(runs[GLOBAL], str(run.metrics_file))
    for folder in (run.model, run.figures):
        if folder.is_dir():
            client.log_artifacts(runs[GLOBAL], str(folder), artifact_path=folder.name)
    for run_id in runs.values():
        client.set_terminated(run_id, status=STATUS[state])


def _tags(run: RunFolder) -> dict[str, object]:
    state = run.state()
    return {
        "manifest_sha256": state["data"]["manifest_sha256"],
        "data_source": state["data"]["source"],
        "git_revision": state["revision"] or "none",
        "pneumonia_fl_version": __version__,
        "mlflow.note.content": DISCLAIMER,
    }
