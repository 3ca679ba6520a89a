"""One whole run on a real server: submit, watch, download."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pneumonia_fl.fl.admin.download import download, run_path
from pneumonia_fl.fl.admin.session import login
from pneumonia_fl.fl.admin.submit import JobRequest, Submitted, submit
from pneumonia_fl.fl.admin.watch import Ending, JobWatcher, watch
from pneumonia_fl.progress import Progress
from pneumonia_fl.runs.folder import RunFolder


class ProdWatcher(JobWatcher, Protocol):
    """Whoever shows the user the whole run."""

    @property
    def progress(self) -> Progress:
        """Return the progress display for work before and after the rounds."""

    def on_submitted(self, submitted: Submitted) -> None:
        """Called when the server has accepted the job."""


@dataclass(frozen=True)
class ProdRunRequest:
    """Options of a run on a real server."""

    kit: Path
    study: str
    job: JobRequest
    out: Path | None
    """The run folder; None: a new one below `runs`."""
    runs: Path
    force: bool = False
    """Replace an earlier run in `out`."""
    timeout: float | None = None
    """Seconds after which to stop watching (the job continues); None: never."""


@dataclass(frozen=True)
class ProdRun:
    """Result of a run on a real server."""

    ending: Ending
    run: RunFolder | None
    """None when the job never began, so that there is nothing to download."""


def run_prod(request: ProdRunRequest, watcher: ProdWatcher) -> ProdRun:
    """Submit a job, follow it and fetch its result, however it ended.

    Raises:
        PneumoniaFLError: see `submit`, `watch` and `download`; a job that ends badly is no error here.
    """
    with login(request.kit, request.study) as admin:
        submitted = submit(admin, request.job, watcher.progress)
        watcher.on_submitted(submitted)
        ending = watch(admin, submitted.id, watcher, request.timeout)
        if ending.job.started_at is None:
            return ProdRun(ending, None)
        place = request.out or run_path(request.runs, ending.job)
        return ProdRun(ending, download(admin, submitted.id, place, request.force, watcher.progress))
