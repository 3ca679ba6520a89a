"""Send jobs to a real server: a new one, a copy, or one that resumes another."""

import shutil
import tempfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pneumonia_fl.config.job import JobConfig, load_job
from pneumonia_fl.config.job_files import find_job
from pneumonia_fl.config.overrides import with_overrides
from pneumonia_fl.config.sections import Origin, Preprocess
from pneumonia_fl.config.strict import parse
from pneumonia_fl.data.manifest import read_info
from pneumonia_fl.errors import ConfigError, RefusedError, RunError, TimeLimitError
from pneumonia_fl.fl.admin.job_record import JobRecord, record
from pneumonia_fl.fl.admin.session import Admin
from pneumonia_fl.fl.job.plan import plan
from pneumonia_fl.fl.protocol.messages import properties
from pneumonia_fl.inputs.paths import expanded
from pneumonia_fl.progress import Progress, silent

META_FILES = ("meta.json", "meta.yml", "meta.conf")
EXPORTING, SENDING = "making the job", "sending"


@dataclass(frozen=True)
class JobRequest:
    """Job to submit, with its options."""

    job: str
    """A name in `jobs/`, a YAML file, or an exported NVFlare job folder."""
    overrides: Sequence[str] = ()
    data: Path | None = None
    """Prepared data whose input size the job takes over; None: the job's own, or the default."""
    ship_code: bool = False
    token: str | None = None
    """The same token and content never run twice; None: a new one."""


@dataclass(frozen=True)
class Submitted:
    """A job that the server has taken."""

    id: str
    name: str
    sites: tuple[str, ...]
    """Expected sites: those that were connected, or those that an exported job names; empty when not enough were."""
    token: str


def submit(admin: Admin, request: JobRequest, progress: Progress = silent) -> Submitted:
    """Export a job and send it; an exported folder is sent as it is.

    Raises:
        ConfigError: there is no such job, or its settings contradict each other.
        RefusedError: the server refuses the person, or the job.
        RunError: no site is connected.
    """
    folder = expanded(request.job)
    token = request.token or uuid.uuid4().hex
    if _is_exported(folder):
        if request.overrides or request.data or request.ship_code:
            raise ConfigError(f"{folder} is exported already; settings and --ship-code are for jobs by name")
        return _send_copy(admin, folder, (), token, progress)
    from pneumonia_fl.fl.job.initial_model import begin

    file = find_job(request.job)
    job, weights = begin(load_job(file, request.overrides), file)
    return _export_and_send(
        admin, resolve(job, request.data), request.ship_code, token, progress, weights=weights
    )


def clone(admin: Admin, job_id: str, init_from: str | None = None, progress: Progress = silent) -> Submitted:
    """Submit a job of ours again with the same settings; have the server copy any other.

    (NVFlare's own copy loses the job's custom properties, with which it says what it is.)

    Args:
        admin: the login.
        job_id: full id of the job.
        init_from: the saved model that the job started from, which the server does not hand out.
        progress: told what is done.

    Raises:
        ConfigError: the job started from another model, or from none.
    """
    meta = admin.meta(job_id)
    ours = properties(meta)
    if not ours.get("config"):
        return Submitted(admin.clone(job_id), str(meta.get("name", "")), (), "")
    job, weights = same_model(_config(ours), init_from)
    shipped = ours.get("form") == "shipped"
    return _export_and_send(admin, job, shipped, uuid.uuid4().hex, progress, weights=weights)


def resume(
    admin: Admin, job_id: str, overrides: Sequence[str] = (), progress: Progress = silent
) -> Submitted:
    """Submit a job that resumes from the last global model of an unfinished one.

    Raises:
        RunError: there is nothing to resume from, or another job has resumed it already.
        RefusedError: another user submitted it.
        ConfigError: the changed settings do not fit what it has done.
    """
    meta = admin.meta(job_id)
    job, ours = record(meta), properties(meta)
    if job.submitter != admin.kit.name:
        raise RefusedError(f"job {job.id[:8]} is {job.submitter}'s; only they can resume it")
    if problem := nothing_to_resume(job, ours, admin.jobs()):
        raise RunError(problem)
    config = _config(ours, overrides)
    if isinstance(config.init_from, str):
        raise ConfigError("a resumed job continues from its own last round; init_from is for a new job")
    _check_change(_config(ours), config, job.done or 0)
    shipped = ours.get("form") == "shipped"
    return _export_and_send(admin, config, shipped, uuid.uuid4().hex, progress, job.id)


def nothing_to_resume(job: JobRecord, ours: Mapping[str, Any], others: Iterable[JobRecord]) -> str:
    """Return why a job cannot be resumed, and what to do instead; "" when it can.

    Args:
        job: the job.
        ours: what it says about itself.
        others: all jobs of the study: one of them may have taken over its state.
    """
    short = job.id[:8]
    taken = [other for other in others if other.resumed_from == job.id and other.done != 0]
    if not ours.get("config"):
        return f"job {short} was not made by pneumonia-fl, so it cannot be resumed"
    if not job.ended:
        return f"job {short} is {job.status}; there is nothing to resume"
    if ours["config"].get("evaluation"):
        return f"job {short} trains nothing, so it cannot be resumed; run `pneumonia-fl evaluate` or `cross-site` again"
    if taken:
        later = taken[-1].id[:8]
        return (
            f"job {short} was resumed as job {later} ({taken[-1].status}); see `pneumonia-fl watch {later}`"
        )
    state = _without_state(job, ours["config"])
    return state and f"job {short} {state}; `pneumonia-fl clone {short}` runs it again from the start"


def _without_state(job: JobRecord, config: Mapping[str, Any]) -> str:
    """Return why the server keeps no state of an ended job to resume from; "" when it does."""
    if job.rounds_done:
        return f"has finished all its {job.rounds} rounds"
    if config.get("algorithm", {}).get("name") == "swarm":
        return "is a swarm, of which the server keeps no model to resume from"
    never = job.done == 0 or job.started_at is None
    return f"({job.status}) has no finished round to resume from" if never else ""


def _check_change(old: JobConfig, new: JobConfig, done: int) -> None:
    """Refuse settings that a job resumed after `done` rounds cannot change."""
    if new.rounds < done:
        raise ConfigError(f"{done} rounds are done; --rounds is the number in all, and {new.rounds} is fewer")
    changed = [name for name in ("model", "preprocess") if getattr(old, name) != getattr(new, name)]
    changed += ["algorithm.name"] if old.algorithm.name != new.algorithm.name else []
    if changed:
        raise ConfigError(f"a resumed job keeps its {', '.join(changed)}; submit a new job to change that")


def resolve(job: JobConfig, data: Path | None) -> JobConfig:
    """Complete the job's input: its own, that of prepared data, or the default."""
    if data is not None:
        return plan(job, read_info(data)).job
    return job if job.preprocess else job.model_copy(update={"preprocess": Preprocess()})


def same_model(job: JobConfig, init_from: str | None) -> tuple[JobConfig, bytes | None]:
    """Return the job, and the weights that it started from."""
    from pneumonia_fl.fl.job.initial_model import begin
    from pneumonia_fl.fl.protocol.carried_models import hash_of

    origin = job.init_from
    if not isinstance(origin, Origin):
        if init_from is not None:
            raise ConfigError("that job did not start from a saved model; submit a new one with --init-from")
        return job, None
    if init_from is None:
        raise ConfigError(f"that job started from {origin.name!r}; name the model with --init-from")
    _, weights = begin(job.model_copy(update={"init_from": init_from}), Path())
    if weights is None or hash_of(weights) != origin.weights:
        raise ConfigError(f"{init_from} is not the model that the job started from, {origin.name!r}")
    return job, weights


def _config(ours: dict[str, object], overrides: Sequence[str] = ()) -> JobConfig:
    values = ours["config"]
    assert isinstance(values, dict)
    return parse(JobConfig, with_overrides(values, overrides, JobConfig), "the job on the server")


def _export_and_send(
    admin: Admin,
    job: JobConfig,
    ship_code: bool,
    token: str,
    progress: Progress,
    resume_from: str = "",
    weights: bytes | None = None,
) -> Submitted:
    from pneumonia_fl.fl.job.recipe import Form, export_job

    if job.mlflow.tracking_uri:
        raise ConfigError(
            "mlflow.tracking_uri is for the simulator; where a federation's metrics go is its server's own setting "
            "(`tracking_uri` in local/pneumonia_fl.yml of the server's kit)"
        )
    form: Form = "shipped" if ship_code else "installed"
    sites = expected_sites(job, admin.sites())
    if sites:  # else the job waits for them, and its controller looks
        job.check_sites(sites)
    progress(EXPORTING, 0, None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = export_job(job, sites or job.min_sites, Path(temporary), form, resume_from, weights)
        return send_folder(admin, folder, sites, token, progress)


def expected_sites(job: JobConfig, connected: Sequence[str]) -> tuple[str, ...]:
    """Return the connected sites; none when the job waits for more of them.

    Raises:
        RunError: no site is connected, and the job does not say how many it needs.
    """
    if not connected and not job.min_sites:
        raise RunError(
            "no site is connected to the server; start one, or say with --min-sites how many the job waits for"
        )
    return tuple(connected) if len(connected) >= job.min_sites else ()


def _send_copy(
    admin: Admin, folder: Path, sites: tuple[str, ...], token: str, progress: Progress
) -> Submitted:
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / folder.resolve().name
        shutil.copytree(folder, copy)
        return send_folder(admin, copy, sites, token, progress)


def send_folder(
    admin: Admin, folder: Path, sites: tuple[str, ...], token: str, progress: Progress = silent
) -> Submitted:
    """Send a job folder; once more when the answer got lost, which the token makes safe."""
    progress(SENDING, 0, None)
    try:
        job_id = admin.submit(folder, token)
    except TimeLimitError:
        admin.reconnect()
        job_id = admin.submit(folder, token)
    job = admin.job(job_id)
    return Submitted(job_id, job.name, sites or job.sites, token)


def _is_exported(folder: Path) -> bool:
    return any((folder / name).is_file() for name in META_FILES)
