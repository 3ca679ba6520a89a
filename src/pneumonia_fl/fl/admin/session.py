"""A person's login to the server: NVFlare's Session API with our errors, bounded in time, and silent.

NVFlare prints to both streams and logs to stderr, and says "cannot connect" alike for a server that is down, a
foreign root and an expired certificate; so the way to the server is looked at first, which takes some 10 ms.
"""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from nvflare.fuel.flare_api.flare_api import Session, new_secure_session
from nvflare.fuel.hci.client.file_transfer import FileTransferModule

from pneumonia_fl.config.environment import quiet_grpc
from pneumonia_fl.errors import KitError, RunError, TimeLimitError
from pneumonia_fl.fl.admin.connection import prompt_login
from pneumonia_fl.fl.admin.job_record import JobRecord, find_job_id, record
from pneumonia_fl.fl.admin.kit_selection import open_person
from pneumonia_fl.fl.admin.refusals import JobNotRunning, NoSuchJob, explain
from pneumonia_fl.fl.doctor.identity_checks import certificate
from pneumonia_fl.fl.doctor.network import greet, network
from pneumonia_fl.fl.kit.startup_kit import Kit
from pneumonia_fl.fl.protocol.messages import STATS_GROUP
from pneumonia_fl.inputs.text import printable, printable_values

LOGIN_SECONDS = 15.0
COMMAND_SECONDS = 30.0
"""NVFlare's own 5 are too few for a busy server."""
TRANSFER_SECONDS = 300.0
"""Until the server has packed a result; NVFlare's own 5 are too few for a large one."""
CHUNK_SECONDS = 60.0
"""For each piece of a download."""
STEPS_TO_TLS = 2
"""Findings of the network check before TLS: the server's name, its port."""

T = TypeVar("T")


class Admin:
    """One person on one server; made by `login`."""

    def __init__(self, kit: Kit, study: str) -> None:
        self.kit = kit
        self.study = study
        self._session = _connect(kit, study)

    @property
    def where(self) -> str:
        """Return the server's address."""
        return f"{self.kit.host}:{self.kit.port}"

    def reconnect(self) -> None:
        """Log in again, after the server was away.

        Raises:
            TimeLimitError: it is still away.
        """
        self.close()
        self._session = _connect(self.kit, self.study)

    def close(self) -> None:
        """Log out; a server that is away does not matter."""
        with _silence(), contextlib.suppress(Exception):
            self._session.close()

    def sites(self) -> list[str]:
        """Return the names of the sites that are connected now."""
        info = self._call("see the server's state", Session.get_system_info)
        return sorted(client.name for client in info.client_info)

    def jobs(self) -> list[JobRecord]:
        """Return all jobs of the study, oldest first."""
        metas = self._call("list jobs", lambda session: session.list_jobs(detailed=True))
        return sorted(map(record, metas), key=lambda job: job.submitted)

    def find(self, wanted: str) -> str:
        """Return the full id of the job whose id begins with `wanted`.

        Raises:
            RefusedError: there is none, or more than one.
        """
        return find_job_id(wanted, (job.id for job in self.jobs()))

    def meta(self, job_id: str) -> dict[str, Any]:
        """Return NVFlare's metadata of a job."""
        found: dict[str, Any] = self._call("see jobs", lambda session: session.get_job_meta(job_id))
        return found

    def job(self, job_id: str) -> JobRecord:
        """Return the record of one job."""
        return record(self.meta(job_id))

    def snapshot(self, job_id: str) -> dict[str, Any] | None:
        """Return our controller's status of a running job; None when it is not running or not one of ours."""
        try:
            stats = self._call("see a job's progress", lambda s: s.show_stats(job_id, "server"))
        except (JobNotRunning, NoSuchJob):  # NVFlare does not find a job either while it is being started
            return None
        found = stats.get("server", {}) if isinstance(stats, dict) else {}
        return printable_values(found.get(STATS_GROUP)) if isinstance(found, dict) else None

    def submit(self, folder: Path, token: str) -> str:
        """Upload and start a job folder; the same token and content never run twice.

        NVFlare signs the job inside `folder`, so give it a copy.
        """
        with self._long():
            return str(self._call("submit jobs", lambda s: s.submit_job(str(folder), submit_token=token)))

    def abort(self, job_id: str) -> str:
        """Stop a job, or keep it from starting; returns what the server says."""
        return str(self._call("abort this job", lambda session: session.abort_job(job_id)))

    def clone(self, job_id: str) -> str:
        """Submit a copy of a job at the server; return the new id."""
        return str(self._call("clone this job", lambda session: session.clone_job(job_id)))

    def delete(self, job_id: str) -> None:
        """Remove a job and its result from the server."""
        self._call("delete this job", lambda session: session.delete_job(job_id))

    def log(self, job_id: str, file: str) -> str | None:
        """Return the server's log file of a job; None when there is none."""
        found = self._call(
            "read this job's log", lambda s: s.get_job_logs(job_id, "server", log_file_name=file)
        )
        text = found.get("logs", {}).get("server")
        return None if text is None else str(text)

    def download(self, job_id: str, folder: Path) -> Path:
        """Fetch a job's result into `folder` and return the folder that was made there.

        Raises:
            RunError: the transfer broke off; what had arrived is gone.
        """
        self._receive_in(folder)
        with self._long():
            return Path(self._call("download this job", lambda s: s.download_job_result(job_id)))

    def _receive_in(self, folder: Path) -> None:
        """Make NVFlare receive files in that folder, not in the kit, with a longer timeout for each piece."""
        self._session.api.file_download_progress_timeout = CHUNK_SECONDS
        keep_inside(self._session.api, folder)
        for module in self._session.api.cmd_modules:
            if isinstance(module, FileTransferModule):
                module.download_dir = str(folder)

    @contextlib.contextmanager
    def _long(self) -> Iterator[None]:
        self._session.set_timeout(TRANSFER_SECONDS)
        try:
            yield
        finally:
            self._session.set_timeout(COMMAND_SECONDS)

    def _call(self, what: str, work: Callable[[Session], T]) -> T:
        """Run one action on the server; `what` completes "you may not …"."""
        try:
            with _silence():
                return work(self._session)
        except Exception as error:
            raise explain(error, self.kit, what) from None


def keep_inside(api: Any, folder: Path) -> None:
    """Restrict NVFlare's downloads to `folder`, whatever file names the server sends."""
    fetch = type(api).download_file

    def download_file(source: str, reference: str, file: str) -> Any:
        inside = Path(file).is_relative_to(folder) and ".." not in Path(file).relative_to(folder).parts
        if not inside:
            raise RunError(f"the server names a file outside of the download: {printable(file)}")
        return fetch(api, source, reference, file)

    api.download_file = download_file


@contextlib.contextmanager
def login(folder: Path, study: str = "default") -> Iterator[Admin]:
    """Log in with an admin kit for as long as the block lasts.

    Raises:
        KitError: the folder is no admin kit, or its certificate is not taken.
        TimeLimitError: the server cannot be reached.
        RefusedError: the server does not know the person or the study.
    """
    admin = Admin(open_person(folder), study)
    try:
        yield admin
    finally:
        admin.close()


def _connect(kit: Kit, study: str) -> Session:
    quiet_grpc()
    _check_way(kit)
    # A handler, so that Python does not print what NVFlare warns of.
    logging.getLogger("nvflare").addHandler(logging.NullHandler())
    try:
        with _silence(), prompt_login():
            return new_secure_session(
                kit.name, str(kit.folder), timeout=LOGIN_SECONDS, study=study, command_timeout=COMMAND_SECONDS
            )
    except Exception as error:
        raise explain(error, kit, "log in") from None


def _check_way(kit: Kit) -> None:
    """Report in one line why a login cannot work, before NVFlare waits for it."""
    for finding in certificate(kit):
        if finding.level == "fail":
            raise KitError(finding.message)
    for number, finding in enumerate(network(kit)):
        if finding.level != "ok" and number < STEPS_TO_TLS:
            raise TimeLimitError(finding.message)
        if finding.level == "fail":
            raise (TimeLimitError if _hangs(kit) else KitError)(finding.message)


def _hangs(kit: Kit) -> bool:
    """Return True when the server accepts a connection and then stays silent."""
    try:
        greet(kit, verified=True)
    except TimeoutError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress what NVFlare prints, tracebacks included."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
