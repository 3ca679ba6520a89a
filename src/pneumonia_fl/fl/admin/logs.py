"""A job's log: the server's, or what a site has sent of its own."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pneumonia_fl.errors import RefusedError, RunError
from pneumonia_fl.fl.admin.session import Admin
from pneumonia_fl.fl.admin.watch import LOG_FILE, POLL_SECONDS

SERVER = "server"
SITE_ERRORS = "ERRORLOG_"
"""NVFlare's name for the error log that a site sends when its part of a job ends."""


def read_log(admin: Admin, job_id: str, site: str | None = None) -> str:
    """The whole log of the job on the server, or of one site's part of it.

    A site's log is on the server only when the site allows it: all of it while it is streamed, its errors after
    the end.

    Raises:
        RunError: the site sent nothing, or the server has no log yet.
        RefusedError: no right to read it.
    """
    text = admin.log(job_id, site or SERVER, LOG_FILE)
    if text is not None:
        return text
    if site is None:
        raise RunError(f"job {job_id[:8]} has no log; it has not started")
    errors = _site_errors(admin, job_id, site)
    if errors is None:
        raise RunError(
            f"{site} sent no log of job {job_id[:8]}: a site sends its errors at the end, if its policy allows it; "
            "ask its Site IT for the log in its kit"
        )
    return errors


def follow_log(admin: Admin, job_id: str, site: str | None = None) -> Iterator[str]:
    """Yield the log as it grows, until the job has ended."""
    length = 0
    while True:
        ended = admin.job(job_id).ended
        text = _or_empty(admin, job_id, site, ended)
        if len(text) > length:
            yield text[length:]
            length = len(text)
        if ended:
            return
        time.sleep(POLL_SECONDS)


def _or_empty(admin: Admin, job_id: str, site: str | None, ended: bool) -> str:
    """The log, or nothing yet while the job has not ended."""
    try:
        return read_log(admin, job_id, site)
    except RefusedError:
        raise
    except RunError:
        if ended:
            raise
        return ""


def _site_errors(admin: Admin, job_id: str, site: str) -> str | None:
    name = f"{SITE_ERRORS}{site}"
    if name not in admin.components(job_id):
        return None
    with tempfile.TemporaryDirectory() as temporary:
        found = next(admin.download_components(job_id, Path(temporary)).rglob(name), None)
        return None if found is None else found.read_text(encoding="utf-8", errors="replace")
