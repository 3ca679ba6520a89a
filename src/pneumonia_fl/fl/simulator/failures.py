"""Finding, in NVFlare's logs, the one line that says why a run failed."""

import shutil
from pathlib import Path

from pneumonia_fl.errors import RunError, SiteError
from pneumonia_fl.fl.kit.nvflare_log import first_error, lines_with, read
from pneumonia_fl.fl.protocol.messages import RUN_ERROR, SITE_ERROR

ENOUGH_BYTES = 1_000_000
SITE_LOST = "PNEUMONIA_FL_SITE_LOST"
"""Begins the line in which the server's process says that a site's is gone: name and process id follow."""


def site_error(workspace: Path) -> SiteError | None:
    """Return the first error that a site reported itself; the others' errors only follow from it."""
    # A line begins with its time, so the smallest line is the earliest.
    found = min(lines_with(SITE_ERROR, workspace), default=None)
    if found is None:
        return None
    line, log = found
    site = log.relative_to(workspace).parts[1]  # <workspace>/<job>/<site>/…
    return SiteError(f"site {site}: {line.split(SITE_ERROR, 1)[1].strip()}")


def full_disk(folder: Path) -> RunError | None:
    """Return the error of a full disk below `folder`, the cause of any other error; None when it is not full."""
    if shutil.disk_usage(folder).free >= ENOUGH_BYTES:
        return None
    return RunError(f"no space left for {folder}; free some space or choose another --out, then run again")


def start_error(output: Path) -> RunError | None:
    """Return what the simulator's process printed before NVFlare started."""
    for line in read(output).splitlines():
        if RUN_ERROR in line:
            return RunError(line.split(RUN_ERROR, 1)[1].strip())
    return None


def lost_site(output: Path) -> SiteError | None:
    """Return the error of a site whose process ended unexpectedly."""
    for line in read(output).splitlines():
        if line.startswith(SITE_LOST):
            site, pid = line.split()[1:]
            return SiteError(
                f"site {site}: its process {pid} ended unexpectedly (killed, or out of memory); the run was stopped"
            )
    return None


def server_error(workspace: Path) -> RunError | None:
    """Return the first error in any log, without its time and component."""
    text = first_error(workspace)
    return RunError(text) if text else None
