"""The end of a run: collect what NVFlare left, draw curves and report, complete the MLflow runs.

A simulator's run is finished by the command line that started it. A real job is finished twice from the same
records: on the server, for MLflow, which only the server connects to; and by the user who downloads it.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.config.strict import parse
from pneumonia_fl.data.manifest import DatasetInfo
from pneumonia_fl.files import inner_folder
from pneumonia_fl.models.checkpoint import DataSummary
from pneumonia_fl.results.collect import collect, gather_models, save_models, summary_of_sites
from pneumonia_fl.results.cross_site_files import write_matrix
from pneumonia_fl.runs.folder import MLFLOW_DB, RunFolder, lacking, start_run
from pneumonia_fl.runs.journal import Event
from pneumonia_fl.runs.record import RunRecord
from pneumonia_fl.tracking.mlflow_queue import one_line
from pneumonia_fl.tracking.mlflow_run import complete_mlflow

log = logging.getLogger(__name__)


def finish(run: RunFolder, job: JobConfig, info: DatasetInfo, state: str) -> None:
    """Complete the run folder of a simulator's run; `state` is how the run ended (see `runs.folder.STATES`)."""
    workspace = run.workspace / job.name
    logs = {folder.name: sorted(folder.rglob("log.txt")) for folder in sorted(workspace.glob("*/"))}
    logs = {name: files for name, files in logs.items() if files}
    data = DataSummary(**info.model_dump(include=set(DataSummary.model_fields)))
    server = run.server_of(job.name)
    record = collect(run, server, logs)
    if job.algorithm.name == "swarm":
        gather_models(workspace, server, record)
    save_models(run, job, data, server, record)
    shutil.rmtree(run.workspace, ignore_errors=True)
    # Before the report is drawn, which says how the run ended.
    if state == "finished":
        state, reason = outcome(record.events)
        run.update_state(**({"error": reason} if reason else {}))
    run.update_state(state=state, finished=round(time.time(), 3))
    render_outputs(run, record)
    if "mlflow" in job.tracking:
        run.update_state(mlflow=complete_mlflow(run, job, state))


def finalize_prod_run(
    run: RunFolder, about: Mapping[str, Any], server: Path, logs: Mapping[str, list[Path]]
) -> None:
    """Fill the run folder of a job that ran on real sites.

    Args:
        run: an empty run folder.
        about: what the job's meta says under `pneumonia_fl` (see `fl/job/recipe.py`).
        server: the server's folder of the job, or a download of it.
        logs: for each participant its log files.
    """
    job = parse(JobConfig, about["config"], "the job")
    record = collect(run, server, logs)
    data = summary_of_sites(record)
    sites = tuple(next((event["sites"] for event in record.of_kind("started")), about["sites"]))
    start_run(run, job, sites, data.model_dump(mode="json", exclude={"counts"}))
    save_models(run, job, data, server, record)
    state, reason = outcome(record.events)
    times = [event["time"] for event in record.events]
    run.update_state(
        state=state,
        error=reason,
        version=about["version"],
        revision=None,
        **({"started": times[0], "finished": times[-1]} if times else {}),
    )
    render_outputs(run, record)


def finish_on_server(about: Mapping[str, Any], run_dir: Path) -> None:
    """Complete the job's runs on an MLflow server: parameters, figures, and the best model, registered.

    A database in the job's own folder goes to whoever downloads the job, as it is.
    """
    if (run_dir / MLFLOW_DB).is_file():
        return
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        finalize_prod_run(run, about, run_dir, {})
        job = parse(JobConfig, about["config"], "the job")
        complete_mlflow(run, job, run.state()["state"], register=True)


def outcome(events: list[Event]) -> tuple[str, str]:
    """Return how a job ended by its journal: a state of `runs.folder.STATES`, and the reason unless it is done."""
    last = next((event for event in reversed(events) if event["event"] in ("finished", "stopped")), None)
    if last is None:
        return "interrupted", "the server ended before the job did"
    reason = last.get("reason", "")
    if last["event"] == "stopped":
        return ("interrupted" if reason == "aborted" else "failed"), reason
    why = {event["site"]: event["problem"] for event in events if event["event"] == "problem"}
    words = lacking(last.get("missing", []), why, reason)
    return ("incomplete", words) if words else ("finished", "")


def render_outputs(run: RunFolder, known: RunRecord) -> None:
    """Draw the figures and the report; that it cannot be done is said, and never fails a run.

    Args:
        run: the run folder, with the state in which the run ended.
        known: what the journal says.
    """
    from pneumonia_fl.report.build import build_report

    problem = None
    try:
        record = RunRecord.read(run, known)
        _draw_figures(run, record)
        matrix = write_matrix(run, record.events)
        build_report(run.path, record=replace(record, cross_site=matrix))
    except Exception as error:  # a full disk, an unexpected file: the run itself is complete
        problem = one_line(error)
        log.warning("the report could not be made: %s; `pneumonia-fl report` tries again", problem)
    run.update_state(report_error=problem)


def _draw_figures(run: RunFolder, record: RunRecord) -> None:
    from pneumonia_fl.report.figures.png import draw_figures

    if any(entry["global"] for entry in record.rounds):
        inner_folder(run.figures)
        draw_figures(record, run.curves, run.figures / "roc.png")
