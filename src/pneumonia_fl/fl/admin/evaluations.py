"""Evaluating saved models at hospitals: the job is sent, followed, and what it wrote down is fetched."""

import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.errors import RunError
from pneumonia_fl.fl.admin.download import fetch_events
from pneumonia_fl.fl.admin.production_run import ProdWatcher
from pneumonia_fl.fl.admin.session import Admin
from pneumonia_fl.fl.admin.submit import EXPORTING, send_folder
from pneumonia_fl.fl.admin.watch import Ending, watch
from pneumonia_fl.fl.simulator.evaluation_job import Subject, chosen
from pneumonia_fl.runs.journal import Event


def run_at_sites(
    admin: Admin,
    job: JobConfig,
    subjects: Sequence[Subject],
    sites: Sequence[str],
    watcher: ProdWatcher,
    timeout: float | None = None,
) -> tuple[Ending, list[Event]]:
    """Evaluate at the sites that are connected, or at some of them.

    Args:
        admin: the login.
        job: what `evaluation_job` made of the subjects.
        subjects: the models.
        sites: names; none means all that are connected.
        watcher: told what happens.
        timeout: seconds after which to stop watching (the job continues); None: never.

    Returns:
        How the job ended, and its journal; empty when it never ran.

    Raises:
        PneumoniaFLError: the job cannot be sent, followed or fetched; a job that ends badly is no error here.
    """
    from pneumonia_fl.fl.job.recipe import export_job

    taking_part = chosen(sites, admin.sites())
    if not taking_part:
        raise RunError("no site is connected to the server; start one")
    watcher.progress(EXPORTING, 0, None)
    with tempfile.TemporaryDirectory() as folder:
        models = {one.name: one.weights for one in subjects}
        exported = export_job(job, taking_part, Path(folder), models=models)
        submitted = send_folder(admin, exported, taking_part, uuid.uuid4().hex, watcher.progress)
    watcher.on_submitted(submitted)
    ending = watch(admin, submitted.id, watcher, timeout)
    return ending, fetch_events(admin, submitted.id) if ending.job.started_at is not None else []
