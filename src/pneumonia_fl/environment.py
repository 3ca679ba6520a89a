"""What a machine says for itself, and never a job: where its data lies, which cores it may use.

This module and the command line are the only readers of environment variables.
"""

import os
from pathlib import Path

DATA_VARIABLE = "PNEUMONIA_FL_DATA"
THREADS_VARIABLE = "PNEUMONIA_FL_THREADS"


def data_root() -> Path | None:
    """The site's own data folder from `PNEUMONIA_FL_DATA`, or None when it is not set."""
    value = os.environ.get(DATA_VARIABLE)
    return Path(value) if value else None


def site_threads(site: str) -> int | None:
    """Threads that `site` may use, from `PNEUMONIA_FL_THREADS` (`site-1=1,site-2=2`); None: as many as it likes."""
    words = os.environ.get(THREADS_VARIABLE, "").split(",")
    threads = dict(word.split("=", 1) for word in words if "=" in word)
    return int(threads[site]) if site in threads else None


def child_environment(**values: str) -> dict[str, str]:
    """This process's environment for a child process, with `values` on top."""
    return {**os.environ, **values}


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
