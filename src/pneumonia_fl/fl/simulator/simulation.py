"""One whole run, from a job's name to a finished run folder."""

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from pneumonia_fl.config.environment import cpu_count, data_root
from pneumonia_fl.config.job import JobConfig, load_job
from pneumonia_fl.config.job_files import find_job
from pneumonia_fl.data.manifest import DatasetInfo, read_info
from pneumonia_fl.data.prepare.output_folder import held
from pneumonia_fl.errors import ConfigError, IncompleteError
from pneumonia_fl.files import write_atomic
from pneumonia_fl.fl.job.plan import Plan, choose_sites, plan, share_cores
from pneumonia_fl.fl.simulator.supervisor import simulate
from pneumonia_fl.inputs.folder_locks import in_use
from pneumonia_fl.runs.folder import RunFolder, new_run_path, start_run
from pneumonia_fl.runs.journal import Event
from pneumonia_fl.runs.processes.warm_call import call

log = logging.getLogger(__name__)
DEFAULT_SITES = 2
"""Clients of an exported job when neither the data nor the user says how many."""


@dataclass(frozen=True)
class Request:
    """Options of a run; the names are those of `pneumonia-fl run`'s options."""

    job: str
    data: Path | None = None
    out: Path | None = None
    runs: Path = Path("runs")
    overrides: Sequence[str] = ()
    clients: int | None = None
    log_config: str | None = None
    force: bool = False


class Watcher(Protocol):
    """Whoever shows the user what happens."""

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Called with the progress of work before or after the rounds."""

    def started(self, planned: Plan, run: RunFolder) -> None:
        """Called when everything is checked and the simulator starts."""

    def on_event(self, event: Event) -> None:
        """Called for each event of the run."""


class Checked(NamedTuple):
    """A request that can work: its job, the weights that it begins with if those are a saved model's, its data."""

    job: JobConfig
    weights: bytes | None
    data: Path | None


def run_simulation(
    request: Request, watcher: Watcher, agree: Callable[[DatasetInfo], None] | None = None
) -> RunFolder:
    """Check the request, run the job in the simulator and fill the run folder.

    A run that fails or is interrupted keeps what it has: state, metrics so far, models, logs.

    Args:
        request: what the user asked for.
        watcher: whoever shows the user what happens.
        agree: raises when the run must not be made on this data.

    Raises:
        PneumoniaFLError: the request cannot work, or the run failed.
    """
    checked = check(request, agree)  # refuse before a folder is made
    run = RunFolder.create(request.out or new_run_path(request.runs, checked.job.name), request.force)
    with in_use(run.path):
        return _run(run, checked, request, watcher, agree)


def _run(
    run: RunFolder,
    checked: Checked,
    request: Request,
    watcher: Watcher,
    agree: Callable[[DatasetInfo], None] | None,
) -> RunFolder:
    with _removed_on_error(run.path):
        data = checked.data or _make_synthetic(checked.job, run.path / "data", watcher)
        info = read_info(data)
        planned = _planned(checked.job, info, request, agree)
    start_run(run, planned.job, planned.sites, _origin(info))
    if checked.weights is not None:
        write_atomic(run.initial, checked.weights)
    threads = share_cores(planned.images, cpu_count())
    run.update_state(threads=threads)
    watcher.started(planned, run)
    _guarded(run, planned, info, watcher, lambda: _simulate(request, run, planned, threads, data, watcher))
    return run


def check(request: Request, agree: Callable[[DatasetInfo], None] | None = None) -> Checked:
    """Return what a request that can work needs.

    Raises:
        PneumoniaFLError: it cannot.
    """
    job, weights = _begun(request)
    data = _given_data(request)
    if data is not None:
        _planned(job, read_info(data), request, agree)
    else:
        job.check_sites(choose_sites(job, _synthetic_sites(job), request.clients))
    return Checked(job, weights, data)


def export_only(request: Request, folder: Path) -> Path:
    """Write the NVFlare job and return its folder; nothing runs."""
    from pneumonia_fl.fl.job.recipe import export_job

    job, weights = _begun(request)
    given = _given_data(request)
    if given is not None:
        planned = plan(job, read_info(given), request.clients)
        return export_job(planned.job, len(planned.sites), folder, weights=weights)
    if job.preprocess is None:
        raise ConfigError("the input size is not known; pass --data DIR or --set preprocess.size=128")
    sites = request.clients or job.min_sites or DEFAULT_SITES
    if job.min_sites > sites:
        raise ConfigError(f"min_sites is {job.min_sites}, but {sites} clients wanted; lower min_sites")
    return export_job(job, sites, folder, weights=weights)


def _begun(request: Request) -> tuple[JobConfig, bytes | None]:
    """Return the job, and its initial weights when those are a saved model's."""
    file = find_job(request.job)
    job = load_job(file, request.overrides)
    if job.init_from is None:
        return job, None
    from pneumonia_fl.fl.job.initial_model import begin

    return begin(job, file)


def _given_data(request: Request) -> Path | None:
    data = request.data or data_root()
    return data.absolute() if data else None


def _synthetic_sites(job: JobConfig) -> tuple[str, ...]:
    """Return the sites with synthetic X-rays; `ConfigError` when the job has no such data."""
    if job.synthetic is None:
        raise ConfigError(
            "no data: pass --data DIR. To make some: "
            "pneumonia-fl data prepare --source synthetic --out data/demo --sites 3"
        )
    return tuple(f"site-{number}" for number in range(1, job.synthetic.sites + 1))


@contextlib.contextmanager
def _removed_on_error(folder: Path) -> Iterator[None]:
    """Remove what is no run yet when it cannot become one."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _make_synthetic(job: JobConfig, folder: Path, watcher: Watcher) -> Path:
    from pneumonia_fl.config.sections import Preprocess
    from pneumonia_fl.data.prepare.pipeline import prepare
    from pneumonia_fl.data.sources.open_source import open_source

    wanted = job.synthetic
    assert wanted is not None
    spec = f"synthetic:images={wanted.images},size={wanted.size},seed={wanted.seed},sites={wanted.sites}"
    size = Preprocess(size=wanted.size)
    sites, report = _synthetic_sites(job), watcher.progress
    prepare(open_source(spec), folder, sites, "natural", size, seed=wanted.seed, progress=report)
    return folder


def _planned(
    job: JobConfig, info: DatasetInfo, request: Request, agree: Callable[[DatasetInfo], None] | None
) -> Plan:
    if agree is not None:
        agree(info)
    return plan(job, info, request.clients)


def _simulate(
    request: Request, run: RunFolder, planned: Plan, threads: dict[str, int], data: Path, watcher: Watcher
) -> None:
    with held(data):
        simulate(run, planned.job.name, threads, data, watcher.on_event, request.log_config)


def _guarded(
    run: RunFolder, planned: Plan, info: DatasetInfo, watcher: Watcher, work: Callable[[], None]
) -> None:
    """Run the work; whatever its outcome, fill the run folder and record the state."""

    def finish(state: str) -> None:
        call("pneumonia_fl.results.finalize:finish", run, planned.job, info, state)  # where PyTorch is loaded

    try:
        work()
    except BaseException as error:
        state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        try:
            run.update_state(state=state, error=str(error), finished=round(time.time(), 3))
            finish(state)
        except Exception as problem:  # a full disk, a torn file: it must not hide why the run ended
            from pneumonia_fl.tracking.mlflow_queue import one_line

            log.warning("the run folder is not complete: %s", one_line(problem))
        raise
    watcher.progress("saving models and figures", 0, None)
    finish("finished")
    ending = run.state()
    if ending["state"] == "incomplete":
        raise IncompleteError(f"the run is INCOMPLETE: {ending['error']}; see {run.path}")


def _origin(info: DatasetInfo) -> dict[str, object]:
    """Return what a run records about its data: never a path."""
    return {
        "source": info.source,
        "licence": info.licence,
        "credit": info.credit,
        "manifest_sha256": info.manifest_sha256,
        "size": info.preprocess.size,
        "partition": info.partition,
        "seed": info.seed,
    }
