"""Find the remains of past jobs in the kits of servers and sites.

NVFlare never removes a job's folder at a site; it holds logs and configuration, no data. Not touched:
the server's job store (`pneumonia-fl delete` does that), a job's state for `resume`, and a site's own models.
"""

from collections.abc import Iterator
from pathlib import Path

from pneumonia_fl.errors import KitError
from pneumonia_fl.fl.kit.kit_processes import running_jobs
from pneumonia_fl.fl.kit.startup_kit import Kit
from pneumonia_fl.inputs.names import JOB_ID
from pneumonia_fl.runs.cleanup import Leftover, measured

_EVENTS = "tensorboard"


def jobs_in(kit: Kit) -> Iterator[Leftover]:
    """Yield folders of ended jobs, and on a server the TensorBoard events that it keeps of them.

    Raises:
        KitError: it is a person's kit.
    """
    if kit.kind == "admin":
        raise KitError(
            f"{kit.folder} is a person's kit, which keeps nothing of a job; see `pneumonia-fl delete`"
        )
    running = running_jobs()
    for folder in sorted(kit.folder.iterdir()):
        if _is_past(folder, running):
            yield measured(folder, "job folder")
    if (kit.folder / _EVENTS).is_dir():
        for folder in sorted((kit.folder / _EVENTS).iterdir()):
            if _is_past(folder, running):
                yield measured(folder, "TensorBoard events")


def _is_past(folder: Path, running: set[str]) -> bool:
    named = JOB_ID.fullmatch(folder.name) is not None
    return named and folder.name not in running and folder.is_dir() and not folder.is_symlink()
