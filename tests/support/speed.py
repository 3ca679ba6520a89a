"""How slow this machine is: one measured factor, by which the deadlines of tests grow.

The work measured is `import torch` in a new process: what most processes of a federation begin with. It is measured
once in a session, by the first test that has a deadline, and so while the other workers are busy.
"""

import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from filelock import FileLock

WORK = "import torch"
REFERENCE_SECONDS = 2.5
"""What the work takes on two cores of 2.5 GHz that do nothing else, with warm file caches."""
MOST = 4.0
_files: list[Path] = []


def share_measurement(folder: Path) -> None:
    """Keep what is measured in `folder`, which all workers have in common."""
    _files.append(folder / "slowness")


def scaled(seconds: float) -> float:
    """A deadline for this machine: `seconds` on the reference, up to four times as long on a slower one."""
    return seconds * _slowness(_files[0])


@cache
def _slowness(file: Path) -> float:
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            file.write_text(str(factor(_measure())))
        return float(file.read_text())


def factor(seconds: float) -> float:
    """At least 1, at most `MOST`."""
    return min(MOST, max(1.0, seconds / REFERENCE_SECONDS))


def _measure() -> float:
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", WORK], check=True)
    return time.monotonic() - begun
