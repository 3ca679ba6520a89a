"""A job's result from the server as a run folder like the simulator's: whole, or not at all."""

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pneumonia_fl.errors import OutputError, RunError
from pneumonia_fl.files import output_errors
from pneumonia_fl.fl.admin.job_record import JobRecord
from pneumonia_fl.fl.admin.session import Admin
from pneumonia_fl.fl.protocol.messages import properties
from pneumonia_fl.inputs.folder_locks import refuse_in_use
from pneumonia_fl.inputs.json_files import read_json
from pneumonia_fl.inputs.names import path_word
from pneumonia_fl.progress import Progress, silent
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.journal import JOURNAL_NAME, Event, read_journal

DOWNLOAD = "download"
COLLECT = "saving models and figures"
REPORT_SECONDS = 0.5
NVFLARE_JOB, NVFLARE_WORKSPACE = "job", "workspace"


def run_path(runs: Path, job: JobRecord) -> Path:
    """Return the default run folder of a job, below `runs` whatever the job's name is."""
    return runs / f"{path_word(job.name, 'job')}-{path_word(job.id[:8], 'unknown')}"


def download(
    admin: Admin, job_id: str, out: Path, force: bool = False, progress: Progress = silent
) -> RunFolder:
    """Fetch what a job has left on the server, and make a run folder of it.

    Everything is made beside `out` and moved there in one step; a transfer that breaks off leaves nothing.

    Args:
        admin: the login.
        job_id: full id of a job that has ended.
        out: the run folder to make.
        force: replace an earlier run in `out`.
        progress: told the bytes that have arrived; how many there will be is not known.

    Raises:
        OutputError: `out` exists, or cannot be written.
        RunError: the job has not ended, was not made by pneumonia-fl, or the transfer broke off.
    """
    from pneumonia_fl.results.finalize import finalize_prod_run

    _check_place(out, force)
    with _staging(out) as staging:
        with _reported(staging, progress):
            fetched = admin.download(job_id, staging)
        progress(COLLECT, 0, None)
        source, about = _find_job(fetched, job_id)
        run = RunFolder.create(staging / "run")
        server = fetched / NVFLARE_WORKSPACE
        finalize_prod_run(run, about, server, {"server": [server / "log.txt"]})
        shutil.copytree(source, run.job / source.name)
        run.update_state(**_origin(admin, job_id))
        return _publish(run, out, force)


def fetch_events(admin: Admin, job_id: str) -> list[Event]:
    """Fetch what a job has written down, and nothing else.

    Raises:
        RunError: the transfer broke off.
    """
    with tempfile.TemporaryDirectory() as folder:
        fetched = admin.download(job_id, Path(folder))
        return read_journal(fetched / NVFLARE_WORKSPACE / JOURNAL_NAME)


def _check_place(out: Path, force: bool) -> None:
    """Refuse before anything is transferred."""
    refuse_in_use(out)
    if out.exists() and any(out.iterdir()) and not (force and RunFolder(out).is_run):
        hint = "replace it with --force" if RunFolder(out).is_run else "it is not a run folder"
        raise OutputError(f"{out} exists already; choose another --out, or {hint}")


@contextlib.contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` for everything that arrives, NVFlare's temporary files included."""
    with output_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=out.parent, prefix=".download-"))
    before, tempfile.tempdir = tempfile.tempdir, str(staging)
    try:
        yield staging
    finally:
        tempfile.tempdir = before
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _reported(folder: Path, progress: Progress) -> Iterator[None]:
    """Report the size of `folder` while the block runs: NVFlare itself says nothing until it is done."""
    done = threading.Event()

    def report() -> None:
        while not done.wait(REPORT_SECONDS):
            progress(DOWNLOAD, _size(folder), None)

    progress(DOWNLOAD, 0, None)
    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # NVFlare moves its files while we look
            total += path.stat().st_size
    return total


def _find_job(fetched: Path, job_id: str) -> tuple[Path, dict[str, Any]]:
    """Find the job folder inside a download, and read its metadata."""
    for meta in sorted((fetched / NVFLARE_JOB).glob("*/meta.json")):
        about = properties(_read(meta))
        if about.get("config"):
            return meta.parent, about
    raise RunError(
        f"job {job_id[:8]} was not made by pneumonia-fl, so there is no run folder to make of it; "
        f"`nvflare job download {job_id}` fetches it as it is"
    )


def _read(file: Path) -> Mapping[str, Any]:
    try:
        values = read_json(file)
    except (OSError, ValueError) as error:
        raise RunError(f"the downloaded {file.name} is broken ({error}); download it again") from None
    return values if isinstance(values, dict) else {}


def _origin(admin: Admin, job_id: str) -> dict[str, object]:
    job = admin.job(job_id)
    return {
        "job_id": job_id,
        "server": admin.where,
        "study": job.study,
        "submitter": job.submitter,
        "server_status": job.raw_status,
        "resumed_from": job.resumed_from,
    }


def _publish(run: RunFolder, out: Path, force: bool) -> RunFolder:
    """Move the finished run folder to its place, and its MLflow records with it."""
    old = run.path.with_name("replaced")  # goes with the staging folder, once the new run is in its place
    with output_errors(out.parent):
        if out.exists():
            out.rename(old) if force else out.rmdir()
        try:
            run.path.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    published = RunFolder(out)
    if published.mlflow_db.is_file():
        published.relocate_artifacts()
    return published
