"""Following a job on a real server until it ends, and saying how it ended."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pneumonia_fl.errors import (
    IncompleteError,
    KitError,
    PneumoniaFLError,
    RefusedError,
    RunError,
    TimeLimitError,
)
from pneumonia_fl.fl.admin.job_record import (
    ABORTED,
    INCOMPLETE,
    NO_WORD,
    WAITING,
    JobRecord,
    age,
    missing_sites,
)
from pneumonia_fl.fl.admin.job_status import Snapshot
from pneumonia_fl.fl.admin.session import Admin
from pneumonia_fl.fl.kit.nvflare_log import LOG_FILE, last_error

FAILED_TO_RUN = "FINISHED:FAILED_TO_RUN"
REASON_SECONDS = 5.0
"""How long the reason of a job that failed to start may come after the news."""
POLL_SECONDS = 1.0
AWAY_SECONDS = 180.0
"""Seconds for which a server may be unreachable, for example during a restart, before watching ends."""
ABORT_SECONDS = 120.0
"""How long an aborted job may take to write its records: MLflow alone gets half a minute."""
NO_ANSWER = "no reply"
"""What NVFlare says of a site that did not answer to a job, and so refused nothing."""

How = Literal["complete", "incomplete", "failed", "aborted", "refused"]


@dataclass(frozen=True)
class Ending:
    """Ending of a job."""

    job: JobRecord
    how: How
    reason: str
    """Why, when it did not end well; a remark when it did."""

    def as_dict(self) -> dict[str, Any]:
        """Return the ending for `--json`."""
        return {**self.job.as_dict(), "how": self.how, "reason": self.reason}

    def check(self) -> None:
        """Raise the error of a bad ending.

        Raises:
            IncompleteError: a site never contributed.
            RefusedError: the server or its sites did not take the job.
            RunError: the job failed, was aborted or never ran.
        """
        kinds = {"incomplete": IncompleteError, "refused": RefusedError}
        if self.how != "complete":
            raise kinds.get(self.how, RunError)(f"job {self.job.id[:8]} {self._words()}")

    def _words(self) -> str:
        short = self.job.id[:8]
        if self.how == "incomplete":
            return (
                f"is INCOMPLETE: {self.reason}; fetch the partial result with `pneumonia-fl download {short}`"
            )
        if self.how == "aborted":
            more = f"; resume it with `pneumonia-fl resume {short}`" if self.job.done else ""
            return f"was aborted{f': {self.reason}' if self.reason else ''}{more}"
        if self.how == "refused":
            return f"was refused by {self.reason}"
        if self.job.interrupted:
            return f"was {self.job.status}: {self.reason}; resume it with `pneumonia-fl resume {short}`"
        return f"{self.job.status}: {self.reason or f'see `pneumonia-fl logs {short}`'}"


class JobWatcher(Protocol):
    """Whoever shows the user how a job goes."""

    def on_job(self, job: JobRecord, note: str) -> None:
        """Called when the job's status, or a remark about it, has changed."""

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Called about once a second with the status of the running job."""

    def on_away(self, seconds: float) -> None:
        """Called when the server has not answered for this many seconds."""


def watch(admin: Admin, job_id: str, watcher: JobWatcher, timeout: float | None = None) -> Ending:
    """Follow a job until it ends.

    Args:
        admin: the login; it is renewed when the server was away.
        job_id: full id of the job.
        watcher: told what happens.
        timeout: seconds after which to stop watching (the job continues); None: never.

    Raises:
        TimeLimitError: the time is over, or the server is away for longer than `AWAY_SECONDS`.
    """
    follower = _Follower(admin, job_id, watcher)
    deadline = None if timeout is None else time.monotonic() + timeout
    while not follower.step().ended:
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeLimitError(
                f"job {job_id[:8]} is still {follower.job.status} after {age(timeout or 0)}; it continues; "
                f"see it with `pneumonia-fl watch {job_id[:8]}`"
            )
        time.sleep(POLL_SECONDS)
    _wait_for_reason(follower)
    return ending(follower.job, lambda: log_or_nothing(admin, job_id))


def abort(admin: Admin, job_id: str, watcher: JobWatcher | None) -> tuple[str, JobRecord]:
    """End a job; returns what to say of it, and the job.

    Args:
        admin: the login.
        job_id: full id of the job.
        watcher: told how it goes until the job has ended; None: do not wait for that.

    Raises:
        TimeLimitError: it has not ended within `ABORT_SECONDS`.
    """
    job = admin.job(job_id)
    if job.ended:
        return f"job {job_id} has ended already: {job.status}", job
    said = admin.abort(job_id)
    if watcher is None:
        return said, admin.job(job_id)
    follower, deadline = _Follower(admin, job_id, watcher), time.monotonic() + ABORT_SECONDS
    while not (job := follower.step()).ended:
        if time.monotonic() >= deadline:
            raise TimeLimitError(
                f"job {job_id[:8]} is still {job.status} after {age(ABORT_SECONDS)}; "
                "`pneumonia-fl jobs` shows when it has ended"
            )
        time.sleep(POLL_SECONDS)
    return f"job {job_id} is {job.status}{f' ({job.reason})' if job.reason else ''}", job


def _wait_for_reason(follower: "_Follower") -> None:
    """Wait for the reason of a failed start, which NVFlare stores just after the status."""
    deadline = time.monotonic() + REASON_SECONDS
    while follower.job.raw_status == FAILED_TO_RUN and not follower.job.reason:
        if time.monotonic() >= deadline:
            return
        time.sleep(POLL_SECONDS)
        follower.step()


def ending(job: JobRecord, read_log: Callable[[], str]) -> Ending:
    """Describe how a job ended.

    Args:
        job: as the server lists it.
        read_log: gives the server's log of the job, "" when there is none or no right to it.
    """
    if job.rounds_done:
        return Ending(job, "incomplete" if job.status == INCOMPLETE else "complete", job.reason)
    if job.raw_status == FAILED_TO_RUN and job.reason and NO_ANSWER not in job.reason:
        return Ending(job, "refused", job.reason)
    if job.status == ABORTED:
        return Ending(job, "aborted", job.reason)
    said = "" if job.reason == NO_WORD else job.reason
    return Ending(job, "failed", said or last_error(read_log()))


def log_or_nothing(admin: Admin, job_id: str) -> str:
    """Return the server's log of the job; "" when it may not be read or is gone."""
    try:
        return admin.log(job_id, LOG_FILE) or ""
    except PneumoniaFLError:
        return ""


class _Follower:
    """Looks at a job once per step, through restarts of the server."""

    def __init__(self, admin: Admin, job_id: str, watcher: JobWatcher) -> None:
        self._admin, self._id, self._watcher = admin, job_id, watcher
        self._told: tuple[str, str] | None = None
        self._away_since: float | None = None
        self.job = admin.job(job_id)

    def step(self) -> JobRecord:
        """Poll the server once."""
        try:
            if self._away_since is not None:
                self._admin.reconnect()
            self._look()
            self._away_since = None
        except (
            TimeLimitError,
            KitError,
        ) as error:  # a server that is just starting may break off a handshake
            self._away(error)
        return self.job

    def _look(self) -> None:
        self.job = self._admin.job(self._id)
        note = self._note()
        if (self.job.status, note) != self._told:
            self._told = (self.job.status, note)
            self._watcher.on_job(self.job, note)
        if self.job.running:
            snapshot = self._admin.snapshot(self._id)
            if snapshot is not None:
                self._watcher.on_snapshot(snapshot)

    def _note(self) -> str:
        if self.job.status != WAITING:
            return self.job.reason
        absent = missing_sites(self.job, self._admin.sites())
        return f"not connected: {', '.join(absent)}" if absent else self.job.reason

    def _away(self, error: PneumoniaFLError) -> None:
        """Record that the server does not answer; raise the error again when that has lasted too long."""
        now = time.monotonic()
        self._away_since = self._away_since or now
        self._watcher.on_away(now - self._away_since)
        if now - self._away_since > AWAY_SECONDS:
            raise error
