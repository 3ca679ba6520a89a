"""A job's log on the server; what a site logs stays at the site."""

import time
from collections.abc import Iterator

from pneumonia_fl.errors import RefusedError, RunError
from pneumonia_fl.fl.admin.session import Admin
from pneumonia_fl.fl.admin.watch import POLL_SECONDS
from pneumonia_fl.fl.kit.nvflare_log import LOG_FILE


def read_log(admin: Admin, job_id: str) -> str:
    """Return the whole log of the job on the server.

    Raises:
        RunError: the server has no log yet.
        RefusedError: no right to read it.
    """
    text = admin.log(job_id, LOG_FILE)
    if text is None:
        raise RunError(f"job {job_id[:8]} has no log; it has not started")
    return text


def follow_log(admin: Admin, job_id: str) -> Iterator[str]:
    """Yield the log as it grows, until the job has ended."""
    length = 0
    while True:
        ended = admin.job(job_id).ended
        text = _or_empty(admin, job_id, ended)
        if len(text) > length:
            yield text[length:]
            length = len(text)
        if ended:
            return
        time.sleep(POLL_SECONDS)


def _or_empty(admin: Admin, job_id: str, ended: bool) -> str:
    """Return the log; empty while the job has not ended and has none yet."""
    try:
        return read_log(admin, job_id)
    except RefusedError:
        raise
    except RunError:
        if ended:
            raise
        return ""
